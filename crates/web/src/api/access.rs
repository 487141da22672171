//! Users, tokens and the audit log: for administrators.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, Query, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_drivers::random;
use caelum_model::{
    UnixMs,
    access::{AuditEntry, ClientBinding, Role, Scope, Token},
    id::ClientId,
    wire::ErrorJson,
};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Characters of a token's secret.
const SECRET_LENGTH: usize = 43;
/// What every token starts with, so that scanners for leaked secrets know it.
const PREFIX: &str = "caelum_";

/// A user.
#[derive(Serialize, utoipa::ToSchema)]
pub struct UserJson {
    name: String,
    role: Role,
    created_at_ms: UnixMs,
}

/// All users.
#[derive(Serialize, utoipa::ToSchema)]
pub struct UsersJson {
    users: Vec<UserJson>,
    next_cursor: Option<String>,
}

/// Every user.
#[utoipa::path(get, path = "/api/users", tag = "access", security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = UsersJson), (status = 403, body = ErrorJson)))]
pub async fn users(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<UsersJson>, ApiError> {
    person.require(Role::Admin)?;
    let users = state.store.users().await?;
    let users = users
        .into_iter()
        .map(|user| UserJson { name: user.name, role: user.role, created_at_ms: user.created_at_ms })
        .collect();
    Ok(Json(UsersJson { users, next_cursor: None }))
}

/// A token without its secret.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TokenJson {
    token_id: String,
    name: String,
    scopes: Vec<Scope>,
    binding: ClientBinding,
    created_at_ms: UnixMs,
    expires_at_ms: Option<UnixMs>,
    revoked_at_ms: Option<UnixMs>,
}

impl From<Token> for TokenJson {
    fn from(token: Token) -> Self {
        Self {
            token_id: token.token_id,
            name: token.name,
            scopes: token.scopes,
            binding: token.binding,
            created_at_ms: token.created_at_ms,
            expires_at_ms: token.expires_at_ms,
            revoked_at_ms: token.revoked_at_ms,
        }
    }
}

/// All tokens.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TokensJson {
    tokens: Vec<TokenJson>,
    next_cursor: Option<String>,
}

/// Every token, without secrets.
#[utoipa::path(get, path = "/api/tokens", tag = "access", security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = TokensJson), (status = 403, body = ErrorJson)))]
pub async fn tokens(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<TokensJson>, ApiError> {
    person.require(Role::Admin)?;
    let tokens = state.store.tokens().await?.into_iter().map(TokenJson::from).collect();
    Ok(Json(TokensJson { tokens, next_cursor: None }))
}

/// What a new token is for.
#[derive(Deserialize, utoipa::ToSchema)]
pub struct NewTokenJson {
    /// What people call it.
    name: String,
    /// What it allows.
    scopes: Vec<Scope>,
    /// For `ingest`: the probe it speaks for, or `*` for any.
    #[serde(default)]
    client_id: Option<String>,
    /// When it stops working; never unless given.
    #[serde(default)]
    expires_at_ms: Option<UnixMs>,
}

/// A new token with its secret, which is shown this once.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MadeTokenJson {
    #[serde(flatten)]
    token: TokenJson,
    /// The secret; it is not kept and cannot be shown again.
    secret: String,
}

/// Makes a token.
#[utoipa::path(post, path = "/api/tokens", tag = "access", request_body = NewTokenJson,
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 201, body = MadeTokenJson), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn add_token(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NewTokenJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Admin)?;
    let Json(new) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let now_ms = state.now_ms();
    let (token, secret) =
        make_token(&new.name, new.scopes, new.client_id.as_deref(), new.expires_at_ms, now_ms)
            .map_err(ApiError::InvalidRequest)?;
    state.store.add_token(token.clone()).await?;
    auth::record(&state, &person.name, "token.add", &token.name, "done").await;
    Ok((StatusCode::CREATED, Json(MadeTokenJson { token: token.into(), secret })).into_response())
}

/// A token and its secret, checked; the error says what is wrong with the wish.
pub fn make_token(
    name: &str,
    scopes: Vec<Scope>,
    client_id: Option<&str>,
    expires_at_ms: Option<UnixMs>,
    now_ms: UnixMs,
) -> Result<(Token, String), String> {
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err("name is empty, longer than 64 bytes, or contains a control character".into());
    }
    if scopes.is_empty() {
        return Err("scopes is empty; choose from ingest, read, operate, admin".into());
    }
    if expires_at_ms.is_some_and(|expiry| expiry <= now_ms) {
        return Err("expires_at_ms is in the past".into());
    }
    let is_ingest = scopes.contains(&Scope::Ingest);
    let binding = match client_id {
        None if is_ingest => {
            return Err("a token for ingest is bound to a probe: give client_id, or * for any".into());
        }
        None => ClientBinding::None,
        Some(_) if !is_ingest => return Err("client_id goes with the scope ingest".into()),
        Some("*") => ClientBinding::Any,
        Some(text) => {
            ClientBinding::One(ClientId::parse(text).map_err(|error| format!("client_id {error}"))?)
        }
    };
    let secret = format!("{PREFIX}{}", random::secret(SECRET_LENGTH));
    let token = Token {
        token_id: random::secret(12),
        name: name.to_owned(),
        secret_sha256: auth::sha256(&secret),
        scopes,
        binding,
        created_at_ms: now_ms,
        expires_at_ms,
        revoked_at_ms: None,
    };
    Ok((token, secret))
}

/// Revokes a token; it stops working at once.
#[utoipa::path(delete, path = "/api/tokens/{id}", tag = "access", params(("id" = String, Path)),
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 204), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn revoke_token(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    person.require(Role::Admin)?;
    if !state.store.revoke_token(id.clone(), state.now_ms()).await? {
        return Err(ApiError::NotFound("token"));
    }
    auth::record(&state, &person.name, "token.revoke", &id, "done").await;
    Ok(StatusCode::NO_CONTENT)
}

/// Which lines of the audit log.
#[derive(Deserialize, utoipa::IntoParams)]
pub struct AuditQuery {
    /// At most so many lines.
    limit: Option<usize>,
    /// Only lines before this time.
    before: Option<UnixMs>,
}

/// Lines of the audit log.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AuditJson {
    audit: Vec<AuditEntry>,
    next_cursor: Option<String>,
}

/// Who did what, newest first.
#[utoipa::path(get, path = "/api/audit", tag = "access", params(AuditQuery),
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = AuditJson), (status = 403, body = ErrorJson)))]
pub async fn audit(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditJson>, ApiError> {
    person.require(Role::Admin)?;
    let limit = super::limit(query.limit);
    let audit = state.store.audit_log(query.before.unwrap_or(UnixMs::MAX), limit).await?;
    Ok(Json(AuditJson { audit, next_cursor: None }))
}
