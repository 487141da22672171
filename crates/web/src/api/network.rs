//! Probes, rollups, verdicts, and events kept aside.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Query},
};
use caelum_model::{
    UnixMs,
    diagnosis::Diagnosis,
    event::{ErrorStage, Family},
    id::ClientId,
    rollup::{MINUTE_MS, Measure, Rollup, RollupKey, RollupState},
    wire::ErrorJson,
};
use caelum_store::{DeadLetterQuery, RollupQuery};
use serde::{Deserialize, Serialize};

use super::measures::{MeasureJson, merge, summarise};
use crate::{auth::Person, error::ApiError, state::State};

/// Most verdicts that are looked through for a page of rows.
const DIAGNOSES_MAX: usize = 20_000;

/// A probe.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ProbeJson {
    client_id: ClientId,
    /// Newest event, by the probe's clock.
    last_event_ms: UnixMs,
    /// Numbered events that are counted.
    counted: u64,
    /// Numbers that have not arrived.
    missing: u64,
    /// Events that were too old.
    too_late: u64,
}

/// All probes.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ProbesJson {
    probes: Vec<ProbeJson>,
    next_cursor: Option<String>,
}

/// Every probe that numbers its events.
#[utoipa::path(get, path = "/api/probes", tag = "network", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = ProbesJson)))]
pub async fn probes(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<ProbesJson>, ApiError> {
    let probes = state.store.probes().await?;
    let probes = probes
        .into_iter()
        .map(|probe| ProbeJson {
            client_id: probe.client_id,
            last_event_ms: probe.last_event_ms,
            counted: probe.counted,
            missing: probe.missing,
            too_late: probe.too_late,
        })
        .collect();
    Ok(Json(ProbesJson { probes, next_cursor: None }))
}

/// Which rollups.
#[derive(Deserialize, utoipa::IntoParams)]
pub struct RollupsQuery {
    /// Only this probe.
    client_id: Option<String>,
    /// Only this target's URL.
    target: Option<String>,
    /// Windows that start at or after.
    from: Option<UnixMs>,
    /// Windows that start before.
    to: Option<UnixMs>,
    /// Window length, ms; only 60000 so far.
    width: Option<i64>,
    /// Only this measure.
    measure: Option<String>,
    /// At most so many rows.
    limit: Option<usize>,
    /// Where a list before ended.
    cursor: Option<String>,
}

/// A window.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RollupJson {
    width: i64,
    window_start_ms: UnixMs,
    client_id: ClientId,
    target: String,
    family: Family,
    count_total: u64,
    count_success: u64,
    count_error: u64,
    errors_by_stage: BTreeMap<ErrorStage, u64>,
    errors_by_class: BTreeMap<String, u64>,
    measures: BTreeMap<Measure, MeasureJson>,
    late_merged: u64,
    diagnosis_label: Option<String>,
    diagnosis_confidence: Option<f64>,
    state: RollupState,
    version: u32,
    updated_at: UnixMs,
}

/// A page of windows.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RollupsJson {
    rollups: Vec<RollupJson>,
    next_cursor: Option<String>,
}

/// Windows, oldest first.
#[utoipa::path(get, path = "/api/rollups", tag = "network", params(RollupsQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = RollupsJson), (status = 400, body = ErrorJson)))]
pub async fn rollups(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<RollupsQuery>,
) -> Result<Json<RollupsJson>, ApiError> {
    if query.width.is_some_and(|width| width != MINUTE_MS) {
        return Err(ApiError::InvalidRequest("width: only 60000 is kept so far".into()));
    }
    let measure = match query.measure.as_deref() {
        None => None,
        Some(text) => Some(Measure::parse(text).ok_or_else(|| {
            let known = Measure::ALL.map(Measure::as_str).join(", ");
            ApiError::InvalidRequest(format!("measure is none of {known}"))
        })?),
    };
    let after = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let limit = super::limit(query.limit);
    let rows = state
        .store
        .rollups(RollupQuery {
            width_ms: MINUTE_MS,
            client_id: query.client_id,
            target: query.target,
            family: None,
            from_ms: query.from,
            to_ms: query.to,
            after,
            limit,
        })
        .await?;
    let next_cursor = rows.last().filter(|_| rows.len() == limit).map(|row| to_cursor(&row.key));
    let labels = labels(&state, &rows).await?;
    let rollups = rows.into_iter().map(|row| to_json(row, measure, &labels)).collect::<Result<_, _>>()?;
    Ok(Json(RollupsJson { rollups, next_cursor }))
}

type Labels = BTreeMap<(UnixMs, ClientId, String, Family), Diagnosis>;

async fn labels(state: &State, rows: &[Rollup]) -> Result<Labels, ApiError> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Labels::new()) };
    let (from_ms, to_ms) = (first.key.window_start_ms, last.key.window_start_ms + 1);
    let diagnoses = state.store.diagnoses(from_ms, to_ms, DIAGNOSES_MAX).await?;
    Ok(diagnoses
        .into_iter()
        .map(|d| ((d.window_start_ms, d.client_id.clone(), d.target.clone(), d.family), d))
        .collect())
}

fn to_json(row: Rollup, measure: Option<Measure>, labels: &Labels) -> Result<RollupJson, ApiError> {
    let mut measures = merge(std::slice::from_ref(&row))?;
    if let Some(measure) = measure {
        measures.retain(|own, _| *own == measure);
    }
    let key = row.key;
    let place = (key.window_start_ms, key.client_id.clone(), key.target.clone(), key.family);
    let diagnosis = labels.get(&place);
    Ok(RollupJson {
        width: key.width_ms,
        window_start_ms: key.window_start_ms,
        client_id: key.client_id,
        target: key.target,
        family: key.family,
        count_total: row.count_total,
        count_success: row.count_success,
        count_error: row.count_error,
        errors_by_stage: row.errors_by_stage,
        errors_by_class: row.errors_by_class,
        measures: summarise(&measures),
        late_merged: row.late_merged,
        diagnosis_label: diagnosis.map(|diagnosis| diagnosis.label.as_str().to_owned()),
        diagnosis_confidence: diagnosis.map(|diagnosis| diagnosis.confidence),
        state: row.state,
        version: row.version,
        updated_at: row.updated_at_ms,
    })
}

fn to_cursor(key: &RollupKey) -> String {
    use base64::Engine;
    let text = serde_json::to_vec(key).expect("a key in memory has a JSON form");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

fn parse_cursor(text: &str) -> Result<RollupKey, ApiError> {
    use base64::Engine;
    let bad = || ApiError::InvalidRequest("cursor is not one that this list answered".into());
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    serde_json::from_slice(&bytes).map_err(|_| bad())
}

/// Which verdicts.
#[derive(Deserialize, utoipa::IntoParams)]
pub struct DiagnosesQuery {
    /// Windows that start at or after; an hour ago unless given.
    from: Option<UnixMs>,
    /// Windows that start before; now unless given.
    to: Option<UnixMs>,
    /// Only this probe.
    client_id: Option<String>,
    /// Only this target's URL.
    target: Option<String>,
    /// At most so many.
    limit: Option<usize>,
}

/// Verdicts.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DiagnosesJson {
    diagnoses: Vec<Diagnosis>,
    next_cursor: Option<String>,
}

/// Verdicts on windows, oldest first.
#[utoipa::path(get, path = "/api/diagnoses", tag = "network", params(DiagnosesQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = DiagnosesJson)))]
pub async fn diagnoses(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<DiagnosesQuery>,
) -> Result<Json<DiagnosesJson>, ApiError> {
    let to_ms = query.to.unwrap_or_else(|| state.now_ms() + MINUTE_MS);
    let from_ms = query.from.unwrap_or(to_ms - 61 * MINUTE_MS);
    let mut diagnoses = state.store.diagnoses(from_ms, to_ms, DIAGNOSES_MAX).await?;
    diagnoses.retain(|diagnosis| {
        query.client_id.as_deref().is_none_or(|wanted| diagnosis.client_id.as_str() == wanted)
            && query.target.as_deref().is_none_or(|wanted| diagnosis.target == wanted)
    });
    diagnoses.truncate(super::limit(query.limit));
    Ok(Json(DiagnosesJson { diagnoses, next_cursor: None }))
}

/// Which dead letters.
#[derive(Deserialize, utoipa::IntoParams)]
pub struct DeadLettersQuery {
    /// At most so many.
    limit: Option<usize>,
}

/// An event that was kept aside.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadLetterJson {
    client_id: ClientId,
    ts_ms: UnixMs,
    reason: String,
    /// The event.
    event: serde_json::Value,
}

/// Events that were kept aside.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadLettersJson {
    dead_letters: Vec<DeadLetterJson>,
    next_cursor: Option<String>,
}

/// Events that were kept aside instead of being counted, newest first.
#[utoipa::path(get, path = "/api/dead-letters", tag = "network", params(DeadLettersQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = DeadLettersJson)))]
pub async fn dead_letters(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Json<DeadLettersJson>, ApiError> {
    let letters = state
        .store
        .dead_letters(DeadLetterQuery { limit: super::limit(query.limit), ..DeadLetterQuery::default() })
        .await?;
    let dead_letters = letters
        .into_iter()
        .map(|letter| DeadLetterJson {
            client_id: letter.client_id,
            ts_ms: letter.ts_ms,
            reason: letter.reason,
            event: serde_json::from_str(&letter.document).unwrap_or(serde_json::Value::Null),
        })
        .collect();
    Ok(Json(DeadLettersJson { dead_letters, next_cursor: None }))
}
