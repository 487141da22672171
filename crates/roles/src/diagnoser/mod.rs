//! The diagnoser: follows the rollups and keeps the verdicts.
//!
//! It reads every row that a commit wrote after the last one it knows, judges each window of a pair once it
//! is as good as full, and stores what changed. What it holds in memory ([`pairs`]) is a cache: it is
//! rebuilt from the last hours of rollups at start, after a failure of the store, and for a single pair when
//! a late event changed a window that had been judged. Verdicts given before a start stand, unless such an
//! event revises them.
//!
//! A window that all pairs have been judged for is looked at as a whole ([`located`]): what is wrong at which
//! place becomes an incident. Where several diagnosers share a store, one at a time judges ([`crate::lease`]).

mod located;
mod pairs;
mod places;
pub mod progress;
pub mod replay;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_engine::{alert, diagnose::Config};
use caelum_model::{
    UnixMs,
    alert::{Notice, NoticeChannel, NoticeKind},
    incident::Incident,
    node::Level,
    rollup::{MINUTE_MS, Rollup, RollupKey},
};
use caelum_store::{IncidentQuery, NoticeQuery, RollupQuery, Store, StoreError};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Change},
    lease::{self, Lease},
    quiet,
};
use located::Located;
use pairs::{PairKey, Pairs, Rewrite};
use places::Places;
use progress::Progress;

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
/// Where it notes the newest window that it has looked at as a whole.
const LOCATED_THROUGH: &str = "diagnoser.located_through";
/// Time between looks at groups and machines.
const PLACES_INTERVAL: Duration = Duration::from_secs(60);
/// Stored incidents that are read again at start.
const INCIDENTS_MAX: usize = 10_000;
/// Pairs learn what is usual in the first windows that are read: incidents from before are not found again.
const LEARNING_MS: i64 = 60 * MINUTE_MS;
/// While loading, windows this far behind what was read last are looked at: all of their rows are there.
const LOAD_BEHIND_MS: i64 = 5 * MINUTE_MS;

/// What a diagnoser stands on.
pub struct Diagnoser {
    /// Where rollups come from and verdicts go.
    pub store: Arc<Store>,
    /// Where news comes from and goes.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Its name among several that share a store, of whom one at a time judges; none where nobody else can.
    pub owner: Option<String>,
    /// Where it shows how it gets on.
    pub progress: Arc<Progress>,
}

impl Diagnoser {
    /// Judges until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        while !stop.is_cancelled() {
            let started = Instant::now();
            match self.lead(&stop).await {
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => tracing::warn!(
                    code = "diagnoser.lease_lost",
                    "another diagnoser judges now; this one waits for its turn"
                ),
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

    /// Waits for its turn, then follows until told to stop, or somebody else's turn has come.
    async fn lead(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let Some(owner) = &self.owner else { return self.follow(stop).await };
        let lease =
            Lease::new(lease::DIAGNOSER, Arc::clone(&self.store), Arc::clone(&self.clock), owner.clone());
        let taken = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = lease.take() => taken,
        };
        taken?;
        self.progress.set_leading(true);
        let own_stop = stop.child_token();
        let followed = tokio::select! {
            followed = self.follow(&own_stop) => followed,
            lost = lease.keep() => lost,
        };
        self.progress.set_leading(false);
        if stop.is_cancelled() {
            lease.give_back().await?;
        }
        followed
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
        let horizon_ms = now_ms - HISTORY_MS;
        let said = self.said(horizon_ms).await?;
        let open_before = said
            .iter()
            .filter(|said| {
                said.closed_window_ms.is_none() && said.opened_window_ms < horizon_ms + LEARNING_MS
            })
            .cloned()
            .collect();
        let mut located = Located::new(Places::load(&self.store).await?, open_before);
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
            located.take(pairs.take_shown());
            if let Some(last) = page.last() {
                located.look_before(last.key.window_start_ms - LOAD_BEHIND_MS);
            }
            if is_last {
                break;
            }
        }
        located.look(&pairs, now_ms);
        let through: Option<i64> = self.store.fact(LOCATED_THROUGH).await?.and_then(|ms| ms.parse().ok());
        located.reconcile(&said, through);
        let read_through = noted.map_or(newest_rev, |rev| rev.min(newest_rev));
        tracing::info!(
            code = "diagnoser.loaded",
            pairs = pairs.len(),
            "verdicts go on from the stored rollups"
        );
        Ok(Following {
            pairs,
            located,
            places_at: Instant::now(),
            read_through,
            loaded_through: newest_rev,
            noted_at: Instant::now(),
            noted,
            noted_located: through,
        })
    }

    /// Incidents that were not over before a time.
    async fn said(&self, from_ms: UnixMs) -> Result<Vec<Incident>, StoreError> {
        let query =
            IncidentQuery { from_ms: Some(from_ms), limit: INCIDENTS_MAX, ..IncidentQuery::default() };
        self.store.incidents(query).await
    }

    /// Reads what is new, judges, and stores what changed.
    async fn look(&self, following: &mut Following) -> Result<(), StoreError> {
        let (now_ms, began) = (self.clock.now_ms(), Instant::now());
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
        if following.places_at.elapsed() >= PLACES_INTERVAL {
            following.located.replace_places(Places::load(&self.store).await?);
            following.places_at = Instant::now();
        }
        following.located.take(following.pairs.take_shown());
        following.located.look(&following.pairs, now_ms);
        self.store_incidents(&mut following.located).await?;
        following.pairs.forget_unseen(now_ms);
        self.progress.looked(&following.pairs, &following.located, now_ms, began.elapsed());
        following.note(self, NOTE_INTERVAL).await
    }

    async fn store_incidents(&self, located: &mut Located) -> Result<(), StoreError> {
        let changes = located.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        let notices = self.notices(&changes.incidents).await?;
        self.store.put_incidents(changes.incidents.clone(), changes.withdrawn.clone(), notices).await?;
        located.tell(&changes);
        self.bus.publish(Change::IncidentsChanged);
        Ok(())
    }

    /// What people are told of these incidents. A notice that is there already is not made again, so an
    /// incident that opens once more, or is found again, is told of once; its end is told where its beginning was.
    async fn notices(&self, incidents: &[Incident]) -> Result<Vec<Notice>, StoreError> {
        let settings = self.store.notice_settings().await?.unwrap_or_default();
        let now_ms = self.clock.now_ms();
        let hush_until_ms = quiet::until(&settings.quiet_hours, None, now_ms);
        let mut notices = Vec::new();
        for incident in incidents {
            if incident.closed_window_ms.is_none() {
                let kind = NoticeKind::Failure;
                notices.extend(alert::of_incident(incident, kind, now_ms, hush_until_ms, &settings.channels));
                continue;
            }
            let query =
                NoticeQuery { subject_id: Some(incident.id.clone()), limit: PAGE, ..NoticeQuery::default() };
            let told = self.store.notices(query).await?;
            let was_told = |name: &str| {
                told.iter().any(|notice| notice.channel == name && notice.kind == NoticeKind::Failure)
            };
            let channels: Vec<NoticeChannel> = settings
                .channels
                .iter()
                .filter(|channel| was_told(&channel.name))
                .map(|channel| NoticeChannel { least: Level::Healthy, ..channel.clone() })
                .collect();
            notices.extend(alert::of_incident(
                incident,
                NoticeKind::Recovery,
                now_ms,
                hush_until_ms,
                &channels,
            ));
        }
        Ok(notices)
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
    located: Located,
    places_at: Instant,
    read_through: i64,
    /// Rows of commits up to here may have been read while loading.
    loaded_through: i64,
    noted: Option<i64>,
    noted_at: Instant,
    noted_located: Option<UnixMs>,
}

impl Following {
    /// Notes how far the rollups have been read, so that a late event that is merged while nobody looks is
    /// found at the next start.
    async fn note(&mut self, diagnoser: &Diagnoser, interval: Duration) -> Result<(), StoreError> {
        let is_due = self.noted.is_none() || self.noted_at.elapsed() >= interval;
        let located = self.located.newest_ms();
        if is_due && located.is_some() && located != self.noted_located {
            if let Some(newest_ms) = located {
                diagnoser.store.put_fact(LOCATED_THROUGH, newest_ms.to_string()).await?;
            }
            self.noted_located = located;
        }
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
