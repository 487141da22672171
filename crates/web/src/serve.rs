//! The listener: one port for TLS and plain HTTP, told apart by the first byte.
//!
//! A TLS record that opens a connection starts with 0x16, a request line with a letter. Plain HTTP is answered
//! on loopback; from elsewhere it is led to HTTPS, unless the settings allow it or a stranger asks for a link.
//! Everything is bounded:
//! connections, the time to the first byte, to the end of the handshake, and to the end of the headers.
//!
//! TLS is of three kinds, told apart by the protocol that the client names (ALPN): nodes that link, machines
//! that join, and everybody else. The first two reach one path each.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use caelum_drivers::{link::watch_socket, tls::node_pass};
use caelum_model::{
    cluster::NodePass,
    envelope::{EVENTS_PATH, LINK_PATH, ORDERS_PATH},
    join::{ALPN_JOIN, ALPN_LINK, JOIN_PATH},
    work::{POLL_PATH, REPORT_PATH},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{cluster, error::ApiError};

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 4096;
/// Time to the first byte, and again to the end of a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Time to the end of a request's headers.
const HEADERS_MAX: Duration = Duration::from_secs(15);
/// Pause after the system refused to accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// First byte of a TLS handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How a request came in; an extension of each request.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Who is on the other end.
    pub peer: SocketAddr,
    /// Whether TLS protects it.
    pub is_tls: bool,
    /// The node whose certificate was shown; only on links.
    pub node: Option<NodePass>,
}

/// How TLS is spoken. Certificates are renewed while the listener runs, so it comes as something to look at
/// anew for each connection.
#[derive(Clone)]
pub struct Tls {
    /// For browsers and programs.
    pub public: Arc<rustls::ServerConfig>,
    /// For nodes that link; none where this process takes no links.
    pub link: Option<Arc<rustls::ServerConfig>>,
    /// For machines that join; none where this process admits nobody.
    pub join: Option<Arc<rustls::ServerConfig>>,
    /// Whether a node with a valid certificate is let in: asked for each connection, so that a revocation
    /// holds at once.
    pub admits: Arc<dyn Fn(&NodePass) -> bool + Send + Sync>,
}

impl Tls {
    /// No TLS at all: a handshake is answered with its end.
    pub fn none() -> Self {
        let nobody: Arc<dyn rustls::server::ResolvesServerCert> =
            Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(nobody);
        Self::public(config)
    }

    /// Only what browsers and programs use.
    pub fn public(config: rustls::ServerConfig) -> Self {
        Self { public: Arc::new(config), link: None, join: None, admits: Arc::new(|_| true) }
    }
}

/// What a TLS connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Public,
    Link,
    Join,
}

/// Answers on a listener until told to stop, then lets requests that are under way finish.
pub async fn run(
    listener: TcpListener,
    tls: watch::Receiver<Tls>,
    app: Router,
    allow_plaintext: bool,
    stop: CancellationToken,
    drain_max: Duration,
) {
    let server = Arc::new(Server {
        tls,
        link_app: app.clone().layer(axum::middleware::from_fn(only_nodes)),
        join_app: app.clone().layer(axum::middleware::from_fn(only_joins)),
        plain_app: app.clone().layer(axum::middleware::from_fn(only_strangers)),
        app,
        allow_plaintext,
    });
    let graceful = Arc::new(Connections::default());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (server, graceful, stop) = (Arc::clone(&server), Arc::clone(&graceful), stop.clone());
                tokio::spawn(async move {
                    server.answer(stream, peer, &graceful, &stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(code = "web.accept_failed", %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(drain_max, graceful.finish()).await.is_err() {
        tracing::info!(
            code = "web.drain_cut",
            "requests were still under way when the time to drain was over"
        );
    }
}

#[derive(Default)]
struct Connections {
    graceful: std::sync::Mutex<Option<GracefulShutdown>>,
}

impl Connections {
    fn watcher(&self) -> Option<hyper_util::server::graceful::Watcher> {
        let mut graceful = self.graceful.lock().expect("no code panics while it holds this lock");
        Some(graceful.get_or_insert_with(GracefulShutdown::new).watcher())
    }

    async fn finish(&self) {
        let graceful = self.graceful.lock().expect("no code panics while it holds this lock").take();
        if let Some(graceful) = graceful {
            graceful.shutdown().await;
        }
    }
}

struct Server {
    tls: watch::Receiver<Tls>,
    app: Router,
    link_app: Router,
    join_app: Router,
    plain_app: Router,
    allow_plaintext: bool,
}

impl Server {
    async fn answer(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        connections: &Connections,
        stop: &CancellationToken,
    ) {
        // Which connections become links is known only later, when the socket is out of reach. Small answers
        // go out at once.
        watch_socket(&stream);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let mut first = [0u8];
        let peeked = tokio::select! {
            () = stop.cancelled() => return,
            peeked = timeout(HANDSHAKE_MAX, stream.peek(&mut first)) => peeked,
        };
        if !matches!(peeked, Ok(Ok(1))) {
            return;
        }
        if first[0] == TLS_HANDSHAKE {
            match timeout(HANDSHAKE_MAX, self.shake(stream)).await {
                Ok(Ok((stream, purpose))) => self.serve_tls(stream, purpose, peer, connections).await,
                Ok(Err(error)) => {
                    tracing::debug!(code = "web.handshake_failed", %peer, %error, "a TLS handshake failed");
                }
                Err(_) => {
                    tracing::debug!(code = "web.handshake_slow", %peer, "a TLS handshake took too long")
                }
            }
            return;
        }
        let transport = Transport { peer, is_tls: false, node: None };
        let app = if self.allow_plaintext || peer.ip().is_loopback() {
            self.app.clone()
        } else {
            self.plain_app.clone()
        };
        self.serve(stream, app, transport, connections).await;
    }

    /// Chooses by the protocol that the client names, and shakes hands.
    async fn shake(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Purpose)> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let tls = self.tls.borrow().clone();
        let names = |wanted: &[u8]| {
            start.client_hello().alpn().is_some_and(|mut named| named.any(|name| name == wanted))
        };
        let (config, purpose) = match (tls.link, tls.join) {
            (Some(link), _) if names(ALPN_LINK) => (link, Purpose::Link),
            (_, Some(join)) if names(ALPN_JOIN) => (join, Purpose::Join),
            _ => (tls.public, Purpose::Public),
        };
        Ok((start.into_stream(config).await?, purpose))
    }

    async fn serve_tls(
        &self,
        stream: TlsStream<TcpStream>,
        purpose: Purpose,
        peer: SocketAddr,
        connections: &Connections,
    ) {
        let node = match purpose {
            Purpose::Link => match self.node_of(&stream) {
                Some(pass) => Some(pass),
                None => {
                    tracing::info!(code = "web.node_refused", %peer, "a node that is not admitted wanted a link");
                    let transport = Transport { peer, is_tls: true, node: None };
                    let app = Router::new().fallback(async || {
                        ApiError::ForbiddenBecause("node_revoked", "this node is not admitted".to_owned())
                    });
                    return self.serve(stream, app, transport, connections).await;
                }
            },
            Purpose::Join | Purpose::Public => None,
        };
        let app = match purpose {
            Purpose::Public => self.app.clone(),
            Purpose::Link => self.link_app.clone(),
            Purpose::Join => self.join_app.clone(),
        };
        self.serve(stream, app, Transport { peer, is_tls: true, node }, connections).await;
    }

    /// Whose certificate was shown, if that node is let in.
    fn node_of(&self, stream: &TlsStream<TcpStream>) -> Option<NodePass> {
        let certificates = stream.get_ref().1.peer_certificates()?;
        let pass = node_pass(certificates.first()?).ok()?;
        let admits = Arc::clone(&self.tls.borrow().admits);
        admits(&pass).then_some(pass)
    }

    async fn serve<S>(&self, stream: S, app: Router, transport: Transport, connections: &Connections)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = transport.peer;
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(transport.clone());
            cluster::lead_in(&mut request);
            app.clone().oneshot(request.map(Body::new))
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let Some(watcher) = connections.watcher() else { return };
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(code = "web.connection_ended", %peer, %error, "a connection ended early");
        }
    }
}

/// A node under its certificate reaches what nodes need, and nothing else.
async fn only_nodes(request: Request, next: Next) -> Response {
    only(&[LINK_PATH, EVENTS_PATH, ORDERS_PATH, POLL_PATH, REPORT_PATH], request, next).await
}

/// A machine that joins reaches the path of joining and no other.
async fn only_joins(request: Request, next: Next) -> Response {
    only(&[JOIN_PATH], request, next).await
}

async fn only(paths: &[&str], request: Request, next: Next) -> Response {
    if paths.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    crate::error::not_found().await.into_response()
}

/// Programs without certificates speak plain HTTP, and reach the path of links; whether they are let in is
/// decided there.
async fn only_strangers(request: Request, next: Next) -> Response {
    if request.uri().path() == LINK_PATH { next.run(request).await } else { lead_to_https(request).await }
}

/// Answers plain HTTP from elsewhere: the same place, by HTTPS, with method and body kept.
async fn lead_to_https(request: Request) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let is_host = |host: &&str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
    };
    match host.filter(is_host).and_then(|host| HeaderValue::try_from(format!("https://{host}{path}")).ok()) {
        Some(location) => {
            (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)], "use https\n").into_response()
        }
        None => (StatusCode::BAD_REQUEST, "use https\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn plain_http_from_elsewhere_reaches_links_and_is_led_to_https_otherwise() {
        let app = Router::new().route("/", get(async || "page")).route(LINK_PATH, get(async || "link"));
        let app: Router = app.layer(axum::middleware::from_fn(only_strangers));
        for (path, status) in [("/", StatusCode::PERMANENT_REDIRECT), (LINK_PATH, StatusCode::OK)] {
            let request = Request::get(path).header(header::HOST, "a:8080").body(Body::empty());
            let response = app.clone().oneshot(request.expect("a request")).await.expect("it answers");
            assert_eq!(response.status(), status, "{path}");
        }
    }
}
