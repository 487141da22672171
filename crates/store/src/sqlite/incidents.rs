//! Incidents.

use caelum_model::{UnixMs, alert::Notice, incident::Incident};
use rusqlite::{OptionalExtension, Row, params, params_from_iter, types::Value};

use super::{Sqlite, from_json, notices, to_json};
use crate::{IncidentQuery, StoreError};

impl Sqlite {
    /// Stores incidents as they stand now with the notices about them, and forgets those that a late window
    /// took back, in one write. A notice that is there already stays as it is.
    pub async fn put_incidents(
        &self,
        incidents: Vec<Incident>,
        withdrawn: Vec<String>,
        told: Vec<Notice>,
    ) -> Result<(), StoreError> {
        self.write("store incidents", move |transaction| {
            let mut forget = transaction.prepare_cached("delete from incidents where id = ?1")?;
            for id in &withdrawn {
                forget.execute(params![id])?;
            }
            let mut put = transaction.prepare_cached(
                "insert or replace into incidents
                    (id, label, entity_type, entity, opened_window_ms, closed_window_ms, document)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for incident in &incidents {
                put.execute(params![
                    incident.id,
                    incident.label.as_str(),
                    incident.entity.kind.as_str(),
                    to_json(&incident.entity.ids),
                    incident.opened_window_ms,
                    incident.closed_window_ms,
                    to_json(incident)
                ])?;
            }
            notices::add(transaction, &told)
        })
        .await
    }

    /// Incidents, newest first.
    pub async fn incidents(&self, query: IncidentQuery) -> Result<Vec<Incident>, StoreError> {
        self.read("list incidents", move |connection| {
            let mut sql = String::from("select document from incidents where true");
            let mut values: Vec<Value> = Vec::new();
            let mut demand = |condition: &str, given: Vec<Value>| {
                sql.push_str(" and ");
                sql.push_str(condition);
                values.extend(given);
            };
            match query.is_open {
                Some(true) => demand("closed_window_ms is null", vec![]),
                Some(false) => demand("closed_window_ms is not null", vec![]),
                None => {}
            }
            if let Some(label) = query.label {
                demand("label = ?", vec![label.into()]);
            }
            if let Some(kind) = query.entity_type {
                demand("entity_type = ?", vec![kind.into()]);
            }
            if let Some(from_ms) = query.from_ms {
                demand("(closed_window_ms is null or closed_window_ms > ?)", vec![from_ms.into()]);
            }
            if let Some(to_ms) = query.to_ms {
                demand("opened_window_ms < ?", vec![to_ms.into()]);
            }
            if let Some((opened_ms, id)) = query.after {
                demand("(opened_window_ms, id) < (?, ?)", vec![opened_ms.into(), id.into()]);
            }
            sql.push_str(" order by opened_window_ms desc, id desc limit ?");
            values.push((query.limit as i64).into());
            connection.prepare_cached(&sql)?.query_map(params_from_iter(values), incident_of)?.collect()
        })
        .await
    }

    /// The incident with this id.
    pub async fn incident(&self, id: &str) -> Result<Option<Incident>, StoreError> {
        let id = id.to_owned();
        self.read("read an incident", move |connection| {
            connection
                .prepare_cached("select document from incidents where id = ?1")?
                .query_row(params![id], incident_of)
                .optional()
        })
        .await
    }

    /// Forgets incidents that were over before a time.
    pub async fn drop_incidents(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("drop old incidents", move |transaction| {
            transaction.execute("delete from incidents where closed_window_ms < ?1", params![before_ms])
        })
        .await
    }
}

fn incident_of(row: &Row<'_>) -> rusqlite::Result<Incident> {
    from_json(0, &row.get::<_, String>(0)?)
}
