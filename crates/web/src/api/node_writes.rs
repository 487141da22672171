//! Nodes: what people say about them, and those that they name before they are heard.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_drivers::random;
use caelum_engine::selector;
use caelum_model::{
    UnixMs,
    access::Role,
    host::HostIdentity,
    id::NodeId,
    node::{LinkFacts, Node, NodeSetting, Thresholds},
    wire::ErrorJson,
};
use caelum_roles::bus::Change;
use serde::{Deserialize, Deserializer};

use super::nodes::{self, NodeJson};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Most nodes.
const NODES_MAX: usize = 10_000;
/// Longest name, bytes.
const NAME_MAX: usize = 255;
/// Most capabilities of a node that is named.
const CAPABILITIES_MAX: usize = 64;

/// A change of what is said about a node: what is absent stays, what is null is taken away.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NodeChangeJson {
    /// Site, rack or team that it is listed under.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub(crate) group: Option<Option<String>>,
    /// Words that it can be chosen by; all of them at once.
    pub(crate) tags: Option<Vec<String>>,
    /// Whether it is to finish what it has and take no more work.
    pub(crate) draining: Option<bool>,
    /// Thresholds of its own; null: the cluster's.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Thresholds>)]
    pub(crate) thresholds: Option<Option<Thresholds>>,
    /// Until when nothing is said about it; null: no longer.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    pub(crate) muted_until_ms: Option<Option<UnixMs>>,
    /// Port of its SSH server; null: the one of the settings.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u16>)]
    pub(crate) ssh_port: Option<Option<u16>>,
    /// User to sign in as over SSH; null: the one of the settings.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub(crate) ssh_user: Option<Option<String>>,
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes what is said about a node: tags, group, draining, muting, thresholds of its own.
#[utoipa::path(patch, path = "/api/nodes/{id}", tag = "nodes", params(("id" = String, Path, description = "Id or name")),
    request_body = NodeChangeJson, security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = NodeJson), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson),
        (status = 404, body = ErrorJson)))]
pub async fn change_node(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
    body: Result<Json<NodeChangeJson>, JsonRejection>,
) -> Result<Json<NodeJson>, ApiError> {
    let Json(wish) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let (node, setting) = change(&state, &person, &id, wish).await?;
    Ok(Json(NodeJson::of(&node, &setting, &state.roster(), state.now_ms(), &state.thresholds())))
}

/// Changes it, for the API and the page alike.
pub async fn change(
    state: &State,
    person: &Person,
    id: &str,
    change: NodeChangeJson,
) -> Result<(Node, NodeSetting), ApiError> {
    person.require(Role::Operator)?;
    let node = nodes::find(state, id).await?;
    let known = state.store.node_setting(&node.node_id).await?;
    let mut setting = known.unwrap_or_else(|| NodeSetting::usual(node.node_id.clone()));
    setting.group = change.group.unwrap_or(setting.group).filter(|group| !group.is_empty());
    if let Some(mut tags) = change.tags {
        let mut seen = std::collections::HashSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        setting.tags = tags;
    }
    setting.draining = change.draining.unwrap_or(setting.draining);
    if let Some(thresholds) = change.thresholds {
        thresholds.as_ref().map_or(Ok(()), nodes::check)?;
        setting.thresholds = thresholds;
    }
    setting.muted_until_ms = change.muted_until_ms.unwrap_or(setting.muted_until_ms);
    setting.ssh_port = change.ssh_port.unwrap_or(setting.ssh_port).filter(|port| *port > 0);
    setting.ssh_user = change.ssh_user.unwrap_or(setting.ssh_user).filter(|user| !user.is_empty());
    if setting.ssh_user.as_ref().is_some_and(|user| {
        user.len() > NAME_MAX || user.chars().any(|c| c.is_control() || c.is_whitespace() || c == '@')
    }) {
        return Err(ApiError::InvalidRequest(format!(
            "ssh_user has 1 to {NAME_MAX} bytes, no white space and no @"
        )));
    }
    setting.updated_at_ms = state.now_ms();
    selector::check_tags(&setting.tags)
        .and_then(|()| setting.group.as_deref().map_or(Ok(()), selector::check_tag))
        .map_err(|error| ApiError::InvalidRequest(format!("tags and group: {error}")))?;
    state.store.put_node_setting(setting.clone()).await?;
    auth::record(state, &person.name, "node.change", &node.name, "done").await;
    if let Some(ssh) = &state.ssh {
        ssh.spots.refresh();
    }
    state.bus.publish(Change::SettingsChanged);
    Ok((node, setting))
}

/// A node that is named before it is heard.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
pub struct NewNodeJson {
    /// Name people use.
    name: String,
    /// Name the machine gives itself; the name unless given.
    #[serde(default)]
    hostname: Option<String>,
    /// Where it is.
    #[serde(default)]
    ip_address: Option<String>,
    /// Words it can be chosen by.
    #[serde(default)]
    capabilities: Vec<String>,
}

/// Names a node before it is heard. It is shown as offline; a machine of that name that joins takes its place.
#[utoipa::path(post, path = "/api/nodes", tag = "nodes", request_body = NewNodeJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 201, body = NodeJson), (status = 400, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn add_node(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NewNodeJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Operator)?;
    let Json(new) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let node = named(&new, state.now_ms()).map_err(ApiError::InvalidRequest)?;
    let known = state.store.nodes().await?;
    if known.iter().any(|known| known.name == node.name) {
        return Err(ApiError::Conflict(format!("there is a node called {}", node.name)));
    }
    if known.len() >= NODES_MAX {
        return Err(ApiError::Conflict(format!("there are {NODES_MAX} nodes, and no more are allowed")));
    }
    state.store.put_node(node.clone(), None).await?;
    auth::record(&state, &person.name, "node.add", &node.name, "done").await;
    state.bus.publish(Change::RosterChanged);
    let setting = NodeSetting::usual(node.node_id.clone());
    let json = NodeJson::of(&node, &setting, &state.roster(), state.now_ms(), &state.thresholds());
    Ok((StatusCode::CREATED, Json(json)).into_response())
}

fn named(new: &NewNodeJson, now_ms: UnixMs) -> Result<Node, String> {
    let hostname = new.hostname.as_ref().unwrap_or(&new.name);
    for (what, text) in [("name", &new.name), ("hostname", hostname)] {
        if text.is_empty() || text.len() > NAME_MAX || text.chars().any(char::is_control) {
            return Err(format!("{what} has 1 to {NAME_MAX} bytes and no control character"));
        }
    }
    let addresses = match new.ip_address.as_deref().filter(|text| !text.is_empty()) {
        None => Vec::new(),
        Some(text) => {
            let address: std::net::IpAddr = text.parse().map_err(|_| format!("{text} is no IP address"))?;
            vec![address.to_string()]
        }
    };
    if new.capabilities.len() > CAPABILITIES_MAX {
        return Err(format!("there are more than {CAPABILITIES_MAX} capabilities"));
    }
    selector::check_tags(&new.capabilities).map_err(|error| format!("capabilities: {error}"))?;
    Ok(Node {
        node_id: NodeId::parse(&format!("named-{}", random::secret(12))).expect("a secret is short text"),
        name: new.name.clone(),
        identity: HostIdentity { hostname: hostname.clone(), addresses, ..HostIdentity::default() },
        roles: vec!["named".to_owned()],
        version: String::new(),
        joined_at_ms: now_ms,
        seen_at_ms: now_ms,
        sample: None,
        links: LinkFacts { capabilities: new.capabilities.clone(), ..LinkFacts::default() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_with_little_and_not_with_nonsense() {
        let new = |json: &str| named(&serde_json::from_str(json).expect("reads"), 5);
        let node = new(r#"{"name": "worker-1", "ip_address": "192.168.1.100", "capabilities": ["python"]}"#);
        let node = node.expect("named");
        assert_eq!((node.identity.hostname.as_str(), node.is_heard()), ("worker-1", false));
        assert!(new(r#"{"name": ""}"#).is_err());
        assert!(new(r#"{"name": "a", "ip_address": "there"}"#).is_err());
    }

    #[test]
    fn what_is_null_is_taken_away_and_what_is_absent_stays() {
        let change: NodeChangeJson =
            serde_json::from_str(r#"{"group": null, "muted_until_ms": 5}"#).expect("reads");
        assert_eq!((change.group, change.muted_until_ms), (Some(None), Some(Some(5))));
        assert!(change.thresholds.is_none() && change.tags.is_none());
    }
}
