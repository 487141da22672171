//! Commands on other machines over SSH. Operators only, and only where the machine itself allows it; each
//! command is in the audit log whole, whoever asked and whatever came of it.
//!
//! Keys of hosts, and hosts without an agent, are in [`hosts`].

pub(crate) mod hosts;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{self, Query, rejection::JsonRejection},
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use caelum_engine::ssh::groups::groups;
use caelum_model::{
    access::Role,
    id::NodeId,
    ssh::{SshGroup, SshOutcome, SshPoolStats, SshResult},
    wire::ErrorJson,
};
use caelum_roles::ssh::{Spot, Ssh, choose};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Time that a command has unless asked for another, s.
pub(crate) const TIMEOUT_DEFAULT_S: u64 = 30;
/// Longest time that a command may have, s.
const TIMEOUT_MAX_S: u64 = 86_400;
/// Longest command, bytes.
pub(crate) const COMMAND_MAX: usize = 64 << 10;

/// A command for one host.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub struct SshExecuteJson {
    /// The node or host, by id or name.
    node_id: String,
    /// A line for its shell.
    command: String,
    /// How long it may run, s; 30 unless given.
    #[serde(default)]
    timeout: Option<u64>,
}

/// A command for many hosts. Without a choice it is for all of them.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct SshBroadcastJson {
    /// A line for their shells.
    pub(crate) command: String,
    /// Only those with this role.
    pub(crate) role: Option<String>,
    /// Only these, by id or name.
    pub(crate) node_ids: Option<Vec<String>>,
    /// Words that choose: `all`, a name, `tag=WORD`, `level=LEVEL`, `capability=WORD`, `role=ROLE`, `group=NAME`.
    pub(crate) on: Option<Vec<String>>,
    /// How long it may run on each, s; 30 unless given.
    pub(crate) timeout: Option<u64>,
}

impl SshBroadcastJson {
    fn words(&self) -> Vec<String> {
        let mut words = self.on.clone().unwrap_or_default();
        words.extend(self.node_ids.iter().flatten().map(|node| format!("node={node}")));
        words.extend(self.role.iter().filter(|role| !role.is_empty()).map(|role| format!("role={role}")));
        if self.on.is_none() && words.is_empty() && self.node_ids.is_none() {
            words.push("all".to_owned());
        }
        words
    }
}

/// What came of a command on many hosts.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SshBroadcastAnswerJson {
    /// One for each host.
    results: Vec<SshResult>,
    /// The same, equal ones put together, what went wrong first.
    groups: Vec<SshGroup>,
    /// Hosts that were asked.
    total_nodes: usize,
    /// Hosts where it ended with 0.
    successful: usize,
    /// The others.
    failed: usize,
}

impl SshBroadcastAnswerJson {
    fn of(results: Vec<SshResult>) -> Self {
        let successful = results.iter().filter(|result| result.outcome == SshOutcome::Ok).count();
        Self {
            groups: groups(&results),
            total_nodes: results.len(),
            successful,
            failed: results.len() - successful,
            results,
        }
    }
}

/// Runs a command on one host and answers what came of it.
#[utoipa::path(post, path = "/api/ssh/execute", tag = "ssh", request_body = SshExecuteJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = SshResult), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson),
        (status = 404, body = ErrorJson), (status = 503, body = ErrorJson)))]
pub async fn execute(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<SshExecuteJson>, JsonRejection>,
) -> Result<Json<SshResult>, ApiError> {
    let Json(wish) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let ssh = pool(&state)?;
    let timeout = check(&wish.command, wish.timeout)?;
    allow(&state, &person, "ssh.execute", &format!("{}: {}", wish.node_id, wish.command)).await?;
    let places = ssh.places().await?;
    let spot = find(&places, &wish.node_id).ok_or(ApiError::NotFound("node"))?;
    if let Some(because) = spot.refusal() {
        let subject = format!("{}: {}", spot.name, wish.command);
        auth::record(&state, &person.name, "ssh.execute", &subject, &format!("refused: {because}")).await;
        return Err(ApiError::ForbiddenBecause("ceiling", format!("{}: {because}", spot.name)));
    }
    Ok(Json(ssh.execute(&person.name, spot, &wish.command, timeout).await?))
}

/// Runs a command on many hosts at once. With `Accept: text/event-stream` the answer begins at once: an event
/// `begin` with the number of hosts, a `result` for each host as it ends, and `done` with the groups and sums.
#[utoipa::path(post, path = "/api/ssh/broadcast", tag = "ssh", request_body = SshBroadcastJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = SshBroadcastAnswerJson), (status = 400, body = ErrorJson),
        (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn broadcast(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    headers: HeaderMap,
    body: Result<Json<SshBroadcastJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(wish) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let (total, mut results) = begin(&state, &person, &wish).await?;
    let is_streamed = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"));
    if is_streamed {
        return Ok(Sse::new(events(total, results)).keep_alive(KeepAlive::default()).into_response());
    }
    let mut all = Vec::with_capacity(total);
    while let Some(result) = results.recv().await {
        all.push(result);
    }
    Ok(Json(SshBroadcastAnswerJson::of(all)).into_response())
}

/// Begins a broadcast, for the API and the page alike: how many hosts, and their results as they come.
pub(crate) async fn begin(
    state: &State,
    person: &Person,
    wish: &SshBroadcastJson,
) -> Result<(usize, mpsc::Receiver<SshResult>), ApiError> {
    let ssh = pool(state)?;
    let timeout = check(&wish.command, wish.timeout)?;
    let words = wish.words();
    allow(state, person, "ssh.broadcast", &format!("{}: {}", words.join(", "), wish.command)).await?;
    let spots = chosen(&ssh, &words).await?;
    if spots.is_empty() {
        return Err(ApiError::InvalidRequest(format!("no node is {}", words.join(", "))));
    }
    let total = spots.len();
    Ok((total, ssh.broadcast(&person.name, spots, &wish.command, timeout).await?))
}

/// The places that words stand for.
pub(crate) async fn chosen(ssh: &Ssh, words: &[String]) -> Result<Vec<Spot>, ApiError> {
    let places = ssh.places().await?;
    choose(words, places.as_ref().clone()).map_err(|error| ApiError::InvalidRequest(error.to_string()))
}

fn events(
    total: usize,
    results: mpsc::Receiver<SshResult>,
) -> impl stream::Stream<Item = Result<Event, Infallible>> + Send {
    let begin = stream::once(async move { event("begin", &json!({ "total_nodes": total })) });
    // What is put together at the end is what was sent, without its words twice.
    let rest = stream::unfold((results, Some(Vec::new())), |(mut results, all)| async move {
        let mut all: Vec<SshResult> = all?;
        Some(match results.recv().await {
            Some(result) => {
                let sent = event("result", &result);
                all.push(result);
                (sent, (results, Some(all)))
            }
            None => {
                let SshBroadcastAnswerJson { groups, total_nodes, successful, failed, .. } =
                    SshBroadcastAnswerJson::of(all);
                let sums = json!({ "groups": groups, "total_nodes": total_nodes, "successful": successful,
                    "failed": failed });
                (event("done", &sums), (results, None))
            }
        })
    });
    begin.chain(rest).map(Ok)
}

fn event(name: &str, body: &impl Serialize) -> Event {
    Event::default().event(name).data(serde_json::to_string(body).expect("results have a JSON form"))
}

/// Which hosts.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SshTargetsQuery {
    /// Words that choose, with white space or commas between them.
    on: String,
}

/// A host that was chosen.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SshTargetJson {
    /// The node or host.
    node_id: NodeId,
    /// Its name.
    name: String,
    /// `user@host:port`.
    connection: Option<String>,
    /// How it fares; `ssh` for one without an agent.
    level: String,
    /// Why nothing is run there; null where a command may be.
    refusal: Option<String>,
}

/// Hosts that words stand for.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SshTargetsJson {
    nodes: Vec<SshTargetJson>,
    total: usize,
}

/// Which hosts words stand for, before anything is run there.
#[utoipa::path(get, path = "/api/ssh/targets", tag = "ssh", params(SshTargetsQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = SshTargetsJson), (status = 400, body = ErrorJson)))]
pub async fn targets(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<SshTargetsQuery>,
) -> Result<Json<SshTargetsJson>, ApiError> {
    let ssh = pool(&state)?;
    let spots = chosen(&ssh, &split(&query.on)).await?;
    let nodes: Vec<SshTargetJson> = spots
        .iter()
        .map(|spot| SshTargetJson {
            node_id: spot.node_id.clone(),
            name: spot.name.clone(),
            connection: spot.connection(),
            level: spot.level.to_owned(),
            refusal: spot.refusal(),
        })
        .collect();
    Ok(Json(SshTargetsJson { total: nodes.len(), nodes }))
}

/// Words as people type them.
pub(crate) fn split(text: &str) -> Vec<String> {
    text.split([',', ' ', '\t', '\n', '\r']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Connections of the pool.
#[utoipa::path(get, path = "/api/ssh/pool/stats", tag = "ssh", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = SshPoolStats)))]
pub async fn stats(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<SshPoolStats>, ApiError> {
    Ok(Json(pool(&state)?.pool.stats().await))
}

/// Connections after a cleaning.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SshCleanedJson {
    success: bool,
    stats: SshPoolStats,
}

/// Closes connections without commands, and lets hosts that did not answer be tried again at once.
#[utoipa::path(post, path = "/api/ssh/pool/cleanup", tag = "ssh",
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = SshCleanedJson), (status = 403, body = ErrorJson)))]
pub async fn cleanup(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<SshCleanedJson>, ApiError> {
    person.require(Role::Operator)?;
    let stats = pool(&state)?.pool.clean().await;
    auth::record(&state, &person.name, "ssh.cleanup", "pool", "done").await;
    Ok(Json(SshCleanedJson { success: true, stats }))
}

/// The key that the cluster signs in with.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SshKeyJson {
    /// The line for `authorized_keys`.
    public_key: String,
    /// SHA-256 of it, as `ssh` shows it.
    fingerprint: String,
    /// The line for the file that `TrustedUserCAKeys` names, on hosts that are shown certificates.
    authority: String,
    /// Whether hosts are shown certificates.
    certificates: bool,
    /// User to sign in as where nothing else is said.
    user: String,
}

/// The public halves of the keys that the cluster signs in with.
#[utoipa::path(get, path = "/api/ssh/key", tag = "ssh", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = SshKeyJson)))]
pub async fn key(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<SshKeyJson>, ApiError> {
    let ssh = pool(&state)?;
    Ok(Json(SshKeyJson {
        public_key: ssh.keyring.public_line(),
        fingerprint: ssh.keyring.fingerprint(),
        authority: ssh.keyring.authority_line(),
        certificates: ssh.keyring.has_certificates(),
        user: ssh.spots.user.clone(),
    }))
}

/// The pool, where this server has one.
pub(crate) fn pool(state: &State) -> Result<Arc<Ssh>, ApiError> {
    state.ssh.clone().ok_or_else(|| {
        ApiError::ForbiddenBecause(
            "ssh_disabled",
            "this server runs no commands over SSH: its setting ssh.enabled is false".to_owned(),
        )
    })
}

/// Only operators run commands; what others ask for is written down as refused.
async fn allow(state: &State, person: &Person, action: &str, subject: &str) -> Result<(), ApiError> {
    if let Err(error) = person.require(Role::Operator) {
        auth::record(state, &person.name, action, subject, "refused: needs the role operator").await;
        return Err(error);
    }
    Ok(())
}

fn check(command: &str, timeout_s: Option<u64>) -> Result<Duration, ApiError> {
    if command.trim().is_empty() || command.len() > COMMAND_MAX || command.contains('\0') {
        return Err(ApiError::InvalidRequest(format!(
            "command is empty, longer than {COMMAND_MAX} bytes, or has a NUL in it"
        )));
    }
    let timeout_s = timeout_s.unwrap_or(TIMEOUT_DEFAULT_S);
    if !(1..=TIMEOUT_MAX_S).contains(&timeout_s) {
        return Err(ApiError::InvalidRequest(format!("timeout is none of 1 to {TIMEOUT_MAX_S} s")));
    }
    Ok(Duration::from_secs(timeout_s))
}

fn find<'a>(places: &'a [Spot], name: &str) -> Option<&'a Spot> {
    let by_id = places.iter().find(|spot| spot.node_id.as_str() == name);
    by_id.or_else(|| places.iter().find(|spot| spot.name == name || spot.hostname == name))
}
