//! Alerts.

use caelum_model::{UnixMs, alert::Alert};
use rusqlite::{OptionalExtension, Row, Transaction, params, params_from_iter, types::Value};

use super::{Sqlite, from_json, notices, to_json};
use crate::{AlertQuery, AlertWrite, StoreError};

impl Sqlite {
    /// Stores changes of alerts and the notices about them, and takes notices back that were not tried yet
    /// and are about these subjects; all of it or, where another was faster with one of them, nothing.
    pub async fn put_alerts(
        &self,
        writes: Vec<AlertWrite>,
        new_notices: Vec<caelum_model::alert::Notice>,
        withdrawn: Vec<String>,
    ) -> Result<bool, StoreError> {
        self.write("store alerts", move |transaction| {
            for write in &writes {
                if !is_as_seen(transaction, write)? {
                    return Ok(false);
                }
            }
            let mut put = transaction.prepare_cached(
                "insert into alerts (alert_id, node_id, metric, status, severity, raised_at_ms, resolved_at_ms,
                    revision, document)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 on conflict (alert_id) do update set status = excluded.status, severity = excluded.severity,
                    resolved_at_ms = excluded.resolved_at_ms, revision = excluded.revision,
                    document = excluded.document",
            )?;
            for AlertWrite { alert, .. } in &writes {
                put.execute(params![
                    alert.alert_id,
                    alert.node_id.as_str(),
                    alert.metric.as_str(),
                    alert.status.as_str(),
                    alert.severity.as_str(),
                    alert.raised_at_ms,
                    alert.resolved_at_ms,
                    alert.revision.cast_signed(),
                    to_json(alert)
                ])?;
            }
            for subject in &withdrawn {
                notices::withdraw(transaction, subject)?;
            }
            notices::add(transaction, &new_notices)?;
            Ok(true)
        })
        .await
    }

    /// Alerts, newest first.
    pub async fn alerts(&self, query: AlertQuery) -> Result<Vec<Alert>, StoreError> {
        self.read("list alerts", move |connection| {
            let mut sql = String::from("select document from alerts where true");
            let mut values: Vec<Value> = Vec::new();
            let mut demand = |condition: &str, given: Vec<Value>| {
                sql.push_str(" and ");
                sql.push_str(condition);
                values.extend(given);
            };
            match query.is_open {
                Some(true) => demand("resolved_at_ms is null", vec![]),
                Some(false) => demand("resolved_at_ms is not null", vec![]),
                None => {}
            }
            if let Some(status) = query.status {
                demand("status = ?", vec![status.as_str().to_owned().into()]);
            }
            if let Some(severity) = query.severity {
                demand("severity = ?", vec![severity.as_str().to_owned().into()]);
            }
            if let Some(node_id) = query.node_id {
                demand("node_id = ?", vec![node_id.as_str().to_owned().into()]);
            }
            if let Some((raised_ms, id)) = query.after {
                demand("(raised_at_ms, alert_id) < (?, ?)", vec![raised_ms.into(), id.into()]);
            }
            sql.push_str(" order by raised_at_ms desc, alert_id desc limit ?");
            values.push((query.limit as i64).into());
            connection.prepare_cached(&sql)?.query_map(params_from_iter(values), alert_of)?.collect()
        })
        .await
    }

    /// The alert with this id.
    pub async fn alert(&self, alert_id: &str) -> Result<Option<Alert>, StoreError> {
        let alert_id = alert_id.to_owned();
        self.read("read an alert", move |connection| {
            connection
                .prepare_cached("select document from alerts where alert_id = ?1")?
                .query_row(params![alert_id], alert_of)
                .optional()
        })
        .await
    }

    /// Forgets alerts that were over before a time.
    pub async fn drop_alerts(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("drop old alerts", move |transaction| {
            transaction.execute("delete from alerts where resolved_at_ms < ?1", params![before_ms])
        })
        .await
    }
}

/// Whether an alert is as its writer saw it last; a new one, whether none stands of its node and metric.
fn is_as_seen(transaction: &Transaction<'_>, write: &AlertWrite) -> rusqlite::Result<bool> {
    let alert = &write.alert;
    match write.seen {
        Some(seen) => {
            let known: Option<i64> = transaction
                .prepare_cached("select revision from alerts where alert_id = ?1")?
                .query_row(params![alert.alert_id], |row| row.get(0))
                .optional()?;
            Ok(known == Some(seen.cast_signed()))
        }
        None => {
            let mut other = transaction.prepare_cached(
                "select 1 from alerts where alert_id = ?1
                 or (node_id = ?2 and metric = ?3 and resolved_at_ms is null)",
            )?;
            Ok(!other.exists(params![alert.alert_id, alert.node_id.as_str(), alert.metric.as_str()])?)
        }
    }
}

fn alert_of(row: &Row<'_>) -> rusqlite::Result<Alert> {
    from_json(0, &row.get::<_, String>(0)?)
}
