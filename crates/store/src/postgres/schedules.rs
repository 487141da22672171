//! Tasks at times.

use caelum_model::{
    UnixMs,
    task::{Schedule, Task},
};

use super::{
    Postgres,
    session::{Session, from_json, limit},
    settings::plain,
    tasks, to_json,
};
use crate::StoreError;

impl Postgres {
    /// Every schedule, by name.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, StoreError> {
        let session = self.session("list schedules").await?;
        let rows = session
            .rows("select document from schedules order by name collate \"C\", schedule_id", &[])
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// The schedule with this id.
    pub async fn schedule(&self, schedule_id: &str) -> Result<Option<Schedule>, StoreError> {
        let session = self.session("read a schedule").await?;
        let schedule_id = plain(schedule_id.to_owned());
        let row =
            session.row("select document from schedules where schedule_id = $1", &[&schedule_id]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Stores a schedule, replacing one of the same id.
    pub async fn put_schedule(&self, schedule: Schedule) -> Result<(), StoreError> {
        let session = self.session("store a schedule").await?;
        put(&session, &schedule).await?;
        self.written(session).await
    }

    /// Removes a schedule; its tasks stay. Answers false where there is none of that id.
    pub async fn remove_schedule(&self, schedule_id: &str) -> Result<bool, StoreError> {
        let session = self.session("remove a schedule").await?;
        let schedule_id = plain(schedule_id.to_owned());
        let gone = session.execute("delete from schedules where schedule_id = $1", &[&schedule_id]).await?;
        self.written(session).await?;
        Ok(gone > 0)
    }

    /// Schedules whose next time has come.
    pub async fn due_schedules(&self, now_ms: UnixMs, most: usize) -> Result<Vec<Schedule>, StoreError> {
        let session = self.session("list schedules that are due").await?;
        let rows = session
            .rows(
                "select document from schedules where next_at is not null and next_at <= $1
                 order by next_at limit $2",
                &[&now_ms, &limit(most)],
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Replaces a schedule and adds the task that comes from it, if its next time is still the one seen.
    pub async fn fire_schedule(
        &self,
        schedule: Schedule,
        seen_next_at: Option<UnixMs>,
        task: Option<Task>,
    ) -> Result<bool, StoreError> {
        let session = self.session("make a scheduled task").await?;
        session.begin().await?;
        let row = session
            .row(
                "select next_at is not distinct from $2 from schedules where schedule_id = $1 for update",
                &[&schedule.schedule_id, &seen_next_at],
            )
            .await?;
        let is_same = row.map(|row| session.get::<bool>(&row, 0)).transpose()?;
        if is_same != Some(true) {
            session.rollback().await?;
            return Ok(false);
        }
        put(&session, &schedule).await?;
        tasks::add(&session, task.into_iter().collect()).await?;
        session.commit().await?;
        self.written(session).await?;
        Ok(true)
    }
}

async fn put(session: &Session, schedule: &Schedule) -> Result<(), StoreError> {
    session
        .execute(
            "insert into schedules (schedule_id, name, next_at, document) values ($1, $2, $3, $4)
             on conflict (schedule_id) do update set name = excluded.name, next_at = excluded.next_at,
                document = excluded.document",
            &[&schedule.schedule_id, &plain(schedule.name.clone()), &schedule.next_at, &to_json(schedule)],
        )
        .await?;
    Ok(())
}
