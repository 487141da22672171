//! The durable event stream: a log in partitions, appended by ingest and read by aggregators.
//!
//! [`Queue`] is the contract; `contract` is the suite that every implementation passes. There are two:
//! [`Embedded`], a SQLite file of its own, and [`JetStream`], a stream of NATS. [`open`] opens the one that an
//! [`Address`] names. The queue carries bytes and knows nothing of events.

#![deny(missing_docs)]

mod address;
mod embedded;
mod jetstream;
mod open;

#[cfg(test)]
pub(crate) mod contract;

use async_trait::async_trait;
use bytes::Bytes;
use caelum_model::id::{Offset, PartitionId};
use tokio::sync::watch;

pub use address::{Address, AddressError, Login, NatsAddress};
pub use embedded::{Embedded, copy};
pub use jetstream::{Found, JetStream, look};
pub use open::{OpenError, Options, open};

/// What a backend says about a failure, whatever the backend is.
pub type BackendError = Box<dyn std::error::Error + Send + Sync>;

/// A record to be appended.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Where to.
    pub partition: PartitionId,
    /// How many events are inside, for [`Depth`].
    pub events: u32,
    /// Names the record by what it says, so that a backend that can tell repetitions keeps it once when it
    /// is sent again. Two records that say different things must have different names, or one is lost;
    /// empty where nobody can tell.
    pub key: String,
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
///
/// The embedded queue counts; JetStream is asked once a second, and its number of events is an estimate: the
/// number of records times the events of a record as this process has seen them lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// One partition, for people who look after the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which.
    pub partition: PartitionId,
    /// The newest offset that was ever given; zero where the backend does not know or there was none.
    pub newest: Offset,
    /// Records that are not trimmed.
    pub records: u64,
}

/// Why an append was not confirmed. Some of its records may be in the queue all the same: the sender sends
/// again, and events carry their own keys.
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
    /// A record is larger than the backend takes, now and later.
    #[error("a record of {bytes} bytes is too large for the queue, which takes {max_bytes}")]
    TooLarge {
        /// Bytes of the record, with what travels beside them.
        bytes: usize,
        /// Bytes that the backend takes.
        max_bytes: usize,
    },
    /// The backend cannot be reached, or too few of its nodes agree just now: come back later.
    #[error("failed to append to the queue: {reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
    /// The backend refused.
    #[error("failed to append to the queue")]
    Backend {
        /// What it said.
        source: BackendError,
    },
}

/// Why a read, a trim or a look did not happen.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue is closed.
    #[error("failed to {operation}: the queue is closed")]
    Closed {
        /// What was tried.
        operation: &'static str,
    },
    /// The backend cannot be reached, or too few of its nodes agree just now: come back later.
    #[error("failed to {operation}: {reason}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The backend refused.
    #[error("failed to {operation}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        source: BackendError,
    },
}

/// A durable log in partitions.
///
/// # Contract
/// - An append that is answered is durable, all of it. Of one that failed some records may be there.
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

    /// Every partition that is known to have been written to, in order.
    async fn status(&self) -> Result<Vec<PartitionStatus>, QueueError>;

    /// Names this very log. One that was deleted and made anew has another name, and offsets of the one mean
    /// nothing in the other: whoever keeps offsets keeps this beside them.
    fn identity(&self) -> String;

    /// Most bytes in one record; larger ones are refused. It may change while the backend is away.
    fn record_bytes_max(&self) -> usize;

    /// What is appended and not trimmed.
    fn depth(&self) -> Depth;

    /// Changes after each append: a hint to read again, coalesced.
    fn appended(&self) -> watch::Receiver<u64>;

    /// Waits until what was accepted is durable, and closes. Later calls answer `Closed`.
    fn close(&self);
}
