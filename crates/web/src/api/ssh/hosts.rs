//! Keys of hosts, and hosts without an agent.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{self, Query, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_drivers::{
    random,
    ssh::{Dial, HostKey, SshSession},
};
use caelum_engine::selector;
use caelum_model::{
    access::Role,
    id::NodeId,
    ssh::{HostKeyProblem, KeyOrigin, KnownHost, SshHost},
    wire::ErrorJson,
};
use caelum_roles::ssh::Ssh;
use serde::{Deserialize, Serialize};

use super::pool;
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Port of SSH unless another is given.
const SSH_PORT: u16 = 22;
/// Most keys that are accepted at once.
const ENTRIES_MAX: usize = 1_000;
/// Most hosts without an agent.
const HOSTS_MAX: usize = 10_000;
/// Longest name or address, bytes.
const NAME_MAX: usize = 255;
/// How long a host may take to show its key.
const LOOK_MAX: Duration = Duration::from_secs(15);

/// A key that a host may show.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct KnownHostJson {
    #[serde(flatten)]
    pub(crate) known: KnownHost,
    /// SHA-256 of the key, as `ssh` shows it.
    pub(crate) fingerprint: String,
}

/// Keys that hosts may show.
#[derive(Serialize, utoipa::ToSchema)]
pub struct KnownHostsJson {
    entries: Vec<KnownHostJson>,
    next_cursor: Option<String>,
}

/// Every key that a host may show: those that people accepted and those that agents told.
#[utoipa::path(get, path = "/api/ssh/known-hosts", tag = "ssh", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = KnownHostsJson)))]
pub async fn known_hosts(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<KnownHostsJson>, ApiError> {
    let entries = known(&state, pool(&state)?.as_ref()).await?;
    Ok(Json(KnownHostsJson { entries, next_cursor: None }))
}

/// The same for the page.
pub(crate) async fn known(state: &State, ssh: &Ssh) -> Result<Vec<KnownHostJson>, ApiError> {
    let mut known = state.store.known_hosts().await?;
    let places = ssh.places().await?;
    let attested = places.iter().flat_map(|spot| {
        spot.attested.iter().map(|key| KnownHost {
            host: spot.host.clone().unwrap_or_default(),
            port: spot.port,
            key: key.clone(),
            origin: KeyOrigin::Attested,
            by: spot.name.clone(),
            at_ms: state.now_ms(),
        })
    });
    known.extend(attested);
    let json = |known: KnownHost| KnownHostJson {
        fingerprint: HostKey::parse(&known.key).map(|key| key.fingerprint()).unwrap_or_default(),
        known,
    };
    Ok(known.into_iter().map(json).collect())
}

/// A key to accept: as text, or by its fingerprint; the host is then asked for its key, which must have it.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct KnownHostEntryJson {
    /// Address or name, as it is dialled; or a node's name.
    pub(crate) host: String,
    /// Its port; 22 unless given.
    pub(crate) port: Option<u16>,
    /// The key: `ssh-ed25519 AAAA…`.
    pub(crate) key: Option<String>,
    /// SHA-256 of the key, as `ssh` shows it.
    pub(crate) fingerprint: Option<String>,
}

/// Keys to accept.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
pub struct KnownHostEntriesJson {
    entries: Vec<KnownHostEntryJson>,
}

/// Accepts keys of hosts; all of them or, where one cannot be, none.
#[utoipa::path(post, path = "/api/ssh/known-hosts", tag = "ssh", request_body = KnownHostEntriesJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 201, body = KnownHostsJson), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson),
        (status = 409, body = ErrorJson)))]
pub async fn accept(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<KnownHostEntriesJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(wish) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let entries = accept_all(&state, &person, wish.entries).await?;
    Ok((StatusCode::CREATED, Json(KnownHostsJson { entries, next_cursor: None })).into_response())
}

/// Accepts them, for the API and the page alike.
pub(crate) async fn accept_all(
    state: &State,
    person: &Person,
    entries: Vec<KnownHostEntryJson>,
) -> Result<Vec<KnownHostJson>, ApiError> {
    person.require(Role::Operator)?;
    let ssh = pool(state)?;
    if entries.is_empty() || entries.len() > ENTRIES_MAX {
        return Err(ApiError::InvalidRequest(format!("entries are none or more than {ENTRIES_MAX}")));
    }
    let mut accepted = Vec::new();
    for entry in entries {
        let (host, port) = place(&ssh, &entry.host, entry.port).await?;
        let key = match (&entry.key, &entry.fingerprint) {
            (Some(text), wanted) => {
                let key =
                    HostKey::parse(text).map_err(|error| ApiError::InvalidRequest(error.to_string()))?;
                if wanted.as_ref().is_some_and(|wanted| *wanted != key.fingerprint()) {
                    return Err(ApiError::InvalidRequest("the key has another fingerprint".to_owned()));
                }
                key
            }
            (None, Some(wanted)) => {
                let shown = look(&host, port).await?;
                if shown.offered_fingerprint != *wanted {
                    return Err(ApiError::Conflict(format!(
                        "{host} port {port} shows the key {}, not {wanted}: nothing was accepted",
                        shown.offered_fingerprint
                    )));
                }
                HostKey::parse(&shown.offered_key)
                    .map_err(|error| ApiError::InvalidRequest(error.to_string()))?
            }
            (None, None) => {
                return Err(ApiError::InvalidRequest("an entry has neither key nor fingerprint".to_owned()));
            }
        };
        let known = KnownHost {
            host,
            port,
            key: key.to_line(),
            origin: KeyOrigin::Accepted,
            by: person.name.clone(),
            at_ms: state.now_ms(),
        };
        accepted.push(KnownHostJson { known, fingerprint: key.fingerprint() });
    }
    for KnownHostJson { known, fingerprint } in &accepted {
        state.store.put_known_host(known.clone()).await?;
        let subject = format!("{}:{} {fingerprint}", known.host, known.port);
        auth::record(state, &person.name, "ssh.accept_key", &subject, "done").await;
    }
    ssh.spots.refresh();
    Ok(accepted)
}

/// Whose key.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct KnownHostQuery {
    /// Address or name, as it is dialled; or a node's name.
    pub(crate) host: String,
    /// Its port; the node's own, else 22, unless given.
    pub(crate) port: Option<u16>,
    /// Only this key; all of the host's unless given.
    pub(crate) key: Option<String>,
}

/// How many keys were forgotten.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RemovedJson {
    removed: usize,
}

/// Forgets keys of a host. Connections that have nothing to do are closed, so that the next one is checked anew.
#[utoipa::path(delete, path = "/api/ssh/known-hosts", tag = "ssh", params(KnownHostQuery),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = RemovedJson), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn forget(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<KnownHostQuery>,
) -> Result<Json<RemovedJson>, ApiError> {
    forget_keys(&state, &person, query).await.map(|removed| Json(RemovedJson { removed }))
}

/// Forgets them, for the API and the page alike.
pub(crate) async fn forget_keys(
    state: &State,
    person: &Person,
    query: KnownHostQuery,
) -> Result<usize, ApiError> {
    person.require(Role::Operator)?;
    let ssh = pool(state)?;
    let (host, port) = place(&ssh, &query.host, query.port).await?;
    let removed = state.store.forget_known_hosts(&host, port, query.key).await?;
    if removed == 0 {
        return Err(ApiError::NotFound("accepted key of that host"));
    }
    ssh.spots.refresh();
    ssh.pool.clean().await;
    auth::record(state, &person.name, "ssh.forget_key", &format!("{host}:{port}"), "done").await;
    Ok(removed)
}

/// Asks a host for its key, without signing in and without trusting it.
#[utoipa::path(get, path = "/api/ssh/host-key", tag = "ssh", params(KnownHostQuery),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = HostKeyProblem), (status = 403, body = ErrorJson), (status = 503, body = ErrorJson)))]
pub async fn host_key(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<KnownHostQuery>,
) -> Result<Json<HostKeyProblem>, ApiError> {
    person.require(Role::Operator)?;
    let ssh = pool(&state)?;
    let (host, port) = place(&ssh, &query.host, query.port).await?;
    let mut shown = look(&host, port).await?;
    let known = state.store.known_hosts_of(&host, port).await?;
    let known = known.iter().filter_map(|known| Some(HostKey::parse(&known.key).ok()?.fingerprint()));
    shown.known_fingerprints = known.collect();
    Ok(Json(shown))
}

async fn look(host: &str, port: u16) -> Result<HostKeyProblem, ApiError> {
    let dial = Dial { user: String::new(), host: host.to_owned(), port, known: Vec::new() };
    let away = |because: String| ApiError::Overloaded {
        reason: format!("{host} port {port} shows no key: {because}"),
        retry_after_ms: 1_000,
    };
    match tokio::time::timeout(LOOK_MAX, SshSession::look(&dial)).await {
        Ok(Ok(shown)) => Ok(shown),
        Ok(Err(failure)) => Err(away(failure.because)),
        Err(_) => Err(away(format!("it did not answer within {} s", LOOK_MAX.as_secs()))),
    }
}

/// Where a node of this name is, or the address itself.
async fn place(ssh: &Ssh, host: &str, port: Option<u16>) -> Result<(String, u16), ApiError> {
    let host = host.trim();
    check_text("host", host)?;
    let places = ssh.places().await?;
    let spot =
        super::find(&places, host).or_else(|| places.iter().find(|spot| spot.host.as_deref() == Some(host)));
    let (address, own) = match spot {
        Some(spot) => (spot.host.clone().unwrap_or_else(|| host.to_owned()), Some(spot.port)),
        None => (host.to_owned(), None),
    };
    Ok((address, port.or(own).unwrap_or(SSH_PORT)))
}

fn check_text(what: &str, text: &str) -> Result<(), ApiError> {
    if text.is_empty() || text.len() > NAME_MAX || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(ApiError::InvalidRequest(format!(
            "{what} has 1 to {NAME_MAX} bytes, no white space and no control character"
        )));
    }
    Ok(())
}

/// Hosts without an agent.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SshHostsJson {
    hosts: Vec<SshHost>,
    next_cursor: Option<String>,
}

/// Every host without an agent.
#[utoipa::path(get, path = "/api/ssh/hosts", tag = "ssh", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = SshHostsJson)))]
pub async fn hosts(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<SshHostsJson>, ApiError> {
    pool(&state)?;
    Ok(Json(SshHostsJson { hosts: state.store.ssh_hosts().await?, next_cursor: None }))
}

/// A host to add.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NewSshHostJson {
    /// Name people use; no other node or host has it.
    pub(crate) name: String,
    /// Where it is; the name unless given.
    pub(crate) address: Option<String>,
    /// Port of its SSH server; the one of the settings unless given.
    pub(crate) port: Option<u16>,
    /// User to sign in as; the one of the settings unless given.
    pub(crate) user: Option<String>,
    /// Words it can be chosen by.
    pub(crate) tags: Vec<String>,
}

/// Adds a host without an agent. Its key is not trusted by that.
#[utoipa::path(post, path = "/api/ssh/hosts", tag = "ssh", request_body = NewSshHostJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 201, body = SshHost), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson),
        (status = 409, body = ErrorJson)))]
pub async fn add_host(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NewSshHostJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(wish) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let host = add(&state, &person, wish).await?;
    Ok((StatusCode::CREATED, Json(host)).into_response())
}

/// Adds it, for the API and the page alike.
pub(crate) async fn add(state: &State, person: &Person, wish: NewSshHostJson) -> Result<SshHost, ApiError> {
    person.require(Role::Operator)?;
    let ssh = pool(state)?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let address = given(wish.address).unwrap_or_else(|| wish.name.clone());
    let user = given(wish.user);
    check_text("name", &wish.name)?;
    check_text("address", &address)?;
    user.as_deref().map_or(Ok(()), |user| check_text("user", user))?;
    if address.starts_with('-') || wish.port == Some(0) {
        return Err(ApiError::InvalidRequest("address or port is none".to_owned()));
    }
    let tags: BTreeSet<String> = wish.tags.into_iter().filter(|tag| !tag.is_empty()).collect();
    let tags: Vec<String> = tags.into_iter().collect();
    selector::check_tags(&tags).map_err(|error| ApiError::InvalidRequest(format!("tags: {error}")))?;
    ssh.spots.refresh();
    let places = ssh.places().await?;
    if super::find(&places, &wish.name).is_some() {
        return Err(ApiError::Conflict(format!("there is a node called {}", wish.name)));
    }
    if places.iter().filter(|spot| spot.level == "ssh").count() >= HOSTS_MAX {
        return Err(ApiError::Conflict(format!("there are {HOSTS_MAX} hosts, and no more are allowed")));
    }
    let host = SshHost {
        node_id: NodeId::parse(&format!("ssh-{}", random::secret(12))).expect("a secret is short text"),
        name: wish.name,
        address,
        port: wish.port.unwrap_or(ssh.spots.port),
        user,
        tags,
        added_by: person.name.clone(),
        added_at_ms: state.now_ms(),
    };
    if !state.store.add_ssh_host(host.clone()).await? {
        return Err(ApiError::Conflict(format!("there is a host called {}", host.name)));
    }
    ssh.spots.refresh();
    auth::record(state, &person.name, "ssh.add_host", &host.name, "done").await;
    Ok(host)
}

/// Which host.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SshHostQuery {
    /// Its id or name.
    pub(crate) id: String,
}

/// Removes a host without an agent. Keys that were accepted of its address stay.
#[utoipa::path(delete, path = "/api/ssh/hosts", tag = "ssh", params(SshHostQuery),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = SshHost), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn remove_host(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<SshHostQuery>,
) -> Result<Json<SshHost>, ApiError> {
    remove(&state, &person, &query.id).await.map(Json)
}

/// Removes it, for the API and the page alike.
pub(crate) async fn remove(state: &State, person: &Person, id: &str) -> Result<SshHost, ApiError> {
    person.require(Role::Operator)?;
    let ssh = pool(state)?;
    let hosts = state.store.ssh_hosts().await?;
    let is_it = |host: &SshHost| host.node_id.as_str() == id || host.name == id;
    let host = hosts.into_iter().find(is_it).ok_or(ApiError::NotFound("host"))?;
    if !state.store.remove_ssh_host(&host.node_id).await? {
        return Err(ApiError::NotFound("host"));
    }
    ssh.spots.refresh();
    auth::record(state, &person.name, "ssh.remove_host", &host.name, "done").await;
    Ok(host)
}
