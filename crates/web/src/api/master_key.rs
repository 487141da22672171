//! The master key of a fleet: replacing it, ending the hand-over, and which server holds which. No key is ever
//! answered.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, rejection::JsonRejection},
};
use caelum_engine::master_key::Server;
use caelum_model::{UnixMs, access::Role, id::NodeId, wire::ErrorJson};
use caelum_roles::{
    bus::Change,
    master_key::rotate::{KeyState, RotationError},
};
use serde::{Deserialize, Serialize};

use super::fleet::{self, ServerJson};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// A server and the key that it holds.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub struct HolderJson {
    pub(crate) node_id: NodeId,
    pub(crate) name: String,
    /// `active` or `inactive`.
    pub(crate) status: &'static str,
    /// Number of the key that it holds; null where it never said.
    pub(crate) generation: Option<u64>,
    /// Where it looks for its key at a start: `file`, `configuration` or `credential`.
    pub(crate) place: Option<&'static str>,
    /// What must happen before the end of the hand-over would not shut it out; null where nothing must.
    pub(crate) waits: Option<String>,
}

/// The master key as it may be told.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub struct MasterKeyJson {
    /// Its number: grows with each rotation.
    pub(crate) generation: u64,
    /// When it was made the current one; null for the first.
    pub(crate) changed_at_ms: Option<UnixMs>,
    /// By whom.
    pub(crate) changed_by: Option<String>,
    /// Whether the key before it is still good for taking this one up.
    pub(crate) handing_over: bool,
    pub(crate) servers: Vec<HolderJson>,
}

/// How the key is replaced.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateJson {
    /// The new key, at least 32 characters; made by the server unless given. Needed where the server finds its
    /// key in its configuration.
    #[serde(default)]
    master_key: Option<String>,
    /// Also where a live server is of a version that takes up no new key.
    #[serde(default)]
    force: bool,
}

/// What became of it.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RotatedJson {
    /// Number of the new key.
    pub(crate) generation: u64,
    /// Secrets of notices that the old key did not open; they must be set again.
    pub(crate) not_opened: usize,
}

/// How the hand-over is ended.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishJson {
    /// Also where that shuts servers out.
    #[serde(default)]
    force: bool,
}

/// What became of it.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FinishedJson {
    /// Number of the key that alone opens everything now.
    pub(crate) generation: u64,
    /// Servers that were shut out, with why.
    pub(crate) shut_out: Vec<String>,
}

/// Which server holds which master key.
#[utoipa::path(get, path = "/api/fleet/master-key", tag = "fleet", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = MasterKeyJson), (status = 401, body = ErrorJson)))]
pub async fn master_key(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<MasterKeyJson>, ApiError> {
    Ok(Json(read(&state).await?))
}

/// The key as a program is shown it.
pub(crate) async fn read(state: &State) -> Result<MasterKeyJson, ApiError> {
    of(state, &fleet::known(state).await?).await
}

/// The same with servers that are known already.
pub(crate) async fn of(state: &State, known: &[ServerJson]) -> Result<MasterKeyJson, ApiError> {
    let key: KeyState = state.secrets.key().state().await?;
    let servers = servers_of(state, known);
    let holder = |server: &Server| {
        let holder = key.holders.get(&server.node_id);
        HolderJson {
            node_id: server.node_id.clone(),
            name: server.name.clone(),
            status: if server.is_active { "active" } else { "inactive" },
            generation: holder.map(|holder| holder.generation),
            place: holder.map(|holder| holder.place.as_str()),
            waits: key.wait(server).map(|wait| wait.what()).filter(|_| key.is_handing_over),
        }
    };
    Ok(MasterKeyJson {
        generation: key.generation,
        changed_at_ms: key.changed_at_ms,
        changed_by: key.changed_by.clone(),
        handing_over: key.is_handing_over,
        servers: servers.iter().map(holder).collect(),
    })
}

async fn servers(state: &State) -> Result<Vec<Server>, ApiError> {
    Ok(servers_of(state, &fleet::known(state).await?))
}

/// The servers that need the key: those of the fleet, or this one alone.
fn servers_of(state: &State, known: &[ServerJson]) -> Vec<Server> {
    if state.fleet.is_none() && !state.store.is_shared() {
        let (node_id, name) = (state.node_id.clone(), "this server".to_owned());
        return vec![Server { node_id, name, is_active: true }];
    }
    known
        .iter()
        .map(|server| Server {
            is_active: server.status == "active" || server.node_id == state.node_id,
            node_id: server.node_id.clone(),
            name: server.name.clone(),
        })
        .collect()
}

/// Replaces the master key: everything secret in the records is sealed under a new one, which every server takes
/// up by itself. The old key is good for taking up the new one until the hand-over is ended.
#[utoipa::path(post, path = "/api/fleet/master-key/rotate", tag = "fleet", request_body = RotateJson,
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = RotatedJson), (status = 400, body = ErrorJson),
        (status = 403, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn rotate(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<RotateJson>, JsonRejection>,
) -> Result<Json<RotatedJson>, ApiError> {
    let Json(asked) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    rotate_as(&state, &person, asked.master_key.as_deref(), asked.force).await.map(Json)
}

/// The same, for the API and the page alike.
pub(crate) async fn rotate_as(
    state: &State,
    person: &Person,
    given: Option<&str>,
    is_forced: bool,
) -> Result<RotatedJson, ApiError> {
    person.require(Role::Admin)?;
    let servers = servers(state).await?;
    let key = state.secrets.key();
    let rotated = key.rotate(given, &person.name, state.now_ms(), &servers, is_forced).await;
    let subject =
        rotated.as_ref().map_or_else(|_| String::new(), |done| format!("number {}", done.generation));
    let outcome = if rotated.is_ok() { "done" } else { "refused" };
    auth::record(state, &person.name, "master_key.rotate", &subject, outcome).await;
    let rotated = rotated.map_err(refused)?;
    // The others look at once.
    state.bus.publish(Change::SettingsChanged);
    Ok(RotatedJson { generation: rotated.generation, not_opened: rotated.not_opened })
}

/// Ends the hand-over: from then on the old key opens nothing.
#[utoipa::path(post, path = "/api/fleet/master-key/finish", tag = "fleet", request_body = FinishJson,
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = FinishedJson), (status = 403, body = ErrorJson),
        (status = 409, body = ErrorJson)))]
pub async fn finish(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<FinishJson>, JsonRejection>,
) -> Result<Json<FinishedJson>, ApiError> {
    let Json(asked) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    finish_as(&state, &person, asked.force).await.map(Json)
}

/// The same, for the API and the page alike.
pub(crate) async fn finish_as(
    state: &State,
    person: &Person,
    is_forced: bool,
) -> Result<FinishedJson, ApiError> {
    person.require(Role::Admin)?;
    let servers = servers(state).await?;
    let finished = state.secrets.key().finish(&servers, is_forced).await;
    let subject = finished.as_ref().map_or_else(|_| String::new(), |(number, _)| format!("number {number}"));
    let outcome = if finished.is_ok() { "done" } else { "refused" };
    auth::record(state, &person.name, "master_key.finish", &subject, outcome).await;
    let (generation, waits) = finished.map_err(refused)?;
    let told = |(server, _): &(Server, _)| format!("{} ({})", server.name, server.node_id);
    Ok(FinishedJson { generation, shut_out: waits.iter().map(told).collect() })
}

fn refused(error: RotationError) -> ApiError {
    match error {
        RotationError::Vault(error) => error.into(),
        error @ (RotationError::NeedsKey(_) | RotationError::UsedBefore) => {
            ApiError::InvalidRequest(error.to_string())
        }
        error => ApiError::Conflict(error.to_string()),
    }
}
