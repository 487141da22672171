//! Housekeeping: forgets what is older than it has to be.

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_store::{HistoryTier, Store, StoreError};
use tokio_util::sync::CancellationToken;

/// Time between rounds.
const INTERVAL: Duration = Duration::from_secs(300);
/// Rows dropped in one write, so that others get their turn.
const ROWS_A_WRITE: usize = 5_000;

/// Tasks dropped in one write; each may have much output.
const TASKS_A_WRITE: usize = 200;

const HOUR_MS: i64 = 3_600_000;
/// How long minutes of nodes' history are kept, hours: a month.
const MINUTES_KEPT_H: u64 = 31 * 24;
/// How long hours of nodes' history are kept, hours: two years.
const HOURS_KEPT_H: u64 = 731 * 24;
/// What is merged again in each round, for points that came a little late, ms.
const MERGED_AGAIN_MS: i64 = HOUR_MS;
/// What is merged again now and then, for points that nodes kept while nobody listened, ms.
const MERGED_ALL_MS: i64 = 48 * HOUR_MS;
/// Rounds between those.
const ROUNDS_ALL: u64 = 12;
/// How long alerts that are over, and notices, are kept, hours.
const ALERTS_KEPT_H: u64 = 90 * 24;

/// What the keeper stands on.
pub struct Keeper {
    /// Where records are kept.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long node history is kept, hours.
    pub history_hours: u64,
    /// How long rollups of each length are kept: length in ms, days.
    pub rollup_days: Vec<(i64, u64)>,
    /// How long verdicts are kept, days.
    pub verdict_days: u64,
    /// How long tasks are kept that are over, with their output, days.
    pub task_days: u64,
}

impl Keeper {
    /// Keeps house until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        for round in 0u64.. {
            if let Err(error) = self.sweep(round % ROUNDS_ALL == 0).await {
                tracing::warn!(code = "keeper.sweep_failed", %error, "old records could not be dropped; trying again later");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn sweep(&self, is_all: bool) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        let ago = |hours: u64| now_ms - i64::try_from(hours).unwrap_or(i64::MAX / HOUR_MS) * HOUR_MS;
        self.store.sweep_keys(now_ms).await?;
        self.merge_history(now_ms, if is_all { MERGED_ALL_MS } else { MERGED_AGAIN_MS }).await?;
        self.store.drop_node_points(whole(ago(self.history_hours), HOUR_MS)).await?;
        self.store.drop_node_tier(HistoryTier::Minute, whole(ago(MINUTES_KEPT_H), HOUR_MS)).await?;
        self.store.drop_node_tier(HistoryTier::Hour, ago(HOURS_KEPT_H)).await?;
        self.store.drop_alerts(ago(ALERTS_KEPT_H)).await?;
        self.store.drop_notices(ago(ALERTS_KEPT_H)).await?;
        for (width_ms, days) in &self.rollup_days {
            let from_ms = ago(days.saturating_mul(24));
            while self.store.drop_rollups(*width_ms, from_ms, ROWS_A_WRITE).await? == ROWS_A_WRITE {}
        }
        self.store.drop_diagnoses(ago(self.verdict_days.saturating_mul(24))).await?;
        let before_ms = ago(self.task_days.saturating_mul(24));
        while self.store.drop_tasks(before_ms, TASKS_A_WRITE).await? == TASKS_A_WRITE {}
        self.store.drop_pairs(ago(self.verdict_days.saturating_mul(24))).await?;
        Ok(())
    }

    /// Makes minutes of samples and hours of minutes, whole ones only. What is dropped are whole ones too, so
    /// that a step is merged again from all of its parts or not at all.
    async fn merge_history(&self, now_ms: i64, back_ms: i64) -> Result<(), StoreError> {
        for tier in HistoryTier::ALL {
            let from_ms = whole(now_ms - back_ms, HOUR_MS) - HOUR_MS;
            self.store.merge_node_tier(tier, from_ms, whole(now_ms, tier.width_ms())).await?;
        }
        Ok(())
    }
}

/// The beginning of the step that a time is in.
fn whole(at_ms: i64, width_ms: i64) -> i64 {
    at_ms.div_euclid(width_ms) * width_ms
}

#[cfg(test)]
mod tests {
    use caelum_drivers::clock::ManualClock;
    use caelum_model::{
        host::HostIdentity,
        id::NodeId,
        node::{LinkFacts, Node, NodePoint},
    };

    use super::*;

    #[tokio::test]
    async fn history_gets_coarser_with_age_and_no_hour_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(&directory.path().join("caelum.db")).expect("opens"));
        let begin_ms = 1_000 * HOUR_MS;
        let node = Node {
            node_id: NodeId::parse("n-1").expect("valid"),
            name: "box".into(),
            identity: HostIdentity::default(),
            roles: Vec::new(),
            version: "1".into(),
            joined_at_ms: 0,
            seen_at_ms: 0,
            sample: None,
            links: LinkFacts::default(),
        };
        for minute in 0..240 {
            let at_ms = begin_ms + minute * 60_000;
            let cpu_percent = (minute / 60) as f64 * 10.0;
            let point = NodePoint { at_ms, cpu_percent, ..NodePoint::default() };
            store.put_node(node.clone(), Some(point)).await.expect("stored");
        }
        let clock = Arc::new(ManualClock::new(begin_ms + 4 * HOUR_MS));
        let keeper = Keeper {
            store: Arc::clone(&store),
            clock: clock.clone(),
            history_hours: 4,
            rollup_days: Vec::new(),
            verdict_days: 1,
            task_days: 1,
        };
        let course = async || {
            let points =
                store.node_points(&node.node_id, begin_ms, begin_ms + 4 * HOUR_MS, 4).await.expect("read");
            points.iter().map(|point| point.cpu_percent).collect::<Vec<f64>>()
        };
        for hours in [4, 5, 7, 100] {
            clock.set(begin_ms + hours * HOUR_MS);
            keeper.sweep(true).await.expect("swept");
            assert_eq!(course().await, [0.0, 10.0, 20.0, 30.0], "{hours} hours on");
        }
        clock.set(begin_ms + 40 * 24 * HOUR_MS);
        keeper.sweep(true).await.expect("swept");
        assert_eq!(course().await, [0.0, 10.0, 20.0, 30.0], "of hours alone");
        clock.set(begin_ms + 800 * 24 * HOUR_MS);
        keeper.sweep(true).await.expect("swept");
        assert!(course().await.is_empty());
    }
}
