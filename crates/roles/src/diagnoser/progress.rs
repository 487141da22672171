//! How a diagnoser gets on, for its metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use caelum_model::{UnixMs, diagnosis::Label, rollup::MINUTE_MS};

use super::{located::Located, pairs::Pairs};

/// Numbers of a diagnoser since it started.
#[derive(Debug, Default)]
pub struct Progress {
    is_leading: AtomicBool,
    looks: AtomicU64,
    look_us: AtomicU64,
    now: Mutex<Standing>,
}

/// How it stands after its newest look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Pairs in memory.
    pub pairs: usize,
    /// Windows that were looked at as a whole.
    pub windows: u64,
    /// Time since the end of the newest of them, ms; none before the first.
    pub behind_ms: Option<i64>,
    /// Open incidents by label.
    pub open: BTreeMap<Label, u64>,
}

impl Progress {
    /// Whether it is this one's turn to judge.
    pub fn is_leading(&self) -> bool {
        self.is_leading.load(Ordering::Relaxed)
    }

    /// Looks at the store, and the time they took together.
    pub fn looks(&self) -> (u64, Duration) {
        let spent = Duration::from_micros(self.look_us.load(Ordering::Relaxed));
        (self.looks.load(Ordering::Relaxed), spent)
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_leading(&self, is_leading: bool) {
        self.is_leading.store(is_leading, Ordering::Relaxed);
    }

    pub(super) fn looked(&self, pairs: &Pairs, located: &Located, now_ms: UnixMs, spent: Duration) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.look_us.fetch_add(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let mut open: BTreeMap<Label, u64> = BTreeMap::new();
        for incident in located.open() {
            *open.entry(incident.label).or_default() += 1;
        }
        let behind_ms = located.newest_ms().map(|newest_ms| now_ms - newest_ms - MINUTE_MS);
        let standing = Standing { pairs: pairs.len(), windows: located.windows, behind_ms, open };
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}
