//! A small space of keys with a time to live, shared by servers: who is alive, whose turn it is, who is signed
//! in.
//!
//! # Purpose
//! [`Coordination`] is one handle over several backends that behave alike: the records themselves (SQLite,
//! PostgreSQL), Redis, a shared directory, and memory for tests. One suite of promises runs on all of them.
//!
//! # Rules
//! - Whether a time is over is said by the backend's own clock. What comes back is how long a key still lives,
//!   never when it ends.
//! - Each write has a number, and numbers of a key only grow, also over its removal: a fence. A write that
//!   compares is refused where the last write is not the one seen.
//! - Everything is bounded: keys, values, how many a list answers, how long a call takes.
//! - A backend that is away makes calls fail, within seconds, and is used again when it is back.
//!
//! # What it does not do
//! It is no store: whoever writes here must be able to lose it. What may not be lost is in the records.

pub(crate) mod address;
mod file;
pub(crate) mod hanging;
mod memory;
pub(crate) mod redis;
pub(crate) mod space;

use std::{sync::Arc, time::Duration};

pub use address::{CoordinationAddress, InvalidCoordination};
use caelum_model::UnixMs;

use self::{file::SharedFolder, memory::Memory, redis::Redis};
use crate::{Store, StoreError};

/// Most bytes of a key.
pub const KEY_BYTES_MAX: usize = 200;
/// Most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Longest that a call takes.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(3);

/// What lives under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptKey {
    /// Which.
    pub key: String,
    /// What.
    pub value: String,
    /// Number of its last write.
    pub version: u64,
    /// How long it lives from now on, by the backend's clock, ms.
    pub lives_ms: i64,
}

/// Why a call did not happen.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} at {place}: {detail}")]
pub struct CoordinationError {
    /// What was tried.
    pub operation: &'static str,
    /// Where; without a password.
    pub place: String,
    /// What happened.
    pub detail: String,
    /// Whether the same call may succeed later without anybody changing anything.
    pub is_transient: bool,
}

/// The time of the caller, for the one backend that has no other clock: a file of SQLite.
pub type Now = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// See the file.
#[derive(Clone)]
pub struct Coordination {
    backend: Backend,
}

#[derive(Clone)]
enum Backend {
    Records(Arc<Store>, Now),
    Redis(Box<Redis>),
    Folder(SharedFolder),
    Memory(Memory),
}

impl Coordination {
    /// On the records. `now` counts only where they are a file of this machine.
    pub fn on_records(store: Arc<Store>, now: Now) -> Self {
        Self { backend: Backend::Records(store, now) }
    }

    /// In this process alone.
    pub fn in_memory(now: Now) -> Self {
        Self { backend: Backend::Memory(Memory::new(now)) }
    }

    /// At an address. `space` keeps clusters apart that share a backend.
    ///
    /// Nothing is asked of the backend yet: one that is away may come back.
    pub fn open(address: &CoordinationAddress, space: &str) -> Result<Self, CoordinationError> {
        Ok(Self {
            backend: match address {
                CoordinationAddress::Redis(url) => Backend::Redis(Box::new(Redis::open(url, space)?)),
                CoordinationAddress::Folder(path) => Backend::Folder(SharedFolder::open(path, space)?),
            },
        })
    }

    /// What kind of backend it is: `sqlite`, `postgres`, `redis`, `file` or `memory`.
    pub fn kind(&self) -> &'static str {
        match &self.backend {
            Backend::Records(store, _) if store.is_shared() => "postgres",
            Backend::Records(..) => "sqlite",
            Backend::Redis(_) => "redis",
            Backend::Folder(_) => "file",
            Backend::Memory(_) => "memory",
        }
    }

    /// Where it is, without a password; empty for what has no place of its own.
    pub fn place(&self) -> String {
        match &self.backend {
            Backend::Records(store, _) => store.place(),
            Backend::Redis(redis) => redis.place().to_owned(),
            Backend::Folder(folder) => folder.place(),
            Backend::Memory(_) => String::new(),
        }
    }

    /// Stores a value for a time, whatever was there before; answers the number of this write.
    pub async fn put(&self, key: &str, value: &str, lives: Duration) -> Result<u64, CoordinationError> {
        self.check("put", key, value)?;
        let lives_ms = ms(lives);
        match &self.backend {
            Backend::Records(store, now) => {
                self.of_records("put", store.put_key(key.to_owned(), value.to_owned(), now(), lives_ms).await)
            }
            Backend::Redis(redis) => redis.put(key, value, lives_ms).await,
            Backend::Folder(folder) => folder.put(key, value, lives_ms).await,
            Backend::Memory(memory) => Ok(memory.put(key, value, lives_ms)),
        }
    }

    /// What lives under a key.
    pub async fn get(&self, key: &str) -> Result<Option<KeptKey>, CoordinationError> {
        self.check("get", key, "")?;
        match &self.backend {
            Backend::Records(store, now) => self.of_records("get", store.key(key.to_owned(), now()).await),
            Backend::Redis(redis) => redis.get(key).await,
            Backend::Folder(folder) => folder.get(key).await,
            Backend::Memory(memory) => Ok(memory.get(key)),
        }
    }

    /// What lives under keys with a prefix, in the order of the keys, at most `limit`.
    pub async fn list(&self, prefix: &str, limit: usize) -> Result<Vec<KeptKey>, CoordinationError> {
        self.check("list", prefix, "")?;
        match &self.backend {
            Backend::Records(store, now) => {
                self.of_records("list", store.keys(prefix.to_owned(), now(), limit).await)
            }
            Backend::Redis(redis) => redis.list(prefix, limit).await,
            Backend::Folder(folder) => folder.list(prefix, limit).await,
            Backend::Memory(memory) => Ok(memory.list(prefix, limit)),
        }
    }

    /// Removes a key, whoever wrote it.
    pub async fn delete(&self, key: &str) -> Result<(), CoordinationError> {
        self.check("delete", key, "")?;
        match &self.backend {
            Backend::Records(store, _) => self.of_records("delete", store.delete_key(key.to_owned()).await),
            Backend::Redis(redis) => redis.delete(key, None).await.map(drop),
            Backend::Folder(folder) => folder.delete(key, None).await.map(drop),
            Backend::Memory(memory) => {
                memory.delete(key, None);
                Ok(())
            }
        }
    }

    /// Removes a key if its last write is the one seen. Answers whether it was.
    pub async fn delete_at(&self, key: &str, seen: u64) -> Result<bool, CoordinationError> {
        self.check("delete", key, "")?;
        match &self.backend {
            Backend::Records(store, _) => {
                self.of_records("delete", store.delete_key_at(key.to_owned(), seen).await)
            }
            Backend::Redis(redis) => redis.delete(key, Some(seen)).await,
            Backend::Folder(folder) => folder.delete(key, Some(seen)).await,
            Backend::Memory(memory) => Ok(memory.delete(key, Some(seen))),
        }
    }

    /// Stores a value if the last write of the key is the one seen, `None` for "nothing lives there". Answers
    /// the number of this write, or nothing where another was faster.
    pub async fn compare_and_put(
        &self,
        key: &str,
        seen: Option<u64>,
        value: &str,
        lives: Duration,
    ) -> Result<Option<u64>, CoordinationError> {
        self.check("compare and put", key, value)?;
        let lives_ms = ms(lives);
        match &self.backend {
            Backend::Records(store, now) => {
                let done =
                    store.compare_and_put_key(key.to_owned(), seen, value.to_owned(), now(), lives_ms).await;
                self.of_records("compare and put", done)
            }
            Backend::Redis(redis) => redis.compare_and_put(key, seen, value, lives_ms).await,
            Backend::Folder(folder) => folder.compare_and_put(key, seen, value, lives_ms).await,
            Backend::Memory(memory) => Ok(memory.compare_and_put(key, seen, value, lives_ms)),
        }
    }

    fn of_records<T>(
        &self,
        operation: &'static str,
        answer: Result<T, StoreError>,
    ) -> Result<T, CoordinationError> {
        answer.map_err(|error| CoordinationError {
            operation,
            place: self.place(),
            is_transient: error.is_transient(),
            detail: match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        })
    }

    fn check(&self, operation: &'static str, key: &str, value: &str) -> Result<(), CoordinationError> {
        let is_key = key.len() <= KEY_BYTES_MAX && key.bytes().all(|byte| byte.is_ascii_graphic());
        if is_key && value.len() <= VALUE_BYTES_MAX {
            return Ok(());
        }
        let detail = format!(
            "keys are at most {KEY_BYTES_MAX} visible ASCII characters, and values at most {VALUE_BYTES_MAX} bytes"
        );
        Err(CoordinationError { operation, place: self.place(), detail, is_transient: false })
    }
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// When a time that begins now is over.
pub(crate) fn end_ms(now_ms: UnixMs, lives_ms: i64) -> UnixMs {
    now_ms.saturating_add(lives_ms)
}
