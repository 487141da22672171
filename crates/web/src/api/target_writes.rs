//! Targets: adding, changing and removing them, and what fits a kind of service.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_drivers::{probe, random};
use caelum_engine::target::{self as rules, TEMPLATES};
use caelum_model::{
    access::Role,
    id::TargetId,
    target::{Objective, Target, TargetChange, TargetOrigin},
    wire::ErrorJson,
};
use caelum_roles::bus::Change;
use serde::{Deserialize, Serialize};

use super::targets::{TargetJson, find};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Most targets.
const TARGETS_MAX: usize = 1000;
/// Time after which a measurement is given up where nothing else is said, ms.
const TIMEOUT_MS: u32 = 10_000;

/// A target to be measured. Beside its URL everything may be left out.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
pub struct NewTargetJson {
    /// What to measure: `https://…`, `http://…`, `tcp://host:port`, `dns://resolver/name`, `icmp://host` or
    /// `stamp://host:port`.
    pub(crate) url: String,
    /// Kind of service whose template fills what is not said.
    #[serde(default)]
    pub(crate) template: Option<String>,
    /// How it is measured.
    #[serde(flatten)]
    pub(crate) change: TargetChange,
}

/// What fits a kind of service.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TemplateJson {
    name: &'static str,
    /// What it is for.
    what: &'static str,
    /// Kinds of URLs that it is for.
    schemes: &'static [&'static str],
    interval_s: u32,
    timeout_ms: u32,
    objective: Objective,
    packets: Option<u16>,
    trace_every_s: Option<u32>,
}

/// Every template.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TemplatesJson {
    templates: Vec<TemplateJson>,
    next_cursor: Option<String>,
}

/// Kinds of services with what fits each: interval, time-out, packets, objective.
#[utoipa::path(get, path = "/api/targets/templates", tag = "network",
    security(("token" = ["read"]), ("session" = [])), responses((status = 200, body = TemplatesJson)))]
pub async fn templates(_: Person) -> Json<TemplatesJson> {
    let templates = TEMPLATES
        .iter()
        .map(|template| TemplateJson {
            name: template.name,
            what: template.what,
            schemes: template.schemes,
            interval_s: template.interval_s,
            timeout_ms: template.timeout_ms,
            objective: template.objective,
            packets: template.packets,
            trace_every_s: template.trace_every_s,
        })
        .collect();
    Json(TemplatesJson { templates, next_cursor: None })
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

/// Adds a target for the API and the page alike.
pub async fn add(state: &State, person: &Person, new: NewTargetJson) -> Result<Target, ApiError> {
    person.require(Role::Operator)?;
    probe::parse(&new.url).map_err(|error| ApiError::InvalidRequest(format!("url: {error}")))?;
    let target_id = TargetId::parse(&random::secret(12)).expect("a secret is short text");
    let usual = Target {
        name: rules::short_name(&new.url),
        timeout_ms: TIMEOUT_MS,
        ..Target::usual(target_id, new.url, state.now_ms())
    };
    let change = match &new.template {
        Some(template) => rules::with_template(&usual.url, template, new.change).map_err(refused)?,
        None => new.change,
    };
    let target = changed(&usual, change)?;
    if state.store.targets().await?.len() >= TARGETS_MAX {
        return Err(ApiError::Conflict(format!("there are {TARGETS_MAX} targets, and no more are allowed")));
    }
    state.store.add_target(target.clone()).await?;
    auth::record(state, &person.name, "target.add", &target.url, "done").await;
    state.bus.publish(Change::TargetsChanged);
    Ok(target)
}

fn refused(error: rules::TargetError) -> ApiError {
    ApiError::InvalidRequest(error.to_string())
}

/// The target after a change, with its download looked at by those that would fetch it.
fn changed(target: &Target, change: TargetChange) -> Result<Target, ApiError> {
    let target = rules::changed(target, change).map_err(refused)?;
    if target.throughput_url.as_deref().is_some_and(|url| probe::parse(url).is_err()) {
        return Err(refused(rules::TargetError::ThroughputUrl));
    }
    Ok(target)
}

/// Changes how a target is measured: what is absent stays, what is null is taken away.
#[utoipa::path(patch, path = "/api/targets/{id}", tag = "network", params(("id" = String, Path)),
    request_body = TargetChange, security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = TargetJson), (status = 400, body = ErrorJson),
        (status = 404, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn change_target(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
    body: Result<Json<TargetChange>, JsonRejection>,
) -> Result<Json<TargetJson>, ApiError> {
    let Json(wish) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let target = change(&state, &person, &id, wish).await?;
    Ok(Json(TargetJson::of(target, Vec::new())?))
}

/// Changes a target for the API and the page alike. One that was found at the start is kept as changed from
/// then on.
pub async fn change(
    state: &State,
    person: &Person,
    id: &str,
    change: TargetChange,
) -> Result<Target, ApiError> {
    person.require(Role::Operator)?;
    let before = find(state, id).await?;
    if before.origin == TargetOrigin::Config {
        return Err(ApiError::Conflict("the target is set in the configuration; change it there".into()));
    }
    let target = Target { origin: TargetOrigin::Api, ..changed(&before, change)? };
    if !state.store.update_target(target.clone()).await? {
        return Err(ApiError::NotFound("target"));
    }
    auth::record(state, &person.name, "target.change", &target.url, "done").await;
    state.bus.publish(Change::TargetsChanged);
    Ok(target)
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
