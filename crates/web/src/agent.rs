//! What a machine without a dashboard serves: its health, the door for links, and the way to be adopted.

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use caelum_model::id::NodeId;
use caelum_roles::enrol::Newcomer;
use serde_json::json;

use crate::{
    cluster::{self, Door},
    cluster_adopt,
};

/// All routes of such a machine.
pub fn router(node_id: NodeId, role: &'static str, door: Door, newcomer: Arc<Newcomer>) -> Router {
    let health = json!({
        "status": "healthy", "node_id": node_id, "role": role, "version": env!("CARGO_PKG_VERSION"),
    });
    Router::new()
        .route("/health", get(async move || Json(health.clone())))
        .merge(cluster_adopt::router(newcomer))
        .merge(cluster::router(door))
}
