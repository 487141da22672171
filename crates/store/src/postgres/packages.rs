//! Packages that were built.

use caelum_model::package::Package;

use super::{
    Postgres,
    session::{from_json, limit},
    settings::plain,
    to_json,
};
use crate::StoreError;

impl Postgres {
    /// Stores a package that was built.
    pub async fn add_package(&self, package: Package) -> Result<(), StoreError> {
        let session = self.session("store a package").await?;
        session
            .execute(
                "insert into packages (package_id, built_at_ms, document) values ($1, $2, $3)
                 on conflict (package_id) do update set built_at_ms = excluded.built_at_ms,
                    document = excluded.document",
                &[&package.package_id, &package.built_at_ms, &to_json(&package)],
            )
            .await?;
        self.written(session).await
    }

    /// The newest packages.
    pub async fn packages(&self, most: usize) -> Result<Vec<Package>, StoreError> {
        let session = self.session("list packages").await?;
        let rows = session
            .rows(
                "select document from packages order by built_at_ms desc, package_id collate \"C\" limit $1",
                &[&limit(most)],
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// The package with this id.
    pub async fn package(&self, package_id: &str) -> Result<Option<Package>, StoreError> {
        let session = self.session("read a package").await?;
        let package_id = plain(package_id.to_owned());
        let row = session.row("select document from packages where package_id = $1", &[&package_id]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Forgets a package; its join token stays as it is. Answers false where there is none of that id.
    pub async fn remove_package(&self, package_id: &str) -> Result<bool, StoreError> {
        let session = self.session("forget a package").await?;
        let package_id = plain(package_id.to_owned());
        let gone = session.execute("delete from packages where package_id = $1", &[&package_id]).await?;
        self.written(session).await?;
        Ok(gone > 0)
    }
}
