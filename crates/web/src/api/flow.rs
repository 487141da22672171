//! Tasks in numbers: which went where lately, and how many there are.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract};
use caelum_model::{
    UnixMs,
    id::{NodeId, TaskId},
    task::{Task, TaskState},
};
use caelum_store::{TaskCounts, TaskQuery};
use serde::Serialize;

use crate::{auth::Person, error::ApiError, state::State};

/// Tasks that are shown.
const RECENT: usize = 50;

/// A task on its way.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FlowTaskJson {
    task_id: TaskId,
    task_type: &'static str,
    status: TaskState,
    priority: i32,
    /// The node that has it or had it last, or that must do it.
    node_id: Option<NodeId>,
    created_at: UnixMs,
    started_at: Option<UnixMs>,
    completed_at: Option<UnixMs>,
}

/// Tasks of a node.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NodeTasksJson {
    node_id: NodeId,
    /// Waiting for this node and no other.
    pending: u64,
    /// Given to it and not begun.
    leased: u64,
    running: u64,
}

/// The flow of tasks.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FlowJson {
    recent_tasks: Vec<FlowTaskJson>,
    node_task_counts: Vec<NodeTasksJson>,
    timestamp: UnixMs,
}

/// Which tasks went where lately.
#[utoipa::path(get, path = "/api/cluster/flow", tag = "cluster", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = FlowJson)))]
pub async fn flow(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<FlowJson>, ApiError> {
    let query = TaskQuery { limit: RECENT, ..TaskQuery::default() };
    let (tasks, counts) = tokio::try_join!(state.store.tasks(query), state.store.task_counts())?;
    let node_task_counts = counts.by_node.into_iter().map(|count| NodeTasksJson {
        node_id: count.node_id,
        pending: count.queued,
        leased: count.leased,
        running: count.running,
    });
    Ok(Json(FlowJson {
        recent_tasks: tasks.iter().map(FlowTaskJson::of).collect(),
        node_task_counts: node_task_counts.collect(),
        timestamp: state.now_ms(),
    }))
}

impl FlowTaskJson {
    fn of(task: &Task) -> Self {
        let last = task.attempts.last().map(|attempt| attempt.node_id.clone());
        Self {
            task_id: task.task_id.clone(),
            task_type: task.order.task_type.as_str(),
            status: task.status,
            priority: task.order.priority,
            node_id: last.or_else(|| task.order.assigned_node.clone()),
            created_at: task.created_at,
            started_at: task.started_at,
            completed_at: task.completed_at,
        }
    }
}

/// How many tasks are in each state, every state named.
pub(crate) fn by_status(counts: &TaskCounts) -> BTreeMap<&'static str, u64> {
    let mut all: BTreeMap<&'static str, u64> =
        TaskState::ALL.into_iter().map(|status| (status.as_str(), 0)).collect();
    all.extend(counts.by_status.iter().map(|(status, count)| (status.as_str(), *count)));
    all
}
