//! Workers: asking for work and saying what their tasks do. Only nodes come here, under their certificates.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{self, Request},
};
use caelum_model::{
    cluster::Ceiling,
    id::NodeId,
    wire::ErrorJson,
    work::{ITEMS_MAX, REPORT_MAX, WorkAnswer, WorkPoll, WorkReceipt, WorkReport},
};
use serde::de::DeserializeOwned;

use crate::{error::ApiError, serve::Transport, state::State};

/// Longest name of a worker's run, bytes.
const WORKER_MAX: usize = 128;

/// Asks for work: the answer waits until there is some, or something to stop, at most as long as is said.
#[utoipa::path(post, path = "/api/work/poll", tag = "tasks", request_body = WorkPoll,
    responses((status = 200, body = WorkAnswer), (status = 401, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn poll(
    extract::State(state): extract::State<Arc<State>>,
    Extension(transport): Extension<Transport>,
    request: Request,
) -> Result<Json<WorkAnswer>, ApiError> {
    let node_id = worker_of(&state, &transport).await?;
    let poll: WorkPoll = read(request).await?;
    check_worker(&poll.worker)?;
    let answer = tokio::select! {
        answer = state.desk.poll(&node_id, poll) => answer?,
        () = state.stop.cancelled() => WorkAnswer::default(),
    };
    Ok(Json(answer))
}

/// Takes what a worker's tasks did. What is answered is durable.
#[utoipa::path(post, path = "/api/work/report", tag = "tasks", request_body = WorkReport,
    responses((status = 200, body = WorkReceipt), (status = 401, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn report(
    extract::State(state): extract::State<Arc<State>>,
    Extension(transport): Extension<Transport>,
    request: Request,
) -> Result<Json<WorkReceipt>, ApiError> {
    let node_id = worker_of(&state, &transport).await?;
    let report: WorkReport = read(request).await?;
    check_worker(&report.worker)?;
    if report.items.len() > ITEMS_MAX {
        return Err(ApiError::InvalidRequest(format!("a report has at most {ITEMS_MAX} items")));
    }
    Ok(Json(state.desk.report(&node_id, report).await?))
}

/// The node that asks, if it may be given work.
async fn worker_of(state: &State, transport: &Transport) -> Result<NodeId, ApiError> {
    let Some(pass) = &transport.node else {
        return Err(ApiError::Unauthorized("work is for nodes of the cluster, under their certificates"));
    };
    let node = state.store.node(pass.node_id.as_str()).await?;
    let ceiling = node.map_or(Ceiling::Observe, |node| node.links.ceiling);
    if ceiling < Ceiling::Tasks {
        return Err(ApiError::ForbiddenBecause(
            "ceiling",
            "this node may only be looked at: its ceiling is `observe`, and work needs `tasks`".into(),
        ));
    }
    Ok(pass.node_id.clone())
}

fn check_worker(worker: &str) -> Result<(), ApiError> {
    if worker.is_empty() || worker.len() > WORKER_MAX || worker.chars().any(char::is_control) {
        return Err(ApiError::InvalidRequest(format!(
            "worker is empty, longer than {WORKER_MAX} bytes, or contains a control character"
        )));
    }
    Ok(())
}

/// Reads a body that may be larger than others.
pub(crate) async fn read<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let bytes = axum::body::to_bytes(request.into_body(), REPORT_MAX)
        .await
        .map_err(|_| ApiError::PayloadTooLarge { limit_bytes: REPORT_MAX })?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::InvalidRequest(error.to_string()))
}
