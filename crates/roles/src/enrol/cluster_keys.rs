//! The keys by which beacons and membership prove to be of the cluster, in memory and where they are kept.
//!
//! A revocation makes the next one. Where and how they are written comes in as a function.

use std::{
    io,
    sync::{Arc, Mutex, RwLock},
};

use caelum_drivers::random;
use caelum_model::cluster::ClusterKey;

/// Writes down the keys of the cluster.
pub type PersistKeys = Arc<dyn Fn(&[ClusterKey]) -> io::Result<()> + Send + Sync>;

/// The keys of the cluster, in memory and where they are written down.
pub(super) struct Keys {
    keys: RwLock<Vec<ClusterKey>>,
    persist: PersistKeys,
    /// Held while writing, so that what is written last is what holds.
    turn: Mutex<()>,
}

impl Keys {
    pub(super) fn new(keys: Vec<ClusterKey>, persist: PersistKeys) -> Self {
        Self { keys: RwLock::new(keys), persist, turn: Mutex::default() }
    }

    /// Keys, newest last.
    pub(super) fn get(&self) -> Vec<ClusterKey> {
        self.keys.read().expect("no code panics while it holds this lock").clone()
    }

    /// Takes up keys that another server wrote down. Older ones than those held are no news: what was made here
    /// is on its way to be written.
    pub(super) fn take_up(&self, written: Vec<ClusterKey>) -> bool {
        let newest = |keys: &[ClusterKey]| keys.iter().map(|key| key.generation).max().unwrap_or(0);
        let mut keys = self.keys.write().expect("no code panics while it holds this lock");
        let is_news = !written.is_empty() && *keys != written && newest(&written) >= newest(&keys);
        if is_news {
            *keys = written;
        }
        is_news
    }

    /// Makes the next generation of the key and forgets the others.
    pub(super) fn next(&self) {
        let mut keys = self.keys.write().expect("no code panics while it holds this lock");
        let newest = keys.iter().map(|key| key.generation).max().unwrap_or(0);
        *keys = vec![new_key(newest.saturating_add(1))];
    }

    /// Writes down the keys as they are then. Answers whether that was possible; if not, it is in the log.
    pub(super) async fn keep(self: &Arc<Self>) -> bool {
        let keys = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let _turn = keys.turn.lock();
            (keys.persist)(&keys.get())
        });
        match written.await {
            Ok(Ok(())) => true,
            failed => {
                tracing::error!(
                    code = "enrol.keys_not_kept",
                    ?failed,
                    "the new cluster key could not be written down; trying again"
                );
                false
            }
        }
    }
}

/// A fresh key of the cluster.
pub fn new_key(generation: u32) -> ClusterKey {
    let mut secret = [0; 32];
    random::fill(&mut secret);
    ClusterKey { generation, secret: secret.iter().map(|byte| format!("{byte:02x}")).collect() }
}
