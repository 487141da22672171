//! Merging longer windows: the owner of a partition works its stale ones off.
//!
//! A longer row is made of the stored shorter rows and replaces what was there, so a merge that is repeated
//! after a crash changes nothing. A mark that grew while its window was merged stays, and the window is merged
//! again.

use std::{collections::HashMap, sync::atomic::Ordering};

use anyhow::Context;
use caelum_engine::window::tier;
use caelum_model::{
    id::PartitionId,
    rollup::{Rollup, RollupKey},
};
use caelum_store::{CommitOutcome, StaleTier, TierCommit};

use super::Aggregator;

/// Windows merged in one write.
const WINDOWS_A_WRITE: usize = 200;

/// Merges every stale window of a partition, shortest lengths first. Answers false where the partition is not
/// this owner's any more.
pub(super) async fn merge_stale(
    aggregator: &Aggregator,
    partition: PartitionId,
    fence: u64,
) -> anyhow::Result<bool> {
    for lengths in tier::WIDTHS_MS.windows(2) {
        let &[part_width_ms, width_ms] = lengths else { continue };
        loop {
            let stale = aggregator.store.stale_tiers(partition, width_ms, WINDOWS_A_WRITE).await?;
            let is_last = stale.len() < WINDOWS_A_WRITE;
            if stale.is_empty() {
                break;
            }
            let rollups = merged(aggregator, partition, &stale, part_width_ms).await?;
            let rows = rollups.len() as u64;
            let commit = TierCommit { stale: tier::wholes_of(&rollups), rollups, done: stale };
            match aggregator.store.commit_tiers(partition, fence, commit).await? {
                CommitOutcome::Done => aggregator.progress.rows.fetch_add(rows, Ordering::Relaxed),
                CommitOutcome::NotOwner => return Ok(false),
            };
            if is_last {
                break;
            }
        }
    }
    Ok(true)
}

async fn merged(
    aggregator: &Aggregator,
    partition: PartitionId,
    stale: &[StaleTier],
    part_width_ms: i64,
) -> anyhow::Result<Vec<Rollup>> {
    let wholes: Vec<RollupKey> = stale.iter().map(|window| window.key.clone()).collect();
    let mut parts: HashMap<RollupKey, Vec<Rollup>> = HashMap::new();
    for part in aggregator.store.rollups_within(wholes, part_width_ms).await? {
        if let Some(whole) = tier::whole_of(&part.key) {
            parts.entry(whole).or_default().push(part);
        }
    }
    let now_ms = aggregator.clock.now_ms();
    let merged = parts.into_iter().map(|(key, parts)| tier::merge(key, partition, &parts, now_ms));
    let rows: Result<Vec<Option<Rollup>>, _> = merged.collect();
    Ok(rows.context("failed to read a stored distribution")?.into_iter().flatten().collect())
}
