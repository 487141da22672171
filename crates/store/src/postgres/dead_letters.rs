//! Events kept aside instead of being counted, and what becomes of them.
//!
//! ```text
//! kept ──asked for──▶ requested ──counted, in the commit that counts it──▶ replayed
//! ```

use caelum_model::id::PartitionId;
use tokio_postgres::{Row, types::ToSql};

use super::{
    Postgres,
    partitions::partition,
    session::{Session, id, limit, unsigned},
    settings::plain,
};
use crate::{DeadLetter, DeadLetterCount, DeadLetterQuery, DeadLetterState, StoreError};

/// Events kept aside; older ones go first.
const DEAD_LETTERS_MAX: i64 = 100_000;
const COLUMNS: &str = "id, partition, kept_at_ms, client_id, ts_ms, reason, state, document";

impl Postgres {
    /// Events kept aside, newest first.
    pub async fn dead_letters(&self, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        let session = self.stale_session("list dead letters").await?;
        let mut sql = format!("select {COLUMNS} from dead_letters where id < $1");
        let mut values: Vec<Box<dyn ToSql + Send + Sync>> =
            vec![Box::new(query.before_id.unwrap_or(i64::MAX))];
        let mut and = |column: &str, value: Option<String>| {
            if let Some(value) = value {
                values.push(Box::new(plain(value)));
                sql.push_str(&format!(" and {column} = ${}", values.len()));
            }
        };
        and("client_id", query.client_id);
        and("reason", query.reason);
        and("state", query.state.map(|state| state.as_str().to_owned()));
        values.push(Box::new(limit(query.limit)));
        sql.push_str(&format!(" order by id desc limit ${}", values.len()));
        let params: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value.as_ref() as &(dyn ToSql + Sync)).collect();
        let rows = session.rows(&sql, &params).await?;
        rows.iter().map(|row| letter_of(&session, row)).collect()
    }

    /// How many events are kept aside, by reason and state.
    pub async fn dead_letter_counts(&self) -> Result<Vec<DeadLetterCount>, StoreError> {
        let session = self.stale_session("count dead letters").await?;
        let rows = session
            .rows(
                "select reason, state, count(*) from dead_letters group by reason, state
                 order by reason, state collate \"C\"",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(DeadLetterCount {
                    reason: session.get(row, 0)?,
                    state: DeadLetterState::parse(&session.get::<String>(row, 1)?),
                    count: unsigned(session.operation, row, 2)?,
                })
            })
            .collect()
    }

    /// Asks that events kept aside be counted after all; answers how many were asked for now. Those asked for
    /// before, or counted already, stay as they are.
    pub async fn request_replay(&self, ids: Vec<i64>) -> Result<usize, StoreError> {
        let session = self.session("ask for a replay").await?;
        let asked = session
            .execute(
                "update dead_letters set state = 'requested' where id = any($1) and state = 'kept'",
                &[&ids],
            )
            .await?;
        self.written(session).await?;
        Ok(usize::try_from(asked).unwrap_or(usize::MAX))
    }

    /// Events of a partition that are to be counted after all, oldest first.
    pub async fn requested_replays(
        &self,
        of: PartitionId,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let session = self.session("list asked-for replays").await?;
        let sql = format!(
            "select {COLUMNS} from dead_letters where partition = $1 and state = 'requested'
             order by id limit $2"
        );
        let rows = session.rows(&sql, &[&i32::from(of.0), &limit(most)]).await?;
        rows.iter().map(|row| letter_of(&session, row)).collect()
    }
}

pub(super) async fn put_dead_letters(
    session: &Session,
    partition: PartitionId,
    letters: &[DeadLetter],
    replayed: &[i64],
) -> Result<(), StoreError> {
    if !replayed.is_empty() {
        let sql = "update dead_letters set state = 'replayed' where id = any($1)";
        session.execute(sql, &[&replayed]).await?;
    }
    if letters.is_empty() {
        return Ok(());
    }
    let kept: Vec<i64> = letters.iter().map(|letter| letter.kept_at_ms).collect();
    let clients: Vec<&str> = letters.iter().map(|letter| letter.client_id.as_str()).collect();
    let times: Vec<i64> = letters.iter().map(|letter| letter.ts_ms).collect();
    let reasons: Vec<String> = letters.iter().map(|letter| plain(letter.reason.clone())).collect();
    let states: Vec<&str> = letters.iter().map(|letter| letter.state.as_str()).collect();
    let documents: Vec<String> = letters.iter().map(|letter| plain(letter.document.clone())).collect();
    session
        .execute(
            "insert into dead_letters (partition, kept_at_ms, client_id, ts_ms, reason, state, document)
             select $1, * from unnest($2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::text[],
                $7::text[])",
            &[&i32::from(partition.0), &kept, &clients, &times, &reasons, &states, &documents],
        )
        .await?;
    // Those that another commit is about to remove are left to it: nobody waits for anybody here.
    session
        .execute(
            "delete from dead_letters where id in (select id from dead_letters
                where id <= (select max(id) from dead_letters) - $1 order by id for update skip locked)",
            &[&DEAD_LETTERS_MAX],
        )
        .await?;
    Ok(())
}

fn letter_of(session: &Session, row: &Row) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        id: session.get(row, 0)?,
        partition: partition(session, row, 1)?,
        kept_at_ms: session.get(row, 2)?,
        client_id: id(session.operation, row, 3)?,
        ts_ms: session.get(row, 4)?,
        reason: session.get(row, 5)?,
        state: DeadLetterState::parse(&session.get::<String>(row, 6)?),
        document: session.get(row, 7)?,
    })
}
