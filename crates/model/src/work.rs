//! What travels between a worker and a server, over HTTPS under the node's certificate.
//!
//! A worker keeps one `POST /api/work/poll` open, which says how much room it has and is answered when there
//! is work or something to stop; and it posts to `/api/work/report` what its tasks do. A report is answered
//! when it is durable. Both name every task by its fencing number: what comes under an old one is refused, and
//! the worker then ends that task.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    id::TaskId,
    task::{OutputChunk, TaskKind, TaskState},
};

/// Path where a worker asks for work.
pub const POLL_PATH: &str = "/api/work/poll";
/// Path where it says what its tasks do.
pub const REPORT_PATH: &str = "/api/work/report";
/// Longest that a poll is kept open, ms.
pub const POLL_MS: i64 = 20_000;
/// How often a worker with tasks renews its leases, ms.
pub const RENEW_MS: i64 = 4_000;
/// Most leases in one answer.
pub const LEASES_MAX: usize = 256;
/// Most items in one report.
pub const ITEMS_MAX: usize = 1_024;
/// Largest body of a report, bytes.
pub const REPORT_MAX: usize = 4 << 20;
/// Largest text of one chunk of output, bytes.
pub const CHUNK_MAX: usize = 32 << 10;

/// A task under one of its leases.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Held {
    /// The task.
    pub task_id: TaskId,
    /// The fencing number of the lease.
    pub fence: u64,
}

/// What a worker asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkPoll {
    /// This run of the worker.
    pub worker: String,
    /// Tasks that it can run at once.
    pub slots: u32,
    /// How many more it can begin now; 0 while it drains.
    pub free: u32,
    /// Everything that it has now. The answer to the first poll after a reconnection says which of them are
    /// no longer its own.
    pub held: Vec<Held>,
    /// How long the answer may wait, ms; at most [`POLL_MS`].
    pub wait_ms: u32,
}

/// What it is answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkAnswer {
    /// Begin these.
    pub leases: Vec<TaskLease>,
    /// End these: somebody called them off. Reported as `cancelled` when they are gone.
    pub cancel: Vec<Held>,
    /// End these and say nothing: they are no longer this worker's.
    pub abandon: Vec<Held>,
}

/// A task to begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskLease {
    /// Which, under which number.
    #[serde(flatten)]
    pub held: Held,
    /// Which attempt, counted from 1.
    pub attempt: u32,
    /// What it does.
    pub task_type: TaskKind,
    /// With what.
    #[schema(value_type = Object)]
    pub task_data: Value,
    /// How long it may take, s.
    pub timeout_seconds: u64,
    /// How long the lease lasts unless it is renewed, ms, from the answer on.
    pub lease_ms: i64,
}

/// One thing that a task did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum WorkItem {
    /// It runs.
    Started {
        /// Which.
        #[serde(flatten)]
        held: Held,
    },
    /// It still runs, or still waits for its turn.
    Renewed {
        /// Which.
        #[serde(flatten)]
        held: Held,
    },
    /// It wrote something.
    Output {
        /// Which.
        task_id: TaskId,
        /// What, under which number.
        #[serde(flatten)]
        chunk: OutputChunk,
    },
    /// It ended.
    Finished {
        /// Which.
        #[serde(flatten)]
        held: Held,
        /// How.
        ending: Ending,
    },
    /// It was not begun and is given back: the worker drains.
    Returned {
        /// Which.
        #[serde(flatten)]
        held: Held,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Ending {
    /// `succeeded`, `failed`, `cancelled` or `timed_out`.
    pub outcome: TaskState,
    /// What the program ended with, where there was one.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// What went wrong.
    #[serde(default)]
    pub error: Option<String>,
    /// Bytes that it wrote, those not kept included.
    #[serde(default)]
    pub output_bytes: u64,
}

/// What a worker says about its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkReport {
    /// This run of the worker.
    pub worker: String,
    /// What happened, in order.
    pub items: Vec<WorkItem>,
}

/// What it is answered once all that is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkReceipt {
    /// These are not this worker's, or no longer: nothing of what was said about them was kept.
    pub refused: Vec<Held>,
}
