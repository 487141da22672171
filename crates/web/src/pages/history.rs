//! What was measured, reduced to what pages show: one summary for each pair and stretch of time.
//!
//! Minute rows are merged, never averaged, into the stretches that a range is shown in. A stretch that has
//! been merged once is kept until a row in it changes, which the store tells by revision; so a page of
//! thirty days costs its reading once, and afterwards only what is new.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use caelum_engine::{score, sketch::Histogram};
use caelum_model::{
    UnixMs,
    event::{ErrorStage, Family},
    id::ClientId,
    rollup::{LastSeen, MINUTE_MS, Measure, Rollup},
};
use caelum_store::{RollupQuery, Store, StoreError};
use tokio::sync::Mutex;

use super::range::Range;

/// Rows read at once.
const PAGE_ROWS: usize = 4_000;
/// Changed rows looked at one by one; with more, everything kept is read again.
const CHANGES_MAX: usize = 4_000;
/// Stretches longer than this are not merged again for each event while they fill.
const CALM_SLOT_MS: i64 = 5 * 60_000;
/// How old the summary of a filling, long stretch may be, ms.
const CALM_MS: i64 = 15_000;

/// Probe, target and IP version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The probe.
    pub client_id: ClientId,
    /// The target's URL.
    pub target: String,
    /// IP version.
    pub family: Family,
}

/// A pair's stretch of time, reduced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reduced {
    /// Measurements.
    pub count: u64,
    /// Failed ones.
    pub errors: u64,
    /// Failures by stage.
    pub errors_by_stage: BTreeMap<ErrorStage, u64>,
    /// Medians, by measure.
    medians: [Option<f64>; Measure::ALL.len()],
    /// 90th percentile of whole measurements, ms, from ten samples up.
    pub whole_p90: Option<f64>,
    /// 95th percentile of whole measurements, ms, from twenty samples up.
    pub whole_p95: Option<f64>,
    /// 99th percentile of whole measurements from a hundred samples up, else the slowest, ms.
    pub whole_top: Option<f64>,
    /// 95th percentile of the first byte from twenty samples up, else the slowest, ms.
    pub ttfb_p95: Option<f64>,
    /// Mean loss of packet trains, percent.
    pub loss: Option<f64>,
    /// Experience, 0 to 100.
    pub experience: Option<f64>,
    /// Voice quality as a mean opinion score.
    pub voice: Option<f64>,
    /// What the newest measurement said.
    pub last: LastSeen,
}

impl Reduced {
    /// The median of a measure.
    pub fn median(&self, measure: Measure) -> Option<f64> {
        self.medians[measure as usize]
    }

    /// Share of failed measurements, percent.
    pub fn error_percent(&self) -> Option<f64> {
        (self.count > 0).then(|| self.errors as f64 * 100.0 / self.count as f64)
    }

    /// The summary of rows of one pair.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a Rollup>) -> Self {
        let mut merged: [Histogram; Measure::ALL.len()] = Default::default();
        let mut reduced = Self::default();
        for row in rows {
            reduced.count += row.count_total;
            reduced.errors += row.count_error;
            for (stage, count) in &row.errors_by_stage {
                *reduced.errors_by_stage.entry(*stage).or_default() += count;
            }
            for (measure, bytes) in &row.distributions {
                match Histogram::decode(bytes) {
                    Ok(histogram) => merged[*measure as usize].merge(&histogram),
                    Err(error) => {
                        tracing::warn!(target = row.key.target, %error, "a stored distribution is damaged")
                    }
                }
            }
            if row.last > reduced.last {
                reduced.last = row.last.clone();
            }
        }
        for measure in Measure::ALL {
            reduced.medians[measure as usize] = merged[measure as usize].quantile(0.5);
        }
        let (total, ttfb) = (&merged[Measure::Total as usize], &merged[Measure::Ttfb as usize]);
        // A packet train has no stages, so its round trip stands for the whole measurement.
        let rtt = &merged[Measure::Rtt as usize];
        let whole = if total.count() == 0 { rtt } else { total };
        reduced.whole_p90 = if whole.count() >= 10 { whole.quantile(0.9) } else { None };
        reduced.whole_p95 = if whole.count() >= 20 { whole.quantile(0.95) } else { None };
        reduced.whole_top = if whole.count() >= 100 { whole.quantile(0.99) } else { whole.max() };
        reduced.ttfb_p95 = if ttfb.count() >= 20 { ttfb.quantile(0.95) } else { ttfb.max() };
        let loss = &merged[Measure::Loss as usize];
        reduced.loss = loss.mean();
        reduced.experience = score::experience(whole, reduced.errors);
        reduced.voice = score::voice(rtt, loss);
        reduced
    }
}

/// All pairs in one stretch of time.
pub type Stretch = Vec<(Pair, Reduced)>;

/// A stretch with its start.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Start of the stretch.
    pub start_ms: UnixMs,
    /// What was measured in it, by pair.
    pub pairs: Arc<Stretch>,
}

impl Slot {
    /// Mean experience over pairs.
    pub fn experience(&self) -> Option<f64> {
        mean(self.pairs.iter().filter_map(|(_, reduced)| reduced.experience))
    }

    /// Mean voice quality over pairs that have one.
    pub fn voice(&self) -> Option<f64> {
        mean(self.pairs.iter().filter_map(|(_, reduced)| reduced.voice))
    }
}

/// The mean, none of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

/// The middle value, none of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[derive(Debug)]
struct Kept {
    read_at_ms: UnixMs,
    pairs: Arc<Stretch>,
}

#[derive(Debug, Default)]
struct Memory {
    rev: Option<i64>,
    kept: HashMap<(i64, UnixMs), Kept>,
}

/// Summaries that have been made, shared by all pages. At most 120 a range.
#[derive(Debug, Default)]
pub struct History {
    memory: Mutex<Memory>,
}

impl History {
    /// The stretches of a range that ends at `now_ms`, oldest first, empty ones included.
    pub async fn slots(&self, store: &Store, range: Range, now_ms: UnixMs) -> Result<Vec<Slot>, StoreError> {
        // Held while reading, so that several readers of the same stretch wait for one reading.
        let mut memory = self.memory.lock().await;
        memory.forget_changed(store, now_ms).await?;
        let width = range.slot_ms();
        let first = (now_ms - range.length_ms()).div_euclid(width) * width;
        memory.kept.retain(|(kept_width, start), kept| {
            let end = start + width;
            // What was merged while the stretch was filling lacks its end.
            let is_whole = end > now_ms || kept.read_at_ms >= end || width <= CALM_SLOT_MS;
            *kept_width != width || (*start >= first && *start <= now_ms && is_whole)
        });
        let starts: Vec<UnixMs> = std::iter::successors(Some(first), |start| Some(start + width))
            .take_while(|start| *start <= now_ms)
            .collect();
        let missing: Vec<UnixMs> =
            starts.iter().copied().filter(|start| !memory.kept.contains_key(&(width, *start))).collect();
        for run in missing.chunk_by(|a, b| b - a == width) {
            let (from, to) = (run[0], run[run.len() - 1] + width);
            let mut merged = read_stretches(store, width, from, to).await?;
            for start in run {
                let pairs = Arc::new(merged.remove(start).unwrap_or_default());
                memory.kept.insert((width, *start), Kept { read_at_ms: now_ms, pairs });
            }
        }
        // A long stretch that is still filling is read again when its summary has become old.
        if let Some(filling) = starts.last().filter(|_| width > CALM_SLOT_MS) {
            let key = (width, *filling);
            if memory.kept.get(&key).is_some_and(|kept| now_ms - kept.read_at_ms > CALM_MS) {
                let mut merged = read_stretches(store, width, *filling, filling + width).await?;
                let pairs = Arc::new(merged.remove(filling).unwrap_or_default());
                memory.kept.insert(key, Kept { read_at_ms: now_ms, pairs });
            }
        }
        Ok(starts
            .into_iter()
            .filter_map(|start_ms| {
                let pairs = Arc::clone(&memory.kept.get(&(width, start_ms))?.pairs);
                Some(Slot { start_ms, pairs })
            })
            .collect())
    }
}

impl Memory {
    /// Drops the summaries of stretches in which rows changed since the last look.
    async fn forget_changed(&mut self, store: &Store, now_ms: UnixMs) -> Result<(), StoreError> {
        let Some(rev) = self.rev else {
            self.rev = Some(store.newest_rev().await?);
            return Ok(());
        };
        let changed = store.rollups_since(rev, CHANGES_MAX).await?;
        let Some(last) = changed.last() else { return Ok(()) };
        if changed.len() == CHANGES_MAX {
            self.kept.clear();
            self.rev = Some(store.newest_rev().await?);
            return Ok(());
        }
        self.rev = Some(last.rev);
        for row in &changed {
            let window = row.rollup.key.window_start_ms;
            for range in Range::ALL {
                let width = range.slot_ms();
                let start = window.div_euclid(width) * width;
                // The stretch that is filling right now is renewed by age when it is long.
                let filling = now_ms < start + width;
                if width <= CALM_SLOT_MS || !filling {
                    self.kept.remove(&(width, start));
                }
            }
        }
        Ok(())
    }
}

/// Reads minute rows in [from, to) and merges them into stretches of `width`.
async fn read_stretches(
    store: &Store,
    width: i64,
    from_ms: UnixMs,
    to_ms: UnixMs,
) -> Result<HashMap<UnixMs, Stretch>, StoreError> {
    let mut stretches: HashMap<UnixMs, Stretch> = HashMap::new();
    let mut open: Vec<Rollup> = Vec::new();
    let mut after = None;
    loop {
        let rows = store
            .rollups(RollupQuery {
                width_ms: MINUTE_MS,
                from_ms: Some(from_ms),
                to_ms: Some(to_ms),
                after: after.take(),
                limit: PAGE_ROWS,
                ..RollupQuery::default()
            })
            .await?;
        let full = rows.len() == PAGE_ROWS;
        after = rows.last().map(|row| row.key.clone());
        for row in rows {
            let start = row.key.window_start_ms.div_euclid(width) * width;
            // Rows come ordered by window, so a row of the next stretch closes the one before.
            if open.first().is_some_and(|first| first.key.window_start_ms.div_euclid(width) * width != start)
            {
                close(&mut stretches, width, std::mem::take(&mut open));
            }
            open.push(row);
        }
        if !full {
            close(&mut stretches, width, open);
            return Ok(stretches);
        }
        // Merging a month takes a while; others get their turn between pages.
        tokio::task::yield_now().await;
    }
}

fn close(stretches: &mut HashMap<UnixMs, Stretch>, width: i64, rows: Vec<Rollup>) {
    let Some(first) = rows.first() else { return };
    let start = first.key.window_start_ms.div_euclid(width) * width;
    stretches.insert(start, by_pair(&rows));
}

/// Rows reduced pair by pair, in the order of pairs.
pub fn by_pair(rows: &[Rollup]) -> Stretch {
    let mut pairs: BTreeMap<Pair, Vec<&Rollup>> = BTreeMap::new();
    for row in rows {
        let key = &row.key;
        let pair = Pair { client_id: key.client_id.clone(), target: key.target.clone(), family: key.family };
        pairs.entry(pair).or_default().push(row);
    }
    pairs.into_iter().map(|(pair, rows)| (pair, Reduced::of(rows))).collect()
}

#[cfg(test)]
mod tests {
    use caelum_model::{
        id::{Offset, PartitionId},
        rollup::{RollupKey, RollupState},
    };
    use caelum_store::{Ownership, WindowCommit};

    use super::*;

    const MINUTE: i64 = 60_000;
    /// The start of a quarter of an hour.
    const START: i64 = 2_000_000 * 15 * MINUTE;

    struct Fixture {
        store: Store,
        owned: Ownership,
        history: History,
        _directory: tempfile::TempDir,
    }

    impl Fixture {
        async fn new() -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let store = Store::open(&directory.path().join("caelum.db")).expect("opens");
            let owned =
                store.take_partition(PartitionId(0), "test".into(), 0).await.expect("asked").expect("taken");
            Self { store, owned, history: History::default(), _directory: directory }
        }

        /// Stores that a minute has so many measurements of one millisecond.
        async fn put(&mut self, window_start_ms: UnixMs, count: u64) {
            let mut total = Histogram::default();
            for _ in 0..count {
                total.record(1.0).expect("finite");
            }
            let row = Rollup {
                key: RollupKey {
                    width_ms: MINUTE_MS,
                    window_start_ms,
                    client_id: ClientId::parse("probe").expect("valid"),
                    target: "tcp://192.0.2.1:1".into(),
                    family: Family::Any,
                },
                partition: PartitionId(0),
                count_total: count,
                count_success: count,
                count_error: 0,
                errors_by_stage: BTreeMap::new(),
                errors_by_class: BTreeMap::new(),
                distributions: [(Measure::Total, total.encode())].into(),
                late_merged: 0,
                last: LastSeen::default(),
                state: RollupState::Provisional,
                version: 1,
                updated_at_ms: window_start_ms,
            };
            let through = Offset(self.owned.offset.0 + 1);
            let commit = WindowCommit { rollups: vec![row], ..WindowCommit::default() };
            self.store.commit_windows(PartitionId(0), self.owned, through, commit).await.expect("stored");
            self.owned.offset = through;
        }

        /// Measurements in the newest stretches, newest first.
        async fn counts<const N: usize>(&self, range: Range, now_ms: UnixMs) -> [u64; N] {
            let slots = self.history.slots(&self.store, range, now_ms).await.expect("readable");
            let count = |slot: &Slot| slot.pairs.iter().map(|(_, reduced)| reduced.count).sum();
            std::array::from_fn(|index| count(&slots[slots.len() - 1 - index]))
        }
    }

    #[tokio::test]
    async fn a_changed_minute_is_read_again_and_the_others_are_kept() {
        let mut fixture = Fixture::new().await;
        fixture.put(START, 3).await;
        fixture.put(START + MINUTE, 4).await;
        let now = START + MINUTE + 5_000;
        assert_eq!(fixture.counts(Range::Hour, now).await, [4, 3]);
        fixture.put(START, 5).await;
        assert_eq!(fixture.counts(Range::Hour, now).await, [4, 5]);
    }

    #[tokio::test]
    async fn minutes_of_a_longer_stretch_are_merged() {
        let mut fixture = Fixture::new().await;
        for minute in 0..7 {
            fixture.put(START + minute * MINUTE, 1).await;
        }
        assert_eq!(fixture.counts(Range::SixHours, START + 7 * MINUTE).await, [2, 5]);
        assert_eq!(fixture.counts(Range::Day, START + 7 * MINUTE).await, [7, 0]);
    }

    #[tokio::test]
    async fn a_filling_stretch_is_renewed_by_age_and_is_whole_when_it_is_over() {
        let mut fixture = Fixture::new().await;
        fixture.put(START, 1).await;
        assert_eq!(fixture.counts(Range::Day, START + MINUTE).await, [1]);
        fixture.put(START + MINUTE, 1).await;
        assert_eq!(fixture.counts(Range::Day, START + MINUTE + 10_000).await, [1], "not yet old");
        assert_eq!(fixture.counts(Range::Day, START + MINUTE + 20_000).await, [2]);
        fixture.put(START + 14 * MINUTE, 1).await;
        assert_eq!(fixture.counts(Range::Day, START + 15 * MINUTE).await, [0, 3], "over and whole");
        fixture.put(START + 13 * MINUTE, 1).await;
        assert_eq!(fixture.counts(Range::Day, START + 16 * MINUTE).await, [0, 4], "late events count");
    }
}
