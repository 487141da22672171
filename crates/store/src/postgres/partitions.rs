//! Who owns which partition, and how far each has got.
//!
//! An owner holds a partition by its fence: every commit names it, and it grows with each change of owner.
//! Whether an owner is alive is judged by those who watch its beat, not here.

use caelum_model::id::{Offset, PartitionId};
use tokio_postgres::Row;

use super::{
    Postgres,
    session::{Session, unsigned},
};
use crate::{AggregatorBeat, AggregatorRound, Ownership, PartitionStatus, PipelineTotals, StoreError};

const BEATS: &str = "select owner, beat, document from aggregators order by owner";
const STATUSES: &str = "select partition, owner, fence, position, counted, duplicates, too_late
    from partitions order by partition";

impl Postgres {
    /// Beats for an aggregator, and answers with everybody's beats and with the partitions as they stand.
    pub async fn aggregator_round(
        &self,
        owner: String,
        document: String,
    ) -> Result<AggregatorRound, StoreError> {
        let session = self.session("beat for an aggregator").await?;
        let beat = session
            .prepare(
                "insert into aggregators as known (owner, beat, document) values ($1, 1, $2)
                 on conflict (owner) do update set beat = known.beat + 1, document = excluded.document",
            )
            .await?;
        let (members, partitions) = (session.prepare(BEATS).await?, session.prepare(STATUSES).await?);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&owner, &document];
        let (_, members, partitions) = tokio::try_join!(
            biased;
            session.run(&beat, &params),
            session.ask(&members, &[]),
            session.ask(&partitions, &[]),
        )?;
        Ok(AggregatorRound {
            members: beats(&session, &members)?,
            partitions: statuses(&session, &partitions)?,
        })
    }

    /// Everybody's beats and the partitions as they stand, without beating.
    pub async fn aggregators(&self) -> Result<Vec<AggregatorBeat>, StoreError> {
        let session = self.session("list aggregators").await?;
        let rows = session.rows(BEATS, &[]).await?;
        beats(&session, &rows)
    }

    /// Forgets an aggregator, if it has not beaten since.
    pub async fn forget_aggregator(&self, owner: String, beat: u64) -> Result<bool, StoreError> {
        let session = self.session("forget an aggregator").await?;
        let gone = session
            .execute("delete from aggregators where owner = $1 and beat = $2", &[&owner, &beat.cast_signed()])
            .await?;
        Ok(gone > 0)
    }

    /// Takes a partition for a new owner, if its fence is still the one seen (0 where there was no row): the
    /// fence grows, so that the owner before can commit nothing more.
    pub async fn take_partition(
        &self,
        partition: PartitionId,
        owner: String,
        seen_fence: u64,
    ) -> Result<Option<Ownership>, StoreError> {
        let session = self.session("take a partition").await?;
        let row = session
            .row(
                "insert into partitions as known (partition, owner, fence, position) values ($1, $2, 1, 0)
                 on conflict (partition) do update set owner = excluded.owner, fence = known.fence + 1
                    where known.fence = $3
                 returning fence, position",
                &[&i32::from(partition.0), &owner, &seen_fence.cast_signed()],
            )
            .await?;
        row.map(|row| {
            Ok(Ownership {
                fence: unsigned(session.operation, &row, 0)?,
                offset: Offset(unsigned(session.operation, &row, 1)?),
            })
        })
        .transpose()
    }

    /// Gives a partition up, so that another takes it without waiting for this owner's silence.
    pub async fn release_partition(
        &self,
        partition: PartitionId,
        owned: Ownership,
    ) -> Result<bool, StoreError> {
        let session = self.session("release a partition").await?;
        let released = session
            .execute(
                "update partitions set owner = '' where partition = $1 and fence = $2",
                &[&i32::from(partition.0), &owned.fence.cast_signed()],
            )
            .await?;
        Ok(released > 0)
    }

    /// Forgets how far every partition has got, for another stream: what is counted stays counted, and whoever
    /// owns a partition loses it. Answers how many partitions there are.
    pub async fn restart_offsets(&self) -> Result<usize, StoreError> {
        let session = self.session("forget offsets").await?;
        let restarted = session
            .execute(
                "update partitions set owner = '', fence = fence + 1, position = 0, last_commit = 0",
                &[],
            )
            .await?;
        Ok(usize::try_from(restarted).unwrap_or(usize::MAX))
    }

    /// The partitions as they stand.
    pub async fn partitions(&self) -> Result<Vec<PartitionStatus>, StoreError> {
        let session = self.session("list partitions").await?;
        let rows = session.rows(STATUSES, &[]).await?;
        statuses(&session, &rows)
    }

    /// Sums over all partitions.
    pub async fn pipeline_totals(&self) -> Result<PipelineTotals, StoreError> {
        let session = self.stale_session("sum up partitions").await?;
        let row = session
            .row(
                "select coalesce(sum(counted), 0)::bigint, coalesce(sum(duplicates), 0)::bigint,
                    coalesce(sum(too_late), 0)::bigint from partitions",
                &[],
            )
            .await?;
        let Some(row) = row else { return Ok(PipelineTotals::default()) };
        Ok(PipelineTotals {
            counted: unsigned(session.operation, &row, 0)?,
            duplicates: unsigned(session.operation, &row, 1)?,
            too_late: unsigned(session.operation, &row, 2)?,
        })
    }
}

fn beats(session: &Session, rows: &[Row]) -> Result<Vec<AggregatorBeat>, StoreError> {
    rows.iter()
        .map(|row| {
            Ok(AggregatorBeat {
                owner: session.get(row, 0)?,
                beat: unsigned(session.operation, row, 1)?,
                document: session.get(row, 2)?,
            })
        })
        .collect()
}

fn statuses(session: &Session, rows: &[Row]) -> Result<Vec<PartitionStatus>, StoreError> {
    rows.iter()
        .map(|row| {
            Ok(PartitionStatus {
                partition: partition(session, row, 0)?,
                owner: session.get(row, 1)?,
                fence: unsigned(session.operation, row, 2)?,
                offset: Offset(unsigned(session.operation, row, 3)?),
                counted: unsigned(session.operation, row, 4)?,
                duplicates: unsigned(session.operation, row, 5)?,
                too_late: unsigned(session.operation, row, 6)?,
            })
        })
        .collect()
}

/// Reads the number of a partition.
pub(super) fn partition(session: &Session, row: &Row, column: usize) -> Result<PartitionId, StoreError> {
    // Numbers of partitions come from us and fit; a damaged one is at least not another's.
    Ok(PartitionId(u16::try_from(session.get::<i32>(row, column)?).unwrap_or(u16::MAX)))
}
