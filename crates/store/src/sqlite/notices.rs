//! Notices: an outbox that several servers empty together.

use caelum_model::{
    UnixMs,
    alert::{Notice, NoticeSettings},
};
use rusqlite::{OptionalExtension, Row, Transaction, params, params_from_iter, types::Value};

use super::{Sqlite, from_json, to_json};
use crate::{NoticeOutcome, NoticeQuery, NoticeState, StoreError};

/// What a notice is read from.
const COLUMNS: &str = "document, next_at_ms, attempts, sent_at_ms, given_up_at_ms, error";

impl Sqlite {
    /// Takes notices that are due and that nobody else has taken, for a while; each counts as an attempt. What
    /// was decided earlier about the same goes first to a channel.
    pub async fn claim_notices(
        &self,
        owner: String,
        now_ms: UnixMs,
        until_ms: UnixMs,
        limit: usize,
    ) -> Result<Vec<Notice>, StoreError> {
        self.write("claim notices", move |transaction| {
            let sql = format!(
                "update notices set claimed_by = ?1, claimed_until_ms = ?3, attempts = attempts + 1
                 where notice_id in (select notice_id from notices as due
                    where sent_at_ms is null and given_up_at_ms is null and next_at_ms <= ?2
                        and claimed_until_ms <= ?2
                        and not exists (select 1 from notices as earlier
                            where earlier.subject_id = due.subject_id and earlier.created_at_ms < due.created_at_ms
                                and earlier.sent_at_ms is null and earlier.given_up_at_ms is null
                                and earlier.document->>'channel' = due.document->>'channel')
                    order by next_at_ms, notice_id limit ?4)
                 returning {COLUMNS}"
            );
            transaction
                .prepare_cached(&sql)?
                .query_map(params![owner, now_ms, until_ms, limit as i64], notice_of)?
                .collect()
        })
        .await
    }

    /// Says what became of a notice that this owner took. Answers false where it is no longer the owner's.
    pub async fn settle_notice(
        &self,
        notice_id: String,
        owner: String,
        outcome: NoticeOutcome,
    ) -> Result<bool, StoreError> {
        self.write("settle a notice", move |transaction| {
            let (next, sent, given_up, error) = outcome.columns();
            let settled = transaction.execute(
                "update notices set claimed_by = null, claimed_until_ms = 0,
                    next_at_ms = coalesce(?3, next_at_ms), sent_at_ms = ?4, given_up_at_ms = ?5, error = ?6
                 where notice_id = ?1 and claimed_by = ?2 and sent_at_ms is null and given_up_at_ms is null",
                params![notice_id, owner, next, sent, given_up, error],
            )?;
            Ok(settled > 0)
        })
        .await
    }

    /// Notices, newest first.
    pub async fn notices(&self, query: NoticeQuery) -> Result<Vec<Notice>, StoreError> {
        self.read("list notices", move |connection| {
            let mut sql = format!("select {COLUMNS} from notices where true");
            let mut values: Vec<Value> = Vec::new();
            match query.state {
                Some(NoticeState::Waiting) => {
                    sql.push_str(" and sent_at_ms is null and given_up_at_ms is null")
                }
                Some(NoticeState::Sent) => sql.push_str(" and sent_at_ms is not null"),
                Some(NoticeState::GivenUp) => sql.push_str(" and given_up_at_ms is not null"),
                None => {}
            }
            if let Some(subject_id) = query.subject_id {
                sql.push_str(" and subject_id = ?");
                values.push(subject_id.into());
            }
            if let Some((created_ms, id)) = query.after {
                sql.push_str(" and (created_at_ms, notice_id) < (?, ?)");
                values.extend([created_ms.into(), id.into()]);
            }
            sql.push_str(" order by created_at_ms desc, notice_id desc limit ?");
            values.push((query.limit as i64).into());
            connection.prepare_cached(&sql)?.query_map(params_from_iter(values), notice_of)?.collect()
        })
        .await
    }

    /// Forgets notices from before a time, whatever became of them.
    pub async fn drop_notices(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("drop old notices", move |transaction| {
            transaction.execute("delete from notices where created_at_ms < ?1", params![before_ms])
        })
        .await
    }

    /// Who is told, and when not; none where nobody set it.
    pub async fn notice_settings(&self) -> Result<Option<NoticeSettings>, StoreError> {
        self.read("read the settings of notices", |connection| {
            connection
                .prepare_cached("select value from settings where key = 'notices'")?
                .query_row([], |row| from_json(0, &row.get::<_, String>(0)?))
                .optional()
        })
        .await
    }

    /// Sets who is told, and when not.
    pub async fn put_notice_settings(&self, settings: NoticeSettings) -> Result<(), StoreError> {
        self.write("store the settings of notices", move |transaction| put_settings(transaction, &settings))
            .await
    }
}

/// Sets who is told, and when not.
pub(super) fn put_settings(transaction: &Transaction<'_>, settings: &NoticeSettings) -> rusqlite::Result<()> {
    transaction.execute(
        "insert into settings (key, value) values ('notices', ?1)
         on conflict (key) do update set value = excluded.value",
        params![to_json(settings)],
    )?;
    Ok(())
}

/// Adds notices; one that is there already stays as it is.
pub(super) fn add(transaction: &Transaction<'_>, notices: &[Notice]) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached(
        "insert or ignore into notices (notice_id, subject_id, created_at_ms, next_at_ms, document)
         values (?1, ?2, ?3, ?4, ?5)",
    )?;
    for notice in notices {
        put.execute(params![
            notice.notice_id,
            notice.subject_id,
            notice.created_at_ms,
            notice.next_at_ms,
            to_json(notice)
        ])?;
    }
    Ok(())
}

/// Takes back what was not tried yet of a subject.
pub(super) fn withdraw(transaction: &Transaction<'_>, subject_id: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("delete from notices where subject_id = ?1 and attempts = 0")?
        .execute(params![subject_id])?;
    Ok(())
}

fn notice_of(row: &Row<'_>) -> rusqlite::Result<Notice> {
    let notice: Notice = from_json(0, &row.get::<_, String>(0)?)?;
    Ok(Notice {
        next_at_ms: row.get(1)?,
        attempts: row.get(2)?,
        sent_at_ms: row.get(3)?,
        given_up_at_ms: row.get(4)?,
        error: row.get(5)?,
        ..notice
    })
}
