//! Nodes, their health and their history.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Path, Query, rejection::JsonRejection},
};
use caelum_engine::health;
use caelum_model::{
    UnixMs,
    access::Role,
    alert::Alert,
    cluster::{Ceiling, Liveness, Roster, Service},
    host::{HostIdentity, HostSample},
    id::NodeId,
    node::{Issue, Level, Node, NodePoint, NodeSetting, Threshold, Thresholds},
    wire::ErrorJson,
};
use caelum_roles::bus::Change;
use caelum_store::AlertQuery;
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

/// How a node fares, or that it is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Nothing crosses a threshold.
    Healthy,
    /// A metric reached its warning threshold.
    Warning,
    /// A metric reached its critical threshold.
    Critical,
    /// It cannot be reached.
    Offline,
    /// It finishes what it has and takes no more work.
    Draining,
}

impl NodeStatus {
    fn of(level: Level, setting: &NodeSetting) -> Self {
        match level {
            Level::Offline => Self::Offline,
            _ if setting.draining => Self::Draining,
            Level::Healthy => Self::Healthy,
            Level::Warning => Self::Warning,
            Level::Critical => Self::Critical,
        }
    }
}

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
    /// Port of its SSH server, where one is set; null: the one of the settings.
    pub ssh_port: Option<u16>,
    /// User to sign in as over SSH, where one is set; null: the one of the settings.
    pub ssh_user: Option<String>,
    /// First of its roles.
    pub role: String,
    /// Everything it runs.
    pub roles: Vec<String>,
    /// How it fares, or that it is being emptied.
    pub status: NodeStatus,
    /// Whether it has ever said anything; one that was only named has not.
    pub heard: bool,
    /// Site, rack or team that it is listed under.
    pub group: Option<String>,
    /// Words that people gave it.
    pub tags: Vec<String>,
    /// Whether it is to finish what it has and take no more work.
    pub draining: bool,
    /// Until when nothing is said about it.
    pub muted_until_ms: Option<UnixMs>,
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
    /// A node as of now, with the cluster's thresholds.
    pub fn of(
        node: &Node,
        setting: &NodeSetting,
        roster: &Roster,
        now_ms: UnixMs,
        thresholds: &Thresholds,
    ) -> Self {
        let level = judge_as(node, Some(setting), roster, now_ms, thresholds).level;
        let sample = node.sample.as_ref();
        let member = roster.members.iter().find(|member| member.node_id == node.node_id);
        Self {
            node_id: node.node_id.clone(),
            name: node.name.clone(),
            hostname: node.identity.hostname.clone(),
            ip_address: node.identity.addresses.first().cloned(),
            ssh_port: setting.ssh_port,
            ssh_user: setting.ssh_user.clone(),
            role: node.roles.first().cloned().unwrap_or_default(),
            roles: node.roles.clone(),
            status: NodeStatus::of(level, setting),
            heard: node.is_heard(),
            group: setting.group.clone(),
            tags: setting.tags.clone(),
            draining: setting.draining,
            muted_until_ms: setting.muted_until_ms.filter(|until| *until > now_ms),
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

/// How a node fares as of now, with the thresholds that hold for it.
pub(crate) fn judge_as(
    node: &Node,
    setting: Option<&NodeSetting>,
    roster: &Roster,
    now_ms: UnixMs,
    thresholds: &Thresholds,
) -> health::Health {
    let own = setting.and_then(|setting| setting.thresholds.as_ref()).unwrap_or(thresholds);
    health::of_node(node, roster, now_ms, own)
}

/// What is set for nodes.
pub(crate) async fn settings(state: &State) -> Result<HashMap<NodeId, NodeSetting>, ApiError> {
    let settings = state.store.node_settings().await?;
    Ok(settings.into_iter().map(|setting| (setting.node_id.clone(), setting)).collect())
}

/// What is set for one of them.
fn setting_of(settings: &HashMap<NodeId, NodeSetting>, node: &Node) -> NodeSetting {
    settings.get(&node.node_id).cloned().unwrap_or_else(|| NodeSetting::usual(node.node_id.clone()))
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
    let (nodes, settings) = (state.store.nodes().await?, settings(&state).await?);
    let json = |node| NodeJson::of(node, &setting_of(&settings, node), &roster, now_ms, &thresholds);
    let nodes = nodes.iter().map(json).collect();
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
    /// Thresholds of its own, where it has some.
    thresholds: Option<Thresholds>,
    /// What is the matter with it for a while.
    alerts: Vec<Alert>,
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
    let setting = state.store.node_setting(&node.node_id).await?;
    let setting = setting.unwrap_or_else(|| NodeSetting::usual(node.node_id.clone()));
    let query = AlertQuery { is_open: Some(true), node_id: Some(node.node_id.clone()), ..open_alerts() };
    Ok(Json(NodeDetailJson {
        node: NodeJson::of(&node, &setting, &roster, now_ms, &thresholds),
        issues: judge_as(&node, Some(&setting), &roster, now_ms, &thresholds).issues,
        alerts: state.store.alerts(query).await?,
        thresholds: setting.thresholds,
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
    let setting = state.store.node_setting(&node.node_id).await?;
    let health = judge_as(&node, setting.as_ref(), &state.roster(), state.now_ms(), &state.thresholds());
    Ok(Json(health.into()))
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
    /// Alerts that stand, the newest first.
    active_alerts: Vec<Alert>,
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
    let settings = settings(&state).await?;
    for node in state.store.nodes().await? {
        let setting = setting_of(&settings, &node);
        let health = judge_as(&node, Some(&setting), &roster, now_ms, &thresholds);
        summary.total += 1;
        match health.level {
            Level::Healthy => summary.healthy += 1,
            Level::Warning => summary.warning += 1,
            Level::Critical => summary.critical += 1,
            Level::Offline => summary.offline += 1,
        }
        let json = NodeJson::of(&node, &setting, &roster, now_ms, &thresholds);
        nodes.push(NodeHealthJson { node: json, health: health.into() });
    }
    let mean = |value: fn(&NodeJson) -> Option<f64>| {
        let values: Vec<f64> = nodes
            .iter()
            .filter(|node| node.node.status != NodeStatus::Offline)
            .filter_map(|node| value(&node.node))
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let cluster_metrics = ClusterMetricsJson {
        avg_cpu: mean(|node| node.cpu_usage),
        avg_memory: mean(|node| node.memory_usage),
        avg_disk: mean(|node| node.disk_usage),
    };
    let active_alerts = state.store.alerts(open_alerts()).await?;
    Ok(Json(ClusterHealthJson { nodes, summary, cluster_metrics, active_alerts, thresholds }))
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
    set_thresholds(&state, &person, thresholds).await?;
    Ok(Json(thresholds))
}

/// Sets the thresholds, for the API and the page alike.
pub(crate) async fn set_thresholds(
    state: &State,
    person: &Person,
    thresholds: Thresholds,
) -> Result<(), ApiError> {
    person.require(Role::Operator)?;
    check(&thresholds)?;
    state.store.put_thresholds(thresholds).await?;
    state.set_thresholds(thresholds);
    auth::record(state, &person.name, "thresholds.set", "all nodes", "done").await;
    state.bus.publish(Change::SettingsChanged);
    Ok(())
}

/// The question for alerts that stand.
pub(crate) fn open_alerts() -> AlertQuery {
    AlertQuery { is_open: Some(true), limit: super::LIMIT_MAX, ..AlertQuery::default() }
}

pub(crate) fn check(thresholds: &Thresholds) -> Result<(), ApiError> {
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
    if thresholds.alert_hold_s > 86_400 || thresholds.alert_clear_s > 86_400 {
        return Err(ApiError::InvalidRequest("alert_hold_s or alert_clear_s is above 86400".into()));
    }
    if !(0.0..=40.0).contains(&thresholds.alert_margin) {
        return Err(ApiError::InvalidRequest("alert_margin is not between 0 and 40".into()));
    }
    Ok(())
}

pub(crate) async fn find(state: &State, id: &str) -> Result<Node, ApiError> {
    state.store.node(id).await?.ok_or(ApiError::NotFound("node"))
}
