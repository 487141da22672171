//! What may follow what in the life of a task: one function over state and event.
//!
//! # Purpose
//! [`next`] answers how a task stands after something happened to it, or refuses. Everything that is written
//! about a task goes through it, inside the transaction that read the task.
//!
//! # Rules
//! - `queued → leased → running → succeeded | failed | cancelled | timed_out | lost`. What is final stays, but
//!   for [`TaskEvent::Retry`], and what succeeded stays even then.
//! - Each lease has a larger fencing number than the one before. What a node says about a task counts only
//!   under the number of the lease that it holds; the same ending said twice is the same ending.
//! - A fault (failed, timed out) is tried again as often as was asked for, each time later: 1 s, doubled by
//!   each fault up to [`BACKOFF_MAX_MS`], and a random part of that.
//! - A node that goes away with a task: `at_least_once` is queued again at once; from the
//!   [`LOSSES_FREE`]th time on it counts as a fault, so that a task that fells its nodes ends as lost.
//!   `at_most_once` is lost, also where the node had not said yet that it runs: it may have begun.
//! - Calling off: what waits is cancelled at once, what a node has when the node lets go of it.
//!
//! # What it does not do
//! It does not choose nodes (see [`crate::placement`]) and knows no other task: the store tells a task that
//! waited for another how that ended.

pub mod order;
pub mod queue;

#[cfg(test)]
mod tests;

use caelum_model::{
    UnixMs,
    id::{NodeId, TaskId},
    task::{Attempt, Lease, Promise, Task, TaskState},
    work::Ending,
};

/// Attempts that are kept, the newest.
pub const ATTEMPTS_MAX: usize = 50;
/// Waiting time after the first fault, ms.
pub const BACKOFF_MS: i64 = 1_000;
/// Longest waiting time after a fault, ms.
pub const BACKOFF_MAX_MS: i64 = 300_000;
/// From this loss on a loss is a fault.
pub const LOSSES_FREE: usize = 20;
/// Longest text of an error that is kept, bytes.
pub const ERROR_MAX: usize = 4 << 10;

/// Who speaks about a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Under {
    /// The node.
    pub node_id: NodeId,
    /// The fencing number that it was given.
    pub fence: u64,
}

/// Something that happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// It is given to a node.
    Lease {
        /// Which, and until when.
        lease: Lease,
        /// Why this node.
        reasons: Vec<String>,
    },
    /// The node says that it runs.
    Started(Under),
    /// The node says that it still has it.
    Renewed {
        /// Who says so.
        under: Under,
        /// The new end of the lease.
        until_ms: UnixMs,
    },
    /// The node says that it ended.
    Finished {
        /// Who says so.
        under: Under,
        /// How.
        ending: Ending,
    },
    /// The node gives it back without having begun.
    Returned(Under),
    /// The lease is over, if it is.
    Expired,
    /// The node, or the run of its worker that holds the lease of this number, is gone.
    WorkerGone {
        /// The lease.
        fence: u64,
    },
    /// Somebody calls it off.
    CancelRequested {
        /// Who.
        by: String,
    },
    /// A task that it waited for ended well.
    BlockerDone,
    /// A task that it waited for did not.
    BlockerFailed {
        /// Which.
        task: TaskId,
    },
    /// It is to be done by this node and no other.
    Assigned {
        /// Which.
        node_id: NodeId,
    },
    /// Somebody asks for it to be done again.
    Retry {
        /// Who.
        by: String,
    },
}

impl TaskEvent {
    /// What happens, in a word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Lease { .. } => "lease",
            Self::Started(_) => "start",
            Self::Renewed { .. } => "renew",
            Self::Finished { .. } => "finish",
            Self::Returned(_) => "give back",
            Self::Expired => "expire",
            Self::WorkerGone { .. } => "take back",
            Self::CancelRequested { .. } => "cancel",
            Self::BlockerDone => "release",
            Self::BlockerFailed { .. } => "call off",
            Self::Assigned { .. } => "go to another node",
            Self::Retry { .. } => "retry",
        }
    }
}

/// Why something cannot happen to a task. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such task.
    #[error("there is no such task")]
    Unknown,
    /// Somebody else has it, or nobody.
    #[error("the lease {given} is over; the newest is {newest}")]
    Fenced {
        /// The number that was given.
        given: u64,
        /// The newest number of the task.
        newest: u64,
    },
    /// Not in this state.
    #[error("a task that is {} cannot be told to {event}", status.as_str())]
    NotNow {
        /// How it stands.
        status: TaskState,
        /// What was to happen.
        event: &'static str,
    },
    /// The time has not come.
    #[error("it is too early to {event} the task")]
    TooEarly {
        /// What was to happen.
        event: &'static str,
    },
    /// No ending of an attempt.
    #[error("an attempt does not end as {}", .0.as_str())]
    NoEnding(TaskState),
}

/// How a task stands after an event. `chance` is any number; it spreads what would come at one moment.
pub fn next(mut task: Task, event: TaskEvent, now_ms: UnixMs, chance: u64) -> Result<Task, Refusal> {
    use TaskState::{Cancelled, Leased, Queued, Running, Succeeded};
    let refused = Err(Refusal::NotNow { status: task.status, event: event.as_str() });
    match (task.status, event) {
        (Queued, TaskEvent::Lease { lease, reasons }) => {
            if task.blockers > 0 || task.ready_at > now_ms {
                return Err(Refusal::TooEarly { event: "lease" });
            }
            give(&mut task, lease, reasons, now_ms);
        }
        (Leased | Running, TaskEvent::Started(under)) => {
            check(&task, &under)?;
            task.status = Running;
            task.started_at.get_or_insert(now_ms);
            if let Some(attempt) = task.attempts.last_mut() {
                attempt.started_at.get_or_insert(now_ms);
            }
        }
        (Leased | Running, TaskEvent::Renewed { under, until_ms }) => {
            check(&task, &under)?;
            if let Some(lease) = &mut task.lease {
                lease.until_ms = lease.until_ms.max(until_ms);
            }
        }
        (Leased | Running, TaskEvent::Finished { under, ending }) => {
            check(&task, &under)?;
            finish(&mut task, ending, now_ms, chance)?;
        }
        // Said again because the answer was lost, or said too late.
        (
            Queued | Succeeded | TaskState::Failed | Cancelled | TaskState::TimedOut | TaskState::Lost,
            TaskEvent::Finished { under, ending },
        ) => {
            let is_known = task.attempts.last().is_some_and(|attempt| {
                attempt.fence == under.fence
                    && attempt.node_id == under.node_id
                    && attempt.outcome == Some(ending.outcome)
            });
            if !is_known {
                return Err(Refusal::Fenced { given: under.fence, newest: task.fence });
            }
        }
        (Leased, TaskEvent::Returned(under)) => {
            check(&task, &under)?;
            end_attempt(&mut task, Queued, now_ms);
            requeue(&mut task, now_ms);
        }
        // What runs cannot be unbegun: it is as good as lost.
        (Running, TaskEvent::Returned(under)) => {
            check(&task, &under)?;
            lose(&mut task, "its node gave it back while it ran", now_ms, chance);
        }
        (Leased | Running, TaskEvent::Expired) => {
            if task.lease.as_ref().is_some_and(|lease| lease.until_ms > now_ms) {
                return Err(Refusal::TooEarly { event: "expire" });
            }
            lose(&mut task, "its node was silent until the lease was over", now_ms, chance);
        }
        (Leased | Running, TaskEvent::WorkerGone { fence }) => {
            if task.fence != fence {
                return Err(Refusal::Fenced { given: fence, newest: task.fence });
            }
            lose(&mut task, "its node went away with it", now_ms, chance);
        }
        (Queued, TaskEvent::CancelRequested { by }) => {
            task.cancelled_by = Some(by);
            conclude(&mut task, Cancelled, now_ms);
        }
        (Leased | Running, TaskEvent::CancelRequested { by }) => {
            task.cancelled_by.get_or_insert(by);
        }
        (Cancelled, TaskEvent::CancelRequested { .. }) => {}
        (Queued, TaskEvent::Assigned { node_id }) => {
            task.order.assigned_node = Some(node_id);
        }
        (Queued, TaskEvent::BlockerDone) => {
            task.blockers = task.blockers.saturating_sub(1);
        }
        (Queued, TaskEvent::BlockerFailed { task: blocker }) => {
            task.error = Some(format!("it waited for {blocker}, which did not end well"));
            conclude(&mut task, Cancelled, now_ms);
        }
        (
            TaskState::Failed | Cancelled | TaskState::TimedOut | TaskState::Lost,
            TaskEvent::Retry { by: _ },
        ) => {
            task.faults = 0;
            task.cancelled_by = None;
            task.error = None;
            task.completed_at = None;
            task.started_at = None;
            // Whoever asks knows how what it waited for ended.
            task.blockers = 0;
            requeue(&mut task, now_ms);
        }
        // Under a lease that is over, whatever the state is now.
        (
            Queued | Succeeded | TaskState::Failed | Cancelled | TaskState::TimedOut | TaskState::Lost,
            TaskEvent::Started(under) | TaskEvent::Returned(under) | TaskEvent::Renewed { under, .. },
        ) => return Err(Refusal::Fenced { given: under.fence, newest: task.fence }),
        (
            Queued | Succeeded | TaskState::Failed | Cancelled | TaskState::TimedOut | TaskState::Lost,
            TaskEvent::Expired | TaskEvent::WorkerGone { .. },
        )
        | (
            Leased
            | Running
            | Succeeded
            | TaskState::Failed
            | Cancelled
            | TaskState::TimedOut
            | TaskState::Lost,
            TaskEvent::Lease { .. }
            | TaskEvent::Assigned { .. }
            | TaskEvent::BlockerDone
            | TaskEvent::BlockerFailed { .. },
        )
        | (
            Succeeded | TaskState::Failed | TaskState::TimedOut | TaskState::Lost,
            TaskEvent::CancelRequested { .. },
        )
        | (Queued | Leased | Running | Succeeded, TaskEvent::Retry { .. }) => return refused,
    }
    Ok(task)
}

/// What the end of a task means to those that wait for it.
pub fn told_to_dependents(task: &Task) -> Option<TaskEvent> {
    match task.status {
        TaskState::Succeeded => Some(TaskEvent::BlockerDone),
        status if status.is_final() => Some(TaskEvent::BlockerFailed { task: task.task_id.clone() }),
        _ => None,
    }
}

fn check(task: &Task, under: &Under) -> Result<(), Refusal> {
    let is_holder = task.lease.as_ref().is_some_and(|lease| lease.node_id == under.node_id);
    if task.fence == under.fence && is_holder {
        Ok(())
    } else {
        Err(Refusal::Fenced { given: under.fence, newest: task.fence })
    }
}

fn give(task: &mut Task, lease: Lease, reasons: Vec<String>, now_ms: UnixMs) {
    task.fence += 1;
    task.status = TaskState::Leased;
    let n = task.attempts.last().map_or(1, |attempt| attempt.n.saturating_add(1));
    task.attempts.push(Attempt {
        n,
        fence: task.fence,
        node_id: lease.node_id.clone(),
        leased_at: now_ms,
        started_at: None,
        finished_at: None,
        outcome: None,
        exit_code: None,
        error: None,
        reasons,
        output_bytes: 0,
    });
    let too_many = task.attempts.len().saturating_sub(ATTEMPTS_MAX);
    task.attempts.drain(..too_many);
    task.lease = Some(lease);
}

fn finish(task: &mut Task, ending: Ending, now_ms: UnixMs, chance: u64) -> Result<(), Refusal> {
    let Ending { outcome, exit_code, error, output_bytes } = ending;
    let error = error.map(bounded);
    match outcome {
        TaskState::Succeeded | TaskState::Failed | TaskState::TimedOut | TaskState::Cancelled => {}
        other => return Err(Refusal::NoEnding(other)),
    }
    if let Some(attempt) = task.attempts.last_mut() {
        attempt.exit_code = exit_code;
        attempt.error.clone_from(&error);
        attempt.output_bytes = output_bytes;
    }
    match outcome {
        TaskState::Succeeded => {
            end_attempt(task, outcome, now_ms);
            task.error = None;
            conclude(task, TaskState::Succeeded, now_ms);
        }
        // Ended by the worker itself, which stops: nobody called the task off.
        TaskState::Cancelled if task.cancelled_by.is_none() => {
            lose(task, "its node stopped before it ended", now_ms, chance);
            // The node's own word for it is kept, so that it may say it again.
            if let Some(attempt) = task.attempts.last_mut() {
                attempt.outcome = Some(TaskState::Cancelled);
            }
        }
        TaskState::Cancelled => {
            end_attempt(task, outcome, now_ms);
            conclude(task, TaskState::Cancelled, now_ms);
        }
        _ => {
            end_attempt(task, outcome, now_ms);
            task.error = error.or_else(|| Some(fault_text(outcome, exit_code)));
            if task.cancelled_by.is_some() {
                conclude(task, TaskState::Cancelled, now_ms);
            } else {
                fault(task, outcome, now_ms, chance);
            }
        }
    }
    Ok(())
}

fn fault_text(outcome: TaskState, exit_code: Option<i32>) -> String {
    match (outcome, exit_code) {
        (TaskState::TimedOut, _) => "it took longer than it was given".to_owned(),
        (_, Some(code)) => format!("it ended with exit code {code}"),
        (_, None) => "it failed".to_owned(),
    }
}

/// Its node is no longer there to say how it ended.
fn lose(task: &mut Task, why: &str, now_ms: UnixMs, chance: u64) {
    if let Some(attempt) = task.attempts.last_mut() {
        attempt.error.get_or_insert_with(|| why.to_owned());
    }
    end_attempt(task, TaskState::Lost, now_ms);
    if task.cancelled_by.is_some() {
        conclude(task, TaskState::Cancelled, now_ms);
        return;
    }
    task.error = Some(why.to_owned());
    match task.order.promise {
        Promise::AtMostOnce => conclude(task, TaskState::Lost, now_ms),
        Promise::AtLeastOnce => {
            let losses =
                task.attempts.iter().filter(|attempt| attempt.outcome == Some(TaskState::Lost)).count();
            if losses >= LOSSES_FREE {
                fault(task, TaskState::Lost, now_ms, chance);
            } else {
                requeue(task, now_ms);
            }
        }
    }
}

fn fault(task: &mut Task, outcome: TaskState, now_ms: UnixMs, chance: u64) {
    task.faults = task.faults.saturating_add(1);
    if task.faults > task.order.max_retries {
        conclude(task, outcome, now_ms);
    } else {
        requeue(task, now_ms + backoff(task.faults, chance));
    }
}

/// How long to wait after the n-th fault.
fn backoff(faults: u32, chance: u64) -> i64 {
    let doublings = faults.saturating_sub(1).min(20);
    let most = (BACKOFF_MS << doublings).min(BACKOFF_MAX_MS);
    let span = most.unsigned_abs() + 1;
    i64::try_from(chance % span).unwrap_or(most)
}

fn requeue(task: &mut Task, ready_at: UnixMs) {
    if task.cancelled_by.is_some() {
        conclude(task, TaskState::Cancelled, ready_at);
        return;
    }
    task.status = TaskState::Queued;
    task.lease = None;
    task.ready_at = ready_at;
}

fn conclude(task: &mut Task, status: TaskState, now_ms: UnixMs) {
    task.status = status;
    task.lease = None;
    task.completed_at = Some(now_ms);
}

fn end_attempt(task: &mut Task, outcome: TaskState, now_ms: UnixMs) {
    if let Some(attempt) = task.attempts.last_mut() {
        attempt.finished_at = Some(now_ms);
        attempt.outcome = Some(outcome);
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > ERROR_MAX {
        let end = (0..=ERROR_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
