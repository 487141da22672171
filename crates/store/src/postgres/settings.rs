//! Facts about the store, settings changed at run time, and the audit log.

use caelum_model::{UnixMs, access::AuditEntry, alert::NoticeSettings, node::Thresholds};
use tokio_postgres::types::ToSql;

use super::{
    Postgres, notices,
    session::{Session, from_json, limit},
    to_json,
};
use crate::{FactSwap, NoticeSwap, StoreError};

/// Lines the audit log keeps; older ones go first.
const AUDIT_LINES_MAX: i64 = 200_000;
/// Adds [`Lines`] to the audit log. What is being added is not seen by the other half: some more are kept, which
/// harms nobody.
pub(super) const AUDIT: &str = "with added as (insert into audit (at_ms, actor, action, subject, outcome)
        select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]))
     delete from audit where id <= (select max(id) from audit) - $6::bigint";

impl Postgres {
    /// A fact about the store, such as the id of this node.
    pub async fn fact(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        let session = self.session("read a fact").await?;
        let row = session.row("select value from meta where key = $1", &[&key]).await?;
        row.map(|row| session.get(&row, 0)).transpose()
    }

    /// Stores a fact about the store.
    pub async fn put_fact(&self, key: &'static str, value: String) -> Result<(), StoreError> {
        let session = self.session("store a fact").await?;
        session
            .execute(
                "insert into meta (key, value) values ($1, $2)
                 on conflict (key) do update set value = excluded.value",
                &[&key, &value],
            )
            .await?;
        Ok(())
    }

    /// Stores a fact unless it is there already; answers what is there then.
    pub async fn claim_fact(&self, key: &'static str, value: String) -> Result<String, StoreError> {
        let session = self.session("claim a fact").await?;
        session
            .execute(
                "insert into meta (key, value) values ($1, $2) on conflict (key) do nothing",
                &[&key, &value],
            )
            .await?;
        let row = session.row("select value from meta where key = $1", &[&key]).await?;
        row.map_or(Ok(value), |row| session.get(&row, 0))
    }

    /// Replaces a fact if it is still what was seen.
    pub async fn replace_fact(
        &self,
        key: &'static str,
        seen: String,
        value: String,
    ) -> Result<bool, StoreError> {
        let session = self.session("replace a fact").await?;
        let done = session
            .execute("update meta set value = $3 where key = $1 and value = $2", &[&key, &seen, &value])
            .await?;
        Ok(done > 0)
    }

    /// Replaces facts and the settings of notices, if all of them are still what was seen.
    pub async fn reseal(&self, facts: Vec<FactSwap>, notices: NoticeSwap) -> Result<bool, StoreError> {
        let session = self.session("seal the records' secrets anew").await?;
        session.begin().await?;
        if !reseal(&session, &facts, &notices).await? {
            session.rollback().await?;
            session.done();
            return Ok(false);
        }
        session.commit().await?;
        self.written(session).await?;
        Ok(true)
    }

    /// Sets who is told, and when not, if a fact is still what was seen.
    pub async fn put_notice_settings_under(
        &self,
        settings: NoticeSettings,
        key: &'static str,
        seen: String,
    ) -> Result<bool, StoreError> {
        let session = self.session("store the settings of notices").await?;
        session.begin().await?;
        // Held until the end: nobody replaces the fact before these settings are there for him to see.
        let row = session.row("select value from meta where key = $1 for share", &[&key]).await?;
        let kept: Option<String> = row.map(|row| session.get(&row, 0)).transpose()?;
        if kept != Some(seen) {
            session.rollback().await?;
            session.done();
            return Ok(false);
        }
        notices::put_settings(&session, &settings).await?;
        session.commit().await?;
        self.written(session).await?;
        Ok(true)
    }

    /// The thresholds set at run time, if any were.
    pub async fn thresholds(&self) -> Result<Option<Thresholds>, StoreError> {
        let session = self.session("read the thresholds").await?;
        let row = session.row("select value from settings where key = 'thresholds'", &[]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Stores the thresholds set at run time.
    pub async fn put_thresholds(&self, thresholds: Thresholds) -> Result<(), StoreError> {
        let session = self.session("store the thresholds").await?;
        session
            .execute(
                "insert into settings (key, value) values ('thresholds', $1)
                 on conflict (key) do update set value = excluded.value",
                &[&to_json(&thresholds)],
            )
            .await?;
        Ok(())
    }

    /// Adds a line to the audit log.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        let session = self.session("write the audit log").await?;
        session.execute(AUDIT, &Lines::of(vec![entry]).params()).await?;
        self.written(session).await
    }

    /// The newest lines of the audit log before a time, newest first.
    pub async fn audit_log(&self, before_ms: UnixMs, most: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let session = self.stale_session("read the audit log").await?;
        let rows = session
            .rows(
                "select at_ms, actor, action, subject, outcome from audit
                 where at_ms < $1 order by id desc limit $2",
                &[&before_ms, &limit(most)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(AuditEntry {
                    at_ms: session.get(row, 0)?,
                    actor: session.get(row, 1)?,
                    action: session.get(row, 2)?,
                    subject: session.get(row, 3)?,
                    outcome: session.get(row, 4)?,
                })
            })
            .collect()
    }
}

/// Lines of the audit log, column by column.
pub(super) struct Lines {
    times: Vec<i64>,
    actors: Vec<String>,
    actions: Vec<String>,
    subjects: Vec<String>,
    outcomes: Vec<String>,
}

impl Lines {
    pub(super) fn of(lines: Vec<AuditEntry>) -> Self {
        let texts =
            |of: fn(&AuditEntry) -> &str| lines.iter().map(|line| plain(of(line).to_owned())).collect();
        Self {
            times: lines.iter().map(|line| line.at_ms).collect(),
            actors: texts(|line| &line.actor),
            actions: texts(|line| &line.action),
            subjects: texts(|line| &line.subject),
            outcomes: texts(|line| &line.outcome),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// What [`AUDIT`] is given.
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.times, &self.actors, &self.actions, &self.subjects, &self.outcomes, &AUDIT_LINES_MAX]
    }
}

async fn reseal(session: &Session, facts: &[FactSwap], notices: &NoticeSwap) -> Result<bool, StoreError> {
    for swap in facts {
        let done = match (&swap.seen, &swap.value) {
            (Some(seen), Some(value)) => {
                let sql = "update meta set value = $3 where key = $1 and value = $2";
                session.execute(sql, &[&swap.key, seen, value]).await?
            }
            (Some(seen), None) => {
                session.execute("delete from meta where key = $1 and value = $2", &[&swap.key, seen]).await?
            }
            (None, Some(value)) => {
                let sql = "insert into meta (key, value) values ($1, $2) on conflict (key) do nothing";
                session.execute(sql, &[&swap.key, value]).await?
            }
            (None, None) => {
                let there = session.row("select 1 from meta where key = $1", &[&swap.key]).await?;
                u64::from(there.is_none())
            }
        };
        if done == 0 {
            return Ok(false);
        }
    }
    let row = session.row("select value from settings where key = 'notices' for update", &[]).await?;
    let kept: Option<NoticeSettings> = row.map(|row| from_json(session.operation, &row, 0)).transpose()?;
    if kept != notices.seen {
        return Ok(false);
    }
    if let Some(settings) = &notices.value {
        notices::put_settings(session, settings).await?;
    }
    Ok(true)
}

/// PostgreSQL's text holds no NUL; whoever typed one into a name gets a mark in its place.
pub(super) fn plain(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}
