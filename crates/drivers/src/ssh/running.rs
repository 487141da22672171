//! One command that runs on a connection: what it writes, and how it ends.

use std::time::Duration;

use bytes::Bytes;
use russh::{Channel, ChannelMsg, Sig, client};

/// Time for a command to end after it was asked to, before it is killed.
const TERM_GRACE: Duration = Duration::from_millis(500);

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It wrote something.
    Output {
        /// Whether about an error.
        is_error: bool,
        /// What.
        bytes: Bytes,
    },
    /// It is over.
    Ended(Ended),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal of this name.
    Signalled(String),
    /// The host does not run commands.
    NotAllowed,
    /// The connection broke, or the host closed the channel without a word.
    Broken,
}

/// A command that runs. Its channel is closed when it is over, and when this is dropped.
pub struct Running {
    channel: Option<Channel<client::Msg>>,
    ended: Option<Ended>,
}

impl Running {
    pub(super) fn new(channel: Channel<client::Msg>) -> Self {
        Self { channel: Some(channel), ended: None }
    }

    /// The next that it does. May be given up and asked again.
    pub async fn next(&mut self) -> Said {
        loop {
            let Some(channel) = &mut self.channel else { return Said::Ended(Ended::Broken) };
            match channel.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    return Said::Output { is_error: false, bytes: data };
                }
                Some(ChannelMsg::ExtendedData { data, .. }) => {
                    return Said::Output { is_error: true, bytes: data };
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    self.ended = Some(Ended::Exited(exit_status.cast_signed()));
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    self.ended = Some(Ended::Signalled(format!("{signal_name:?}")));
                }
                Some(ChannelMsg::Failure) => {
                    self.close().await;
                    return Said::Ended(Ended::NotAllowed);
                }
                // Output may follow the code; only the end of the channel is the end.
                Some(ChannelMsg::Close) | None => {
                    let ended = self.ended.take().unwrap_or(Ended::Broken);
                    self.close().await;
                    return Said::Ended(ended);
                }
                Some(_) => {}
            }
        }
    }

    /// Ends it: asks it to, kills it a moment later, and closes its channel.
    pub async fn stop(&mut self) {
        let signal = async |running: &Self, signal| match &running.channel {
            Some(channel) => channel.signal(signal).await.is_ok(),
            None => false,
        };
        if signal(self, Sig::TERM).await {
            let over = async { while !matches!(self.next().await, Said::Ended(_)) {} };
            if tokio::time::timeout(TERM_GRACE, over).await.is_err() {
                signal(self, Sig::KILL).await;
            }
        }
        self.close().await;
    }

    async fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            // A connection that is gone has no channels.
            drop(channel.close().await);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(channel) = self.channel.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            drop(channel.signal(Sig::TERM).await);
            drop(channel.close().await);
        });
    }
}
