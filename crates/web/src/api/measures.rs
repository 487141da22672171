//! A distribution as JSON: the percentiles that its number of samples supports.

use std::collections::BTreeMap;

use caelum_engine::sketch::Histogram;
use caelum_model::rollup::{Measure, Rollup};
use serde::Serialize;

use crate::error::{ApiError, Cause};

/// Samples from which on a 95th percentile is shown; below, the maximum and the count say what is known.
const P95_SAMPLES: u64 = 20;
/// Samples from which on a 99th percentile is shown.
const P99_SAMPLES: u64 = 100;

/// What is known of one measure, in its unit.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct MeasureJson {
    /// Unit of every value here.
    pub unit: &'static str,
    /// Samples.
    pub count: u64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Sum.
    pub sum: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile; null below 20 samples.
    pub p95: Option<f64>,
    /// 99th percentile; null below 100 samples.
    pub p99: Option<f64>,
}

impl MeasureJson {
    /// What a histogram says; none while it is empty.
    pub fn of(histogram: &Histogram, unit: &'static str) -> Option<Self> {
        let count = histogram.count();
        let from = |samples: u64, q: f64| (count >= samples).then(|| histogram.quantile(q)).flatten();
        Some(Self {
            unit,
            count,
            min: histogram.min()?,
            max: histogram.max()?,
            mean: histogram.mean()?,
            sum: histogram.sum(),
            p50: histogram.quantile(0.5)?,
            p90: histogram.quantile(0.9)?,
            p95: from(P95_SAMPLES, 0.95),
            p99: from(P99_SAMPLES, 0.99),
        })
    }
}

/// Merges the distributions of rows.
pub(crate) fn merge(rows: &[Rollup]) -> Result<BTreeMap<Measure, Histogram>, ApiError> {
    let mut merged: BTreeMap<Measure, Histogram> = BTreeMap::new();
    for row in rows {
        for (measure, bytes) in &row.distributions {
            let histogram =
                Histogram::decode(bytes).map_err(|error| ApiError::Internal(Cause::from(error)))?;
            merged.entry(*measure).or_default().merge(&histogram);
        }
    }
    Ok(merged)
}

/// What is known of each measure.
pub(crate) fn summarise(merged: &BTreeMap<Measure, Histogram>) -> BTreeMap<Measure, MeasureJson> {
    merged
        .iter()
        .filter_map(|(measure, histogram)| Some((*measure, MeasureJson::of(histogram, measure.unit())?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_shown_only_with_the_samples_it_needs() {
        let mut histogram = Histogram::default();
        assert_eq!(MeasureJson::of(&histogram, "ms"), None);
        let mut shown = Vec::new();
        for n in 1..=100u32 {
            histogram.record(f64::from(n)).expect("measurable");
            let json = MeasureJson::of(&histogram, "ms").expect("not empty");
            shown.push((json.p95.is_some(), json.p99.is_some()));
        }
        assert_eq!(shown[18], (false, false));
        assert_eq!(shown[19], (true, false));
        assert_eq!(shown[98], (true, false));
        assert_eq!(shown[99], (true, true));
    }
}
