//! What has been counted of each probe: ranges of sequence numbers, and ids of events without them.

use std::collections::BTreeMap;

use caelum_model::{
    id::{ClientId, PartitionId},
    rollup::SeenRanges,
};
use tokio_postgres::Row;

use super::{
    Postgres,
    partitions::partition,
    people::digest,
    session::{Session, from_json, id, unsigned},
    to_json,
};
use crate::{ProbeSummary, StoreError, WindowCommit, query::summarise_probes};

const COLUMNS: &str = "client_id, epoch, ranges, edges, max_ts_ms, too_late, partition";

impl Postgres {
    /// Seen ranges of a partition.
    pub async fn seen_ranges(&self, of: PartitionId) -> Result<Vec<SeenRanges>, StoreError> {
        let session = self.session("load seen ranges").await?;
        let sql = format!("select {COLUMNS} from seen_ranges where partition = $1 order by client_id, epoch");
        let rows = session.rows(&sql, &[&i32::from(of.0)]).await?;
        rows.iter().map(|row| seen_of(&session, row)).collect()
    }

    /// Seen ranges of one probe.
    pub async fn client_seen_ranges(
        &self,
        of: PartitionId,
        client_id: &ClientId,
    ) -> Result<Vec<SeenRanges>, StoreError> {
        let session = self.session("load seen ranges of a probe").await?;
        let sql = format!(
            "select {COLUMNS} from seen_ranges where partition = $1 and client_id = $2 order by epoch"
        );
        let rows = session.rows(&sql, &[&i32::from(of.0), &client_id.as_str()]).await?;
        rows.iter().map(|row| seen_of(&session, row)).collect()
    }

    /// Ids of counted events without a sequence number, with the minute they were received in.
    pub async fn seen_ids(&self, of: PartitionId) -> Result<Vec<([u8; 16], i64)>, StoreError> {
        let session = self.session("load seen ids").await?;
        let rows = session
            .rows("select event_id, recv_minute from seen_ids where partition = $1", &[&i32::from(of.0)])
            .await?;
        rows.iter().map(|row| Ok((digest(&session, row, 0)?, session.get(row, 1)?))).collect()
    }

    /// What each probe has sent, by probe.
    pub async fn probes(&self) -> Result<Vec<ProbeSummary>, StoreError> {
        let session = self.stale_session("list probes").await?;
        let sql = format!("select {COLUMNS} from seen_ranges order by client_id, partition, epoch");
        let rows = session.rows(&sql, &[]).await?;
        let rows: Result<Vec<_>, StoreError> =
            rows.iter().map(|row| Ok((partition(&session, row, 6)?, seen_of(&session, row)?))).collect();
        Ok(summarise_probes(rows?))
    }
}

pub(super) async fn put_seen(
    session: &Session,
    partition: PartitionId,
    commit: &WindowCommit,
) -> Result<(), StoreError> {
    let partition = i32::from(partition.0);
    if !commit.seen.is_empty() {
        // One row a key, the last word wins.
        let latest: BTreeMap<(&str, u64), &SeenRanges> =
            commit.seen.iter().map(|seen| ((seen.client_id.as_str(), seen.epoch), seen)).collect();
        let clients: Vec<&str> = latest.keys().map(|(client, _)| *client).collect();
        // An epoch uses all 64 bits; the database's integers are signed.
        let epochs: Vec<i64> = latest.keys().map(|(_, epoch)| epoch.cast_signed()).collect();
        let ranges: Vec<String> = latest.values().map(|seen| to_json(&seen.ranges)).collect();
        let edges: Vec<String> = latest.values().map(|seen| to_json(&seen.edges)).collect();
        let newest: Vec<i64> = latest.values().map(|seen| seen.max_ts_ms).collect();
        let too_late: Vec<i64> = latest.values().map(|seen| seen.too_late.cast_signed()).collect();
        session
            .execute(
                "insert into seen_ranges (partition, client_id, epoch, ranges, edges, max_ts_ms, too_late)
                 select $1, * from unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[],
                    $7::bigint[])
                 on conflict (partition, client_id, epoch) do update set ranges = excluded.ranges,
                    edges = excluded.edges, max_ts_ms = excluded.max_ts_ms, too_late = excluded.too_late",
                &[&partition, &clients, &epochs, &ranges, &edges, &newest, &too_late],
            )
            .await?;
    }
    if let Some(minute) = commit.forget_ids_before_minute {
        session
            .execute("delete from seen_ids where partition = $1 and recv_minute < $2", &[&partition, &minute])
            .await?;
    }
    if !commit.new_ids.is_empty() {
        let ids: Vec<&[u8]> = commit.new_ids.iter().map(|(id, _)| id.as_slice()).collect();
        let minutes: Vec<i64> = commit.new_ids.iter().map(|(_, minute)| *minute).collect();
        session
            .execute(
                "insert into seen_ids (partition, event_id, recv_minute)
                 select $1, * from unnest($2::bytea[], $3::bigint[]) on conflict do nothing",
                &[&partition, &ids, &minutes],
            )
            .await?;
    }
    Ok(())
}

fn seen_of(session: &Session, row: &Row) -> Result<SeenRanges, StoreError> {
    Ok(SeenRanges {
        client_id: id(session.operation, row, 0)?,
        epoch: session.get::<i64>(row, 1)?.cast_unsigned(),
        ranges: from_json(session.operation, row, 2)?,
        edges: from_json(session.operation, row, 3)?,
        max_ts_ms: session.get(row, 4)?,
        too_late: unsigned(session.operation, row, 5)?,
    })
}
