//! What the server or the driver said, in the store's own words.
//!
//! The question that matters to callers is whether the same call may succeed later: a server that is away,
//! was demoted, is full or is busy says so with many voices.

use std::error::Error as _;

use deadpool_postgres::PoolError;
use tokio_postgres::{Error, error::SqlState};

use crate::{FaultKind, StoreError};

/// Classes of codes (their first two characters) that pass: connection, rollback by conflict, resources,
/// operator intervention, system.
const PASSING_CLASSES: [&str; 5] = ["08", "40", "53", "57", "58"];

pub(super) fn of(operation: &'static str, error: Error) -> StoreError {
    StoreError::Backend { operation, kind: kind(&error), source: Box::new(Told(error)) }
}

pub(super) fn of_pool(operation: &'static str, error: PoolError) -> StoreError {
    let transient = |source| StoreError::Backend { operation, kind: FaultKind::Transient, source };
    match error {
        PoolError::Backend(error) => of(operation, error),
        PoolError::Closed => StoreError::Closed { operation },
        PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
            transient("every connection to the database is in use".into())
        }
        PoolError::Timeout(_) => transient("the database did not answer in time".into()),
        other => transient(Box::new(other)),
    }
}

pub(super) fn kind(error: &Error) -> FaultKind {
    let Some(code) = error.code() else {
        return kind_without_code(error);
    };
    let passes = PASSING_CLASSES.iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::LOCK_NOT_AVAILABLE
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        // A part of a table that was dropped between looking and writing; it is made again.
        || *code == SqlState::CHECK_VIOLATION
        // Somebody else made the same part a moment ago.
        || *code == SqlState::DUPLICATE_TABLE;
    match () {
        () if *code == SqlState::UNIQUE_VIOLATION => FaultKind::Conflict,
        // A class that passes, but these stay until somebody acts.
        () if *code == SqlState::DATABASE_DROPPED => FaultKind::Lasting,
        () if passes => FaultKind::Transient,
        () => FaultKind::Lasting,
    }
}

/// Errors without a code are the driver's own: the connection's, or a column that is not what we think.
fn kind_without_code(error: &Error) -> FaultKind {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return FaultKind::Transient;
        }
        cause = inner.source();
    }
    let text = error.to_string();
    let is_conversion =
        text.contains("serializing") || text.contains("deserializing") || text.contains("column");
    let is_configuration = text.contains("configuration") || text.contains("authentication");
    if is_conversion || is_configuration || text.contains("unexpected number of rows") {
        FaultKind::Lasting
    } else {
        FaultKind::Transient
    }
}

/// The driver's error with what the server said of it in one line.
#[derive(Debug)]
struct Told(Error);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.as_db_error(), self.0.source()) {
            (Some(said), _) => {
                write!(f, "the server said: {} ({})", said.message(), said.code().code())?;
                said.detail().map_or(Ok(()), |detail| write!(f, "; {detail}"))
            }
            (None, Some(cause)) => write!(f, "{}: {cause}", self.0),
            (None, None) => self.0.fmt(f),
        }
    }
}

impl std::error::Error for Told {}
