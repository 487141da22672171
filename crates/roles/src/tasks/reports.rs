//! What workers report: many at once become one write.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use caelum_engine::task::{TaskEvent, Under};
use caelum_model::{
    id::NodeId,
    task::LEASE_MS,
    work::{Held, ITEMS_MAX, WorkItem, WorkReceipt, WorkReport},
};
use caelum_store::{StoreError, TaskStep, TaskWrote};
use tokio::sync::oneshot;

use super::Desk;
use crate::bus::Change;

/// Items that are written at once.
const BATCH_MAX: usize = 4_096;

/// What waits to be written.
#[derive(Default)]
pub(super) struct Reports {
    waiting: Mutex<Vec<Waiting>>,
    writing: tokio::sync::Mutex<()>,
}

struct Waiting {
    node_id: NodeId,
    items: Vec<WorkItem>,
    answer: oneshot::Sender<Option<WorkReceipt>>,
}

/// How long tasks waited, for metrics.
#[derive(Debug, Default)]
pub struct Waits {
    /// How many waited at most as long as [`Waits::BOUNDS_MS`] says, each counted once.
    pub counts: [AtomicU64; 8],
    /// All waits together, ms.
    pub total_ms: AtomicU64,
}

impl Waits {
    /// Upper bounds, ms; what waited longer is counted last.
    pub const BOUNDS_MS: [i64; 7] = [5, 25, 100, 1_000, 10_000, 60_000, 600_000];

    pub(super) fn note(&self, waited_ms: i64) {
        let waited_ms = waited_ms.max(0);
        let at = Self::BOUNDS_MS.iter().position(|bound| waited_ms <= *bound);
        self.counts[at.unwrap_or(Self::BOUNDS_MS.len())].fetch_add(1, Ordering::Relaxed);
        self.total_ms.fetch_add(waited_ms.unsigned_abs(), Ordering::Relaxed);
    }
}

impl Desk {
    /// Takes what a worker says about its tasks; answers when it is durable.
    pub async fn report(&self, node_id: &NodeId, report: WorkReport) -> Result<WorkReceipt, StoreError> {
        if let Some(worker) =
            self.workers().by_node.get_mut(node_id).filter(|worker| worker.run == report.worker)
        {
            worker.heard_ms = self.parts.clock.now_ms();
        }
        let mut items = report.items;
        items.truncate(ITEMS_MAX);
        if items.is_empty() {
            return Ok(WorkReceipt::default());
        }
        let (answer, mut answered) = oneshot::channel();
        self.waiting_reports().push(Waiting { node_id: node_id.clone(), items: items.clone(), answer });
        // Whoever comes next writes for all that wait; the others find it done.
        let receipt = loop {
            let _writing = self.reports.writing.lock().await;
            match answered.try_recv() {
                Ok(receipt) => break receipt,
                Err(oneshot::error::TryRecvError::Closed) => break None,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let batch = self.take_batch();
            self.write_batch(batch).await;
        };
        match receipt {
            Some(receipt) => Ok(receipt),
            // What was written for all failed: each tries its own, and hears why.
            None => self.write(node_id, items).await,
        }
    }

    fn waiting_reports(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.reports.waiting.lock().expect("no code panics while it holds this lock")
    }

    fn take_batch(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting_reports();
        let mut items = 0;
        let end = waiting
            .iter()
            .position(|report| {
                items += report.items.len();
                items > BATCH_MAX
            })
            .unwrap_or(waiting.len())
            .max(1)
            .min(waiting.len());
        waiting.drain(..end).collect()
    }

    async fn write_batch(&self, batch: Vec<Waiting>) {
        let mut all = Vec::new();
        for report in &batch {
            all.extend(report.items.iter().map(|item| (&report.node_id, item)));
        }
        let refused = self.write_items(&all).await;
        for report in batch {
            let receipt = refused.as_ref().ok().map(|refused| WorkReceipt {
                refused: refused
                    .iter()
                    .filter(|(node_id, _)| *node_id == report.node_id)
                    .map(|(_, held)| held.clone())
                    .collect(),
            });
            // Whoever said it may have gone; it is kept all the same.
            drop(report.answer.send(receipt));
        }
    }

    async fn write(&self, node_id: &NodeId, items: Vec<WorkItem>) -> Result<WorkReceipt, StoreError> {
        let all: Vec<(&NodeId, &WorkItem)> = items.iter().map(|item| (node_id, item)).collect();
        let refused = self.write_items(&all).await?;
        Ok(WorkReceipt { refused: refused.into_iter().map(|(_, held)| held).collect() })
    }

    /// Writes items: output first, then what happened, so that nobody sees an end before the last words.
    async fn write_items(
        &self,
        items: &[(&NodeId, &WorkItem)],
    ) -> Result<BTreeSet<(NodeId, Held)>, StoreError> {
        let until_ms = self.parts.clock.now_ms() + LEASE_MS;
        let (mut wrote, mut steps, mut who) = (Vec::new(), Vec::new(), Vec::new());
        for (node_id, item) in items {
            let under = |held: &Held| Under { node_id: (*node_id).clone(), fence: held.fence };
            let (held, event) = match item {
                WorkItem::Started { held } => (held, TaskEvent::Started(under(held))),
                WorkItem::Renewed { held } => (held, TaskEvent::Renewed { under: under(held), until_ms }),
                WorkItem::Finished { held, ending } => {
                    (held, TaskEvent::Finished { under: under(held), ending: ending.clone() })
                }
                WorkItem::Returned { held } => (held, TaskEvent::Returned(under(held))),
                WorkItem::Output { task_id, chunk } => {
                    wrote.push(TaskWrote {
                        task_id: task_id.clone(),
                        node_id: (*node_id).clone(),
                        chunk: chunk.clone(),
                    });
                    continue;
                }
            };
            steps.push(TaskStep { task_id: held.task_id.clone(), event });
            who.push(((*node_id).clone(), held.clone()));
        }
        let mut refused = BTreeSet::new();
        if !wrote.is_empty() {
            let names: Vec<(NodeId, Held)> = wrote
                .iter()
                .map(|wrote| {
                    let held = Held { task_id: wrote.task_id.clone(), fence: wrote.chunk.fence };
                    (wrote.node_id.clone(), held)
                })
                .collect();
            let kept = self.parts.store.append_output(wrote).await?;
            refused.extend(names.into_iter().zip(kept).filter(|(_, kept)| !kept).map(|(name, _)| name));
            self.parts.bus.publish(Change::TaskOutput);
        }
        let outcomes = self.step(steps).await?;
        let mut cancel = Vec::new();
        {
            let mut workers = self.workers();
            for ((node_id, held), outcome) in who.into_iter().zip(outcomes) {
                let is_over = match outcome {
                    Ok(task) if task.status.is_held() && task.fence == held.fence => {
                        if task.cancelled_by.is_some() {
                            cancel.push(task);
                        }
                        false
                    }
                    Ok(_) => true,
                    Err(_) => {
                        refused.insert((node_id.clone(), held.clone()));
                        true
                    }
                };
                if is_over && let Some(worker) = workers.by_node.get_mut(&node_id) {
                    worker.believed.remove(&held);
                    worker.cancel.remove(&held);
                }
            }
        }
        for task in cancel {
            self.cancelled(&task);
        }
        Ok(refused)
    }
}
