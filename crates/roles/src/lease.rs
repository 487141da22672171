//! Whose turn it is, where several servers share a store and one at a time is enough.
//!
//! One key with a time to live names the leader, who writes it anew long before it ends, each time only over
//! its own last write. Who finds no key writes its name, if still none is there. The time is the records' own,
//! so no two machines' clocks are compared. A leader that was frozen past its time may for a moment believe that
//! it still leads: the lease saves work, it does not guard truth. Verdicts follow from the rows alone and carry
//! no count; alerts are written only as they were seen.

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::Clock;
use caelum_store::{KeptKey, Store, StoreError};

/// The key of who gives verdicts.
pub const DIAGNOSER: &str = "diagnoser.leader";
/// The key of who raises alerts.
pub const ALERTS: &str = "alerts.leader";
/// Time to live of the key.
const LIVES: Duration = Duration::from_secs(15);
/// Time between looks, and between signs of life.
const LOOK: Duration = Duration::from_secs(3);

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
            match self.there().await? {
                Some(there) if there.value != self.owner => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        tracing::info!(
                            code = "lease.waiting",
                            key = self.key,
                            leader = there.value,
                            "it is another's turn"
                        );
                    }
                    tokio::time::sleep(LOOK).await;
                }
                // Its own name is there from a life before, or from a write whose answer was lost.
                there => {
                    if self.sign(there).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Keeps it, and ends when it is lost.
    pub(crate) async fn keep(&self) -> Result<(), StoreError> {
        loop {
            match self.there().await? {
                Some(there) if there.value != self.owner => return Ok(()),
                there => {
                    if !self.sign(there).await? {
                        return Ok(());
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets another lead at once.
    pub(crate) async fn give_back(&self) -> Result<(), StoreError> {
        if let Some(there) = self.there().await?.filter(|there| there.value == self.owner) {
            self.store.delete_key_at(there.key, there.version).await?;
        }
        Ok(())
    }

    async fn there(&self) -> Result<Option<KeptKey>, StoreError> {
        self.store.key(self.key.to_owned(), self.clock.now_ms()).await
    }

    /// Writes its name over what was seen. Answers whether it stands.
    async fn sign(&self, seen: Option<KeptKey>) -> Result<bool, StoreError> {
        let seen = seen.map(|there| there.version);
        let (key, owner) = (self.key.to_owned(), self.owner.clone());
        let lives_ms = LIVES.as_millis() as i64;
        let done = self.store.compare_and_put_key(key, seen, owner, self.clock.now_ms(), lives_ms).await?;
        Ok(done.is_some())
    }
}
