//! Longer windows: which must be merged again, and the write that replaces them.

use std::collections::BTreeSet;

use caelum_model::{event::Family, id::PartitionId, rollup::RollupKey};
use tokio_postgres::Row;

use super::{
    Postgres,
    rollups::put_rollups,
    session::{Session, id, limit},
};
use crate::{CommitOutcome, StaleTier, StoreError, TierCommit};

impl Postgres {
    /// Longer windows of a partition that must be merged again, oldest and shortest first.
    pub async fn stale_tiers(
        &self,
        partition: PartitionId,
        width_ms: i64,
        most: usize,
    ) -> Result<Vec<StaleTier>, StoreError> {
        let session = self.session("list stale windows").await?;
        let rows = session
            .rows(
                "select width_ms, window_start_ms, client_id, target, family, mark from stale_tiers
                 where partition = $1 and width_ms = $2
                 order by window_start_ms, client_id, target, family limit $3",
                &[&i32::from(partition.0), &width_ms, &limit(most)],
            )
            .await?;
        rows.iter()
            .map(|row| Ok(StaleTier { key: key_of(&session, row)?, mark: session.get(row, 5)? }))
            .collect()
    }

    /// Stores merged windows, marks those they are part of, and takes back the marks that were worked off, if
    /// the fence is still the partition's.
    pub async fn commit_tiers(
        &self,
        partition: PartitionId,
        fence: u64,
        commit: TierCommit,
    ) -> Result<CommitOutcome, StoreError> {
        let operation = "commit longer windows";
        self.ensure_parts(operation, &commit.rollups).await?;
        let session = self.session(operation).await?;
        session.begin().await?;
        let number = i32::from(partition.0);
        // The row stays as it is until the commit: nobody takes the partition in between.
        let owner = session
            .row(
                "select 1 from partitions where partition = $1 and fence = $2 for share",
                &[&number, &fence.cast_signed()],
            )
            .await?;
        if owner.is_none() {
            session.rollback().await?;
            return Ok(CommitOutcome::NotOwner);
        }
        if !commit.done.is_empty() {
            let keys = Keys::of(commit.done.iter().map(|stale| &stale.key));
            let marks: Vec<i64> = commit.done.iter().map(|stale| stale.mark).collect();
            session
                .execute(
                    "delete from stale_tiers as stale using unnest($2::bigint[], $3::bigint[], $4::text[],
                        $5::text[], $6::smallint[], $7::bigint[])
                        as done (width_ms, window_start_ms, client_id, target, family, mark)
                     where stale.partition = $1 and stale.width_ms = done.width_ms
                        and stale.window_start_ms = done.window_start_ms
                        and stale.client_id = done.client_id and stale.target = done.target
                        and stale.family = done.family and stale.mark = done.mark",
                    &[
                        &number,
                        &keys.widths,
                        &keys.starts,
                        &keys.clients,
                        &keys.targets,
                        &keys.families,
                        &marks,
                    ],
                )
                .await?;
        }
        mark_stale(&session, partition, &commit.stale).await?;
        self.stored(put_rollups(&session, &commit.rollups).await)?;
        session.commit().await?;
        self.written(session).await?;
        Ok(CommitOutcome::Done)
    }
}

/// Keys as the columns of an array each.
#[derive(Default)]
pub(super) struct Keys<'a> {
    pub(super) widths: Vec<i64>,
    pub(super) starts: Vec<i64>,
    pub(super) clients: Vec<&'a str>,
    pub(super) targets: Vec<&'a str>,
    pub(super) families: Vec<i16>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(keys: impl Iterator<Item = &'a RollupKey>) -> Self {
        let mut columns = Self::default();
        for key in keys {
            columns.widths.push(key.width_ms);
            columns.starts.push(key.window_start_ms);
            columns.clients.push(key.client_id.as_str());
            columns.targets.push(&key.target);
            columns.families.push(i16::from(key.family.number()));
        }
        columns
    }
}

pub(super) async fn mark_stale(
    session: &Session,
    partition: PartitionId,
    stale: &[RollupKey],
) -> Result<(), StoreError> {
    if stale.is_empty() {
        return Ok(());
    }
    let distinct: BTreeSet<&RollupKey> = stale.iter().collect();
    let keys = Keys::of(distinct.into_iter());
    session
        .execute(
            "insert into stale_tiers as known
                (partition, width_ms, window_start_ms, client_id, target, family, mark)
             select $1, *, 1 from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::smallint[])
             on conflict (partition, width_ms, window_start_ms, client_id, target, family)
                do update set mark = known.mark + 1",
            &[
                &i32::from(partition.0),
                &keys.widths,
                &keys.starts,
                &keys.clients,
                &keys.targets,
                &keys.families,
            ],
        )
        .await?;
    Ok(())
}

/// Reads a key from the first five columns.
pub(super) fn key_of(session: &Session, row: &Row) -> Result<RollupKey, StoreError> {
    Ok(RollupKey {
        width_ms: session.get(row, 0)?,
        window_start_ms: session.get(row, 1)?,
        client_id: id(session.operation, row, 2)?,
        target: session.get(row, 3)?,
        family: family_of(session, row, 4)?,
    })
}

pub(super) fn family_of(session: &Session, row: &Row, column: usize) -> Result<Family, StoreError> {
    Ok(Family::from_number(u8::try_from(session.get::<i16>(row, column)?).unwrap_or(0)))
}
