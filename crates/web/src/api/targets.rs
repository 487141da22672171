//! Targets: what is measured, with what is seen of it now.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Path, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_drivers::{probe, random};
use caelum_engine::{score, sketch::Histogram};
use caelum_model::{
    UnixMs,
    access::Role,
    diagnosis::{Diagnosis, PairStatus, Standing},
    event::Family,
    id::{ClientId, TargetId},
    rollup::{MINUTE_MS, Measure, Rollup},
    target::{Families, Target, TargetOrigin},
    wire::ErrorJson,
};
use caelum_roles::bus::Change;
use caelum_store::RollupQuery;
use serde::{Deserialize, Serialize};

use super::measures::{MeasureJson, merge, summarise};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// How far back a target's own numbers reach.
const RECENT_MS: i64 = 15 * MINUTE_MS;
/// Most rows that are merged for them.
const RECENT_ROWS_MAX: usize = 20_000;
/// Most targets.
const TARGETS_MAX: usize = 1000;

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
    Ok(Json(TargetJson::of(target, pairs)?))
}

/// A target to be measured.
#[derive(Deserialize, utoipa::ToSchema)]
pub struct NewTargetJson {
    /// What to measure: `https://…`, `http://…`, `tcp://host:port`, `dns://resolver/name`, `icmp://host`.
    url: String,
    /// What people call it; taken from the URL unless given.
    #[serde(default)]
    name: Option<String>,
    /// Time between measurements, s; 10 unless given.
    #[serde(default)]
    interval_s: Option<u32>,
    /// Time after which a measurement is given up, ms; 10000 unless given.
    #[serde(default)]
    timeout_ms: Option<u32>,
    /// Object whose download gives the throughput.
    #[serde(default)]
    throughput_url: Option<String>,
    /// IP versions.
    #[serde(default)]
    families: Families,
}

/// Adds a target; its first measurement follows within its interval.
#[utoipa::path(post, path = "/api/targets", tag = "network", request_body = NewTargetJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 201, body = TargetJson), (status = 400, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn add_target(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NewTargetJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(new) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let target = add(&state, &person, new).await?;
    Ok((StatusCode::CREATED, Json(TargetJson::of(target, Vec::new())?)).into_response())
}

impl NewTargetJson {
    /// A wish as the page's form gives it.
    pub fn of_form(
        url: &str,
        name: &str,
        [interval_s, timeout_ms]: [Option<u32>; 2],
        throughput_url: &str,
        families: Families,
    ) -> Self {
        let given = |text: &str| (!text.trim().is_empty()).then(|| text.trim().to_owned());
        Self {
            url: url.trim().to_owned(),
            name: given(name),
            interval_s,
            timeout_ms,
            throughput_url: given(throughput_url),
            families,
        }
    }
}

/// Adds a target for the API and the page alike.
pub async fn add(state: &State, person: &Person, new: NewTargetJson) -> Result<Target, ApiError> {
    person.require(Role::Operator)?;
    let target = check(new, state.now_ms()).map_err(ApiError::InvalidRequest)?;
    if state.store.targets().await?.len() >= TARGETS_MAX {
        return Err(ApiError::Conflict(format!("there are {TARGETS_MAX} targets, and no more are allowed")));
    }
    state.store.add_target(target.clone()).await?;
    auth::record(state, &person.name, "target.add", &target.url, "done").await;
    state.bus.publish(Change::TargetsChanged);
    Ok(target)
}

fn check(new: NewTargetJson, now_ms: UnixMs) -> Result<Target, String> {
    probe::parse(&new.url).map_err(|error| format!("url: {error}"))?;
    if let Some(url) = &new.throughput_url {
        let is_http = url.starts_with("http://") || url.starts_with("https://");
        if !is_http || probe::parse(url).is_err() {
            return Err("throughput_url is not an http or https URL".into());
        }
    }
    let name = new.name.unwrap_or_else(|| short_name(&new.url));
    if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err("name is empty, longer than 100 bytes, or contains a control character".into());
    }
    let interval_s = new.interval_s.unwrap_or(10);
    if !(1..=86_400).contains(&interval_s) {
        return Err("interval_s is not between 1 and 86400".into());
    }
    let timeout_ms = new.timeout_ms.unwrap_or(10_000);
    if !(100..=120_000).contains(&timeout_ms) {
        return Err("timeout_ms is not between 100 and 120000".into());
    }
    let target_id = TargetId::parse(&random::secret(12)).expect("a secret is short text");
    Ok(Target {
        name,
        interval_s,
        timeout_ms,
        throughput_url: new.throughput_url,
        families: new.families,
        ..Target::usual(target_id, new.url, now_ms)
    })
}

/// What people would call a URL: its host, or the name asked for.
fn short_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/').chars().take(60).collect()
}

/// Stops measuring a target. What was measured stays.
#[utoipa::path(delete, path = "/api/targets/{id}", tag = "network", params(("id" = String, Path)),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 204), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn remove_target(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    remove(&state, &person, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a target for the API and the page alike.
pub async fn remove(state: &State, person: &Person, id: &str) -> Result<(), ApiError> {
    person.require(Role::Operator)?;
    let target = find(state, id).await?;
    if target.origin == TargetOrigin::Config {
        return Err(ApiError::Conflict("the target is set in the configuration; remove it there".into()));
    }
    if !state.store.remove_target(&target.target_id).await? {
        return Err(ApiError::NotFound("target"));
    }
    auth::record(state, &person.name, "target.remove", &target.url, "done").await;
    state.bus.publish(Change::TargetsChanged);
    Ok(())
}

async fn find(state: &State, id: &str) -> Result<Target, ApiError> {
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
    fn of(target: Target, pairs: Vec<PairRows>) -> Result<Self, ApiError> {
        let mut all: BTreeMap<Measure, Histogram> = BTreeMap::new();
        let mut json = Vec::new();
        for (key, rows, status) in pairs {
            let merged = merge(&rows)?;
            for (measure, histogram) in &merged {
                all.entry(*measure).or_default().merge(histogram);
            }
            json.push(PairJson::of(key, &rows, &merged, status));
        }
        Ok(Self { target, measures: summarise(&all), pairs: json })
    }
}

impl PairJson {
    fn of(
        (client_id, family): PairKey,
        rows: &[Rollup],
        merged: &BTreeMap<Measure, Histogram>,
        status: Option<PairStatus>,
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
            standing: status.as_ref().map(|status| status.standing),
            usual: status.iter().flat_map(|status| status.usual.iter().copied()).collect(),
            diagnosis: status.and_then(|status| status.diagnosis),
        }
    }
}
