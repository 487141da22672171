//! Events over HTTP to an ingest: one request, one answer, and what to make of a refusal.
//!
//! It neither retries nor waits: `roles::probe` decides, by [`PostError::is_transient`] and
//! [`PostError::retry_after`]. The connection is kept for the next request; redirects are not followed,
//! because the token is for this address only.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use caelum_model::wire::{AcceptedJson, ErrorJson, RejectedJson};
use reqwest::{Client, Response, StatusCode, header, redirect};
use rustls::ClientConfig;
use serde::Deserialize;

use crate::{
    fault,
    tls::{self, TlsError},
};

/// The type of one event a line.
const NDJSON: &str = "application/x-ndjson";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole exchange. An ingest answers when the events are durable, which takes milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read: a refusal of every event of a batch fits many times over.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// The longest pause that an answer can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Why a poster cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PosterError {
    /// The authorities are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address or the token is unusable.
    #[error("post events to {url}: {detail}")]
    Setting {
        /// Where to.
        url: String,
        /// What is wrong.
        detail: String,
    },
}

/// Why events were not accepted. In every case the sender still has them.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// No answer came.
    #[error("post events to {url}: {detail}")]
    Unreachable {
        /// Where to.
        url: String,
        /// What happened.
        detail: String,
    },
    /// The ingest said no.
    #[error("post events to {url}: {status} {code}: {message}")]
    Refused {
        /// Where to.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The stable code, empty if the answer was none of an ingest's.
        code: String,
        /// One sentence.
        message: String,
        /// How long to wait, if that was said.
        retry_after: Option<Duration>,
        /// Which events are bad, if all are.
        rejected: Vec<RejectedJson>,
    },
    /// An answer that says yes, but not as an ingest does: a captive portal, a proxy's page.
    #[error("post events to {url}: the answer is not an ingest's: {detail}")]
    Foreign {
        /// Where to.
        url: String,
        /// What came instead.
        detail: String,
    },
}

impl PostError {
    /// Whether the same request may be accepted later, without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Foreign { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..=599),
        }
    }

    /// Whether the sender is refused and not what it sent: the same events may be accepted with another
    /// token.
    pub fn is_about_the_sender(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403, .. })
    }

    /// How long the ingest asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Unreachable { .. } | Self::Foreign { .. } => None,
        }
    }

    /// The HTTP status, if one came.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreachable { .. } | Self::Foreign { .. } => None,
        }
    }

    /// Events that were refused one by one.
    pub fn rejected(&self) -> &[RejectedJson] {
        match self {
            Self::Refused { rejected, .. } => rejected,
            Self::Unreachable { .. } | Self::Foreign { .. } => &[],
        }
    }
}

/// Posts events with one token, or as a node, to one address, or to the next one where it is not reached.
#[derive(Clone, Debug)]
pub struct EventPoster {
    client: Client,
    urls: Arc<[String]>,
    /// Which of them is tried first.
    turn: Arc<AtomicUsize>,
    /// None where the certificate says who posts.
    authorization: Option<header::HeaderValue>,
}

impl EventPoster {
    /// A poster to `url` (the whole address, `…/events`) that trusts this machine's authorities and those
    /// given as PEM.
    pub fn new(url: &str, token: &str, extra_authorities_pem: &str) -> Result<Self, PosterError> {
        let wrong = |detail: String| PosterError::Setting { url: url.to_owned(), detail };
        let mut authorization = header::HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| wrong("the token contains characters that no token has".to_owned()))?;
        authorization.set_sensitive(true);
        let parsed = reqwest::Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong("the address must begin with http:// or https://".to_owned()));
        }
        let mut tls = tls::client_config(tls::root_store(extra_authorities_pem)?)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = client(tls).map_err(|error| wrong(chain(&error)))?;
        Ok(Self {
            client,
            urls: Arc::from([url.to_owned()]),
            turn: Arc::default(),
            authorization: Some(authorization),
        })
    }

    /// A poster of a node to its servers, each `HOST:PORT`, with what [`tls::to_server_config`] made.
    pub fn as_node(servers: &[String], tls: ClientConfig) -> Result<Self, PosterError> {
        let wrong = |detail: String| PosterError::Setting { url: servers.join(", "), detail };
        if servers.is_empty() {
            return Err(wrong("no server is known".to_owned()));
        }
        let client = client(tls).map_err(|error| wrong(chain(&error)))?;
        let urls = servers.iter().map(|server| format!("https://{server}/events")).collect();
        Ok(Self { client, urls, turn: Arc::default(), authorization: None })
    }

    /// Posts events, one JSON object a line. When this returns an answer, the accepted ones are durable.
    ///
    /// Where there are several addresses and this one is not reached, the next try is for the next one.
    pub async fn post(&self, ndjson: Vec<u8>) -> Result<AcceptedJson, PostError> {
        let turn = self.turn.load(Ordering::Relaxed);
        let answer = self.post_to(&self.urls[turn % self.urls.len()], ndjson).await;
        let is_elsewhere = |error: &PostError| {
            matches!(error, PostError::Unreachable { .. })
                || error.status().is_some_and(|status| status >= 500)
        };
        if answer.as_ref().is_err_and(is_elsewhere) {
            self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        }
        answer
    }

    async fn post_to(&self, url: &str, ndjson: Vec<u8>) -> Result<AcceptedJson, PostError> {
        let unreachable =
            |error: reqwest::Error| PostError::Unreachable { url: url.to_owned(), detail: chain(&error) };
        let mut request = self.client.post(url).header(header::CONTENT_TYPE, NDJSON).body(ndjson);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let retry_after = retry_after(&response);
        let body = read_bounded(response).await.map_err(unreachable)?;
        if status == StatusCode::ACCEPTED || status == StatusCode::OK {
            return serde_json::from_slice(&body)
                .map_err(|error| PostError::Foreign { url: url.to_owned(), detail: error.to_string() });
        }
        if !status.is_client_error() && !status.is_server_error() {
            return Err(PostError::Foreign { url: url.to_owned(), detail: format!("status {status}") });
        }
        Err(refusal(url, status, retry_after, &body))
    }
}

fn refusal(url: &str, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> PostError {
    /// Where an ingest lists what is wrong with each event.
    #[derive(Default, Deserialize)]
    struct Details {
        #[serde(default)]
        rejected: Vec<RejectedJson>,
    }
    let (code, message, rejected) = match serde_json::from_slice::<ErrorJson>(body) {
        Ok(ErrorJson { error }) => {
            let details: Details = serde_json::from_value(error.details).unwrap_or_default();
            (error.code, error.message, details.rejected)
        }
        Err(_) => (String::new(), status.canonical_reason().unwrap_or("refused").to_owned(), Vec::new()),
    };
    PostError::Refused { url: url.to_owned(), status: status.as_u16(), code, message, retry_after, rejected }
}

/// What posts and asks: one connection that is kept, no redirects.
pub(crate) fn client(tls: ClientConfig) -> reqwest::Result<Client> {
    client_with(tls, 1)
}

/// The same for whoever has several requests under way at once, on connections that are kept.
pub(crate) fn client_with(tls: ClientConfig, connections: usize) -> reqwest::Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .pool_max_idle_per_host(connections)
        .tcp_nodelay(true)
        .user_agent(concat!("caelum-probe/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The header in its form of seconds; the form with a date is not sent by any ingest of ours.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// What is beyond the bound is cut off, which makes the answer unreadable and so a foreign one.
pub(crate) async fn read_bounded(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The connection's own error says what happened; the layers around it only say that something did.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn Error = error;
    loop {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return fault::describe(error);
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return cause.to_string(),
        }
    }
}
