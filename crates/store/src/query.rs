//! Shapes of questions and answers that are not the domain's own words.

use std::hash::{Hash as _, Hasher as _};

use caelum_engine::task::TaskEvent;
use caelum_model::{
    UnixMs,
    alert::{Alert, AlertStatus, NoticeSettings},
    event::Family,
    id::{ClientId, NodeId, Offset, PartitionId, TaskId},
    node::Level,
    rollup::{Rollup, RollupKey, SeenRanges},
    task::{OutputChunk, TaskKind, TaskState},
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
    /// Only this IP version.
    pub family: Option<Family>,
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

/// A partition as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which.
    pub partition: PartitionId,
    /// Who owns it; empty where it was given up.
    pub owner: String,
    /// Grows with each change of owner.
    pub fence: u64,
    /// Everything through here is in the rows.
    pub offset: Offset,
    /// Distinct events counted.
    pub counted: u64,
    /// Duplicates left out.
    pub duplicates: u64,
    /// Events too old to be counted.
    pub too_late: u64,
}

/// A sign of life of an aggregator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatorBeat {
    /// Who.
    pub owner: String,
    /// Grows with each sign.
    pub beat: u64,
    /// What it says of itself, a JSON document.
    pub document: String,
}

/// What an aggregator learns when it beats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AggregatorRound {
    /// Everybody who has ever beaten and was not forgotten, by name.
    pub members: Vec<AggregatorBeat>,
    /// The partitions that were ever owned, by number.
    pub partitions: Vec<PartitionStatus>,
}

/// An event that was kept aside instead of being counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Grows; given by the store, 0 before that.
    pub id: i64,
    /// Whose owner kept it.
    pub partition: PartitionId,
    /// When it was kept aside.
    pub kept_at_ms: UnixMs,
    /// The probe.
    pub client_id: ClientId,
    /// When it was measured.
    pub ts_ms: UnixMs,
    /// Why it was not counted.
    pub reason: String,
    /// What became of it.
    pub state: DeadLetterState,
    /// The event as JSON.
    pub document: String,
}

/// What became of an event that was kept aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadLetterState {
    /// It lies there.
    #[default]
    Kept,
    /// It is to be counted after all.
    Requested,
    /// It is counted.
    Replayed,
}

impl DeadLetterState {
    /// Its word, stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Requested => "requested",
            Self::Replayed => "replayed",
        }
    }

    /// The state of a word; one written by a newer version counts as kept.
    pub fn parse(text: &str) -> Self {
        match text {
            "requested" => Self::Requested,
            "replayed" => Self::Replayed,
            _ => Self::Kept,
        }
    }
}

/// Which dead letters to read, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterQuery {
    /// Only those before this one (the cursor of a list).
    pub before_id: Option<i64>,
    /// Only of this probe.
    pub client_id: Option<String>,
    /// Only for this reason.
    pub reason: Option<String>,
    /// Only in this state.
    pub state: Option<DeadLetterState>,
    /// At most so many.
    pub limit: usize,
}

/// How many dead letters there are of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterCount {
    /// Why they were not counted.
    pub reason: String,
    /// What became of them.
    pub state: DeadLetterState,
    /// How many.
    pub count: u64,
}

/// A longer window that must be merged again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleTier {
    /// Which.
    pub key: RollupKey,
    /// Grows with each change in it; a mark that has grown since is not taken back.
    pub mark: i64,
}

/// Longer windows, merged. Either all of it is stored or nothing.
#[derive(Clone, Debug, Default)]
pub struct TierCommit {
    /// Rows, each replacing what is stored under its key.
    pub rollups: Vec<Rollup>,
    /// Marks that were worked off.
    pub done: Vec<StaleTier>,
    /// Longer windows that hold these, to be merged again in turn.
    pub stale: Vec<RollupKey>,
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
    /// Longer windows that hold a changed row.
    pub stale_tiers: Vec<RollupKey>,
    /// Events kept aside.
    pub dead_letters: Vec<DeadLetter>,
    /// Dead letters that this commit counts after all.
    pub replayed: Vec<i64>,
    /// Distinct events counted in this commit.
    pub counted: u64,
    /// Duplicates left out in this commit.
    pub duplicates: u64,
    /// Events too old to be counted in this commit.
    pub too_late: u64,
}

impl WindowCommit {
    /// A number that tells this commit from any other that its owner may make, never 0. A commit that is given
    /// again because its answer was lost has the same, and so is known.
    ///
    /// Rows are told apart by what changes with each of their changes; their contents need not be read.
    pub(crate) fn mark(&self, through: Offset) -> i64 {
        let mut hasher = std::hash::DefaultHasher::new();
        through.hash(&mut hasher);
        for row in &self.rollups {
            let standing = (row.count_total, row.late_merged, row.version, row.updated_at_ms);
            (&row.key, standing, row.state.as_str()).hash(&mut hasher);
        }
        for seen in &self.seen {
            (&seen.client_id, seen.epoch, &seen.ranges, seen.max_ts_ms, seen.too_late).hash(&mut hasher);
        }
        (&self.new_ids, self.forget_ids_before_minute, &self.stale_tiers, &self.replayed).hash(&mut hasher);
        for letter in &self.dead_letters {
            (&letter.client_id, letter.ts_ms, &letter.reason, &letter.document).hash(&mut hasher);
        }
        (self.counted, self.duplicates, self.too_late).hash(&mut hasher);
        hasher.finish().cast_signed() | 1
    }
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

/// Sums the epochs of each probe up. Rows come ordered by probe.
pub(crate) fn summarise_probes(rows: Vec<(PartitionId, SeenRanges)>) -> Vec<ProbeSummary> {
    let mut probes: Vec<ProbeSummary> = Vec::new();
    for (partition, seen) in rows {
        let counted: u64 = seen.ranges.iter().map(|(first, last)| last - first + 1).sum();
        let expected = seen.ranges.last().map_or(0, |(_, last)| *last);
        let summary = ProbeSummary {
            client_id: seen.client_id,
            partition,
            last_event_ms: seen.max_ts_ms,
            counted,
            missing: expected.saturating_sub(counted),
            too_late: seen.too_late,
        };
        match probes.last_mut() {
            Some(before) if before.client_id == summary.client_id => {
                before.last_event_ms = before.last_event_ms.max(summary.last_event_ms);
                before.counted += summary.counted;
                before.missing += summary.missing;
                before.too_late += summary.too_late;
            }
            _ => probes.push(summary),
        }
    }
    probes
}

/// Which incidents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncidentQuery {
    /// Only those that are open, or only those that are over.
    pub is_open: Option<bool>,
    /// Only of this label, as users spell it.
    pub label: Option<String>,
    /// Only of this type of entity.
    pub entity_type: Option<String>,
    /// Only those that were not over before this time.
    pub from_ms: Option<UnixMs>,
    /// Only those opened before this time.
    pub to_ms: Option<UnixMs>,
    /// Only those behind this one in the order of the list, newest first (the cursor of a list).
    pub after: Option<(UnixMs, String)>,
    /// At most so many.
    pub limit: usize,
}

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertQuery {
    /// Only those that stand, or only those that are over.
    pub is_open: Option<bool>,
    /// Only of this status.
    pub status: Option<AlertStatus>,
    /// Only of this severity.
    pub severity: Option<Level>,
    /// Only of this node.
    pub node_id: Option<NodeId>,
    /// Only those behind this one in the order of the list, newest first (the cursor of a list).
    pub after: Option<(UnixMs, String)>,
    /// At most so many.
    pub limit: usize,
}

/// A change of an alert.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertWrite {
    /// The alert as it is to be.
    pub alert: Alert,
    /// The revision it had when it was looked at; none for a new one.
    pub seen: Option<u64>,
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeState {
    /// It is to be sent, now or later.
    Waiting,
    /// It was sent.
    Sent,
    /// It could not be sent for too long.
    GivenUp,
}

/// Which notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoticeQuery {
    /// Only those of which this became.
    pub state: Option<NoticeState>,
    /// Only about this alert or incident.
    pub subject_id: Option<String>,
    /// Only those behind this one in the order of the list, newest first (the cursor of a list).
    pub after: Option<(UnixMs, String)>,
    /// At most so many.
    pub limit: usize,
}

/// A fact, what was seen there (none: nothing), and what is there afterwards (none: nothing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactSwap {
    /// Its name.
    pub key: &'static str,
    /// What it must be still.
    pub seen: Option<String>,
    /// What it becomes.
    pub value: Option<String>,
}

/// The same of the settings of notices; they are never removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoticeSwap {
    /// What they must be still.
    pub seen: Option<NoticeSettings>,
    /// What they become; none leaves them.
    pub value: Option<NoticeSettings>,
}

/// How an attempt to send a notice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeOutcome {
    /// It was sent.
    Sent {
        /// When.
        at_ms: UnixMs,
    },
    /// It is to be tried again.
    Later {
        /// When.
        next_at_ms: UnixMs,
        /// What went wrong.
        error: String,
    },
    /// It is not tried again.
    GivenUp {
        /// When that was decided.
        at_ms: UnixMs,
        /// What went wrong.
        error: String,
    },
}

/// What an outcome writes: the next attempt, when it was sent, when it was given up, what went wrong.
type OutcomeColumns = (Option<UnixMs>, Option<UnixMs>, Option<UnixMs>, Option<String>);

impl NoticeOutcome {
    pub(crate) fn columns(self) -> OutcomeColumns {
        match self {
            Self::Sent { at_ms } => (None, Some(at_ms), None, None),
            Self::Later { next_at_ms, error } => (Some(next_at_ms), None, None, Some(error)),
            Self::GivenUp { at_ms, error } => (None, None, Some(at_ms), Some(error)),
        }
    }
}

/// A length of the steps of a node's history beyond its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryTier {
    /// A minute, from samples.
    Minute,
    /// An hour, from minutes.
    Hour,
}

impl HistoryTier {
    /// Every length, shortest first.
    pub const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    /// Columns of a step, in their order in the table.
    pub(crate) const COLUMNS: [&'static str; 17] = [
        "node_id",
        "width_ms",
        "at_ms",
        "samples",
        "cpu_percent",
        "memory_percent",
        "swap_percent",
        "disk_percent",
        "load_1",
        "load_5",
        "load_15",
        "disk_read_bytes_per_s",
        "disk_written_bytes_per_s",
        "received_bytes_per_s",
        "sent_bytes_per_s",
        "temperature_celsius",
        "process_count",
    ];

    /// Its length, ms.
    pub fn width_ms(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
        }
    }

    /// The query that makes its steps: means weighed by what went into each part, the largest temperature and
    /// number of processes. `width`, `from` and `to` are how the parameters are written.
    pub(crate) fn merged(self, width: &str, from: &str, to: &str) -> String {
        // By node, since that is what the keys begin with.
        let within = format!("node_id in (select node_id from nodes) and at_ms >= {from} and at_ms < {to}");
        let (parts, weight) = match self {
            Self::Minute => (format!("node_points where {within}"), "1"),
            Self::Hour => {
                let finer = Self::Minute.width_ms();
                (format!("node_tiers where width_ms = {finer} and {within}"), "samples")
            }
        };
        let start = format!("at_ms / {width} * {width}");
        let merged: Vec<String> = Self::COLUMNS[4..]
            .iter()
            .map(|name| match *name {
                "temperature_celsius" | "process_count" => format!("max({name})"),
                _ => format!("sum({name} * {weight}) / sum(case when {name} is not null then {weight} end)"),
            })
            .collect();
        format!(
            "select node_id, {width}, {start}, sum({weight}), {} from {parts} group by node_id, {start}",
            merged.join(", ")
        )
    }
}

/// The query for a node's history in [from, to), thinned: samples where there are still some, before them
/// minutes, and before those hours. The arguments are how the parameters are written.
pub(crate) fn history(node: &str, from: &str, to: &str, stretch: &str) -> String {
    let columns = HistoryTier::COLUMNS[4..].join(", ");
    let thinned: Vec<String> = HistoryTier::COLUMNS[4..]
        .iter()
        .map(|name| match *name {
            "temperature_celsius" | "process_count" => format!("max({name})"),
            _ => format!("avg({name})"),
        })
        .collect();
    let (minute, hour) = (HistoryTier::Minute.width_ms(), HistoryTier::Hour.width_ms());
    let samples = format!("(select min(at_ms) from node_points where node_id = {node})");
    let minutes =
        format!("(select min(at_ms) from node_tiers where node_id = {node} and width_ms = {minute})");
    let within = format!("node_id = {node} and at_ms >= {from} and at_ms < {to}");
    let never = i64::MAX;
    format!(
        "select max(at_ms), {} from (
            select at_ms, {columns} from node_points where {within}
            union all select at_ms, {columns} from node_tiers where {within} and width_ms = {minute}
                and at_ms <= coalesce({samples} - {minute}, {never})
            union all select at_ms, {columns} from node_tiers where {within} and width_ms = {hour}
                and at_ms <= coalesce({minutes} - {hour}, {samples} - {hour}, {never})
         ) as steps group by (at_ms - {from}) / {stretch} order by 1",
        thinned.join(", ")
    )
}

/// The query for the mean processor use of all nodes in [from, to), by stretches. The arguments are how the
/// parameters are written.
pub(crate) fn loads(from: &str, to: &str, stretch: &str) -> String {
    // By node, since that is what the keys begin with.
    format!(
        "select node_id, {from} + (at_ms - {from}) / {stretch} * {stretch}, avg(cpu_percent) from node_points
         where node_id in (select node_id from nodes) and at_ms >= {from} and at_ms < {to}
         group by 1, 2 order by 1, 2"
    )
}

/// What waits for a node, seen from far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadyClasses {
    /// The classes of everything that waits for nothing but a node or its time, in order.
    pub classes: Vec<String>,
    /// When the next task can be given to a node that cannot be now.
    pub next_ready_at: Option<UnixMs>,
}

/// Something that happened to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStep {
    /// Which task.
    pub task_id: TaskId,
    /// What.
    pub event: TaskEvent,
}

/// Something that a task wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWrote {
    /// Which task.
    pub task_id: TaskId,
    /// The node that says so.
    pub node_id: NodeId,
    /// What.
    pub chunk: OutputChunk,
}

/// Which tasks, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskQuery {
    /// Only in one of these states; empty is any.
    pub status: Vec<TaskState>,
    /// Only of this kind.
    pub kind: Option<TaskKind>,
    /// Only those that this node has, had last, or must do.
    pub node_id: Option<NodeId>,
    /// Only those whose document has this text, in whatever case.
    pub text: Option<String>,
    /// Only those behind this one in the order of the list (the cursor of a list).
    pub after: Option<(UnixMs, TaskId)>,
    /// At most so many.
    pub limit: usize,
}

/// How many tasks there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// By state; a state that no task is in is left out.
    pub by_status: Vec<(TaskState, u64)>,
    /// By node: those that wait for it and nobody else, those that it was given and has not begun, and those
    /// that run there. Nodes without any are left out.
    pub by_node: Vec<NodeTasks>,
}

/// How many tasks a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTasks {
    /// Which node.
    pub node_id: NodeId,
    /// Waiting for this node and no other.
    pub queued: u64,
    /// Given to it.
    pub leased: u64,
    /// Running there.
    pub running: u64,
}
