//! How machines become nodes and cease to be: joining, join tokens, adoption, revocation.
//!
//! Everything here is audited, refusals included.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{self, Path, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_model::{
    UnixMs,
    access::Role,
    cluster::NodeRole,
    id::NodeId,
    join::{Admission, JoinAnswer, JoinRequest, JoinToken},
    wire::ErrorJson,
};
use caelum_roles::{
    bus::Change,
    enrol::{AdoptError, JoinError, RevokeError, invitation},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    auth::{self, Person},
    error::{ApiError, Cause, refusal},
    serve::Transport,
    state::{State, Trust},
};

/// Admits a machine as a node. No login: the token, or the code, is what admits it.
#[utoipa::path(post, path = "/api/join", tag = "cluster", request_body = JoinRequest,
    responses((status = 200, body = JoinAnswer), (status = 400, body = ErrorJson),
        (status = 403, description = "Not admitted; the code says why", body = ErrorJson),
        (status = 429, description = "Too many refusals; see Retry-After", body = ErrorJson)))]
pub async fn join(
    extract::State(state): extract::State<Arc<State>>,
    Extension(transport): Extension<Transport>,
    body: Result<Json<JoinRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let trust = trust(&state)?;
    if !transport.is_tls && !transport.peer.ip().is_loopback() {
        return Err(ApiError::InvalidRequest("secrets travel by HTTPS only".into()));
    }
    let Json(request) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let joined = trust.registrar.join(&request, transport.peer.ip()).await;
    let outcome = match &joined {
        Ok(_) => Some("done".to_owned()),
        Err(error) if error.is_refusal() => Some(format!("refused: {}", error.code())),
        Err(JoinError::Store(_) | JoinError::Tls(_)) => Some("failed".to_owned()),
        // Whoever is told to wait, or sends what cannot be read, does not fill the log.
        Err(_) => None,
    };
    if let Some(outcome) = outcome {
        let actor = actor(&request.admission, &transport);
        auth::record(&state, &actor, "node.join", request.node_id.as_str(), &outcome).await;
    }
    match joined {
        Ok(answer) => Ok(Json(answer).into_response()),
        Err(error) => Err(refused(error)),
    }
}

/// Who wanted to join, as the audit log names them.
fn actor(admission: &Admission, transport: &Transport) -> String {
    let by = match admission {
        Admission::Token { token_id, .. } => {
            let shown: String = token_id.chars().filter(|c| !c.is_control()).take(64).collect();
            format!("join token {shown}")
        }
        Admission::Adoption { .. } => "adoption".to_owned(),
        Admission::Renewal => "renewal".to_owned(),
    };
    format!("{by} from {}", transport.peer.ip())
}

fn refused(error: JoinError) -> ApiError {
    match error {
        JoinError::RateLimited { retry_after_ms } => ApiError::RateLimited { retry_after_ms },
        JoinError::Invalid(message) => ApiError::InvalidRequest(message),
        JoinError::Store(error) => error.into(),
        JoinError::Tls(error) => ApiError::Internal(Cause::from(error)),
        error => ApiError::ForbiddenBecause(error.code(), error.to_string()),
    }
}

fn trust(state: &State) -> Result<&Trust, ApiError> {
    state.trust.as_ref().ok_or(ApiError::NotFound("way to join on this server"))
}

/// A join token without its secret.
#[derive(Serialize, utoipa::ToSchema)]
pub struct JoinTokenJson {
    pub(crate) token_id: String,
    pub(crate) role: NodeRole,
    pub(crate) uses: u32,
    pub(crate) uses_left: u32,
    pub(crate) created_at_ms: UnixMs,
    pub(crate) expires_at_ms: UnixMs,
    pub(crate) revoked_at_ms: Option<UnixMs>,
    /// `valid`, `used up`, `expired` or `revoked`.
    pub(crate) state: &'static str,
}

impl JoinTokenJson {
    /// A token as of now.
    pub fn of(token: JoinToken, now_ms: UnixMs) -> Self {
        Self {
            state: caelum_engine::enrol::token_state(&token, now_ms),
            token_id: token.token_id,
            role: token.role,
            uses: token.uses,
            uses_left: token.uses_left,
            created_at_ms: token.created_at_ms,
            expires_at_ms: token.expires_at_ms,
            revoked_at_ms: token.revoked_at_ms,
        }
    }
}

/// The newest join tokens.
#[derive(Serialize, utoipa::ToSchema)]
pub struct JoinTokensJson {
    join_tokens: Vec<JoinTokenJson>,
    next_cursor: Option<String>,
}

/// The newest join tokens, without secrets.
#[utoipa::path(get, path = "/api/join-tokens", tag = "cluster", security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = JoinTokensJson), (status = 403, body = ErrorJson)))]
pub async fn join_tokens(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<JoinTokensJson>, ApiError> {
    person.require(Role::Operator)?;
    let now_ms = state.now_ms();
    let tokens = state.store.join_tokens(super::LIMIT_MAX).await?;
    let join_tokens = tokens.into_iter().map(|token| JoinTokenJson::of(token, now_ms)).collect();
    Ok(Json(JoinTokensJson { join_tokens, next_cursor: None }))
}

/// What a new join token is for.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewJoinTokenJson {
    /// What it makes; an agent unless given. Only an administrator makes tokens for servers.
    pub(crate) role: Option<NodeRole>,
    /// How many nodes it admits; one unless given.
    pub(crate) uses: Option<u32>,
    /// For how long it is valid, s; a day unless given.
    pub(crate) expires_s: Option<i64>,
}

/// A new join token, which is shown this once.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct MadeJoinTokenJson {
    /// The token; it is not kept and cannot be shown again.
    pub(crate) token: String,
    pub(crate) token_id: String,
    pub(crate) role: NodeRole,
    pub(crate) uses: u32,
    pub(crate) expires_at_ms: UnixMs,
    /// What to type on the machine that is to join.
    pub(crate) command: String,
}

/// Makes a join token.
#[utoipa::path(post, path = "/api/join-tokens", tag = "cluster", request_body = NewJoinTokenJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 201, body = MadeJoinTokenJson), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn add_join_token(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NewJoinTokenJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Operator)?;
    let trust = trust(&state)?;
    let Json(new) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let role = new.role.unwrap_or(NodeRole::Agent);
    if role == NodeRole::Server {
        person.require(Role::Admin)?;
    }
    let valid_ms = new.expires_s.map_or(invitation::VALID_MS, |seconds| seconds.saturating_mul(1000));
    let expires_at_ms = state.now_ms().saturating_add(valid_ms);
    let (token, text) =
        trust.registrar.invite(role, new.uses.unwrap_or(1), expires_at_ms).await.map_err(refused)?;
    auth::record(&state, &person.name, "join_token.add", &token.token_id, "done").await;
    let made = MadeJoinTokenJson {
        command: match token.role {
            NodeRole::Server => format!("caelum server --join {text}"),
            NodeRole::Agent | NodeRole::Beacon => format!("caelum join {text}"),
        },
        token: text,
        token_id: token.token_id,
        role: token.role,
        uses: token.uses,
        expires_at_ms: token.expires_at_ms,
    };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Revokes a join token; it admits nobody from now on. Nodes that it admitted stay.
#[utoipa::path(delete, path = "/api/join-tokens/{id}", tag = "cluster", params(("id" = String, Path)),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 204), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn revoke_join_token(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    person.require(Role::Operator)?;
    if !state.store.revoke_join_token(id.clone(), state.now_ms()).await? {
        return Err(ApiError::NotFound("join token"));
    }
    auth::record(&state, &person.name, "join_token.revoke", &id, "done").await;
    Ok(StatusCode::NO_CONTENT)
}

/// The code that a machine shows.
#[derive(Deserialize, utoipa::ToSchema)]
pub struct AdoptJson {
    /// As shown, with or without the dash.
    pub(crate) code: String,
}

/// A machine that has become a node.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AdoptedJson {
    node_id: NodeId,
    /// `joined`.
    status: &'static str,
}

/// Makes a machine a node that shows this code. Answers when it has joined.
#[utoipa::path(post, path = "/api/machines/{id}/adopt", tag = "cluster", request_body = AdoptJson,
    params(("id" = String, Path, description = "The machine's id, as heard")),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = AdoptedJson), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson),
        (status = 409, body = ErrorJson), (status = 429, body = ErrorJson), (status = 504, body = ErrorJson)))]
pub async fn adopt(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
    body: Result<Json<AdoptJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Operator)?;
    let trust = trust(&state)?;
    let Json(AdoptJson { code }) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let node_id = NodeId::parse(&id).map_err(|_| ApiError::NotFound("machine"))?;
    let Some(address) = (trust.find_machine)(&id) else { return Err(ApiError::NotFound("machine")) };
    let adopted = trust.registrar.adopt(&node_id, address, &code, &person.name).await;
    let outcome = match &adopted {
        Ok(()) => "done".to_owned(),
        Err(AdoptError::Store(_) | AdoptError::Tls(_)) => "failed".to_owned(),
        Err(error) => format!("refused: {}", error.code()),
    };
    auth::record(&state, &person.name, "node.adopt", node_id.as_str(), &outcome).await;
    match adopted {
        Ok(()) => Ok(Json(AdoptedJson { node_id, status: "joined" }).into_response()),
        Err(error) => not_adopted(error),
    }
}

fn not_adopted(error: AdoptError) -> Result<Response, ApiError> {
    let status = match error {
        AdoptError::TooSoon => return Err(ApiError::RateLimited { retry_after_ms: 1_000 }),
        AdoptError::Busy => {
            return Err(ApiError::Overloaded { reason: error.to_string(), retry_after_ms: 60_000 });
        }
        AdoptError::Store(error) => return Err(error.into()),
        AdoptError::Tls(error) => return Err(ApiError::Internal(Cause::from(error))),
        AdoptError::Unreachable(_) | AdoptError::DidNotJoin => StatusCode::GATEWAY_TIMEOUT,
        AdoptError::WrongCode | AdoptError::NodeRevoked => StatusCode::FORBIDDEN,
        AdoptError::IsNode | AdoptError::Refused { .. } => StatusCode::CONFLICT,
    };
    Ok(refusal(status, error.code(), error.to_string(), Value::Null))
}

/// A node that is shut out.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RevokedJson {
    node_id: NodeId,
    /// Whether it was admitted before; a machine that was only seen is forgotten.
    revoked: bool,
    /// Whether this outlives a restart. If not, it is in force all the same and will be written down as soon
    /// as that is possible.
    stored: bool,
}

/// Shuts a node out, at once and for good, and forgets what it reported.
#[utoipa::path(delete, path = "/api/nodes/{id}", tag = "cluster", params(("id" = String, Path)),
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = RevokedJson), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson),
        (status = 409, body = ErrorJson)))]
pub async fn revoke_node(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<RevokedJson>, ApiError> {
    person.require(Role::Admin)?;
    let node_id = NodeId::parse(&id).map_err(|_| ApiError::NotFound("node"))?;
    let revocation = match &state.trust {
        Some(trust) => trust.registrar.revoke(&node_id).await,
        None if node_id == state.node_id => Err(RevokeError::Own),
        None => Err(RevokeError::NotEnrolled),
    };
    if revocation == Err(RevokeError::Own) {
        auth::record(&state, &person.name, "node.revoke", &id, "refused: own node").await;
        return Err(ApiError::Conflict(RevokeError::Own.to_string()));
    }
    let removed = state.store.remove_node(&node_id).await;
    let (revoked, stored) = match (&revocation, removed) {
        (Ok(revocation), removed) => (true, revocation.is_stored && removed.is_ok()),
        (Err(_), Ok(true)) => (false, true),
        (Err(_), Ok(false)) => return Err(ApiError::NotFound("node")),
        (Err(_), Err(error)) => return Err(error.into()),
    };
    let outcome = if stored { "done" } else { "done: in force, not stored yet" };
    auth::record(&state, &person.name, "node.revoke", &id, outcome).await;
    state.bus.publish(Change::NodeSampled);
    Ok(Json(RevokedJson { node_id, revoked, stored }))
}
