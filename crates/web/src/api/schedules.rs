//! Tasks at times: adding, changing and removing their schedules.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_drivers::random;
use caelum_engine::task::order;
use caelum_model::{
    access::Role,
    task::{Missed, Schedule, TaskAsk},
    wire::ErrorJson,
};
use caelum_roles::{bus::Change, tasks::next_after};
use serde::{Deserialize, Serialize};

use super::tasks::{find_node, refused};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Most schedules.
const SCHEDULES_MAX: usize = 1_000;
/// Longest name, bytes.
const NAME_MAX: usize = 128;

/// A new schedule.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewScheduleJson {
    /// What people call it.
    pub(crate) name: String,
    /// When: five fields of cron, or `@hourly` and the like.
    pub(crate) cron: String,
    /// Where those times are meant; UTC unless given.
    #[serde(default = "utc")]
    pub(crate) time_zone: String,
    /// Whether it is on.
    #[serde(default = "yes")]
    pub(crate) enabled: bool,
    /// What to do about times that were missed.
    #[serde(default)]
    pub(crate) missed: Missed,
    /// What is asked for each time.
    pub(crate) task: TaskAsk,
}

/// A change of a schedule: what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleChangeJson {
    name: Option<String>,
    cron: Option<String>,
    time_zone: Option<String>,
    enabled: Option<bool>,
    missed: Option<Missed>,
    task: Option<TaskAsk>,
}

fn utc() -> String {
    "UTC".to_owned()
}

const fn yes() -> bool {
    true
}

/// Every schedule.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SchedulesJson {
    schedules: Vec<Schedule>,
    next_cursor: Option<String>,
}

/// Every schedule, by name.
#[utoipa::path(get, path = "/api/schedules", tag = "tasks", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = SchedulesJson)))]
pub async fn list(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<SchedulesJson>, ApiError> {
    Ok(Json(SchedulesJson { schedules: state.store.schedules().await?, next_cursor: None }))
}

/// Adds a schedule.
#[utoipa::path(post, path = "/api/schedules", tag = "tasks", request_body = NewScheduleJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 201, body = Schedule), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn add(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NewScheduleJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Operator)?;
    let Json(new) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    if state.store.schedules().await?.len() >= SCHEDULES_MAX {
        let message = format!("there are {SCHEDULES_MAX} schedules, and no more are allowed");
        return Err(ApiError::Conflict(message));
    }
    let mut schedule = Schedule {
        schedule_id: random::secret(12),
        name: new.name,
        cron: new.cron,
        time_zone: new.time_zone,
        enabled: new.enabled,
        missed: new.missed,
        order: order_of(&state, new.task).await?,
        created_by: person.name.clone(),
        created_at: state.now_ms(),
        next_at: None,
        last_at: None,
        last_task_id: None,
    };
    settle(&state, &mut schedule)?;
    store(&state, &person, &schedule, "schedule.add").await?;
    Ok((StatusCode::CREATED, Json(schedule)).into_response())
}

/// Changes a schedule; `enabled` pauses and resumes it.
#[utoipa::path(patch, path = "/api/schedules/{id}", tag = "tasks", params(("id" = String, Path)),
    request_body = ScheduleChangeJson, security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = Schedule), (status = 400, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn change(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
    body: Result<Json<ScheduleChangeJson>, JsonRejection>,
) -> Result<Json<Schedule>, ApiError> {
    person.require(Role::Operator)?;
    let Json(change) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let mut schedule = state.store.schedule(&id).await?.ok_or(ApiError::NotFound("schedule"))?;
    if let Some(task) = change.task {
        schedule.order = order_of(&state, task).await?;
    }
    schedule.name = change.name.unwrap_or(schedule.name);
    schedule.cron = change.cron.unwrap_or(schedule.cron);
    schedule.time_zone = change.time_zone.unwrap_or(schedule.time_zone);
    schedule.enabled = change.enabled.unwrap_or(schedule.enabled);
    schedule.missed = change.missed.unwrap_or(schedule.missed);
    settle(&state, &mut schedule)?;
    store(&state, &person, &schedule, "schedule.change").await?;
    Ok(Json(schedule))
}

/// Removes a schedule; the tasks that came from it stay.
#[utoipa::path(delete, path = "/api/schedules/{id}", tag = "tasks", params(("id" = String, Path)),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 204), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn remove(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    person.require(Role::Operator)?;
    if !state.store.remove_schedule(&id).await? {
        return Err(ApiError::NotFound("schedule"));
    }
    auth::record(&state, &person.name, "schedule.remove", &id, "done").await;
    state.bus.publish(Change::TasksChanged);
    Ok(StatusCode::NO_CONTENT)
}

async fn order_of(state: &State, mut ask: TaskAsk) -> Result<caelum_model::task::TaskOrder, ApiError> {
    if let Some(node) = ask.assigned_node.take().filter(|node| !node.is_empty()) {
        ask.assigned_node = Some(find_node(state, &node).await?.to_string());
    }
    order::alone(ask).map_err(refused)
}

/// Checks a schedule and says when its next time is.
fn settle(state: &State, schedule: &mut Schedule) -> Result<(), ApiError> {
    let name = &schedule.name;
    if name.trim().is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
        let message = format!("name must be 1 to {NAME_MAX} bytes without control characters");
        return Err(ApiError::InvalidRequest(message));
    }
    let next = next_after(&schedule.cron, &schedule.time_zone, state.now_ms())
        .map_err(|error| ApiError::InvalidRequest(error.to_string()))?;
    schedule.next_at = schedule.enabled.then_some(next);
    Ok(())
}

async fn store(state: &State, person: &Person, schedule: &Schedule, action: &str) -> Result<(), ApiError> {
    state.store.put_schedule(schedule.clone()).await?;
    auth::record(state, &person.name, action, &schedule.name, "done").await;
    state.bus.publish(Change::TasksChanged);
    Ok(())
}
