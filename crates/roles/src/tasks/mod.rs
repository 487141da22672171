//! The desk: gives tasks to workers that ask for work, takes what they report, and takes tasks back from
//! workers that are gone. One in each server.
//!
//! # Purpose
//! A worker keeps a poll open; the desk answers it when there is work that should be done there, or something
//! to stop. Everything it knows of workers is in memory and may be forgotten at any time: what counts is in
//! the store, and the first poll of a worker says what it has.
//!
//! # Rules
//! - One round at a time: what is ready, placed over everybody who waits with room, leased in one write, answered.
//! - A poll that ends without an answer, and is not followed by another within [`RETURN_MS`]: the worker is gone,
//!   and what it has goes back, unless another server says that the worker is with it now. The same where
//!   membership says that the node is gone and nothing was heard of the worker since.
//! - Leases that are over go back, by whichever server sees it first. Not within [`LEASE_MS`] after this one
//!   began, after the store was away, or after the clock jumped: nobody could renew then.
//! - What was leased and never left this process is given back as not begun.
//!
//! # What it does not do
//! It decides neither what may follow what (`engine::task`) nor where work goes (`engine::placement`).

mod gone;
mod reports;
mod round;
mod scheduler;
mod times;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use caelum_drivers::{clock::Clock, random};
use caelum_engine::{
    placement::Candidate,
    task::{Refusal, TaskEvent, Under},
};
use caelum_model::{
    UnixMs,
    cluster::Roster,
    id::NodeId,
    node::Thresholds,
    task::{LEASE_MS, Task},
    work::{Held, POLL_MS, TaskLease, WorkAnswer, WorkPoll},
};
use caelum_store::{Store, StoreError, TaskStep};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Change};

pub use reports::Waits;
pub use scheduler::{Scheduler, new_task, new_task_id};
pub use times::{TimesError, next_after};

/// How long a worker may take to come back after its poll ended, ms.
pub const RETURN_MS: i64 = 700;
/// How long a worker that was answered may take to ask again, ms.
const SILENT_MS: i64 = 5_000;
/// Time between looks at who is gone.
const TICK: Duration = Duration::from_millis(100);
/// Time between looks at leases that are over.
const SWEEP: Duration = Duration::from_millis(500);
/// Time between looks for work that another process wrote down, while somebody waits.
const LOOK: Duration = Duration::from_millis(250);
/// A difference between clock and passing time that is a jump, ms.
const JUMP_MS: i64 = 2_000;
/// Time after which a worker is told again to stop something, ms.
const TELL_AGAIN_MS: i64 = 5_000;
/// Most tasks that a worker may say it has.
const HELD_MAX: usize = 4_096;
/// Time to live of the note which server a worker is with, ms.
const ATTACHED_MS: i64 = 86_400_000;

/// What a desk stands on.
pub struct Parts {
    /// Where tasks are.
    pub store: Arc<Store>,
    /// News.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Names this server among those that share the store; stays the same over restarts.
    pub server: String,
    /// What this node believes about the others.
    pub roster: watch::Receiver<Arc<Roster>>,
    /// Thresholds where none were set at run time.
    pub thresholds: Thresholds,
}

/// See the file.
pub struct Desk {
    parts: Parts,
    wake: Notify,
    workers: Mutex<Workers>,
    /// Leases end by nobody's word before this.
    expire_from: AtomicI64,
    reports: reports::Reports,
    candidates: tokio::sync::Mutex<Option<(UnixMs, Vec<Candidate>)>>,
    /// How long tasks waited for a node.
    pub waits: Waits,
}

#[derive(Default)]
struct Workers {
    by_node: HashMap<NodeId, Worker>,
    polls: u64,
    /// Leased, and never on its way.
    undelivered: Vec<(NodeId, Held)>,
    /// Nodes known to be dead, and since when: what they had was taken back.
    dead: HashMap<NodeId, UnixMs>,
    next_ready_at: Option<UnixMs>,
}

struct Worker {
    run: String,
    open: Option<Open>,
    /// What it has as far as this server knows.
    believed: BTreeSet<Held>,
    /// What it is to stop, and when it was told.
    cancel: BTreeMap<Held, Option<UnixMs>>,
    needs_look: bool,
    heard_ms: UnixMs,
    /// Since when its poll is gone without an answer.
    closed_ms: Option<UnixMs>,
}

struct Open {
    id: u64,
    free: u32,
    answer: oneshot::Sender<WorkAnswer>,
}

impl Desk {
    /// A desk where nobody has asked yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let expire_from = parts.clock.now_ms() + LEASE_MS;
        Arc::new(Self {
            parts,
            wake: Notify::new(),
            workers: Mutex::default(),
            expire_from: AtomicI64::new(expire_from),
            reports: reports::Reports::default(),
            candidates: tokio::sync::Mutex::new(None),
            waits: Waits::default(),
        })
    }

    /// There may be work that was not there before.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Works until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut swept, mut looked) = (Instant::now(), Instant::now());
        let (mut clock_ms, mut passed) = (self.now_ms(), Instant::now());
        loop {
            let is_woken = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => true,
                _ = tick.tick() => false,
            };
            if !is_woken {
                let by_clock = self.now_ms() - clock_ms;
                let by_time = i64::try_from(passed.elapsed().as_millis()).unwrap_or(i64::MAX);
                if (by_clock - by_time).abs() > JUMP_MS {
                    tracing::warn!(
                        code = "tasks.clock_jumped",
                        by_clock,
                        by_time,
                        "no lease ends for a while"
                    );
                    self.spare_leases();
                }
                (clock_ms, passed) = (self.now_ms(), Instant::now());
                self.note("take tasks back", self.tick().await);
                if swept.elapsed() >= SWEEP {
                    swept = Instant::now();
                    self.note("end leases that are over", self.sweep().await);
                }
            }
            let is_due = self.workers().next_ready_at.is_some_and(|at| at <= self.now_ms());
            let is_look = self.parts.store.is_shared() && looked.elapsed() >= LOOK;
            if is_woken || is_due || is_look {
                looked = Instant::now();
                self.note("give tasks out", self.round().await);
            }
        }
    }

    /// Waits for work for a worker, at most as long as it says. One poll of a node is open at a time: an older
    /// one is answered at once.
    pub async fn poll(&self, node_id: &NodeId, poll: WorkPoll) -> Result<WorkAnswer, StoreError> {
        let held: BTreeSet<Held> = poll.held.into_iter().take(HELD_MAX).collect();
        let mut place = self.greet(node_id, &poll.worker);
        if place.is_new {
            let (key, now_ms) = (attached_key(node_id), self.now_ms());
            let server = self.parts.server.clone();
            place.answered(self.parts.store.put_key(key, server, now_ms, ATTACHED_MS).await)?;
        }
        let mut answer = WorkAnswer::default();
        let needs_look = {
            let mut workers = self.workers();
            let now_ms = self.now_ms();
            workers.by_node.get_mut(node_id).is_none_or(|worker| {
                answer.cancel = worker.take_cancels(now_ms);
                worker.needs_look || worker.believed != held
            })
        };
        if needs_look {
            answer = place.answered(self.look(node_id, &poll.worker, &held).await)?;
        }
        if !is_empty(&answer) {
            place.is_answered = true;
            return Ok(answer);
        }
        let (sender, receiver) = oneshot::channel();
        let is_open = self.workers().open(node_id, place.id, poll.free, sender);
        if !is_open {
            // A newer poll, or another run of the worker, came meanwhile.
            place.is_answered = true;
            return Ok(WorkAnswer::default());
        }
        place.receiver = Some(receiver);
        if poll.free > 0 {
            self.wake();
        }
        let wait = Duration::from_millis(u64::from(poll.wait_ms).min(POLL_MS.unsigned_abs()));
        let receiver = place.receiver.as_mut().expect("it was put there just now");
        let answer = match tokio::time::timeout(wait, &mut *receiver).await {
            Ok(answer) => answer.unwrap_or_default(),
            Err(_) if self.workers().close(node_id, place.id) => WorkAnswer::default(),
            // It was answered at this very moment.
            Err(_) => receiver.await.unwrap_or_default(),
        };
        place.receiver = None;
        place.is_answered = true;
        if let Some(worker) = self.workers().by_node.get_mut(node_id) {
            worker.heard_ms = worker.heard_ms.max(self.now_ms());
        }
        Ok(answer)
    }

    /// A task was called off: whoever has it is told at once.
    pub fn cancelled(&self, task: &Task) {
        let (Some(lease), Some(_)) = (&task.lease, &task.cancelled_by) else { return };
        let held = Held { task_id: task.task_id.clone(), fence: task.fence };
        let now_ms = self.now_ms();
        let mut workers = self.workers();
        let Some(worker) = workers.by_node.get_mut(&lease.node_id) else { return };
        if worker.run != lease.worker {
            return;
        }
        worker.cancel.entry(held).or_insert(None);
        let cancel = worker.take_cancels(now_ms);
        if cancel.is_empty() {
            return;
        }
        match worker.open.take() {
            Some(open) => {
                // Where the poll is gone, the next one looks at everything.
                drop(open.answer.send(WorkAnswer { cancel, ..WorkAnswer::default() }));
            }
            None => {
                for held in cancel {
                    worker.cancel.insert(held, None);
                }
            }
        }
    }

    /// Lets things happen to tasks, tells the rest of the process, and looks for work where there may be some.
    pub async fn step(&self, steps: Vec<TaskStep>) -> Result<Vec<Result<Task, Refusal>>, StoreError> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = self.parts.store.step_tasks(steps, self.now_ms(), random::number()).await?;
        self.parts.bus.publish(Change::TasksChanged);
        if outcomes.iter().flatten().any(|task| !task.status.is_held()) {
            self.wake();
        }
        Ok(outcomes)
    }

    /// What the store says that a node has, against what it says itself.
    async fn look(
        &self,
        node_id: &NodeId,
        run: &str,
        held: &BTreeSet<Held>,
    ) -> Result<WorkAnswer, StoreError> {
        let now_ms = self.now_ms();
        let mut answer = WorkAnswer::default();
        let (mut believed, mut cancel, mut gone) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        for task in self.parts.store.worker_tasks(node_id).await? {
            let key = Held { task_id: task.task_id.clone(), fence: task.fence };
            // What another run had went with it.
            if task.lease.as_ref().is_none_or(|lease| lease.worker != run) {
                gone.push(TaskStep {
                    task_id: task.task_id,
                    event: TaskEvent::WorkerGone { fence: task.fence },
                });
                continue;
            }
            if task.cancelled_by.is_some() && held.contains(&key) {
                answer.cancel.push(key.clone());
                cancel.insert(key.clone(), Some(now_ms));
            } else if task.cancelled_by.is_some() {
                // It never got there, or is not there any more: nothing is left to be ended.
                let event = TaskEvent::WorkerGone { fence: task.fence };
                gone.push(TaskStep { task_id: task.task_id, event });
                continue;
            } else if !held.contains(&key) {
                // The answer that brought it was lost.
                answer.leases.push(lease_of(&task));
            }
            believed.insert(key);
        }
        answer.abandon = held.difference(&believed).cloned().collect();
        self.step(gone).await?;
        if let Some(worker) = self.workers().by_node.get_mut(node_id).filter(|worker| worker.run == run) {
            worker.believed = believed;
            worker.cancel = cancel;
            worker.needs_look = false;
        }
        Ok(answer)
    }

    /// Writes down that a worker asks, and lets an older poll of the node go.
    fn greet(&self, node_id: &NodeId, run: &str) -> Place<'_> {
        let now_ms = self.now_ms();
        let mut workers = self.workers();
        workers.polls += 1;
        let id = workers.polls;
        let is_new = workers.by_node.get(node_id).is_none_or(|worker| worker.run != run);
        let worker = workers.by_node.entry(node_id.clone()).or_insert_with(|| Worker::new(run));
        if is_new {
            if let Some(open) = worker.open.take() {
                drop(open.answer.send(WorkAnswer::default()));
            }
            *worker = Worker::new(run);
        }
        if let Some(open) = worker.open.take() {
            drop(open.answer.send(WorkAnswer::default()));
        }
        worker.heard_ms = now_ms;
        worker.closed_ms = None;
        Place { desk: self, node_id: node_id.clone(), id, is_new, is_answered: false, receiver: None }
    }

    fn spare_leases(&self) {
        self.expire_from.store(self.now_ms() + LEASE_MS, Ordering::Relaxed);
    }

    fn note(&self, what: &'static str, outcome: Result<(), StoreError>) {
        if let Err(error) = outcome {
            tracing::warn!(code = "tasks.store_failed", what, %error, "it is tried again");
            self.spare_leases();
        }
    }

    fn now_ms(&self) -> UnixMs {
        self.parts.clock.now_ms()
    }

    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().expect("no code panics while it holds this lock")
    }
}

impl Workers {
    /// Opens a poll, unless a newer one of the node came meanwhile.
    fn open(&mut self, node_id: &NodeId, id: u64, free: u32, answer: oneshot::Sender<WorkAnswer>) -> bool {
        let Some(worker) = self.by_node.get_mut(node_id) else { return false };
        if worker.open.as_ref().is_some_and(|open| open.id > id) {
            return false;
        }
        worker.open = Some(Open { id, free, answer });
        true
    }

    /// Closes a poll; false where it is not open any more.
    fn close(&mut self, node_id: &NodeId, id: u64) -> bool {
        let Some(worker) = self.by_node.get_mut(node_id) else { return false };
        let is_open = worker.open.as_ref().is_some_and(|open| open.id == id);
        if is_open {
            worker.open = None;
        }
        is_open
    }
}

impl Worker {
    fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            open: None,
            believed: BTreeSet::new(),
            cancel: BTreeMap::new(),
            needs_look: true,
            heard_ms: 0,
            closed_ms: None,
        }
    }

    /// What it is to be told to stop now.
    fn take_cancels(&mut self, now_ms: UnixMs) -> Vec<Held> {
        let mut cancel = Vec::new();
        for (held, told) in &mut self.cancel {
            if told.is_none_or(|at| now_ms - at >= TELL_AGAIN_MS) {
                *told = Some(now_ms);
                cancel.push(held.clone());
            }
        }
        cancel
    }
}

/// A poll under way. Where it ends without an answer, whoever asked has gone.
struct Place<'a> {
    desk: &'a Desk,
    node_id: NodeId,
    id: u64,
    is_new: bool,
    is_answered: bool,
    receiver: Option<oneshot::Receiver<WorkAnswer>>,
}

impl Place<'_> {
    /// Who is told that it did not work was answered, and comes again.
    fn answered<T>(&mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        self.is_answered = outcome.is_err();
        outcome
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let now_ms = self.desk.now_ms();
        let mut workers = self.desk.workers();
        let lost = self.receiver.take().and_then(|mut receiver| receiver.try_recv().ok());
        if let Some(answer) = lost {
            let leases = answer.leases.into_iter().map(|lease| (self.node_id.clone(), lease.held));
            workers.undelivered.extend(leases);
        }
        workers.close(&self.node_id, self.id);
        if let Some(worker) = workers.by_node.get_mut(&self.node_id)
            && worker.open.is_none()
        {
            worker.closed_ms = Some(now_ms);
            worker.needs_look = true;
        }
    }
}

fn is_empty(answer: &WorkAnswer) -> bool {
    answer.leases.is_empty() && answer.cancel.is_empty() && answer.abandon.is_empty()
}

fn lease_of(task: &Task) -> TaskLease {
    TaskLease {
        held: Held { task_id: task.task_id.clone(), fence: task.fence },
        attempt: task.attempts.last().map_or(1, |attempt| attempt.n),
        task_type: task.order.task_type,
        task_data: task.order.task_data.clone(),
        timeout_seconds: task.order.timeout_seconds,
        lease_ms: LEASE_MS,
    }
}

fn returned(node_id: NodeId, held: Held) -> TaskStep {
    let under = Under { node_id, fence: held.fence };
    TaskStep { task_id: held.task_id, event: TaskEvent::Returned(under) }
}

/// Where it is written down which server a worker is with.
fn attached_key(node_id: &NodeId) -> String {
    format!("worker/{node_id}")
}
