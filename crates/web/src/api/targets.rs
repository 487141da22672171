//! Targets: what is measured, with what is seen of it now.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Path},
};
use caelum_engine::{score, sketch::Histogram};
use caelum_model::{
    UnixMs,
    diagnosis::{Diagnosis, PairStatus, Standing},
    event::Family,
    id::{ClientId, TargetId},
    rollup::{MINUTE_MS, Measure, Rollup},
    target::{Objective, Target},
    wire::ErrorJson,
};
use caelum_store::RollupQuery;
use serde::Serialize;

use super::{
    measures::{MeasureJson, merge, summarise},
    scores::{ASSUMPTIONS, BudgetJson, ScoresJson},
};
use crate::{auth::Person, error::ApiError, state::State};

/// How far back a target's own numbers reach.
const RECENT_MS: i64 = 15 * MINUTE_MS;
/// Most rows that are merged for them.
const RECENT_ROWS_MAX: usize = 20_000;

/// What one probe sees of a target.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PairJson {
    client_id: ClientId,
    family: Family,
    /// Newest window with an event.
    window_start_ms: UnixMs,
    count_total: u64,
    count_success: u64,
    count_error: u64,
    /// Percentiles by measure.
    measures: BTreeMap<Measure, MeasureJson>,
    /// 0 to 100.
    experience: Option<f64>,
    /// Mean opinion score of voice, 1 to 4.5.
    voice_mos: Option<f64>,
    /// What people would notice.
    scores: ScoresJson,
    /// How the pair stands; null before its first judged window.
    standing: Option<Standing>,
    /// Usual medians.
    usual: BTreeMap<Measure, f64>,
    diagnosis: Option<Diagnosis>,
}

/// A target with what is seen of it in the last 15 minutes.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TargetJson {
    #[serde(flatten)]
    target: Target,
    /// Percentiles by measure, over all probes.
    measures: BTreeMap<Measure, MeasureJson>,
    /// What people would notice, over all probes.
    scores: ScoresJson,
    /// How it keeps what it is held to; only where one target is asked for.
    budget: Option<BudgetJson>,
    /// What the scores stand on; only where one target is asked for.
    assumptions: &'static [&'static str],
    /// Each probe by itself.
    pairs: Vec<PairJson>,
}

/// A page of targets.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TargetsJson {
    targets: Vec<TargetJson>,
    next_cursor: Option<String>,
}

/// Every target with what is seen of it in the last 15 minutes.
#[utoipa::path(get, path = "/api/targets", tag = "network", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = TargetsJson), (status = 401, body = ErrorJson)))]
pub async fn list_targets(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<TargetsJson>, ApiError> {
    let targets = state.store.targets().await?;
    let mut recent = recent(&state, None).await?;
    let targets = targets
        .into_iter()
        .map(|target| {
            let pairs = recent.remove(&target.url).unwrap_or_default();
            TargetJson::of(target, pairs)
        })
        .collect::<Result<_, ApiError>>()?;
    Ok(Json(TargetsJson { targets, next_cursor: None }))
}

/// One target with what is seen of it in the last 15 minutes.
#[utoipa::path(get, path = "/api/targets/{id}", tag = "network", params(("id" = String, Path)),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = TargetJson), (status = 404, body = ErrorJson)))]
pub async fn one_target(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<TargetJson>, ApiError> {
    let target = find(&state, &id).await?;
    let mut recent = recent(&state, Some(target.url.clone())).await?;
    let pairs = recent.remove(&target.url).unwrap_or_default();
    let budget = BudgetJson::read(&state, &target).await?;
    let json = TargetJson::of(target, pairs)?;
    Ok(Json(TargetJson { budget, assumptions: &ASSUMPTIONS, ..json }))
}

/// The target of this id.
pub(crate) async fn find(state: &State, id: &str) -> Result<Target, ApiError> {
    let id = TargetId::parse(id).map_err(|_| ApiError::NotFound("target"))?;
    state.store.target(&id).await?.ok_or(ApiError::NotFound("target"))
}

type PairRows = (PairKey, Vec<Rollup>, Option<PairStatus>);
type PairKey = (ClientId, Family);

/// Rows of the last 15 minutes, by target and pair.
async fn recent(state: &State, target: Option<String>) -> Result<BTreeMap<String, Vec<PairRows>>, ApiError> {
    let from_ms = Some(state.now_ms() - RECENT_MS);
    let query = RollupQuery { target, from_ms, limit: RECENT_ROWS_MAX, ..RollupQuery::default() };
    let mut pairs: BTreeMap<(String, ClientId, Family), Vec<Rollup>> = BTreeMap::new();
    for row in state.store.rollups(query).await? {
        let key = (row.key.target.clone(), row.key.client_id.clone(), row.key.family);
        pairs.entry(key).or_default().push(row);
    }
    let mut statuses: BTreeMap<_, _> = state
        .store
        .pair_statuses()
        .await?
        .into_iter()
        .map(|status| ((status.target.clone(), status.client_id.clone(), status.family), status))
        .collect();
    let mut by_target: BTreeMap<String, Vec<PairRows>> = BTreeMap::new();
    for (key, rows) in pairs {
        let status = statuses.remove(&key);
        let (target, client_id, family) = key;
        by_target.entry(target).or_default().push(((client_id, family), rows, status));
    }
    Ok(by_target)
}

impl TargetJson {
    pub(super) fn of(target: Target, pairs: Vec<PairRows>) -> Result<Self, ApiError> {
        let mut all: BTreeMap<Measure, Histogram> = BTreeMap::new();
        let (mut json, mut failures) = (Vec::new(), 0);
        for (key, rows, status) in pairs {
            let merged = merge(&rows)?;
            for (measure, histogram) in &merged {
                all.entry(*measure).or_default().merge(histogram);
            }
            failures += rows.iter().map(|row| row.count_error).sum::<u64>();
            json.push(PairJson::of(key, &rows, &merged, status, target.objective.as_ref()));
        }
        let scores = ScoresJson::of(&all, failures, target.objective.as_ref());
        let measures = summarise(&all);
        Ok(Self { target, measures, scores, budget: None, assumptions: &[], pairs: json })
    }
}

impl PairJson {
    fn of(
        (client_id, family): PairKey,
        rows: &[Rollup],
        merged: &BTreeMap<Measure, Histogram>,
        status: Option<PairStatus>,
        objective: Option<&Objective>,
    ) -> Self {
        let count_error = rows.iter().map(|row| row.count_error).sum();
        let empty = Histogram::default();
        let of = |measure| merged.get(&measure).unwrap_or(&empty);
        Self {
            client_id,
            family,
            window_start_ms: rows.iter().map(|row| row.key.window_start_ms).max().unwrap_or(0),
            count_total: rows.iter().map(|row| row.count_total).sum(),
            count_success: rows.iter().map(|row| row.count_success).sum(),
            count_error,
            measures: summarise(merged),
            experience: score::experience(of(Measure::Total), count_error),
            voice_mos: score::voice(of(Measure::Rtt), of(Measure::Loss)),
            scores: ScoresJson::of(merged, count_error, objective),
            standing: status.as_ref().map(|status| status.standing),
            usual: status.iter().flat_map(|status| status.usual.iter().copied()).collect(),
            diagnosis: status.and_then(|status| status.diagnosis),
        }
    }
}
