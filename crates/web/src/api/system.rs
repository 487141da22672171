//! The server itself: is it well, what has it done.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json, extract,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use caelum_model::{UnixMs, id::NodeId, node::Level, wire::ErrorJson};
use serde::Serialize;

use crate::{auth::Person, error::ApiError, exposition::Exposition, state::State};

use super::{flow, nodes};

/// Whether the server is well.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ServerHealthJson {
    /// `healthy` or `degraded`.
    status: &'static str,
    /// What does not work, in words; empty while healthy.
    problems: Vec<String>,
    node_id: NodeId,
    version: &'static str,
    uptime_seconds: i64,
}

/// Whether the server can read its store and take events in. Needs no login: load balancers ask it.
#[utoipa::path(get, path = "/health", tag = "system",
    responses((status = 200, body = ServerHealthJson), (status = 503, body = ServerHealthJson)))]
pub async fn health(extract::State(state): extract::State<Arc<State>>) -> Response {
    let mut problems = Vec::new();
    if let Err(error) = state.store.fact("node_id").await {
        tracing::warn!(code = "web.health_store", %error, "the store cannot be read");
        problems.push("the store cannot be read".to_owned());
    }
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = ServerHealthJson {
        status: if problems.is_empty() { "healthy" } else { "degraded" },
        problems,
        node_id: state.node_id.clone(),
        version: state.version,
        uptime_seconds: (state.now_ms() - state.started_at_ms).max(0) / 1000,
    };
    (status, Json(body)).into_response()
}

/// Nodes by level.
#[derive(Default, Serialize, utoipa::ToSchema)]
pub struct NodeCountsJson {
    total: usize,
    online: usize,
    offline: usize,
}

/// What the pipeline has done. `counted`, `duplicates` and `too_late` are since the store was made, the
/// others since this process started.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PipelineJson {
    /// Events accepted.
    accepted: u64,
    /// Events known to be duplicates on arrival.
    duplicate_on_arrival: u64,
    /// Events refused.
    rejected: u64,
    /// Requests turned away because of rate or load.
    turned_away: u64,
    /// Distinct events counted in rollups.
    counted: u64,
    /// Duplicates that the aggregator left out.
    duplicates: u64,
    /// Events that were too old.
    too_late: u64,
    /// Records in the queue, counted ones that are not trimmed yet included.
    queue_records: u64,
    /// Events in them.
    queue_events: u64,
    /// Bytes in them.
    queue_bytes: u64,
}

/// What the server has done.
#[derive(Serialize, utoipa::ToSchema)]
pub struct StatsJson {
    nodes: NodeCountsJson,
    targets: usize,
    probes: usize,
    /// Tasks by state.
    tasks: BTreeMap<&'static str, u64>,
    /// People who are signed in.
    sessions: usize,
    /// Workers that ask this server for work.
    active_workers: usize,
    pipeline: PipelineJson,
    timestamp: UnixMs,
}

/// Counts of everything.
#[utoipa::path(get, path = "/api/stats", tag = "system", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = StatsJson), (status = 401, body = ErrorJson)))]
pub async fn stats(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<StatsJson>, ApiError> {
    Ok(Json(collect(&state).await?))
}

async fn collect(state: &State) -> Result<StatsJson, ApiError> {
    let (now_ms, thresholds, roster) = (state.now_ms(), state.thresholds(), state.roster());
    let mut counts = NodeCountsJson::default();
    let settings = nodes::settings(state).await?;
    for node in state.store.nodes().await? {
        counts.total += 1;
        match nodes::judge_as(&node, settings.get(&node.node_id), &roster, now_ms, &thresholds).level {
            Level::Offline => counts.offline += 1,
            Level::Healthy | Level::Warning | Level::Critical => counts.online += 1,
        }
    }
    let totals = state.store.pipeline_totals().await?;
    let depth = state.queue.depth();
    let counters = &state.gate.ingest.counters;
    Ok(StatsJson {
        nodes: counts,
        targets: state.store.targets().await?.len(),
        probes: state.store.probes().await?.len(),
        tasks: flow::by_status(&state.store.task_counts().await?),
        sessions: state.store.count_keys("session/".to_owned(), now_ms).await?,
        active_workers: state.desk.workers_here().0,
        pipeline: PipelineJson {
            accepted: counters.accepted.load(Ordering::Relaxed),
            duplicate_on_arrival: counters.duplicate.load(Ordering::Relaxed),
            rejected: counters.rejected.load(Ordering::Relaxed),
            turned_away: counters.turned_away.load(Ordering::Relaxed),
            counted: totals.counted,
            duplicates: totals.duplicates,
            too_late: totals.too_late,
            queue_records: depth.records,
            queue_events: depth.events,
            queue_bytes: depth.bytes,
        },
        timestamp: now_ms,
    })
}

/// The same counts in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "system", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Response, ApiError> {
    let stats = collect(&state).await?;
    let mut page = Exposition::default();
    page.ingest(&state.gate.ingest.counters);
    page.traces(state.gate.ingest.tracer());
    if let Some(progress) = &state.aggregator {
        page.aggregator(progress);
    }
    if let Some(progress) = &state.diagnoser {
        page.diagnoser(progress);
    }
    page.queue(state.queue.depth());
    let p = &stats.pipeline;
    page.counter(
        "caelum_pipeline_events_counted_total",
        "Distinct events counted since the store was made.",
        p.counted,
    );
    page.counter(
        "caelum_pipeline_events_duplicate_total",
        "Duplicates left out since the store was made.",
        p.duplicates,
    );
    page.counter(
        "caelum_pipeline_events_too_late_total",
        "Events too old to be counted since then.",
        p.too_late,
    );
    let counters = &state.cluster.counters;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let links = state.roster().members.iter().filter(|member| member.link.is_some()).count();
    for (name, help, value) in [
        ("datagrams_sent", "Beacons and membership datagrams sent.", count(&counters.datagrams_sent)),
        ("datagram_sent_bytes", "Their bytes.", count(&counters.datagram_bytes_sent)),
        ("datagrams_received", "Datagrams received.", count(&counters.datagrams_received)),
        ("datagrams_refused", "Datagrams not accepted.", count(&counters.datagrams_refused)),
        ("machines_discovered", "Machines heard for the first time.", count(&counters.discovered)),
        ("dials", "Links dialled.", count(&counters.dials)),
        ("dials_failed", "Dials that led to nothing.", count(&counters.dials_failed)),
        ("links_opened", "Links that came to be.", count(&counters.links_opened)),
        ("links_lost", "Links that were lost.", count(&counters.links_lost)),
        ("links_refused", "Links that were refused.", count(&counters.links_refused)),
        ("link_frames_received", "Frames received on links.", count(&counters.frames_received)),
    ] {
        page.counter(&format!("caelum_discovery_{name}_total"), help, value);
    }
    page.gauge("caelum_discovery_links", "Links that are up.", links as f64);
    page.gauge("caelum_discovery_machines", "Machines heard.", state.roster().machines.len() as f64);
    page.tasks(&stats.tasks, &state.desk);
    page.gauge("caelum_nodes", "Nodes.", stats.nodes.total as f64);
    page.gauge("caelum_nodes_offline", "Nodes that are offline.", stats.nodes.offline as f64);
    Ok(page.answer())
}
