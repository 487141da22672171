//! Asking the servers for tasks, and telling them what became of them, under the node's certificate.
//!
//! One server at a time, the one that answered last: it knows this worker by its open poll, and would take
//! its tasks back if the worker turned up elsewhere without need. Only the second try in a row that fails is
//! made elsewhere. When to try again is decided by who asks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use caelum_model::{
    wire::ErrorJson,
    work::{POLL_MS, POLL_PATH, REPORT_PATH, WorkAnswer, WorkPoll, WorkReceipt, WorkReport},
};
use reqwest::{Client, StatusCode};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};

use crate::poster::{PosterError, chain, client_with, read_bounded};

/// Longest that an answer to a poll is waited for, beyond what the server was allowed.
const POLL_SLACK: Duration = Duration::from_secs(10);
/// Longest that a report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// A report, a poll, and one that overtakes it.
const CONNECTIONS: usize = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// No answer came.
    #[error("reach {url}: {detail}")]
    Unreachable {
        /// Whom.
        url: String,
        /// What happened.
        detail: String,
    },
    /// The server said no.
    #[error("ask {url}: {status}: {message}")]
    Refused {
        /// Whom.
        url: String,
        /// The HTTP status.
        status: u16,
        /// One sentence.
        message: String,
    },
}

impl WorkError {
    /// Whether the very same words will never be taken, by any server.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status: 400 | 413 | 422, .. })
    }
}

/// Where tasks come from: the servers, or a script in tests.
#[async_trait]
pub trait WorkServer: Send + Sync {
    /// Asks for work; answered when there is some, or after a while.
    async fn poll(&self, ask: &WorkPoll) -> Result<WorkAnswer, WorkError>;
    /// Tells what happened; answered when that is durable.
    async fn report(&self, report: &WorkReport) -> Result<WorkReceipt, WorkError>;
}

/// The servers of the cluster.
#[derive(Clone, Debug)]
pub struct WorkClient {
    client: Client,
    servers: Arc<[String]>,
    turn: Arc<AtomicUsize>,
    failures: Arc<AtomicUsize>,
}

impl WorkClient {
    /// Asks these servers, each `HOST:PORT`, with what [`crate::tls::to_server_config`] made.
    pub fn as_node(servers: &[String], tls: ClientConfig) -> Result<Self, PosterError> {
        let wrong = |detail: String| PosterError::Setting { url: servers.join(", "), detail };
        if servers.is_empty() {
            return Err(wrong("no server is known".to_owned()));
        }
        let client = client_with(tls, CONNECTIONS).map_err(|error| wrong(chain(&error)))?;
        Ok(Self { client, servers: servers.into(), turn: Arc::default(), failures: Arc::default() })
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        path: &str,
        asked: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<A, WorkError> {
        let turn = self.turn.load(Ordering::Relaxed);
        let url = format!("https://{}{path}", self.servers[turn % self.servers.len()]);
        let answer = self.ask_at(&url, asked, limit).await;
        let is_elsewhere = match &answer {
            Ok(_) => {
                self.failures.store(0, Ordering::Relaxed);
                false
            }
            Err(WorkError::Refused { status, .. }) if *status < 500 => false,
            Err(_) => self.failures.fetch_add(1, Ordering::Relaxed) > 0,
        };
        if is_elsewhere {
            self.failures.store(0, Ordering::Relaxed);
            // Where another question moved on already, that is where this one goes next, too.
            let next = turn.wrapping_add(1);
            self.turn.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
        answer
    }

    async fn ask_at<A: DeserializeOwned>(
        &self,
        url: &str,
        asked: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<A, WorkError> {
        let unreachable =
            |error: reqwest::Error| WorkError::Unreachable { url: url.to_owned(), detail: chain(&error) };
        let response = self.client.post(url).json(asked).timeout(limit).send().await.map_err(unreachable)?;
        let status = response.status();
        let body = read_bounded(response).await.map_err(unreachable)?;
        let refused =
            |message: String| WorkError::Refused { url: url.to_owned(), status: status.as_u16(), message };
        if status != StatusCode::OK {
            let said: Option<ErrorJson> = serde_json::from_slice(&body).ok();
            return Err(refused(
                said.map_or_else(|| "no reason given".to_owned(), |said| said.error.message),
            ));
        }
        serde_json::from_slice(&body).map_err(|error| WorkError::Unreachable {
            url: url.to_owned(),
            detail: format!("the answer is not a server's: {error}"),
        })
    }
}

#[async_trait]
impl WorkServer for WorkClient {
    async fn poll(&self, ask: &WorkPoll) -> Result<WorkAnswer, WorkError> {
        let held_open = Duration::from_millis(u64::try_from(POLL_MS).unwrap_or_default());
        self.ask(POLL_PATH, ask, held_open + POLL_SLACK).await
    }

    async fn report(&self, report: &WorkReport) -> Result<WorkReceipt, WorkError> {
        self.ask(REPORT_PATH, report, REPORT_TIMEOUT).await
    }
}
