//! The aggregator: reads the event stream and keeps the rollups.
//!
//! One loop a partition. It reads records after the stored offset, folds them into
//! `engine::window::Partition`, and commits rows, seen ranges and offset in one transaction, at most
//! [`Config::commit_interval`] apart while events come in. Records are trimmed after their commit. A commit
//! that fails is tried again with the same content; nothing else is folded meanwhile. A partition that
//! somebody else has taken is dropped with everything in memory, and taken again from the store.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use caelum_drivers::clock::Clock;
use caelum_engine::window::{self, Changes, Partition, Stored, window_start};
use caelum_model::{
    event::Batch,
    id::{Offset, PartitionId},
};
use caelum_queue::{Queue, Record};
use caelum_store::{CommitOutcome, DeadLetter, DeadLetterState, Ownership, Store, WindowCommit};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Change},
    ingest::record::{self, RecordError},
};

/// Records read at once.
const READ_MAX: usize = 64;
/// Time between looks at the clock while nothing comes in.
const TICK: Duration = Duration::from_secs(1);
/// Time between trims of a partition.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The numbers an aggregator works by.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Partitions of the stream.
    pub partitions: u16,
    /// Longest time between commits while events come in; at most a second.
    pub commit_interval: Duration,
    /// How windows are kept.
    pub window: window::Config,
}

/// What an aggregator stands on.
#[derive(Clone)]
pub struct Aggregator {
    /// The event stream.
    pub queue: Arc<dyn Queue>,
    /// Where rollups are kept.
    pub store: Arc<Store>,
    /// Where news of new rollups goes.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Names the owner in the store.
    pub owner: String,
    /// The numbers.
    pub config: Config,
}

impl Aggregator {
    /// Runs every partition until told to stop; what was folded by then is committed.
    pub async fn run(self, stop: CancellationToken) {
        let mut partitions = JoinSet::new();
        for n in 0..self.config.partitions {
            let own = self.clone();
            let stop = stop.clone();
            partitions.spawn(async move { own.run_partition(PartitionId(n), stop).await });
        }
        while let Some(joined) = partitions.join_next().await {
            if let Err(error) = joined {
                tracing::error!(code = "aggregator.partition_ended", %error, "a partition's loop ended unexpectedly");
            }
        }
    }

    async fn run_partition(self, id: PartitionId, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        while !stop.is_cancelled() {
            let started = Instant::now();
            match self.own_partition(id, &stop).await {
                Ok(()) => return,
                Err(error) => tracing::error!(
                    code = "aggregator.partition_failed", partition = %id,
                    "the partition is not counted until it can be taken again: {error:#}"
                ),
            }
            if started.elapsed() > RETRY_MAX {
                retry = RETRY_MIN;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
            }
        }
    }

    /// Takes a partition and counts until told to stop, or until something makes it let go.
    async fn own_partition(&self, id: PartitionId, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut owned = self.take(id).await?;
        let mut appended = self.queue.appended();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Whatever is appended from here on changes the watch again.
            appended.mark_unchanged();
            let mut is_behind = owned.fold_available(self).await?;
            let is_due = owned.committed_at.elapsed() >= self.config.commit_interval;
            if is_due || stop.is_cancelled() {
                owned.commit(self, stop).await?;
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            if is_behind {
                tokio::task::yield_now().await;
                continue;
            }
            is_behind = owned.folded > owned.ownership.offset;
            let due = owned.committed_at + self.config.commit_interval;
            tokio::select! {
                () = stop.cancelled() => {}
                changed = appended.changed() => changed.context("the queue is closed")?,
                () = tokio::time::sleep_until(due), if is_behind => {}
                _ = tick.tick() => {}
            }
        }
    }

    async fn take(&self, id: PartitionId) -> anyhow::Result<Owned> {
        let now_ms = self.clock.now_ms();
        let resident_from_ms = window_start(now_ms - self.config.window.resident_ms);
        let partitions = self.store.partitions().await?;
        let seen_fence =
            partitions.iter().find(|status| status.partition == id).map_or(0, |status| status.fence);
        let ownership = self
            .store
            .take_partition(id, self.owner.clone(), seen_fence)
            .await?
            .with_context(|| format!("another aggregator took partition {id} first"))?;
        let mut rollups = self.store.partition_rollups(id, resident_from_ms).await?;
        let unsettled = self.store.unsettled_rollups(id).await?;
        rollups.extend(unsettled.into_iter().filter(|row| row.key.window_start_ms < resident_from_ms));
        let stored = Stored {
            rollups,
            resident_from_ms,
            seen: self.store.seen_ranges(id).await?,
            ids: self.store.seen_ids(id).await?,
        };
        let partition = Partition::restore(id, self.config.window, stored, now_ms)
            .context("failed to read a stored distribution")?;
        Ok(Owned {
            id,
            ownership,
            folded: ownership.offset,
            partition,
            committed_at: Instant::now(),
            trimmed_at: Instant::now(),
            trimmed: Offset(0),
        })
    }
}

/// A partition while it is owned.
struct Owned {
    id: PartitionId,
    ownership: Ownership,
    /// Everything through here is in `partition`.
    folded: Offset,
    partition: Partition,
    committed_at: Instant,
    trimmed_at: Instant,
    trimmed: Offset,
}

impl Owned {
    /// Folds one read's worth of records. Answers whether there may be more.
    async fn fold_available(&mut self, aggregator: &Aggregator) -> anyhow::Result<bool> {
        if aggregator.queue.newest(self.id).is_some_and(|newest| newest <= self.folded) {
            return Ok(false);
        }
        let records = aggregator.queue.read(self.id, self.folded, READ_MAX).await?;
        let may_be_more = records.len() == READ_MAX;
        for record in records {
            if let Some(batch) = self.read(&record)? {
                self.fold(aggregator, &batch).await?;
            }
            self.folded = record.offset;
        }
        Ok(may_be_more)
    }

    /// A damaged record holds nothing that could be counted: it is passed over, loudly. One of a newer
    /// version would be lost by that, so it stops the partition instead.
    fn read(&self, record: &Record) -> anyhow::Result<Option<Batch>> {
        match record::decode(&record.bytes) {
            Ok(batch) => Ok(Some(batch)),
            Err(error @ RecordError::Version(Some(_))) => Err(error.into()),
            Err(error) => {
                tracing::error!(
                    code = "aggregator.record_damaged", partition = %self.id, offset = %record.offset,
                    events = record.events, %error, "a record cannot be read; its events are lost"
                );
                Ok(None)
            }
        }
    }

    async fn fold(&mut self, aggregator: &Aggregator, batch: &Batch) -> anyhow::Result<()> {
        let Err(missing) = self.partition.fold(batch) else { return Ok(()) };
        let found = aggregator.store.rollups_by_keys(missing.0.clone()).await?;
        self.partition.provide(&missing, &found).context("failed to read a stored distribution")?;
        self.partition
            .fold(batch)
            .map_err(|missing| anyhow!("{} rows are missing after they were provided", missing.0.len()))
    }

    /// Stores what changed. Tries again until it is stored, the partition is lost, or the store is closed.
    async fn commit(&mut self, aggregator: &Aggregator, stop: &CancellationToken) -> anyhow::Result<()> {
        let now_ms = aggregator.clock.now_ms();
        self.partition.settle(now_ms);
        let changes = self.partition.take_changes(now_ms);
        self.committed_at = Instant::now();
        if changes.is_empty() && self.folded == self.ownership.offset {
            self.partition.evict(now_ms);
            return self.trim(aggregator, TRIM_INTERVAL).await;
        }
        let has_rollups = !changes.rollups.is_empty();
        let commit = to_commit(changes, now_ms);
        let mut retry = RETRY_MIN;
        loop {
            let stored =
                aggregator.store.commit_windows(self.id, self.ownership, self.folded, commit.clone()).await;
            match stored {
                Ok(CommitOutcome::Done) => break,
                Ok(CommitOutcome::NotOwner) => {
                    return Err(anyhow!("another aggregator has taken partition {}", self.id));
                }
                Err(error) if error.is_transient() && !stop.is_cancelled() => {
                    tracing::warn!(
                        code = "aggregator.commit_retried", partition = %self.id, %error,
                        "the store refused; nothing is lost, trying again"
                    );
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.ownership.offset = self.folded;
        self.committed_at = Instant::now();
        self.partition.evict(aggregator.clock.now_ms());
        if has_rollups {
            aggregator.bus.publish(Change::RollupsChanged);
        }
        self.trim(aggregator, TRIM_INTERVAL).await
    }

    async fn trim(&mut self, aggregator: &Aggregator, interval: Duration) -> anyhow::Result<()> {
        if self.ownership.offset > self.trimmed && self.trimmed_at.elapsed() >= interval {
            aggregator.queue.trim(self.id, self.ownership.offset).await?;
            self.trimmed = self.ownership.offset;
            self.trimmed_at = Instant::now();
        }
        Ok(())
    }
}

fn to_commit(changes: Changes, now_ms: i64) -> WindowCommit {
    let dead_letters = changes
        .dead
        .into_iter()
        .map(|dead| DeadLetter {
            id: 0,
            partition: PartitionId(0),
            kept_at_ms: now_ms,
            state: DeadLetterState::Kept,
            client_id: dead.client_id,
            ts_ms: dead.event.ts_ms,
            reason: dead.reason.as_str().to_owned(),
            document: serde_json::to_string(&dead.event).expect("an event in memory has a JSON form"),
        })
        .collect();
    WindowCommit {
        rollups: changes.rollups,
        seen: changes.seen,
        new_ids: changes.new_ids,
        forget_ids_before_minute: changes.forget_ids_before_minute,
        stale_tiers: Vec::new(),
        dead_letters,
        replayed: Vec::new(),
        counted: changes.counted,
        duplicates: changes.duplicates,
        too_late: changes.too_late,
    }
}
