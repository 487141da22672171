//! What a role answers when it runs alone: is it well, and its numbers for Prometheus.
//!
//! Neither needs a login, since neither says more than counts; both are served on an address of their own,
//! which is this machine's only unless the settings say otherwise. Events are served elsewhere.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json, Router, extract,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use caelum_drivers::traces::Tracer;
use caelum_queue::Queue;
use caelum_roles::{aggregator::Progress, diagnoser, ingest::Ingest, probe};
use caelum_store::Store;
use serde::Serialize;

use crate::exposition::Exposition;

/// A backend that takes longer is not well.
const CHECK_MAX: Duration = Duration::from_secs(3);

/// What a lone role stands on.
pub struct Alone {
    /// Its name.
    pub role: &'static str,
    /// Records.
    pub store: Arc<Store>,
    /// The event stream, where the role stands on it.
    pub queue: Option<Arc<dyn Queue>>,
    /// The way in for events, where it is part of the role.
    pub ingest: Option<Arc<Ingest>>,
    /// The aggregator's progress, where it is part of the role.
    pub aggregator: Option<Arc<Progress>>,
    /// The diagnoser's progress, where it is part of the role.
    pub diagnoser: Option<Arc<diagnoser::progress::Progress>>,
    /// What sends its traces.
    pub tracer: Tracer,
}

/// Whether a role is well.
#[derive(Serialize)]
struct AloneHealthJson {
    /// `healthy` or `degraded`.
    status: &'static str,
    role: &'static str,
    version: &'static str,
    /// What does not work, in words; empty while healthy.
    problems: Vec<String>,
}

/// `/health` and `/metrics`.
pub fn router(alone: Arc<Alone>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(crate::error::not_found)
        .with_state(alone)
}

/// Load balancers ask this: 200 while the role can do its work, else 503 with what is missing.
async fn health(extract::State(alone): extract::State<Arc<Alone>>) -> Response {
    let mut problems = Vec::new();
    let store = tokio::time::timeout(CHECK_MAX, alone.store.fact("partitions"));
    let queue = async {
        match &alone.queue {
            Some(queue) => {
                tokio::time::timeout(CHECK_MAX, queue.status()).await.map(|status| status.map(drop))
            }
            None => Ok(Ok(())),
        }
    };
    let (store, queue) = tokio::join!(store, queue);
    match store {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => problems.push(format!("the store: {error}")),
        Err(_) => problems.push("the store does not answer".to_owned()),
    }
    match queue {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => problems.push(format!("the queue: {error}")),
        Err(_) => problems.push("the queue does not answer".to_owned()),
    }
    answer(alone.role, problems)
}

fn answer(role: &'static str, problems: Vec<String>) -> Response {
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = AloneHealthJson {
        status: if problems.is_empty() { "healthy" } else { "degraded" },
        role,
        version: env!("CARGO_PKG_VERSION"),
        problems,
    };
    (status, Json(body)).into_response()
}

/// A probe's counts, and what sends its traces.
type ProbeState = (Arc<probe::Counters>, Tracer);

/// `/health` and `/metrics` of a probe, which stands on neither records nor a stream.
pub fn probe_router(counters: Arc<probe::Counters>, tracer: Tracer) -> Router {
    Router::new()
        .route("/health", get(probe_health))
        .route("/metrics", get(probe_metrics))
        .fallback(crate::error::not_found)
        .with_state((counters, tracer))
}

/// A probe is well while what it measures gets away.
async fn probe_health(extract::State((counters, _)): extract::State<ProbeState>) -> Response {
    let failing = counters.failing.load(Ordering::Relaxed);
    let mut problems = Vec::new();
    if failing > 0 {
        let spooled = counters.spooled.load(Ordering::Relaxed);
        problems.push(format!("{failing} tries to send failed one after the other; {spooled} events wait"));
    }
    answer("probe", problems)
}

async fn probe_metrics(extract::State((counters, tracer)): extract::State<ProbeState>) -> Response {
    let mut page = Exposition::default();
    page.probe(&counters);
    page.traces(&tracer);
    page.answer()
}

async fn metrics(extract::State(alone): extract::State<Arc<Alone>>) -> Response {
    let mut page = Exposition::default();
    if let Some(ingest) = &alone.ingest {
        page.ingest(&ingest.counters);
    }
    if let Some(progress) = &alone.aggregator {
        page.aggregator(progress);
    }
    if let Some(progress) = &alone.diagnoser {
        page.diagnoser(progress);
    }
    if let Some(queue) = &alone.queue {
        page.queue(queue.depth());
    }
    page.traces(&alone.tracer);
    page.answer()
}
