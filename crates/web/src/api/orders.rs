//! What a probe is to measure, for the probe itself.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Extension, Json,
    extract::{self, Query},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use caelum_model::{access::ClientBinding, id::ClientId, probe::ProbeOrders, wire::ErrorJson};
use caelum_roles::orders::Asker;
use serde::Deserialize;

use crate::{auth, error::ApiError, serve::Transport, state::State};

/// Longest host name that is taken in, bytes.
const HOSTNAME_MAX: usize = 255;
/// Most addresses of a machine.
const ADDRESSES_MAX: usize = 32;

/// How a probe asks.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct OrdersQuery {
    /// Name of the host, for a machine of the cluster.
    hostname: Option<String>,
    /// Its addresses, with commas between them: others let their reflectors answer these.
    addresses: Option<String>,
    /// UDP port of its STAMP reflector, for a machine that has one.
    reflector: Option<u16>,
    /// The revision that it has: the answer waits for another one, at most 25 s.
    has: Option<String>,
}

/// What this probe is to measure.
///
/// A machine of the cluster shows its certificate; any other probe the ingest token that is bound to it.
#[utoipa::path(get, path = "/api/orders", tag = "network", params(OrdersQuery), security(("token" = ["ingest"])),
    responses((status = 200, body = ProbeOrders),
        (status = 204, description = "Still what the revision stands for"),
        (status = 401, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn orders(
    extract::State(state): extract::State<Arc<State>>,
    Extension(transport): Extension<Transport>,
    Query(query): Query<OrdersQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let has = query.has.as_deref();
    let given = async {
        match &transport.node {
            Some(pass) => {
                let address = transport.peer.ip().to_canonical();
                let asker = Asker {
                    node_id: pass.node_id.clone(),
                    hostname: hostname(query.hostname.as_deref(), pass.node_id.as_str())?,
                    client_id: None,
                    addresses: addresses(query.addresses.as_deref(), address),
                    reflector: query.reflector.map(|port| SocketAddr::new(address, port)),
                };
                state.orders.of_machine(&asker, has).await.map_err(ApiError::from)
            }
            None => {
                let client_id = probe_of(&headers, &state).await?;
                state.orders.of_probe(&client_id, has).await.map_err(ApiError::from)
            }
        }
    };
    let orders: Option<ProbeOrders> = tokio::select! {
        given = given => given?,
        () = state.stop.cancelled() => None,
    };
    Ok(match orders {
        Some(orders) => Json(orders).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// What can be read of a list of addresses, and the one that the machine asks from.
fn addresses(given: Option<&str>, from: IpAddr) -> Vec<IpAddr> {
    let listed = given.unwrap_or_default().split(',').filter_map(|text| text.trim().parse().ok());
    std::iter::once(from).chain(listed).take(ADDRESSES_MAX).collect()
}

fn hostname(given: Option<&str>, node_id: &str) -> Result<String, ApiError> {
    let name = given.filter(|name| !name.is_empty()).unwrap_or(node_id);
    if name.len() > HOSTNAME_MAX || name.chars().any(char::is_control) {
        return Err(ApiError::InvalidRequest(format!(
            "hostname is longer than {HOSTNAME_MAX} bytes or contains a control character"
        )));
    }
    Ok(name.to_owned())
}

/// The probe that an ingest token is bound to.
async fn probe_of(headers: &HeaderMap, state: &State) -> Result<ClientId, ApiError> {
    let Some(secret) = auth::bearer(headers) else {
        return Err(ApiError::Unauthorized("send the probe's token as `Authorization: Bearer …`"));
    };
    let Some(token) = auth::live_token(secret, &state.store, state.now_ms()).await? else {
        return Err(ApiError::Unauthorized("the token is unknown, expired or revoked"));
    };
    match &token.binding {
        ClientBinding::One(client_id) if auth::may_ingest(&token) => Ok(client_id.clone()),
        _ => Err(ApiError::ForbiddenBecause(
            "forbidden",
            "orders are for a probe: the token is bound to none, or has no scope `ingest`".into(),
        )),
    }
}
