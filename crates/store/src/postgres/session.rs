//! One connection for one call: its deadline, its statements, and what becomes of it afterwards.
//!
//! A session that is dropped in the middle of a statement or of a transaction closes its connection instead
//! of giving it back: the server then rolls back, and nobody inherits what was left lying.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use deadpool_postgres::{Object, Pool};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{
    Row, Statement,
    types::{FromSqlOwned, ToSql},
};

use super::faults;
use crate::{FaultKind, StoreError};

/// What a statement is given.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// See the file.
pub(super) struct Session {
    client: Option<Object>,
    /// What is tried, for errors.
    pub(super) operation: &'static str,
    deadline: Instant,
    under_way: AtomicU32,
    is_in_transaction: AtomicBool,
    is_broken: AtomicBool,
}

impl Session {
    pub(super) async fn open(
        pool: &Pool,
        operation: &'static str,
        at_most: Duration,
    ) -> Result<Self, StoreError> {
        let client = pool.get().await.map_err(|error| faults::of_pool(operation, error))?;
        Ok(Self {
            client: Some(client),
            operation,
            deadline: Instant::now() + at_most,
            under_way: AtomicU32::new(0),
            is_in_transaction: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
        })
    }

    pub(super) fn client(&self) -> &Object {
        self.client.as_ref().expect("it is taken only when the session is dropped")
    }

    /// Waits for the server, at most until the deadline.
    async fn wait<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let answer = match timeout_at(self.deadline, asked).await {
            Ok(answer) => answer.map_err(|error| faults::of(self.operation, error)),
            Err(_) => Err(StoreError::Backend {
                operation: self.operation,
                kind: FaultKind::Transient,
                source: "the server did not answer in time".into(),
            }),
        };
        if answer.as_ref().is_err_and(StoreError::is_transient) {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    /// A statement, from the connection's own cache where it was prepared before.
    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        self.wait(self.client().prepare_cached(sql)).await
    }

    /// Runs a prepared statement and answers with its rows.
    pub(super) async fn ask(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.wait(self.client().query(statement, params)).await
    }

    /// Runs a prepared statement and answers how many rows it touched.
    pub(super) async fn run(&self, statement: &Statement, params: Params<'_>) -> Result<u64, StoreError> {
        self.wait(self.client().execute(statement, params)).await
    }

    /// Prepares and asks.
    pub(super) async fn rows(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let statement = self.prepare(sql).await?;
        self.ask(&statement, params).await
    }

    /// Prepares and asks for at most one row.
    pub(super) async fn row(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Prepares and runs.
    pub(super) async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, StoreError> {
        let statement = self.prepare(sql).await?;
        self.run(&statement, params).await
    }

    /// Runs statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        if sql.starts_with("begin") {
            self.is_in_transaction.store(true, Ordering::Relaxed);
        }
        self.wait(self.client().batch_execute(sql)).await?;
        if sql == "commit" || sql == "rollback" {
            self.is_in_transaction.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<(), StoreError> {
        self.batch("begin").await
    }

    /// Ends it; when this answers, what was written is committed.
    pub(super) async fn commit(&self) -> Result<(), StoreError> {
        self.batch("commit").await
    }

    /// Undoes it.
    pub(super) async fn rollback(&self) -> Result<(), StoreError> {
        self.batch("rollback").await
    }

    /// Gives the connection back.
    pub(super) fn done(self) {}

    /// An answer in one column.
    pub(super) fn get<T: FromSqlOwned>(&self, row: &Row, column: usize) -> Result<T, StoreError> {
        get(self.operation, row, column)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let is_reusable = self.under_way.load(Ordering::Relaxed) == 0
            && !self.is_in_transaction.load(Ordering::Relaxed)
            && !self.is_broken.load(Ordering::Relaxed);
        if let Some(client) = self.client.take()
            && !is_reusable
        {
            // Out of the pool, and closed.
            drop(Object::take(client));
        }
    }
}

/// Reads a column.
pub(super) fn get<T: FromSqlOwned>(
    operation: &'static str,
    row: &Row,
    column: usize,
) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| faults::of(operation, error))
}

/// Reads a counter: stored as a signed integer and never negative.
pub(super) fn unsigned(operation: &'static str, row: &Row, column: usize) -> Result<u64, StoreError> {
    Ok(get::<i64>(operation, row, column)?.unsigned_abs())
}

/// Reads a document.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(
    operation: &'static str,
    row: &Row,
    column: usize,
) -> Result<T, StoreError> {
    let text: &str = row.try_get(column).map_err(|error| faults::of(operation, error))?;
    serde_json::from_str(text).map_err(|source| StoreError::Document { operation, source })
}

/// Reads an id.
pub(super) fn id<T: std::str::FromStr<Err = caelum_model::id::InvalidId>>(
    operation: &'static str,
    row: &Row,
    column: usize,
) -> Result<T, StoreError> {
    let text: &str = row.try_get(column).map_err(|error| faults::of(operation, error))?;
    text.parse().map_err(|source: caelum_model::id::InvalidId| StoreError::Backend {
        operation,
        kind: FaultKind::Lasting,
        source: Box::new(source),
    })
}

/// A bound as the server counts it.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
