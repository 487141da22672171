//! Probes: what people set for them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, rejection::JsonRejection},
};
use caelum_engine::selector;
use caelum_model::{access::Role, id::ClientId, probe::ProbeSetting, wire::ErrorJson};
use caelum_roles::bus::Change;
use serde::{Deserialize, Deserializer};

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// A change of what is set for a probe: what is absent stays, what is null is taken away.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ProbeChangeJson {
    /// Site, region or uplink that it shares with others.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub(crate) group: Option<Option<String>>,
    /// Words that targets select by; all of them at once.
    pub(crate) tags: Option<Vec<String>>,
    /// Whether it measures the other machines, and they it.
    pub(crate) mesh: Option<bool>,
    /// Whether it measures at all.
    pub(crate) enabled: Option<bool>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes what is set for a probe, by its id or the name of its machine.
#[utoipa::path(patch, path = "/api/probes/{client_id}", tag = "network", params(("client_id" = String, Path)),
    request_body = ProbeChangeJson, security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = ProbeSetting), (status = 400, body = ErrorJson),
        (status = 404, body = ErrorJson)))]
pub async fn change_probe(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(client_id): Path<String>,
    body: Result<Json<ProbeChangeJson>, JsonRejection>,
) -> Result<Json<ProbeSetting>, ApiError> {
    let Json(wish) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    change(&state, &person, &client_id, wish).await.map(Json)
}

/// Changes what is set for a probe, for the API and the page alike.
pub async fn change(
    state: &State,
    person: &Person,
    name: &str,
    change: ProbeChangeJson,
) -> Result<ProbeSetting, ApiError> {
    person.require(Role::Operator)?;
    let client_id = find(state, name).await?;
    let settings = state.store.probe_settings().await?;
    let known = settings.into_iter().find(|setting| setting.client_id == client_id);
    let mut setting = known.unwrap_or_else(|| ProbeSetting::usual(client_id));
    setting.group = change.group.unwrap_or(setting.group).filter(|group| !group.is_empty());
    if let Some(mut tags) = change.tags {
        let mut seen = std::collections::HashSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        setting.tags = tags;
    }
    setting.mesh = change.mesh.unwrap_or(setting.mesh);
    setting.enabled = change.enabled.unwrap_or(setting.enabled);
    setting.updated_at_ms = state.now_ms();
    selector::check_tags(&setting.tags)
        .and_then(|()| setting.group.as_deref().map_or(Ok(()), selector::check_tag))
        .map_err(|error| ApiError::InvalidRequest(format!("tags and group: {error}")))?;
    state.store.put_probe_setting(setting.clone()).await?;
    auth::record(state, &person.name, "probe.change", setting.client_id.as_str(), "done").await;
    state.bus.publish(Change::TargetsChanged);
    Ok(setting)
}

/// The probe of this id, else that of the machine of this name; both may be known before the first event.
async fn find(state: &State, name: &str) -> Result<ClientId, ApiError> {
    let id = |text: &str| ClientId::parse(text).map_err(|_| ApiError::NotFound("probe"));
    let is_known = state.store.probes().await?.iter().any(|probe| probe.client_id.as_str() == name)
        || state.store.pair_statuses().await?.iter().any(|pair| pair.client_id.as_str() == name)
        || state.store.probe_settings().await?.iter().any(|setting| setting.client_id.as_str() == name);
    if is_known {
        return id(name);
    }
    let nodes = state.store.nodes().await?;
    let is_it = |by: &dyn Fn(&caelum_model::node::Node) -> &str| nodes.iter().find(|node| by(node) == name);
    let node = is_it(&|node| node.node_id.as_str()).or_else(|| is_it(&|node| &node.name));
    id(node.ok_or(ApiError::NotFound("probe"))?.node_id.as_str())
}
