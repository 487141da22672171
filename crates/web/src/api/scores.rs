//! Scores and budgets as JSON, with the assumptions that they stand on.

use std::collections::BTreeMap;

use caelum_engine::{
    budget::{self, Budget, Counted},
    experience::{self, Line, Points},
    score,
    sketch::Histogram,
};
use caelum_model::{
    UnixMs,
    rollup::Measure,
    target::{Objective, Target},
};
use caelum_store::RollupQuery;
use serde::Serialize;

use crate::{error::ApiError, state::State};

/// Rows that are read for one stretch of a budget.
const ROWS_MAX: usize = 20_000;
const HOUR_MS: i64 = 3_600_000;

/// What every score assumes, shown beside the numbers.
pub const ASSUMPTIONS: [&str; 5] = [
    "Experience and Apdex: a measurement within T satisfies, within 4 T it is tolerable and counts half, and a \
     failed one frustrates; T is the objective's time, or 500 ms.",
    "Web MOS: the median time of a whole measurement on a logarithmic curve in the shape of ITU-T G.1030, 5 at \
     100 ms and 1 at 10 s.",
    "Voice MOS: ITU-T G.107 for G.711 with concealment; one-way delay is half the median round trip, a jitter \
     buffer of the 95th percentile of delay variation (at least 20 ms), and 20 ms of framing; loss is random.",
    "Streaming, gaming, real-time: AIM points of loss, median round trip, its growth under load, jitter and \
     download; unknown loss adds nothing, another missing input means no score.",
    "Error budget: a measurement is good if it succeeds within the objective's time; burn is how many times \
     faster than allowed the budget is used.",
];

/// Points of a use with their class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PointsJson {
    /// The sum.
    pub points: i32,
    /// `bad`, `poor`, `average`, `good` or `great`.
    pub class: &'static str,
}

impl From<Points> for PointsJson {
    fn from(points: Points) -> Self {
        Self { points: points.points, class: points.class.as_str() }
    }
}

/// Scores; each is null where an input is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ScoresJson {
    /// Time that satisfies, ms.
    pub satisfying_ms: f64,
    /// Apdex at that time, 0 to 1.
    pub apdex: Option<f64>,
    /// Mean opinion score of waiting for a page, 1 to 5.
    pub web_mos: Option<f64>,
    /// Mean opinion score of voice, 1 to 4.5.
    pub voice_mos: Option<f64>,
    /// Watching films.
    pub streaming: Option<PointsJson>,
    /// Playing with others.
    pub gaming: Option<PointsJson>,
    /// Talking with pictures.
    pub real_time: Option<PointsJson>,
    /// Round trips per minute under load, median.
    pub rpm: Option<f64>,
}

impl ScoresJson {
    /// Scores of merged distributions.
    pub fn of(merged: &BTreeMap<Measure, Histogram>, failures: u64, objective: Option<&Objective>) -> Self {
        let empty = Histogram::default();
        let of = |measure| merged.get(&measure).unwrap_or(&empty);
        let median = |measure| of(measure).quantile(0.5);
        let satisfying_ms = objective.map_or(score::SATISFYING_MS, |objective| objective.within_ms.into());
        let idle_ms = median(Measure::Rtt).or_else(|| median(Measure::Tcp));
        let line = Line {
            loss: of(Measure::Loss).mean().map(|percent| percent / 100.0),
            idle_ms,
            increase_ms: median(Measure::Loaded).zip(idle_ms).map(|(loaded, idle)| (loaded - idle).max(0.0)),
            jitter_ms: median(Measure::Jitter),
            down_mbps: median(Measure::Throughput).map(|kbps| kbps / 1000.0),
        };
        Self {
            satisfying_ms,
            apdex: experience::apdex(whole(merged).unwrap_or(&empty), failures, satisfying_ms),
            // Only what has a first byte is a page.
            web_mos: median(Measure::Ttfb).and(median(Measure::Total)).map(experience::web_opinion),
            voice_mos: score::voice(of(Measure::Rtt), of(Measure::Loss)),
            streaming: experience::streaming(&line).map(PointsJson::from),
            gaming: experience::gaming(&line).map(PointsJson::from),
            real_time: experience::real_time(&line).map(PointsJson::from),
            rpm: median(Measure::Rpm),
        }
    }
}

/// Times of whole measurements: the sum of the stages, or the round trip of trains.
fn whole(merged: &BTreeMap<Measure, Histogram>) -> Option<&Histogram> {
    merged.get(&Measure::Total).or_else(|| merged.get(&Measure::Rtt))
}

/// How a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct BudgetJson {
    /// What is promised.
    pub objective: Objective,
    /// Share that is promised, 0 to 1.
    pub promised: f64,
    /// Measurements that kept it, over its days.
    pub good: u64,
    /// All of them.
    pub all: u64,
    /// Share of good ones, 0 to 1; null where nothing was measured.
    pub good_share: Option<f64>,
    /// Share of the budget that is left: 1 untouched, 0 used up, below 0 the promise is broken.
    pub left: Option<f64>,
    /// How many times faster than allowed it was used in the last hour.
    pub burn_1h: Option<f64>,
    /// The same over six hours.
    pub burn_6h: Option<f64>,
}

impl BudgetJson {
    /// Reads how a target keeps what it is held to; none where it is held to nothing.
    pub async fn read(state: &State, target: &Target) -> Result<Option<Self>, ApiError> {
        let Some(objective) = target.objective else { return Ok(None) };
        let now_ms = state.now_ms();
        let days =
            counted(state, target, &objective, now_ms - i64::from(objective.days) * 24 * HOUR_MS).await?;
        let hour = counted(state, target, &objective, now_ms - HOUR_MS).await?;
        let six = counted(state, target, &objective, now_ms - 6 * HOUR_MS).await?;
        let Budget { promised, counted, left, burn_1h, burn_6h } =
            budget::budget(&objective, days, hour, six);
        Ok(Some(Self {
            objective,
            promised,
            good: counted.good,
            all: counted.all,
            good_share: counted.share(),
            left,
            burn_1h,
            burn_6h,
        }))
    }
}

/// Counts from a moment until now, from windows as long as fit.
async fn counted(
    state: &State,
    target: &Target,
    objective: &Objective,
    from_ms: UnixMs,
) -> Result<Counted, ApiError> {
    let mut sum = Counted::default();
    for (width_ms, from_ms, to_ms) in budget::cover(from_ms, state.now_ms()) {
        let rows = state
            .store
            .rollups(RollupQuery {
                width_ms,
                target: Some(target.url.clone()),
                from_ms: Some(from_ms),
                to_ms: Some(to_ms),
                limit: ROWS_MAX,
                ..RollupQuery::default()
            })
            .await?;
        for row in rows {
            let bytes =
                row.distributions.get(&Measure::Total).or_else(|| row.distributions.get(&Measure::Rtt));
            let whole = match bytes {
                Some(bytes) => Histogram::decode(bytes)
                    .map_err(|error| ApiError::Internal(crate::error::Cause::from(error)))?,
                None => Histogram::default(),
            };
            sum = sum.plus(Counted::of(objective, &whole, row.count_success, row.count_total));
        }
    }
    Ok(sum)
}
