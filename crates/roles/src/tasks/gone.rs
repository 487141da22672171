//! Taking tasks back: from workers that are gone, under leases that are over, and those that never left.

use std::sync::{Arc, atomic::Ordering};

use caelum_engine::task::TaskEvent;
use caelum_model::{UnixMs, cluster::Liveness, id::NodeId};
use caelum_store::{StoreError, TaskStep};

use super::{Desk, RETURN_MS, SILENT_MS, Workers, attached_key, returned};

/// Leases that are ended in one write.
const EXPIRED_MAX: usize = 512;
/// Tasks that are called off and told about in one look.
const CANCELLING_MAX: usize = 512;

/// A worker that is gone.
struct Gone {
    node_id: NodeId,
    /// Its run; none where only the node is known to be gone.
    run: Option<String>,
}

impl Desk {
    /// Takes back what is with nobody.
    pub(super) async fn tick(&self) -> Result<(), StoreError> {
        let undelivered = std::mem::take(&mut self.workers().undelivered);
        if !undelivered.is_empty() {
            let steps: Vec<TaskStep> =
                undelivered.iter().cloned().map(|(node_id, held)| returned(node_id, held)).collect();
            if let Err(error) = self.step(steps).await {
                self.workers().undelivered.extend(undelivered);
                return Err(error);
            }
        }
        let now_ms = self.now_ms();
        for gone in self.who_is_gone(now_ms) {
            if let Err(error) = self.take_back(&gone, now_ms).await {
                self.workers().dead.remove(&gone.node_id);
                return Err(error);
            }
        }
        Ok(())
    }

    fn who_is_gone(&self, now_ms: UnixMs) -> Vec<Gone> {
        let roster = Arc::clone(&self.parts.roster.borrow());
        let mut workers = self.workers();
        let mut gone: Vec<Gone> = workers
            .by_node
            .iter()
            .filter(|(_, worker)| {
                let is_cut = worker.closed_ms.is_some_and(|at| now_ms - at >= RETURN_MS);
                let is_silent = worker.open.is_none() && now_ms - worker.heard_ms >= SILENT_MS;
                is_cut || is_silent
            })
            .map(|(node_id, worker)| Gone { node_id: node_id.clone(), run: Some(worker.run.clone()) })
            .collect();
        for member in &roster.members {
            if !matches!(member.liveness, Liveness::Dead | Liveness::Left) {
                workers.dead.remove(&member.node_id);
                continue;
            }
            let since_ms = now_ms - member.since_ms;
            // The age is by another clock than the time of day, and moves a little.
            let is_known = workers.dead.get(&member.node_id).is_some_and(|known| since_ms - known < 1_000);
            if is_known {
                continue;
            }
            note_dead(&mut workers, &member.node_id, since_ms);
            let heard_ms = workers.by_node.get(&member.node_id).map(|worker| worker.heard_ms);
            if heard_ms.is_none_or(|heard_ms| heard_ms < since_ms) {
                gone.push(Gone { node_id: member.node_id.clone(), run: None });
            }
        }
        gone
    }

    async fn take_back(&self, gone: &Gone, now_ms: UnixMs) -> Result<(), StoreError> {
        let store = &self.parts.store;
        let with = store.key(attached_key(&gone.node_id), now_ms).await?.map(|kept| kept.value);
        let is_elsewhere =
            with.is_some_and(|server| server != self.parts.server && self.parts.store.is_shared());
        if !is_elsewhere {
            let tasks = store.worker_tasks(&gone.node_id).await?;
            let is_of_run = |run: &str| gone.run.as_deref().is_none_or(|of| of == run);
            let steps: Vec<TaskStep> = tasks
                .into_iter()
                .filter(|task| task.lease.as_ref().is_some_and(|lease| is_of_run(&lease.worker)))
                .map(|task| TaskStep {
                    event: TaskEvent::WorkerGone { fence: task.fence },
                    task_id: task.task_id,
                })
                .collect();
            if !steps.is_empty() {
                tracing::info!(
                    code = "tasks.worker_gone",
                    node = %gone.node_id,
                    tasks = steps.len(),
                    "a worker is gone; its tasks go back"
                );
            }
            self.step(steps).await?;
        }
        let mut workers = self.workers();
        let is_same = |run: &str| gone.run.as_deref().is_none_or(|of| of == run);
        // It may have come back meanwhile; then its next poll is looked at.
        match workers.by_node.get_mut(&gone.node_id) {
            Some(worker) if worker.open.is_some() || worker.closed_ms.is_none() && gone.run.is_none() => {
                worker.needs_look = true;
            }
            Some(worker) if is_same(&worker.run) => {
                workers.by_node.remove(&gone.node_id);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends leases that are over, and tells workers again what they are to stop.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        if now_ms >= self.expire_from.load(Ordering::Relaxed) {
            let over = self.parts.store.expired_leases(now_ms, EXPIRED_MAX).await?;
            let steps: Vec<TaskStep> =
                over.into_iter().map(|task_id| TaskStep { task_id, event: TaskEvent::Expired }).collect();
            if !steps.is_empty() {
                tracing::info!(code = "tasks.leases_over", tasks = steps.len(), "leases were not renewed");
            }
            self.step(steps).await?;
        } else {
            // Whether the store is there at all.
            self.parts.store.expired_leases(now_ms, 1).await?;
        }
        for task in self.parts.store.cancelling_tasks(CANCELLING_MAX).await? {
            self.cancelled(&task);
        }
        Ok(())
    }
}

/// Remembers a node that is dead, and not more of them than there are members.
fn note_dead(workers: &mut Workers, node_id: &NodeId, since_ms: UnixMs) {
    if workers.dead.len() > 16_384 {
        workers.dead.clear();
    }
    workers.dead.insert(node_id.clone(), since_ms);
}
