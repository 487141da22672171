//! The listener: one port for TLS and plain HTTP, told apart by the first byte.
//!
//! A TLS record that opens a connection starts with 0x16, a request line with a letter. Plain HTTP is answered
//! on loopback; from elsewhere it is led to HTTPS, unless the settings allow it. Everything is bounded:
//! connections, the time to the first byte, to the end of the handshake, and to the end of the headers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use caelum_model::cluster::NodePass;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

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

/// Answers on a listener until told to stop, then lets requests that are under way finish.
pub async fn run(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    app: Router,
    allow_plaintext: bool,
    stop: CancellationToken,
    drain_max: Duration,
) {
    let server = Arc::new(Server { acceptor: TlsAcceptor::from(tls), app, allow_plaintext });
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
    acceptor: TlsAcceptor,
    app: Router,
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
        // Small answers go out at once; failing to say so costs latency, nothing else.
        drop(stream.set_nodelay(true));
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
            match timeout(HANDSHAKE_MAX, self.acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let transport = Transport { peer, is_tls: true, node: None };
                    self.serve(stream, self.app.clone(), transport, connections).await;
                }
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
            Router::new().fallback(lead_to_https)
        };
        self.serve(stream, app, transport, connections).await;
    }

    async fn serve<S>(&self, stream: S, app: Router, transport: Transport, connections: &Connections)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = transport.peer;
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(transport.clone());
            app.clone().oneshot(request.map(Body::new))
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let Some(watcher) = connections.watcher() else { return };
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(code = "web.connection_ended", %peer, %error, "a connection ended early");
        }
    }
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
