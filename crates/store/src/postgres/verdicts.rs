//! Verdicts and how pairs stand.

use std::collections::BTreeMap;

use caelum_model::{
    UnixMs,
    diagnosis::{Diagnosis, PairStatus},
    event::Family,
};
use tokio_postgres::types::ToSql;

use super::{
    Postgres,
    session::{from_json, limit},
    settings::plain,
    to_json,
};
use crate::StoreError;

impl Postgres {
    /// Replaces the verdicts of a pair on windows from `from_ms` on, and its standing, in one write.
    pub async fn put_verdicts(
        &self,
        status: PairStatus,
        from_ms: UnixMs,
        diagnoses: Vec<Diagnosis>,
    ) -> Result<(), StoreError> {
        let session = self.session("store verdicts").await?;
        let forget = session
            .prepare(
                "delete from diagnoses
                 where client_id = $1 and target = $2 and family = $3 and window_start_ms >= $4",
            )
            .await?;
        let insert = session
            .prepare(
                "insert into diagnoses (client_id, target, family, window_start_ms, label, document)
                 select $1, $2, $3, * from unnest($4::bigint[], $5::text[], $6::text[])
                 on conflict (client_id, target, family, window_start_ms)
                    do update set label = excluded.label, document = excluded.document",
            )
            .await?;
        let stand = session
            .prepare(
                "insert into pairs (client_id, target, family, window_start_ms, document)
                 values ($1, $2, $3, $4, $5) on conflict (client_id, target, family) do update set
                    window_start_ms = excluded.window_start_ms, document = excluded.document",
            )
            .await?;
        let (client, target) = (status.client_id.as_str(), status.target.as_str());
        let family = i16::from(status.family.number());
        // One row a window, the last word wins.
        let latest: BTreeMap<UnixMs, &Diagnosis> =
            diagnoses.iter().map(|diagnosis| (diagnosis.window_start_ms, diagnosis)).collect();
        let starts: Vec<i64> = latest.keys().copied().collect();
        let labels: Vec<&str> = latest.values().map(|diagnosis| diagnosis.label.as_str()).collect();
        let documents: Vec<String> = latest.values().map(|diagnosis| to_json(*diagnosis)).collect();
        let document = to_json(&status);
        let forgotten: [&(dyn ToSql + Sync); 4] = [&client, &target, &family, &from_ms];
        let given: [&(dyn ToSql + Sync); 6] = [&client, &target, &family, &starts, &labels, &documents];
        let standing: [&(dyn ToSql + Sync); 5] =
            [&client, &target, &family, &status.window_start_ms, &document];
        // One round trip: where a statement fails, the commit behind it rolls back.
        tokio::try_join!(
            biased;
            session.begin(),
            session.run(&forget, &forgotten),
            session.run(&insert, &given),
            session.run(&stand, &standing),
            session.commit(),
        )?;
        self.written(session).await
    }

    /// How every pair stands.
    pub async fn pair_statuses(&self) -> Result<Vec<PairStatus>, StoreError> {
        let session = self.session("list pairs").await?;
        let rows = session.rows("select document from pairs order by client_id, target, family", &[]).await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Verdicts on windows in [from, to), oldest first.
    pub async fn diagnoses(
        &self,
        from_ms: UnixMs,
        to_ms: UnixMs,
        most: usize,
    ) -> Result<Vec<Diagnosis>, StoreError> {
        let session = self.stale_session("list verdicts").await?;
        let rows = session
            .rows(
                "select document from diagnoses where window_start_ms >= $1 and window_start_ms < $2
                 order by window_start_ms, client_id, target, family limit $3",
                &[&from_ms, &to_ms, &limit(most)],
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Verdicts on one pair on windows from a time on, oldest first.
    pub async fn pair_diagnoses(
        &self,
        client_id: &str,
        target: &str,
        family: Family,
        from_ms: UnixMs,
    ) -> Result<Vec<Diagnosis>, StoreError> {
        let session = self.stale_session("list verdicts of a pair").await?;
        let (client_id, target) = (plain(client_id.to_owned()), plain(target.to_owned()));
        let rows = session
            .rows(
                "select document from diagnoses where client_id = $1 and target = $2 and family = $3
                    and window_start_ms >= $4 order by window_start_ms",
                &[&client_id, &target, &i16::from(family.number()), &from_ms],
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Forgets verdicts on windows from before a time.
    pub async fn drop_diagnoses(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.long_session("drop old verdicts").await?;
        let gone = session.execute("delete from diagnoses where window_start_ms < $1", &[&before_ms]).await?;
        session.commit().await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// Forgets how pairs stand that were judged last before a time.
    pub async fn drop_pairs(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("drop old pairs").await?;
        let gone = session.execute("delete from pairs where window_start_ms < $1", &[&before_ms]).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}
