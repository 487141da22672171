//! Events kept aside instead of being counted, and what becomes of them.
//!
//! ```text
//! kept ──asked for──▶ requested ──counted, in the commit that counts it──▶ replayed
//! ```

use caelum_model::id::PartitionId;
use rusqlite::{Row, Transaction, params, params_from_iter, types::Value};

use super::{Sqlite, parse_id};
use crate::{DeadLetter, DeadLetterCount, DeadLetterQuery, DeadLetterState, StoreError};

/// Events kept aside; older ones go first.
const DEAD_LETTERS_MAX: i64 = 100_000;
const COLUMNS: &str = "id, partition, kept_at_ms, client_id, ts_ms, reason, state, document";

impl Sqlite {
    /// Events kept aside, newest first.
    pub async fn dead_letters(&self, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        self.read("list dead letters", move |connection| {
            let mut sql = format!("select {COLUMNS} from dead_letters where id < ?");
            let mut values = vec![Value::from(query.before_id.unwrap_or(i64::MAX))];
            let mut and = |condition: &str, value: Option<String>| {
                if let Some(value) = value {
                    sql.push_str(condition);
                    values.push(value.into());
                }
            };
            and(" and client_id = ?", query.client_id);
            and(" and reason = ?", query.reason);
            and(" and state = ?", query.state.map(|state| state.as_str().to_owned()));
            sql.push_str(" order by id desc limit ?");
            values.push(Value::from(query.limit as i64));
            connection.prepare_cached(&sql)?.query_map(params_from_iter(values), letter_of)?.collect()
        })
        .await
    }

    /// How many events are kept aside, by reason and state.
    pub async fn dead_letter_counts(&self) -> Result<Vec<DeadLetterCount>, StoreError> {
        self.read("count dead letters", |connection| {
            connection
                .prepare_cached(
                    "select reason, state, count(*) from dead_letters group by reason, state order by 1, 2",
                )?
                .query_map([], |row| {
                    Ok(DeadLetterCount {
                        reason: row.get(0)?,
                        state: DeadLetterState::parse(&row.get::<_, String>(1)?),
                        count: row.get::<_, i64>(2)?.unsigned_abs(),
                    })
                })?
                .collect()
        })
        .await
    }

    /// Asks that events kept aside be counted after all; answers how many were asked for now. Those asked for
    /// before, or counted already, stay as they are.
    pub async fn request_replay(&self, ids: Vec<i64>) -> Result<usize, StoreError> {
        self.write("ask for a replay", move |transaction| {
            let mut statement = transaction.prepare_cached(
                "update dead_letters set state = 'requested' where id = ?1 and state = 'kept'",
            )?;
            let mut asked = 0;
            for id in &ids {
                asked += statement.execute(params![id])?;
            }
            Ok(asked)
        })
        .await
    }

    /// Events of a partition that are to be counted after all, oldest first.
    pub async fn requested_replays(
        &self,
        partition: PartitionId,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.read("list asked-for replays", move |connection| {
            connection
                .prepare_cached(&format!(
                    "select {COLUMNS} from dead_letters where partition = ?1 and state = 'requested'
                     order by id limit ?2"
                ))?
                .query_map(params![partition.0, limit as i64], letter_of)?
                .collect()
        })
        .await
    }
}

pub(super) fn put_dead_letters(
    transaction: &Transaction<'_>,
    partition: PartitionId,
    letters: &[DeadLetter],
    replayed: &[i64],
) -> rusqlite::Result<()> {
    let mut settled =
        transaction.prepare_cached("update dead_letters set state = 'replayed' where id = ?1")?;
    for id in replayed {
        settled.execute(params![id])?;
    }
    if letters.is_empty() {
        return Ok(());
    }
    let mut statement = transaction.prepare_cached(
        "insert into dead_letters (partition, kept_at_ms, client_id, ts_ms, reason, state, document)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for letter in letters {
        statement.execute(params![
            partition.0,
            letter.kept_at_ms,
            letter.client_id.as_str(),
            letter.ts_ms,
            letter.reason,
            letter.state.as_str(),
            letter.document
        ])?;
    }
    transaction.execute(
        "delete from dead_letters where id <= (select max(id) from dead_letters) - ?1",
        params![DEAD_LETTERS_MAX],
    )?;
    Ok(())
}

fn letter_of(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        partition: PartitionId(row.get(1)?),
        kept_at_ms: row.get(2)?,
        client_id: parse_id(3, &row.get::<_, String>(3)?)?,
        ts_ms: row.get(4)?,
        reason: row.get(5)?,
        state: DeadLetterState::parse(&row.get::<_, String>(6)?),
        document: row.get(7)?,
    })
}
