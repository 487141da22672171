//! Makes tasks at times. Every server may: of two that see the same time one makes the task.

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_model::{
    UnixMs,
    id::TaskId,
    task::{Missed, Schedule, Task, TaskOrder, TaskState},
};
use caelum_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::{Desk, next_after};
use crate::bus::{Bus, Change};

/// Time between looks.
const LOOK: Duration = Duration::from_millis(500);
/// Schedules that are looked at at once.
const DUE_MAX: usize = 256;
/// A time that passed longer ago than this was missed, ms.
const MISSED_MS: i64 = 60_000;

/// What a scheduler stands on.
pub struct Scheduler {
    /// Where schedules are.
    pub store: Arc<Store>,
    /// News.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who gives tasks out.
    pub desk: Arc<Desk>,
}

impl Scheduler {
    /// Makes tasks until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(code = "scheduler.store_failed", %error, "schedules are looked at again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    pub(super) async fn look(&self) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        for schedule in self.store.due_schedules(now_ms, DUE_MAX).await? {
            let seen = schedule.next_at;
            let (schedule, task) = fire(schedule, now_ms);
            let is_made = task.is_some();
            if self.store.fire_schedule(schedule, seen, task).await? && is_made {
                self.bus.publish(Change::TasksChanged);
                self.desk.wake();
            }
        }
        Ok(())
    }
}

/// The schedule after one of its times, and the task that comes from it.
fn fire(mut schedule: Schedule, now_ms: UnixMs) -> (Schedule, Option<Task>) {
    let due_ms = schedule.next_at.unwrap_or(now_ms);
    schedule.next_at = match next_after(&schedule.cron, &schedule.time_zone, now_ms) {
        Ok(next) if schedule.enabled => Some(next),
        Ok(_) => None,
        Err(error) => {
            tracing::error!(code = "scheduler.no_time", schedule = schedule.name, %error, "it stands still");
            None
        }
    };
    let is_missed = now_ms - due_ms > MISSED_MS;
    if !schedule.enabled || (is_missed && schedule.missed == Missed::Skip) {
        return (schedule, None);
    }
    let task_id = new_task_id();
    schedule.last_at = Some(now_ms);
    schedule.last_task_id = Some(task_id.clone());
    let mut task = new_task(task_id, schedule.order.clone(), format!("schedule:{}", schedule.name), now_ms);
    task.schedule_id = Some(schedule.schedule_id.clone());
    (schedule, Some(task))
}

/// An id that no other task has; later ones are larger.
pub fn new_task_id() -> TaskId {
    TaskId::parse(&uuid::Uuid::now_v7().to_string()).expect("a UUID is short text")
}

/// A task that was asked for just now.
pub fn new_task(task_id: TaskId, order: TaskOrder, created_by: String, now_ms: UnixMs) -> Task {
    let ready_at = order.not_before_ms.max(now_ms);
    Task {
        task_id,
        order,
        created_by,
        created_at: now_ms,
        schedule_id: None,
        status: TaskState::Queued,
        blockers: 0,
        fence: 0,
        faults: 0,
        ready_at,
        lease: None,
        cancelled_by: None,
        attempts: Vec::new(),
        started_at: None,
        completed_at: None,
        error: None,
    }
}
