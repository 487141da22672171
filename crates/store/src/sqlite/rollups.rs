//! Rollups, and the one transaction that moves rows, seen ranges and offset together.

use caelum_model::{
    UnixMs,
    event::Family,
    id::{ClientId, Offset, PartitionId},
    rollup::{MINUTE_MS, Measure, Rollup, RollupKey, RollupState, SeenRanges},
};
use rusqlite::{OptionalExtension, Row, Transaction, params, params_from_iter, types::Value};

use super::{Store, from_json, parse_id, to_json};
use crate::{
    CommitOutcome, DeadLetter, Ownership, PipelineTotals, ProbeSummary, RevisedRollup, RollupQuery,
    StoreError, WindowCommit,
};

/// Events kept aside; older ones go first.
const DEAD_LETTERS_MAX: i64 = 100_000;

const COLUMNS: &str = "width_ms, window_start_ms, client_id, target, family, partition, count_total, \
    count_success, count_error, errors_by_stage, errors_by_class, dns, tcp, tls, ttfb, total, throughput, \
    rtt, jitter, loss, rpm, late_merged, last, state, version, updated_at_ms, rev";
/// Column of the first distribution; the others follow in the order of [`Measure::ALL`].
const FIRST_DISTRIBUTION: usize = 11;

impl Store {
    /// Takes a partition for a new owner: the fence grows, so that the owner before can commit nothing more.
    pub async fn take_partition(
        &self,
        partition: PartitionId,
        owner: String,
    ) -> Result<Ownership, StoreError> {
        self.write("take a partition", move |transaction| {
            transaction.execute(
                "insert into partitions (partition, owner, fence, offset) values (?1, ?2, 1, 0)
                 on conflict (partition) do update set owner = excluded.owner, fence = fence + 1",
                params![partition.0, owner],
            )?;
            transaction.query_row(
                "select fence, offset from partitions where partition = ?1",
                params![partition.0],
                |row| Ok(Ownership { fence: unsigned(row, 0)?, offset: Offset(unsigned(row, 1)?) }),
            )
        })
        .await
    }

    /// How far each partition has got.
    pub async fn partition_offsets(&self) -> Result<Vec<(PartitionId, Offset)>, StoreError> {
        self.read("read partition offsets", |connection| {
            connection
                .prepare_cached("select partition, offset from partitions order by partition")?
                .query_map([], |row| Ok((PartitionId(row.get(0)?), Offset(unsigned(row, 1)?))))?
                .collect()
        })
        .await
    }

    /// Stores what an aggregator changed, if it still owns the partition and the offset is where it left it.
    pub async fn commit_windows(
        &self,
        partition: PartitionId,
        owned: Ownership,
        through: Offset,
        commit: WindowCommit,
    ) -> Result<CommitOutcome, StoreError> {
        self.write("commit windows", move |transaction| {
            let moved = transaction
                .prepare_cached(
                    "update partitions set offset = ?4, counted = counted + ?5,
                        duplicates = duplicates + ?6, too_late = too_late + ?7
                     where partition = ?1 and fence = ?2 and offset = ?3",
                )?
                .execute(params![
                    partition.0,
                    owned.fence as i64,
                    owned.offset.0 as i64,
                    through.0 as i64,
                    commit.counted as i64,
                    commit.duplicates as i64,
                    commit.too_late as i64
                ])?;
            if moved == 0 {
                return Ok(CommitOutcome::NotOwner);
            }
            put_rollups(transaction, &commit.rollups)?;
            put_seen(transaction, partition, &commit)?;
            put_dead_letters(transaction, &commit.dead_letters)?;
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
                    Ok(RevisedRollup { rev: row.get(26)?, rollup: rollup_of(row)? })
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

    /// Seen ranges of a partition.
    pub async fn seen_ranges(&self, partition: PartitionId) -> Result<Vec<SeenRanges>, StoreError> {
        self.read("load seen ranges", move |connection| {
            connection
                .prepare_cached(
                    "select client_id, epoch, ranges, max_ts_ms, too_late from seen_ranges
                     where partition = ?1",
                )?
                .query_map(params![partition.0], seen_of)?
                .collect()
        })
        .await
    }

    /// Seen ranges of one probe.
    pub async fn client_seen_ranges(
        &self,
        partition: PartitionId,
        client_id: &ClientId,
    ) -> Result<Vec<SeenRanges>, StoreError> {
        let client_id = client_id.as_str().to_owned();
        self.read("load seen ranges of a probe", move |connection| {
            connection
                .prepare_cached(
                    "select client_id, epoch, ranges, max_ts_ms, too_late from seen_ranges
                     where partition = ?1 and client_id = ?2",
                )?
                .query_map(params![partition.0, client_id], seen_of)?
                .collect()
        })
        .await
    }

    /// Ids of counted events without a sequence number, with the minute they were received in.
    pub async fn seen_ids(&self, partition: PartitionId) -> Result<Vec<([u8; 16], i64)>, StoreError> {
        self.read("load seen ids", move |connection| {
            connection
                .prepare_cached("select event_id, recv_minute from seen_ids where partition = ?1")?
                .query_map(params![partition.0], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// What each probe has sent, by probe.
    pub async fn probes(&self) -> Result<Vec<ProbeSummary>, StoreError> {
        let rows: Vec<(u16, SeenRanges)> = self
            .read("list probes", |connection| {
                connection
                    .prepare_cached(
                        "select client_id, epoch, ranges, max_ts_ms, too_late, partition from seen_ranges
                         order by client_id, epoch",
                    )?
                    .query_map([], |row| Ok((row.get(5)?, seen_of(row)?)))?
                    .collect()
            })
            .await?;
        let mut probes: Vec<ProbeSummary> = Vec::new();
        for (partition, seen) in rows {
            let counted: u64 = seen.ranges.iter().map(|(first, last)| last - first + 1).sum();
            let expected = seen.ranges.last().map_or(0, |(_, last)| *last);
            let summary = ProbeSummary {
                client_id: seen.client_id,
                partition: PartitionId(partition),
                last_event_ms: seen.max_ts_ms,
                counted,
                missing: expected.saturating_sub(counted),
                too_late: seen.too_late,
            };
            match probes.last_mut() {
                Some(before) if before.client_id == summary.client_id => {
                    before.last_event_ms = before.last_event_ms.max(summary.last_event_ms);
                    before.counted += summary.counted;
                    before.missing += summary.missing;
                    before.too_late += summary.too_late;
                }
                _ => probes.push(summary),
            }
        }
        Ok(probes)
    }

    /// Sums over all partitions.
    pub async fn pipeline_totals(&self) -> Result<PipelineTotals, StoreError> {
        self.read("sum up partitions", |connection| {
            connection
                .prepare_cached(
                    "select coalesce(sum(counted), 0), coalesce(sum(duplicates), 0),
                        coalesce(sum(too_late), 0) from partitions",
                )?
                .query_row([], |row| {
                    Ok(PipelineTotals {
                        counted: unsigned(row, 0)?,
                        duplicates: unsigned(row, 1)?,
                        too_late: unsigned(row, 2)?,
                    })
                })
        })
        .await
    }

    /// Events kept aside, newest first.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.read("list dead letters", move |connection| {
            connection
                .prepare_cached(
                    "select client_id, ts_ms, reason, document from dead_letters order by id desc limit ?1",
                )?
                .query_map(params![limit as i64], |row| {
                    Ok(DeadLetter {
                        client_id: parse_id(0, &row.get::<_, String>(0)?)?,
                        ts_ms: row.get(1)?,
                        reason: row.get(2)?,
                        document: row.get(3)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Forgets windows that start before a time, at most `limit` rows a call; answers how many went.
    pub async fn drop_rollups(&self, before_ms: UnixMs, limit: usize) -> Result<usize, StoreError> {
        self.write("drop old rollups", move |transaction| {
            transaction.execute(
                "delete from rollups where (width_ms, window_start_ms, client_id, target, family) in
                    (select width_ms, window_start_ms, client_id, target, family from rollups
                     where width_ms = ?1 and window_start_ms < ?2 limit ?3)",
                params![MINUTE_MS, before_ms, limit as i64],
            )
        })
        .await
    }
}

fn put_rollups(transaction: &Transaction<'_>, rollups: &[Rollup]) -> rusqlite::Result<()> {
    if rollups.is_empty() {
        return Ok(());
    }
    let rev: i64 = transaction
        .prepare_cached("update revisions set newest = newest + 1 returning newest")?
        .query_row([], |row| row.get(0))?;
    let mut statement = transaction.prepare_cached(&format!(
        "insert or replace into rollups ({COLUMNS}) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
         ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27)"
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

fn put_seen(
    transaction: &Transaction<'_>,
    partition: PartitionId,
    commit: &WindowCommit,
) -> rusqlite::Result<()> {
    let mut ranges = transaction.prepare_cached(
        "insert or replace into seen_ranges (partition, client_id, epoch, ranges, max_ts_ms, too_late)
         values (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for seen in &commit.seen {
        ranges.execute(params![
            partition.0,
            seen.client_id.as_str(),
            // An epoch uses all 64 bits; SQLite's integers are signed.
            seen.epoch.cast_signed(),
            to_json(&seen.ranges),
            seen.max_ts_ms,
            seen.too_late as i64
        ])?;
    }
    if let Some(minute) = commit.forget_ids_before_minute {
        transaction
            .prepare_cached("delete from seen_ids where partition = ?1 and recv_minute < ?2")?
            .execute(params![partition.0, minute])?;
    }
    let mut ids = transaction.prepare_cached(
        "insert or ignore into seen_ids (partition, event_id, recv_minute) values (?1, ?2, ?3)",
    )?;
    for (id, minute) in &commit.new_ids {
        ids.execute(params![partition.0, id, minute])?;
    }
    Ok(())
}

fn put_dead_letters(transaction: &Transaction<'_>, letters: &[DeadLetter]) -> rusqlite::Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let mut statement = transaction.prepare_cached(
        "insert into dead_letters (client_id, ts_ms, reason, document) values (?1, ?2, ?3, ?4)",
    )?;
    for letter in letters {
        statement.execute(params![
            letter.client_id.as_str(),
            letter.ts_ms,
            letter.reason,
            letter.document
        ])?;
    }
    transaction.execute(
        "delete from dead_letters where id <= (select max(id) from dead_letters) - ?1",
        params![DEAD_LETTERS_MAX],
    )?;
    Ok(())
}

fn rollup_of(row: &Row<'_>) -> rusqlite::Result<Rollup> {
    let mut distributions = std::collections::BTreeMap::new();
    for (index, measure) in Measure::ALL.into_iter().enumerate() {
        if let Some(bytes) = row.get::<_, Option<Vec<u8>>>(FIRST_DISTRIBUTION + index)? {
            distributions.insert(measure, bytes);
        }
    }
    let state: String = row.get(23)?;
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
        late_merged: unsigned(row, 21)?,
        last: from_json(22, &row.get::<_, String>(22)?)?,
        // A state written by a newer version is at least not final.
        state: RollupState::parse(&state).unwrap_or(RollupState::Provisional),
        version: row.get(24)?,
        updated_at_ms: row.get(25)?,
    })
}

fn seen_of(row: &Row<'_>) -> rusqlite::Result<SeenRanges> {
    Ok(SeenRanges {
        client_id: parse_id(0, &row.get::<_, String>(0)?)?,
        epoch: row.get::<_, i64>(1)?.cast_unsigned(),
        ranges: from_json(2, &row.get::<_, String>(2)?)?,
        max_ts_ms: row.get(3)?,
        too_late: unsigned(row, 4)?,
    })
}

/// Counters are stored as signed integers and never negative.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.unsigned_abs())
}
