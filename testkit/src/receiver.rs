//! Who is told: a receiver of notices that writes down every request that reaches it, also those whose sender
//! was killed before it had the answer.
//!
//! It takes its time for an answer, so that senders can be killed with a notice under way. What is in the ledger
//! is what a pager or a chat would have seen.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

use crate::collector::read_request;

/// A notice as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its id, by which a repeat is known; the header and the body say the same.
    pub notice_id: String,
    /// The alert that it is about.
    pub subject_id: String,
    /// `failure`, `escalation` or `recovery`.
    pub kind: String,
}

#[derive(Debug, Default)]
struct Ledger {
    told: Mutex<Vec<Told>>,
    arrived: Notify,
}

impl Ledger {
    fn told(&self) -> MutexGuard<'_, Vec<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running receiver; dropping it ends it.
#[derive(Debug)]
pub struct Receiver {
    url: String,
    ledger: Arc<Ledger>,
    accepting: JoinHandle<()>,
}

impl Receiver {
    /// Starts one on a free port of 127.0.0.1, which answers so long after a request has come.
    pub async fn start(answers_after: Duration) -> Result<Self> {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).await.context("listen as a receiver of notices")?;
        let address = listener.local_addr().context("find the receiver's port")?;
        let ledger = Arc::<Ledger>::default();
        let shared = Arc::clone(&ledger);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let ledger = Arc::clone(&shared);
                tokio::spawn(async move { drop(converse(stream, &ledger, answers_after).await) });
            }
        });
        Ok(Self { url: format!("http://{address}/told"), ledger, accepting })
    }

    /// Where notices go.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything that has arrived, in order.
    pub fn told(&self) -> Vec<Told> {
        self.ledger.told().clone()
    }

    /// Waits for the next notice to arrive; its answer is still to come then. False where none comes in time.
    pub async fn arrives(&self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.ledger.arrived.notified()).await.is_ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn converse(mut stream: TcpStream, ledger: &Ledger, answers_after: Duration) -> Result<()> {
    while let Some((head, body)) = read_request(&mut stream).await? {
        let status = match read_notice(&head, &body) {
            Some(told) => {
                ledger.told().push(told);
                ledger.arrived.notify_waiters();
                "204 No Content"
            }
            None => "400 Bad Request",
        };
        tokio::time::sleep(answers_after).await;
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    }
    Ok(())
}

fn read_notice(head: &str, body: &[u8]) -> Option<Told> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let notice_id = text("notice_id")?;
    let header = format!("caelum-notice: {}", notice_id.to_lowercase());
    head.lines().any(|line| line == header).then_some(())?;
    Some(Told { notice_id, subject_id: text("subject_id")?, kind: text("kind")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_counts_only_where_header_and_body_name_the_same() {
        let body = br#"{"notice_id": "N-1", "subject_id": "a", "kind": "failure"}"#;
        let told = Told { notice_id: "N-1".into(), subject_id: "a".into(), kind: "failure".into() };
        assert_eq!(read_notice("post / http/1.1\r\ncaelum-notice: n-1\r\n\r\n", body), Some(told));
        assert_eq!(read_notice("post / http/1.1\r\ncaelum-notice: n-2\r\n\r\n", body), None);
        assert_eq!(read_notice("post / http/1.1\r\ncaelum-notice: n-1\r\n\r\n", b"none"), None);
    }
}
