//! One round of giving tasks out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use caelum_engine::{
    placement::{Board, Candidate},
    task::{TaskEvent, queue::Class},
};
use caelum_model::{
    UnixMs,
    id::NodeId,
    task::{LEASE_MS, Lease},
    work::{Held, LEASES_MAX, TaskLease, WorkAnswer},
};
use caelum_store::{StoreError, TaskStep};

use super::{Desk, lease_of};
use crate::candidates::candidates;

/// Classes that are looked at in one round.
const CLASSES_MAX: usize = 1_024;
/// Tasks that are looked at of one class in one round.
const TASKS_MAX: usize = 1_024;
/// How long what is known of the nodes is good, ms …
const CANDIDATES_MS: i64 = 1_000;
/// … where one is missing in it.
const CANDIDATES_SOON_MS: i64 = 200;

/// A worker that waits with room.
struct Waiting {
    run: String,
    free: u32,
    tasks: u32,
}

impl Desk {
    /// Gives out what can be given out now.
    pub(super) async fn round(&self) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let waiting = self.waiting();
        if waiting.is_empty() {
            // Whoever asks next wakes the desk.
            self.workers().next_ready_at = None;
            return Ok(());
        }
        let open = self.open_candidates(&waiting, now_ms).await?;
        let store = &self.parts.store;
        let ready = store.ready_classes(now_ms, CLASSES_MAX).await?;
        self.workers().next_ready_at = ready.next_ready_at;
        let classes: Vec<(String, Class)> = ready
            .classes
            .into_iter()
            .filter_map(|text| Class::parse(&text).map(|class| (text, class)))
            .filter(|(_, class)| open.iter().any(|node| node.refusal(&class.wish()).is_none()))
            .collect();
        let mut room = 0usize;
        for node in &open {
            room = room.saturating_add(node.room.unwrap_or(0) as usize);
        }
        if !classes.is_empty() && room > 0 {
            let texts = classes.into_iter().map(|(text, _)| text).collect();
            let ready = store.ready_tasks(texts, now_ms, room.min(TASKS_MAX)).await?;
            let mut board = Board::new(open);
            let (mut steps, mut full) = (Vec::new(), BTreeSet::new());
            for task in ready {
                if steps.len() >= room {
                    break;
                }
                let class = Class::of(&task.order);
                if full.contains(&class) {
                    continue;
                }
                let Ok(place) = board.place(&class.wish()) else {
                    full.insert(class);
                    continue;
                };
                let Some(worker) = waiting.get(&place.node_id) else { continue };
                let lease =
                    Lease { node_id: place.node_id, worker: worker.run.clone(), until_ms: now_ms + LEASE_MS };
                self.waits.note(now_ms - task.ready_at.max(task.created_at));
                let event = TaskEvent::Lease { lease, reasons: place.reasons };
                steps.push(TaskStep { task_id: task.task_id, event });
            }
            self.give(steps).await?;
        }
        Ok(())
    }

    /// Leases, and answers the polls of those that got something.
    async fn give(&self, steps: Vec<TaskStep>) -> Result<(), StoreError> {
        let mut given: BTreeMap<NodeId, (String, Vec<TaskLease>)> = BTreeMap::new();
        for task in self.step(steps).await?.into_iter().flatten() {
            if let Some(lease) = &task.lease {
                let of_node = given.entry(lease.node_id.clone()).or_default();
                of_node.0.clone_from(&lease.worker);
                of_node.1.push(lease_of(&task));
            }
        }
        let mut workers = self.workers();
        for (node_id, (run, leases)) in given {
            let held: Vec<Held> = leases.iter().map(|lease| lease.held.clone()).collect();
            let answer = WorkAnswer { leases, ..WorkAnswer::default() };
            let worker = workers.by_node.get_mut(&node_id).filter(|worker| worker.run == run);
            let unsent = match worker.and_then(|worker| Some((worker.open.take()?, worker))) {
                Some((open, worker)) => match open.answer.send(answer) {
                    Ok(()) => {
                        worker.believed.extend(held);
                        None
                    }
                    Err(answer) => Some(answer),
                },
                None => Some(answer),
            };
            if let Some(answer) = unsent {
                let leases = answer.leases.into_iter().map(|lease| (node_id.clone(), lease.held));
                workers.undelivered.extend(leases);
            }
        }
        Ok(())
    }

    fn waiting(&self) -> HashMap<NodeId, Waiting> {
        self.workers()
            .by_node
            .iter()
            .filter_map(|(node_id, worker)| {
                let free = worker.open.as_ref().map(|open| open.free).filter(|free| *free > 0)?;
                let tasks = u32::try_from(worker.believed.len()).unwrap_or(u32::MAX);
                let free = free.min(LEASES_MAX as u32);
                Some((node_id.clone(), Waiting { run: worker.run.clone(), free, tasks }))
            })
            .collect()
    }

    /// What is known of those that wait.
    async fn open_candidates(
        &self,
        waiting: &HashMap<NodeId, Waiting>,
        now_ms: UnixMs,
    ) -> Result<Vec<Candidate>, StoreError> {
        let mut known = self.candidates.lock().await;
        let has_all = |all: &[Candidate]| {
            waiting.keys().all(|node_id| all.iter().any(|candidate| candidate.node_id == *node_id))
        };
        let is_good = known.as_ref().is_some_and(|(at_ms, all)| {
            let age_ms = now_ms - at_ms;
            age_ms < if has_all(all) { CANDIDATES_MS } else { CANDIDATES_SOON_MS }
        });
        if !is_good {
            *known = Some((now_ms, self.all_candidates(now_ms).await?));
        }
        let all = known.as_ref().map(|(_, all)| all.as_slice()).unwrap_or_default();
        Ok(all
            .iter()
            .filter_map(|candidate| {
                let worker = waiting.get(&candidate.node_id)?;
                Some(Candidate { tasks: worker.tasks, room: Some(worker.free), ..candidate.clone() })
            })
            .collect())
    }

    /// Every node, with the tasks that it has; nobody's room is known here.
    pub async fn board(&self) -> Result<Board, StoreError> {
        let counts = self.parts.store.task_counts().await?;
        let mut all = self.all_candidates(self.now_ms()).await?;
        for candidate in &mut all {
            let of_node = counts.by_node.iter().find(|count| count.node_id == candidate.node_id);
            let tasks = of_node.map_or(0, |count| count.queued + count.leased + count.running);
            candidate.tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        }
        Ok(Board::new(all))
    }

    async fn all_candidates(&self, now_ms: UnixMs) -> Result<Vec<Candidate>, StoreError> {
        let store = &self.parts.store;
        let thresholds = store.thresholds().await?.unwrap_or(self.parts.thresholds);
        let roster = std::sync::Arc::clone(&self.parts.roster.borrow());
        candidates(store, &roster, &thresholds, now_ms).await
    }

    /// How many workers ask here, and how many tasks they have as far as this server knows.
    pub fn workers_here(&self) -> (usize, usize) {
        let workers = self.workers();
        (workers.by_node.len(), workers.by_node.values().map(|worker| worker.believed.len()).sum())
    }
}
