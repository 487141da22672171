//! Alerts.

use caelum_model::{
    UnixMs,
    alert::{Alert, Notice},
};
use tokio_postgres::types::ToSql;

use super::{
    Postgres, notices,
    session::{Session, from_json, limit},
    settings::plain,
    to_json,
};
use crate::{AlertQuery, AlertWrite, StoreError};

impl Postgres {
    /// Stores changes of alerts and the notices about them, and takes notices back that were not tried yet
    /// and are about these subjects; all of it or, where another was faster with one of them, nothing.
    pub async fn put_alerts(
        &self,
        writes: Vec<AlertWrite>,
        new_notices: Vec<Notice>,
        withdrawn: Vec<String>,
    ) -> Result<bool, StoreError> {
        let session = self.session("store alerts").await?;
        session.begin().await?;
        for write in &writes {
            if !put(&session, write).await? {
                session.rollback().await?;
                session.done();
                return Ok(false);
            }
        }
        notices::withdraw(&session, &withdrawn).await?;
        notices::add(&session, &new_notices).await?;
        session.commit().await?;
        self.written(session).await?;
        Ok(true)
    }

    /// Alerts, newest first.
    pub async fn alerts(&self, query: AlertQuery) -> Result<Vec<Alert>, StoreError> {
        let session = self.session("list alerts").await?;
        let (status, severity) =
            (query.status.map(|status| status.as_str()), query.severity.map(|level| level.as_str()));
        let node_id = query.node_id.map(|id| id.as_str().to_owned());
        let (after_ms, after_id) = query.after.map_or((None, None), |(ms, id)| (Some(ms), Some(plain(id))));
        let most = limit(query.limit);
        let given: [&(dyn ToSql + Sync); 7] =
            [&query.is_open, &status, &severity, &node_id, &after_ms, &after_id, &most];
        let rows = session
            .rows(
                "select document from alerts
                 where ($1::boolean is null or (resolved_at_ms is null) = $1)
                    and ($2::text is null or status = $2)
                    and ($3::text is null or severity = $3)
                    and ($4::text is null or node_id = $4)
                    and ($5::bigint is null or (raised_at_ms, alert_id) < ($5, $6::text))
                 order by raised_at_ms desc, alert_id desc limit $7",
                &given,
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// The alert with this id.
    pub async fn alert(&self, alert_id: &str) -> Result<Option<Alert>, StoreError> {
        let session = self.session("read an alert").await?;
        let id = plain(alert_id.to_owned());
        let row = session.row("select document from alerts where alert_id = $1", &[&id]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Forgets alerts that were over before a time.
    pub async fn drop_alerts(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("drop old alerts").await?;
        let gone = session.execute("delete from alerts where resolved_at_ms < $1", &[&before_ms]).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}

/// Writes one; answers false where it is not as its writer saw it last.
async fn put(session: &Session, write: &AlertWrite) -> Result<bool, StoreError> {
    let alert = &write.alert;
    let (status, severity, document) = (alert.status.as_str(), alert.severity.as_str(), to_json(alert));
    let revision = alert.revision.cast_signed();
    let written = match write.seen {
        Some(seen) => {
            let sql = "update alerts set status = $2, severity = $3, resolved_at_ms = $4, revision = $5,
                    document = $6
                 where alert_id = $1 and revision = $7";
            let given: [&(dyn ToSql + Sync); 7] = [
                &alert.alert_id,
                &status,
                &severity,
                &alert.resolved_at_ms,
                &revision,
                &document,
                &seen.cast_signed(),
            ];
            session.execute(sql, &given).await?
        }
        None => {
            let sql = "insert into alerts (alert_id, node_id, metric, status, severity, raised_at_ms,
                    resolved_at_ms, revision, document)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing";
            let given: [&(dyn ToSql + Sync); 9] = [
                &alert.alert_id,
                &alert.node_id.as_str(),
                &alert.metric.as_str(),
                &status,
                &severity,
                &alert.raised_at_ms,
                &alert.resolved_at_ms,
                &revision,
                &document,
            ];
            session.execute(sql, &given).await?
        }
    };
    Ok(written == 1)
}
