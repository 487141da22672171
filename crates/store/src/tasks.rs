//! What both backends share about tasks: the columns that a document is found by, and steps over tasks in hand.
//!
//! The backends read and write; what follows from what is `caelum_engine::task`.

use std::collections::{BTreeMap, BTreeSet};

use caelum_engine::{
    hash::mix,
    task::{
        Refusal, TaskEvent, next,
        queue::{Class, age_key},
        told_to_dependents,
    },
};
use caelum_model::{
    UnixMs,
    access::AuditEntry,
    id::TaskId,
    task::{OUTPUT_MAX, Task},
};

/// Most bytes that are kept of an attempt: a byte that is no UTF-8 becomes three.
pub(crate) const KEPT_MAX: i64 = 3 * OUTPUT_MAX as i64;
/// Most chunks that are kept of an attempt.
pub(crate) const CHUNKS_MAX: u64 = 65_536;

/// Columns of a task beside its document.
pub(crate) struct Columns<'a> {
    pub(crate) class: String,
    pub(crate) age_key: i64,
    pub(crate) node_id: Option<&'a str>,
    pub(crate) fence: i64,
    pub(crate) worker: Option<&'a str>,
    pub(crate) lease_until: Option<i64>,
    pub(crate) is_cancelling: bool,
}

impl<'a> Columns<'a> {
    pub(crate) fn of(task: &'a Task) -> Self {
        Self {
            class: Class::of(&task.order).text(),
            age_key: age_key(task),
            node_id: task.attempts.last().map(|attempt| attempt.node_id.as_str()),
            fence: task.fence.cast_signed(),
            worker: task.lease.as_ref().map(|lease| lease.worker.as_str()),
            lease_until: task.lease.as_ref().map(|lease| lease.until_ms),
            is_cancelling: task.lease.is_some() && task.cancelled_by.is_some(),
        }
    }
}

/// Tasks in hand, inside one transaction.
pub(crate) struct Hand {
    tasks: BTreeMap<TaskId, Task>,
    changed: BTreeSet<TaskId>,
    ended: Vec<(TaskId, TaskEvent)>,
    now_ms: UnixMs,
    chance: u64,
}

impl Hand {
    pub(crate) fn new(tasks: Vec<Task>, now_ms: UnixMs, chance: u64) -> Self {
        let tasks = tasks.into_iter().map(|task| (task.task_id.clone(), task)).collect();
        Self { tasks, changed: BTreeSet::new(), ended: Vec::new(), now_ms, chance }
    }

    /// Takes up tasks that are not in hand yet.
    pub(crate) fn take_up(&mut self, tasks: Vec<Task>) {
        for task in tasks {
            self.tasks.entry(task.task_id.clone()).or_insert(task);
        }
    }

    /// Takes up a task that is to be written in any case.
    pub(crate) fn take_up_new(&mut self, task: Task) {
        self.changed.insert(task.task_id.clone());
        self.tasks.insert(task.task_id.clone(), task);
    }

    pub(crate) fn has(&self, task_id: &TaskId) -> bool {
        self.tasks.contains_key(task_id)
    }

    pub(crate) fn get(&self, task_id: &TaskId) -> Option<&Task> {
        self.tasks.get(task_id)
    }

    /// Lets something happen to a task.
    pub(crate) fn step(&mut self, task_id: &TaskId, event: TaskEvent) -> Result<Task, Refusal> {
        let before = self.tasks.get(task_id).ok_or(Refusal::Unknown)?;
        self.chance = mix(self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let then = next(before.clone(), event, self.now_ms, self.chance)?;
        if then != *before {
            self.changed.insert(task_id.clone());
            if then.status.is_final()
                && !before.status.is_final()
                && let Some(news) = told_to_dependents(&then)
            {
                self.ended.push((task_id.clone(), news));
            }
            self.tasks.insert(task_id.clone(), then.clone());
        }
        Ok(then)
    }

    /// Tasks that ended since this was asked last, with what those that wait for them are to be told.
    pub(crate) fn take_ended(&mut self) -> Vec<(TaskId, TaskEvent)> {
        std::mem::take(&mut self.ended)
    }

    /// Tells tasks what they waited for. Those that wait no longer do not mind.
    pub(crate) fn tell(&mut self, ended: &[(TaskId, TaskEvent)], waiting: &[(TaskId, TaskId)]) {
        for (blocker, news) in ended {
            for (_, task_id) in waiting.iter().filter(|(of, _)| of == blocker) {
                // A refusal says that it is called off or done already.
                drop(self.step(task_id, news.clone()));
            }
        }
    }

    /// What is to be written.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Task> {
        self.changed.iter().filter_map(|task_id| self.tasks.get(task_id))
    }
}

/// Lines of the audit log with the tasks that they tell of, in order. Where there are fewer, of some nothing is
/// told.
pub(crate) fn with_ids(tasks: &[Task], lines: Vec<AuditEntry>) -> Vec<(TaskId, AuditEntry)> {
    tasks.iter().map(|task| task.task_id.clone()).zip(lines).collect()
}

/// New tasks with the ids that others of them go by, where an idempotency key is known already.
pub(crate) struct Additions {
    /// What is to be answered, in order.
    pub(crate) answers: Vec<TaskId>,
    /// What is to be added.
    pub(crate) new: Vec<Task>,
}

impl Additions {
    /// Sorts new tasks from known ones. `known` has tasks that have one of the keys.
    pub(crate) fn sort(tasks: Vec<Task>, known: &[Task]) -> Self {
        let mut by_key: BTreeMap<String, TaskId> = known
            .iter()
            .filter_map(|task| Some((task.order.idempotency_key.clone()?, task.task_id.clone())))
            .collect();
        let mut renamed: BTreeMap<TaskId, TaskId> = BTreeMap::new();
        let (mut answers, mut new) = (Vec::with_capacity(tasks.len()), Vec::new());
        for task in tasks {
            let first = task.order.idempotency_key.as_ref().and_then(|key| by_key.get(key).cloned());
            match first {
                Some(first) => {
                    renamed.insert(task.task_id.clone(), first.clone());
                    answers.push(first);
                }
                None => {
                    if let Some(key) = &task.order.idempotency_key {
                        by_key.insert(key.clone(), task.task_id.clone());
                    }
                    answers.push(task.task_id.clone());
                    new.push(task);
                }
            }
        }
        for task in &mut new {
            let mut waits: Vec<TaskId> = Vec::with_capacity(task.order.depends_on.len());
            for blocker in &task.order.depends_on {
                let blocker = renamed.get(blocker).unwrap_or(blocker);
                if !waits.contains(blocker) {
                    waits.push(blocker.clone());
                }
            }
            task.blockers = u32::try_from(waits.len()).unwrap_or(u32::MAX);
            task.order.depends_on = waits;
        }
        Self { answers, new }
    }

    /// Of lines that belong to tasks, those whose task is new.
    pub(crate) fn lines_of_new(&self, lines: Vec<(TaskId, AuditEntry)>) -> Vec<AuditEntry> {
        let new: BTreeSet<&TaskId> = self.new.iter().map(|task| &task.task_id).collect();
        lines.into_iter().filter(|(task_id, _)| new.contains(task_id)).map(|(_, line)| line).collect()
    }

    /// Everything that the new tasks wait for and that is not new itself.
    pub(crate) fn blockers(&self) -> BTreeSet<TaskId> {
        let new: BTreeSet<&TaskId> = self.new.iter().map(|task| &task.task_id).collect();
        let all = self.new.iter().flat_map(|task| &task.order.depends_on);
        all.filter(|blocker| !new.contains(blocker)).cloned().collect()
    }

    /// Who waits for whom: blocker first.
    pub(crate) fn waiting(&self) -> Vec<(TaskId, TaskId)> {
        self.new
            .iter()
            .flat_map(|task| {
                task.order.depends_on.iter().map(|blocker| (blocker.clone(), task.task_id.clone()))
            })
            .collect()
    }

    /// Takes the new tasks up and tells them how what they wait for ended, where it did. What is nowhere is as
    /// good as failed.
    pub(crate) fn put_into(&self, hand: &mut Hand) {
        for task in &self.new {
            hand.take_up_new(task.clone());
        }
        let ended: Vec<(TaskId, TaskEvent)> = self
            .blockers()
            .into_iter()
            .filter_map(|blocker| match hand.get(&blocker) {
                Some(task) => told_to_dependents(task).map(|news| (blocker, news)),
                None => Some((blocker.clone(), TaskEvent::BlockerFailed { task: blocker })),
            })
            .collect();
        let waiting = self.waiting();
        hand.tell(&ended, &waiting);
        // Those that are called off by this call off who waits for them.
        loop {
            let ended = hand.take_ended();
            if ended.is_empty() {
                return;
            }
            hand.tell(&ended, &waiting);
        }
    }
}
