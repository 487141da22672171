//! The master key of a server: what everything secret in the records is sealed under, and how a new one is taken
//! up without a stop.
//!
//! # Purpose
//! One value for each process. It holds the key, knows by a fact of the records which key is the current one,
//! and, where that is a newer one, finds it in the hand-over: the new key, sealed under the old one. [`rotate`]
//! puts it there.
//!
//! # Rules
//! - A key is held only forwards. Whoever holds the old one and sees the fact holds the new one a moment later.
//! - A new key is kept where the server finds it at its next start, if that is its own file. Where it came from
//!   the configuration it is in memory only, and that is said: in the log, by `caelum fleet key`, by the doctor.
//! - Each server writes down which key it holds, so that nobody ends a hand-over that somebody still needs.
//! - No key is shown, not even by an error.

pub mod rotate;

mod cipher;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, OnceLock, RwLock},
};

use caelum_engine::{
    fleet::SERVERS_MAX,
    master_key::{Holder, KeyPlace},
};
use caelum_model::{UnixMs, id::NodeId};
use caelum_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

pub(crate) use self::cipher::Cipher;
pub use self::cipher::{MASTER_KEY_LENGTH_MIN, make_master_key};
use crate::vault::VaultError;

/// The fact with the current key's number and the hand-over. Never removed: who writes what is sealed under a
/// key does so under this fact.
pub(crate) const CURRENT: &str = "master_key";
/// The fact in which servers write down which key they hold.
const HOLDERS: &str = "master_key_holders";
/// Keys before the current one that are remembered by their ids.
const PAST_MAX: usize = 16;
/// How often a fact is tried to be replaced while others do the same.
const TRIES: usize = 32;

/// Writes a key down where the server finds it at its next start. Called on a thread that may wait.
pub type Keep = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// The fact.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Current {
    generation: u64,
    key_id: String,
    /// Ids of keys that were replaced, newest last.
    past: Vec<String>,
    changed_at_ms: Option<UnixMs>,
    changed_by: Option<String>,
    /// The current key, sealed under the one before it; none before the first rotation and after the end of one.
    handover: Option<String>,
}

impl Current {
    fn read(text: &str) -> Result<Self, VaultError> {
        serde_json::from_str(text).map_err(|_| VaultError::NotOurs(CURRENT))
    }

    fn write(&self) -> String {
        serde_json::to_string(self).expect("text has a JSON form")
    }
}

/// A key with what comes from it.
pub(crate) struct Held {
    secret: String,
    key_id: String,
    generation: u64,
    is_kept: bool,
    /// Seals what [`crate::vault`] keeps.
    pub(crate) vault: Cipher,
    /// Seals what [`crate::secrets`] keeps.
    pub(crate) settings: Cipher,
    handover: Cipher,
}

impl Held {
    fn new(secret: &str, generation: u64, is_kept: bool) -> Result<Self, VaultError> {
        Ok(Self {
            secret: secret.to_owned(),
            key_id: cipher::id_of(secret),
            generation,
            is_kept,
            vault: Cipher::new(secret, b"caelum vault 1")?,
            settings: Cipher::new(secret, b"caelum settings 1")?,
            handover: Cipher::new(secret, b"caelum hand-over 1")?,
        })
    }
}

/// How a key stands to the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The records name no key yet.
    New,
    /// It is the current one.
    Current {
        /// Its number.
        generation: u64,
        /// Whether the one before it is still good for taking it up.
        is_handing_over: bool,
    },
    /// It is the one before the current one, which it can still take up.
    Before {
        /// The current one's number.
        generation: u64,
    },
    /// It opens nothing.
    Useless {
        /// The current one's number.
        generation: u64,
        /// When that was made the current one.
        changed_at_ms: Option<UnixMs>,
        /// Whether this key was the current one once.
        was_current: bool,
    },
}

/// See the file.
pub struct MasterKey {
    store: Arc<Store>,
    place: KeyPlace,
    keep: Keep,
    held: RwLock<Arc<Held>>,
    own: OnceLock<NodeId>,
    /// One takes up at a time.
    turn: Mutex<()>,
}

impl MasterKey {
    /// The key that a server found at its start, and how a newer one is kept.
    pub fn new(
        store: Arc<Store>,
        secret: &str,
        place: KeyPlace,
        keep: Keep,
    ) -> Result<Arc<Self>, VaultError> {
        let held = RwLock::new(Arc::new(Held::new(secret, 0, true)?));
        Ok(Arc::new(Self { store, place, keep, held, own: OnceLock::new(), turn: Mutex::default() }))
    }

    /// A key that is kept nowhere but in memory: of commands beside a server, and of tests.
    pub fn in_memory(store: Arc<Store>, secret: &str) -> Result<Arc<Self>, VaultError> {
        let keep: Keep = Arc::new(|_| Ok(()));
        Self::new(store, secret, KeyPlace::File, keep)
    }

    /// The key itself: for a machine that joins as a server, and for nobody else.
    pub fn secret(&self) -> String {
        self.held().secret.clone()
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().expect("no code panics while it holds this lock"))
    }

    fn hold(&self, held: Held) {
        *self.held.write().expect("no code panics while it holds this lock") = Arc::new(held);
    }

    /// How the key stands to the records. Changes nothing.
    pub async fn standing(&self) -> Result<Standing, VaultError> {
        Ok(match self.store.fact(CURRENT).await? {
            Some(text) => self.stands(&Current::read(&text)?).0,
            None => Standing::New,
        })
    }

    /// How it stands, and the key to be taken up.
    fn stands(&self, current: &Current) -> (Standing, Option<String>) {
        let (held, generation) = (self.held(), current.generation);
        if held.key_id == current.key_id {
            return (Standing::Current { generation, is_handing_over: current.handover.is_some() }, None);
        }
        let opened = current.handover.as_deref().and_then(|sealed| {
            String::from_utf8(held.handover.open(&about(generation, &current.key_id), sealed)?).ok()
        });
        match opened.filter(|secret| cipher::id_of(secret) == current.key_id) {
            Some(secret) => (Standing::Before { generation }, Some(secret)),
            None => {
                let was_current = current.past.contains(&held.key_id);
                let changed_at_ms = current.changed_at_ms;
                (Standing::Useless { generation, changed_at_ms, was_current }, None)
            }
        }
    }

    /// Says in the records that this is the current key, where they name none; answers the fact as it is.
    pub async fn claim(&self) -> Result<String, VaultError> {
        if let Some(text) = self.store.fact(CURRENT).await? {
            return Ok(text);
        }
        let first = Current {
            generation: 1,
            key_id: self.held().key_id.clone(),
            past: Vec::new(),
            changed_at_ms: None,
            changed_by: None,
            handover: None,
        };
        Ok(self.store.claim_fact(CURRENT, first.write()).await?)
    }

    /// The same at a start, after what is sealed there was opened; a newer key is taken up.
    pub async fn stamp_first(&self) -> Result<(), VaultError> {
        self.stamp().await.map(drop)
    }

    /// The same for records of one server alone, whose key is what its owner put there.
    pub async fn claim_alone(&self) -> Result<(), VaultError> {
        for _ in 0..TRIES {
            let text = self.claim().await?;
            match self.take_up().await {
                Err(VaultError::Replaced { .. } | VaultError::NotOurs(_)) => {}
                taken => return taken.map(drop),
            }
            let mut current = Current::read(&text)?;
            current.generation = current.generation.saturating_add(1);
            let held = self.held().key_id.clone();
            remember(&mut current.past, std::mem::replace(&mut current.key_id, held));
            current.handover = None;
            if self.store.replace_fact(CURRENT, text, current.write()).await? {
                tracing::warn!(
                    code = "master_key.another",
                    "this server has another master key than before: secrets of notices that were sealed under \
                     that one must be set again"
                );
            }
        }
        Err(VaultError::Contended)
    }

    /// The fact, seen while this is the key it names: what is sealed now may be stored while the fact is still
    /// that.
    pub(crate) async fn stamp(&self) -> Result<String, VaultError> {
        for _ in 0..TRIES {
            let text = self.claim().await?;
            if matches!(self.stands(&Current::read(&text)?).0, Standing::Current { .. }) {
                return Ok(text);
            }
            self.take_up().await?;
        }
        Err(VaultError::Contended)
    }

    /// Takes up the current key where this is the one before it, keeps it, and writes down what this server
    /// holds. Answers whether it is another one now.
    pub async fn take_up(&self) -> Result<bool, VaultError> {
        let _turn = self.turn.lock().await;
        let Some(text) = self.store.fact(CURRENT).await? else { return Ok(false) };
        let current = Current::read(&text)?;
        let (standing, newer) = self.stands(&current);
        let is_newer = newer.is_some();
        match (standing, newer) {
            (_, Some(secret)) => {
                self.switch(&secret, current.generation).await?;
                tracing::info!(
                    code = "master_key.taken_up",
                    generation = current.generation,
                    "the records have a new master key, and this server holds it now"
                );
            }
            (Standing::Useless { generation, changed_at_ms, was_current: true }, None) => {
                return Err(VaultError::Replaced { generation, changed_at_ms });
            }
            (Standing::Useless { .. }, None) => return Err(VaultError::NotOurs(CURRENT)),
            _ => {
                let held = self.held();
                if !held.is_kept && self.place == KeyPlace::File {
                    // It could not be written before.
                    self.switch(&held.secret, current.generation).await?;
                } else if held.generation != current.generation {
                    self.hold(Held::new(&held.secret, current.generation, held.is_kept)?);
                }
            }
        }
        self.write_down().await?;
        Ok(is_newer)
    }

    /// Keeps a key and holds it.
    async fn switch(&self, secret: &str, generation: u64) -> Result<(), VaultError> {
        let kept = match self.place {
            KeyPlace::File => {
                let (keep, secret) = (Arc::clone(&self.keep), secret.to_owned());
                let kept = tokio::task::spawn_blocking(move || keep(&secret)).await;
                kept.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            place => Err(io::Error::other(format!("it is set in {}", place.name()))),
        };
        if let Err(error) = &kept {
            tracing::warn!(
                code = "master_key.in_memory",
                generation,
                %error,
                place = self.place.name(),
                "this server holds the new master key in memory only: until it is put where the server looks for \
                 it at its start, do not end the hand-over"
            );
        }
        self.hold(Held::new(secret, generation, kept.is_ok())?);
        Ok(())
    }

    /// Says who this server is, from when on it writes down which key it holds.
    pub async fn introduce(&self, own: &NodeId) -> Result<(), VaultError> {
        self.own.get_or_init(|| own.clone());
        self.claim().await?;
        self.take_up().await.map(drop)
    }

    async fn write_down(&self) -> Result<(), VaultError> {
        let Some(own) = self.own.get() else { return Ok(()) };
        let held = self.held();
        let holder = Holder { generation: held.generation, is_kept: held.is_kept, place: self.place };
        for _ in 0..TRIES {
            let seen = self.store.fact(HOLDERS).await?;
            let mut holders = read_holders(seen.as_deref());
            if holders.get(own) == Some(&holder) {
                return Ok(());
            }
            holders.insert(own.clone(), holder);
            while holders.len() > 4 * SERVERS_MAX {
                // Whoever is behind the most is longest gone.
                let oldest = holders.iter().filter(|(id, _)| *id != own).min_by_key(|(_, of)| of.generation);
                let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
                holders.remove(&oldest);
            }
            let text = serde_json::to_string(&holders).expect("text has a JSON form");
            let is_done = match seen {
                Some(seen) => self.store.replace_fact(HOLDERS, seen, text).await?,
                None => self.store.claim_fact(HOLDERS, text.clone()).await? == text,
            };
            if is_done {
                return Ok(());
            }
        }
        Err(VaultError::Contended)
    }
}

async fn holders(store: &Store) -> Result<BTreeMap<NodeId, Holder>, StoreError> {
    Ok(read_holders(store.fact(HOLDERS).await?.as_deref()))
}

fn read_holders(text: Option<&str>) -> BTreeMap<NodeId, Holder> {
    // Whoever is not in it is waited for: a spoilt list harms nobody.
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn remember(past: &mut Vec<String>, key_id: String) {
    past.retain(|known| *known != key_id);
    past.push(key_id);
    if past.len() > PAST_MAX {
        past.remove(0);
    }
}

/// What the seal of a hand-over is bound to.
fn about(generation: u64, key_id: &str) -> String {
    format!("hand-over {generation} {key_id}")
}

#[cfg(test)]
mod tests;
