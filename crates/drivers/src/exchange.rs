//! One request over a connection of its own, whose other end is looked at before anything is said.
//!
//! Joining and adopting need to know whose key the peer showed before a secret is sent, which no pool of
//! connections tells. Whom to trust comes in as TLS settings; nothing is retried here.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use caelum_model::join::NODE_SERVER_NAME;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{fault::describe, tls};

/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nobody answers there.
    #[error("connect to {peer}: {detail}")]
    Unreachable {
        /// Where.
        peer: String,
        /// What happened.
        detail: String,
    },
    /// Somebody answers who is not trusted, or does not speak TLS. Nothing was sent.
    #[error("trust {peer}: {detail}")]
    NotTrusted {
        /// Where.
        peer: String,
        /// What is wrong.
        detail: String,
    },
    /// The connection ended before the answer did, or the answer is no HTTP, or too long.
    #[error("ask {peer}: {detail}")]
    Broken {
        /// Whom.
        peer: String,
        /// What happened.
        detail: String,
    },
}

/// An answer, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// A connection after its handshake: nothing has been sent yet.
pub struct Peer {
    stream: TlsStream<TcpStream>,
    name: String,
    patience: Duration,
    key_sha256: String,
}

impl Peer {
    /// Connects to `host:port` and shakes hands. Each step may take as long as `patience`.
    pub async fn open(
        address: &str,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> Result<Self, ExchangeError> {
        let unreachable = |detail: String| ExchangeError::Unreachable { peer: address.to_owned(), detail };
        let found =
            within(patience, tokio::net::lookup_host(address), describe).await.map_err(unreachable)?;
        let mut stream = Err("the name has no address".to_owned());
        for found in found.take(ADDRESSES_MAX) {
            stream = within(patience, TcpStream::connect(found), describe).await;
            if stream.is_ok() {
                break;
            }
        }
        Self::shake(stream.map_err(unreachable)?, address.to_owned(), config, patience).await
    }

    /// The same, where the address is known.
    pub async fn open_at(
        address: SocketAddr,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> Result<Self, ExchangeError> {
        let peer = address.to_string();
        match within(patience, TcpStream::connect(address), describe).await {
            Ok(stream) => Self::shake(stream, peer, config, patience).await,
            Err(detail) => Err(ExchangeError::Unreachable { peer, detail }),
        }
    }

    async fn shake(
        stream: TcpStream,
        peer: String,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> Result<Self, ExchangeError> {
        let not_trusted = |detail: String| ExchangeError::NotTrusted { peer: peer.clone(), detail };
        let name = ServerName::try_from(NODE_SERVER_NAME).expect("the name is a DNS name");
        let connector = TlsConnector::from(config);
        let stream =
            within(patience, connector.connect(name, stream), describe).await.map_err(not_trusted)?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = certificates.first().ok_or_else(|| not_trusted("it shows no certificate".to_owned()))?;
        let key_sha256 = tls::key_sha256_of(leaf).map_err(|error| not_trusted(error.to_string()))?;
        Ok(Self { stream, name: peer, patience, key_sha256 })
    }

    /// SHA-256 of the public key that the peer showed and has, lower-case hex.
    pub fn key_sha256(&self) -> &str {
        &self.key_sha256
    }

    /// Sends a JSON body and reads the answer.
    pub async fn post(self, path: &str, json: Vec<u8>) -> Result<Answer, ExchangeError> {
        let Self { stream, name, patience, .. } = self;
        let broken = |detail: String| ExchangeError::Broken { peer: name.clone(), detail };
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &name)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(json)))
            .map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let asked = async {
                let response = sender.send_request(request).await?;
                let status = response.status().as_u16();
                let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
                Ok::<_, hyper::Error>(body.map(|body| Answer { status, body: body.to_bytes() }))
            };
            let mut asked = std::pin::pin!(asked);
            tokio::select! {
                answer = &mut asked => answer,
                ended = connection => match ended {
                    // The connection may end as soon as the whole answer has been handed over.
                    Ok(()) => asked.await,
                    Err(error) => Err(error),
                },
            }
        };
        let answer = within(patience, exchange, ToString::to_string).await.map_err(broken)?;
        answer.map_err(|error| broken(error.to_string()))
    }
}

/// What comes in time, or in words why it does not.
async fn within<T, E>(
    patience: Duration,
    work: impl Future<Output = Result<T, E>>,
    say: fn(&E) -> String,
) -> Result<T, String> {
    match timeout(patience, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(say(&error)),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs_f32())),
    }
}
