//! The aggregator: reads the event stream and keeps the rollups.
//!
//! Any number of aggregators share the partitions of a stream. Each beats in the store and asks
//! `engine::lease` which partitions are its own; [`partition`] counts one of them, [`tiers`] merges its longer
//! windows. An aggregator that is told to stop commits what it has folded and gives its partitions up, so that
//! another goes on at once; one that is killed is replaced after its silence.
//!
//! While the store is away nothing is taken or given: what is in hand is kept, and commits are tried again.

mod partition;
mod progress;
mod tiers;
mod traced;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use caelum_drivers::{clock::Clock, traces::Tracer};
use caelum_engine::{
    lease::{Balancer, Move, View},
    window,
};
use caelum_model::id::{Offset, PartitionId};
use caelum_queue::Queue;
use caelum_store::{AggregatorRound, Ownership, Store};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;

pub use progress::{Held, Progress};

/// First wait before a partition that failed is taken again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait before a partition that failed is taken again.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The numbers an aggregator works by.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Partitions of the stream.
    pub partitions: u16,
    /// Longest time between commits while events come in; at most a second.
    pub commit_interval: Duration,
    /// Time between signs of life. A second where others share the store; long where nobody does.
    pub beat_interval: Duration,
    /// Time between merges of longer windows.
    pub tier_interval: Duration,
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
    /// Names the owner in the store: the same after a restart, and no other's.
    pub owner: String,
    /// The numbers.
    pub config: Config,
    /// What is going on, for whoever looks.
    pub progress: Arc<Progress>,
    /// Where it says what it did for traces.
    pub tracer: Tracer,
}

/// Partitions in hand.
#[derive(Default)]
struct Hands {
    running: JoinSet<anyhow::Result<()>>,
    /// Which task counts which partition, and how it is told to stop.
    tasks: BTreeMap<PartitionId, (Id, CancellationToken)>,
    /// Partitions that failed: when each may be taken again, and the wait after that.
    failed: BTreeMap<PartitionId, (Instant, Duration)>,
}

impl Aggregator {
    /// Counts until told to stop; what was folded by then is committed.
    pub async fn run(self, stop: CancellationToken) {
        let mut balancer = Balancer::new(self.owner.clone(), self.config.partitions);
        let mut hands = Hands::default();
        let mut beat = tokio::time::interval(self.config.beat_interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_beat = None;
        let mut is_away = false;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = beat.tick() => match self.beat().await {
                    Ok(round) => {
                        if std::mem::take(&mut is_away) {
                            tracing::info!(code = "aggregator.store_back", "the store answers again");
                        }
                        last_beat = own_beat(&round, &self.owner);
                        let moves = balancer.look(monotonic_ms(), &view_of(&round), &hands.held());
                        self.obey(moves, &mut hands).await;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_away, true) {
                            tracing::warn!(
                                code = "aggregator.beat_failed", %error,
                                "the store does not answer; partitions in hand are kept, none is taken"
                            );
                        }
                    }
                },
                Some(joined) = hands.running.join_next_with_id() => {
                    if hands.note_end(joined) {
                        // Whoever lost a partition for a passing reason asks for it again without waiting long.
                        beat.reset_after(RETRY_MIN.min(self.config.beat_interval));
                    }
                }
            }
        }
        self.let_go(&mut hands, last_beat).await;
    }

    async fn beat(&self) -> Result<AggregatorRound, caelum_store::StoreError> {
        self.store.aggregator_round(self.owner.clone(), self.progress.document()).await
    }

    async fn obey(&self, moves: Vec<Move>, hands: &mut Hands) {
        for step in moves {
            match step {
                Move::Take { partition, seen_fence } if hands.may_take(partition) => {
                    let stop = CancellationToken::new();
                    let task = partition::run(self.clone(), partition, seen_fence, stop.clone());
                    let id = hands.running.spawn(task).id();
                    hands.tasks.insert(partition, (id, stop));
                }
                Move::Take { .. } => {}
                Move::Release(partition) => {
                    if let Some((_, stop)) = hands.tasks.get(&partition) {
                        stop.cancel();
                    }
                }
                Move::Disown { partition, fence } => {
                    let left = Ownership { fence, offset: Offset(0) };
                    if let Err(error) = self.store.release_partition(partition, left).await {
                        tracing::debug!(code = "aggregator.release_failed", %error, "it is tried again");
                    }
                }
                Move::Forget { owner, beat } => {
                    tracing::info!(
                        code = "aggregator.forgotten",
                        owner,
                        "an aggregator has been silent for long"
                    );
                    if let Err(error) = self.store.forget_aggregator(owner, beat).await {
                        tracing::debug!(code = "aggregator.forget_failed", %error, "it is tried again later");
                    }
                }
            }
        }
    }

    /// Commits and gives up everything, and leaves no trace that others would wait for.
    async fn let_go(&self, hands: &mut Hands, last_beat: Option<u64>) {
        for (_, stop) in hands.tasks.values() {
            stop.cancel();
        }
        while let Some(joined) = hands.running.join_next_with_id().await {
            hands.note_end(joined);
        }
        if let Some(beat) = last_beat
            && let Err(error) = self.store.forget_aggregator(self.owner.clone(), beat).await
        {
            tracing::debug!(code = "aggregator.forget_failed", %error, "others forget this one by its silence");
        }
    }
}

impl Hands {
    fn held(&self) -> BTreeSet<PartitionId> {
        self.tasks.keys().copied().collect()
    }

    fn may_take(&self, partition: PartitionId) -> bool {
        !self.tasks.contains_key(&partition)
            && self.failed.get(&partition).is_none_or(|(again_at, _)| Instant::now() >= *again_at)
    }

    /// Takes a task that ended out of the hands. Answers whether it ended without being told to.
    fn note_end(&mut self, joined: Result<(Id, anyhow::Result<()>), JoinError>) -> bool {
        let (id, outcome) = match joined {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(anyhow::Error::new(error))),
        };
        let Some(partition) =
            self.tasks.iter().find(|(_, (task, _))| *task == id).map(|(partition, _)| *partition)
        else {
            return false;
        };
        self.tasks.remove(&partition);
        let Err(error) = outcome else {
            self.failed.remove(&partition);
            return false;
        };
        let wait = self.failed.get(&partition).map_or(RETRY_MIN, |(_, wait)| (*wait * 2).min(RETRY_MAX));
        self.failed.insert(partition, (Instant::now() + wait, wait));
        tracing::error!(
            code = "aggregator.partition_failed", %partition, wait_s = wait.as_secs(),
            "the partition is not counted by this aggregator until it is taken again: {error:#}"
        );
        true
    }
}

fn own_beat(round: &AggregatorRound, owner: &str) -> Option<u64> {
    round.members.iter().find(|member| member.owner == owner).map(|member| member.beat)
}

fn view_of(round: &AggregatorRound) -> View {
    View {
        members: round.members.iter().map(|member| (member.owner.clone(), member.beat)).collect(),
        owners: round
            .partitions
            .iter()
            .map(|status| (status.partition, (status.owner.clone(), status.fence)))
            .collect(),
    }
}

/// Milliseconds of a clock that nobody sets.
fn monotonic_ms() -> i64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    i64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(i64::MAX)
}
