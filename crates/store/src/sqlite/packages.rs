//! Packages that were built.

use caelum_model::package::Package;
use rusqlite::{OptionalExtension, Row, params};

use super::{Sqlite, from_json, to_json};
use crate::StoreError;

impl Sqlite {
    /// Stores a package that was built.
    pub async fn add_package(&self, package: Package) -> Result<(), StoreError> {
        self.write("store a package", move |transaction| {
            transaction.execute(
                "insert or replace into packages (package_id, built_at_ms, document) values (?1, ?2, ?3)",
                params![package.package_id, package.built_at_ms, to_json(&package)],
            )?;
            Ok(())
        })
        .await
    }

    /// The newest packages.
    pub async fn packages(&self, limit: usize) -> Result<Vec<Package>, StoreError> {
        self.read("list packages", move |connection| {
            connection
                .prepare_cached(
                    "select document from packages order by built_at_ms desc, package_id limit ?1",
                )?
                .query_map(params![limit as i64], package_of)?
                .collect()
        })
        .await
    }

    /// The package with this id.
    pub async fn package(&self, package_id: &str) -> Result<Option<Package>, StoreError> {
        let package_id = package_id.to_owned();
        self.read("read a package", move |connection| {
            connection
                .prepare_cached("select document from packages where package_id = ?1")?
                .query_row(params![package_id], package_of)
                .optional()
        })
        .await
    }

    /// Forgets a package; its join token stays as it is. Answers false where there is none of that id.
    pub async fn remove_package(&self, package_id: &str) -> Result<bool, StoreError> {
        let package_id = package_id.to_owned();
        self.write("forget a package", move |transaction| {
            let gone =
                transaction.execute("delete from packages where package_id = ?1", params![package_id])?;
            Ok(gone > 0)
        })
        .await
    }
}

fn package_of(row: &Row<'_>) -> rusqlite::Result<Package> {
    from_json(0, &row.get::<_, String>(0)?)
}
