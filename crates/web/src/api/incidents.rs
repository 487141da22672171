//! Incidents: what is wrong, where, since when, and what shows it. They are found elsewhere; here they are read.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, Query},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caelum_model::{
    UnixMs,
    diagnosis::Label,
    incident::{EntityKind, Incident},
    wire::ErrorJson,
};
use caelum_store::IncidentQuery;
use serde::{Deserialize, Serialize};

use crate::{auth::Person, error::ApiError, state::State};

/// Which incidents. What is empty is not asked for, as forms send it.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct IncidentsQuery {
    /// `open` or `closed`; both unless given.
    pub(crate) status: Option<String>,
    /// Only of this label, such as `DNS-bound`.
    pub(crate) label: Option<String>,
    /// Only blamed on this: `probe`, `target`, `resolver`, `group` or `pair`.
    pub(crate) entity_type: Option<String>,
    /// Only those that were not over before.
    pub(crate) from: Option<UnixMs>,
    /// Only those that opened before.
    pub(crate) to: Option<UnixMs>,
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// Where a list before ended.
    pub(crate) cursor: Option<String>,
}

impl IncidentsQuery {
    /// The question to the store, or what is wrong with it.
    pub(crate) fn read(&self) -> Result<IncidentQuery, ApiError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let is_open = match given(&self.status).as_deref() {
            None => None,
            Some("open") => Some(true),
            Some("closed") => Some(false),
            Some(_) => return Err(ApiError::InvalidRequest("status is neither open nor closed".into())),
        };
        let label = given(&self.label);
        if label.as_deref().is_some_and(|label| Label::parse(label).is_none()) {
            let known = Label::ALL.map(Label::as_str).join(", ");
            return Err(ApiError::InvalidRequest(format!("label is none of {known}")));
        }
        let entity_type = given(&self.entity_type);
        if entity_type.as_deref().is_some_and(|kind| EntityKind::parse(kind).is_none()) {
            let known = EntityKind::ALL.map(EntityKind::as_str).join(", ");
            return Err(ApiError::InvalidRequest(format!("entity_type is none of {known}")));
        }
        Ok(IncidentQuery {
            is_open,
            label,
            entity_type,
            from_ms: self.from,
            to_ms: self.to,
            after: given(&self.cursor).as_deref().map(parse_cursor).transpose()?,
            limit: super::limit(self.limit),
        })
    }
}

/// A page of incidents.
#[derive(Serialize, utoipa::ToSchema)]
pub struct IncidentsJson {
    incidents: Vec<Incident>,
    next_cursor: Option<String>,
}

/// Incidents, newest first.
#[utoipa::path(get, path = "/api/incidents", tag = "network", params(IncidentsQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = IncidentsJson), (status = 400, body = ErrorJson)))]
pub async fn incidents(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<IncidentsQuery>,
) -> Result<Json<IncidentsJson>, ApiError> {
    let (incidents, next_cursor) = page(&state, query.read()?).await?;
    Ok(Json(IncidentsJson { incidents, next_cursor }))
}

/// A page of incidents, and where the next begins.
pub(crate) async fn page(
    state: &State,
    query: IncidentQuery,
) -> Result<(Vec<Incident>, Option<String>), ApiError> {
    let limit = query.limit;
    let incidents = state.store.incidents(query).await?;
    let next = incidents.last().filter(|_| incidents.len() == limit).map(to_cursor);
    Ok((incidents, next))
}

/// One incident with its evidence and its history.
#[utoipa::path(get, path = "/api/incidents/{id}", tag = "network", params(("id" = String, Path)),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = Incident), (status = 404, body = ErrorJson)))]
pub async fn incident(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<Incident>, ApiError> {
    state.store.incident(&id).await?.map(Json).ok_or(ApiError::NotFound("incident"))
}

fn to_cursor(last: &Incident) -> String {
    let text = serde_json::to_vec(&(last.opened_window_ms, &last.id)).expect("a number and a text");
    URL_SAFE_NO_PAD.encode(text)
}

fn parse_cursor(text: &str) -> Result<(UnixMs, String), ApiError> {
    let bad = || ApiError::InvalidRequest("cursor is not one that this list answered".into());
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    serde_json::from_slice(&bytes).map_err(|_| bad())
}
