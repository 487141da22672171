//! Durable records: nodes, samples, targets, people, tokens, enrolments, rollups, verdicts.
//!
//! Only this crate speaks SQL. It keeps what it is given and decides nothing: which rows change is the
//! engine's word, when they are written is a role's.
//!
//! One backend so far, SQLite in [`sqlite`], a file a noun: `nodes`, `targets`, `people`, `enrolments`, `rollups`,
//! `verdicts`, `coordination`, `settings`. Shapes that callers pass in and get back are in [`query`].

#![deny(missing_docs)]

pub mod query;
pub mod sqlite;

pub use query::{
    AdmitOutcome, CommitOutcome, DeadLetter, Ownership, PipelineTotals, ProbeSummary, RevisedRollup,
    RollupQuery, WindowCommit,
};
pub use sqlite::Store;

/// Why an operation on the store did not happen. Nothing of a failed write is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused; the transaction was rolled back.
    #[error("failed to {operation}")]
    Sql {
        /// What was tried.
        operation: &'static str,
        /// What the database said.
        source: rusqlite::Error,
    },
    /// A stored document no longer reads as what it was.
    #[error("failed to {operation}: the stored document is damaged")]
    Document {
        /// What was tried.
        operation: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The writer has stopped; the process is shutting down or the disk failed.
    #[error("failed to {operation}: the store is closed")]
    Closed {
        /// What was tried.
        operation: &'static str,
    },
    /// What was to be made is there already.
    #[error("{what} exists already")]
    Exists {
        /// What it is.
        what: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Sql { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(
                    rusqlite::ErrorCode::DatabaseBusy
                        | rusqlite::ErrorCode::DatabaseLocked
                        | rusqlite::ErrorCode::DiskFull
                        | rusqlite::ErrorCode::SystemIoFailure
                )
            ),
            Self::Document { .. } | Self::Closed { .. } | Self::Exists { .. } => false,
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be opened or set up.
    #[error("failed to open the database {path}")]
    Open {
        /// Where it is.
        path: String,
        /// What the database said.
        source: rusqlite::Error,
    },
    /// A step of the schema failed; the steps before it stand.
    #[error("failed to bring the database {path} to schema {version}")]
    Migrate {
        /// Where it is.
        path: String,
        /// Which step.
        version: u32,
        /// What the database said.
        source: rusqlite::Error,
    },
    /// A newer Caelum wrote this file.
    #[error(
        "the database {path} has schema {found}, newer than the {known} this version knows; run the newer version"
    )]
    TooNew {
        /// Where it is.
        path: String,
        /// Schema found.
        found: u32,
        /// Newest schema known here.
        known: u32,
    },
}
