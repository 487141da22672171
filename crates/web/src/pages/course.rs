//! The course of an incident's leading measure: before, while it lasts and after, for the pairs that it touches
//! and for those that it does not.

use std::collections::{BTreeMap, HashSet};

use caelum_engine::{sketch::Histogram, window::tier};
use caelum_model::{
    UnixMs,
    incident::{Incident, PairRef},
    rollup::{MINUTE_MS, Measure, Rollup},
};
use caelum_store::{RollupQuery, Store, StoreError};

use super::{
    history,
    plot::{Kind, Line, Look, Plot},
    words,
};

/// Time that is shown before and after, at least.
const AROUND_MS: i64 = 30 * MINUTE_MS;
/// Moments of a course at most, near enough.
const MOMENTS_MAX: i64 = 400;
/// Rows read at a time.
const PAGE_ROWS: usize = 4_000;
/// Rows read at most.
const ROWS_MAX: usize = 40_000;

/// A moment of the course.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// Start of the window.
    pub at_ms: UnixMs,
    /// Median over the pairs that the incident touches.
    pub touched: Option<f64>,
    /// Median over the others.
    pub others: Option<f64>,
}

/// The course of one measure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// What is shown; none for the share of failures.
    pub measure: Option<Measure>,
    /// Length of the windows.
    pub step_ms: i64,
    /// Start of what is shown.
    pub from_ms: UnixMs,
    /// End of what is shown.
    pub to_ms: UnixMs,
    /// Windows with something in them, oldest first.
    pub moments: Vec<Moment>,
    /// What was measured before, as the incident has it.
    pub before: Option<f64>,
    /// More rows lie in this time than are looked through.
    pub is_cut: bool,
}

/// Which windows show a stretch of time: short ones where few are enough.
fn width_for(length_ms: i64) -> i64 {
    tier::WIDTHS_MS
        .into_iter()
        .find(|width| length_ms / width <= MOMENTS_MAX)
        .unwrap_or(tier::WIDTHS_MS[tier::WIDTHS_MS.len() - 1])
}

/// The value of a row: the median of the measure, or the share of failures in percent.
fn value(row: &Rollup, measure: Option<Measure>) -> Option<f64> {
    match measure {
        None => (row.count_total > 0).then(|| row.count_error as f64 * 100.0 / row.count_total as f64),
        Some(measure) => Histogram::decode(row.distributions.get(&measure)?).ok()?.quantile(0.5),
    }
}

impl Course {
    /// Reads the course of an incident.
    pub async fn read(store: &Store, incident: &Incident, now_ms: UnixMs) -> Result<Self, StoreError> {
        let leading = incident.evidence.first();
        let end_ms = incident.closed_window_ms.unwrap_or(now_ms).max(incident.opened_window_ms);
        let around = ((end_ms - incident.opened_window_ms) / 2).max(AROUND_MS);
        let (from_ms, to_ms) = (incident.opened_window_ms - around, now_ms.min(end_ms + around));
        let step_ms = width_for(to_ms - from_ms);
        let from_ms = from_ms.div_euclid(step_ms) * step_ms;
        let mut course = Self {
            measure: leading.and_then(|evidence| evidence.measure),
            step_ms,
            from_ms,
            to_ms: to_ms.max(from_ms + step_ms),
            before: leading.map(|evidence| evidence.before),
            ..Self::default()
        };
        let one = |of: &dyn Fn(&PairRef) -> String| -> Option<String> {
            let names: HashSet<String> = incident.pairs.iter().map(of).collect();
            (names.len() == 1 && incident.pairs.len() == 1).then(|| names.into_iter().next()).flatten()
        };
        // One pair has no others to compare with but those of its target.
        let target = one(&|pair| pair.target.clone());
        let touched: HashSet<&PairRef> = incident.pairs.iter().collect();
        let mut windows: BTreeMap<UnixMs, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
        let (mut after, mut read) = (None, 0);
        loop {
            let query = RollupQuery {
                width_ms: step_ms,
                target: target.clone(),
                from_ms: Some(from_ms),
                to_ms: Some(course.to_ms),
                after: after.take(),
                limit: PAGE_ROWS,
                ..RollupQuery::default()
            };
            let rows = store.rollups(query).await?;
            read += rows.len();
            for row in &rows {
                let Some(value) = value(row, course.measure) else { continue };
                let pair = PairRef {
                    client_id: row.key.client_id.clone(),
                    target: row.key.target.clone(),
                    family: row.key.family,
                };
                let sides = windows.entry(row.key.window_start_ms).or_default();
                if touched.contains(&pair) { sides.0.push(value) } else { sides.1.push(value) }
            }
            if rows.len() < PAGE_ROWS {
                break;
            }
            if read >= ROWS_MAX {
                course.is_cut = true;
                break;
            }
            after = rows.last().map(|row| row.key.clone());
        }
        course.moments = windows
            .into_iter()
            .map(|(at_ms, (touched, others))| Moment {
                at_ms,
                touched: history::median(touched),
                others: history::median(others),
            })
            .collect();
        Ok(course)
    }

    /// Whether anything is there to compare with.
    pub fn has_others(&self) -> bool {
        self.moments.iter().any(|moment| moment.others.is_some())
    }

    /// The drawing, with the time of the incident tinted.
    pub fn plot(&self, incident: &Incident, now_ms: UnixMs) -> Plot {
        let scale = match self.measure {
            Some(Measure::Throughput | Measure::Upload) => 125.0,
            _ => 1.0,
        };
        let kind = match self.measure {
            None => Kind::Percent,
            Some(Measure::Throughput | Measure::Upload) => Kind::Rate,
            Some(Measure::Loss | Measure::LossOut | Measure::LossBack | Measure::Rpm) => Kind::Number,
            Some(_) => Kind::Time,
        };
        let line = |label, look, of: &dyn Fn(&Moment) -> Option<f64>| Line {
            label,
            look,
            values: self.moments.iter().map(|moment| of(moment).map(|value| value * scale)).collect(),
        };
        let mut lines = vec![line("touched", Look::Line, &|moment| moment.touched)];
        if self.has_others() {
            lines.push(line("others", Look::Second, &|moment| moment.others));
        }
        if self.before.is_some() {
            lines.push(line("before", Look::Baseline, &|_| self.before));
        }
        let says = match incident.evidence.first() {
            Some(evidence) => {
                format!("{} over time, with the time of the incident marked", words::evidence(evidence))
            }
            None => "The course of the incident".to_owned(),
        };
        Plot {
            name: "incident-course",
            says,
            height: 168,
            kind,
            step_ms: self.step_ms,
            from_ms: self.from_ms,
            to_ms: self.to_ms,
            times_ms: self.moments.iter().map(|moment| moment.at_ms).collect(),
            lines,
            limit: None,
            regions: vec![(incident.opened_window_ms, incident.closed_window_ms.unwrap_or(now_ms))],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_time_is_shown_in_longer_windows() {
        assert_eq!(width_for(AROUND_MS * 2), MINUTE_MS);
        assert_eq!(width_for(3 * 86_400_000), 900_000);
        assert_eq!(width_for(60 * 86_400_000), 21_600_000);
        assert_eq!(width_for(i64::MAX), 86_400_000);
    }
}
