//! Tasks: work that somebody asked for, who does it, and what came of it.
//!
//! What may follow what is `engine::task`; what travels between a server and a worker is [`crate::work`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{UnixMs, cluster::Ceiling, id::NodeId, id::TaskId};

/// Priorities go from here …
pub const PRIORITY_MIN: i32 = 0;
/// … to here; the larger is sooner.
pub const PRIORITY_MAX: i32 = 100;
/// The priority of a task for which none was asked.
pub const PRIORITY_USUAL: i32 = 50;
/// Most retries of a task.
pub const RETRIES_MAX: u32 = 100;
/// Longest that a task may be given, s.
pub const TIMEOUT_MAX_S: u64 = 7 * 86_400;
/// How long a task may take for which nothing was asked, s.
pub const TIMEOUT_USUAL_S: u64 = 3_600;
/// Most tasks that one task may wait for.
pub const DEPENDENCIES_MAX: usize = 64;
/// Most words that a task may ask of a node.
pub const REQUIREMENTS_MAX: usize = 16;
/// Longest JSON text of what a task is to do, bytes.
pub const DATA_MAX: usize = 256 << 10;
/// Output kept of one attempt, bytes; what comes after it is counted and not kept.
pub const OUTPUT_MAX: u64 = 1 << 20;
/// How long a lease lasts that is not renewed, ms.
pub const LEASE_MS: i64 = 15_000;

/// What a task does.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// Runs a command line in the shell: `{"command", "cwd"?, "env"?}`.
    Shell,
    /// Runs a script by an interpreter: `{"script", "interpreter"?, "args"?, "cwd"?, "env"?}`.
    Script,
    /// Asks a URL and checks the answer: `{"url", "method"?, "expect_status"?, "expect_text"?, "body"?}`.
    Http,
    /// Fetches a file: `{"url", "path", "sha256"?, "mode"?}`.
    Fetch,
    /// Measures a target once: `{"url"}`.
    Probe,
    /// Runs a command on a machine without an agent: `{"host", "command", …}`.
    Ssh,
}

impl TaskKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Shell, Self::Script, Self::Http, Self::Fetch, Self::Probe, Self::Ssh];

    /// Reads the wire spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// What a node must let others do to be given one: a file put anywhere is as good as a command.
    pub const fn ceiling(self) -> Ceiling {
        match self {
            Self::Shell | Self::Script | Self::Fetch => Ceiling::Shell,
            // Its command runs on another machine, whose own ceiling is looked at there.
            Self::Http | Self::Probe | Self::Ssh => Ceiling::Tasks,
        }
    }

    /// The wire spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Script => "script",
            Self::Http => "http",
            Self::Fetch => "fetch",
            Self::Probe => "probe",
            Self::Ssh => "ssh",
        }
    }
}

/// What is promised about a task that a worker took with it when it died.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// It is never begun a second time: it is then lost, and somebody decides.
    AtMostOnce,
    /// It is begun again elsewhere; it may have run before, and its fencing number says which time this is.
    #[default]
    AtLeastOnce,
}

/// Where a task stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It waits: for other tasks, for its time, or for a node with room.
    Queued,
    /// A node has it and has not said yet that it runs.
    Leased,
    /// It runs.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended with a fault.
    Failed,
    /// Somebody called it off, or a task that it waited for did not end well.
    Cancelled,
    /// It took longer than it was given.
    TimedOut,
    /// Its node went away with it, and it may not be begun again.
    Lost,
}

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Leased,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Lost,
    ];

    /// The wire spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
        }
    }

    /// Reads the wire spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing follows, unless somebody asks for it to be done again.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Leased | Self::Running)
    }

    /// Whether a node has it.
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Leased | Self::Running)
    }
}

/// Who has a task, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Lease {
    /// The node.
    pub node_id: NodeId,
    /// The run of the worker there: another run does not know the task.
    pub worker: String,
    /// When it ends unless it is renewed, by the server's clock.
    pub until_ms: UnixMs,
}

/// One time that a task was given to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Attempt {
    /// Counted from 1.
    pub n: u32,
    /// The fencing number: it grows with each lease of the task, and every later write must carry it.
    pub fence: u64,
    /// The node.
    pub node_id: NodeId,
    /// When it was given.
    pub leased_at: UnixMs,
    /// When it was said to run.
    pub started_at: Option<UnixMs>,
    /// When it ended.
    pub finished_at: Option<UnixMs>,
    /// How it ended; `queued` stands for a lease that was given back unused.
    pub outcome: Option<TaskState>,
    /// What the program ended with, where there was one.
    pub exit_code: Option<i32>,
    /// What went wrong.
    pub error: Option<String>,
    /// Why this node.
    pub reasons: Vec<String>,
    /// Bytes of output, those not kept included.
    pub output_bytes: u64,
}

/// What somebody asks for, before it is checked. What is left out has its usual value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskAsk {
    /// A kind (`shell`, `script`, `http`, `fetch`, `probe`, `ssh`), or `python`, `git`, `test`, `build`, `deploy`
    /// for a script.
    pub task_type: String,
    /// With what; what belongs in it follows from the kind.
    #[schema(value_type = Object)]
    pub task_data: Value,
    /// 0 to 100, the larger is sooner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// How often it is tried again after a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// How long one attempt may take, s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Words that the node must have.
    pub requirements: Vec<String>,
    /// The node that must do it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_node: Option<String>,
    /// Tasks that must have ended well before: ids, or keys of tasks that are asked for in the same breath.
    pub depends_on: Vec<String>,
    /// What others that are asked for in the same breath call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A second order with the same key is the same task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What happens when its node goes away with it.
    pub promise: Promise,
    /// Not before this.
    pub not_before_ms: UnixMs,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskOrder {
    /// What it does.
    pub task_type: TaskKind,
    /// The name that it was asked for by, where that is another: `python`, `git`, `test`, `build`, `deploy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// With what.
    #[schema(value_type = Object)]
    pub task_data: Value,
    /// The larger is sooner.
    pub priority: i32,
    /// How often it is tried again after a fault.
    pub max_retries: u32,
    /// How long one attempt may take, s.
    pub timeout_seconds: u64,
    /// Words that the node must have: capabilities, or `tag=value` of its tags.
    pub requirements: Vec<String>,
    /// The node that must do it.
    pub assigned_node: Option<NodeId>,
    /// Tasks that must have ended well before.
    pub depends_on: Vec<TaskId>,
    /// A second order with the same key is the same task.
    pub idempotency_key: Option<String>,
    /// What happens when its node goes away with it.
    pub promise: Promise,
    /// Not before this.
    pub not_before_ms: UnixMs,
}

/// A task as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Task {
    /// Identity.
    pub task_id: TaskId,
    /// What was asked for.
    #[serde(flatten)]
    pub order: TaskOrder,
    /// Who asked.
    pub created_by: String,
    /// When.
    pub created_at: UnixMs,
    /// The schedule that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<String>,
    /// Where it stands.
    pub status: TaskState,
    /// Tasks that it still waits for.
    pub blockers: u32,
    /// The fencing number of the newest lease; 0 before the first.
    pub fence: u64,
    /// Attempts that ended with a fault: what the retries are counted by. A node that went away with it is
    /// none, unless it happens again and again.
    pub faults: u32,
    /// When it may be given to a node: later than asked for after a fault.
    pub ready_at: UnixMs,
    /// Who has it.
    pub lease: Option<Lease>,
    /// Who called it off, while the node has not yet let go of it.
    pub cancelled_by: Option<String>,
    /// Every time that it was given to a node, the newest last; the oldest go when there are many.
    pub attempts: Vec<Attempt>,
    /// When it was first said to run.
    pub started_at: Option<UnixMs>,
    /// When it reached a final state.
    pub completed_at: Option<UnixMs>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// A stretch of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutputChunk {
    /// The attempt's fencing number.
    pub fence: u64,
    /// Counted from 0 in each attempt.
    pub seq: u64,
    /// Whether it is standard error.
    pub is_error: bool,
    /// What was written; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// When, ms since the attempt started.
    pub after_ms: i64,
}

/// What to do about a time that passed while nobody could act on it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing.
    Skip,
    /// One task, however many were missed.
    #[default]
    RunOnce,
}

/// Tasks at times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Schedule {
    /// Identity.
    pub schedule_id: String,
    /// What people call it.
    pub name: String,
    /// When: five fields of cron, or `@hourly` and the like.
    pub cron: String,
    /// Where those times are meant, an IANA name; summer time is followed.
    pub time_zone: String,
    /// Whether it is on.
    pub enabled: bool,
    /// What to do about times that were missed.
    pub missed: Missed,
    /// What is asked for each time.
    pub order: TaskOrder,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: UnixMs,
    /// The next time.
    pub next_at: Option<UnixMs>,
    /// The last time that a task came from it.
    pub last_at: Option<UnixMs>,
    /// That task.
    pub last_task_id: Option<TaskId>,
}
