//! Rollups, and the one transaction that moves rows, seen ranges and position together.

use std::collections::BTreeMap;

use caelum_model::{
    UnixMs,
    id::{Offset, PartitionId},
    rollup::{MINUTE_MS, Measure, Rollup, RollupKey, RollupState},
};
use tokio_postgres::{Row, types::ToSql};

use super::{
    Postgres,
    dead_letters::put_dead_letters,
    partitions::partition,
    seen::put_seen,
    session::{Session, from_json, limit, unsigned},
    settings::plain,
    tiers::{Keys, key_of, mark_stale},
    to_json,
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
/// Rows of one statement: its parameters stay within a few megabytes.
const ROWS_A_STATEMENT: usize = 2_000;
/// The number of the commit comes from one row, which stays locked until the commit: numbers are seen in the
/// order they were given.
const PUT: &str = "with commit as (update revisions set newest = newest + $33 returning newest)
    insert into rollups (width_ms, window_start_ms, client_id, target, family, partition, count_total,
        count_success, count_error, errors_by_stage, errors_by_class, dns, tcp, tls, ttfb, total, throughput,
        rtt, jitter, loss, rpm, delay_out, delay_back, loss_out, loss_back, upload, loaded, late_merged, last,
        state, version, updated_at_ms, rev)
    select given.*, commit.newest from commit, unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],
        $5::smallint[], $6::integer[], $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[],
        $12::bytea[], $13::bytea[], $14::bytea[], $15::bytea[], $16::bytea[], $17::bytea[], $18::bytea[],
        $19::bytea[], $20::bytea[], $21::bytea[], $22::bytea[], $23::bytea[], $24::bytea[], $25::bytea[],
        $26::bytea[], $27::bytea[], $28::bigint[], $29::text[], $30::text[], $31::bigint[], $32::bigint[])
        as given
    on conflict (width_ms, window_start_ms, client_id, target, family) do update set
        partition = excluded.partition, count_total = excluded.count_total,
        count_success = excluded.count_success, count_error = excluded.count_error,
        errors_by_stage = excluded.errors_by_stage, errors_by_class = excluded.errors_by_class,
        dns = excluded.dns, tcp = excluded.tcp, tls = excluded.tls, ttfb = excluded.ttfb,
        total = excluded.total, throughput = excluded.throughput, rtt = excluded.rtt,
        jitter = excluded.jitter, loss = excluded.loss, rpm = excluded.rpm,
        delay_out = excluded.delay_out, delay_back = excluded.delay_back, loss_out = excluded.loss_out,
        loss_back = excluded.loss_back, upload = excluded.upload, loaded = excluded.loaded,
        late_merged = excluded.late_merged, last = excluded.last, state = excluded.state,
        version = excluded.version, updated_at_ms = excluded.updated_at_ms, rev = excluded.rev";

impl Postgres {
    /// Stores what an aggregator changed, if it still owns the partition and the offset is where it left it.
    pub async fn commit_windows(
        &self,
        partition: PartitionId,
        owned: Ownership,
        through: Offset,
        commit: WindowCommit,
    ) -> Result<CommitOutcome, StoreError> {
        let operation = "commit windows";
        let mark = commit.mark(through);
        self.ensure_parts(operation, &commit.rollups).await?;
        let session = self.session(operation).await?;
        session.begin().await?;
        let number = i32::from(partition.0);
        let moved = session
            .execute(
                "update partitions set position = $4, counted = counted + $5,
                    duplicates = duplicates + $6, too_late = too_late + $7, last_commit = $8
                 where partition = $1 and fence = $2 and position = $3
                    and not (position = $4 and last_commit = $8)",
                &[
                    &number,
                    &owned.fence.cast_signed(),
                    &owned.offset.0.cast_signed(),
                    &through.0.cast_signed(),
                    &commit.counted.cast_signed(),
                    &commit.duplicates.cast_signed(),
                    &commit.too_late.cast_signed(),
                    &mark,
                ],
            )
            .await?;
        if moved == 0 {
            // This very commit may have been stored before, and its answer lost.
            let stored = session
                .row(
                    "select 1 from partitions
                     where partition = $1 and fence = $2 and position = $3 and last_commit = $4",
                    &[&number, &owned.fence.cast_signed(), &through.0.cast_signed(), &mark],
                )
                .await?;
            session.rollback().await?;
            return Ok(if stored.is_some() { CommitOutcome::Done } else { CommitOutcome::NotOwner });
        }
        // Different tables, so that the order is nobody's concern; the server takes them as they come.
        tokio::try_join!(
            put_seen(&session, partition, &commit),
            mark_stale(&session, partition, &commit.stale_tiers),
            put_dead_letters(&session, partition, &commit.dead_letters, &commit.replayed),
        )?;
        // Last, because every commit of every aggregator waits for the row that numbers them.
        self.stored(put_rollups(&session, &commit.rollups).await)?;
        session.commit().await?;
        self.written(session).await?;
        Ok(CommitOutcome::Done)
    }

    /// Parts that are gone are made again at the next try.
    pub(super) fn stored(&self, put: Result<(), StoreError>) -> Result<(), StoreError> {
        if put.is_err() {
            self.forget_parts();
        }
        put
    }

    /// Rows of a partition whose windows start at or after a time.
    pub async fn partition_rollups(
        &self,
        partition: PartitionId,
        from_ms: UnixMs,
    ) -> Result<Vec<Rollup>, StoreError> {
        let session = self.session("load open windows").await?;
        let sql = format!(
            "select {COLUMNS} from rollups where width_ms = $1 and window_start_ms >= $2 and partition = $3"
        );
        let rows = session.rows(&sql, &[&MINUTE_MS, &from_ms, &i32::from(partition.0)]).await?;
        rows.iter().map(|row| rollup_of(&session, row)).collect()
    }

    /// Rows of a partition that have not settled, whatever their age.
    pub async fn unsettled_rollups(&self, partition: PartitionId) -> Result<Vec<Rollup>, StoreError> {
        let session = self.session("load unsettled windows").await?;
        let sql = format!(
            "select {COLUMNS} from rollups where width_ms = $1 and partition = $2 and state = 'provisional'"
        );
        let rows = session.rows(&sql, &[&MINUTE_MS, &i32::from(partition.0)]).await?;
        rows.iter().map(|row| rollup_of(&session, row)).collect()
    }

    /// Rows under the given keys; keys without a row are left out.
    pub async fn rollups_by_keys(&self, keys: Vec<RollupKey>) -> Result<Vec<Rollup>, StoreError> {
        let session = self.session("load windows").await?;
        let wanted = Keys::of(keys.iter());
        let columns = COLUMNS.replace(", ", ", row.");
        let sql = format!(
            "select row.{columns} from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],
                $5::smallint[]) with ordinality
                as wanted (width_ms, window_start_ms, client_id, target, family, place)
             join rollups as row using (width_ms, window_start_ms, client_id, target, family)
             order by wanted.place"
        );
        let rows = session
            .rows(&sql, &[&wanted.widths, &wanted.starts, &wanted.clients, &wanted.targets, &wanted.families])
            .await?;
        rows.iter().map(|row| rollup_of(&session, row)).collect()
    }

    /// Rows of a shorter length that lie in the given longer windows, in no particular order. Never stale.
    pub async fn rollups_within(
        &self,
        wholes: Vec<RollupKey>,
        part_width_ms: i64,
    ) -> Result<Vec<Rollup>, StoreError> {
        let session = self.session("load parts of longer windows").await?;
        let wanted = Keys::of(wholes.iter());
        let columns = COLUMNS.replace(", ", ", part.");
        let sql = format!(
            "select part.{columns} from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],
                $5::smallint[]) as whole (width_ms, window_start_ms, client_id, target, family)
             join rollups as part on part.client_id = whole.client_id and part.target = whole.target
                and part.family = whole.family and part.width_ms = $6
                and part.window_start_ms >= whole.window_start_ms
                and part.window_start_ms < whole.window_start_ms + whole.width_ms
             where part.window_start_ms >= $7 and part.window_start_ms < $8"
        );
        // The ends of all of them let the server skip parts of the table.
        let from_ms = wholes.iter().map(|whole| whole.window_start_ms).min().unwrap_or(0);
        let to_ms = wholes.iter().map(|whole| whole.window_start_ms + whole.width_ms).max().unwrap_or(0);
        let rows = session
            .rows(
                &sql,
                &[
                    &wanted.widths,
                    &wanted.starts,
                    &wanted.clients,
                    &wanted.targets,
                    &wanted.families,
                    &part_width_ms,
                    &from_ms,
                    &to_ms,
                ],
            )
            .await?;
        rows.iter().map(|row| rollup_of(&session, row)).collect()
    }

    /// Rows that match a query.
    pub async fn rollups(&self, query: RollupQuery) -> Result<Vec<Rollup>, StoreError> {
        let session = self.stale_session("read rollups").await?;
        let mut sql = format!("select {COLUMNS} from rollups where width_ms = $1");
        let mut values: Vec<Box<dyn ToSql + Send + Sync>> =
            vec![Box::new(if query.width_ms == 0 { MINUTE_MS } else { query.width_ms })];
        let mut and = |condition: &str, value: Box<dyn ToSql + Send + Sync>| {
            values.push(value);
            sql.push_str(&format!(" and {condition} ${}", values.len()));
        };
        if let Some(client_id) = query.client_id {
            and("client_id =", Box::new(plain(client_id)));
        }
        if let Some(target) = query.target {
            and("target =", Box::new(plain(target)));
        }
        if let Some(family) = query.family {
            and("family =", Box::new(i16::from(family.number())));
        }
        if let Some(from_ms) = query.from_ms {
            and("window_start_ms >=", Box::new(from_ms));
        }
        if let Some(to_ms) = query.to_ms {
            and("window_start_ms <", Box::new(to_ms));
        }
        if let Some(key) = query.after {
            let n = values.len();
            // The first half is what lets the server skip parts of the table.
            sql.push_str(&format!(
                " and window_start_ms >= ${} and (window_start_ms, client_id, target, family) \
                 > (${0}, ${}, ${}, ${})",
                n + 1,
                n + 2,
                n + 3,
                n + 4
            ));
            values.push(Box::new(key.window_start_ms));
            values.push(Box::new(key.client_id.as_str().to_owned()));
            values.push(Box::new(plain(key.target)));
            values.push(Box::new(i16::from(key.family.number())));
        }
        values.push(Box::new(limit(query.limit)));
        sql.push_str(&format!(
            " order by window_start_ms, client_id, target, family limit ${}",
            values.len()
        ));
        let params: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value.as_ref() as &(dyn ToSql + Sync)).collect();
        let rows = session.rows(&sql, &params).await?;
        rows.iter().map(|row| rollup_of(&session, row)).collect()
    }

    /// Rows written by commits after `rev`, oldest commit first.
    pub async fn rollups_since(&self, rev: i64, most: usize) -> Result<Vec<RevisedRollup>, StoreError> {
        let session = self.session("read new rollups").await?;
        let sql = format!("select {COLUMNS} from rollups where rev > $1 order by rev limit $2");
        let rows = session.rows(&sql, &[&rev, &limit(most)]).await?;
        let rows = rows
            .iter()
            .map(|row| {
                Ok(RevisedRollup { rev: session.get(row, AFTER + 5)?, rollup: rollup_of(&session, row)? })
            })
            .collect::<Result<_, StoreError>>()?;
        // Whoever saw these changes reads what belongs to them next.
        self.written(session).await?;
        Ok(rows)
    }

    /// Number of the newest commit, 0 where there is none.
    pub async fn newest_rev(&self) -> Result<i64, StoreError> {
        let session = self.session("read the newest revision").await?;
        let row = session.row("select newest from revisions", &[]).await?;
        row.map_or(Ok(0), |row| session.get(&row, 0))
    }

    /// Forgets windows of a length that start before a time, at most `limit` rows a call; answers how many
    /// went. Windows of a minute go by whole days, whatever the limit: a day's table is dropped when the day
    /// is over.
    pub async fn drop_rollups(
        &self,
        width_ms: i64,
        before_ms: UnixMs,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.drop_parts("drop old rollups", width_ms, before_ms, limit).await
    }
}

pub(super) async fn put_rollups(session: &Session, rollups: &[Rollup]) -> Result<(), StoreError> {
    // One row a key, the last word wins; in the order of keys, as everybody writes them.
    let latest: BTreeMap<&RollupKey, &Rollup> = rollups.iter().map(|row| (&row.key, row)).collect();
    let rows: Vec<&Rollup> = latest.into_values().collect();
    let mut growth: i64 = 1;
    for chunk in rows.chunks(ROWS_A_STATEMENT) {
        put_chunk(session, chunk, growth).await?;
        // All rows of a commit have one number.
        growth = 0;
    }
    Ok(())
}

async fn put_chunk(session: &Session, rows: &[&Rollup], growth: i64) -> Result<(), StoreError> {
    let keys = Keys::of(rows.iter().map(|row| &row.key));
    let partitions: Vec<i32> = rows.iter().map(|row| i32::from(row.partition.0)).collect();
    let counts = |of: fn(&Rollup) -> u64| rows.iter().map(|row| of(row).cast_signed()).collect::<Vec<i64>>();
    let (total, success) = (counts(|row| row.count_total), counts(|row| row.count_success));
    let (error, late) = (counts(|row| row.count_error), counts(|row| row.late_merged));
    let stages: Vec<String> = rows.iter().map(|row| to_json(&row.errors_by_stage)).collect();
    let classes: Vec<String> = rows.iter().map(|row| to_json(&row.errors_by_class)).collect();
    let distributions: Vec<Vec<Option<&[u8]>>> = Measure::ALL
        .iter()
        .map(|measure| rows.iter().map(|row| row.distributions.get(measure).map(Vec::as_slice)).collect())
        .collect();
    let last: Vec<String> = rows.iter().map(|row| to_json(&row.last)).collect();
    let states: Vec<&str> = rows.iter().map(|row| row.state.as_str()).collect();
    let versions: Vec<i64> = rows.iter().map(|row| i64::from(row.version)).collect();
    let updated: Vec<i64> = rows.iter().map(|row| row.updated_at_ms).collect();
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![
        &keys.widths,
        &keys.starts,
        &keys.clients,
        &keys.targets,
        &keys.families,
        &partitions,
        &total,
        &success,
        &error,
        &stages,
        &classes,
    ];
    params.extend(distributions.iter().map(|column| column as &(dyn ToSql + Sync)));
    params.extend([&late as &(dyn ToSql + Sync), &last, &states, &versions, &updated, &growth]);
    session.execute(PUT, &params).await?;
    Ok(())
}

fn rollup_of(session: &Session, row: &Row) -> Result<Rollup, StoreError> {
    let operation = session.operation;
    let mut distributions = BTreeMap::new();
    for (index, measure) in Measure::ALL.into_iter().enumerate() {
        if let Some(bytes) = session.get::<Option<Vec<u8>>>(row, FIRST_DISTRIBUTION + index)? {
            distributions.insert(measure, bytes);
        }
    }
    let state: String = session.get(row, AFTER + 2)?;
    Ok(Rollup {
        key: key_of(session, row)?,
        partition: partition(session, row, 5)?,
        count_total: unsigned(operation, row, 6)?,
        count_success: unsigned(operation, row, 7)?,
        count_error: unsigned(operation, row, 8)?,
        errors_by_stage: from_json(operation, row, 9)?,
        errors_by_class: from_json(operation, row, 10)?,
        distributions,
        late_merged: unsigned(operation, row, AFTER)?,
        last: from_json(operation, row, AFTER + 1)?,
        // A state written by a newer version is at least not final.
        state: RollupState::parse(&state).unwrap_or(RollupState::Provisional),
        version: u32::try_from(session.get::<i64>(row, AFTER + 3)?).unwrap_or(u32::MAX),
        updated_at_ms: session.get(row, AFTER + 4)?,
    })
}
