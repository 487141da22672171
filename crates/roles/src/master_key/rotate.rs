//! Replaces the master key: everything that is sealed is sealed anew, and the old key hands over to the new one.
//!
//! # Rules
//! - One transaction writes all of it, and only if all of it is still what was sealed anew. Before it every
//!   server works with the old key, after it with the new one; there is no between, wherever a process is killed.
//! - Of two rotations at once one wins; the other is told, and so is a second one before the end of the first.
//! - What others write meanwhile, such as the new cluster key of a revocation, is sealed anew with it, or refused
//!   to them and written again under the new key.
//! - The end of the hand-over removes what the old key opens. It waits for every server, unless it is forced.

use std::collections::BTreeMap;

use caelum_engine::master_key::{Holder, KeyPlace, Server, Wait, wait};
use caelum_model::{UnixMs, id::NodeId};
use caelum_store::{FactSwap, NoticeSwap, StoreError};

use super::{CURRENT, Current, Held, MasterKey, TRIES, about, holders, remember};
use crate::{
    secrets,
    vault::{self, VaultError},
};

/// Why a key was not replaced, or a hand-over not ended. In each case nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// Another one has begun and not ended.
    #[error(
        "a rotation of the master key is under way (number {generation}, by {by}): end its hand-over first, \
         with `caelum fleet rotate-key --finish`"
    )]
    UnderWay {
        /// Number of the key that is handed over.
        generation: u64,
        /// Who began it.
        by: String,
    },
    /// There is none to be ended.
    #[error("no rotation of the master key is under way")]
    NothingUnderWay,
    /// Nobody would have the new key.
    #[error(
        "this server finds its master key in {0}, where it cannot write a new one: give one that you keep, with \
         `caelum fleet rotate-key --key-file FILE`, and set it there afterwards"
    )]
    NeedsKey(&'static str),
    /// It was one before.
    #[error("this key is or was the master key of these records: give another one")]
    UsedBefore,
    /// Servers would be shut out.
    #[error("the hand-over cannot end yet: {}", told(.0))]
    Waiting(Vec<(Server, Wait)>),
    /// Servers would not take it up.
    #[error("the master key cannot be replaced yet: {}", told(.0))]
    TooOld(Vec<(Server, Wait)>),
    /// It cannot be read or written.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<StoreError> for RotationError {
    fn from(error: StoreError) -> Self {
        Self::Vault(error.into())
    }
}

fn told(waits: &[(Server, Wait)]) -> String {
    let each =
        waits.iter().map(|(server, wait)| format!("{} ({}) {}", server.name, server.node_id, wait.what()));
    each.collect::<Vec<_>>().join("; ")
}

/// The key as it is told: its number, and who holds which.
#[derive(Clone, Debug)]
pub struct KeyState {
    /// The current key's number.
    pub generation: u64,
    /// When it was made the current one; none for the first.
    pub changed_at_ms: Option<UnixMs>,
    /// By whom.
    pub changed_by: Option<String>,
    /// Whether the key before it is still good for taking it up.
    pub is_handing_over: bool,
    /// What servers wrote down.
    pub holders: BTreeMap<NodeId, Holder>,
}

impl KeyState {
    /// Why this server needs the hand-over; nothing where it does not.
    pub fn wait(&self, server: &Server) -> Option<Wait> {
        wait(server.is_active, self.holders.get(&server.node_id), self.generation)
    }

    fn waits(&self, servers: &[Server]) -> Vec<(Server, Wait)> {
        servers.iter().filter_map(|server| Some((server.clone(), self.wait(server)?))).collect()
    }
}

/// What became of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The new key's number.
    pub generation: u64,
    /// Secrets of notices that the old key did not open, and which stay as they are: they must be set again.
    pub not_opened: usize,
}

impl MasterKey {
    /// The key as it is told.
    pub async fn state(&self) -> Result<KeyState, VaultError> {
        let current = Current::read(&self.claim().await?)?;
        Ok(KeyState {
            generation: current.generation,
            changed_at_ms: current.changed_at_ms,
            changed_by: current.changed_by,
            is_handing_over: current.handover.is_some(),
            holders: holders(&self.store).await?,
        })
    }

    /// Replaces the key by one that was given, or by a fresh one where this server can keep it.
    pub async fn rotate(
        &self,
        given: Option<&str>,
        by: &str,
        now_ms: UnixMs,
        servers: &[Server],
        is_forced: bool,
    ) -> Result<Rotated, RotationError> {
        let secret = match (given, self.place) {
            (Some(given), _) => given.trim().to_owned(),
            (None, KeyPlace::File) => super::make_master_key(),
            (None, place) => return Err(RotationError::NeedsKey(place.name())),
        };
        // Said before anything is asked: it may be no key.
        let new = Held::new(&secret, 0, true)?;
        let state = self.state().await?;
        let too_old: Vec<_> =
            state.waits(servers).into_iter().filter(|(_, wait)| *wait == Wait::Unknown).collect();
        if !too_old.is_empty() && !is_forced {
            return Err(RotationError::TooOld(too_old));
        }
        for _ in 0..TRIES {
            let text = self.stamp().await?;
            let current = Current::read(&text)?;
            if current.handover.is_some() || current.generation != state.generation {
                let by = current.changed_by.unwrap_or_else(|| "another server".to_owned());
                return Err(RotationError::UnderWay { generation: current.generation, by });
            }
            if current.key_id == new.key_id || current.past.contains(&new.key_id) {
                return Err(RotationError::UsedBefore);
            }
            if let Some(rotated) = self.seal_anew(text, current, &new, by, now_ms).await? {
                tracing::info!(
                    code = "master_key.rotated",
                    generation = rotated.generation,
                    not_opened = rotated.not_opened,
                    "everything secret in the records is sealed under a new master key"
                );
                // What is written is true whether this server comes to hold it now or a moment later.
                if let Err(error) = self.take_up().await {
                    tracing::warn!(code = "master_key.not_taken_up", %error, "trying again");
                }
                return Ok(rotated);
            }
        }
        Err(VaultError::Contended.into())
    }

    /// Writes everything under the new key, in one transaction. None where somebody else wrote meanwhile.
    async fn seal_anew(
        &self,
        text: String,
        current: Current,
        new: &Held,
        by: &str,
        now_ms: UnixMs,
    ) -> Result<Option<Rotated>, VaultError> {
        let old = self.held();
        let generation = current.generation.saturating_add(1);
        let mut past = current.past;
        remember(&mut past, current.key_id);
        let next = Current {
            generation,
            handover: Some(old.handover.seal(&about(generation, &new.key_id), new.secret.as_bytes())),
            key_id: new.key_id.clone(),
            past,
            changed_at_ms: Some(now_ms),
            changed_by: Some(by.to_owned()),
        };
        // First the fact under which others write: they wait for the end of this, or this for theirs.
        let mut facts = vec![FactSwap { key: CURRENT, seen: Some(text.clone()), value: Some(next.write()) }];
        for name in vault::FACTS {
            let seen = self.store.fact(name).await?;
            let value = match seen.as_deref().map(|kept| vault::reseal(name, kept, &old.vault, &new.vault)) {
                // Another rotation was faster.
                Some(Err(VaultError::NotOurs(_)))
                    if self.store.fact(CURRENT).await?.as_ref() != Some(&text) =>
                {
                    return Ok(None);
                }
                resealed => resealed.transpose()?,
            };
            facts.push(FactSwap { key: name, seen, value });
        }
        let seen = self.store.notice_settings().await?;
        let mut value = seen.clone();
        let not_opened =
            value.as_mut().map_or(0, |settings| secrets::reseal(settings, &old.settings, &new.settings));
        let is_done = self.store.reseal(facts, NoticeSwap { seen, value }).await?;
        Ok(is_done.then_some(Rotated { generation, not_opened }))
    }

    /// Ends the hand-over: from then on the key before the current one opens nothing. Answers whom that shuts
    /// out, where it was forced.
    pub async fn finish(
        &self,
        servers: &[Server],
        is_forced: bool,
    ) -> Result<(u64, Vec<(Server, Wait)>), RotationError> {
        for _ in 0..TRIES {
            let text = self.stamp().await?;
            // What this server holds is known before it is asked for.
            self.take_up().await?;
            let mut current = Current::read(&text)?;
            if current.handover.take().is_none() {
                return Err(RotationError::NothingUnderWay);
            }
            let waits = self.state().await?.waits(servers);
            if !waits.is_empty() && !is_forced {
                return Err(RotationError::Waiting(waits));
            }
            if self.store.replace_fact(CURRENT, text, current.write()).await? {
                tracing::info!(
                    code = "master_key.finished",
                    generation = current.generation,
                    "the hand-over has ended: the key before this one opens nothing any more"
                );
                return Ok((current.generation, waits));
            }
        }
        Err(VaultError::Contended.into())
    }
}
