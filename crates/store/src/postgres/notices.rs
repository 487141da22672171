//! Notices: an outbox that several servers empty together.

use caelum_model::{
    UnixMs,
    alert::{Notice, NoticeSettings},
};
use tokio_postgres::{Row, types::ToSql};

use super::{
    Postgres,
    session::{Session, from_json, limit},
    settings::plain,
    to_json,
};
use crate::{NoticeOutcome, NoticeQuery, NoticeState, StoreError};

/// What a notice is read from.
const COLUMNS: &str = "document, next_at_ms, attempts, sent_at_ms, given_up_at_ms, error";

impl Postgres {
    /// Takes notices that are due and that nobody else has taken, for a while; each counts as an attempt. What
    /// was decided earlier about the same goes first to a channel.
    pub async fn claim_notices(
        &self,
        owner: String,
        now_ms: UnixMs,
        until_ms: UnixMs,
        most: usize,
    ) -> Result<Vec<Notice>, StoreError> {
        let session = self.session("claim notices").await?;
        let sql = format!(
            "update notices set claimed_by = $1, claimed_until_ms = $3, attempts = attempts + 1
             where notice_id in (select notice_id from notices as due
                where sent_at_ms is null and given_up_at_ms is null and next_at_ms <= $2
                    and claimed_until_ms <= $2
                    and not exists (select 1 from notices as earlier
                        where earlier.subject_id = due.subject_id and earlier.created_at_ms < due.created_at_ms
                            and earlier.sent_at_ms is null and earlier.given_up_at_ms is null
                            and earlier.document::json->>'channel' = due.document::json->>'channel')
                order by next_at_ms, notice_id limit $4 for update skip locked)
             returning {COLUMNS}"
        );
        let rows = session.rows(&sql, &[&plain(owner), &now_ms, &until_ms, &limit(most)]).await?;
        let claimed = rows.iter().map(|row| notice_of(&session, row)).collect();
        self.written(session).await?;
        claimed
    }

    /// Says what became of a notice that this owner took. Answers false where it is no longer the owner's.
    pub async fn settle_notice(
        &self,
        notice_id: String,
        owner: String,
        outcome: NoticeOutcome,
    ) -> Result<bool, StoreError> {
        let session = self.session("settle a notice").await?;
        let (next, sent, given_up, error) = outcome.columns();
        let error = error.map(plain);
        let settled = session
            .execute(
                "update notices set claimed_by = null, claimed_until_ms = 0,
                    next_at_ms = coalesce($3, next_at_ms), sent_at_ms = $4, given_up_at_ms = $5, error = $6
                 where notice_id = $1 and claimed_by = $2 and sent_at_ms is null and given_up_at_ms is null",
                &[&plain(notice_id), &plain(owner), &next, &sent, &given_up, &error],
            )
            .await?;
        self.written(session).await?;
        Ok(settled > 0)
    }

    /// Notices, newest first.
    pub async fn notices(&self, query: NoticeQuery) -> Result<Vec<Notice>, StoreError> {
        let session = self.session("list notices").await?;
        let state = query.state.map(|state| match state {
            NoticeState::Waiting => "waiting",
            NoticeState::Sent => "sent",
            NoticeState::GivenUp => "given up",
        });
        let subject_id = query.subject_id.map(plain);
        let (after_ms, after_id) = query.after.map_or((None, None), |(ms, id)| (Some(ms), Some(plain(id))));
        let most = limit(query.limit);
        let given: [&(dyn ToSql + Sync); 5] = [&state, &subject_id, &after_ms, &after_id, &most];
        let sql = format!(
            "select {COLUMNS} from notices
             where ($1::text is null or $1 = case when sent_at_ms is not null then 'sent'
                    when given_up_at_ms is not null then 'given up' else 'waiting' end)
                and ($2::text is null or subject_id = $2)
                and ($3::bigint is null or (created_at_ms, notice_id) < ($3, $4::text))
             order by created_at_ms desc, notice_id desc limit $5"
        );
        let rows = session.rows(&sql, &given).await?;
        rows.iter().map(|row| notice_of(&session, row)).collect()
    }

    /// Forgets notices from before a time, whatever became of them.
    pub async fn drop_notices(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("drop old notices").await?;
        let gone = session.execute("delete from notices where created_at_ms < $1", &[&before_ms]).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// Who is told, and when not; none where nobody set it.
    pub async fn notice_settings(&self) -> Result<Option<NoticeSettings>, StoreError> {
        let session = self.session("read the settings of notices").await?;
        let row = session.row("select value from settings where key = 'notices'", &[]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Sets who is told, and when not.
    pub async fn put_notice_settings(&self, settings: NoticeSettings) -> Result<(), StoreError> {
        let session = self.session("store the settings of notices").await?;
        put_settings(&session, &settings).await?;
        self.written(session).await
    }
}

/// Sets who is told, and when not.
pub(super) async fn put_settings(session: &Session, settings: &NoticeSettings) -> Result<(), StoreError> {
    session
        .execute(
            "insert into settings (key, value) values ('notices', $1)
             on conflict (key) do update set value = excluded.value",
            &[&to_json(settings)],
        )
        .await?;
    Ok(())
}

/// Adds notices; one that is there already stays as it is.
pub(super) async fn add(session: &Session, notices: &[Notice]) -> Result<(), StoreError> {
    let sql = "insert into notices (notice_id, subject_id, created_at_ms, next_at_ms, document)
         values ($1, $2, $3, $4, $5) on conflict (notice_id) do nothing";
    for notice in notices {
        let given: [&(dyn ToSql + Sync); 5] = [
            &notice.notice_id,
            &notice.subject_id,
            &notice.created_at_ms,
            &notice.next_at_ms,
            &to_json(notice),
        ];
        session.execute(sql, &given).await?;
    }
    Ok(())
}

/// Takes back what was not tried yet of these subjects.
pub(super) async fn withdraw(session: &Session, subjects: &[String]) -> Result<(), StoreError> {
    if !subjects.is_empty() {
        let sql = "delete from notices where subject_id = any($1) and attempts = 0";
        session.execute(sql, &[&subjects]).await?;
    }
    Ok(())
}

fn notice_of(session: &Session, row: &Row) -> Result<Notice, StoreError> {
    let notice: Notice = from_json(session.operation, row, 0)?;
    Ok(Notice {
        next_at_ms: session.get(row, 1)?,
        attempts: session.get::<i32>(row, 2)?.unsigned_abs(),
        sent_at_ms: session.get(row, 3)?,
        given_up_at_ms: session.get(row, 4)?,
        error: session.get(row, 5)?,
        ..notice
    })
}
