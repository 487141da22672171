//! Tasks: asking for them, finding them, calling them off, having them done again.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Path, Query, Request},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caelum_engine::{
    placement::{Candidate, Place, Refused, Wish},
    task::{
        Refusal, TaskEvent,
        order::{self, OrderError},
        queue::Class,
    },
};
use caelum_model::{
    UnixMs,
    access::Role,
    id::{NodeId, TaskId},
    task::{Task, TaskAsk, TaskKind, TaskState},
    wire::ErrorJson,
};
use caelum_roles::{
    bus::Change,
    tasks::{new_task, new_task_id},
};
use caelum_store::{TaskQuery, TaskStep};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::work;
use crate::{
    auth::{self, Person},
    error::{self, ApiError},
    state::State,
};

/// Longest text that tasks are searched for, bytes.
const TEXT_MAX: usize = 256;
/// Most nodes that are named where a task waits for one.
const REASONS_MAX: usize = 20;

/// Which tasks. What is empty is not asked for, as forms send it.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TasksQuery {
    /// States with commas between them; `active` stands for queued, leased and running.
    pub(crate) status: Option<String>,
    /// Only of this kind.
    pub(crate) task_type: Option<String>,
    /// Only of this node, by id or name: which has them, had them last, or must do them.
    pub(crate) node: Option<String>,
    /// Only those that have this text anywhere.
    pub(crate) text: Option<String>,
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// Where a list before ended.
    pub(crate) cursor: Option<String>,
}

impl TasksQuery {
    /// The question to the store, or what is wrong with it.
    pub(crate) async fn read(&self, state: &State) -> Result<TaskQuery, ApiError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut status = Vec::new();
        for word in given(&self.status).unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
            match (word, TaskState::parse(word)) {
                ("active", _) => {
                    status.extend([TaskState::Queued, TaskState::Leased, TaskState::Running]);
                }
                (_, Some(known)) => status.push(known),
                _ => {
                    let known = TaskState::ALL.map(TaskState::as_str).join(", ");
                    return Err(ApiError::InvalidRequest(format!("status is none of active, {known}")));
                }
            }
        }
        let kind = given(&self.task_type)
            .map(|kind| {
                let known = TaskKind::ALL.map(TaskKind::as_str).join(", ");
                TaskKind::parse(&kind)
                    .ok_or_else(|| ApiError::InvalidRequest(format!("task_type is none of {known}")))
            })
            .transpose()?;
        let node_id = match given(&self.node) {
            Some(node) => Some(find_node(state, &node).await?),
            None => None,
        };
        let text = given(&self.text).map(|text| text.chars().take(TEXT_MAX).collect());
        Ok(TaskQuery {
            status,
            kind,
            node_id,
            text,
            after: given(&self.cursor).as_deref().map(parse_cursor).transpose()?,
            limit: super::limit(self.limit),
        })
    }
}

/// A page of tasks.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TasksJson {
    tasks: Vec<Task>,
    next_cursor: Option<String>,
}

/// Several tasks that are asked for in one breath.
#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = TasksAsk)]
#[expect(dead_code, reason = "it describes the other form of the body, which is read step by step")]
pub struct TasksAsk {
    /// They may wait for each other by their keys.
    tasks: Vec<TaskAsk>,
}

/// Tasks, newest first.
#[utoipa::path(get, path = "/api/tasks", tag = "tasks", params(TasksQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = TasksJson), (status = 400, body = ErrorJson)))]
pub async fn list(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<TasksQuery>,
) -> Result<Json<TasksJson>, ApiError> {
    let (tasks, next_cursor) = page(&state, query.read(&state).await?).await?;
    Ok(Json(TasksJson { tasks, next_cursor }))
}

/// A page of tasks, and where the next begins.
pub(crate) async fn page(state: &State, query: TaskQuery) -> Result<(Vec<Task>, Option<String>), ApiError> {
    let limit = query.limit;
    let tasks = state.store.tasks(query).await?;
    let next = tasks.last().filter(|_| tasks.len() == limit).map(|last| {
        let text = serde_json::to_vec(&(last.created_at, &last.task_id)).expect("a number and a text");
        URL_SAFE_NO_PAD.encode(text)
    });
    Ok((tasks, next))
}

fn parse_cursor(text: &str) -> Result<(UnixMs, TaskId), ApiError> {
    let bad = || ApiError::InvalidRequest("cursor is not one that this list answered".into());
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    serde_json::from_slice(&bytes).map_err(|_| bad())
}

/// Asks for a task, or for several: `{"tasks": [...]}`. One whose idempotency key is known is the task that
/// has it.
#[utoipa::path(post, path = "/api/tasks", tag = "tasks", request_body = TaskAsk,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 201, body = Task), (status = 200, body = Task, description = "It was asked for before"),
        (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn add(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
) -> Result<Response, ApiError> {
    person.require(Role::Operator)?;
    let mut body: Value = work::read(request).await?;
    let many = body.as_object_mut().and_then(|body| body.remove("tasks"));
    let is_many = many.is_some();
    let asked: Vec<TaskAsk> = match many {
        Some(many) => parse(many)?,
        None => vec![parse(body)?],
    };
    let now_ms = state.now_ms();
    let mut tasks = add_all(&state, &person, asked).await?;
    let is_new = tasks.iter().any(|task| task.created_at >= now_ms);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    if is_many {
        return Ok((status, Json(TasksJson { tasks, next_cursor: None })).into_response());
    }
    Ok((status, Json(tasks.remove(0))).into_response())
}

fn parse<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, ApiError> {
    serde_json::from_value(body).map_err(|error| ApiError::InvalidRequest(error.to_string()))
}

/// Asks for tasks, for the API and the pages alike. There is at least one where it answers.
pub(crate) async fn add_all(
    state: &State,
    person: &Person,
    mut asked: Vec<TaskAsk>,
) -> Result<Vec<Task>, ApiError> {
    person.require(Role::Operator)?;
    // Most that are asked for in one breath are for few nodes: each is looked up once.
    let mut nodes: HashMap<String, NodeId> = HashMap::new();
    for ask in &mut asked {
        let Some(node) = ask.assigned_node.take().filter(|node| !node.is_empty()) else { continue };
        let node_id = match nodes.get(&node) {
            Some(node_id) => node_id.to_string(),
            None => {
                let node_id = find_node(state, &node).await?;
                nodes.entry(node).or_insert(node_id).to_string()
            }
        };
        ask.assigned_node = Some(node_id);
    }
    let ids: Vec<TaskId> = asked.iter().map(|_| new_task_id()).collect();
    let orders = order::check(asked, ids.clone()).map_err(refused)?;
    for blocker in orders.iter().flat_map(|(_, order)| &order.depends_on) {
        if !ids.contains(blocker) && state.store.task(blocker).await?.is_none() {
            return Err(ApiError::InvalidRequest(format!("depends_on: there is no task `{blocker}`")));
        }
    }
    let now_ms = state.now_ms();
    let tasks: Vec<Task> = orders
        .into_iter()
        .map(|(task_id, order)| new_task(task_id, order, person.name.clone(), now_ms))
        .collect();
    let line = |task: &Task| {
        let subject = format!("{} {}", task.order.task_type.as_str(), task.task_id);
        auth::line(state, &person.name, "task.add", &subject, "done")
    };
    let lines = tasks.iter().map(line).collect();
    let added = state.store.add_tasks(tasks, lines).await?;
    state.desk.wake();
    state.bus.publish(Change::TasksChanged);
    Ok(added)
}

pub(crate) fn refused(error: OrderError) -> ApiError {
    ApiError::InvalidRequest(error.to_string())
}

/// The node of this id or name.
pub(crate) async fn find_node(state: &State, id_or_name: &str) -> Result<NodeId, ApiError> {
    let node = state.store.node(id_or_name).await?;
    node.map(|node| node.node_id)
        .ok_or_else(|| ApiError::InvalidRequest(format!("there is no node `{id_or_name}`")))
}

/// A task, and why it is not yet with a node.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TaskDetailJson {
    #[serde(flatten)]
    task: Task,
    /// What a queued task waits for, in words; empty for any other.
    waits_for: Vec<String>,
}

/// One task with its attempts, and what it waits for.
#[utoipa::path(get, path = "/api/tasks/{id}", tag = "tasks", params(("id" = String, Path)),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = TaskDetailJson), (status = 404, body = ErrorJson)))]
pub async fn one(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<TaskDetailJson>, ApiError> {
    let task = find(&state, &id).await?;
    let waits_for = waits_for(&state, &task).await?;
    Ok(Json(TaskDetailJson { task, waits_for }))
}

/// Why a queued task is not with a node.
pub(crate) async fn waits_for(state: &State, task: &Task) -> Result<Vec<String>, ApiError> {
    if task.status != TaskState::Queued {
        return Ok(Vec::new());
    }
    if task.blockers > 0 {
        let tasks = if task.blockers == 1 { "task" } else { "tasks" };
        return Ok(vec![format!("{} {tasks} that must end well before it", task.blockers)]);
    }
    let wait_ms = task.ready_at - state.now_ms();
    if wait_ms > 0 {
        return Ok(vec![format!("its time, in {} s", wait_ms / 1_000 + 1)]);
    }
    let wish = Wish {
        words: &task.order.requirements,
        node: task.order.assigned_node.as_ref(),
        ceiling: task.order.task_type.ceiling(),
    };
    let board = state.desk.board().await?;
    let nodes = state.store.nodes().await?;
    let name = |node_id: &NodeId| {
        let node = nodes.iter().find(|node| node.node_id == *node_id);
        node.map_or_else(|| node_id.to_string(), |node| node.name.clone())
    };
    let is_meant = |candidate: &&Candidate| wish.node.is_none_or(|node| *node == candidate.node_id);
    let reasons = board.candidates().iter().filter(is_meant).take(REASONS_MAX).map(|candidate| {
        let because =
            candidate.refusal(&wish).unwrap_or_else(|| "it has no slot free, or does not ask".into());
        format!("{}: {because}", name(&candidate.node_id))
    });
    let reasons: Vec<String> = reasons.collect();
    Ok(if reasons.is_empty() { vec!["a node: there is none".to_owned()] } else { reasons })
}

/// The task of this id.
pub(crate) async fn find(state: &State, id: &str) -> Result<Task, ApiError> {
    let task_id = TaskId::parse(id).map_err(|_| ApiError::NotFound("task"))?;
    state.store.task(&task_id).await?.ok_or(ApiError::NotFound("task"))
}

/// Calls a task off: at once where it waits, as soon as its node has ended it where it runs.
#[utoipa::path(post, path = "/api/tasks/{id}/cancel", tag = "tasks", params(("id" = String, Path)),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = Task), (status = 404, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn cancel(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<Task>, ApiError> {
    cancel_one(&state, &person, &id).await.map(Json)
}

/// Calls a task off, for the API and the pages alike.
pub(crate) async fn cancel_one(state: &State, person: &Person, id: &str) -> Result<Task, ApiError> {
    let event = TaskEvent::CancelRequested { by: person.name.clone() };
    let task = step(state, person, id, event, "task.cancel").await?;
    state.desk.cancelled(&task);
    Ok(task)
}

/// Has a task done again that did not end well.
#[utoipa::path(post, path = "/api/tasks/{id}/retry", tag = "tasks", params(("id" = String, Path)),
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = Task), (status = 404, body = ErrorJson), (status = 409, body = ErrorJson)))]
pub async fn retry(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<Task>, ApiError> {
    retry_one(&state, &person, &id).await.map(Json)
}

/// Has a task done again, for the API and the pages alike.
pub(crate) async fn retry_one(state: &State, person: &Person, id: &str) -> Result<Task, ApiError> {
    let event = TaskEvent::Retry { by: person.name.clone() };
    step(state, person, id, event, "task.retry").await
}

async fn step(
    state: &State,
    person: &Person,
    id: &str,
    event: TaskEvent,
    action: &str,
) -> Result<Task, ApiError> {
    person.require(Role::Operator)?;
    let task_id = TaskId::parse(id).map_err(|_| ApiError::NotFound("task"))?;
    let outcome = state.desk.step(vec![TaskStep { task_id, event }]).await?.into_iter().next();
    match outcome {
        Some(Ok(task)) => {
            auth::record(state, &person.name, action, task.task_id.as_str(), "done").await;
            Ok(task)
        }
        Some(Err(Refusal::Unknown)) | None => Err(ApiError::NotFound("task")),
        Some(Err(refusal)) => Err(ApiError::Conflict(refusal.to_string())),
    }
}

/// Where a task went, or would go.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AssignedJson {
    /// Null where only the placement was asked for.
    task_id: Option<TaskId>,
    assigned_node: NodeId,
    assigned_hostname: String,
    /// Its score before this task; lower is better.
    node_load_score: f64,
    /// The parts of the score, as sentences.
    reasons: Vec<String>,
    success: bool,
}

/// Asks for a task at the node that has the most room for it now. Without `task_data` only the node is
/// answered. Where no node will do, the answer says of each why.
#[utoipa::path(post, path = "/api/tasks/assign-optimal", tag = "tasks", request_body = TaskAsk,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = AssignedJson), (status = 201, body = AssignedJson),
        (status = 400, body = ErrorJson), (status = 403, body = ErrorJson), (status = 503, body = ErrorJson)))]
pub async fn assign_optimal(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
) -> Result<Response, ApiError> {
    let ask: TaskAsk = work::read(request).await?;
    let is_placement_only = ask.task_data.is_null();
    if !is_placement_only {
        person.require(Role::Operator)?;
    }
    let place = match place(&state, ask.clone()).await? {
        Ok(place) => place,
        Err(refused) => {
            let nodes: Vec<Value> = refused
                .iter()
                .map(|refused| json!({"node_id": refused.node_id, "because": refused.because}))
                .collect();
            let message = match refused.first() {
                Some(first) => format!("no node will do: {} says {}", first.node_id, first.because),
                None => "there is no node yet".to_owned(),
            };
            let details = json!({"success": false, "nodes": nodes});
            return Ok(error::refusal(StatusCode::SERVICE_UNAVAILABLE, "no_candidate", message, details));
        }
    };
    let node = state.store.node(place.node_id.as_str()).await?;
    let mut answer = AssignedJson {
        task_id: None,
        assigned_node: place.node_id.clone(),
        assigned_hostname: node.map(|node| node.identity.hostname).unwrap_or_default(),
        node_load_score: place.score,
        reasons: place.reasons,
        success: true,
    };
    if is_placement_only {
        return Ok(Json(answer).into_response());
    }
    let ask = TaskAsk { assigned_node: Some(place.node_id.to_string()), ..ask };
    let task = add_all(&state, &person, vec![ask]).await?.remove(0);
    answer.task_id = Some(task.task_id);
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// The node where a task would go now.
pub(crate) async fn place(state: &State, mut ask: TaskAsk) -> Result<Result<Place, Vec<Refused>>, ApiError> {
    if ask.task_data.is_null() {
        // Which node is asked, not what for: anything that fits the kind will do.
        ask.task_data = match ask.task_type.as_str() {
            "http" | "probe" => json!({"url": "http://localhost/"}),
            "fetch" => json!({"url": "http://localhost/", "path": "/tmp/x"}),
            "ssh" => json!({"host": "localhost", "command": "true"}),
            _ => json!("true"),
        };
        if matches!(ask.task_type.as_str(), "script" | "python" | "git" | "test" | "build" | "deploy") {
            ask.task_data = json!({"script": "true"});
        }
    }
    if let Some(node) = ask.assigned_node.take().filter(|node| !node.is_empty()) {
        ask.assigned_node = Some(find_node(state, &node).await?.to_string());
    }
    (ask.depends_on, ask.idempotency_key) = (Vec::new(), None);
    let class = Class::of(&order::alone(ask).map_err(refused)?);
    Ok(state.desk.board().await?.place(&class.wish()))
}
