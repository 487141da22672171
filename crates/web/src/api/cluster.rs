//! Machines and nodes among themselves: who was heard, who is linked, how good the links are.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{self, rejection::JsonRejection},
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use caelum_model::{
    UnixMs,
    access::Role,
    cluster::{DiscoveryMethod, Liveness, Machine, MachineState, Roster},
    id::NodeId,
    node::Level,
    wire::ErrorJson,
};
use caelum_roles::cluster::{Command, LogLine};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use super::{flow, nodes};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
    topology::{self, TopologyJson},
};

/// How long a discovery listens unless told otherwise, ms.
const LISTEN_DEFAULT_MS: u64 = 3_000;
/// Longest that it listens, ms.
const LISTEN_MAX_MS: u64 = 30_000;
/// Addresses that are tried at once, and the pause after them.
const SWEEP_AT_ONCE: usize = 64;
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// Lines of a log.
const LINES_MAX: usize = 1_000;

/// Machines heard on the network.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DiscoveredMachinesJson {
    machines: Vec<Machine>,
    /// `on`, or `off` where this server takes no part in discovery.
    discovery: &'static str,
    next_cursor: Option<String>,
}

/// Machines heard on the network, nodes of this cluster included.
#[utoipa::path(get, path = "/api/discovered-machines", tag = "cluster", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = DiscoveredMachinesJson)))]
pub async fn discovered_machines(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Json<DiscoveredMachinesJson> {
    let discovery = if state.is_discovering { "on" } else { "off" };
    Json(DiscoveredMachinesJson { machines: state.roster().machines.clone(), discovery, next_cursor: None })
}

/// Every node with its place, every link with its quality.
#[utoipa::path(get, path = "/api/cluster/topology", tag = "cluster", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = TopologyJson)))]
pub async fn topology(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<TopologyJson>, ApiError> {
    Ok(Json(read_topology(&state).await?))
}

/// The topology as of now.
pub(crate) async fn read_topology(state: &State) -> Result<TopologyJson, ApiError> {
    let nodes = state.store.nodes().await?;
    Ok(topology::of(&nodes, &state.roster(), &state.node_id, state.now_ms(), &state.thresholds()))
}

/// A cluster that was heard.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ClusterJson {
    cluster_id: String,
    cluster_name: String,
    machines: Vec<String>,
}

/// This cluster.
#[derive(Serialize, utoipa::ToSchema)]
pub struct LocalClusterJson {
    cluster_id: String,
    cluster_name: String,
    total_machines: usize,
    online_machines: usize,
    coordinator_machine: NodeId,
}

/// All machines in numbers.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NetworkSummaryJson {
    total_machines: usize,
    total_clusters: usize,
    cluster_connections: usize,
    cluster_server_running: bool,
}

/// This cluster and the others that were heard.
#[derive(Serialize, utoipa::ToSchema)]
pub struct InfoJson {
    local_cluster: LocalClusterJson,
    discovered_clusters: Vec<ClusterJson>,
    network_summary: NetworkSummaryJson,
}

/// This cluster and the others that were heard.
#[utoipa::path(get, path = "/api/cluster/info", tag = "cluster", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = InfoJson)))]
pub async fn info(_: Person, extract::State(state): extract::State<Arc<State>>) -> Json<InfoJson> {
    let roster = state.roster();
    let is_alive = |liveness| matches!(liveness, Liveness::Alive | Liveness::Suspect);
    let online = roster.members.iter().filter(|member| is_alive(member.liveness)).count();
    let mut clusters: std::collections::BTreeMap<&str, ClusterJson> = std::collections::BTreeMap::new();
    for machine in roster.machines.iter().filter(|machine| machine.cluster_id != state.cluster_id) {
        clusters
            .entry(&machine.cluster_id)
            .or_insert_with(|| ClusterJson {
                cluster_id: machine.cluster_id.clone(),
                cluster_name: machine.cluster_name.clone(),
                machines: Vec::new(),
            })
            .machines
            .push(machine.machine_id.clone());
    }
    Json(InfoJson {
        local_cluster: LocalClusterJson {
            cluster_id: state.cluster_id.clone(),
            cluster_name: state.cluster_name.clone(),
            total_machines: roster.members.len() + 1,
            online_machines: online + 1,
            coordinator_machine: state.node_id.clone(),
        },
        network_summary: NetworkSummaryJson {
            total_machines: roster.machines.len() + 1,
            total_clusters: clusters.len() + 1,
            cluster_connections: roster.members.iter().filter(|member| member.link.is_some()).count(),
            cluster_server_running: true,
        },
        discovered_clusters: clusters.into_values().collect(),
    })
}

/// Nodes by how they fare.
#[derive(Default, Serialize, utoipa::ToSchema)]
pub struct NodeLevelsJson {
    total: usize,
    healthy: usize,
    warning: usize,
    critical: usize,
    offline: usize,
}

/// The cluster in numbers.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ClusterStatsJson {
    nodes: NodeLevelsJson,
    links: usize,
    machines_discovered: usize,
    sessions: usize,
    /// Tasks by state.
    tasks: BTreeMap<&'static str, u64>,
    /// Workers that ask this server for work.
    active_workers: usize,
    timestamp: UnixMs,
}

/// The cluster in numbers.
#[utoipa::path(get, path = "/api/cluster/stats", tag = "cluster", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = ClusterStatsJson)))]
pub async fn stats(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<ClusterStatsJson>, ApiError> {
    let (now_ms, thresholds, roster) = (state.now_ms(), state.thresholds(), state.roster());
    let mut levels = NodeLevelsJson::default();
    let settings = nodes::settings(&state).await?;
    for node in state.store.nodes().await? {
        levels.total += 1;
        match nodes::judge_as(&node, settings.get(&node.node_id), &roster, now_ms, &thresholds).level {
            Level::Healthy => levels.healthy += 1,
            Level::Warning => levels.warning += 1,
            Level::Critical => levels.critical += 1,
            Level::Offline => levels.offline += 1,
        }
    }
    Ok(Json(ClusterStatsJson {
        nodes: levels,
        links: roster.members.iter().filter(|member| member.link.is_some()).count(),
        machines_discovered: roster.machines.len(),
        tasks: flow::by_status(&state.store.task_counts().await?),
        active_workers: state.desk.workers_here().0,
        sessions: state.store.count_keys("session/".to_owned(), now_ms).await?,
        timestamp: now_ms,
    }))
}

/// What a discovery does.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverJson {
    /// How long it listens, ms; 3000 unless given, 30000 at most.
    pub(crate) wait_ms: Option<u64>,
    /// Whether the addresses of `cluster.sweep` are tried too.
    pub(crate) sweep: bool,
}

/// A dial that was made meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AttemptJson {
    endpoint: String,
    connected: bool,
    method: DiscoveryMethod,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What a discovery found.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FoundJson {
    status: &'static str,
    /// The whole log, oldest first.
    log: Vec<LogLineJson>,
    udp_discovered: usize,
    connection_attempts: Vec<AttemptJson>,
    connected_machines: Vec<String>,
    discovered_machines: Vec<Machine>,
}

/// A line of the log.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct LogLineJson {
    at_ms: UnixMs,
    code: String,
    text: String,
}

impl From<LogLine> for LogLineJson {
    fn from(line: LogLine) -> Self {
        Self { at_ms: line.at_ms, code: line.code.to_owned(), text: line.text }
    }
}

/// Asks the network who is there, and answers what was heard and tried. With `Accept: text/event-stream`
/// the log comes line by line, each an event `line`, and the whole as the last event, `done`.
#[utoipa::path(post, path = "/api/cluster/discover", tag = "cluster", request_body(content = Option<DiscoverJson>),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = FoundJson), (status = 403, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn discover(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    headers: HeaderMap,
    body: Result<Option<Json<DiscoverJson>>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Operator)?;
    let asked = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?.unwrap_or_default().0;
    if !state.is_discovering {
        return Err(ApiError::Conflict("discovery is switched off here (beacon.enabled)".to_owned()));
    }
    let sweep = match asked.sweep {
        false => Vec::new(),
        true if state.sweep.is_empty() => {
            return Err(ApiError::Conflict(
                "no network is named in cluster.sweep, so there is nothing to try".to_owned(),
            ));
        }
        true => state.sweep.clone(),
    };
    auth::record(&state, &person.name, "cluster.discover", &format!("{} addresses", sweep.len()), "done")
        .await;
    let wait = Duration::from_millis(asked.wait_ms.unwrap_or(LISTEN_DEFAULT_MS).min(LISTEN_MAX_MS));
    let lines = listen(Arc::clone(&state), sweep, wait).await;
    let wants_stream = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"));
    if !wants_stream {
        let log: Vec<LogLineJson> = lines.collect().await;
        return Ok(Json(found(&state.roster(), log)).into_response());
    }
    let mut log = Vec::new();
    let events = lines.map(Some).chain(stream::once(async { None })).map(move |line| {
        let event = match line {
            Some(line) => {
                let event = Event::default().event("line").json_data(&line);
                log.push(line);
                event
            }
            None => {
                Event::default().event("done").json_data(found(&state.roster(), std::mem::take(&mut log)))
            }
        };
        Ok::<_, Infallible>(event.unwrap_or_else(|_| Event::default().comment("not shown")))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Asks, and passes on what happens until the time is over.
async fn listen(
    state: Arc<State>,
    sweep: Vec<SocketAddr>,
    wait: Duration,
) -> impl Stream<Item = LogLineJson> + Send + 'static {
    let log = state.cluster.log();
    state.cluster.tell(Command::Solicit(Vec::new())).await;
    let cluster = state.cluster.clone();
    tokio::spawn(async move {
        for addresses in sweep.chunks(SWEEP_AT_ONCE) {
            cluster.tell(Command::Solicit(addresses.to_vec())).await;
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    });
    let first = LogLineJson {
        at_ms: state.now_ms(),
        code: "discovery.asked".to_owned(),
        text: "asked every machine on the network to answer".to_owned(),
    };
    let until = Instant::now() + wait;
    let rest = stream::unfold((log, 0), move |(mut log, count)| async move {
        if count >= LINES_MAX {
            return None;
        }
        loop {
            match tokio::time::timeout_at(until, log.recv()).await {
                Ok(Ok(line)) if line.code == "discovery.datagram_refused" => {}
                Ok(Ok(line)) => return Some((line.into(), (log, count + 1))),
                // So much happened that the oldest lines are gone.
                Ok(Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) | Err(_) => return None,
            }
        }
    });
    stream::once(async { first }).chain(rest)
}

fn found(roster: &Roster, log: Vec<LogLineJson>) -> FoundJson {
    let endpoint = |text: &str| {
        text.split([' ', '(', ')']).find_map(|word| word.trim_end_matches(':').parse::<SocketAddr>().ok())
    };
    let attempts = log
        .iter()
        .filter_map(|line| {
            let connected = match line.code.as_str() {
                "link.up" => true,
                "link.dial_failed" => false,
                _ => return None,
            };
            let error = (!connected).then(|| line.text.split(": ").skip(1).collect::<Vec<_>>().join(": "));
            let endpoint = endpoint(&line.text)?.to_string();
            Some(AttemptJson { endpoint, connected, method: DiscoveryMethod::UdpBeacon, error })
        })
        .collect();
    let discovered = |line: &&LogLineJson| line.code == "discovery.machine_discovered";
    FoundJson {
        status: "completed",
        udp_discovered: log.iter().filter(discovered).count(),
        connection_attempts: attempts,
        connected_machines: roster
            .machines
            .iter()
            .filter(|machine| machine.state == MachineState::Joined)
            .map(|machine| machine.machine_id.clone())
            .collect(),
        discovered_machines: roster.machines.clone(),
        log,
    }
}

/// A machine to dial.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectJson {
    /// Address or name.
    pub(crate) host: String,
    /// TCP port; 8080 unless given.
    pub(crate) port: Option<u16>,
}

/// What became of a dial.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ConnectedJson {
    success: bool,
    message: String,
}

/// Time for a dial that somebody waits for.
const CONNECT_MAX: Duration = Duration::from_secs(8);

/// Dials a machine that was not heard. It becomes a node only if it shows a certificate of this cluster.
#[utoipa::path(post, path = "/api/cluster/connect", tag = "cluster", request_body = ConnectJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = ConnectedJson), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn connect(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<ConnectJson>, JsonRejection>,
) -> Result<Json<ConnectedJson>, ApiError> {
    person.require(Role::Operator)?;
    let Json(asked) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let port = asked.port.unwrap_or(8080);
    let place = (asked.host.as_str(), port);
    let addr = tokio::time::timeout(CONNECT_MAX, tokio::net::lookup_host(place)).await;
    let addr = match addr {
        Ok(Ok(mut addrs)) => addrs.next(),
        _ => None,
    };
    let Some(addr) = addr.filter(|_| port != 0) else {
        return Err(ApiError::InvalidRequest(format!("{}:{port} is no address of a machine", asked.host)));
    };
    let mut log = state.cluster.log();
    state.cluster.tell(Command::Connect(addr)).await;
    let outcome = tokio::time::timeout(CONNECT_MAX, async {
        loop {
            match log.recv().await {
                Ok(line) if line.text.contains(&addr.to_string()) => match line.code {
                    "link.up" => return (true, line.text),
                    "link.dial_failed" | "link.refused" => return (false, line.text),
                    _ => {}
                },
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return (false, "this server is stopping".to_owned()),
            }
        }
    })
    .await;
    let (success, message) =
        outcome.unwrap_or_else(|_| (false, format!("{addr} did not answer within {CONNECT_MAX:?}")));
    let outcome = if success { "done" } else { "failed" };
    auth::record(&state, &person.name, "cluster.connect", &addr.to_string(), outcome).await;
    Ok(Json(ConnectedJson { success, message }))
}
