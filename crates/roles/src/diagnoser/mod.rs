//! The diagnoser: follows the rollups and keeps the verdicts.
//!
//! It reads every row that a commit wrote after the last one it knows, judges each window of a pair once it
//! is as good as full, and stores what changed. What it holds in memory ([`pairs`]) is a cache: it is
//! rebuilt from the last hours of rollups at start, after a failure of the store, and for a single pair when
//! a late event changed a window that had been judged. Verdicts given before a start stand, unless such an
//! event revises them.

mod pairs;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_engine::diagnose::Config;
use caelum_model::{
    UnixMs,
    rollup::{Rollup, RollupKey},
};
use caelum_store::{RollupQuery, Store, StoreError};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Change};
use pairs::{PairKey, Pairs, Rewrite};

/// Rows read at once.
const PAGE: usize = 1_000;
/// Rows that one commit may have written; reading since a commit takes whole commits.
const COMMIT_ROWS_MAX: usize = 200_000;
/// What is read again at start and for a revised window: long enough for the windows that make up what is
/// usual, and a deviation of six hours.
const HISTORY_MS: i64 = 8 * 3_600_000;
/// Shortest time between looks at the store.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time between looks at the store, whatever the news.
const TICK: Duration = Duration::from_secs(15);
/// Time between notes of how far the rollups have been read.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);
/// Pairs read again in one look; the others wait for the next.
const REPLAYS_MAX: usize = 64;
/// Writes under way at once, so that they share commits.
const WRITES: usize = 32;
/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Where it notes how far it has read.
const READ_THROUGH: &str = "diagnoser.read_through";

/// What a diagnoser stands on.
pub struct Diagnoser {
    /// Where rollups come from and verdicts go.
    pub store: Arc<Store>,
    /// Where news comes from and goes.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Diagnoser {
    /// Judges until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        while !stop.is_cancelled() {
            let started = Instant::now();
            match self.follow(&stop).await {
                Ok(()) => return,
                Err(error) => tracing::error!(
                    code = "diagnoser.store_failed", %error,
                    "verdicts stand still until the store answers; trying again"
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

    /// Loads, then follows until told to stop or the store fails.
    async fn follow(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut news = self.bus.subscribe();
        let mut following = self.load().await?;
        loop {
            let looked_at = Instant::now();
            self.look(&mut following).await?;
            let is_behind = following.pairs.has_replays();
            tokio::select! {
                () = stop.cancelled() => {
                    return following.note(self, Duration::ZERO).await;
                }
                () = wait_for_news(&mut news), if !is_behind => {}
                () = tokio::time::sleep(TICK), if !is_behind => {}
                () = std::future::ready(()), if is_behind => {}
            }
            tokio::select! {
                () = stop.cancelled() => {
                    return following.note(self, Duration::ZERO).await;
                }
                () = tokio::time::sleep_until(looked_at + INTERVAL) => {}
            }
        }
    }

    /// Everything known about pairs, from the rollups of the last hours.
    async fn load(&self) -> Result<Following, StoreError> {
        let newest_rev = self.store.newest_rev().await?;
        let noted: Option<i64> = self.store.fact(READ_THROUGH).await?.and_then(|rev| rev.parse().ok());
        let mut pairs = Pairs::new(Config::default(), self.store.pair_statuses().await?);
        let now_ms = self.clock.now_ms();
        let mut query =
            RollupQuery { from_ms: Some(now_ms - HISTORY_MS), limit: PAGE, ..RollupQuery::default() };
        loop {
            let page = self.store.rollups(query.clone()).await?;
            let is_last = page.len() < PAGE;
            query.after = page.last().map(|rollup| rollup.key.clone());
            for rollup in &page {
                pairs.take_stored(rollup, now_ms);
            }
            pairs.judge_ready();
            if is_last {
                break;
            }
        }
        let read_through = noted.map_or(newest_rev, |rev| rev.min(newest_rev));
        tracing::info!(
            code = "diagnoser.loaded",
            pairs = pairs.len(),
            "verdicts go on from the stored rollups"
        );
        Ok(Following { pairs, read_through, loaded_through: newest_rev, noted_at: Instant::now(), noted })
    }

    /// Reads what is new, judges, and stores what changed.
    async fn look(&self, following: &mut Following) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        let mut limit = PAGE;
        loop {
            let mut rows = self.store.rollups_since(following.read_through, limit).await?;
            let is_last = rows.len() < limit;
            if !is_last {
                // The last commit may have written more than fits.
                let cut = rows.last().map_or(0, |row| row.rev);
                if rows.first().is_some_and(|row| row.rev == cut) && limit < COMMIT_ROWS_MAX {
                    limit *= 2;
                    continue;
                }
                if rows.first().is_some_and(|row| row.rev != cut) {
                    rows.retain(|row| row.rev != cut);
                }
            }
            for row in &rows {
                let was_loaded = row.rev <= following.loaded_through;
                following.pairs.take(&row.rollup, now_ms, was_loaded);
            }
            following.read_through = rows.last().map_or(following.read_through, |row| row.rev);
            following.pairs.judge_ready();
            if is_last {
                break;
            }
        }
        for (key, from_ms) in following.pairs.take_replays(REPLAYS_MAX) {
            let rows = self.history(&key, from_ms).await?;
            following.pairs.replay(&key, from_ms, &rows);
        }
        self.store_verdicts(following.pairs.take_rewrites()).await?;
        following.pairs.forget_unseen(now_ms);
        following.note(self, NOTE_INTERVAL).await
    }

    /// The rows of a pair from some hours before a time on.
    async fn history(&self, key: &PairKey, from_ms: UnixMs) -> Result<Vec<Rollup>, StoreError> {
        let mut query = RollupQuery {
            client_id: Some(key.client_id.as_str().to_owned()),
            target: Some(key.target.clone()),
            from_ms: Some(from_ms - HISTORY_MS),
            limit: PAGE,
            ..RollupQuery::default()
        };
        let mut rows = Vec::new();
        loop {
            let page = self.store.rollups(query.clone()).await?;
            let is_last = page.len() < PAGE;
            query.after = page.last().map(|rollup| RollupKey::clone(&rollup.key));
            rows.extend(page.into_iter().filter(|rollup| rollup.key.family == key.family));
            if is_last {
                return Ok(rows);
            }
        }
    }

    async fn store_verdicts(&self, rewrites: Vec<Rewrite>) -> Result<(), StoreError> {
        if rewrites.is_empty() {
            return Ok(());
        }
        stream::iter(rewrites)
            .map(|rewrite| self.store_verdict(rewrite))
            .buffer_unordered(WRITES)
            .try_collect::<()>()
            .await?;
        self.bus.publish(Change::DiagnosesChanged);
        Ok(())
    }

    async fn store_verdict(&self, mut rewrite: Rewrite) -> Result<(), StoreError> {
        if rewrite.is_revision {
            let status = &rewrite.status;
            let before = self
                .store
                .pair_diagnoses(status.client_id.as_str(), &status.target, status.family, rewrite.from_ms)
                .await?;
            rewrite.count_revisions(&before);
        }
        self.store.put_verdicts(rewrite.status, rewrite.from_ms, rewrite.diagnoses).await
    }
}

/// What is in memory, and how far the rollups have been read into it.
struct Following {
    pairs: Pairs,
    read_through: i64,
    /// Rows of commits up to here may have been read while loading.
    loaded_through: i64,
    noted: Option<i64>,
    noted_at: Instant,
}

impl Following {
    /// Notes how far the rollups have been read, so that a late event that is merged while nobody looks is
    /// found at the next start.
    async fn note(&mut self, diagnoser: &Diagnoser, interval: Duration) -> Result<(), StoreError> {
        let is_due = self.noted.is_none() || self.noted_at.elapsed() >= interval;
        if !is_due || self.noted == Some(self.read_through) || self.pairs.has_replays() {
            return Ok(());
        }
        diagnoser.store.put_fact(READ_THROUGH, self.read_through.to_string()).await?;
        self.noted = Some(self.read_through);
        self.noted_at = Instant::now();
        Ok(())
    }
}

/// Returns when rollups have changed, or news was missed.
async fn wait_for_news(news: &mut Receiver<Change>) {
    loop {
        match news.recv().await {
            Ok(Change::RollupsChanged) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            // The sender lives as long as this role; without it only the tick is left.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
