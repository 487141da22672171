//! Where work would go, and how it is spread. Who is chosen is `engine::placement`'s word.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{self, Query},
};
use caelum_engine::placement::{Board, Candidate, Wish};
use caelum_model::{
    cluster::Ceiling,
    id::NodeId,
    node::{Level, Node, NodeSetting},
    wire::ErrorJson,
};
use caelum_roles::candidates::candidates;
use serde::{Deserialize, Serialize};

use super::nodes::{self, NodeJson, NodeStatus};
use crate::{auth::Person, error::ApiError, state::State};

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
            Some(ShareJson {
                health_status: candidate.level.unwrap_or(Level::Healthy),
                node_id: node.node_id,
                hostname: node.hostname,
                role: node.role,
                status: node.status,
                cpu_usage: node.cpu_usage,
                memory_usage: node.memory_usage,
                pending_tasks: 0,
                running_tasks: candidate.tasks,
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
    nodes: HashMap<NodeId, Node>,
    settings: HashMap<NodeId, NodeSetting>,
}

impl<'a> Sight<'a> {
    async fn of(state: &'a State) -> Result<Self, ApiError> {
        let (roster, thresholds) = (state.roster(), state.thresholds());
        let candidates = candidates(&state.store, &roster, &thresholds, state.now_ms()).await?;
        let nodes = state.store.nodes().await?;
        let nodes = nodes.into_iter().map(|node| (node.node_id.clone(), node)).collect();
        Ok(Self { state, candidates, nodes, settings: nodes::settings(state).await? })
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
