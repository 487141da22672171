//! Nodes, their health and their history.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, Query, rejection::JsonRejection},
};
use caelum_engine::health;
use caelum_model::{
    UnixMs,
    access::Role,
    cluster::{Ceiling, Liveness, Roster, Service},
    host::{HostIdentity, HostSample},
    id::NodeId,
    node::{Issue, Level, Node, NodePoint, Threshold, Thresholds},
    wire::ErrorJson,
};
use caelum_roles::bus::Change;
use serde::{Deserialize, Serialize};

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Points of a history unless asked for another number.
const POINTS_DEFAULT: usize = 360;
/// Most points of a history.
const POINTS_MAX: usize = 2000;

/// A node as programs see it. Percentages are 0 to 100.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct NodeJson {
    /// Identity.
    pub node_id: NodeId,
    /// Name people use.
    pub name: String,
    /// Name the machine gives itself.
    pub hostname: String,
    /// Most useful address.
    pub ip_address: Option<String>,
    /// First of its roles.
    pub role: String,
    /// Everything it runs.
    pub roles: Vec<String>,
    /// How it fares.
    pub status: Level,
    /// Processor use.
    pub cpu_usage: Option<f64>,
    /// Memory use.
    pub memory_usage: Option<f64>,
    /// Use of the fullest file system.
    pub disk_usage: Option<f64>,
    /// Load over 1, 5 and 15 minutes.
    pub load_average: Option<[f64; 3]>,
    /// Processes.
    pub process_count: Option<u64>,
    /// Since boot.
    pub uptime_seconds: Option<u64>,
    /// Since its last sample, by the server's clock.
    pub last_heartbeat_age_ms: i64,
    /// Version of Caelum it runs.
    pub version: String,
    /// What it offers.
    pub services: Vec<Service>,
    /// Words it can be chosen by.
    pub capabilities: Vec<String>,
    /// The most it lets anybody do.
    pub ceiling: Ceiling,
    /// What membership believes; null for this server and for nodes that it has not heard since it started.
    pub liveness: Option<Liveness>,
    /// Samples that it could only hand over later.
    pub buffered_points: u64,
}

impl NodeJson {
    /// A node as of now.
    pub fn of(node: &Node, roster: &Roster, now_ms: UnixMs, thresholds: &Thresholds) -> Self {
        let sample = node.sample.as_ref();
        let member = roster.members.iter().find(|member| member.node_id == node.node_id);
        Self {
            node_id: node.node_id.clone(),
            name: node.name.clone(),
            hostname: node.identity.hostname.clone(),
            ip_address: node.identity.addresses.first().cloned(),
            role: node.roles.first().cloned().unwrap_or_default(),
            roles: node.roles.clone(),
            status: judge(node, roster, now_ms, thresholds).level,
            cpu_usage: sample.map(|sample| sample.cpu_percent),
            memory_usage: sample.and_then(|sample| sample.memory.percent()),
            disk_usage: sample.and_then(HostSample::disk_percent),
            load_average: sample.map(|sample| sample.load_average),
            process_count: sample.map(|sample| sample.process_count),
            uptime_seconds: sample.map(|sample| sample.uptime_seconds),
            last_heartbeat_age_ms: (now_ms - node.seen_at_ms).max(0),
            version: node.version.clone(),
            services: member
                .map(|member| member.services.clone())
                .filter(|services| !services.is_empty())
                .unwrap_or_else(|| node.links.services.clone()),
            capabilities: node.links.capabilities.clone(),
            ceiling: node.links.ceiling,
            liveness: member.map(|member| member.liveness),
            buffered_points: node.links.buffered_points,
        }
    }
}

/// How a node fares as of now.
pub(crate) fn judge(node: &Node, roster: &Roster, now_ms: UnixMs, thresholds: &Thresholds) -> health::Health {
    health::of_node(node, roster, now_ms, thresholds)
}

/// A page of nodes.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NodesJson {
    nodes: Vec<NodeJson>,
    next_cursor: Option<String>,
}

/// Every node.
#[utoipa::path(get, path = "/api/nodes", tag = "nodes", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = NodesJson), (status = 401, body = ErrorJson)))]
pub async fn list(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<NodesJson>, ApiError> {
    let (now_ms, thresholds, roster) = (state.now_ms(), state.thresholds(), state.roster());
    let nodes = state.store.nodes().await?;
    let nodes = nodes.iter().map(|node| NodeJson::of(node, &roster, now_ms, &thresholds)).collect();
    Ok(Json(NodesJson { nodes, next_cursor: None }))
}

/// One node with everything it last said.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NodeDetailJson {
    #[serde(flatten)]
    node: NodeJson,
    identity: HostIdentity,
    sample: Option<HostSample>,
    issues: Vec<Issue>,
    joined_at_ms: UnixMs,
}

/// One node, by id or name.
#[utoipa::path(get, path = "/api/nodes/{id}", tag = "nodes", params(("id" = String, Path, description = "Id or name")),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = NodeDetailJson), (status = 404, body = ErrorJson)))]
pub async fn one(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<NodeDetailJson>, ApiError> {
    let (now_ms, thresholds, roster) = (state.now_ms(), state.thresholds(), state.roster());
    let node = find(&state, &id).await?;
    Ok(Json(NodeDetailJson {
        node: NodeJson::of(&node, &roster, now_ms, &thresholds),
        issues: judge(&node, &roster, now_ms, &thresholds).issues,
        identity: node.identity,
        sample: node.sample,
        joined_at_ms: node.joined_at_ms,
    }))
}

/// How a node fares and why.
#[derive(Serialize, utoipa::ToSchema)]
pub struct HealthJson {
    status: Level,
    issues: Vec<IssueJson>,
}

/// A threshold that is crossed.
#[derive(Serialize, utoipa::ToSchema)]
pub struct IssueJson {
    #[serde(rename = "type")]
    kind: &'static str,
    severity: Level,
    message: String,
    metric: &'static str,
    value: f64,
    threshold: f64,
}

impl From<health::Health> for HealthJson {
    fn from(health: health::Health) -> Self {
        let issues = health
            .issues
            .into_iter()
            .map(|issue| IssueJson {
                kind: "threshold",
                severity: issue.severity,
                message: issue.message,
                metric: issue.metric.as_str(),
                value: issue.value,
                threshold: issue.threshold,
            })
            .collect();
        Self { status: health.level, issues }
    }
}

/// How one node fares and why.
#[utoipa::path(get, path = "/api/nodes/{id}/health", tag = "nodes", params(("id" = String, Path, description = "Id or name")),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = HealthJson), (status = 404, body = ErrorJson)))]
pub async fn one_health(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<HealthJson>, ApiError> {
    let node = find(&state, &id).await?;
    Ok(Json(judge(&node, &state.roster(), state.now_ms(), &state.thresholds()).into()))
}

/// Node with its health.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NodeHealthJson {
    #[serde(flatten)]
    node: NodeJson,
    health: HealthJson,
}

/// Nodes by level.
#[derive(Default, Serialize, utoipa::ToSchema)]
pub struct SummaryJson {
    total: usize,
    healthy: usize,
    warning: usize,
    critical: usize,
    offline: usize,
}

/// Means over all nodes that are not offline; null where there is none.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ClusterMetricsJson {
    avg_cpu: Option<f64>,
    avg_memory: Option<f64>,
    avg_disk: Option<f64>,
}

/// The health of all nodes.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ClusterHealthJson {
    nodes: Vec<NodeHealthJson>,
    summary: SummaryJson,
    cluster_metrics: ClusterMetricsJson,
    thresholds: Thresholds,
}

/// How all nodes fare and why.
#[utoipa::path(get, path = "/api/nodes/health", tag = "nodes", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = ClusterHealthJson)))]
pub async fn health(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<ClusterHealthJson>, ApiError> {
    let (now_ms, thresholds, roster) = (state.now_ms(), state.thresholds(), state.roster());
    let mut summary = SummaryJson::default();
    let mut nodes = Vec::new();
    for node in state.store.nodes().await? {
        let health = judge(&node, &roster, now_ms, &thresholds);
        summary.total += 1;
        match health.level {
            Level::Healthy => summary.healthy += 1,
            Level::Warning => summary.warning += 1,
            Level::Critical => summary.critical += 1,
            Level::Offline => summary.offline += 1,
        }
        let json = NodeJson::of(&node, &roster, now_ms, &thresholds);
        nodes.push(NodeHealthJson { node: json, health: health.into() });
    }
    let mean = |value: fn(&NodeJson) -> Option<f64>| {
        let values: Vec<f64> = nodes
            .iter()
            .filter(|node| node.node.status != Level::Offline)
            .filter_map(|node| value(&node.node))
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let cluster_metrics = ClusterMetricsJson {
        avg_cpu: mean(|node| node.cpu_usage),
        avg_memory: mean(|node| node.memory_usage),
        avg_disk: mean(|node| node.disk_usage),
    };
    Ok(Json(ClusterHealthJson { nodes, summary, cluster_metrics, thresholds }))
}

/// Which stretch of history, and how finely.
#[derive(Deserialize, utoipa::IntoParams)]
pub struct HistoryQuery {
    /// From this time on; an hour ago unless given.
    from: Option<UnixMs>,
    /// Up to this time; now unless given.
    to: Option<UnixMs>,
    /// At most so many points.
    points: Option<usize>,
}

/// A node's history.
#[derive(Serialize, utoipa::ToSchema)]
pub struct HistoryJson {
    points: Vec<NodePoint>,
}

/// A node's history, oldest first.
#[utoipa::path(get, path = "/api/nodes/{id}/history", tag = "nodes",
    params(("id" = String, Path, description = "Id or name"), HistoryQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = HistoryJson), (status = 404, body = ErrorJson)))]
pub async fn history(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<HistoryJson>, ApiError> {
    let node = find(&state, &id).await?;
    let to_ms = query.to.unwrap_or_else(|| state.now_ms() + 1);
    let from_ms = query.from.unwrap_or(to_ms - 3_600_000);
    if from_ms >= to_ms {
        return Err(ApiError::InvalidRequest("from is not before to".into()));
    }
    let points = query.points.unwrap_or(POINTS_DEFAULT).clamp(1, POINTS_MAX);
    let points = state.store.node_points(&node.node_id, from_ms, to_ms, points).await?;
    Ok(Json(HistoryJson { points }))
}

/// Thresholds in force.
#[utoipa::path(get, path = "/api/nodes/thresholds", tag = "nodes", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = Thresholds)))]
pub async fn thresholds(_: Person, extract::State(state): extract::State<Arc<State>>) -> Json<Thresholds> {
    Json(state.thresholds())
}

/// Sets the thresholds; they hold at once and after a restart.
#[utoipa::path(put, path = "/api/nodes/thresholds", tag = "nodes", request_body = Thresholds,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = Thresholds), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn put_thresholds(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<Thresholds>, JsonRejection>,
) -> Result<Json<Thresholds>, ApiError> {
    person.require(Role::Operator)?;
    let Json(thresholds) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    check(&thresholds)?;
    state.store.put_thresholds(thresholds).await?;
    *state.thresholds.write().expect("no code panics while it holds this lock") = thresholds;
    auth::record(&state, &person.name, "thresholds.set", "all nodes", "done").await;
    state.bus.publish(Change::SettingsChanged);
    Ok(Json(thresholds))
}

fn check(thresholds: &Thresholds) -> Result<(), ApiError> {
    let percent = [("cpu", thresholds.cpu), ("memory", thresholds.memory), ("disk", thresholds.disk)];
    for (name, Threshold { warning, critical }) in percent {
        if !(0.0..=100.0).contains(&warning) || !(warning..=100.0).contains(&critical) {
            let message = format!("{name}: 0 ≤ warning ≤ critical ≤ 100 does not hold");
            return Err(ApiError::InvalidRequest(message));
        }
    }
    let load = thresholds.load;
    if !(0.0..=1e6).contains(&load.warning) || !(load.warning..=1e6).contains(&load.critical) {
        return Err(ApiError::InvalidRequest("load: 0 ≤ warning ≤ critical does not hold".into()));
    }
    if !(10..=86_400).contains(&thresholds.heartbeat_timeout_s) {
        return Err(ApiError::InvalidRequest("heartbeat_timeout_s is not between 10 and 86400".into()));
    }
    Ok(())
}

async fn find(state: &State, id: &str) -> Result<Node, ApiError> {
    state.store.node(id).await?.ok_or(ApiError::NotFound("node"))
}
