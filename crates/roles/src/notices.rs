//! Sends what waits in the outbox: takes a notice, tries once, and says what became of it.
//!
//! Every server does; a notice is taken by one of them at a time. One that ends between sending and saying so
//! leaves the notice to another, who sends it again under the same id.

use std::{collections::HashMap, sync::Arc, time::Duration};

use caelum_drivers::{clock::Clock, notify::Notifier};
use caelum_engine::alert::next_attempt;
use caelum_model::alert::{ChannelKind, Notice};
use caelum_store::{NoticeOutcome, Store, StoreError};
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Change},
    secrets::Secrets,
};

/// Time between looks at the outbox.
const LOOK: Duration = Duration::from_secs(1);
/// How long a notice is taken for: three times as long as an attempt may last. What a server that was killed had
/// taken is told by another after that.
const TAKEN_MS: i64 = 30_000;
/// Notices under way at once.
const AT_ONCE: usize = 8;

/// What the sender stands on.
pub struct Notices {
    /// Where they wait.
    pub store: Arc<Store>,
    /// Where news comes from and goes.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Its name among those that send.
    pub owner: String,
    /// How they reach people.
    pub notifier: Notifier,
    /// Opens what the channels need.
    pub secrets: Arc<Secrets>,
}

impl Notices {
    /// Sends until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut news = self.bus.subscribe();
        loop {
            match self.round().await {
                Ok(0) => {}
                Ok(_) => {
                    self.bus.publish(Change::AlertsChanged);
                    if stop.is_cancelled() {
                        return;
                    }
                    continue;
                }
                Err(error) => tracing::warn!(
                    code = "notices.store_failed", %error,
                    "notices wait until the store answers; trying again"
                ),
            }
            let look = tokio::time::sleep(LOOK);
            tokio::pin!(look);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = &mut look => break,
                    change = news.recv() => match change {
                        Ok(Change::AlertsChanged | Change::IncidentsChanged) => break,
                        Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// Takes what is due and tries it; answers how many were tried.
    pub(crate) async fn round(&self) -> Result<usize, StoreError> {
        let now_ms = self.clock.now_ms();
        let taken = self.store.claim_notices(self.owner.clone(), now_ms, now_ms + TAKEN_MS, AT_ONCE).await?;
        if taken.is_empty() {
            return Ok(0);
        }
        let settings = self.store.notice_settings().await?.unwrap_or_default();
        let channels: HashMap<String, ChannelKind> =
            settings.channels.into_iter().map(|channel| (channel.name, channel.kind)).collect();
        let count = taken.len();
        let sends = taken.into_iter().map(|notice| {
            let to = channels.get(&notice.channel).cloned();
            async move { self.send(&notice, to.as_ref()).await }
        });
        let settled: Vec<Result<(), StoreError>> =
            stream::iter(sends).buffer_unordered(AT_ONCE).collect().await;
        settled.into_iter().collect::<Result<(), StoreError>>()?;
        Ok(count)
    }

    async fn send(&self, notice: &Notice, to: Option<&ChannelKind>) -> Result<(), StoreError> {
        let outcome = match to {
            None => {
                let error = format!("there is no channel `{}` any more", notice.channel);
                NoticeOutcome::GivenUp { at_ms: self.clock.now_ms(), error }
            }
            Some(kind) => match self.secrets.open_now(kind).await {
                Ok(kind) => match self.notifier.send(&kind, notice).await {
                    Ok(()) => NoticeOutcome::Sent { at_ms: self.clock.now_ms() },
                    Err(error) => self.failed(notice, error.to_string()),
                },
                Err(error) => self.failed(notice, error.to_string()),
            },
        };
        self.store.settle_notice(notice.notice_id.clone(), self.owner.clone(), outcome).await?;
        Ok(())
    }

    fn failed(&self, notice: &Notice, error: String) -> NoticeOutcome {
        let now_ms = self.clock.now_ms();
        match next_attempt(notice.attempts, now_ms) {
            Some(next_at_ms) => {
                tracing::warn!(
                    code = "notices.not_sent",
                    channel = notice.channel,
                    attempts = notice.attempts,
                    error,
                    "a notice could not be sent; it is tried again"
                );
                NoticeOutcome::Later { next_at_ms, error }
            }
            None => {
                tracing::error!(
                    code = "notices.given_up",
                    channel = notice.channel,
                    text = notice.text,
                    error,
                    "a notice could not be sent for a day and is given up"
                );
                NoticeOutcome::GivenUp { at_ms: now_ms, error }
            }
        }
    }
}
