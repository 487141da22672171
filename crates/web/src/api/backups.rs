//! Backups of this server: which there are, and one more now.
//!
//! They hold secrets, so they are an administrator's matter, and none of them travels over HTTP.

use std::sync::Arc;

use axum::{Json, extract};
use caelum_model::{UnixMs, access::Role, backup::Backup, wire::ErrorJson};
use caelum_roles::backup::{BackupError, Backups};
use serde::Serialize;

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// The backups of this server, and how they are made.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct BackupsJson {
    /// Newest first.
    pub backups: Vec<Backup>,
    /// Always null: all of them are listed.
    pub next_cursor: Option<String>,
    /// Where they are, on the server.
    pub directory: String,
    /// Hours between two; 0 makes none by itself.
    pub every_h: u64,
    /// Days after which one is removed.
    pub keep_days: u64,
    /// When the next is made by itself.
    pub due_ms: Option<UnixMs>,
    /// Whether one is being made now.
    pub is_busy: bool,
    /// Why the last one since the start failed, if it did.
    pub error: Option<String>,
}

/// The backups of this server.
#[utoipa::path(get, path = "/api/backups", tag = "system", security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = BackupsJson), (status = 403, body = ErrorJson)))]
pub async fn backups(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<BackupsJson>, ApiError> {
    list(&state, &person).await.map(Json)
}

/// Them, for the API and the page alike.
pub async fn list(state: &State, person: &Person) -> Result<BackupsJson, ApiError> {
    person.require(Role::Admin)?;
    let of_server = Arc::clone(ours(state)?);
    let read = tokio::task::spawn_blocking(move || {
        let (plan, last) = (of_server.plan().clone(), of_server.last());
        Ok(BackupsJson {
            backups: of_server.list()?,
            next_cursor: None,
            directory: plan.directory.display().to_string(),
            every_h: plan.every_h,
            keep_days: plan.keep_days,
            due_ms: of_server.due_ms(),
            is_busy: of_server.is_busy(),
            error: last.error,
        })
    });
    read.await.unwrap_or(Err(BackupError::CutOff)).map_err(|error| ApiError::Internal(error.into()))
}

/// Makes a backup now, and answers when it is made and proved.
#[utoipa::path(post, path = "/api/backups", tag = "system", security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, body = Backup), (status = 403, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn back_up(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<Backup>, ApiError> {
    make(&state, &person).await.map(Json)
}

/// Makes one, for the API and the page alike.
pub async fn make(state: &State, person: &Person) -> Result<Backup, ApiError> {
    person.require(Role::Admin)?;
    let of_server = Arc::clone(ours(state)?);
    // In a task of its own: a browser that goes away must not leave half of one.
    let making = tokio::spawn(async move { of_server.make().await });
    let made = making.await.unwrap_or(Err(BackupError::CutOff));
    let outcome = match &made {
        Ok(backup) => backup.name.clone(),
        Err(error) => error.to_string(),
    };
    auth::record(state, &person.name, "backup.make", state.node_id.as_str(), &outcome).await;
    made.map_err(|error| match error {
        BackupError::Busy => ApiError::Conflict("another backup is being made now".to_owned()),
        other => ApiError::Internal(other.into()),
    })
}

fn ours(state: &State) -> Result<&Arc<Backups>, ApiError> {
    state.backups.as_ref().ok_or(ApiError::NotFound("backup of this process"))
}
