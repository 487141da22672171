//! Dialling: a connection, TLS with both sides' certificates, and the upgrade to a WebSocket.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use caelum_model::{cluster::NodePass, envelope::LINK_PATH, join::NODE_SERVER_NAME};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest},
};

use super::{Link, config, join, pump, watch_socket};

/// Longest time a dial takes.
const DIAL_MAX: Duration = Duration::from_secs(5);
/// Most characters of a refusal that are kept.
const REASON_MAX: usize = 300;

/// How a node proves who it is, and how it is known who answers.
#[derive(Clone)]
pub struct Tls {
    /// With our certificate, the cluster's authority, and the protocol of links.
    pub config: Arc<rustls::ClientConfig>,
    /// Reads what a certificate (DER) says.
    pub read_pass: fn(&[u8]) -> Option<NodePass>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It took too long.
    #[error("dial {addr}: no answer in {} s", DIAL_MAX.as_secs())]
    TimedOut {
        /// Who was dialled.
        addr: SocketAddr,
    },
    /// There is no connection.
    #[error("connect to {addr}: {source}")]
    Connect {
        /// Who was dialled.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// One side did not accept the other's certificate, or does not speak TLS.
    #[error("agree on TLS with {addr}: {source}")]
    Tls {
        /// Who was dialled.
        addr: SocketAddr,
        /// What the library says.
        source: io::Error,
    },
    /// The certificate is no node's.
    #[error("read who {addr} is: its certificate is no node's")]
    NoPass {
        /// Who was dialled.
        addr: SocketAddr,
    },
    /// The other side refused the link.
    #[error("open a link to {addr}: refused with status {status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Refused {
        /// Who was dialled.
        addr: SocketAddr,
        /// HTTP status.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// The other side is no WebSocket.
    #[error("open a link to {addr}: {detail}")]
    Upgrade {
        /// Who was dialled.
        addr: SocketAddr,
        /// What went wrong.
        detail: String,
    },
}

impl DialError {
    /// Whether one side refused the other, so that dialling again soon is of no use.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { status, .. } => (400..500).contains(status),
            Self::NoPass { .. } => true,
            // A certificate that was not accepted, or an alert that says so; a connection that broke is none.
            Self::Tls { source, .. } => {
                source.get_ref().is_some_and(|cause| cause.downcast_ref::<rustls::Error>().is_some())
            }
            Self::TimedOut { .. } | Self::Connect { .. } | Self::Upgrade { .. } => false,
        }
    }
}

/// Dials an address: with TLS another node, without a stranger that is let in.
pub async fn dial(addr: SocketAddr, tls: Option<&Tls>) -> Result<Link, DialError> {
    let dialled = Box::pin(open(addr, tls));
    timeout(DIAL_MAX, dialled).await.unwrap_or(Err(DialError::TimedOut { addr }))
}

async fn open(addr: SocketAddr, tls: Option<&Tls>) -> Result<Link, DialError> {
    let stream = TcpStream::connect(addr).await.map_err(|source| DialError::Connect { addr, source })?;
    watch_socket(&stream);
    let Some(tls) = tls else {
        return Ok(start(upgrade(stream, addr, &format!("ws://{addr}{LINK_PATH}")).await?, addr, None));
    };
    let name = ServerName::try_from(NODE_SERVER_NAME).expect("the name of nodes is a DNS name");
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    let stream = connector.connect(name, stream).await.map_err(|source| DialError::Tls { addr, source })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let pass = certificate.and_then(|certificate| (tls.read_pass)(certificate));
    let pass = pass.ok_or(DialError::NoPass { addr })?;
    let socket = upgrade(stream, addr, &format!("ws://{NODE_SERVER_NAME}{LINK_PATH}")).await?;
    Ok(start(socket, addr, Some(pass)))
}

fn start<S>(socket: WebSocketStream<S>, peer: SocketAddr, pass: Option<NodePass>) -> Link
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    join(peer, pass, |incoming, outgoing| {
        tokio::spawn(pump::run(socket, incoming, outgoing));
    })
}

async fn upgrade<S>(stream: S, addr: SocketAddr, url: &str) -> Result<WebSocketStream<S>, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = url.into_client_request().expect("an address and a fixed path make a URL");
    match client_async_with_config(request, stream, Some(config())).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let reason = String::from_utf8_lossy(body).chars().take(REASON_MAX).collect();
            Err(DialError::Refused { addr, status: response.status().as_u16(), reason })
        }
        // With TLS 1.3 a certificate that is not accepted is told of with the first bytes that are read.
        Err(tungstenite::Error::Io(source))
            if source.get_ref().is_some_and(|cause| cause.downcast_ref::<rustls::Error>().is_some()) =>
        {
            Err(DialError::Tls { addr, source })
        }
        Err(error) => Err(DialError::Upgrade { addr, detail: error.to_string() }),
    }
}
