//! Who owns which partition, and how far each has got.
//!
//! An owner holds a partition by its fence: every commit names it, and it grows with each change of owner.
//! Whether an owner is alive is judged by those who watch its beat, not here.

use caelum_model::id::{Offset, PartitionId};
use rusqlite::{OptionalExtension, params};

use super::{Sqlite, unsigned};
use crate::{AggregatorBeat, AggregatorRound, Ownership, PartitionStatus, PipelineTotals, StoreError};

impl Sqlite {
    /// Beats for an aggregator, and answers with everybody's beats and with the partitions as they stand.
    pub async fn aggregator_round(
        &self,
        owner: String,
        document: String,
    ) -> Result<AggregatorRound, StoreError> {
        self.write("beat for an aggregator", move |transaction| {
            transaction
                .prepare_cached(
                    "insert into aggregators (owner, beat, document) values (?1, 1, ?2)
                     on conflict (owner) do update set beat = beat + 1, document = excluded.document",
                )?
                .execute(params![owner, document])?;
            let members = transaction
                .prepare_cached("select owner, beat, document from aggregators order by owner")?
                .query_map([], |row| {
                    Ok(AggregatorBeat { owner: row.get(0)?, beat: unsigned(row, 1)?, document: row.get(2)? })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(AggregatorRound { members, partitions: statuses(transaction)? })
        })
        .await
    }

    /// Everybody's beats and the partitions as they stand, without beating.
    pub async fn aggregators(&self) -> Result<Vec<AggregatorBeat>, StoreError> {
        self.read("list aggregators", |connection| {
            connection
                .prepare_cached("select owner, beat, document from aggregators order by owner")?
                .query_map([], |row| {
                    Ok(AggregatorBeat { owner: row.get(0)?, beat: unsigned(row, 1)?, document: row.get(2)? })
                })?
                .collect()
        })
        .await
    }

    /// Forgets an aggregator, if it has not beaten since.
    pub async fn forget_aggregator(&self, owner: String, beat: u64) -> Result<bool, StoreError> {
        self.write("forget an aggregator", move |transaction| {
            let gone = transaction.execute(
                "delete from aggregators where owner = ?1 and beat = ?2",
                params![owner, beat.cast_signed()],
            )?;
            Ok(gone > 0)
        })
        .await
    }

    /// Takes a partition for a new owner, if its fence is still the one seen (0 where there was no row): the
    /// fence grows, so that the owner before can commit nothing more.
    pub async fn take_partition(
        &self,
        partition: PartitionId,
        owner: String,
        seen_fence: u64,
    ) -> Result<Option<Ownership>, StoreError> {
        self.write("take a partition", move |transaction| {
            transaction
                .query_row(
                    "insert into partitions (partition, owner, fence, offset) values (?1, ?2, 1, 0)
                     on conflict (partition) do update set owner = excluded.owner, fence = fence + 1
                        where fence = ?3
                     returning fence, offset",
                    params![partition.0, owner, seen_fence.cast_signed()],
                    |row| Ok(Ownership { fence: unsigned(row, 0)?, offset: Offset(unsigned(row, 1)?) }),
                )
                .optional()
        })
        .await
    }

    /// Gives a partition up, so that another takes it without waiting for this owner's silence.
    pub async fn release_partition(
        &self,
        partition: PartitionId,
        owned: Ownership,
    ) -> Result<bool, StoreError> {
        self.write("release a partition", move |transaction| {
            let released = transaction.execute(
                "update partitions set owner = '' where partition = ?1 and fence = ?2",
                params![partition.0, owned.fence.cast_signed()],
            )?;
            Ok(released > 0)
        })
        .await
    }

    /// Forgets how far every partition has got, for another stream: what is counted stays counted, and whoever
    /// owns a partition loses it. Answers how many partitions there are.
    pub async fn restart_offsets(&self) -> Result<usize, StoreError> {
        self.write("forget offsets", move |transaction| {
            transaction.execute(
                "update partitions set owner = '', fence = fence + 1, offset = 0, last_commit = 0",
                [],
            )
        })
        .await
    }

    /// The partitions as they stand.
    pub async fn partitions(&self) -> Result<Vec<PartitionStatus>, StoreError> {
        self.read("list partitions", statuses).await
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
}

fn statuses(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<PartitionStatus>> {
    connection
        .prepare_cached(
            "select partition, owner, fence, offset, counted, duplicates, too_late
             from partitions order by partition",
        )?
        .query_map([], |row| {
            Ok(PartitionStatus {
                partition: PartitionId(row.get(0)?),
                owner: row.get(1)?,
                fence: unsigned(row, 2)?,
                offset: Offset(unsigned(row, 3)?),
                counted: unsigned(row, 4)?,
                duplicates: unsigned(row, 5)?,
                too_late: unsigned(row, 6)?,
            })
        })?
        .collect()
}
