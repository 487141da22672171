//! Shapes of questions and answers that are not the domain's own words.

use caelum_model::{
    UnixMs,
    id::{ClientId, Offset, PartitionId},
    rollup::{Rollup, RollupKey, SeenRanges},
};

/// Which rollups to read. Rows come ordered by window, then probe, target, family.
#[derive(Clone, Debug, Default)]
pub struct RollupQuery {
    /// Window length, ms; 0 stands for one minute.
    pub width_ms: i64,
    /// Only this probe.
    pub client_id: Option<String>,
    /// Only this target URL.
    pub target: Option<String>,
    /// Windows that start at or after.
    pub from_ms: Option<UnixMs>,
    /// Windows that start before.
    pub to_ms: Option<UnixMs>,
    /// Rows that come after this one (the cursor of a list).
    pub after: Option<RollupKey>,
    /// At most this many rows.
    pub limit: usize,
}

/// A rollup with the number of the commit that wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisedRollup {
    /// Grows with each commit; reading "since" it misses nothing.
    pub rev: i64,
    /// The row.
    pub rollup: Rollup,
}

/// Who owns a partition and how far it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Grows with each change of owner.
    pub fence: u64,
    /// Everything through here is in the rows.
    pub offset: Offset,
}

/// An event that was kept aside instead of being counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The probe.
    pub client_id: ClientId,
    /// When it was measured.
    pub ts_ms: UnixMs,
    /// Why it was not counted.
    pub reason: String,
    /// The event as JSON.
    pub document: String,
}

/// Everything an aggregator changes at once. Either all of it is stored or nothing.
#[derive(Clone, Debug, Default)]
pub struct WindowCommit {
    /// Rows, each replacing what is stored under its key.
    pub rollups: Vec<Rollup>,
    /// Seen ranges, each replacing what is stored for its probe and epoch.
    pub seen: Vec<SeenRanges>,
    /// Ids of counted events without a sequence number, with the minute (since 1970) they were received in.
    pub new_ids: Vec<([u8; 16], i64)>,
    /// Ids received in minutes before this one are forgotten.
    pub forget_ids_before_minute: Option<i64>,
    /// Events kept aside.
    pub dead_letters: Vec<DeadLetter>,
    /// Distinct events counted in this commit.
    pub counted: u64,
    /// Duplicates left out in this commit.
    pub duplicates: u64,
    /// Events too old to be counted in this commit.
    pub too_late: u64,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Stored.
    Done,
    /// Somebody else owns the partition, or the offset moved: nothing was stored; step down.
    NotOwner,
}

/// What became of a wish to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmitOutcome {
    /// Admitted; a use of the token is gone.
    Admitted,
    /// The node, or its key, was shut out before.
    NodeRevoked,
    /// The id was admitted with another key, or the key under another id.
    NodeIdTaken,
    /// There is no such token.
    TokenUnknown,
    /// The token was revoked.
    TokenRevoked,
    /// The token's time is over.
    TokenExpired,
    /// The token has no use left.
    TokenUsedUp,
}

/// What one probe has sent, as far as it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSummary {
    /// The probe.
    pub client_id: ClientId,
    /// Its partition.
    pub partition: PartitionId,
    /// Newest event time.
    pub last_event_ms: UnixMs,
    /// Events with a sequence number that are counted, over all epochs.
    pub counted: u64,
    /// Sequence numbers below the newest that have not arrived.
    pub missing: u64,
    /// Events that were too old.
    pub too_late: u64,
}

/// Sums over all partitions since the store was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineTotals {
    /// Distinct events counted.
    pub counted: u64,
    /// Duplicates left out.
    pub duplicates: u64,
    /// Events too old to be counted.
    pub too_late: u64,
}
