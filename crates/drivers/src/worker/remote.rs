//! A task that runs on another machine over SSH: this worker waits for it and tells what it says. Who connects
//! and how is whoever is given as [`Remote`]; a worker without one does no such tasks.

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Fault, Happening, Outcome, Teller, Variables};

/// Pieces of output that may wait to be told. A host that writes faster waits.
const PIECES_MAX: usize = 32;

/// A command for another machine.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteOrder {
    /// A node or host by name or id, or the address of one.
    pub host: String,
    /// A line for its shell.
    pub command: String,
    /// User to sign in as, where it is not the host's usual one.
    pub user: Option<String>,
    /// Port of its SSH server, where it is not the host's usual one.
    pub port: Option<u16>,
    /// Variables that the command sees.
    #[serde(default)]
    pub env: Variables,
}

/// How a command on another machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteEnd {
    /// With this code.
    Exited(i32),
    /// It did not end in time.
    TimedOut(String),
    /// It was called off.
    Stopped,
    /// It did not run, or did not end by itself.
    Failed(String),
}

/// Runs commands on other machines.
#[async_trait]
pub trait Remote: Send + Sync {
    /// Runs one to its end, and tells what it writes: whether about an error, and the bytes. `who` is written
    /// down as who ran it.
    async fn run(
        &self,
        who: &str,
        order: RemoteOrder,
        timeout_s: u64,
        stop: CancellationToken,
        output: mpsc::Sender<(bool, Bytes)>,
    ) -> RemoteEnd;
}

/// Runs a task elsewhere.
pub(super) async fn run(
    remote: &dyn Remote,
    who: &str,
    order: RemoteOrder,
    timeout_s: u64,
    stop: &CancellationToken,
    teller: &mut Teller,
) -> Outcome {
    let (sender, mut pieces) = mpsc::channel(PIECES_MAX);
    let mut running = remote.run(who, order, timeout_s, stop.clone(), sender);
    let end = loop {
        let flush_at = teller.collector.due().map(tokio::time::Instant::from_std);
        tokio::select! {
            biased;
            Some((is_error, bytes)) = pieces.recv() => teller.write(is_error, &bytes).await,
            end = &mut running => break end,
            () = tokio::time::sleep_until(flush_at.unwrap_or_else(tokio::time::Instant::now)), if flush_at.is_some() => {
                for chunk in teller.collector.rest(std::time::Instant::now()) {
                    teller.tell(Happening::Output(chunk)).await;
                }
            }
        }
    };
    drop(running);
    while let Some((is_error, bytes)) = pieces.recv().await {
        teller.write(is_error, &bytes).await;
    }
    match end {
        RemoteEnd::Exited(0) => Ok(Some(0)),
        RemoteEnd::Exited(code) => {
            Err(Fault { exit_code: Some(code), ..Fault::failed(format!("ended with exit code {code}")) })
        }
        RemoteEnd::TimedOut(because) => {
            Err(Fault { outcome: caelum_model::task::TaskState::TimedOut, ..Fault::failed(because) })
        }
        RemoteEnd::Stopped => Err(Fault::stopped()),
        RemoteEnd::Failed(because) => Err(Fault::failed(because)),
    }
}
