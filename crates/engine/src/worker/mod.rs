//! A worker: what runs here, what is asked of the servers, and what they are told.
//!
//! # Purpose
//! It has slots. It asks for as many tasks as it has room for, begins what it is given, and says what became
//! of each, in order, until the servers say that they have it for good.
//!
//! # Rules
//! - A task is begun once for each fencing number, however often its lease arrives: an answer may be given
//!   twice. What ended lately is remembered for that.
//! - One report is under way at a time, so that what happened arrives in order; what happens meanwhile goes
//!   into the next. A report that was not answered is sent again as it was.
//! - A task whose end was not yet said to be durable is still held, and named in each poll.
//! - While tasks are short ([`SHORT_MS`]), it asks for more than it has slots: for as much as these do in
//!   [`AHEAD_WORK_MS`], as many again at least, and [`AHEAD_SLOTS_MAX`] times as many or an answer's full at most.
//!   So one question brings many, and no slot waits for an answer. It asks only when half of that is done. What could not begin
//!   within [`AHEAD_MS`] is given back, for others to do.
//! - An open poll that offered no room is overtaken by another one when there is room again. The server
//!   answers the older one at once.
//! - A lease that cannot be renewed ends nothing that runs: this side cannot know what the servers think, and
//!   a late result is refused by its fencing number. But nothing is *begun* under a lease that ran out here.
//! - What is refused or abandoned is ended, and nothing is said about it.
//! - What the node's ceiling does not allow is not begun, and fails: no server can raise a ceiling.
//! - While it drains, nothing is begun; what was not begun is given back; what runs has until the grace is
//!   over, and is then ended without a word, so that the servers see its node go away.
//!
//! # States of a task here
//! ```text
//! waiting ── a slot is free ──> running ── ended ──> ended ── durable ──> gone
//!    └── called off, drain ─────────────────────────^
//! ```
//!
//! # What it does not do
//! It starts no process and opens no connection; which task goes where is the servers' choice.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    mem,
};

use caelum_model::{
    cluster::Ceiling,
    task::{LEASE_MS, OutputChunk, TaskState},
    work::{
        Ending, Held, ITEMS_MAX, LEASES_MAX, POLL_MS, RENEW_MS, TaskLease, WorkAnswer, WorkItem, WorkPoll,
        WorkReceipt, WorkReport,
    },
};

use crate::hash::{fnv1a, mix};

/// First wait after a question that nobody answered, ms; it doubles …
const WAIT_MIN_MS: i64 = 50;
/// … up to this.
const WAIT_MAX_MS: i64 = 2_000;
/// Tasks are short that take no longer on average, ms …
const SHORT_MS: i64 = 100;
/// … once so many have ended.
const SHORT_SEEN: u32 = 8;
/// How long a task that was asked for ahead may wait for a slot, ms.
const AHEAD_MS: i64 = 300;
/// How long the slots are to have work that was asked for ahead, ms; well below [`AHEAD_MS`] …
const AHEAD_WORK_MS: i64 = 50;
/// … and most of it, for each slot; where there are many slots, no more than comes in one answer.
const AHEAD_SLOTS_MAX: u32 = 8;
/// Polls that may be open at once: the second overtakes one that offered no room.
const POLLS_MAX: usize = 2;
/// Ended tasks that are remembered.
const DONE_MAX: usize = 4_096;
/// Largest text of a report, bytes; well below what a server takes.
const REPORT_BYTES: usize = 1 << 20;

/// What a worker is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names this run.
    pub worker: String,
    /// Tasks that run at once.
    pub slots: u32,
    /// How long running tasks have when it drains, ms.
    pub grace_ms: i64,
    /// The most that this node lets others do to it, whatever a server says.
    pub ceiling: Ceiling,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A poll was answered.
    Answered {
        /// Which.
        poll: u64,
        /// What.
        answer: WorkAnswer,
    },
    /// A poll was not.
    Unanswered {
        /// Which.
        poll: u64,
    },
    /// The report under way is durable.
    Received(WorkReceipt),
    /// The report under way was not answered.
    Unreceived,
    /// The servers will never take the report under way: it is not said again.
    Rejected,
    /// A task runs.
    Started(Held),
    /// A task wrote something.
    Output {
        /// Which.
        held: Held,
        /// What.
        chunk: OutputChunk,
    },
    /// A task ended and nothing of it is left.
    Ended {
        /// Which.
        held: Held,
        /// How.
        ending: Ending,
    },
    /// Time has passed.
    Tick,
    /// Begin nothing more, and end.
    Drain,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Run this task.
    Begin(TaskLease),
    /// End this task.
    Stop(Held),
    /// Ask a server.
    Poll {
        /// To be named in the answer.
        poll: u64,
        /// What to ask.
        ask: WorkPoll,
    },
    /// Tell a server.
    Report(WorkReport),
    /// Nothing runs, and everything was said.
    Drained,
}

#[derive(Clone, Debug)]
enum State {
    Waiting(TaskLease),
    Running,
    Ended,
}

#[derive(Clone, Debug)]
struct Job {
    state: State,
    /// When it came, and then when it was begun.
    since_ms: i64,
    /// The lease ends here unless it is renewed, by this worker's clock.
    until_ms: i64,
    lease_ms: i64,
    /// Somebody called it off.
    is_cancelled: bool,
    /// No longer ours: nothing is said about it.
    is_silent: bool,
}

impl Job {
    fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }
}

#[derive(Clone, Debug)]
struct OpenPoll {
    poll: u64,
    free: u32,
}

/// How long tasks have taken lately.
#[derive(Clone, Copy, Debug, Default)]
struct Lasting {
    mean_us: i64,
    seen: u32,
}

impl Lasting {
    /// A task has ended; the newer ones count more.
    fn note(&mut self, took_ms: i64) {
        let took_us = took_ms.clamp(0, 3_600_000) * 1_000;
        self.mean_us += (took_us - self.mean_us) / if self.seen < SHORT_SEEN { 2 } else { 8 };
        self.seen = self.seen.saturating_add(1);
    }

    /// How many tasks to have beside those that run.
    fn ahead(&self, slots: u32) -> u32 {
        if self.seen < SHORT_SEEN || self.mean_us > SHORT_MS * 1_000 {
            return 0;
        }
        let each = AHEAD_WORK_MS * 1_000 / self.mean_us.max(1);
        let each = u32::try_from(each).unwrap_or(AHEAD_SLOTS_MAX).clamp(1, AHEAD_SLOTS_MAX);
        // What is held is named in each poll, so that it is bounded also where a node has a thousand slots.
        let one_answer = u32::try_from(LEASES_MAX).unwrap_or(u32::MAX);
        slots.saturating_mul(each).min(slots.max(one_answer))
    }
}

/// The report under way, or the one to be sent again.
#[derive(Clone, Debug)]
struct Sending {
    report: WorkReport,
    is_under_way: bool,
    sent_at_ms: i64,
}

/// The worker.
#[derive(Clone, Debug)]
pub struct Worker {
    config: Config,
    jobs: BTreeMap<Held, Job>,
    done: HashSet<Held>,
    done_in_order: VecDeque<Held>,
    lasting: Lasting,
    polls: Vec<OpenPoll>,
    polls_asked: u64,
    poll_failures: u32,
    poll_not_before_ms: i64,
    /// What is to be said, oldest first.
    items: VecDeque<WorkItem>,
    sending: Option<Sending>,
    report_failures: u32,
    report_not_before_ms: i64,
    renew_at_ms: i64,
    /// When the grace is over, while it drains.
    drain_until_ms: Option<i64>,
    is_drained: bool,
}

impl Worker {
    /// A worker that has nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            jobs: BTreeMap::new(),
            done: HashSet::new(),
            done_in_order: VecDeque::new(),
            lasting: Lasting::default(),
            polls: Vec::new(),
            polls_asked: 0,
            poll_failures: 0,
            poll_not_before_ms: i64::MIN,
            items: VecDeque::new(),
            sending: None,
            report_failures: 0,
            report_not_before_ms: i64::MIN,
            renew_at_ms: i64::MAX,
            drain_until_ms: None,
            is_drained: false,
        }
    }

    /// Takes in what happened, and answers what is to be done.
    pub fn handle(&mut self, now_ms: i64, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Answered { poll, answer } => {
                self.polls.retain(|open| open.poll != poll);
                self.poll_failures = 0;
                self.poll_not_before_ms = i64::MIN;
                self.take(now_ms, answer, &mut outputs);
            }
            Input::Unanswered { poll } => {
                self.polls.retain(|open| open.poll != poll);
                self.poll_failures += 1;
                self.poll_not_before_ms = now_ms + self.wait_ms(self.poll_failures);
            }
            Input::Received(receipt) => self.settle(&receipt, &mut outputs),
            Input::Unreceived => {
                if let Some(sending) = &mut self.sending {
                    sending.is_under_way = false;
                }
                self.report_failures += 1;
                self.report_not_before_ms = now_ms + self.wait_ms(self.report_failures);
            }
            Input::Rejected => self.settle(&WorkReceipt::default(), &mut outputs),
            Input::Started(held) => self.say_of(&held.clone(), WorkItem::Started { held }),
            Input::Output { held, chunk } => {
                let task_id = held.task_id.clone();
                self.say_of(&held, WorkItem::Output { task_id, chunk });
            }
            Input::Ended { held, ending } => self.end(now_ms, held, ending),
            Input::Tick => {}
            Input::Drain => self.drain(now_ms, &mut outputs),
        }
        self.go_on(now_ms, &mut outputs);
        outputs
    }

    /// When time alone changes something.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        if self.is_drained {
            return None;
        }
        let poll = (self.wants_poll()).then_some(self.poll_not_before_ms);
        let report = match &self.sending {
            Some(sending) => (!sending.is_under_way).then_some(self.report_not_before_ms),
            None => (!self.jobs.is_empty()).then_some(self.renew_at_ms),
        };
        let grace = self.drain_until_ms.filter(|_| self.jobs.values().any(|job| !job.is_silent));
        let waiting = self.jobs.values().filter(|job| matches!(job.state, State::Waiting(_)));
        let give_back = waiting.map(|job| job.since_ms + AHEAD_MS).min();
        [poll, report, grace, give_back].into_iter().flatten().min()
    }

    /// Tasks that run now.
    pub fn running(&self) -> usize {
        self.jobs.values().filter(|job| job.is_running()).count()
    }

    // ---

    fn take(&mut self, now_ms: i64, answer: WorkAnswer, outputs: &mut Vec<Output>) {
        for held in answer.abandon {
            self.let_go(&held, outputs);
        }
        for held in answer.cancel {
            self.cancel(held, outputs);
        }
        for lease in answer.leases {
            let held = lease.held.clone();
            if self.done.contains(&held) || self.jobs.contains_key(&held) {
                continue;
            }
            // Whatever older number there is of it has been taken from us.
            let older: Vec<Held> = self
                .jobs
                .range(Held { fence: 0, ..held.clone() }..held.clone())
                .map(|(older, _)| older.clone())
                .collect();
            for older in older {
                self.let_go(&older, outputs);
            }
            if self.jobs.is_empty() {
                self.renew_at_ms = now_ms + RENEW_MS;
            }
            let lease_ms = if lease.lease_ms > 0 { lease.lease_ms } else { LEASE_MS };
            let job = Job {
                state: State::Waiting(lease),
                since_ms: now_ms,
                until_ms: now_ms + lease_ms,
                lease_ms,
                is_cancelled: false,
                is_silent: false,
            };
            self.jobs.insert(held.clone(), job);
            if self.drain_until_ms.is_some() {
                self.give_back(&held);
            }
        }
    }

    /// It is not ours any more.
    fn let_go(&mut self, held: &Held, outputs: &mut Vec<Output>) {
        let Some(job) = self.jobs.get_mut(held) else { return };
        match job.state {
            State::Running => {
                if !mem::replace(&mut job.is_silent, true) && !job.is_cancelled {
                    outputs.push(Output::Stop(held.clone()));
                }
            }
            State::Waiting(_) | State::Ended => self.forget(held),
        }
        self.items.retain(|item| *of(item).0 != held.task_id || of(item).1 != held.fence);
    }

    fn cancel(&mut self, held: Held, outputs: &mut Vec<Output>) {
        let Some(job) = self.jobs.get_mut(&held) else { return };
        match job.state {
            State::Running => {
                if !mem::replace(&mut job.is_cancelled, true) && !job.is_silent {
                    outputs.push(Output::Stop(held));
                }
            }
            State::Waiting(_) => {
                job.state = State::Ended;
                let ending =
                    Ending { outcome: TaskState::Cancelled, exit_code: None, error: None, output_bytes: 0 };
                self.items.push_back(WorkItem::Finished { held, ending });
            }
            State::Ended => {}
        }
    }

    fn give_back(&mut self, held: &Held) {
        if let Some(job) = self.jobs.get_mut(held)
            && matches!(job.state, State::Waiting(_))
        {
            job.state = State::Ended;
            self.items.push_back(WorkItem::Returned { held: held.clone() });
        }
    }

    fn say_of(&mut self, held: &Held, item: WorkItem) {
        if self.jobs.get(held).is_some_and(|job| job.is_running() && !job.is_silent) {
            self.items.push_back(item);
        }
    }

    fn end(&mut self, now_ms: i64, held: Held, mut ending: Ending) {
        let Some(job) = self.jobs.get_mut(&held) else { return };
        self.lasting.note(now_ms - job.since_ms);
        if job.is_silent {
            return self.forget(&held);
        }
        // A task that ended well while it was being called off has ended well.
        if job.is_cancelled && ending.outcome != TaskState::Succeeded {
            ending.outcome = TaskState::Cancelled;
        }
        job.state = State::Ended;
        self.items.push_back(WorkItem::Finished { held, ending });
    }

    /// The report under way is done with.
    fn settle(&mut self, receipt: &WorkReceipt, outputs: &mut Vec<Output>) {
        let Some(sending) = self.sending.take() else { return };
        self.report_failures = 0;
        self.report_not_before_ms = i64::MIN;
        for item in &sending.report.items {
            match item {
                WorkItem::Finished { held, .. } | WorkItem::Returned { held } => {
                    self.forget(held);
                }
                WorkItem::Started { held } | WorkItem::Renewed { held } => {
                    if let Some(job) = self.jobs.get_mut(held) {
                        job.until_ms = sending.sent_at_ms + job.lease_ms;
                    }
                }
                WorkItem::Output { .. } => {}
            }
        }
        for held in &receipt.refused {
            self.let_go(held, outputs);
        }
    }

    fn forget(&mut self, held: &Held) {
        if self.jobs.remove(held).is_none() || !self.done.insert(held.clone()) {
            return;
        }
        self.done_in_order.push_back(held.clone());
        if self.done_in_order.len() > DONE_MAX
            && let Some(oldest) = self.done_in_order.pop_front()
        {
            self.done.remove(&oldest);
        }
    }

    fn drain(&mut self, now_ms: i64, outputs: &mut Vec<Output>) {
        if self.drain_until_ms.is_some() {
            return;
        }
        self.drain_until_ms = Some(now_ms + self.config.grace_ms);
        let waiting: Vec<Held> = self.jobs.keys().cloned().collect();
        for held in waiting {
            self.give_back(&held);
        }
        self.go_on(now_ms, outputs);
    }

    /// Everything that follows from where things stand now.
    fn go_on(&mut self, now_ms: i64, outputs: &mut Vec<Output>) {
        if self.is_drained {
            return;
        }
        if self.drain_until_ms.is_some_and(|until| now_ms >= until) {
            let all: Vec<Held> = self.jobs.keys().cloned().collect();
            for held in all {
                self.let_go(&held, outputs);
            }
        }
        self.begin(now_ms, outputs);
        self.report(now_ms, outputs);
        self.poll(now_ms, outputs);
        let is_over = self.drain_until_ms.is_some_and(|until| now_ms >= until);
        if self.drain_until_ms.is_some() && self.jobs.is_empty() && (self.sending.is_none() || is_over) {
            self.is_drained = true;
            outputs.push(Output::Drained);
        }
    }

    fn begin(&mut self, now_ms: i64, outputs: &mut Vec<Output>) {
        for held in self.waiting_in_vain(now_ms) {
            if self.jobs.get(&held).is_some_and(|job| job.until_ms <= now_ms) {
                // It may be another node's by now. The next poll does not name it, so the server knows.
                self.jobs.remove(&held);
            }
        }
        let mut room = (self.config.slots as usize).saturating_sub(self.running());
        while room > 0
            && let Some(held) = self.next_to_begin()
        {
            if self.refuse(&held) {
                continue;
            }
            if let Some(job) = self.jobs.get_mut(&held)
                && let State::Waiting(lease) = mem::replace(&mut job.state, State::Running)
            {
                room -= 1;
                job.since_ms = now_ms;
                outputs.push(Output::Begin(lease));
            }
        }
        for held in self.waiting_in_vain(now_ms) {
            // Tasks have become longer: nothing is asked for ahead until they are short again.
            self.lasting = Lasting::default();
            self.give_back(&held);
        }
    }

    /// What waits for longer than it may, for a slot or altogether.
    fn waiting_in_vain(&self, now_ms: i64) -> Vec<Held> {
        let is_in_vain = |job: &Job| {
            matches!(job.state, State::Waiting(_))
                && (now_ms - job.since_ms >= AHEAD_MS || job.until_ms <= now_ms)
        };
        self.jobs.iter().filter(|(_, job)| is_in_vain(job)).map(|(held, _)| held.clone()).collect()
    }

    /// The first that waits, unless the same task still runs here under an older number.
    fn next_to_begin(&self) -> Option<Held> {
        let mut older: Option<&Held> = None;
        for (held, job) in &self.jobs {
            match job.state {
                State::Running => older = Some(held),
                State::Waiting(_) if older.is_none_or(|older| older.task_id != held.task_id) => {
                    return Some(held.clone());
                }
                State::Waiting(_) | State::Ended => {}
            }
        }
        None
    }

    /// Whether a task is more than this node lets others do; it has then failed.
    fn refuse(&mut self, held: &Held) -> bool {
        let ceiling = self.config.ceiling;
        let Some(Job { state, .. }) = self.jobs.get_mut(held) else { return false };
        let kind = match state {
            State::Waiting(lease) if lease.task_type.ceiling() > ceiling => lease.task_type,
            _ => return false,
        };
        *state = State::Ended;
        let error = format!(
            "this node's ceiling is `{}`, and a task of type `{}` needs `{}`",
            ceiling.as_str(),
            kind.as_str(),
            kind.ceiling().as_str()
        );
        let ending =
            Ending { outcome: TaskState::Failed, exit_code: None, error: Some(error), output_bytes: 0 };
        self.items.push_back(WorkItem::Finished { held: held.clone(), ending });
        true
    }

    fn report(&mut self, now_ms: i64, outputs: &mut Vec<Output>) {
        if self.sending.as_ref().is_some_and(|sending| sending.is_under_way)
            || now_ms < self.report_not_before_ms
        {
            return;
        }
        if self.sending.is_none() {
            let mut items = self.next_items();
            if now_ms >= self.renew_at_ms && !self.jobs.is_empty() {
                self.renew_at_ms = now_ms + RENEW_MS;
                let held = self.jobs.iter().filter(|(_, job)| {
                    !job.is_silent && matches!(job.state, State::Waiting(_) | State::Running)
                });
                items.extend(held.map(|(held, _)| WorkItem::Renewed { held: held.clone() }));
                items.truncate(ITEMS_MAX);
            }
            if items.is_empty() {
                return;
            }
            let report = WorkReport { worker: self.config.worker.clone(), items };
            self.sending = Some(Sending { report, is_under_way: false, sent_at_ms: now_ms });
        }
        if let Some(sending) = &mut self.sending {
            sending.is_under_way = true;
            sending.sent_at_ms = now_ms;
            outputs.push(Output::Report(sending.report.clone()));
        }
    }

    fn next_items(&mut self) -> Vec<WorkItem> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < ITEMS_MAX
            && let Some(item) = self.items.front()
        {
            bytes += length(item);
            if bytes > REPORT_BYTES && !items.is_empty() {
                break;
            }
            items.extend(self.items.pop_front());
        }
        items
    }

    /// How many tasks are asked for now.
    fn free(&self) -> u32 {
        if self.drain_until_ms.is_some() {
            return 0;
        }
        let busy = self.jobs.values().filter(|job| !matches!(job.state, State::Ended)).count();
        let busy = u32::try_from(busy).unwrap_or(u32::MAX);
        let slots = self.config.slots;
        let ahead = self.lasting.ahead(slots);
        let free = slots.saturating_add(ahead).saturating_sub(busy);
        // A question for few costs as much as one for many, and what is here already keeps the slots busy.
        if free < ahead.div_ceil(2) { 0 } else { free }
    }

    fn wants_poll(&self) -> bool {
        match self.polls.last() {
            None => true,
            Some(open) => open.free == 0 && self.free() > 0 && self.polls.len() < POLLS_MAX,
        }
    }

    fn poll(&mut self, now_ms: i64, outputs: &mut Vec<Output>) {
        if !self.wants_poll() || now_ms < self.poll_not_before_ms {
            return;
        }
        self.polls_asked += 1;
        let free = self.free();
        self.polls.push(OpenPoll { poll: self.polls_asked, free });
        let held = self.jobs.iter().filter(|(_, job)| !job.is_silent).map(|(held, _)| held.clone()).collect();
        let ask = WorkPoll {
            worker: self.config.worker.clone(),
            slots: self.config.slots,
            free,
            held,
            wait_ms: u32::try_from(POLL_MS).expect("twenty seconds"),
        };
        outputs.push(Output::Poll { poll: self.polls_asked, ask });
    }

    /// Doubles, and differs between workers, so that they do not all come back at once.
    fn wait_ms(&self, failures: u32) -> i64 {
        let whole = (WAIT_MIN_MS << failures.saturating_sub(1).min(10)).min(WAIT_MAX_MS);
        let chance = mix(fnv1a(&self.config.worker) ^ u64::from(failures)) % 1_000;
        whole / 2 + whole / 2 * i64::try_from(chance).expect("below a thousand") / 1_000
    }
}

/// Which task an item is about.
fn of(item: &WorkItem) -> (&caelum_model::id::TaskId, u64) {
    match item {
        WorkItem::Started { held }
        | WorkItem::Renewed { held }
        | WorkItem::Finished { held, .. }
        | WorkItem::Returned { held } => (&held.task_id, held.fence),
        WorkItem::Output { task_id, chunk } => (task_id, chunk.fence),
    }
}

/// Bytes that an item takes as JSON, about, and rather too many.
fn length(item: &WorkItem) -> usize {
    const AROUND: usize = 256;
    let escaped = |text: &str| {
        let extra = |byte: u8| match byte {
            b'"' | b'\\' => 1,
            0..0x20 => 5,
            _ => 0,
        };
        text.len() + text.bytes().map(extra).sum::<usize>()
    };
    AROUND
        + match item {
            WorkItem::Output { chunk, .. } => escaped(&chunk.text),
            WorkItem::Finished { ending, .. } => ending.error.as_deref().map_or(0, escaped),
            WorkItem::Started { .. } | WorkItem::Renewed { .. } | WorkItem::Returned { .. } => 0,
        }
}

#[cfg(test)]
mod tests;
