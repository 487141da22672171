//! Keys in this process, for tests and for what is alone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use caelum_model::UnixMs;

use super::{KeptKey, Now, end_ms};

/// See the file.
#[derive(Clone)]
pub(super) struct Memory {
    now: Now,
    keys: Arc<Mutex<Keys>>,
}

#[derive(Default)]
struct Keys {
    newest: u64,
    by_key: BTreeMap<String, Kept>,
}

struct Kept {
    value: String,
    version: u64,
    expires_at_ms: UnixMs,
}

impl Memory {
    pub(super) fn new(now: Now) -> Self {
        Self { now, keys: Arc::default() }
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn put(&self, key: &str, value: &str, lives_ms: i64) -> u64 {
        let expires_at_ms = end_ms((self.now)(), lives_ms);
        let mut keys = self.keys();
        keys.newest += 1;
        let version = keys.newest;
        keys.by_key.insert(key.to_owned(), Kept { value: value.to_owned(), version, expires_at_ms });
        version
    }

    pub(super) fn get(&self, key: &str) -> Option<KeptKey> {
        let now_ms = (self.now)();
        self.keys().by_key.get(key).and_then(|kept| kept.living(key, now_ms))
    }

    pub(super) fn list(&self, prefix: &str, limit: usize) -> Vec<KeptKey> {
        let now_ms = (self.now)();
        let keys = self.keys();
        let from = keys.by_key.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        from.filter_map(|(key, kept)| kept.living(key, now_ms)).take(limit).collect()
    }

    pub(super) fn delete(&self, key: &str, seen: Option<u64>) -> bool {
        let mut keys = self.keys();
        let is_seen = keys.by_key.get(key).is_some_and(|kept| seen.is_none_or(|seen| seen == kept.version));
        is_seen && keys.by_key.remove(key).is_some()
    }

    pub(super) fn compare_and_put(
        &self,
        key: &str,
        seen: Option<u64>,
        value: &str,
        lives_ms: i64,
    ) -> Option<u64> {
        let now_ms = (self.now)();
        let mut keys = self.keys();
        let there = keys.by_key.get(key).filter(|kept| kept.expires_at_ms > now_ms);
        if there.map(|kept| kept.version) != seen {
            return None;
        }
        keys.newest += 1;
        let version = keys.newest;
        let expires_at_ms = end_ms(now_ms, lives_ms);
        keys.by_key.insert(key.to_owned(), Kept { value: value.to_owned(), version, expires_at_ms });
        Some(version)
    }
}

impl Kept {
    fn living(&self, key: &str, now_ms: UnixMs) -> Option<KeptKey> {
        (self.expires_at_ms > now_ms).then(|| KeptKey {
            key: key.to_owned(),
            value: self.value.clone(),
            version: self.version,
            lives_ms: self.expires_at_ms - now_ms,
        })
    }
}
