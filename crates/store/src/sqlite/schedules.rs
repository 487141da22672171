//! Tasks at times.

use caelum_model::{
    UnixMs,
    task::{Schedule, Task},
};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Sqlite, from_json, tasks, to_json};
use crate::StoreError;

impl Sqlite {
    /// Every schedule, by name.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, StoreError> {
        self.read("list schedules", |connection| {
            connection
                .prepare_cached("select document from schedules order by name, schedule_id")?
                .query_map([], schedule_of)?
                .collect()
        })
        .await
    }

    /// The schedule with this id.
    pub async fn schedule(&self, schedule_id: &str) -> Result<Option<Schedule>, StoreError> {
        let schedule_id = schedule_id.to_owned();
        self.read("read a schedule", move |connection| {
            connection
                .prepare_cached("select document from schedules where schedule_id = ?1")?
                .query_row(params![schedule_id], schedule_of)
                .optional()
        })
        .await
    }

    /// Stores a schedule, replacing one of the same id.
    pub async fn put_schedule(&self, schedule: Schedule) -> Result<(), StoreError> {
        self.write("store a schedule", move |transaction| put(transaction, &schedule)).await
    }

    /// Removes a schedule; its tasks stay. Answers false where there is none of that id.
    pub async fn remove_schedule(&self, schedule_id: &str) -> Result<bool, StoreError> {
        let schedule_id = schedule_id.to_owned();
        self.write("remove a schedule", move |transaction| {
            let gone =
                transaction.execute("delete from schedules where schedule_id = ?1", params![schedule_id])?;
            Ok(gone > 0)
        })
        .await
    }

    /// Schedules whose next time has come.
    pub async fn due_schedules(&self, now_ms: UnixMs, limit: usize) -> Result<Vec<Schedule>, StoreError> {
        self.read("list schedules that are due", move |connection| {
            connection
                .prepare_cached(
                    "select document from schedules where next_at is not null and next_at <= ?1
                     order by next_at limit ?2",
                )?
                .query_map(params![now_ms, limit as i64], schedule_of)?
                .collect()
        })
        .await
    }

    /// Replaces a schedule and adds the task that comes from it, if its next time is still the one seen.
    pub async fn fire_schedule(
        &self,
        schedule: Schedule,
        seen_next_at: Option<UnixMs>,
        task: Option<Task>,
    ) -> Result<bool, StoreError> {
        self.write("make a scheduled task", move |transaction| {
            let is_same: Option<bool> = transaction
                .prepare_cached("select next_at is ?2 from schedules where schedule_id = ?1")?
                .query_row(params![schedule.schedule_id, seen_next_at], |row| row.get(0))
                .optional()?;
            if is_same != Some(true) {
                return Ok(false);
            }
            put(transaction, &schedule)?;
            tasks::add(transaction, task.into_iter().collect(), Vec::new())?;
            Ok(true)
        })
        .await
    }
}

fn put(transaction: &Transaction<'_>, schedule: &Schedule) -> rusqlite::Result<()> {
    transaction.execute(
        "insert or replace into schedules (schedule_id, name, next_at, document) values (?1, ?2, ?3, ?4)",
        params![schedule.schedule_id, schedule.name, schedule.next_at, to_json(schedule)],
    )?;
    Ok(())
}

fn schedule_of(row: &Row<'_>) -> rusqlite::Result<Schedule> {
    from_json(0, &row.get::<_, String>(0)?)
}
