//! One window of one pair as the detector sees it: a number a measure, and failures by stage.

use caelum_model::{
    UnixMs,
    event::ErrorStage,
    rollup::{Measure, Rollup},
};

use crate::sketch::{DecodeError, Histogram};

/// The measures that verdicts look at, in the order in which they are kept.
pub(super) const WATCHED: [Measure; 7] = [
    Measure::Dns,
    Measure::Tcp,
    Measure::Tls,
    Measure::Ttfb,
    Measure::Throughput,
    Measure::Rtt,
    Measure::Loss,
];

/// One measure in one window. Single precision: hundreds are kept for each pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The median; for loss the mean, since the median of a few losses is none.
    pub value: f32,
    /// Measurements behind it.
    pub samples: u32,
}

/// What the detector keeps of a window's numbers.
pub(super) type Readings = [Option<Reading>; WATCHED.len()];

/// One window of one pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Start of the window.
    pub window_start_ms: UnixMs,
    /// Events in it.
    pub count: u64,
    pub(super) readings: Readings,
    pub(super) errors: [u64; ErrorStage::ALL.len()],
    pub(super) class: Option<String>,
}

impl Observation {
    /// A window without any event.
    pub fn empty(window_start_ms: UnixMs) -> Self {
        Self {
            window_start_ms,
            count: 0,
            readings: [None; WATCHED.len()],
            errors: [0; ErrorStage::ALL.len()],
            class: None,
        }
    }

    /// Notes a measure: its median (for loss the mean), and how many measurements are behind it. What
    /// verdicts do not look at is left out.
    pub fn note(&mut self, measure: Measure, value: f64, samples: u32) {
        if let Some(place) = WATCHED.iter().position(|watched| *watched == measure) {
            self.readings[place] = Some(Reading { value: value as f32, samples });
        }
    }

    /// Notes failures at a stage.
    pub fn note_failures(&mut self, stage: ErrorStage, failed: u64) {
        self.errors[stage as usize] = failed;
    }

    /// A stored row. Fails if a distribution cannot be read.
    pub fn of(rollup: &Rollup) -> Result<Self, DecodeError> {
        let mut observation = Self::empty(rollup.key.window_start_ms);
        observation.count = rollup.count_total;
        for (place, measure) in WATCHED.into_iter().enumerate() {
            let Some(bytes) = rollup.distributions.get(&measure) else { continue };
            let histogram = Histogram::decode(bytes)?;
            let value = if measure == Measure::Loss { histogram.mean() } else { histogram.quantile(0.5) };
            observation.readings[place] = value.map(|value| Reading {
                value: value as f32,
                samples: u32::try_from(histogram.count()).unwrap_or(u32::MAX),
            });
        }
        for (place, stage) in ErrorStage::ALL.into_iter().enumerate() {
            observation.errors[place] = rollup.errors_by_stage.get(&stage).copied().unwrap_or(0);
        }
        // Of equally frequent classes the first in sorting order, so that the answer does not depend on luck.
        observation.class = rollup
            .errors_by_class
            .iter()
            .min_by_key(|(_, count)| std::cmp::Reverse(**count))
            .map(|(class, _)| class.clone());
        Ok(observation)
    }

    /// Failures at a stage, and the measurements that got as far as it.
    pub fn failures(&self, stage: ErrorStage) -> (u64, u64) {
        let before: u64 = self.errors[..stage as usize].iter().sum();
        let failed = self.errors[stage as usize];
        (failed, self.count.saturating_sub(before).max(failed))
    }

    /// Share of measurements that failed at any stage.
    pub(super) fn failed_share(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        self.errors.iter().sum::<u64>() as f64 / self.count as f64
    }

    pub(super) fn reading(&self, measure: Measure) -> Option<Reading> {
        reading(&self.readings, measure)
    }
}

/// One measure's part of a window's numbers.
pub(super) fn reading(readings: &Readings, measure: Measure) -> Option<Reading> {
    WATCHED.iter().position(|watched| *watched == measure).and_then(|place| readings[place])
}
