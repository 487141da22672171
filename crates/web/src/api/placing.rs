//! Where work would go, and how it is spread. Who is chosen is `engine::placement`'s word.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Query, rejection::JsonRejection},
};
use caelum_engine::{
    placement::{Board, Candidate, Move, Wish},
    task::{TaskEvent, queue::Class},
};
use caelum_model::{
    access::Role,
    cluster::Ceiling,
    id::{NodeId, TaskId},
    node::{Level, Node, NodeSetting},
    task::TaskState,
    wire::ErrorJson,
};
use caelum_store::{NodeTasks, TaskQuery, TaskStep};
use serde::{Deserialize, Serialize};

use super::nodes::{self, NodeJson, NodeStatus};
use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Nodes that are recommended unless asked for another number.
const COUNT_DEFAULT: usize = 3;
/// Most nodes that are recommended.
const COUNT_MAX: usize = 100;

/// What the work asks for.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RecommendQuery {
    /// How many nodes; 3 unless given.
    count: Option<usize>,
    /// Words that the node must have, with commas between them.
    capabilities: Option<String>,
    /// `healthy` or `warning`, the worst that it may be; `warning` unless given.
    min_health: Option<String>,
    /// What the node must let others do: `observe`, `tasks` or `shell`; `tasks` unless given.
    ceiling: Option<String>,
}

/// A node that fits, and why.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RecommendedJson {
    #[serde(flatten)]
    node: NodeJson,
    /// Lower is better.
    load_score: f64,
    active_tasks: u32,
    /// The parts of the score, as sentences.
    reasons: Vec<String>,
}

/// A node that does not fit, and why.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RefusedJson {
    node_id: NodeId,
    name: String,
    because: String,
}

/// The nodes that fit best.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RecommendationsJson {
    /// Best first.
    recommendations: Vec<RecommendedJson>,
    /// How many would fit.
    total_available: usize,
    /// Those that do not.
    refused: Vec<RefusedJson>,
}

/// The best nodes for a piece of work, and why the others are not.
#[utoipa::path(get, path = "/api/nodes/recommend", tag = "nodes", params(RecommendQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = RecommendationsJson), (status = 400, body = ErrorJson)))]
pub async fn recommend(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<RecommendQuery>,
) -> Result<Json<RecommendationsJson>, ApiError> {
    let words: Vec<String> = query
        .capabilities
        .iter()
        .flat_map(|list| list.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect();
    let may_warn = match query.min_health.as_deref() {
        None | Some("" | "warning") => true,
        Some("healthy") => false,
        Some(_) => return Err(ApiError::InvalidRequest("min_health is neither healthy nor warning".into())),
    };
    let ceiling = match query.ceiling.as_deref().filter(|text| !text.is_empty()) {
        None => Ceiling::Tasks,
        Some(text) => Ceiling::ALL
            .into_iter()
            .find(|ceiling| ceiling.as_str() == text)
            .ok_or_else(|| ApiError::InvalidRequest("ceiling is none of observe, tasks, shell".into()))?,
    };
    let sight = Sight::of(&state).await?;
    let wish = Wish { words: &words, node: None, ceiling };
    let fits = |candidate: &&Candidate| may_warn || candidate.level != Some(Level::Warning);
    let (open, poor): (Vec<&Candidate>, Vec<&Candidate>) = sight.candidates.iter().partition(fits);
    let board = Board::new(open.into_iter().cloned().collect());
    let count = query.count.unwrap_or(COUNT_DEFAULT).clamp(1, COUNT_MAX);
    let ranked = board.rank(&wish, sight.candidates.len());
    let total_available = ranked.len();
    let recommendations = ranked
        .into_iter()
        .take(count)
        .filter_map(|place| {
            Some(RecommendedJson {
                node: sight.json(&place.node_id)?,
                load_score: place.score,
                active_tasks: sight.tasks(&place.node_id),
                reasons: place.reasons,
            })
        })
        .collect();
    let refused =
        board.candidates().iter().filter_map(|candidate| Some((candidate, candidate.refusal(&wish)?)));
    let poor = poor.into_iter().map(|candidate| (candidate, "it is in warning".to_owned()));
    let refused = refused
        .chain(poor)
        .map(|(candidate, because)| RefusedJson {
            node_id: candidate.node_id.clone(),
            name: sight.name(&candidate.node_id),
            because,
        })
        .collect();
    Ok(Json(RecommendationsJson { recommendations, total_available, refused }))
}

/// What a node has to do.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ShareJson {
    node_id: NodeId,
    hostname: String,
    role: String,
    status: NodeStatus,
    cpu_usage: Option<f64>,
    memory_usage: Option<f64>,
    health_status: Level,
    pending_tasks: u32,
    running_tasks: u32,
    active_workers: u32,
}

/// How work is spread.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SpreadJson {
    total_pending: u32,
    total_running: u32,
    online_nodes: usize,
    avg_tasks_per_node: f64,
    /// The most that a node has over the mean; 1 is even, null where nobody has any.
    imbalance_ratio: Option<f64>,
    is_balanced: bool,
}

/// How work is spread over the nodes.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DistributionJson {
    distribution: Vec<ShareJson>,
    summary: SpreadJson,
}

/// From here on the spread is not even.
const BALANCED_MAX: f64 = 1.5;

/// How work is spread over the nodes.
#[utoipa::path(get, path = "/api/nodes/distribution", tag = "nodes", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = DistributionJson)))]
pub async fn distribution(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<DistributionJson>, ApiError> {
    let sight = Sight::of(&state).await?;
    let distribution: Vec<ShareJson> = sight
        .candidates
        .iter()
        .filter_map(|candidate| {
            let node = sight.json(&candidate.node_id)?;
            let count = |of: fn(&NodeTasks) -> u64| {
                let found = sight.counts.iter().find(|count| count.node_id == candidate.node_id);
                found.map_or(0, |found| u32::try_from(of(found)).unwrap_or(u32::MAX))
            };
            Some(ShareJson {
                health_status: candidate.level.unwrap_or(Level::Healthy),
                node_id: node.node_id,
                hostname: node.hostname,
                role: node.role,
                status: node.status,
                cpu_usage: node.cpu_usage,
                memory_usage: node.memory_usage,
                pending_tasks: count(|count| count.queued),
                running_tasks: count(|count| count.leased + count.running),
                active_workers: u32::from(candidate.ceiling >= Ceiling::Tasks),
            })
        })
        .collect();
    let online: Vec<u32> = distribution
        .iter()
        .filter(|share| share.health_status != Level::Offline)
        .map(|share| share.pending_tasks + share.running_tasks)
        .collect();
    Ok(Json(DistributionJson { summary: spread(&distribution, &online), distribution }))
}

fn spread(shares: &[ShareJson], online: &[u32]) -> SpreadJson {
    let mean = if online.is_empty() {
        0.0
    } else {
        online.iter().map(|tasks| f64::from(*tasks)).sum::<f64>() / online.len() as f64
    };
    let most = online.iter().copied().max().unwrap_or(0);
    let imbalance_ratio = (mean > 0.0).then(|| f64::from(most) / mean);
    SpreadJson {
        total_pending: shares.iter().map(|share| share.pending_tasks).sum(),
        total_running: shares.iter().map(|share| share.running_tasks).sum(),
        online_nodes: online.len(),
        avg_tasks_per_node: mean,
        imbalance_ratio,
        // A task more or less is no imbalance.
        is_balanced: imbalance_ratio
            .is_none_or(|ratio| ratio <= BALANCED_MAX || f64::from(most) - mean <= 1.0),
    }
}

/// Nodes, what is said about them, and how they stand as places for work.
struct Sight<'a> {
    state: &'a State,
    candidates: Vec<Candidate>,
    counts: Vec<NodeTasks>,
    nodes: HashMap<NodeId, Node>,
    settings: HashMap<NodeId, NodeSetting>,
}

impl<'a> Sight<'a> {
    async fn of(state: &'a State) -> Result<Self, ApiError> {
        let candidates = state.desk.board().await?.candidates().to_vec();
        let counts = state.store.task_counts().await?.by_node;
        let nodes = state.store.nodes().await?;
        let nodes = nodes.into_iter().map(|node| (node.node_id.clone(), node)).collect();
        Ok(Self { state, candidates, counts, nodes, settings: nodes::settings(state).await? })
    }

    fn json(&self, node_id: &NodeId) -> Option<NodeJson> {
        let node = self.nodes.get(node_id)?;
        let usual = NodeSetting::usual(node_id.clone());
        let setting = self.settings.get(node_id).unwrap_or(&usual);
        let state = self.state;
        Some(NodeJson::of(node, setting, &state.roster(), state.now_ms(), &state.thresholds()))
    }

    fn name(&self, node_id: &NodeId) -> String {
        self.nodes.get(node_id).map_or_else(String::new, |node| node.name.clone())
    }

    fn tasks(&self, node_id: &NodeId) -> u32 {
        let found = self.candidates.iter().find(|candidate| candidate.node_id == *node_id);
        found.map_or(0, |candidate| candidate.tasks)
    }
}

/// Whether only to say what would be done.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct RebalanceJson {
    dry_run: bool,
}

/// A task that goes to another node.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MoveJson {
    task_id: TaskId,
    from: NodeId,
    /// Why it cannot stay.
    because: String,
    /// Where it goes; null where no node can do it.
    to: Option<NodeId>,
    /// Why there.
    reasons: Vec<String>,
    /// Whether it is done: false in a dry run, and where the task was begun or called off meanwhile.
    moved: bool,
}

/// What was moved, or would be.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RebalancedJson {
    dry_run: bool,
    moves: Vec<MoveJson>,
}

/// Most tasks that are looked at in one rebalance.
const REBALANCED_MAX: usize = 1_000;

/// Moves tasks that wait for a node which is offline, critical, draining or no longer there. What runs stays.
#[utoipa::path(post, path = "/api/nodes/rebalance", tag = "nodes", request_body = RebalanceJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = RebalancedJson), (status = 403, body = ErrorJson)))]
pub async fn rebalance(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<RebalanceJson>, JsonRejection>,
) -> Result<Json<RebalancedJson>, ApiError> {
    person.require(Role::Operator)?;
    let dry_run = match body {
        Ok(Json(wish)) => wish.dry_run,
        Err(JsonRejection::MissingJsonContentType(_)) => false,
        Err(error) => return Err(ApiError::InvalidRequest(error.body_text())),
    };
    let query = TaskQuery { status: vec![TaskState::Queued], limit: REBALANCED_MAX, ..TaskQuery::default() };
    let waiting = state.store.tasks(query).await?;
    let classes: Vec<(TaskId, Class)> =
        waiting.into_iter().map(|task| (task.task_id.clone(), Class::of(&task.order))).collect();
    let mut board = state.desk.board().await?;
    let moves = board.rebalance(classes.iter().map(|(task_id, class)| (task_id.clone(), class.wish())));
    let mut done = std::collections::HashSet::new();
    if !dry_run {
        let steps = moves.iter().filter_map(|step: &Move<TaskId>| {
            let node_id = step.to.as_ref()?.node_id.clone();
            Some(TaskStep { task_id: step.work.clone(), event: TaskEvent::Assigned { node_id } })
        });
        let moved = state.desk.step(steps.collect()).await?;
        done.extend(moved.into_iter().flatten().map(|task| task.task_id));
        auth::record(&state, &person.name, "tasks.rebalance", &format!("{} tasks", done.len()), "done").await;
    }
    let moves = moves
        .into_iter()
        .map(|step| MoveJson {
            moved: done.contains(&step.work),
            task_id: step.work,
            from: step.from,
            because: step.because,
            to: step.to.as_ref().map(|place| place.node_id.clone()),
            reasons: step.to.map_or_else(Vec::new, |place| place.reasons),
        })
        .collect();
    Ok(Json(RebalancedJson { dry_run, moves }))
}
