//! One window of one (probe, target, family) in memory.

use std::{cmp::Ordering, collections::BTreeMap};

use caelum_model::{
    UnixMs,
    details::Details,
    event::{ErrorStage, Event},
    id::PartitionId,
    rollup::{LastSeen, Measure, Rollup, RollupKey, RollupState, TracedPath},
};

use crate::sketch::{DecodeError, Histogram};

/// Named error classes a row; the rest are counted as [`OTHER`].
const CLASSES_MAX: usize = 16;
/// Bytes of an error class.
const CLASS_BYTES_MAX: usize = 48;
/// The class of everything beyond [`CLASSES_MAX`]; sorts after every named class.
const OTHER: &str = "~other";

#[derive(Debug)]
pub(super) struct Cell {
    count_total: u64,
    count_error: u64,
    errors_by_stage: BTreeMap<ErrorStage, u64>,
    errors_by_class: BTreeMap<String, u64>,
    distributions: [Histogram; Measure::ALL.len()],
    late_merged: u64,
    last: LastSeen,
    state: RollupState,
    version: u32,
    is_dirty: bool,
    /// An event was merged after settling and before the next commit.
    is_revised: bool,
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            count_total: 0,
            count_error: 0,
            errors_by_stage: BTreeMap::new(),
            errors_by_class: BTreeMap::new(),
            distributions: std::array::from_fn(|_| Histogram::default()),
            late_merged: 0,
            last: LastSeen::default(),
            state: RollupState::Provisional,
            version: 1,
            is_dirty: false,
            is_revised: false,
        }
    }
}

impl Cell {
    pub(super) fn of(rollup: &Rollup) -> Result<Self, DecodeError> {
        let mut cell = Self {
            count_total: rollup.count_total,
            count_error: rollup.count_error,
            errors_by_stage: rollup.errors_by_stage.clone(),
            errors_by_class: rollup.errors_by_class.clone(),
            late_merged: rollup.late_merged,
            last: rollup.last.clone(),
            state: rollup.state,
            version: rollup.version,
            ..Self::default()
        };
        for (measure, bytes) in &rollup.distributions {
            cell.distributions[*measure as usize] = Histogram::decode(bytes)?;
        }
        Ok(cell)
    }

    pub(super) fn count(&mut self, event: &Event) {
        self.count_total += 1;
        self.is_dirty = true;
        if self.state != RollupState::Provisional {
            self.late_merged += 1;
            self.is_revised = true;
        }
        if let Some(stage) = event.error_stage {
            self.count_error += 1;
            *self.errors_by_stage.entry(stage).or_default() += 1;
            self.count_class(class_of(event.error_detail.as_deref().unwrap_or(stage.as_str())));
        }
        let timings = &event.timings;
        self.record(Measure::Dns, timings.dns_ms);
        self.record(Measure::Tcp, timings.tcp_ms);
        self.record(Measure::Tls, timings.tls_ms);
        self.record(Measure::Ttfb, timings.http_ttfb_ms);
        if event.error_stage.is_none() {
            // The sum of a failed measurement is that of its first stages only and means nothing.
            self.record(Measure::Total, timings.total_ms());
        }
        self.record(Measure::Throughput, event.throughput_kbps);
        self.record(Measure::Rpm, event.rpm);
        if let Some(rtt) = &event.rtt {
            self.record(Measure::Loss, Some(rtt.loss_pct));
            if rtt.received > 0 {
                self.record(Measure::Rtt, Some(rtt.avg_ms));
                self.record(Measure::Jitter, Some(rtt.jitter_ms));
            }
        }
        if let Some(details) = &event.details {
            self.count_details(details);
        }
        self.look(event);
    }

    fn count_details(&mut self, details: &Details) {
        if let Some(one_way) = &details.one_way {
            let lost = |of: u32, reached: u32| {
                (of > 0).then(|| f64::from(of.saturating_sub(reached)) * 100.0 / f64::from(of))
            };
            self.record(Measure::LossOut, lost(one_way.sent, one_way.reached));
            self.record(Measure::LossBack, lost(one_way.reached, one_way.returned));
            // Below zero the clocks disagree by more than the way takes, and neither direction means anything.
            if one_way.returned > 0 && one_way.out_us >= 0 && one_way.back_us >= 0 {
                self.record(Measure::DelayOut, Some(one_way.out_us as f64 / 1000.0));
                self.record(Measure::DelayBack, Some(one_way.back_us as f64 / 1000.0));
            }
        }
        if let Some(loaded) = &details.loaded {
            self.record(Measure::Upload, loaded.upload_kbps.map(|kbps| kbps as f64));
            let slowest_us = loaded.down_us.max(loaded.up_us);
            self.record(Measure::Loaded, slowest_us.map(|us| f64::from(us) / 1000.0));
        }
    }

    fn record(&mut self, measure: Measure, value: Option<f64>) {
        if let Some(value) = value {
            // Intake refuses what cannot be measured; a record from an older version may still hold it,
            // and is then counted without that stage.
            let _ = self.distributions[measure as usize].record(value);
        }
    }

    /// Keeps what the newest event said; of two events at one moment the one that sorts last, so that the
    /// order of arrival does not matter.
    fn look(&mut self, event: &Event) {
        match event.ts_ms.cmp(&self.last.ts_ms) {
            Ordering::Less => {}
            Ordering::Equal => {
                let mut candidate = LastSeen { ts_ms: event.ts_ms, ..LastSeen::default() };
                take_over(&mut candidate, event);
                if candidate > self.last {
                    candidate.path = self.last.path.take();
                    self.last = candidate;
                }
            }
            Ordering::Greater => take_over(&mut self.last, event),
        }
        if let Some(details) = event.details.as_deref().filter(|details| !details.path.is_empty()) {
            let path = TracedPath { ts_ms: event.ts_ms, hops: details.path.clone() };
            self.last.path = self.last.path.take().max(Some(path));
        }
    }

    /// Of all classes seen the first in sorting order are named, which does not depend on who came first.
    fn count_class(&mut self, class: String) {
        *self.errors_by_class.entry(class).or_default() += 1;
        self.bound_classes();
    }

    fn bound_classes(&mut self) {
        while self.errors_by_class.keys().filter(|class| *class != OTHER).count() > CLASSES_MAX {
            let last = self.errors_by_class.keys().rfind(|class| *class != OTHER).cloned();
            if let Some(count) = last.and_then(|class| self.errors_by_class.remove(&class)) {
                *self.errors_by_class.entry(OTHER.to_owned()).or_default() += count;
            }
        }
    }

    /// Adds everything that another window counted. The result does not depend on the order of such calls.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.count_total += other.count_total;
        self.count_error += other.count_error;
        for (stage, count) in &other.errors_by_stage {
            *self.errors_by_stage.entry(*stage).or_default() += count;
        }
        for (class, count) in &other.errors_by_class {
            *self.errors_by_class.entry(class.clone()).or_default() += count;
        }
        self.bound_classes();
        for (own, others) in self.distributions.iter_mut().zip(&other.distributions) {
            own.merge(others);
        }
        self.late_merged += other.late_merged;
        let path = self.last.path.take().max(other.last.path.clone());
        if other.last > self.last {
            self.last = other.last.clone();
        }
        self.last.path = path;
        self.state = self.state.min(other.state);
        self.version = self.version.saturating_add(other.version);
    }

    pub(super) fn settle(&mut self, is_complete: bool) {
        if self.count_total == 0 {
            return;
        }
        let state = if is_complete { RollupState::Complete } else { RollupState::Settled };
        if state > self.state {
            self.state = state;
            self.is_dirty = true;
        }
    }

    pub(super) fn take_dirty(&mut self) -> bool {
        if std::mem::take(&mut self.is_revised) {
            self.version += 1;
        }
        std::mem::take(&mut self.is_dirty)
    }

    /// Whether it must stay in memory whatever its age.
    pub(super) fn is_needed(&self) -> bool {
        self.is_dirty || (self.state == RollupState::Provisional && self.count_total > 0)
    }

    pub(super) fn to_rollup(&self, key: RollupKey, partition: PartitionId, now_ms: UnixMs) -> Rollup {
        let distributions = Measure::ALL
            .into_iter()
            .map(|measure| (measure, &self.distributions[measure as usize]))
            .filter(|(_, histogram)| histogram.count() > 0)
            .map(|(measure, histogram)| (measure, histogram.encode()))
            .collect();
        Rollup {
            key,
            partition,
            count_total: self.count_total,
            count_success: self.count_total - self.count_error,
            count_error: self.count_error,
            errors_by_stage: self.errors_by_stage.clone(),
            errors_by_class: self.errors_by_class.clone(),
            distributions,
            late_merged: self.late_merged,
            last: self.last.clone(),
            state: self.state,
            version: self.version,
            updated_at_ms: now_ms,
        }
    }
}

/// Writes what an event said over what was there, reusing its memory: this happens for nearly every event.
fn take_over(last: &mut LastSeen, event: &Event) {
    last.ts_ms = event.ts_ms;
    put_text(&mut last.resolver, event.resolver.as_deref());
    put_text(&mut last.remote_ip, event.remote_ip.as_deref());
    let detail = || event.error_detail.as_deref().unwrap_or_default().to_owned();
    last.error = event.error_stage.map(|stage| (stage, detail()));
    // The path has a place of its own: it is traced less often than anything else is measured.
    last.details =
        event.details.as_deref().map(|details| Box::new(Details { path: Vec::new(), ..details.clone() }));
}

fn put_text(place: &mut Option<String>, text: Option<&str>) {
    match (place, text) {
        (Some(place), Some(text)) => text.clone_into(place),
        (place, text) => *place = text.map(str::to_owned),
    }
}

/// A short word of few kinds for a failure: its text with each number replaced by `#`, so that addresses and
/// durations do not make classes of their own.
fn class_of(detail: &str) -> String {
    let mut class = String::new();
    let mut in_number = false;
    for c in detail.chars() {
        if class.len() >= CLASS_BYTES_MAX {
            break;
        }
        if c.is_ascii_digit() {
            if !in_number {
                class.push('#');
            }
            in_number = true;
        } else {
            class.push(if c == '~' { '-' } else { c });
            in_number = false;
        }
    }
    class
}
