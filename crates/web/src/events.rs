//! `POST /events`: the way in for measurements.
//!
//! The order is what protects the server: token first, then size, then decompression with a limit, then
//! parsing, then the role. Answers are those of `docs/events.md`.

use std::{
    collections::HashMap,
    io::Read,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use caelum_drivers::clock::Clock;
use caelum_engine::intake::Bucket;
use caelum_model::{UnixMs, access::ClientBinding, cluster::NodePass, wire::AcceptedJson};
use caelum_roles::{
    ingest::{Ingest, IngestError, Outcome, body, body::Shape},
    orders,
};
use caelum_store::Store;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::{
    auth,
    error::{ApiError, Cause},
    serve::Transport,
};

/// Addresses whose rate is remembered.
const ADDRESSES_MAX: usize = 10_000;

/// Most bytes that are set aside for a body because its sender announces as many.
const ANNOUNCED_MAX: usize = 1 << 20;

/// What the way in stands on.
pub struct Gate {
    /// The role.
    pub ingest: Arc<Ingest>,
    /// Where tokens are.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The numbers.
    pub limits: Limits,
    requests: Mutex<HashMap<IpAddr, Bucket>>,
}

/// Limits that hold before a body is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest body after decompression, bytes.
    pub body_bytes_max: usize,
    /// Requests a second from one address for long; twice as many at once. 0 means no limit.
    pub requests_per_s: u32,
}

impl Gate {
    /// A gate in front of an ingest.
    pub fn new(ingest: Arc<Ingest>, store: Arc<Store>, clock: Arc<dyn Clock>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { ingest, store, clock, limits, requests: Mutex::default() })
    }

    /// Lets a request from an address through, or says when to come back.
    fn admit(&self, address: IpAddr, now_ms: UnixMs) -> Result<(), ApiError> {
        let rate = self.limits.requests_per_s;
        if rate == 0 {
            return Ok(());
        }
        let burst = rate.saturating_mul(2);
        let mut requests = self.requests.lock().expect("no code panics while it holds this lock");
        if requests.len() >= ADDRESSES_MAX && !requests.contains_key(&address) {
            // Full buckets say nothing that a new one would not.
            requests.clear();
        }
        let bucket = requests.entry(address).or_insert_with(|| Bucket::full(burst, now_ms));
        bucket.take(1, rate, burst, now_ms).map_err(|retry_after_ms| ApiError::RateLimited { retry_after_ms })
    }
}

/// `/events` under both of its names.
pub fn router<S: Clone + Send + Sync + 'static>(gate: Arc<Gate>) -> Router<S> {
    let only_post = || post(accept).fallback(async || ApiError::MethodNotAllowed);
    Router::new().route("/events", only_post()).route("/api/v1/events", only_post()).with_state(gate)
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
    extract::State(gate): extract::State<Arc<Gate>>,
    transport: Option<extract::Extension<Transport>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let now_ms = gate.clock.now_ms();
    let mut node = None;
    if let Some(extract::Extension(transport)) = transport {
        gate.admit(transport.peer.ip(), now_ms)?;
        node = transport.node;
    }
    let (sender, binding) = match node {
        Some(pass) => sender_of_node(&gate.store, &pass).await?,
        None => sender_of_token(&gate.store, &headers, now_ms).await?,
    };
    let limit_bytes = gate.limits.body_bytes_max;
    let plain = decompress(&headers, read(&headers, body, limit_bytes).await?, limit_bytes)?;
    let (shape, events) = body::parse(&plain, is_ndjson(&headers))
        .map_err(|error| ApiError::InvalidRequest(error.to_string()))?;
    let mut single = None;
    if shape == Shape::Single {
        events.each(|_, event| single = event.ok().map(|event| event.event_id.to_string()));
    }
    let outcome = gate.ingest.accept(&sender, &binding, &events).await.map_err(|error| match error {
        IngestError::RateLimited { retry_after_ms } => ApiError::RateLimited { retry_after_ms },
        IngestError::Overloaded { reason, retry_after_ms } => ApiError::Overloaded { reason, retry_after_ms },
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

/// A machine of the cluster speaks for the probe that it is, and no other.
async fn sender_of_node(store: &Store, pass: &NodePass) -> Result<(String, ClientBinding), ApiError> {
    let Some(client_id) = orders::client_id_of(store, &pass.node_id).await? else {
        let reason = "this machine has not asked what to measure; it has no name in events";
        return Err(ApiError::ForbiddenBecause("forbidden_client", reason.to_owned()));
    };
    Ok((pass.node_id.to_string(), ClientBinding::One(client_id)))
}

async fn sender_of_token(
    store: &Store,
    headers: &HeaderMap,
    now_ms: UnixMs,
) -> Result<(String, ClientBinding), ApiError> {
    let Some(secret) = auth::bearer(headers) else {
        return Err(ApiError::Unauthorized("send the probe's token as `Authorization: Bearer …`"));
    };
    let Some(token) = auth::live_token(secret, store, now_ms).await? else {
        return Err(ApiError::Unauthorized("the token is unknown, expired or revoked"));
    };
    if !auth::may_ingest(&token) {
        return Err(ApiError::ForbiddenBecause("forbidden", "the token has no scope `ingest`".into()));
    }
    Ok((token.token_id, token.binding))
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

/// The whole body. Its pieces are let go of as they come, so that the connection reads into the same memory again.
async fn read(headers: &HeaderMap, body: Body, limit_bytes: usize) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Limited::new(body, limit_bytes);
    let mut whole = Vec::with_capacity(announced.unwrap_or(0).min(ANNOUNCED_MAX).min(limit_bytes));
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => frame.data_ref().into_iter().for_each(|data| whole.extend_from_slice(data)),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(ApiError::PayloadTooLarge { limit_bytes });
            }
            Err(error) => {
                return Err(ApiError::InvalidRequest(format!("the body did not arrive whole: {error}")));
            }
        }
    }
    Ok(whole.into())
}

/// Undoes the content encoding, never into more than the limit.
fn decompress(headers: &HeaderMap, body: Bytes, limit_bytes: usize) -> Result<Bytes, ApiError> {
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

fn inflate(reader: impl Read, name: &str, limit_bytes: usize) -> Result<Bytes, ApiError> {
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
