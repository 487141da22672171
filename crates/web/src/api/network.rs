//! Probes, rollups, verdicts, and events kept aside.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Query},
};
use caelum_engine::{
    completeness::{gaps, missing_within},
    window::tier,
};
use caelum_model::{
    UnixMs,
    diagnosis::Diagnosis,
    event::{ErrorStage, Family},
    id::ClientId,
    probe::ProbeSetting,
    rollup::{MINUTE_MS, Measure, Rollup, RollupKey, RollupState, SeenRanges},
    wire::ErrorJson,
};
use caelum_store::{ProbeSummary, RollupQuery};
use serde::{Deserialize, Serialize};

use super::{
    measures::{MeasureJson, merge, summarise},
    scores::ScoresJson,
};
use crate::{auth::Person, error::ApiError, state::State};

/// Most verdicts that are looked through for a page of rows.
const DIAGNOSES_MAX: usize = 20_000;

/// A probe.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ProbeJson {
    pub(crate) client_id: ClientId,
    /// Newest event, by the probe's clock.
    pub(crate) last_event_ms: UnixMs,
    /// Numbered events that are counted.
    pub(crate) counted: u64,
    /// Numbers that have not arrived.
    pub(crate) missing: u64,
    /// Events that were too old.
    pub(crate) too_late: u64,
    /// Site, region or uplink that it shares with others.
    pub(crate) group: Option<String>,
    /// Words that targets select by.
    pub(crate) tags: Vec<String>,
    /// Whether it measures the other machines, and they it.
    pub(crate) mesh: bool,
    /// Whether it measures at all.
    pub(crate) enabled: bool,
}

impl ProbeJson {
    fn of(probe: ProbeSummary, settings: &[ProbeSetting]) -> Self {
        let known = settings.iter().find(|setting| setting.client_id == probe.client_id).cloned();
        let setting = known.unwrap_or_else(|| ProbeSetting::usual(probe.client_id.clone()));
        Self {
            client_id: probe.client_id,
            last_event_ms: probe.last_event_ms,
            counted: probe.counted,
            missing: probe.missing,
            too_late: probe.too_late,
            group: setting.group,
            tags: setting.tags,
            mesh: setting.mesh,
            enabled: setting.enabled,
        }
    }
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
    let settings = state.store.probe_settings().await?;
    let probes = probes.into_iter().map(|probe| ProbeJson::of(probe, &settings)).collect();
    Ok(Json(ProbesJson { probes, next_cursor: None }))
}

/// Numbers that have not arrived, between two that have.
#[derive(Serialize, utoipa::ToSchema)]
pub struct GapJson {
    pub(crate) epoch: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) events: u64,
    /// When the event before was measured.
    pub(crate) from_ms: UnixMs,
    /// When the event after was measured.
    pub(crate) to_ms: UnixMs,
}

/// Events of a probe in one minute.
#[derive(Serialize, utoipa::ToSchema)]
pub struct CompletenessJson {
    pub(crate) window_start_ms: UnixMs,
    pub(crate) counted: u64,
    pub(crate) missing: u64,
    pub(crate) late_merged: u64,
}

/// One probe, and how complete what it sent is.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OneProbeJson {
    #[serde(flatten)]
    pub(crate) probe: ProbeJson,
    pub(crate) partition: u16,
    /// Gaps in its numbers, newest first; at most 100.
    pub(crate) gaps: Vec<GapJson>,
    /// The last hours, a minute each, oldest first.
    pub(crate) minutes: Vec<CompletenessJson>,
}

/// How far back the completeness of a probe is shown.
#[derive(Deserialize, utoipa::IntoParams)]
pub struct ProbeQuery {
    /// Hours, 1 to 24; 2 unless given.
    hours: Option<i64>,
}

/// Gaps that are listed.
const GAPS_SHOWN: usize = 100;
/// Rows that are looked through for one probe.
const ROWS_MAX: usize = 100_000;

/// A probe and the completeness of what it sent.
#[utoipa::path(get, path = "/api/probes/{client_id}", tag = "network", params(ProbeQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = OneProbeJson), (status = 404, body = ErrorJson)))]
pub async fn probe(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    extract::Path(client_id): extract::Path<String>,
    Query(query): Query<ProbeQuery>,
) -> Result<Json<OneProbeJson>, ApiError> {
    let hours = query.hours.unwrap_or(2).clamp(1, 24);
    Ok(Json(one_probe(&state, &client_id, hours).await?))
}

/// What is known of one probe.
pub(crate) async fn one_probe(state: &State, client_id: &str, hours: i64) -> Result<OneProbeJson, ApiError> {
    let probes = state.store.probes().await?;
    let summary = probes
        .into_iter()
        .find(|probe| probe.client_id.as_str() == client_id)
        .ok_or(ApiError::NotFound("probe"))?;
    let seen = state.store.client_seen_ranges(summary.partition, &summary.client_id).await?;
    let mut listed: Vec<GapJson> = seen
        .iter()
        .flat_map(|seen| gaps(seen).into_iter().map(|gap| (seen.epoch, gap)))
        .map(|(epoch, gap)| GapJson {
            epoch,
            first: gap.first,
            last: gap.last,
            events: gap.events(),
            from_ms: gap.from_ms,
            to_ms: gap.to_ms,
        })
        .collect();
    listed.sort_by_key(|gap| std::cmp::Reverse(gap.to_ms));
    listed.truncate(GAPS_SHOWN);
    let to_ms = state.now_ms().div_euclid(MINUTE_MS) * MINUTE_MS + MINUTE_MS;
    let from_ms = to_ms - hours * 60 * MINUTE_MS;
    let rows = state
        .store
        .rollups(RollupQuery {
            width_ms: MINUTE_MS,
            client_id: Some(client_id.to_owned()),
            from_ms: Some(from_ms),
            to_ms: Some(to_ms),
            limit: ROWS_MAX,
            ..RollupQuery::default()
        })
        .await?;
    let mut counted: BTreeMap<UnixMs, (u64, u64)> = BTreeMap::new();
    for row in rows {
        let (count, late) = counted.entry(row.key.window_start_ms).or_default();
        *count += row.count_total;
        *late += row.late_merged;
    }
    let minutes = (0..hours * 60)
        .map(|n| from_ms + n * MINUTE_MS)
        .map(|window_start_ms| {
            let (counted, late_merged) = counted.get(&window_start_ms).copied().unwrap_or_default();
            let missing = missing_within(&seen, window_start_ms, window_start_ms + MINUTE_MS);
            CompletenessJson { window_start_ms, counted, missing, late_merged }
        })
        .collect();
    Ok(OneProbeJson {
        partition: summary.partition.0,
        probe: ProbeJson::of(summary, &state.store.probe_settings().await?),
        gaps: listed,
        minutes,
    })
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
    /// Window length, ms: 60000 (the default), 900000, 21600000 or 86400000.
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
    /// What people would notice, at 500 ms.
    scores: ScoresJson,
    /// Events counted, and those that may still belong to it.
    expected: u64,
    /// Numbers of this probe that have not arrived and were, by the events around them, measured in this
    /// window, whatever their target.
    missing: u64,
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
    let width_ms = query.width.unwrap_or(MINUTE_MS);
    if !tier::WIDTHS_MS.contains(&width_ms) {
        let known = tier::WIDTHS_MS.map(|width| width.to_string()).join(", ");
        return Err(ApiError::InvalidRequest(format!("width is none of {known}")));
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
            width_ms,
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
    let missing = Missing::of(&state, &rows).await?;
    let rollups =
        rows.into_iter().map(|row| to_json(row, measure, &labels, &missing)).collect::<Result<_, _>>()?;
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

/// What is counted of the probes of a page of rows.
struct Missing(BTreeMap<ClientId, Vec<SeenRanges>>);

impl Missing {
    async fn of(state: &State, rows: &[Rollup]) -> Result<Self, ApiError> {
        let mut seen = BTreeMap::new();
        for row in rows {
            if !seen.contains_key(&row.key.client_id) {
                let client_id = row.key.client_id.clone();
                let ranges = state.store.client_seen_ranges(row.partition, &client_id).await?;
                seen.insert(client_id, ranges);
            }
        }
        Ok(Self(seen))
    }

    fn within(&self, key: &RollupKey) -> u64 {
        let seen = self.0.get(&key.client_id).map_or(&[][..], Vec::as_slice);
        missing_within(seen, key.window_start_ms, key.window_start_ms + key.width_ms)
    }
}

fn to_json(
    row: Rollup,
    measure: Option<Measure>,
    labels: &Labels,
    missing: &Missing,
) -> Result<RollupJson, ApiError> {
    let mut measures = merge(std::slice::from_ref(&row))?;
    let scores = ScoresJson::of(&measures, row.count_error, None);
    if let Some(measure) = measure {
        measures.retain(|own, _| *own == measure);
    }
    let key = row.key;
    let place = (key.window_start_ms, key.client_id.clone(), key.target.clone(), key.family);
    let diagnosis = labels.get(&place);
    let missing = missing.within(&key);
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
        scores,
        expected: row.count_total + missing,
        missing,
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
