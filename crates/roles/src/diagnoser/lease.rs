//! Whose turn it is to judge, where several diagnosers share a store.
//!
//! One key with a time to live names the leader, who writes it anew long before it ends. Who finds no key
//! writes its own name, waits, and leads if the name still stands. Verdicts follow from the rows alone and
//! carry no count, so two leaders for a moment would write the same twice; the lease saves work, it does not
//! guard truth.

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_store::{Store, StoreError};

/// The key.
const KEY: &str = "diagnoser.leader";
/// Time to live of the key.
const LIVES: Duration = Duration::from_secs(15);
/// Time between looks, and between signs of life.
const LOOK: Duration = Duration::from_secs(3);
/// Time after which a name that still stands is the leader's.
const SETTLE: Duration = Duration::from_millis(500);

/// A claim to lead.
pub(super) struct Lease {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    owner: String,
}

impl Lease {
    pub(super) fn new(store: Arc<Store>, clock: Arc<dyn Clock>, owner: String) -> Self {
        Self { store, clock, owner }
    }

    /// Waits until it leads.
    pub(super) async fn take(&self) -> Result<(), StoreError> {
        let mut is_waiting = false;
        loop {
            match self.leader().await? {
                Some(leader) if leader != self.owner => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        tracing::info!(code = "diagnoser.waiting", leader, "another diagnoser judges");
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
    pub(super) async fn keep(&self) -> Result<(), StoreError> {
        while self.is_mine().await? {
            self.sign().await?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Lets another lead at once.
    pub(super) async fn give_back(&self) -> Result<(), StoreError> {
        if self.is_mine().await? {
            self.store.delete_key(KEY.to_owned()).await?;
        }
        Ok(())
    }

    async fn is_mine(&self) -> Result<bool, StoreError> {
        Ok(self.leader().await?.is_none_or(|leader| leader == self.owner))
    }

    async fn leader(&self) -> Result<Option<String>, StoreError> {
        let key = self.store.key(KEY.to_owned(), self.clock.now_ms()).await?;
        Ok(key.map(|(leader, _)| leader))
    }

    async fn sign(&self) -> Result<(), StoreError> {
        let ends_at_ms = self.clock.now_ms() + LIVES.as_millis() as i64;
        self.store.put_key(KEY.to_owned(), self.owner.clone(), ends_at_ms).await
    }
}
