//! What has been counted of each probe: ranges of sequence numbers, and ids of events without them.

use caelum_model::id::{ClientId, PartitionId};
use caelum_model::rollup::SeenRanges;
use rusqlite::{Row, Transaction, params};

use super::{Sqlite, from_json, parse_id, to_json, unsigned};
use crate::{ProbeSummary, StoreError, WindowCommit, query::summarise_probes};

const COLUMNS: &str = "client_id, epoch, ranges, edges, max_ts_ms, too_late, partition";

impl Sqlite {
    /// Seen ranges of a partition.
    pub async fn seen_ranges(&self, partition: PartitionId) -> Result<Vec<SeenRanges>, StoreError> {
        self.read("load seen ranges", move |connection| {
            connection
                .prepare_cached(&format!("select {COLUMNS} from seen_ranges where partition = ?1"))?
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
                .prepare_cached(&format!(
                    "select {COLUMNS} from seen_ranges where partition = ?1 and client_id = ?2"
                ))?
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
        let rows = self
            .read("list probes", |connection| {
                connection
                    .prepare_cached(&format!(
                        "select {COLUMNS} from seen_ranges order by client_id, partition, epoch"
                    ))?
                    .query_map([], |row| Ok((PartitionId(row.get(6)?), seen_of(row)?)))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        Ok(summarise_probes(rows))
    }
}

pub(super) fn put_seen(
    transaction: &Transaction<'_>,
    partition: PartitionId,
    commit: &WindowCommit,
) -> rusqlite::Result<()> {
    let mut ranges = transaction.prepare_cached(
        "insert or replace into seen_ranges
            (partition, client_id, epoch, ranges, edges, max_ts_ms, too_late)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for seen in &commit.seen {
        ranges.execute(params![
            partition.0,
            seen.client_id.as_str(),
            // An epoch uses all 64 bits; SQLite's integers are signed.
            seen.epoch.cast_signed(),
            to_json(&seen.ranges),
            to_json(&seen.edges),
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

fn seen_of(row: &Row<'_>) -> rusqlite::Result<SeenRanges> {
    Ok(SeenRanges {
        client_id: parse_id(0, &row.get::<_, String>(0)?)?,
        epoch: row.get::<_, i64>(1)?.cast_unsigned(),
        ranges: from_json(2, &row.get::<_, String>(2)?)?,
        edges: from_json(3, &row.get::<_, String>(3)?)?,
        max_ts_ms: row.get(4)?,
        too_late: unsigned(row, 5)?,
    })
}
