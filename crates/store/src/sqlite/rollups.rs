//! Rollups, and the one transaction that moves rows, seen ranges and offset together.

use caelum_model::{
    UnixMs,
    event::Family,
    id::{Offset, PartitionId},
    rollup::{MINUTE_MS, Measure, Rollup, RollupKey, RollupState},
};
use rusqlite::{OptionalExtension, Row, Transaction, params, params_from_iter, types::Value};

use super::{
    Sqlite, dead_letters::put_dead_letters, from_json, parse_id, seen::put_seen, tiers::mark_stale, to_json,
    unsigned,
};
use crate::{CommitOutcome, Ownership, RevisedRollup, RollupQuery, StoreError, WindowCommit};

const COLUMNS: &str = "width_ms, window_start_ms, client_id, target, family, partition, count_total, \
    count_success, count_error, errors_by_stage, errors_by_class, dns, tcp, tls, ttfb, total, throughput, \
    rtt, jitter, loss, rpm, delay_out, delay_back, loss_out, loss_back, upload, loaded, late_merged, last, \
    state, version, updated_at_ms, rev";
/// Column of the first distribution; the others follow in the order of [`Measure::ALL`].
const FIRST_DISTRIBUTION: usize = 11;
/// The first column behind them.
const AFTER: usize = FIRST_DISTRIBUTION + Measure::ALL.len();

impl Sqlite {
    /// Stores what an aggregator changed, if it still owns the partition and the offset is where it left it.
    pub async fn commit_windows(
        &self,
        partition: PartitionId,
        owned: Ownership,
        through: Offset,
        commit: WindowCommit,
    ) -> Result<CommitOutcome, StoreError> {
        let mark = commit.mark(through);
        self.write("commit windows", move |transaction| {
            let moved = transaction
                .prepare_cached(
                    "update partitions set offset = ?4, counted = counted + ?5,
                        duplicates = duplicates + ?6, too_late = too_late + ?7, last_commit = ?8
                     where partition = ?1 and fence = ?2 and offset = ?3
                        and not (offset = ?4 and last_commit = ?8)",
                )?
                .execute(params![
                    partition.0,
                    owned.fence as i64,
                    owned.offset.0 as i64,
                    through.0 as i64,
                    commit.counted as i64,
                    commit.duplicates as i64,
                    commit.too_late as i64,
                    mark
                ])?;
            if moved == 0 {
                // This very commit may have been stored before, and its answer lost.
                let is_stored: bool = transaction
                    .prepare_cached(
                        "select exists (select 1 from partitions where partition = ?1 and fence = ?2
                            and offset = ?3 and last_commit = ?4)",
                    )?
                    .query_row(
                        params![partition.0, owned.fence.cast_signed(), through.0.cast_signed(), mark],
                        |row| row.get(0),
                    )?;
                return Ok(if is_stored { CommitOutcome::Done } else { CommitOutcome::NotOwner });
            }
            put_rollups(transaction, &commit.rollups)?;
            put_seen(transaction, partition, &commit)?;
            mark_stale(transaction, partition, &commit.stale_tiers)?;
            put_dead_letters(transaction, partition, &commit.dead_letters, &commit.replayed)?;
            Ok(CommitOutcome::Done)
        })
        .await
    }

    /// Rows of a partition whose windows start at or after a time.
    pub async fn partition_rollups(
        &self,
        partition: PartitionId,
        from_ms: UnixMs,
    ) -> Result<Vec<Rollup>, StoreError> {
        self.read("load open windows", move |connection| {
            connection
                .prepare_cached(&format!(
                    "select {COLUMNS} from rollups
                     where width_ms = ?1 and window_start_ms >= ?2 and partition = ?3"
                ))?
                .query_map(params![MINUTE_MS, from_ms, partition.0], rollup_of)?
                .collect()
        })
        .await
    }

    /// Rows of a partition that have not settled, whatever their age.
    pub async fn unsettled_rollups(&self, partition: PartitionId) -> Result<Vec<Rollup>, StoreError> {
        self.read("load unsettled windows", move |connection| {
            connection
                .prepare_cached(&format!(
                    "select {COLUMNS} from rollups where width_ms = ?1 and partition = ?2
                        and state = 'provisional'"
                ))?
                .query_map(params![MINUTE_MS, partition.0], rollup_of)?
                .collect()
        })
        .await
    }

    /// Rows under the given keys; keys without a row are left out.
    pub async fn rollups_by_keys(&self, keys: Vec<RollupKey>) -> Result<Vec<Rollup>, StoreError> {
        self.read("load windows", move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "select {COLUMNS} from rollups where width_ms = ?1 and window_start_ms = ?2
                    and client_id = ?3 and target = ?4 and family = ?5"
            ))?;
            let mut found = Vec::new();
            for key in &keys {
                let row = statement
                    .query_row(
                        params![
                            key.width_ms,
                            key.window_start_ms,
                            key.client_id.as_str(),
                            key.target,
                            key.family.number()
                        ],
                        rollup_of,
                    )
                    .optional()?;
                found.extend(row);
            }
            Ok(found)
        })
        .await
    }

    /// Rows of a shorter length that lie in the given longer windows, in no particular order. Never stale.
    pub async fn rollups_within(
        &self,
        wholes: Vec<RollupKey>,
        part_width_ms: i64,
    ) -> Result<Vec<Rollup>, StoreError> {
        self.read("load parts of longer windows", move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "select {COLUMNS} from rollups where client_id = ?1 and target = ?2 and family = ?3
                    and width_ms = ?4 and window_start_ms >= ?5 and window_start_ms < ?6"
            ))?;
            let mut found = Vec::new();
            for whole in &wholes {
                let rows = statement.query_map(
                    params![
                        whole.client_id.as_str(),
                        whole.target,
                        whole.family.number(),
                        part_width_ms,
                        whole.window_start_ms,
                        whole.window_start_ms + whole.width_ms
                    ],
                    rollup_of,
                )?;
                for row in rows {
                    found.push(row?);
                }
            }
            Ok(found)
        })
        .await
    }

    /// Rows that match a query.
    pub async fn rollups(&self, query: RollupQuery) -> Result<Vec<Rollup>, StoreError> {
        self.read("read rollups", move |connection| {
            let mut sql = format!("select {COLUMNS} from rollups where width_ms = ?");
            let width = if query.width_ms == 0 { MINUTE_MS } else { query.width_ms };
            let mut values: Vec<Value> = vec![width.into()];
            let mut and = |condition: &str, value: Value| {
                sql.push_str(" and ");
                sql.push_str(condition);
                values.push(value);
            };
            if let Some(client_id) = query.client_id {
                and("client_id = ?", client_id.into());
            }
            if let Some(target) = query.target {
                and("target = ?", target.into());
            }
            if let Some(family) = query.family {
                and("family = ?", i64::from(family.number()).into());
            }
            if let Some(from_ms) = query.from_ms {
                and("window_start_ms >= ?", from_ms.into());
            }
            if let Some(to_ms) = query.to_ms {
                and("window_start_ms < ?", to_ms.into());
            }
            if let Some(key) = query.after {
                sql.push_str(" and (window_start_ms, client_id, target, family) > (?, ?, ?, ?)");
                values.extend([
                    Value::from(key.window_start_ms),
                    Value::from(key.client_id.as_str().to_owned()),
                    Value::from(key.target),
                    Value::from(i64::from(key.family.number())),
                ]);
            }
            sql.push_str(" order by window_start_ms, client_id, target, family limit ?");
            values.push(Value::from(query.limit as i64));
            connection.prepare_cached(&sql)?.query_map(params_from_iter(values), rollup_of)?.collect()
        })
        .await
    }

    /// Rows written by commits after `rev`, oldest commit first.
    pub async fn rollups_since(&self, rev: i64, limit: usize) -> Result<Vec<RevisedRollup>, StoreError> {
        self.read("read new rollups", move |connection| {
            connection
                .prepare_cached(&format!(
                    "select {COLUMNS} from rollups where rev > ?1 order by rev limit ?2"
                ))?
                .query_map(params![rev, limit as i64], |row| {
                    Ok(RevisedRollup { rev: row.get(AFTER + 5)?, rollup: rollup_of(row)? })
                })?
                .collect()
        })
        .await
    }

    /// Number of the newest commit, 0 where there is none.
    pub async fn newest_rev(&self) -> Result<i64, StoreError> {
        self.read("read the newest revision", |connection| {
            connection.prepare_cached("select newest from revisions")?.query_row([], |row| row.get(0))
        })
        .await
    }

    /// Forgets windows of a length that start before a time, at most `limit` rows a call; answers how many
    /// went.
    pub async fn drop_rollups(
        &self,
        width_ms: i64,
        before_ms: UnixMs,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.write("drop old rollups", move |transaction| {
            transaction.execute(
                "delete from rollups where (width_ms, window_start_ms, client_id, target, family) in
                    (select width_ms, window_start_ms, client_id, target, family from rollups
                     where width_ms = ?1 and window_start_ms < ?2 limit ?3)",
                params![width_ms, before_ms, limit as i64],
            )
        })
        .await
    }
}

pub(super) fn put_rollups(transaction: &Transaction<'_>, rollups: &[Rollup]) -> rusqlite::Result<()> {
    if rollups.is_empty() {
        return Ok(());
    }
    let rev: i64 = transaction
        .prepare_cached("update revisions set newest = newest + 1 returning newest")?
        .query_row([], |row| row.get(0))?;
    let mut statement = transaction.prepare_cached(&format!(
        "insert or replace into rollups ({COLUMNS}) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
         ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, \
         ?33)"
    ))?;
    for row in rollups {
        let blob = |measure: Measure| row.distributions.get(&measure);
        statement.execute(params![
            row.key.width_ms,
            row.key.window_start_ms,
            row.key.client_id.as_str(),
            row.key.target,
            row.key.family.number(),
            row.partition.0,
            row.count_total as i64,
            row.count_success as i64,
            row.count_error as i64,
            to_json(&row.errors_by_stage),
            to_json(&row.errors_by_class),
            blob(Measure::Dns),
            blob(Measure::Tcp),
            blob(Measure::Tls),
            blob(Measure::Ttfb),
            blob(Measure::Total),
            blob(Measure::Throughput),
            blob(Measure::Rtt),
            blob(Measure::Jitter),
            blob(Measure::Loss),
            blob(Measure::Rpm),
            blob(Measure::DelayOut),
            blob(Measure::DelayBack),
            blob(Measure::LossOut),
            blob(Measure::LossBack),
            blob(Measure::Upload),
            blob(Measure::Loaded),
            row.late_merged as i64,
            to_json(&row.last),
            row.state.as_str(),
            row.version,
            row.updated_at_ms,
            rev
        ])?;
    }
    Ok(())
}

fn rollup_of(row: &Row<'_>) -> rusqlite::Result<Rollup> {
    let mut distributions = std::collections::BTreeMap::new();
    for (index, measure) in Measure::ALL.into_iter().enumerate() {
        if let Some(bytes) = row.get::<_, Option<Vec<u8>>>(FIRST_DISTRIBUTION + index)? {
            distributions.insert(measure, bytes);
        }
    }
    let state: String = row.get(AFTER + 2)?;
    Ok(Rollup {
        key: RollupKey {
            width_ms: row.get(0)?,
            window_start_ms: row.get(1)?,
            client_id: parse_id(2, &row.get::<_, String>(2)?)?,
            target: row.get(3)?,
            family: Family::from_number(row.get(4)?),
        },
        partition: PartitionId(row.get(5)?),
        count_total: unsigned(row, 6)?,
        count_success: unsigned(row, 7)?,
        count_error: unsigned(row, 8)?,
        errors_by_stage: from_json(9, &row.get::<_, String>(9)?)?,
        errors_by_class: from_json(10, &row.get::<_, String>(10)?)?,
        distributions,
        late_merged: unsigned(row, AFTER)?,
        last: from_json(AFTER + 1, &row.get::<_, String>(AFTER + 1)?)?,
        // A state written by a newer version is at least not final.
        state: RollupState::parse(&state).unwrap_or(RollupState::Provisional),
        version: row.get(AFTER + 3)?,
        updated_at_ms: row.get(AFTER + 4)?,
    })
}
