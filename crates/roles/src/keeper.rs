//! Housekeeping: forgets what is older than it has to be.

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// Time between rounds.
const INTERVAL: Duration = Duration::from_secs(300);
/// Rows dropped in one write, so that others get their turn.
const ROWS_A_WRITE: usize = 5_000;

/// Tasks dropped in one write; each may have much output.
const TASKS_A_WRITE: usize = 200;

const HOUR_MS: i64 = 3_600_000;

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
        loop {
            if let Err(error) = self.sweep().await {
                tracing::warn!(code = "keeper.sweep_failed", %error, "old records could not be dropped; trying again later");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        let ago = |hours: u64| now_ms - i64::try_from(hours).unwrap_or(i64::MAX / HOUR_MS) * HOUR_MS;
        self.store.sweep_keys(now_ms).await?;
        self.store.drop_node_points(ago(self.history_hours)).await?;
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
}
