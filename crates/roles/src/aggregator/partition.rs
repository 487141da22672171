//! Counting one partition while it is owned.
//!
//! The loop reads records after the stored offset, folds them into `engine::window::Partition`, and commits
//! rows, seen ranges and offset in one transaction, at most [`super::Config::commit_interval`] apart while
//! events come in. Records are trimmed after their commit. A commit that fails is tried again with the same
//! content; nothing else is folded meanwhile. A partition that somebody else has taken is dropped with
//! everything in memory.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, anyhow};
use caelum_drivers::traces::Timer;
use caelum_engine::window::{Changes, Missing, Partition, Replay, Stored, window_start};
use caelum_model::{
    event::{Batch, Event},
    id::{Offset, PartitionId},
};
use caelum_queue::{QueueError, Record};
use caelum_store::{CommitOutcome, DeadLetter, DeadLetterState, Ownership, StoreError, WindowCommit};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Aggregator, Held, tiers, traced::Traced};
use crate::{
    bus::Change,
    ingest::record::{self, RecordError, Stored as StoredRecord},
};

/// Records read at once.
const READ_MAX: usize = 64;
/// Time between looks at the clock while nothing comes in.
const TICK: Duration = Duration::from_secs(1);
/// Time between trims of a partition.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// Time between looks for events that are to be counted after all.
const REPLAY_INTERVAL: Duration = Duration::from_secs(2);
/// Events counted after all in one commit.
const REPLAYS_A_COMMIT: usize = 256;
/// First wait after a refused commit or an unreachable queue; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Takes a partition and counts until told to stop, or until something makes it let go.
pub(super) async fn run(
    aggregator: Aggregator,
    id: PartitionId,
    seen_fence: u64,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Some(mut owned) = Owned::take(&aggregator, id, seen_fence).await? else {
        tracing::debug!(code = "aggregator.taken_by_other", partition = %id, "another was faster");
        return Ok(());
    };
    aggregator.progress.taken.fetch_add(1, Ordering::Relaxed);
    tracing::info!(
        code = "aggregator.partition_taken", partition = %id, fence = owned.ownership.fence,
        offset = %owned.ownership.offset, "counting a partition"
    );
    let ended = owned.count(&aggregator, &stop).await;
    aggregator.progress.drop_held(id);
    match ended? {
        End::Stopped => {
            if let Err(error) = aggregator.store.release_partition(id, owned.ownership).await {
                tracing::debug!(code = "aggregator.release_failed", %error, "others take it after a silence");
            }
        }
        End::Lost => tracing::warn!(
            code = "aggregator.partition_lost", partition = %id,
            "another aggregator has taken the partition; what was not committed is counted there"
        ),
    }
    Ok(())
}

/// How counting ended without a fault.
enum End {
    /// Told to stop; everything is committed.
    Stopped,
    /// Somebody else owns it.
    Lost,
}

/// A partition while it is owned.
struct Owned {
    id: PartitionId,
    ownership: Ownership,
    /// Everything through here is in `partition`.
    folded: Offset,
    partition: Partition,
    /// Records that could not be read, to be kept aside with the next commit.
    damaged: Vec<DeadLetter>,
    committed_at: Instant,
    trimmed_at: Instant,
    trimmed: Offset,
    merged_at: Instant,
    /// Whether rows were committed since longer windows were merged last.
    is_stale: bool,
    replays_looked_at: Instant,
    /// Traces of what is folded and not committed.
    traced: Traced,
}

impl Owned {
    async fn take(aggregator: &Aggregator, id: PartitionId, seen_fence: u64) -> anyhow::Result<Option<Self>> {
        let (store, config) = (&aggregator.store, &aggregator.config);
        let now_ms = aggregator.clock.now_ms();
        let resident_from_ms = window_start(now_ms - config.window.resident_ms);
        let Some(ownership) = store.take_partition(id, aggregator.owner.clone(), seen_fence).await? else {
            return Ok(None);
        };
        let mut rollups = store.partition_rollups(id, resident_from_ms).await?;
        let unsettled = store.unsettled_rollups(id).await?;
        rollups.extend(unsettled.into_iter().filter(|row| row.key.window_start_ms < resident_from_ms));
        let stored = Stored {
            rollups,
            resident_from_ms,
            seen: store.seen_ranges(id).await?,
            ids: store.seen_ids(id).await?,
        };
        let partition = Partition::restore(id, config.window, stored, now_ms)
            .context("failed to read a stored distribution")?;
        let now = Instant::now();
        let owned = Self {
            id,
            ownership,
            folded: ownership.offset,
            partition,
            damaged: Vec::new(),
            committed_at: now,
            trimmed_at: now,
            trimmed: Offset(0),
            merged_at: now,
            // Whoever had it before may have left some.
            is_stale: true,
            replays_looked_at: now,
            traced: Traced::default(),
        };
        owned.show(aggregator);
        Ok(Some(owned))
    }

    async fn count(&mut self, aggregator: &Aggregator, stop: &CancellationToken) -> anyhow::Result<End> {
        let mut appended = aggregator.queue.appended();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry = RETRY_MIN;
        let mut is_away = false;
        loop {
            // Whatever is appended from here on changes the watch again.
            appended.mark_unchanged();
            let may_be_more = match self.fold_next(aggregator).await {
                Ok(may_be_more) => {
                    (retry, is_away) = (RETRY_MIN, false);
                    may_be_more
                }
                Err(FoldError::Away(reason)) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(
                            code = "aggregator.backend_away", partition = %self.id, reason,
                            "counting waits until it answers; nothing is lost"
                        );
                    }
                    wait(retry, stop).await;
                    retry = (retry * 2).min(RETRY_MAX);
                    false
                }
                Err(FoldError::Other(error)) => return Err(error),
            };
            let is_due = self.committed_at.elapsed() >= aggregator.config.commit_interval;
            if (is_due || stop.is_cancelled())
                && let CommitOutcome::NotOwner = self.commit(aggregator, stop).await?
            {
                return Ok(End::Lost);
            }
            if stop.is_cancelled() {
                return Ok(End::Stopped);
            }
            if may_be_more {
                tokio::task::yield_now().await;
                continue;
            }
            if self.is_stale && self.merged_at.elapsed() >= aggregator.config.tier_interval {
                (self.is_stale, self.merged_at) = (false, Instant::now());
                if !self.merge_tiers(aggregator).await? {
                    return Ok(End::Lost);
                }
            }
            let is_behind = self.folded > self.ownership.offset;
            let due = self.committed_at + aggregator.config.commit_interval;
            tokio::select! {
                () = stop.cancelled() => {}
                changed = appended.changed() => changed.context("the queue is closed")?,
                () = tokio::time::sleep_until(due), if is_behind => {}
                _ = tick.tick() => {}
            }
        }
    }

    /// Folds what was kept aside and asked for, and one read's worth of records. Answers whether there may be
    /// more.
    async fn fold_next(&mut self, aggregator: &Aggregator) -> Result<bool, FoldError> {
        self.fold_replays(aggregator).await?;
        if aggregator.queue.newest(self.id).is_some_and(|newest| newest <= self.folded) {
            return Ok(false);
        }
        let records = match aggregator.queue.read(self.id, self.folded, READ_MAX).await {
            Ok(records) => records,
            Err(QueueError::Unavailable { reason, .. }) => return Err(FoldError::Away(reason)),
            Err(other) => return Err(FoldError::Other(other.into())),
        };
        let may_be_more = records.len() == READ_MAX;
        for record in records {
            let timer = aggregator.tracer.is_on().then(Timer::start);
            if let Some(stored) = self.read(aggregator, &record)? {
                self.fold(aggregator, &stored.batch).await?;
                if let Some(timer) = timer {
                    self.traced.fold(&aggregator.tracer, &timer, self.id, &record, &stored.traces);
                }
            }
            self.folded = record.offset;
        }
        Ok(may_be_more)
    }

    /// A damaged record holds nothing that could be counted: it is kept aside, loudly. One of a newer version
    /// would be lost by that, so it stops the partition instead.
    fn read(&mut self, aggregator: &Aggregator, record: &Record) -> anyhow::Result<Option<StoredRecord>> {
        match record::decode(&record.bytes) {
            Ok(stored) => Ok(Some(stored)),
            Err(error @ RecordError::Version(Some(_))) => Err(error.into()),
            Err(error) => {
                tracing::error!(
                    code = "aggregator.record_damaged", partition = %self.id, offset = %record.offset,
                    events = record.events, %error, "a record cannot be read; it is kept aside"
                );
                aggregator.progress.damaged.fetch_add(1, Ordering::Relaxed);
                self.damaged.push(damaged_letter(self.id, record, &error, aggregator.clock.now_ms()));
                Ok(None)
            }
        }
    }

    async fn fold(&mut self, aggregator: &Aggregator, batch: &Batch) -> Result<(), FoldError> {
        let Err(missing) = self.partition.fold(batch) else { return Ok(()) };
        self.load(aggregator, &missing).await?;
        self.partition.fold(batch).map_err(FoldError::still_missing)
    }

    /// Brings rows that a fold asked for into memory.
    async fn load(&mut self, aggregator: &Aggregator, missing: &Missing) -> Result<(), FoldError> {
        let found = aggregator.store.rollups_by_keys(missing.0.clone()).await?;
        let provided = self.partition.provide(missing, &found);
        provided.context("failed to read a stored distribution").map_err(FoldError::Other)
    }

    /// Counts events that were kept aside and asked for since. They are marked in the commit that counts them,
    /// and looked for again only after it.
    async fn fold_replays(&mut self, aggregator: &Aggregator) -> Result<(), FoldError> {
        if self.replays_looked_at.elapsed() < REPLAY_INTERVAL || self.partition.has_replays() {
            return Ok(());
        }
        self.replays_looked_at = Instant::now();
        let letters = aggregator.store.requested_replays(self.id, REPLAYS_A_COMMIT).await?;
        let replays: Vec<Replay> = letters.into_iter().filter_map(replay_of).collect();
        if replays.is_empty() {
            return Ok(());
        }
        let Err(missing) = self.partition.replay(&replays) else { return Ok(()) };
        self.load(aggregator, &missing).await?;
        self.partition.replay(&replays).map_err(FoldError::still_missing)
    }

    /// Stores what changed. Tries again until it is stored, the partition is lost, or the store is closed.
    async fn commit(
        &mut self,
        aggregator: &Aggregator,
        stop: &CancellationToken,
    ) -> anyhow::Result<CommitOutcome> {
        let now_ms = aggregator.clock.now_ms();
        self.partition.settle(now_ms);
        let changes = self.partition.take_changes(now_ms);
        self.committed_at = Instant::now();
        if changes.is_empty() && self.damaged.is_empty() && self.folded == self.ownership.offset {
            self.partition.evict(now_ms);
            self.trim(aggregator).await?;
            return Ok(CommitOutcome::Done);
        }
        let has_rollups = !changes.rollups.is_empty();
        let timer = self.traced.is_waiting().then(Timer::start);
        let commit = to_commit(self.id, changes, std::mem::take(&mut self.damaged), now_ms);
        let mut retry = RETRY_MIN;
        loop {
            let stored =
                aggregator.store.commit_windows(self.id, self.ownership, self.folded, commit.clone()).await;
            match stored {
                Ok(CommitOutcome::Done) => break,
                Ok(CommitOutcome::NotOwner) => return Ok(CommitOutcome::NotOwner),
                Err(error) if error.is_transient() && !stop.is_cancelled() => {
                    aggregator.progress.commits_retried.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        code = "aggregator.commit_retried", partition = %self.id, %error,
                        "the store refused; nothing is lost, trying again"
                    );
                    wait(retry, stop).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.note(aggregator, &commit);
        if let Some(timer) = timer {
            self.traced.commit(&aggregator.tracer, &timer, self.id, self.folded, commit.rollups.len());
        }
        self.ownership.offset = self.folded;
        self.partition.evict(aggregator.clock.now_ms());
        self.is_stale |= !commit.stale_tiers.is_empty();
        self.committed_at = Instant::now();
        self.show(aggregator);
        if has_rollups {
            aggregator.bus.publish(Change::RollupsChanged);
        }
        self.trim(aggregator).await?;
        Ok(CommitOutcome::Done)
    }

    fn note(&self, aggregator: &Aggregator, commit: &WindowCommit) {
        let progress = &aggregator.progress;
        let took = self.committed_at.elapsed();
        for (counter, by) in [
            (&progress.counted, commit.counted),
            (&progress.duplicates, commit.duplicates),
            (&progress.too_late, commit.too_late),
            (&progress.replayed, commit.replayed.len() as u64),
            (&progress.rows, commit.rollups.len() as u64),
            (&progress.commits, 1),
            (&progress.commit_us, u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        ] {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    fn show(&self, aggregator: &Aggregator) {
        let held = Held {
            fence: self.ownership.fence,
            committed: self.ownership.offset,
            windows: self.partition.windows(),
        };
        aggregator.progress.hold(self.id, held);
    }

    /// Merges longer windows. A store that is away only puts it off.
    async fn merge_tiers(&mut self, aggregator: &Aggregator) -> anyhow::Result<bool> {
        match tiers::merge_stale(aggregator, self.id, self.ownership.fence).await {
            Ok(is_owner) => Ok(is_owner),
            Err(error) if is_transient(&error) => {
                self.is_stale = true;
                tracing::warn!(
                    code = "aggregator.merge_put_off", partition = %self.id,
                    "longer windows are merged later: {error:#}"
                );
                Ok(true)
            }
            Err(error) => Err(error.context("failed to merge longer windows")),
        }
    }

    /// Forgets records that are counted. They are only room: a queue that does not answer is asked later.
    async fn trim(&mut self, aggregator: &Aggregator) -> anyhow::Result<()> {
        if self.ownership.offset <= self.trimmed || self.trimmed_at.elapsed() < TRIM_INTERVAL {
            return Ok(());
        }
        self.trimmed_at = Instant::now();
        match aggregator.queue.trim(self.id, self.ownership.offset).await {
            Ok(()) => self.trimmed = self.ownership.offset,
            Err(error @ QueueError::Closed { .. }) => return Err(error.into()),
            Err(error) => tracing::debug!(code = "aggregator.trim_put_off", %error, "trimmed later"),
        }
        Ok(())
    }
}

/// Why records could not be folded. What was not folded is read again.
enum FoldError {
    /// The queue or the store does not answer; it may later.
    Away(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl FoldError {
    fn still_missing(missing: Missing) -> Self {
        Self::Other(anyhow!("{} rows are missing after they were provided", missing.0.len()))
    }
}

impl From<StoreError> for FoldError {
    fn from(error: StoreError) -> Self {
        if error.is_transient() { Self::Away(error.to_string()) } else { Self::Other(error.into()) }
    }
}

impl From<anyhow::Error> for FoldError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

async fn wait(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::is_transient)
}

/// A letter whose event cannot be read stays where it is.
fn replay_of(letter: DeadLetter) -> Option<Replay> {
    match serde_json::from_str::<Event>(&letter.document) {
        Ok(event) => Some(Replay { id: letter.id, client_id: letter.client_id, event }),
        Err(error) => {
            tracing::warn!(
                code = "aggregator.replay_unreadable", id = letter.id, %error,
                "what was kept aside is not an event that can be counted"
            );
            None
        }
    }
}

fn damaged_letter(partition: PartitionId, record: &Record, error: &RecordError, now_ms: i64) -> DeadLetter {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.encode(&record.bytes);
    DeadLetter {
        id: 0,
        partition,
        kept_at_ms: now_ms,
        client_id: caelum_model::id::ClientId::parse("unknown").expect("a plain word is a valid id"),
        ts_ms: now_ms,
        reason: "record_damaged".into(),
        state: DeadLetterState::Kept,
        document: serde_json::json!({
            "offset": record.offset.0, "events": record.events, "error": error.to_string(), "bytes": bytes,
        })
        .to_string(),
    }
}

fn to_commit(
    partition: PartitionId,
    changes: Changes,
    mut dead_letters: Vec<DeadLetter>,
    now_ms: i64,
) -> WindowCommit {
    dead_letters.extend(changes.dead.into_iter().map(|dead| DeadLetter {
        id: 0,
        partition,
        kept_at_ms: now_ms,
        client_id: dead.client_id,
        ts_ms: dead.event.ts_ms,
        reason: dead.reason.as_str().to_owned(),
        state: DeadLetterState::Kept,
        document: serde_json::to_string(&dead.event).expect("an event in memory has a JSON form"),
    }));
    WindowCommit {
        rollups: changes.rollups,
        seen: changes.seen,
        new_ids: changes.new_ids,
        forget_ids_before_minute: changes.forget_ids_before_minute,
        stale_tiers: changes.stale_tiers,
        dead_letters,
        replayed: changes.replayed,
        counted: changes.counted,
        duplicates: changes.duplicates,
        too_late: changes.too_late,
    }
}
