//! The way in for links: a WebSocket at `/cluster`, handed on as soon as it is one.
//!
//! Nodes are known by the certificate of their connection; strangers are let in only where the settings say
//! so, and only a few at once. What is said over a link is not looked at here.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header},
    response::{IntoResponse, Response},
    routing::any,
};
use caelum_drivers::link::{self, Link};
use caelum_model::envelope::LINK_PATH;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::{
    error::{ApiError, refusal},
    serve::Transport,
};

/// Links of nodes at once, and of strangers.
const NODES_MAX: usize = 4096;
const STRANGERS_MAX: usize = 64;
/// When to try again where there is no room, ms.
const RETRY_AFTER_MS: i64 = 30_000;

/// Where links come in.
#[derive(Clone, Debug)]
pub struct Door {
    links: mpsc::Sender<Link>,
    is_open: bool,
    nodes: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Door {
    /// A door that hands links on; strangers come in only where it is open.
    pub fn new(links: mpsc::Sender<Link>, is_open: bool) -> Self {
        Self {
            links,
            is_open,
            nodes: Arc::new(Semaphore::new(NODES_MAX)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        }
    }
}

/// The one route. It needs nothing of the rest of the HTTP side, and should be merged after its layers: an
/// upgrade is nothing to compress.
pub fn router<S: Clone + Send + Sync + 'static>(door: Door) -> Router<S> {
    Router::new().route(LINK_PATH, any(open).with_state(door))
}

/// Leads a WebSocket that is asked for at the root to the path of links: the first programs dial without a
/// path, and nothing else here is a WebSocket.
pub(crate) fn lead_in(request: &mut http::Request<Incoming>) {
    if request.uri().path() == "/" && names(request.headers(), &header::UPGRADE, "websocket") {
        *request.uri_mut() = Uri::from_static(LINK_PATH);
    }
}

async fn open(
    State(door): State<Door>,
    transport: Option<Extension<Transport>>,
    mut request: axum::extract::Request,
) -> Response {
    let Some(Extension(transport)) = transport else {
        return ApiError::InvalidRequest("it is not known where this comes from".to_owned()).into_response();
    };
    let accept = match handshake(&request) {
        Ok(accept) => accept,
        Err(refused) => return *refused,
    };
    if transport.node.is_none() && !door.is_open {
        let reason = "links need a certificate of this cluster; `cluster.open = true` lets strangers in";
        return ApiError::ForbiddenBecause("not_a_node", reason.to_owned()).into_response();
    }
    let places = if transport.node.is_some() { &door.nodes } else { &door.strangers };
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        return full("there are too many links already");
    };
    if door.links.is_closed() {
        return full("this process takes no links now");
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => {
                let io = Counted { io: TokioIo::new(io), _place: place };
                let link = link::accepted(io, transport.peer, transport.node);
                // Where nobody takes links any more, dropping this one closes it.
                drop(door.links.send(link).await);
            }
            Err(error) => {
                let peer = transport.peer;
                tracing::debug!(code = "web.upgrade_failed", %peer, %error, "a link was not opened");
            }
        }
    });
    let headers = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Checks the opening handshake (RFC 6455, section 4.2.1) and answers what proves that it was understood.
fn handshake(request: &axum::extract::Request) -> Result<HeaderValue, Box<Response>> {
    let headers = request.headers();
    let is_upgrade = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && names(headers, &header::UPGRADE, "websocket")
        && names(headers, &header::CONNECTION, "upgrade")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if !is_upgrade {
        let message = "links are WebSockets (version 13) over HTTP/1.1".to_owned();
        let mut response =
            refusal(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message, serde_json::Value::Null);
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if request.version() == Version::HTTP_11 {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        return Err(Box::new(response));
    }
    if headers.contains_key(header::ORIGIN) {
        // Only browsers send one: a page of any site could otherwise speak in the name of who looks at it.
        let reason = "links are not for web pages".to_owned();
        return Err(Box::new(ApiError::ForbiddenBecause("cross_origin", reason).into_response()));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    key.and_then(|key| HeaderValue::try_from(link::accept_key(key)).ok()).ok_or_else(|| {
        let message = "Sec-WebSocket-Key is missing".to_owned();
        Box::new(ApiError::InvalidRequest(message).into_response())
    })
}

fn names(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}

fn full(reason: &str) -> Response {
    ApiError::Overloaded { reason: reason.to_owned(), retry_after_ms: RETRY_AFTER_MS }.into_response()
}

/// A connection that keeps its place until it is gone.
struct Counted<T> {
    io: T,
    _place: OwnedSemaphorePermit,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
