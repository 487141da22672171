//! Longer windows: which must be merged again, and the write that replaces them.

use caelum_model::{event::Family, id::PartitionId, rollup::RollupKey};
use rusqlite::{Transaction, params};

use super::{Sqlite, parse_id, rollups::put_rollups};
use crate::{CommitOutcome, StaleTier, StoreError, TierCommit};

impl Sqlite {
    /// Longer windows of a partition that must be merged again, oldest and shortest first.
    pub async fn stale_tiers(
        &self,
        partition: PartitionId,
        width_ms: i64,
        limit: usize,
    ) -> Result<Vec<StaleTier>, StoreError> {
        self.read("list stale windows", move |connection| {
            connection
                .prepare_cached(
                    "select width_ms, window_start_ms, client_id, target, family, mark from stale_tiers
                     where partition = ?1 and width_ms = ?2
                     order by window_start_ms, client_id, target, family limit ?3",
                )?
                .query_map(params![partition.0, width_ms, limit as i64], |row| {
                    Ok(StaleTier {
                        key: RollupKey {
                            width_ms: row.get(0)?,
                            window_start_ms: row.get(1)?,
                            client_id: parse_id(2, &row.get::<_, String>(2)?)?,
                            target: row.get(3)?,
                            family: Family::from_number(row.get(4)?),
                        },
                        mark: row.get(5)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Stores merged windows, marks those they are part of, and takes back the marks that were worked off, if
    /// the fence is still the partition's.
    pub async fn commit_tiers(
        &self,
        partition: PartitionId,
        fence: u64,
        commit: TierCommit,
    ) -> Result<CommitOutcome, StoreError> {
        self.write("commit longer windows", move |transaction| {
            let is_owner: bool = transaction
                .prepare_cached(
                    "select exists (select 1 from partitions where partition = ?1 and fence = ?2)",
                )?
                .query_row(params![partition.0, fence.cast_signed()], |row| row.get(0))?;
            if !is_owner {
                return Ok(CommitOutcome::NotOwner);
            }
            put_rollups(transaction, &commit.rollups)?;
            let mut done = transaction.prepare_cached(
                "delete from stale_tiers where partition = ?1 and width_ms = ?2 and window_start_ms = ?3
                    and client_id = ?4 and target = ?5 and family = ?6 and mark = ?7",
            )?;
            for stale in &commit.done {
                let key = &stale.key;
                done.execute(params![
                    partition.0,
                    key.width_ms,
                    key.window_start_ms,
                    key.client_id.as_str(),
                    key.target,
                    key.family.number(),
                    stale.mark
                ])?;
            }
            mark_stale(transaction, partition, &commit.stale)?;
            Ok(CommitOutcome::Done)
        })
        .await
    }
}

pub(super) fn mark_stale(
    transaction: &Transaction<'_>,
    partition: PartitionId,
    keys: &[RollupKey],
) -> rusqlite::Result<()> {
    let mut mark = transaction.prepare_cached(
        "insert into stale_tiers (partition, width_ms, window_start_ms, client_id, target, family, mark)
         values (?1, ?2, ?3, ?4, ?5, ?6, 1)
         on conflict (partition, width_ms, window_start_ms, client_id, target, family)
            do update set mark = mark + 1",
    )?;
    for key in keys {
        mark.execute(params![
            partition.0,
            key.width_ms,
            key.window_start_ms,
            key.client_id.as_str(),
            key.target,
            key.family.number()
        ])?;
    }
    Ok(())
}
