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

/// Clean windows, and what they amount to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reference {
    /// Oldest first.
    windows: VecDeque<Readings>,
    /// Enough windows have a TCP connect to tell round trips from work.
    measures_tcp: bool,
    /// Usual values in the order of [`WATCHED`], in their own units.
    values: [Option<f64>; WATCHED.len()],
    /// By [`Symptom::place`].
    usual: [Option<Usual>; Symptom::DEVIATIONS.len()],
}

/// What is usual for one symptom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usual {
    pub(super) center: f64,
    pub(super) deviation: f64,
    samples: f64,
}

impl Reference {
    /// What the given windows amount to, oldest first.
    pub(super) fn of(config: &Config, windows: VecDeque<Readings>) -> Self {
        let mut reference = Self { windows, ..Self::default() };
        reference.sum_up(config);
        reference
    }

    pub(super) fn learn(&mut self, config: &Config, readings: &Readings) {
        push_bounded(config, &mut self.windows, readings);
        self.sum_up(config);
    }

    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// The usual value of a measure, in its own unit, where enough windows have it.
    pub(super) fn usual_value(&self, measure: Measure) -> Option<f64> {
        WATCHED.iter().position(|watched| *watched == measure).and_then(|place| self.values[place])
    }

    /// Usual values of every measure that has one, in the order of measures.
    pub(super) fn usual_values(&self) -> Vec<(Measure, f64)> {
        Measure::ALL.into_iter().filter_map(|measure| Some((measure, self.usual_value(measure)?))).collect()
    }

    /// What is usual for a symptom, where enough windows show it.
    pub(super) fn usual(&self, symptom: Symptom) -> Option<Usual> {
        self.usual.get(symptom.place()).copied().flatten()
    }

    /// How many deviations a window is off its usual; above zero is worse.
    pub(super) fn deviation(&self, config: &Config, symptom: Symptom, readings: &Readings) -> Option<f64> {
        let (value, samples) = symptom.feature(config, readings, self.measures_tcp)?;
        let usual = self.usual(symptom)?;
        // A median of fewer measurements than usual is less certain by the root of their ratio.
        let thinness = (usual.samples / f64::from(samples.max(1))).max(1.0).sqrt();
        Some((value - usual.center) / (usual.deviation * thinness))
    }

    fn sum_up(&mut self, config: &Config) {
        self.values = WATCHED.map(|measure| {
            let readings = self.windows.iter().filter_map(|window| reading(window, measure));
            let values = readings.map(|reading| (f64::from(reading.value), reading.samples)).collect();
            let (mut values, _) = without_thin(values, config)?;
            Some(median(&mut values))
        });
        let with_tcp = self.windows.iter().filter(|window| reading(window, Measure::Tcp).is_some());
        self.measures_tcp = with_tcp.count() >= config.reference_windows_min;
        self.usual = Symptom::DEVIATIONS.map(|symptom| self.sum_up_symptom(config, symptom));
    }

    fn sum_up_symptom(&self, config: &Config, symptom: Symptom) -> Option<Usual> {
        let features =
            self.windows.iter().filter_map(|window| symptom.feature(config, window, self.measures_tcp));
        let (mut values, samples) = without_thin(features.collect(), config)?;
        let count = values.len() as f64;
        let center = median(&mut values);
        let mut distances: Vec<f64> = values.iter().map(|value| (value - center).abs()).collect();
        let few_windows = 1.0 + config.few_windows_allowance / count;
        let few_samples = 1.0 + config.few_samples_allowance / samples.max(1.0);
        let spread = MAD_TO_SIGMA * median(&mut distances) * few_windows * few_samples;
        let usual_tcp_ms = self.usual_value(Measure::Tcp).unwrap_or(0.0);
        Some(Usual { center, deviation: spread.max(symptom.floor(config, usual_tcp_ms)), samples })
    }
}

/// Keeps the newest windows, as many as make up what is usual.
pub(super) fn push_bounded(config: &Config, windows: &mut VecDeque<Readings>, readings: &Readings) {
    if windows.len() >= config.reference_windows {
        windows.pop_front();
    }
    windows.push_back(*readings);
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

/// The middle value, or the mean of the two in the middle; zero of none. Leaves the values in some order.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let (count, middle) = (values.len(), values.len() / 2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if count % 2 == 1 {
        return *upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (lower + *upper) / 2.0
}
