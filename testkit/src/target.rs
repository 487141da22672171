//! A web server that is as slow, or as broken, as a test wants it to be.
//!
//! Plain HTTP on a free port of 127.0.0.1. The script may change while it runs, so that a target that was
//! well becomes slow at one stage.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Status of every answer.
    pub status: u16,
    /// Time from the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Size of the body.
    pub body_bytes: usize,
    /// Whether connections are closed instead of answered.
    pub closes: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self { status: 200, first_byte: Duration::ZERO, body_bytes: 1024, closes: false }
    }
}

/// A running target; dropping it ends it.
#[derive(Debug)]
pub struct Target {
    script: Arc<Mutex<Script>>,
    answered: Arc<AtomicU64>,
    url: String,
    accepting: JoinHandle<()>,
}

impl Target {
    /// Starts it.
    pub async fn start(script: Script) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listen as a target")?;
        let url = format!("http://{}/", listener.local_addr().context("find the target's port")?);
        let script = Arc::new(Mutex::new(script));
        let answered = Arc::new(AtomicU64::new(0));
        let shared = (Arc::clone(&script), Arc::clone(&answered));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, answered) = shared.clone();
                // A client that goes away ends its own conversation only.
                tokio::spawn(async move { drop(converse(stream, &script, &answered).await) });
            }
        });
        Ok(Self { script, answered, url, accepting })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Behaves differently from the next request on.
    pub fn change(&self, script: Script) {
        *self.script.lock().expect("no code panics while it holds this lock") = script;
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn converse(
    mut stream: TcpStream,
    script: &Mutex<Script>,
    answered: &AtomicU64,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while read_request(&mut stream, &mut request).await? {
        let script = *script.lock().expect("no code panics while it holds this lock");
        if script.closes {
            return Ok(());
        }
        tokio::time::sleep(script.first_byte).await;
        let head =
            format!("HTTP/1.1 {} Scripted\r\ncontent-length: {}\r\n\r\n", script.status, script.body_bytes);
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b'x'; script.body_bytes]).await?;
        answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Reads one request without a body; answers false when the client has gone.
async fn read_request(stream: &mut TcpStream, request: &mut Vec<u8>) -> std::io::Result<bool> {
    request.clear();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && request.len() < 16 * 1024 {
        if stream.read(&mut byte).await? == 0 {
            return Ok(false);
        }
        request.push(byte[0]);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::install_cryptography;

    #[tokio::test]
    async fn a_target_answers_as_its_script_says_and_changes_on_the_way() {
        install_cryptography();
        let target = Target::start(Script::default()).await.expect("starts");
        let http = reqwest::Client::new();
        let answer = http.get(target.url()).send().await.expect("answers");
        assert_eq!(answer.bytes().await.expect("has a body").len(), 1024);
        target.change(Script { status: 503, ..Script::default() });
        assert_eq!(http.get(target.url()).send().await.expect("answers").status().as_u16(), 503);
        target.change(Script { closes: true, ..Script::default() });
        assert!(http.get(target.url()).send().await.is_err());
    }
}
