//! Short texts between servers: `NOTIFY`, and a connection of its own that listens.
//!
//! A notice is a hint and may be lost with the connection; whoever listens is told that there was a gap.
//! Callers gather what they have to tell: each `NOTIFY` takes a lock of the whole database server for a moment.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use super::Postgres;
use crate::{News, StoreError};

/// The channel.
const CHANNEL: &str = "caelum";
/// News that may wait.
const WAITING_MAX: usize = 256;
/// Pause before a lost connection is made anew.
const AGAIN: Duration = Duration::from_secs(1);
/// Most bytes of a text; the server takes 8,000.
const TEXT_BYTES_MAX: usize = 4_000;

impl Postgres {
    /// Tells everybody who listens.
    pub async fn tell(&self, news: &str) -> Result<(), StoreError> {
        debug_assert!(news.len() <= TEXT_BYTES_MAX, "notices are short");
        let session = self.session("tell the other servers").await?;
        session.execute("select pg_notify($1, $2)", &[&CHANNEL, &news]).await?;
        Ok(())
    }

    /// Listens on a connection of its own, which is made anew when it is lost.
    pub fn hear(&self) -> mpsc::Receiver<News> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let (config, tls) = (*self.apart).clone();
        tokio::spawn(async move {
            while !sender.is_closed() {
                let heard = async {
                    let (client, mut connection) = config.connect(tls.clone()).await?;
                    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
                    let listen = client.batch_execute("listen caelum");
                    tokio::pin!(listen);
                    let mut is_listening = false;
                    loop {
                        tokio::select! {
                            listened = &mut listen, if !is_listening => {
                                listened?;
                                is_listening = true;
                                if sender.send(News::Gap).await.is_err() {
                                    return Ok(());
                                }
                            }
                            message = messages.next() => match message {
                                Some(Ok(AsyncMessage::Notification(notice))) => {
                                    if sender.send(News::Told(notice.payload().to_owned())).await.is_err() {
                                        return Ok(());
                                    }
                                }
                                Some(Ok(_)) => {}
                                Some(Err(error)) => return Err(error),
                                None => return Ok(()),
                            },
                            () = sender.closed() => return Ok(()),
                        }
                    }
                };
                let heard: Result<(), tokio_postgres::Error> = heard.await;
                if let Err(error) = heard {
                    tracing::debug!(code = "store.news_lost", %error, "news of other servers are not heard for a moment");
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        });
        receiver
    }
}
