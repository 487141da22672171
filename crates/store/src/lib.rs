//! Durable records: nodes, samples, targets, people, tokens, enrolments, partitions, rollups, verdicts, tasks.
//!
//! Only this crate speaks SQL. It keeps what it is given and decides nothing: which rows change is the
//! engine's word, when they are written is a role's.
//!
//! [`Store`] is what callers hold. Behind it is a backend, [`sqlite`] or [`postgres`], a file a noun: `nodes`, `targets`,
//! `node_settings`, `alerts`, `notices`, `people`, `enrolments`, `partitions`, `rollups`, `seen`, `tiers`, `dead_letters`, `verdicts`, `tasks`, `schedules`, `ssh`, `coordination`,
//! `settings`. The list of everything a backend must do is [`records`]. Shapes that callers pass in and get
//! back are in [`query`].

#![deny(missing_docs)]

mod address;
pub mod coordination;
mod health;
pub mod mailbox;
pub mod postgres;
pub mod query;
mod records;
pub mod sqlite;
mod tasks;

use std::path::Path;

pub use address::{Address, InvalidAddress, PostgresAddress};
pub use coordination::{Coordination, CoordinationAddress, CoordinationError, KeptKey};
pub use health::{Place, ReadsFrom, ReplicaHealth, StoreHealth, StoreStatus, TableStatus};
pub use mailbox::{Mailbox, MailboxAddress};
pub use query::{
    AdmitOutcome, AggregatorBeat, AggregatorRound, AlertQuery, AlertWrite, CommitOutcome, DeadLetter,
    DeadLetterCount, DeadLetterQuery, DeadLetterState, FactSwap, HistoryTier, IncidentQuery, NodeTasks,
    NoticeOutcome, NoticeQuery, NoticeState, NoticeSwap, Ownership, PartitionStatus, PipelineTotals,
    ProbeSummary, ReadyClasses, RevisedRollup, RollupQuery, StaleTier, TaskCounts, TaskQuery, TaskStep,
    TaskWrote, TierCommit, WindowCommit,
};

/// The fact under which the event stream is named that the rows were counted from.
pub const STREAM: &str = "stream";

/// What a backend said, whatever it is.
type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Handle to the records; cheap to share behind an [`std::sync::Arc`]. What it can do is listed in `records`.
pub struct Store {
    backend: Backend,
}

enum Backend {
    Sqlite(sqlite::Sqlite),
    Postgres(Box<postgres::Postgres>),
}

impl Store {
    /// Opens a database file, makes it if it is not there, and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { backend: Backend::Sqlite(sqlite::Sqlite::open(path)?) })
    }

    /// Opens the records at an address and brings their schema up to date.
    ///
    /// A server that cannot be reached now answers [`OpenError::Away`]: the same call may succeed later. Once
    /// open, a store outlives any absence of its server: calls fail as transient until it is back.
    pub async fn connect(address: &Address) -> Result<Self, OpenError> {
        match address {
            Address::Sqlite(path) => Self::open(path),
            Address::Postgres(address) => {
                let postgres = postgres::Postgres::connect(address).await?;
                Ok(Self { backend: Backend::Postgres(Box::new(postgres)) })
            }
        }
    }

    /// Opens the records at an address and leaves a server's schema as it is: for looking only. A file is
    /// opened as ever.
    pub async fn reach(address: &Address) -> Result<Self, OpenError> {
        match address {
            Address::Sqlite(path) => Self::open(path),
            Address::Postgres(address) => {
                let postgres = postgres::Postgres::reach(address).await?;
                Ok(Self { backend: Backend::Postgres(Box::new(postgres)) })
            }
        }
    }

    /// Where answers that may be a little old come from just now. Asks nobody: it is what was found last.
    pub fn reads(&self) -> ReadsFrom {
        match &self.backend {
            Backend::Sqlite(_) => ReadsFrom::default(),
            Backend::Postgres(postgres) => postgres.reads(),
        }
    }

    /// Writes a copy of the records into a file that must not be there yet, while they are used. Only records in
    /// a file can be copied so; a server has tools of its own, and is answered with `false`.
    pub async fn copy_to(&self, to: &Path) -> Result<bool, StoreError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.copy_to(to).await.map(|()| true),
            Backend::Postgres(_) => Ok(false),
        }
    }

    /// Whether other processes may write to the same records.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// Where they are, without a password.
    pub fn place(&self) -> String {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.place(),
            Backend::Postgres(postgres) => postgres.place().to_owned(),
        }
    }

    /// Tells every server that shares these records a short text. Where nobody shares them, nothing happens.
    pub async fn tell(&self, news: &str) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(postgres) => postgres.tell(news).await,
        }
    }

    /// What servers that share these records [`Store::tell`], this one included; none where nobody shares them.
    /// Ends when nobody listens any more. Must be called in an async runtime.
    pub fn hear(&self) -> Option<tokio::sync::mpsc::Receiver<News>> {
        match &self.backend {
            Backend::Sqlite(_) => None,
            Backend::Postgres(postgres) => Some(postgres.hear()),
        }
    }

    /// Waits until every accepted write is durable and closes. Later calls answer `Closed`.
    pub fn close(&self) {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.close(),
            Backend::Postgres(postgres) => postgres.close(),
        }
    }
}

/// What came from servers that share the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// What one of them told.
    Told(String),
    /// Nobody was listened to for a while: anything may have been told.
    Gap,
}

/// What kind of refusal it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A row with that key or unique value is there already.
    Conflict,
    /// The same call may succeed later without anybody changing anything: busy, disk full, away.
    Transient,
    /// It will not.
    Lasting,
}

/// Why an operation on the store did not happen. Nothing of a failed write is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused; the transaction was rolled back.
    #[error("failed to {operation}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// What kind of refusal.
        kind: FaultKind,
        /// What the database said.
        source: BoxedError,
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
        matches!(self, Self::Backend { kind: FaultKind::Transient, .. })
    }

    /// Whether a row with that key or unique value is there already.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Backend { kind: FaultKind::Conflict, .. })
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database could not be opened or set up.
    #[error("failed to open the database {place}")]
    Open {
        /// Where it is.
        place: String,
        /// What the database said.
        source: BoxedError,
    },
    /// The server cannot be reached, or is not ready; the same call may succeed later.
    #[error("failed to reach the database {place}")]
    Away {
        /// Where it is.
        place: String,
        /// What happened.
        source: BoxedError,
    },
    /// A step of the schema failed; the steps before it stand.
    #[error("failed to bring the database {place} to schema {version}")]
    Migrate {
        /// Where it is.
        place: String,
        /// Which step.
        version: u32,
        /// What the database said.
        source: BoxedError,
    },
    /// A newer Caelum wrote this database.
    #[error(
        "the database {place} has schema {found}, newer than the {known} this version knows; run the newer version"
    )]
    TooNew {
        /// Where it is.
        place: String,
        /// Schema found.
        found: u32,
        /// Newest schema known here.
        known: u32,
    },
}
