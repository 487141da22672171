//! Several servers: who of them lives, whether this one may be given work, and what stands before them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{self, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use caelum_engine::{
    balancer::{self, Kind, Plan, Tls},
    fleet::Member,
};
use caelum_model::{UnixMs, access::Role, cluster::NodeRole, id::NodeId, wire::ErrorJson};
use caelum_roles::fleet::Fleet;
use serde::{Deserialize, Serialize};

use super::master_key::{self, MasterKeyJson};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Longest that a health check waits for the records.
const RECORDS_MAX: Duration = Duration::from_secs(2);
/// A view that is older than this is none.
const VIEW_MAX_MS: i64 = 15_000;
/// The port of a load balancer, unless asked for another.
const BALANCER_PORT: u16 = 443;
/// What is said where there is one server.
const STANDALONE: &str = "This server is alone: its records are a file of this machine. Several servers share \
                          records on PostgreSQL and a stream on NATS: `caelum server --store postgres://… --queue \
                          nats://…`.";

/// A server of the fleet.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub struct ServerJson {
    pub(crate) node_id: NodeId,
    pub(crate) name: String,
    /// `active` or `inactive`.
    pub(crate) status: &'static str,
    /// Where it is reached: `host:port`, best first.
    pub(crate) servers: Vec<String>,
    pub(crate) version: Option<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) uptime_seconds: Option<i64>,
    /// How long ago its last sign of life was new here; null where there was none since this server began.
    pub(crate) last_heartbeat_age_ms: Option<i64>,
    /// Whether it is the one that answers.
    pub(crate) is_this: bool,
}

/// The fleet as the server that answers sees it.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FleetStatusJson {
    pub(crate) enabled: bool,
    /// `standalone` where there is no fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<&'static str>,
    pub(crate) node_id: NodeId,
    /// `postgres`, `redis`, `sqlite` or `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<&'static str>,
    /// Where that is, without a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// What is wrong with it; null while it answers.
    pub(crate) error: Option<String>,
    pub(crate) total_nodes: usize,
    pub(crate) active_nodes: usize,
    pub(crate) inactive_nodes: usize,
    /// Which server holds which master key; null where the records do not tell now.
    pub(crate) master_key: Option<MasterKeyJson>,
    pub(crate) nodes: Vec<ServerJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) this_node: Option<ServerJson>,
    /// Time between two signs of life, s.
    pub(crate) heartbeat_interval_s: u64,
    /// Silence after which a server counts as gone, s.
    pub(crate) node_timeout_s: u64,
}

/// The servers.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ServersJson {
    nodes: Vec<ServerJson>,
    next_cursor: Option<String>,
}

/// Whether this server may be given work.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FleetHealthJson {
    /// `healthy` or `unhealthy`.
    status: &'static str,
    node_id: NodeId,
    /// Why not; null while healthy.
    reason: Option<String>,
}

/// What servers coordinate by, as measured now.
#[derive(Serialize, utoipa::ToSchema)]
pub struct BackendCheckJson {
    connected: bool,
    r#type: &'static str,
    /// How long a write and reading it back took just now, ms.
    latency_ms: Option<f64>,
    host: String,
    error: Option<String>,
}

/// The records, as measured now.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RecordsCheckJson {
    connected: bool,
    latency_ms: Option<f64>,
    error: Option<String>,
}

/// How many servers there are.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ServerCountsJson {
    total: usize,
    active: usize,
    inactive: usize,
}

/// How fresh is what this server knows of the others.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SyncJson {
    /// How long ago the records of all servers were read, ms.
    last_look_age_ms: Option<i64>,
    /// Records that proved nothing: altered, copied, or of another cluster.
    refused_records: usize,
}

/// Whether another server can take over.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FailoverJson {
    ready: bool,
    healthy_nodes: usize,
    details: Vec<String>,
}

/// Everything about the fleet, measured while the question waited.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FleetCheckJson {
    backend: BackendCheckJson,
    records: RecordsCheckJson,
    nodes: ServerCountsJson,
    sync: SyncJson,
    failover: FailoverJson,
    /// `healthy`, `degraded` (it serves, and nobody could take over) or `unhealthy`.
    overall: &'static str,
}

/// Who of the servers lives.
#[utoipa::path(get, path = "/api/fleet/cluster/status", tag = "fleet", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = FleetStatusJson), (status = 401, body = ErrorJson)))]
pub async fn status(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<FleetStatusJson>, ApiError> {
    Ok(Json(read(&state).await?))
}

/// The fleet as a page or a program is shown it.
pub(crate) async fn read(state: &State) -> Result<FleetStatusJson, ApiError> {
    let Some(fleet) = &state.fleet else {
        return Ok(FleetStatusJson {
            enabled: false,
            mode: Some("standalone"),
            message: Some(STANDALONE),
            node_id: state.node_id.clone(),
            backend: None,
            address: None,
            error: None,
            total_nodes: 0,
            active_nodes: 0,
            inactive_nodes: 0,
            master_key: master_key::of(state, &[]).await.ok(),
            nodes: Vec::new(),
            this_node: None,
            heartbeat_interval_s: 0,
            node_timeout_s: 0,
        });
    };
    let view = fleet.view();
    let nodes = servers(state, &view.members).await?;
    let active_nodes = nodes.iter().filter(|node| node.status == "active").count();
    Ok(FleetStatusJson {
        enabled: true,
        mode: None,
        message: None,
        node_id: state.node_id.clone(),
        backend: Some(fleet.coordination.kind()),
        address: Some(fleet.coordination.place()),
        error: view.error.clone(),
        total_nodes: nodes.len(),
        active_nodes,
        inactive_nodes: nodes.len() - active_nodes,
        master_key: master_key::of(state, &nodes).await.ok(),
        this_node: nodes.iter().find(|node| node.is_this).cloned(),
        nodes,
        heartbeat_interval_s: fleet.heartbeat.as_secs(),
        node_timeout_s: fleet.timeout.as_secs(),
    })
}

/// The servers that were admitted, whether or not they can be seen.
pub(crate) async fn known(state: &State) -> Result<Vec<ServerJson>, ApiError> {
    let members = match &state.fleet {
        Some(fleet) => fleet.view().members.clone(),
        None => Vec::new(),
    };
    servers(state, &members).await
}

/// Those that were seen, and those that were admitted and have not been seen.
async fn servers(state: &State, members: &[Member]) -> Result<Vec<ServerJson>, ApiError> {
    let mut nodes: Vec<ServerJson> = members.iter().map(|member| server(member, &state.node_id)).collect();
    let enrolments = state.store.enrolments().await?;
    for known in enrolments {
        let is_server = known.role == NodeRole::Server && known.revoked_at_ms.is_none();
        if is_server && !nodes.iter().any(|node| node.node_id == known.node_id) {
            nodes.push(ServerJson {
                node_id: known.node_id,
                name: known.hostname,
                status: "inactive",
                servers: Vec::new(),
                version: None,
                roles: Vec::new(),
                uptime_seconds: None,
                last_heartbeat_age_ms: None,
                is_this: false,
            });
        }
    }
    Ok(nodes)
}

fn server(member: &Member, own: &NodeId) -> ServerJson {
    let record = &member.record;
    ServerJson {
        node_id: record.node_id.clone(),
        name: record.name.clone(),
        status: if member.is_active { "active" } else { "inactive" },
        servers: record.servers.clone(),
        version: Some(record.version.clone()),
        roles: record.roles.clone(),
        uptime_seconds: member.is_active.then_some((record.uptime_ms + member.age_ms) / 1_000),
        last_heartbeat_age_ms: Some(member.age_ms),
        is_this: record.node_id == *own,
    }
}

/// The servers, those that are away included.
#[utoipa::path(get, path = "/api/fleet/cluster/nodes", tag = "fleet", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = ServersJson), (status = 401, body = ErrorJson)))]
pub async fn nodes(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<ServersJson>, ApiError> {
    let nodes = match &state.fleet {
        Some(fleet) => servers(&state, &fleet.view().members).await?,
        None => Vec::new(),
    };
    Ok(Json(ServersJson { nodes, next_cursor: None }))
}

/// Whether this server may be given work: it reaches the records and what servers coordinate by. Needs no
/// login: load balancers ask it.
#[utoipa::path(get, path = "/api/fleet/cluster/health", tag = "fleet",
    responses((status = 200, body = FleetHealthJson), (status = 503, body = FleetHealthJson)))]
pub async fn health(extract::State(state): extract::State<Arc<State>>) -> Response {
    let reason = unwell(&state).await;
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if reason.is_none() { "healthy" } else { "unhealthy" };
    (status, Json(FleetHealthJson { status: word, node_id: state.node_id.clone(), reason })).into_response()
}

/// Why this server is not well; nothing while it is. Details are for whoever is signed in.
async fn unwell(state: &State) -> Option<String> {
    if state.stop.is_cancelled() {
        return Some("this server is stopping".to_owned());
    }
    if let Err(error) = records_ms(state).await {
        tracing::debug!(code = "web.fleet_unwell", error, "not well");
        return Some("the records cannot be reached".to_owned());
    }
    let fleet = state.fleet.as_ref()?;
    let view = fleet.view();
    let age_ms = view.answered_at_ms.map(|at_ms| state.now_ms() - at_ms);
    match (&view.error, age_ms) {
        (Some(_), _) => Some(format!("the {} backend cannot be reached", fleet.coordination.kind())),
        (None, None) => Some("this server has not seen the others yet".to_owned()),
        (None, Some(age_ms)) if age_ms > VIEW_MAX_MS => Some(format!(
            "the {} backend has not answered for {} s",
            fleet.coordination.kind(),
            age_ms / 1_000
        )),
        (None, Some(_)) => None,
    }
}

/// How long the records take to answer, ms.
async fn records_ms(state: &State) -> Result<f64, String> {
    let begun = Instant::now();
    match tokio::time::timeout(RECORDS_MAX, state.store.fact("cluster_id")).await {
        Ok(Ok(_)) => Ok(begun.elapsed().as_secs_f64() * 1_000.0),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {} s", RECORDS_MAX.as_secs())),
    }
}

/// How long a write where servers coordinate, and reading it back, takes, ms.
async fn backend_ms(state: &State, fleet: &Fleet) -> Result<f64, String> {
    let (key, value) = (format!("check/{}", state.node_id), state.now_ms().to_string());
    let begun = Instant::now();
    let measured = async {
        fleet.coordination.put(&key, &value, Duration::from_secs(60)).await?;
        fleet.coordination.get(&key).await
    };
    match measured.await {
        Ok(Some(kept)) if kept.value == value => Ok(begun.elapsed().as_secs_f64() * 1_000.0),
        // Another question of the same kind came in between.
        Ok(Some(_)) => Ok(begun.elapsed().as_secs_f64() * 1_000.0),
        Ok(None) => Err("what was written could not be read back".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// How the fleet is, measured now: each answer writes, reads, and asks the records.
#[utoipa::path(get, path = "/api/fleet/cluster/health-check", tag = "fleet",
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = FleetCheckJson), (status = 401, body = ErrorJson)))]
pub async fn health_check(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<FleetCheckJson>, ApiError> {
    Ok(Json(check(&state).await))
}

async fn check(state: &State) -> FleetCheckJson {
    let records = records_ms(state).await;
    let now_ms: UnixMs = state.now_ms();
    let (backend, members, sync) = match &state.fleet {
        Some(fleet) => {
            let measured = backend_ms(state, fleet).await;
            let view = fleet.view();
            let backend = BackendCheckJson {
                connected: measured.is_ok(),
                r#type: fleet.coordination.kind(),
                latency_ms: measured.as_ref().ok().copied(),
                host: fleet.coordination.place(),
                error: measured.err(),
            };
            let sync = SyncJson {
                last_look_age_ms: view.answered_at_ms.map(|at_ms| (now_ms - at_ms).max(0)),
                refused_records: view.refused,
            };
            (backend, view.members.clone(), sync)
        }
        None => {
            let backend = BackendCheckJson {
                connected: false,
                r#type: "none",
                latency_ms: None,
                host: String::new(),
                error: Some(STANDALONE.to_owned()),
            };
            (backend, Vec::new(), SyncJson { last_look_age_ms: None, refused_records: 0 })
        }
    };
    let active = members.iter().filter(|member| member.is_active).count();
    let is_reachable = backend.connected || state.fleet.is_none();
    let ready = backend.connected && records.is_ok() && active >= 2;
    let mut details: Vec<String> = members
        .iter()
        .map(|member| {
            let (name, seconds) = (&member.record.name, member.age_ms / 1_000);
            match member.is_active {
                true => format!("{name} ({}) lives", member.record.node_id),
                false => format!("{name} ({}) has been silent for {seconds} s", member.record.node_id),
            }
        })
        .collect();
    if !ready {
        details.push(match (&records, backend.connected, active) {
            (Err(error), ..) => format!("the records cannot be reached: {error}"),
            (Ok(_), false, _) => "this server does not see the others".to_owned(),
            (Ok(_), true, _) => "no other server could take over: start a second one".to_owned(),
        });
    }
    let overall = match (records.is_ok() && is_reachable, ready) {
        (true, true) => "healthy",
        (true, false) => "degraded",
        (false, _) => "unhealthy",
    };
    FleetCheckJson {
        backend,
        records: RecordsCheckJson {
            connected: records.is_ok(),
            latency_ms: records.as_ref().ok().copied(),
            error: records.err(),
        },
        nodes: ServerCountsJson { total: members.len(), active, inactive: members.len() - active },
        sync,
        failover: FailoverJson { ready, healthy_nodes: active, details },
        overall,
    }
}

/// Which load balancer.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalancerJson {
    /// `haproxy` or `nginx`.
    kind: String,
    /// `passthrough` (unless given) or `terminate`.
    #[serde(default)]
    tls: Option<String>,
    /// The port it listens on; 443 unless given.
    #[serde(default)]
    port: Option<u16>,
}

/// The configuration of a load balancer before the servers that live now.
#[utoipa::path(post, path = "/api/fleet/load-balancer", tag = "fleet", request_body = BalancerJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 400, body = ErrorJson),
        (status = 403, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn load_balancer(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<BalancerJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Operator)?;
    let Json(asked) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let kind = match asked.kind.as_str() {
        "haproxy" => Kind::Haproxy,
        "nginx" => Kind::Nginx,
        _ => return Err(ApiError::InvalidRequest("kind is \"haproxy\" or \"nginx\"".to_owned())),
    };
    let tls = match asked.tls.as_deref() {
        None | Some("passthrough") => Tls::Passthrough,
        Some("terminate") => Tls::Terminate,
        Some(_) => {
            return Err(ApiError::InvalidRequest("tls is \"passthrough\" or \"terminate\"".to_owned()));
        }
    };
    let Some(fleet) = &state.fleet else { return Err(ApiError::Conflict(STANDALONE.to_owned())) };
    let servers = fleet
        .view()
        .members
        .iter()
        .filter(|member| member.is_active)
        .filter_map(|member| {
            Some((member.record.node_id.to_string(), member.record.servers.first()?.clone()))
        })
        .collect();
    let plan = Plan { kind, tls, port: asked.port.unwrap_or(BALANCER_PORT), servers };
    let text = balancer::write(&plan).map_err(|error| ApiError::Conflict(error.to_string()))?;
    auth::record(&state, &person.name, "fleet.load_balancer", &asked.kind, "done").await;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
