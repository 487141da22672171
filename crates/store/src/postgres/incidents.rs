//! Incidents.

use caelum_model::{UnixMs, alert::Notice, incident::Incident};
use tokio_postgres::types::ToSql;

use super::{
    Postgres, notices,
    session::{from_json, limit},
    settings::plain,
    to_json,
};
use crate::{IncidentQuery, StoreError};

impl Postgres {
    /// Stores incidents as they stand now with the notices about them, and forgets those that a late window
    /// took back, in one write. A notice that is there already stays as it is.
    pub async fn put_incidents(
        &self,
        incidents: Vec<Incident>,
        withdrawn: Vec<String>,
        told: Vec<Notice>,
    ) -> Result<(), StoreError> {
        let session = self.session("store incidents").await?;
        session.begin().await?;
        session.execute("delete from incidents where id = any($1)", &[&withdrawn]).await?;
        let texts = |of: fn(&Incident) -> String| incidents.iter().map(of).collect::<Vec<String>>();
        let opened: Vec<i64> = incidents.iter().map(|incident| incident.opened_window_ms).collect();
        let closed: Vec<Option<i64>> = incidents.iter().map(|incident| incident.closed_window_ms).collect();
        session
            .execute(
                "insert into incidents
                    (id, label, entity_type, entity, opened_window_ms, closed_window_ms, document)
                 select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[],
                    $6::bigint[], $7::text[])
                 on conflict (id) do update set label = excluded.label, entity_type = excluded.entity_type,
                    entity = excluded.entity, opened_window_ms = excluded.opened_window_ms,
                    closed_window_ms = excluded.closed_window_ms, document = excluded.document",
                &[
                    &texts(|incident| incident.id.clone()),
                    &texts(|incident| incident.label.as_str().to_owned()),
                    &texts(|incident| incident.entity.kind.as_str().to_owned()),
                    &texts(|incident| to_json(&incident.entity.ids)),
                    &opened,
                    &closed,
                    &texts(to_json),
                ],
            )
            .await?;
        notices::add(&session, &told).await?;
        session.commit().await?;
        self.written(session).await
    }

    /// Incidents, newest first.
    pub async fn incidents(&self, query: IncidentQuery) -> Result<Vec<Incident>, StoreError> {
        let session = self.stale_session("list incidents").await?;
        let (label, kind) = (query.label.map(plain), query.entity_type.map(plain));
        let (after_ms, after_id) = query.after.map_or((None, None), |(ms, id)| (Some(ms), Some(plain(id))));
        let most = limit(query.limit);
        let given: [&(dyn ToSql + Sync); 8] =
            [&query.is_open, &label, &kind, &query.from_ms, &query.to_ms, &after_ms, &after_id, &most];
        let rows = session
            .rows(
                "select document from incidents
                 where ($1::boolean is null or (closed_window_ms is null) = $1)
                    and ($2::text is null or label = $2)
                    and ($3::text is null or entity_type = $3)
                    and ($4::bigint is null or closed_window_ms is null or closed_window_ms > $4)
                    and ($5::bigint is null or opened_window_ms < $5)
                    and ($6::bigint is null or (opened_window_ms, id) < ($6, $7::text))
                 order by opened_window_ms desc, id desc limit $8",
                &given,
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// The incident with this id.
    pub async fn incident(&self, id: &str) -> Result<Option<Incident>, StoreError> {
        let session = self.stale_session("read an incident").await?;
        let id = plain(id.to_owned());
        let row = session.row("select document from incidents where id = $1", &[&id]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Forgets incidents that were over before a time.
    pub async fn drop_incidents(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("drop old incidents").await?;
        let gone =
            session.execute("delete from incidents where closed_window_ms < $1", &[&before_ms]).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}
