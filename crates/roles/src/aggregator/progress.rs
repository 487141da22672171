//! What an aggregator is doing, for its metrics, its health and the beat that others see.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use caelum_model::id::{Offset, PartitionId};

/// One partition in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its fence.
    pub fence: u64,
    /// Everything through here is committed.
    pub committed: Offset,
    /// Windows in memory.
    pub windows: usize,
}

/// Counters since the process started, and the partitions in hand.
#[derive(Debug, Default)]
pub struct Progress {
    /// Name of the machine, for people.
    host: String,
    /// Distinct events counted.
    pub counted: AtomicU64,
    /// Duplicates left out.
    pub duplicates: AtomicU64,
    /// Events too old to be counted.
    pub too_late: AtomicU64,
    /// Events kept aside that were counted after all.
    pub replayed: AtomicU64,
    /// Rows written, longer windows included.
    pub rows: AtomicU64,
    /// Commits done.
    pub commits: AtomicU64,
    /// Commits that the store refused for the moment, and that were tried again.
    pub commits_retried: AtomicU64,
    /// Time spent in commits, µs.
    pub commit_us: AtomicU64,
    /// Records that could not be read.
    pub damaged: AtomicU64,
    /// Times a partition was taken.
    pub taken: AtomicU64,
    held: Mutex<BTreeMap<PartitionId, Held>>,
}

impl Progress {
    /// Nothing done yet, on a machine of this name.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), ..Self::default() }
    }

    /// The partitions in hand.
    pub fn held(&self) -> BTreeMap<PartitionId, Held> {
        self.held.lock().expect("no code panics while it holds this lock").clone()
    }

    pub(super) fn hold(&self, partition: PartitionId, held: Held) {
        self.held.lock().expect("no code panics while it holds this lock").insert(partition, held);
    }

    pub(super) fn drop_held(&self, partition: PartitionId) {
        self.held.lock().expect("no code panics while it holds this lock").remove(&partition);
    }

    /// What others see of this aggregator beside its name.
    pub(super) fn document(&self) -> String {
        let windows: usize = self.held().values().map(|held| held.windows).sum();
        serde_json::json!({
            "host": self.host,
            "version": env!("CARGO_PKG_VERSION"),
            "windows": windows,
            "counted": self.counted.load(Ordering::Relaxed),
        })
        .to_string()
    }
}
