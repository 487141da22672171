//! What is usual for a pair: its last clean windows.

use std::collections::VecDeque;

use caelum_model::rollup::Measure;

use super::{
    Config,
    observation::{Readings, WATCHED, reading},
    symptom::Symptom,
};

/// Makes the median absolute deviation of normally distributed values their standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Clean windows, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reference {
    windows: VecDeque<Readings>,
}

/// What is usual for one symptom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usual {
    pub(super) center: f64,
    pub(super) deviation: f64,
    samples: f64,
}

impl Reference {
    pub(super) fn learn(&mut self, config: &Config, readings: &Readings) {
        if self.windows.len() >= config.reference_windows {
            self.windows.pop_front();
        }
        self.windows.push_back(*readings);
    }

    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    pub(super) fn clear(&mut self) {
        self.windows.clear();
    }

    /// Whether enough windows have a TCP connect to tell round trips from work.
    pub(super) fn measures_tcp(&self, config: &Config) -> bool {
        let with_tcp = self.windows.iter().filter(|window| reading(window, Measure::Tcp).is_some()).count();
        with_tcp >= config.reference_windows_min
    }

    /// The usual value of a measure, in its own unit, where enough windows have it.
    pub(super) fn usual_value(&self, config: &Config, measure: Measure) -> Option<f64> {
        let values = self
            .windows
            .iter()
            .filter_map(|window| reading(window, measure))
            .map(|reading| (f64::from(reading.value), reading.samples))
            .collect();
        let (mut values, _) = without_thin(values, config)?;
        Some(median(&mut values))
    }

    /// Usual values of every measure that has one.
    pub(super) fn usual_values(&self, config: &Config) -> Vec<(Measure, f64)> {
        let mut usual: Vec<_> = WATCHED
            .into_iter()
            .filter_map(|measure| Some((measure, self.usual_value(config, measure)?)))
            .collect();
        usual.sort_by_key(|(measure, _)| *measure);
        usual
    }

    /// What is usual for a symptom, where enough windows show it.
    pub(super) fn usual(&self, config: &Config, symptom: Symptom) -> Option<Usual> {
        let measures_tcp = self.measures_tcp(config);
        let values =
            self.windows.iter().filter_map(|window| symptom.feature(config, window, measures_tcp)).collect();
        let (mut values, samples) = without_thin(values, config)?;
        let count = values.len() as f64;
        let center = median(&mut values);
        let mut distances: Vec<f64> = values.iter().map(|value| (value - center).abs()).collect();
        let spread = MAD_TO_SIGMA * median(&mut distances) * (1.0 + config.few_windows_allowance / count);
        let usual_tcp_ms = self.usual_value(config, Measure::Tcp).unwrap_or(0.0);
        Some(Usual { center, deviation: spread.max(symptom.floor(config, usual_tcp_ms)), samples })
    }

    /// How many deviations a window is off its usual; above zero is worse.
    pub(super) fn deviation(&self, config: &Config, symptom: Symptom, readings: &Readings) -> Option<f64> {
        let (value, samples) = symptom.feature(config, readings, self.measures_tcp(config))?;
        let usual = self.usual(config, symptom)?;
        // A median of fewer measurements than usual is less certain by the root of their ratio.
        let thinness = (usual.samples / f64::from(samples.max(1))).max(1.0).sqrt();
        Some((value - usual.center) / (usual.deviation * thinness))
    }
}

/// The values of windows that have at least half as many measurements as is usual, and that usual number.
/// A window cut short by a restart says little about what is usual.
fn without_thin(values: Vec<(f64, u32)>, config: &Config) -> Option<(Vec<f64>, f64)> {
    if values.len() < config.reference_windows_min {
        return None;
    }
    let mut samples: Vec<f64> = values.iter().map(|(_, samples)| f64::from(*samples)).collect();
    let usual_samples = median(&mut samples);
    let full: Vec<f64> = values
        .into_iter()
        .filter(|(_, samples)| f64::from(*samples) * 2.0 >= usual_samples)
        .map(|(value, _)| value)
        .collect();
    (full.len() >= config.reference_windows_min).then_some((full, usual_samples))
}

/// The middle value, or the mean of the two in the middle; zero of none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
