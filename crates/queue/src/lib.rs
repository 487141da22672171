//! The durable event stream: a log in partitions, appended by ingest and read by aggregators.
//!
//! [`Queue`] is the contract; [`contract`] is the suite that every implementation passes. One implementation
//! so far: [`Embedded`], a SQLite file of its own. The queue carries bytes and knows nothing of events.

#![deny(missing_docs)]

mod embedded;

#[cfg(test)]
pub(crate) mod contract;

use async_trait::async_trait;
use bytes::Bytes;
use caelum_model::id::{Offset, PartitionId};
use tokio::sync::watch;

pub use embedded::{Embedded, OpenError};

/// A record to be appended.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Where to.
    pub partition: PartitionId,
    /// How many events are inside, for [`Depth`].
    pub events: u32,
    /// The record.
    pub bytes: Bytes,
}

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: Offset,
    /// How many events are inside.
    pub events: u32,
    /// The record.
    pub bytes: Bytes,
}

/// What is appended and not trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// Why an append did not happen. Nothing of it is in the queue, unless the process is told otherwise by a
/// later read: a failure to *confirm* may hide a success, which is why events carry their own keys.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The queue holds as much as it may; what is in it stays.
    #[error("the queue is full: {depth_bytes} of {max_bytes} bytes")]
    Full {
        /// Bytes in it.
        depth_bytes: u64,
        /// Bytes it may hold.
        max_bytes: u64,
    },
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
    /// The backend refused.
    #[error("failed to append to the queue")]
    Backend {
        /// What it said.
        source: rusqlite::Error,
    },
}

/// Why a read or a trim did not happen.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue is closed.
    #[error("failed to {operation}: the queue is closed")]
    Closed {
        /// What was tried.
        operation: &'static str,
    },
    /// The backend refused.
    #[error("failed to {operation}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
}

/// A durable log in partitions.
///
/// # Contract
/// - An append that is answered is durable.
/// - Records of one append are all there or none is.
/// - Offsets of a partition grow, start above zero, and are never used twice, not after a trim and not after
///   a restart.
/// - A read gives records after an offset, in order, and gives them again when asked again.
/// - A trim forgets records through an offset and no others.
/// - A full queue refuses and keeps what it has.
/// - Whoever waits is woken after an append.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Appends records and answers with their offsets when they are durable.
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Offset>, AppendError>;

    /// Records of a partition after an offset, oldest first: at most `limit`, fewer where they are large.
    async fn read(
        &self,
        partition: PartitionId,
        after: Offset,
        limit: usize,
    ) -> Result<Vec<Record>, QueueError>;

    /// The newest durable offset of a partition, where that is known without asking a backend; none means
    /// that a read must tell. It may be newer than a read begun before, never older.
    fn newest(&self, partition: PartitionId) -> Option<Offset>;

    /// Forgets records of a partition through an offset.
    async fn trim(&self, partition: PartitionId, through: Offset) -> Result<(), QueueError>;

    /// What is appended and not trimmed.
    fn depth(&self) -> Depth;

    /// Changes after each append: a hint to read again, coalesced.
    fn appended(&self) -> watch::Receiver<u64>;

    /// Waits until what was accepted is durable, and closes. Later calls answer `Closed`.
    fn close(&self);
}
