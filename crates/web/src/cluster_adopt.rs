//! The way in for offers to be adopted, on a machine that is no node yet.
//!
//! It has no API and no people; whoever knows the code that it shows may make it a node. What an offer must
//! prove is said by `roles::enrol`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{self, DefaultBodyLimit, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use caelum_engine::enrol::CodeRefusal;
use caelum_model::join::{ADOPT_PATH, AdoptionOffer};
use caelum_roles::enrol::{Newcomer, OfferRefusal};
use serde_json::{Value, json};

use crate::error::{ApiError, refusal};

/// Largest offer, bytes.
const OFFER_BYTES_MAX: usize = 4 << 10;

/// `POST /adopt`, to be served alone or merged into another router.
pub fn router(newcomer: Arc<Newcomer>) -> Router {
    Router::new()
        .route(ADOPT_PATH, post(offer))
        .layer(DefaultBodyLimit::max(OFFER_BYTES_MAX))
        .with_state(newcomer)
}

async fn offer(
    extract::State(newcomer): extract::State<Arc<Newcomer>>,
    offer: Result<Json<AdoptionOffer>, JsonRejection>,
) -> Response {
    let offer = match offer {
        Ok(Json(offer)) => offer,
        Err(error) => return ApiError::InvalidRequest(error.body_text()).into_response(),
    };
    let cluster = offer.cluster_id.clone();
    match newcomer.consider(offer).await {
        Ok(()) => {
            tracing::info!(
                code = "adopt.accepted",
                cluster,
                "somebody who knows the code adopts this machine"
            );
            (StatusCode::ACCEPTED, Json(json!({ "status": "joining" }))).into_response()
        }
        Err(refused) => {
            tracing::warn!(code = "adopt.refused", reason = %refused, "an offer to adopt this machine was refused");
            answer(&refused)
        }
    }
}

fn answer(refused: &OfferRefusal) -> Response {
    let status = match refused {
        OfferRefusal::Malformed(reason) => {
            return ApiError::InvalidRequest((*reason).to_owned()).into_response();
        }
        OfferRefusal::Code(CodeRefusal::TooSoon { wait_ms }) => {
            return ApiError::RateLimited { retry_after_ms: *wait_ms }.into_response();
        }
        OfferRefusal::WrongCode | OfferRefusal::Code(CodeRefusal::Over) => StatusCode::FORBIDDEN,
        OfferRefusal::Busy => StatusCode::CONFLICT,
    };
    refusal(status, refused.code(), refused.to_string(), Value::Null)
}
