//! Facts about the store, settings changed at run time, and the audit log.

use caelum_model::{UnixMs, access::AuditEntry, alert::NoticeSettings, node::Thresholds};
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Sqlite, from_json, notices, to_json};
use crate::{FactSwap, NoticeSwap, StoreError};

/// Lines the audit log keeps; older ones go first.
const AUDIT_LINES_MAX: i64 = 200_000;

impl Sqlite {
    /// A fact about the store, such as the id of this node.
    pub async fn fact(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        self.read("read a fact", move |connection| {
            connection
                .prepare_cached("select value from meta where key = ?1")?
                .query_row(params![key], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Stores a fact about the store.
    pub async fn put_fact(&self, key: &'static str, value: String) -> Result<(), StoreError> {
        self.write("store a fact", move |transaction| {
            transaction.execute(
                "insert into meta (key, value) values (?1, ?2)
                 on conflict (key) do update set value = excluded.value",
                params![key, value],
            )?;
            Ok(())
        })
        .await
    }

    /// Stores a fact unless it is there already; answers what is there then.
    pub async fn claim_fact(&self, key: &'static str, value: String) -> Result<String, StoreError> {
        self.write("claim a fact", move |transaction| {
            transaction.execute(
                "insert into meta (key, value) values (?1, ?2) on conflict (key) do nothing",
                params![key, value],
            )?;
            transaction.query_row("select value from meta where key = ?1", params![key], |row| row.get(0))
        })
        .await
    }

    /// Replaces a fact if it is still what was seen.
    pub async fn replace_fact(
        &self,
        key: &'static str,
        seen: String,
        value: String,
    ) -> Result<bool, StoreError> {
        self.write("replace a fact", move |transaction| {
            let done = transaction.execute(
                "update meta set value = ?3 where key = ?1 and value = ?2",
                params![key, seen, value],
            )?;
            Ok(done > 0)
        })
        .await
    }

    /// Replaces facts and the settings of notices, if all of them are still what was seen.
    pub async fn reseal(&self, facts: Vec<FactSwap>, notices: NoticeSwap) -> Result<bool, StoreError> {
        self.write("seal the records' secrets anew", move |transaction| {
            // Looked at first: nothing is undone where somebody else was faster.
            for swap in &facts {
                if fact_of(transaction, swap.key)? != swap.seen {
                    return Ok(false);
                }
            }
            let kept: Option<NoticeSettings> = transaction
                .query_row("select value from settings where key = 'notices'", [], |row| {
                    from_json(0, &row.get::<_, String>(0)?)
                })
                .optional()?;
            if kept != notices.seen {
                return Ok(false);
            }
            for swap in &facts {
                match &swap.value {
                    Some(value) => transaction.execute(
                        "insert into meta (key, value) values (?1, ?2)
                         on conflict (key) do update set value = excluded.value",
                        params![swap.key, value],
                    )?,
                    None => transaction.execute("delete from meta where key = ?1", params![swap.key])?,
                };
            }
            if let Some(settings) = &notices.value {
                notices::put_settings(transaction, settings)?;
            }
            Ok(true)
        })
        .await
    }

    /// Sets who is told, and when not, if a fact is still what was seen.
    pub async fn put_notice_settings_under(
        &self,
        settings: NoticeSettings,
        key: &'static str,
        seen: String,
    ) -> Result<bool, StoreError> {
        self.write("store the settings of notices", move |transaction| {
            if fact_of(transaction, key)? != Some(seen) {
                return Ok(false);
            }
            notices::put_settings(transaction, &settings)?;
            Ok(true)
        })
        .await
    }

    /// The thresholds set at run time, if any were.
    pub async fn thresholds(&self) -> Result<Option<Thresholds>, StoreError> {
        self.read("read the thresholds", |connection| {
            connection
                .prepare_cached("select value from settings where key = 'thresholds'")?
                .query_row([], |row| from_json(0, &row.get::<_, String>(0)?))
                .optional()
        })
        .await
    }

    /// Stores the thresholds set at run time.
    pub async fn put_thresholds(&self, thresholds: Thresholds) -> Result<(), StoreError> {
        self.write("store the thresholds", move |transaction| {
            transaction.execute(
                "insert into settings (key, value) values ('thresholds', ?1)
                 on conflict (key) do update set value = excluded.value",
                params![to_json(&thresholds)],
            )?;
            Ok(())
        })
        .await
    }

    /// Adds a line to the audit log.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.write("write the audit log", move |transaction| audit(transaction, &[entry])).await
    }

    /// The newest lines of the audit log before a time, newest first.
    pub async fn audit_log(&self, before_ms: UnixMs, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.read("read the audit log", move |connection| {
            connection
                .prepare_cached(
                    "select at_ms, actor, action, subject, outcome from audit
                     where at_ms < ?1 order by id desc limit ?2",
                )?
                .query_map(params![before_ms, limit as i64], |row| {
                    Ok(AuditEntry {
                        at_ms: row.get(0)?,
                        actor: row.get(1)?,
                        action: row.get(2)?,
                        subject: row.get(3)?,
                        outcome: row.get(4)?,
                    })
                })?
                .collect()
        })
        .await
    }
}

/// Adds lines to the audit log inside a transaction.
pub(super) fn audit(transaction: &Transaction<'_>, lines: &[AuditEntry]) -> rusqlite::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut add = transaction.prepare_cached(
        "insert into audit (at_ms, actor, action, subject, outcome) values (?1, ?2, ?3, ?4, ?5)",
    )?;
    for line in lines {
        add.execute(params![line.at_ms, line.actor, line.action, line.subject, line.outcome])?;
    }
    transaction
        .prepare_cached("delete from audit where id <= (select max(id) from audit) - ?1")?
        .execute(params![AUDIT_LINES_MAX])?;
    Ok(())
}

fn fact_of(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<String>> {
    transaction.query_row("select value from meta where key = ?1", params![key], |row| row.get(0)).optional()
}
