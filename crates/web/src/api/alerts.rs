//! Alerts: which stand, and what people say to them. They are raised elsewhere; here they are read and answered.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, Query},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caelum_engine::alert;
use caelum_model::{
    UnixMs,
    access::Role,
    alert::{Alert, AlertStatus, Notice},
    id::NodeId,
    node::Level,
    wire::ErrorJson,
};
use caelum_roles::{alerts, bus::Change, quiet};
use caelum_store::{AlertQuery, NoticeQuery, NoticeState};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Which alerts. What is empty is not asked for, as forms send it.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AlertsQuery {
    /// `active`, `acknowledged` or `resolved`; or `open` for all that stand.
    pub(crate) status: Option<String>,
    /// `warning`, `critical` or `offline`.
    pub(crate) severity: Option<String>,
    /// Only of this node, by id or name.
    pub(crate) node_id: Option<String>,
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// Where a list before ended.
    pub(crate) cursor: Option<String>,
}

impl AlertsQuery {
    /// The question to the store, or what is wrong with it.
    pub(crate) async fn read(&self, state: &State) -> Result<AlertQuery, ApiError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (is_open, status) = match given(&self.status).as_deref() {
            None => (None, None),
            Some("open") => (Some(true), None),
            Some(text) => {
                let known = AlertStatus::parse(text).ok_or_else(|| {
                    ApiError::InvalidRequest("status is none of active, acknowledged, resolved, open".into())
                })?;
                (None, Some(known))
            }
        };
        let severity = match given(&self.severity).as_deref() {
            None => None,
            Some("warning") => Some(Level::Warning),
            Some("critical") => Some(Level::Critical),
            Some("offline") => Some(Level::Offline),
            Some(_) => {
                return Err(ApiError::InvalidRequest(
                    "severity is none of warning, critical, offline".into(),
                ));
            }
        };
        let node_id = match given(&self.node_id) {
            None => None,
            Some(name) => match state.store.node(&name).await? {
                Some(node) => Some(node.node_id),
                // Alerts outlive their node.
                None => Some(NodeId::parse(&name).map_err(|_| ApiError::NotFound("node"))?),
            },
        };
        let after = given(&self.cursor).as_deref().map(parse_cursor).transpose()?;
        Ok(AlertQuery { is_open, status, severity, node_id, after, limit: super::limit(self.limit) })
    }
}

/// A page of alerts.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AlertsJson {
    alerts: Vec<Alert>,
    next_cursor: Option<String>,
}

/// Alerts, newest first.
#[utoipa::path(get, path = "/api/nodes/alerts", tag = "nodes", params(AlertsQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = AlertsJson), (status = 400, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn list(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<AlertsQuery>,
) -> Result<Json<AlertsJson>, ApiError> {
    let query = query.read(&state).await?;
    let limit = query.limit;
    let alerts = state.store.alerts(query).await?;
    let next_cursor = alerts
        .last()
        .filter(|_| alerts.len() == limit)
        .map(|last| to_cursor(last.raised_at_ms, &last.alert_id));
    Ok(Json(AlertsJson { alerts, next_cursor }))
}

/// Says that somebody looks into an alert. It stands until it is over.
#[utoipa::path(post, path = "/api/nodes/alerts/{alert_id}/acknowledge", tag = "nodes",
    params(("alert_id" = String, Path)), security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = Alert), (status = 404, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn acknowledge(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(alert_id): Path<String>,
) -> Result<Json<Alert>, ApiError> {
    answer(&state, &person, &alert_id, Answer::Acknowledge).await.map(Json)
}

/// Says that an alert is over. A threshold that is still reached raises a new one after the hold.
#[utoipa::path(post, path = "/api/nodes/alerts/{alert_id}/resolve", tag = "nodes",
    params(("alert_id" = String, Path)), security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = Alert), (status = 404, body = ErrorJson)))]
pub async fn resolve(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(alert_id): Path<String>,
) -> Result<Json<Alert>, ApiError> {
    answer(&state, &person, &alert_id, Answer::Resolve).await.map(Json)
}

/// What somebody says to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Somebody looks into it.
    Acknowledge,
    /// It is over.
    Resolve,
}

/// Answers an alert, for the API and the pages alike. What is so already stays so.
pub async fn answer(
    state: &State,
    person: &Person,
    alert_id: &str,
    answer: Answer,
) -> Result<Alert, ApiError> {
    person.require(Role::Operator)?;
    let now_ms = state.now_ms();
    let settings = state.store.notice_settings().await?.unwrap_or_default();
    let known = state.store.alert(alert_id).await?.ok_or(ApiError::NotFound("alert"))?;
    let setting = state.store.node_setting(&known.node_id).await?;
    let hush = quiet::until(&settings.quiet_hours, setting.as_ref(), now_ms);
    let (name, channels) = (&person.name, &settings.channels);
    let changed = alerts::change(&state.store, alert_id, |alert| match answer {
        Answer::Acknowledge => alert::acknowledge(alert, name, now_ms),
        Answer::Resolve => alert::resolve(alert, name, now_ms, hush, channels),
    });
    let changed = changed.await?.ok_or(ApiError::NotFound("alert"))?;
    if answer == Answer::Acknowledge && changed.status == AlertStatus::Resolved {
        return Err(ApiError::Conflict("the alert is over".into()));
    }
    let action = if answer == Answer::Acknowledge { "alert.acknowledge" } else { "alert.resolve" };
    auth::record(state, name, action, &format!("{} {}", changed.node_name, changed.message), "done").await;
    state.bus.publish(Change::AlertsChanged);
    Ok(changed)
}

/// Which notices.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NoticesQuery {
    /// `waiting`, `sent` or `given_up`; all unless given.
    status: Option<String>,
    /// Only about this alert or incident.
    subject_id: Option<String>,
    /// At most so many.
    limit: Option<usize>,
    /// Where a list before ended.
    cursor: Option<String>,
}

/// A page of notices.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NoticesJson {
    notices: Vec<Notice>,
    next_cursor: Option<String>,
}

/// What people were told or are about to be told, newest first.
#[utoipa::path(get, path = "/api/notices", tag = "nodes", params(NoticesQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = NoticesJson), (status = 400, body = ErrorJson)))]
pub async fn notices(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<NoticesQuery>,
) -> Result<Json<NoticesJson>, ApiError> {
    let wanted = match query.status.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some("waiting") => Some(NoticeState::Waiting),
        Some("sent") => Some(NoticeState::Sent),
        Some("given_up") => Some(NoticeState::GivenUp),
        Some(_) => return Err(ApiError::InvalidRequest("status is none of waiting, sent, given_up".into())),
    };
    let limit = super::limit(query.limit);
    let after = query.cursor.as_deref().filter(|text| !text.is_empty()).map(parse_cursor).transpose()?;
    let asked = NoticeQuery { state: wanted, subject_id: query.subject_id, after, limit };
    let notices = state.store.notices(asked).await?;
    let next_cursor = notices
        .last()
        .filter(|_| notices.len() == limit)
        .map(|last| to_cursor(last.created_at_ms, &last.notice_id));
    Ok(Json(NoticesJson { notices, next_cursor }))
}

fn to_cursor(at_ms: UnixMs, id: &str) -> String {
    let text = serde_json::to_vec(&(at_ms, id)).expect("a number and a text");
    URL_SAFE_NO_PAD.encode(text)
}

fn parse_cursor(text: &str) -> Result<(UnixMs, String), ApiError> {
    let bad = || ApiError::InvalidRequest("cursor is not one that this list answered".into());
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    serde_json::from_slice(&bytes).map_err(|_| bad())
}
