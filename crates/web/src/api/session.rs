//! Signing in and out.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{self, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use caelum_model::{access::Role, wire::ErrorJson};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{self, Person, SignInError},
    error::ApiError,
    serve::Transport,
    state::State,
};

/// Name and password.
#[derive(Deserialize, utoipa::ToSchema)]
pub struct LoginJson {
    /// User name.
    username: String,
    /// Password.
    password: String,
}

/// Who is asking.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MeJson {
    /// User name, or `token:` and the token's name.
    name: String,
    /// What they may do.
    role: Role,
}

/// Opens a session and answers with its cookie.
#[utoipa::path(post, path = "/api/login", tag = "session", request_body = LoginJson,
    responses((status = 200, body = MeJson), (status = 401, body = ErrorJson), (status = 429, body = ErrorJson)))]
pub async fn login(
    extract::State(state): extract::State<Arc<State>>,
    Extension(transport): Extension<Transport>,
    body: Result<Json<LoginJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(login) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    match auth::sign_in(&state, &login.username, &login.password, &transport).await {
        Ok(cookie) => {
            let role = state.store.user(login.username.clone()).await?.map_or(Role::Viewer, |user| user.role);
            let me = MeJson { name: login.username, role };
            Ok(([(header::SET_COOKIE, cookie)], Json(me)).into_response())
        }
        Err(SignInError::Wrong) => Err(ApiError::Unauthorized("name or password is wrong")),
        Err(SignInError::Wait { seconds }) => Err(ApiError::RateLimited { retry_after_ms: seconds * 1000 }),
        Err(SignInError::Failed(error)) => Err(error),
    }
}

/// Ends the session.
#[utoipa::path(post, path = "/api/logout", tag = "session", responses((status = 204)))]
pub async fn logout(
    extract::State(state): extract::State<Arc<State>>,
    Extension(transport): Extension<Transport>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let cookie = auth::sign_out(&state, &headers, &transport).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

/// Who is asking.
#[utoipa::path(get, path = "/api/me", tag = "session", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = MeJson), (status = 401, body = ErrorJson)))]
pub async fn me(person: Person) -> Json<MeJson> {
    Json(MeJson { name: person.name, role: person.role })
}
