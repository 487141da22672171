//! Whose turn it is, where several servers share a store and one at a time is enough.
//!
//! One key with a time to live names the leader, who writes it anew long before it ends. Who finds no key
//! writes its own name, waits, and leads if the name still stands. Two may lead
//! for a moment: the lease saves work, it does not guard truth. Verdicts follow from the rows alone and carry no
//! count; alerts are written only as they were seen.

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_store::{Store, StoreError};

/// The key of who gives verdicts.
pub const DIAGNOSER: &str = "diagnoser.leader";
/// The key of who raises alerts.
pub const ALERTS: &str = "alerts.leader";
/// Time to live of the key.
const LIVES: Duration = Duration::from_secs(15);
/// Time between looks, and between signs of life.
const LOOK: Duration = Duration::from_secs(3);
/// Time after which a name that still stands is the leader's.
const SETTLE: Duration = Duration::from_millis(500);

/// A claim to lead.
pub(crate) struct Lease {
    key: &'static str,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    owner: String,
}

impl Lease {
    pub(crate) fn new(key: &'static str, store: Arc<Store>, clock: Arc<dyn Clock>, owner: String) -> Self {
        Self { key, store, clock, owner }
    }

    /// Waits until it leads.
    pub(crate) async fn take(&self) -> Result<(), StoreError> {
        let mut is_waiting = false;
        loop {
            match self.leader().await? {
                Some(leader) if leader != self.owner => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        tracing::info!(
                            code = "lease.waiting",
                            key = self.key,
                            leader,
                            "it is another's turn"
                        );
                    }
                    tokio::time::sleep(LOOK).await;
                }
                _ => {
                    self.sign().await?;
                    tokio::time::sleep(SETTLE).await;
                    if self.is_mine().await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Keeps it, and ends when it is lost.
    pub(crate) async fn keep(&self) -> Result<(), StoreError> {
        while self.is_mine().await? {
            self.sign().await?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Lets another lead at once.
    pub(crate) async fn give_back(&self) -> Result<(), StoreError> {
        if self.is_mine().await? {
            self.store.delete_key(self.key.to_owned()).await?;
        }
        Ok(())
    }

    async fn is_mine(&self) -> Result<bool, StoreError> {
        Ok(self.leader().await?.is_none_or(|leader| leader == self.owner))
    }

    async fn leader(&self) -> Result<Option<String>, StoreError> {
        let key = self.store.key(self.key.to_owned(), self.clock.now_ms()).await?;
        Ok(key.map(|(leader, _)| leader))
    }

    async fn sign(&self) -> Result<(), StoreError> {
        let ends_at_ms = self.clock.now_ms() + LIVES.as_millis() as i64;
        self.store.put_key(self.key.to_owned(), self.owner.clone(), ends_at_ms).await
    }
}
