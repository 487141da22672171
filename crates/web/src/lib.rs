//! Everything HTTP: the API, `/events`, the dashboard, and the listener that tells TLS from plain text.
//!
//! Reading order: [`state`] is what every route stands on, [`serve`] the listener, [`auth`] who is asking,
//! [`error`] how refusals look, [`events`] the way in for measurements, [`api`] the rest for programs,
//! [`mcp`] the same for assistants, and [`pages`] for people. Routes translate; decisions are the engine's.

pub mod agent;
pub mod alone;
pub mod api;
pub mod auth;
pub mod cluster;
pub mod cluster_adopt;
pub mod error;
pub mod events;
pub mod exposition;
pub mod guard;
mod mcp;
pub mod pages;
pub mod serve;
pub mod state;
pub mod topology;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer};

pub use state::State;

/// Largest body of a request that is not `/events`.
const BODY_BYTES_MAX: usize = 256 << 10;

/// The way in for events and nothing else, for a process that only takes them in.
pub fn only_events(events: Router) -> Router {
    events
        .fallback(error::not_found)
        .layer(middleware::from_fn(guard::security_headers))
        .layer(CatchPanicLayer::custom(error::panicked))
}

/// All routes over a state.
pub fn app(state: Arc<State>) -> Router {
    let (api, _) = api::router();
    let mcp = mcp::route(&state, api.clone().with_state(Arc::clone(&state)));
    Router::new()
        .merge(api)
        .merge(pages::router())
        .route("/mcp", mcp)
        .fallback(pages::not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(events::router(Arc::clone(&state.gate)))
        .layer(middleware::from_fn(guard::same_origin))
        .layer(middleware::from_fn(guard::security_headers))
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::custom(error::panicked))
        .with_state(state)
}
