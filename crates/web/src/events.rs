//! `POST /events`: the way in for measurements.
//!
//! The order is what protects the server: token first, then size, then decompression with a limit, then
//! parsing, then the role. Answers are those of `docs/events.md`.

use std::{io::Read, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use caelum_model::wire::AcceptedJson;
use caelum_roles::ingest::{IngestError, Outcome, body, body::Shape};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::{
    auth,
    error::{ApiError, Cause},
    state::State,
};

/// `/events` under both of its names.
pub fn router() -> Router<Arc<State>> {
    let only_post = || post(accept).fallback(async || ApiError::MethodNotAllowed);
    Router::new().route("/events", only_post()).route("/api/v1/events", only_post())
}

/// Takes in one event, an array, or one a line.
#[utoipa::path(
    post, path = "/events", tag = "network", security(("token" = ["ingest"])),
    request_body(
        content((caelum_model::wire::EventJson<'static> = "application/json"),
            (String = "application/x-ndjson")),
        description = "One event, an array of events, or one event a line; gzip and zstd are understood"),
    responses(
        (status = 202, description = "What is counted here is durable", body = AcceptedJson),
        (status = 400, description = "Nothing in it could be taken", body = caelum_model::wire::ErrorJson),
        (status = 401, description = "No token, or one that is not in force", body = caelum_model::wire::ErrorJson),
        (status = 403, description = "The token may not speak for this probe", body = caelum_model::wire::ErrorJson),
        (status = 413, description = "Too large", body = caelum_model::wire::ErrorJson),
        (status = 429, description = "Too fast; see Retry-After", body = caelum_model::wire::ErrorJson),
        (status = 503, description = "Too busy; see Retry-After", body = caelum_model::wire::ErrorJson)))]
pub async fn accept(
    extract::State(state): extract::State<Arc<State>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Some(secret) = auth::bearer(&headers) else {
        return Err(ApiError::Unauthorized("send the probe's token as `Authorization: Bearer …`"));
    };
    let Some(token) = auth::live_token(secret, &state).await? else {
        return Err(ApiError::Unauthorized("the token is unknown, expired or revoked"));
    };
    if !auth::may_ingest(&token) {
        return Err(ApiError::ForbiddenBecause("forbidden", "the token has no scope `ingest`".into()));
    }
    let limit_bytes = state.settings.events_body_bytes_max;
    let plain = decompress(&headers, read(body, limit_bytes).await?, limit_bytes)?;
    let (shape, parsed) = body::parse(&plain, is_ndjson(&headers))
        .map_err(|error| ApiError::InvalidRequest(error.to_string()))?;
    let single = match (shape, &parsed[..]) {
        (Shape::Single, [Ok(event)]) => Some(event.event_id.to_string()),
        _ => None,
    };
    let outcome =
        state.ingest.accept(&token.token_id, &token.binding, &parsed).await.map_err(|error| match error {
            IngestError::RateLimited { retry_after_ms } => ApiError::RateLimited { retry_after_ms },
            IngestError::Overloaded { reason, retry_after_ms } => {
                ApiError::Overloaded { reason, retry_after_ms }
            }
            IngestError::Queue(cause) => {
                tracing::error!(
                    code = "ingest.not_confirmed",
                    cause = Cause::from(cause).0,
                    "the queue did not confirm; the sender is told to try again"
                );
                ApiError::Overloaded { reason: "the queue did not confirm".into(), retry_after_ms: 1_000 }
            }
        })?;
    Ok(answer(outcome, single))
}

fn answer(outcome: Outcome, event_id: Option<String>) -> Response {
    if outcome.accepted == 0
        && let Some(first) = outcome.rejected.first()
    {
        let details = serde_json::json!({ "rejected": outcome.rejected });
        let (status, code) = match first.code.as_str() {
            "forbidden_client" => (StatusCode::FORBIDDEN, "forbidden_client"),
            _ => (StatusCode::BAD_REQUEST, first.code.as_str()),
        };
        return crate::error::refusal(status, code, first.message.clone(), details);
    }
    let body = AcceptedJson {
        status: "accepted".into(),
        accepted: outcome.accepted,
        duplicate: outcome.duplicate,
        ack_through: outcome.ack_through,
        event_id,
        rejected: outcome.rejected,
    };
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

async fn read(body: Body, limit_bytes: usize) -> Result<bytes::Bytes, ApiError> {
    match Limited::new(body, limit_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::PayloadTooLarge { limit_bytes }),
        Err(error) => Err(ApiError::InvalidRequest(format!("the body did not arrive whole: {error}"))),
    }
}

/// Undoes the content encoding, never into more than the limit.
fn decompress(headers: &HeaderMap, body: bytes::Bytes, limit_bytes: usize) -> Result<bytes::Bytes, ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    match encoding {
        None | Some("identity" | "") => Ok(body),
        Some("gzip") => inflate(flate2::read::MultiGzDecoder::new(&body[..]), "gzip", limit_bytes),
        Some("zstd") => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&body[..])
                .map_err(|error| ApiError::Internal(Cause::from(error)))?;
            inflate(decoder, "zstd", limit_bytes)
        }
        Some(other) => Err(ApiError::UnsupportedMediaType(format!(
            "the content encoding {other:?} is not understood; use gzip, zstd or none"
        ))),
    }
}

fn inflate(reader: impl Read, name: &str, limit_bytes: usize) -> Result<bytes::Bytes, ApiError> {
    let mut plain = Vec::new();
    reader
        .take(limit_bytes as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|_| ApiError::InvalidRequest(format!("the body is not a whole {name} stream")))?;
    if plain.len() > limit_bytes {
        return Err(ApiError::PayloadTooLarge { limit_bytes });
    }
    Ok(plain.into())
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.starts_with("application/x-ndjson") || value.starts_with("application/jsonl")
    })
}
