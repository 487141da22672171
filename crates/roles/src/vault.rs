//! The cluster's authority and keys in shared records, sealed, so that every server that holds the master key
//! can admit, sign and renew.
//!
//! # Purpose
//! Two facts of the records: the authority with its key, which never changes, and the cluster's keys, which
//! change with each revocation. Both are sealed with ChaCha20-Poly1305 under a key that comes from the master
//! key ([`crate::master_key`], where both are sealed anew when it is replaced); the fact's name and version go
//! into the seal, so that neither can be passed off as the other, nor an older one as a newer.
//!
//! # Rules
//! - The first server makes them. Of two that are first at once one is, and the other takes up what that one
//!   made, or is refused where it holds another master key.
//! - Keys are replaced only as they were seen: of two revocations at once each leaves a newer key.
//! - Nothing here is shown, not even by an error.

use std::sync::Arc;

use caelum_engine::timestamp;
use caelum_model::{UnixMs, cluster::ClusterKey};
use caelum_store::{Store, StoreError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::master_key::{Cipher, Held, MASTER_KEY_LENGTH_MIN, MasterKey};

/// The fact with the authority and its key.
const AUTHORITY: &str = "cluster_authority";
/// The fact with the cluster's keys.
const KEYS: &str = "cluster_keys";
/// Everything here that is sealed under the master key.
pub(crate) const FACTS: [&str; 2] = [AUTHORITY, KEYS];
/// How often a fact is read that was sealed under another key meanwhile.
const READS: usize = 4;
/// How often keys are tried to be replaced while others do the same.
const TRIES: usize = 32;

/// Why the vault does not open, or nothing can be put into it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The master key is another one, or somebody changed what is sealed.
    #[error("what is sealed in the records as {0} does not open with this master key")]
    NotOurs(&'static str),
    /// It was the key once.
    #[error(
        "the master key of these records was replaced{} and is number {generation} now: the one that this server \
         has opens nothing any more",
        .changed_at_ms.map_or_else(String::new, |at_ms| format!(" on {}", timestamp::iso(at_ms)))
    )]
    Replaced {
        /// The current key's number.
        generation: u64,
        /// When it was made the current one.
        changed_at_ms: Option<UnixMs>,
    },
    /// It is no key.
    #[error("a master key has at least {MASTER_KEY_LENGTH_MIN} characters")]
    TooShort,
    /// Others were faster, again and again.
    #[error("what is sealed in the records changes all the time")]
    Contended,
    /// The records could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a cluster is trusted by.
#[derive(Clone, Serialize, Deserialize)]
pub struct SealedAuthority {
    /// The authority's certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
}

/// A fact as it is kept.
#[derive(Serialize, Deserialize)]
struct Sealed {
    version: u64,
    sealed: String,
}

/// Whether records hold an authority already, whoever can open it.
pub async fn is_established(store: &Store) -> Result<bool, StoreError> {
    Ok(store.fact(AUTHORITY).await?.is_some())
}

/// See the file.
pub struct Vault {
    store: Arc<Store>,
    key: Arc<MasterKey>,
}

impl Vault {
    /// A vault that this master key opens, and whichever replaces it.
    pub fn new(store: Arc<Store>, key: Arc<MasterKey>) -> Self {
        Self { store, key }
    }

    /// The authority in the records, if there is one.
    pub async fn authority(&self) -> Result<Option<SealedAuthority>, VaultError> {
        Ok(self.read(AUTHORITY).await?.map(|read| read.what))
    }

    /// Puts the first authority there, unless another was faster; answers the one that holds.
    pub async fn establish_authority(&self, first: &SealedAuthority) -> Result<SealedAuthority, VaultError> {
        self.establish(AUTHORITY, first).await
    }

    /// Puts the first keys there, unless there are some; answers those that hold.
    pub async fn establish_keys(&self, first: &[ClusterKey]) -> Result<Vec<ClusterKey>, VaultError> {
        self.establish(KEYS, &first.to_vec()).await
    }

    /// The cluster's keys, newest last.
    pub async fn keys(&self) -> Result<Vec<ClusterKey>, VaultError> {
        Ok(self.read(KEYS).await?.map(|read| read.what).unwrap_or_default())
    }

    /// Replaces the keys by newer ones. Where another server did so since, these become newer than its.
    pub async fn replace_keys(&self, keys: &[ClusterKey]) -> Result<(), VaultError> {
        for _ in 0..TRIES {
            let Some(read) = self.read::<Vec<ClusterKey>>(KEYS).await? else {
                self.establish_keys(keys).await?;
                continue;
            };
            let there = read.what;
            if there == keys || there.iter().any(|known| keys.iter().all(|key| key.secret == known.secret)) {
                return Ok(());
            }
            let newest = there.iter().map(|key| key.generation).max().unwrap_or(0);
            let newer: Vec<ClusterKey> = keys
                .iter()
                .map(|key| ClusterKey {
                    generation: key.generation.max(newest.saturating_add(1)),
                    secret: key.secret.clone(),
                })
                .collect();
            // Under the key that opened what is replaced: a rotation since then has replaced that, too.
            let sealed = seal(&read.held.vault, KEYS, read.version.saturating_add(1), &plain(&newer));
            if self.store.replace_fact(KEYS, read.kept, sealed).await? {
                return Ok(());
            }
        }
        Err(VaultError::Contended)
    }

    async fn establish<T: Serialize + DeserializeOwned>(
        &self,
        name: &'static str,
        first: &T,
    ) -> Result<T, VaultError> {
        let sealed = seal(&self.key.held().vault, name, 1, &plain(first));
        self.store.claim_fact(name, sealed).await?;
        self.read(name).await?.map(|read| read.what).ok_or(VaultError::NotOurs(name))
    }

    /// What a fact holds. One that does not open may have been sealed under a newer key meanwhile.
    async fn read<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<Read<T>>, VaultError> {
        for _ in 0..READS {
            let held = self.key.held();
            let Some(kept) = self.store.fact(name).await? else { return Ok(None) };
            let opened = open(&held.vault, name, &kept)
                .and_then(|(version, plain)| Some((version, serde_json::from_slice(&plain).ok()?)));
            if let Some((version, what)) = opened {
                return Ok(Some(Read { kept, version, what, held }));
            }
            self.key.take_up().await?;
        }
        Err(VaultError::NotOurs(name))
    }
}

/// A fact that was opened, and by which key.
struct Read<T> {
    kept: String,
    version: u64,
    what: T,
    held: Arc<Held>,
}

/// The same fact, sealed under another key.
pub(crate) fn reseal(
    name: &'static str,
    kept: &str,
    old: &Cipher,
    new: &Cipher,
) -> Result<String, VaultError> {
    let (version, plain) = open(old, name, kept).ok_or(VaultError::NotOurs(name))?;
    Ok(seal(new, name, version.saturating_add(1), &plain))
}

fn plain<T: Serialize>(what: &T) -> Vec<u8> {
    serde_json::to_vec(what).expect("text has a JSON form")
}

fn seal(cipher: &Cipher, name: &str, version: u64, plain: &[u8]) -> String {
    let sealed = cipher.seal(&about(name, version), plain);
    serde_json::to_string(&Sealed { version, sealed }).expect("text has a JSON form")
}

fn open(cipher: &Cipher, name: &str, kept: &str) -> Option<(u64, Vec<u8>)> {
    let Sealed { version, sealed } = serde_json::from_str(kept).ok()?;
    Some((version, cipher.open(&about(name, version), &sealed)?))
}

/// What a seal is bound to.
fn about(name: &str, version: u64) -> String {
    format!("{name} {version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master_key::make_master_key;

    fn opened_by(store: &Arc<Store>, master: &str) -> Vault {
        let key = MasterKey::in_memory(Arc::clone(store), master).expect("a key");
        Vault::new(Arc::clone(store), key)
    }

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::open(&folder.path().join("caelum.db")).expect("opens");
        (folder, Arc::new(store))
    }

    fn key(generation: u32, secret: &str) -> ClusterKey {
        ClusterKey { generation, secret: secret.to_owned() }
    }

    fn authority(name: &str) -> SealedAuthority {
        SealedAuthority { certificate_pem: name.to_owned(), key_pem: format!("key of {name}") }
    }

    #[tokio::test]
    async fn of_two_first_servers_with_one_master_key_both_take_up_what_one_made() {
        let (_folder, store) = store();
        let master = make_master_key();
        let vaults = [&master, &master].map(|key| opened_by(&store, key));
        assert!(!is_established(&store).await.expect("asked"));
        assert!(vaults[0].authority().await.expect("asked").is_none());
        let (a, b) = (authority("a"), authority("b"));
        let (one, other) = tokio::join!(vaults[0].establish_authority(&a), vaults[1].establish_authority(&b));
        let (one, other) = (one.expect("agreed"), other.expect("agreed"));
        assert_eq!((one.certificate_pem, one.key_pem), (other.certificate_pem, other.key_pem));
        let keys = vaults[0].establish_keys(&[key(1, "x")]).await.expect("made");
        assert_eq!(vaults[1].establish_keys(&[key(1, "y")]).await.expect("agreed"), keys);
        assert!(is_established(&store).await.expect("asked"));
    }

    #[tokio::test]
    async fn another_master_key_opens_nothing_and_neither_does_a_fact_under_another_name() {
        let (_folder, store) = store();
        let vault = opened_by(&store, &make_master_key());
        vault.establish_authority(&authority("a")).await.expect("made");
        let other = opened_by(&store, &make_master_key());
        assert!(matches!(other.authority().await, Err(VaultError::NotOurs(_))));
        assert!(matches!(other.establish_authority(&authority("b")).await, Err(VaultError::NotOurs(_))));
        let sealed = store.fact(AUTHORITY).await.expect("read").expect("there");
        assert!(!sealed.contains("key of a"));
        store.put_fact(KEYS, sealed.clone()).await.expect("swapped");
        assert!(matches!(vault.keys().await, Err(VaultError::NotOurs(_))));
        store.put_fact(AUTHORITY, sealed.replace("\"version\":1", "\"version\":2")).await.expect("aged");
        assert!(matches!(vault.authority().await, Err(VaultError::NotOurs(_))));
        assert!(matches!(MasterKey::in_memory(store, "short"), Err(VaultError::TooShort)));
    }

    #[tokio::test]
    async fn of_two_revocations_at_once_each_leaves_a_newer_key() {
        let (_folder, store) = store();
        let vault = opened_by(&store, &make_master_key());
        vault.establish_keys(&[key(1, "old")]).await.expect("made");
        vault.replace_keys(&[key(2, "one")]).await.expect("replaced");
        vault.replace_keys(&[key(2, "other")]).await.expect("replaced");
        assert_eq!(vault.keys().await.expect("read"), [key(3, "other")]);
        vault.replace_keys(&[key(3, "other")]).await.expect("there already");
        assert_eq!(vault.keys().await.expect("read"), [key(3, "other")]);
    }
}
