//! Verdicts and how pairs stand.

use caelum_model::{
    UnixMs,
    diagnosis::{Diagnosis, PairStatus},
    event::Family,
};
use rusqlite::{Row, params};

use super::{Sqlite, from_json, to_json};
use crate::StoreError;

impl Sqlite {
    /// Replaces the verdicts of a pair on windows from `from_ms` on, and its standing, in one write.
    pub async fn put_verdicts(
        &self,
        status: PairStatus,
        from_ms: UnixMs,
        diagnoses: Vec<Diagnosis>,
    ) -> Result<(), StoreError> {
        self.write("store verdicts", move |transaction| {
            let (client, target) = (status.client_id.as_str(), status.target.as_str());
            let family = status.family.number();
            transaction
                .prepare_cached(
                    "delete from diagnoses
                     where client_id = ?1 and target = ?2 and family = ?3 and window_start_ms >= ?4",
                )?
                .execute(params![client, target, family, from_ms])?;
            let mut insert = transaction.prepare_cached(
                "insert or replace into diagnoses
                    (window_start_ms, client_id, target, family, label, document)
                 values (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for diagnosis in &diagnoses {
                insert.execute(params![
                    diagnosis.window_start_ms,
                    client,
                    target,
                    family,
                    diagnosis.label.as_str(),
                    to_json(diagnosis)
                ])?;
            }
            transaction
                .prepare_cached(
                    "insert into pairs (client_id, target, family, document) values (?1, ?2, ?3, ?4)
                     on conflict (client_id, target, family) do update set document = excluded.document",
                )?
                .execute(params![client, target, family, to_json(&status)])?;
            Ok(())
        })
        .await
    }

    /// How every pair stands.
    pub async fn pair_statuses(&self) -> Result<Vec<PairStatus>, StoreError> {
        self.read("list pairs", |connection| {
            connection
                .prepare_cached("select document from pairs order by client_id, target, family")?
                .query_map([], |row| from_json(0, &row.get::<_, String>(0)?))?
                .collect()
        })
        .await
    }

    /// Verdicts on windows in [from, to), oldest first.
    pub async fn diagnoses(
        &self,
        from_ms: UnixMs,
        to_ms: UnixMs,
        limit: usize,
    ) -> Result<Vec<Diagnosis>, StoreError> {
        self.read("list verdicts", move |connection| {
            connection
                .prepare_cached(
                    "select document from diagnoses where window_start_ms >= ?1 and window_start_ms < ?2
                     order by window_start_ms, client_id, target, family limit ?3",
                )?
                .query_map(params![from_ms, to_ms, limit as i64], diagnosis_of)?
                .collect()
        })
        .await
    }

    /// Verdicts on one pair on windows from a time on, oldest first.
    pub async fn pair_diagnoses(
        &self,
        client_id: &str,
        target: &str,
        family: Family,
        from_ms: UnixMs,
    ) -> Result<Vec<Diagnosis>, StoreError> {
        let (client_id, target) = (client_id.to_owned(), target.to_owned());
        self.read("list verdicts of a pair", move |connection| {
            connection
                .prepare_cached(
                    "select document from diagnoses where client_id = ?1 and target = ?2 and family = ?3
                        and window_start_ms >= ?4 order by window_start_ms",
                )?
                .query_map(params![client_id, target, family.number(), from_ms], diagnosis_of)?
                .collect()
        })
        .await
    }

    /// Forgets verdicts on windows from before a time.
    pub async fn drop_diagnoses(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("drop old verdicts", move |transaction| {
            transaction.execute("delete from diagnoses where window_start_ms < ?1", params![before_ms])
        })
        .await
    }

    /// Forgets how pairs stand that were judged last before a time.
    pub async fn drop_pairs(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("drop old pairs", move |transaction| {
            transaction.execute(
                "delete from pairs where json_extract(document, '$.window_start_ms') < ?1",
                params![before_ms],
            )
        })
        .await
    }
}

fn diagnosis_of(row: &Row<'_>) -> rusqlite::Result<Diagnosis> {
    from_json(0, &row.get::<_, String>(0)?)
}
