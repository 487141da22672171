//! Looking at the database itself: whether it answers, how large it is, and what is wrong with it.

use super::{Sqlite, migrate, unsigned};
use crate::{ReadsFrom, StoreError, StoreHealth, StoreStatus, TableStatus};

impl Sqlite {
    /// Looks whether the file can be read, and how it stands.
    pub async fn health(&self) -> Result<StoreHealth, StoreError> {
        let place = self.path.display().to_string();
        self.read("look at the database", move |connection| {
            Ok(StoreHealth {
                backend: "sqlite",
                place,
                version: rusqlite::version().to_owned(),
                is_too_old: false,
                schema: connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
                is_primary: true,
                reads: ReadsFrom::default(),
                replicas: Vec::new(),
            })
        })
        .await
    }

    /// How large the file is, and what lies where.
    pub async fn status(&self) -> Result<StoreStatus, StoreError> {
        let health = self.health().await?;
        self.read("measure the database", move |connection| {
            let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
            let names: Vec<String> = connection
                .prepare("select name from sqlite_schema where type = 'table' and name not like 'sqlite_%' order by name")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut tables = Vec::with_capacity(names.len());
            for name in names {
                // Names come from the schema itself. The file does not say how much of it is whose.
                let sql = format!("select count(*) from {name}");
                let rows = connection.query_row(&sql, [], |row| unsigned(row, 0))?;
                tables.push(TableStatus { name, rows, bytes: 0 });
            }
            Ok(StoreStatus {
                health,
                known_schema: migrate::known(),
                bytes: pages.saturating_mul(page_bytes).unsigned_abs(),
                tables,
                parts: Vec::new(),
            })
        })
        .await
    }

    /// What the database finds wrong with its own file; empty where all is well.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        self.read("check the database", |connection| {
            let mut statement = connection.prepare("pragma quick_check(20)")?;
            let complaints = statement.query_map([], |row| row.get::<_, String>(0))?;
            complaints.filter(|complaint| complaint.as_ref().map_or(true, |text| text != "ok")).collect()
        })
        .await
    }
}
