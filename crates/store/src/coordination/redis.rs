//! Keys in Redis: a hash each, with the value and the number of its last write, and Redis' own expiry.
//!
//! Each write is one script, so that nothing comes between the look and the write. Numbers come from a counter
//! that is never behind Redis' clock in milliseconds: a Redis that forgot everything goes on above what it gave
//! out before, as long as its clock is not set back.

use std::{
    sync::{Arc, LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use redis::{
    Client, FromRedisValue, RedisError, Script, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use super::{
    CALL_MAX, CoordinationError, KeptKey,
    address::{split_authorities, without_secret},
    space,
};

/// Longest wait for a connection, and for an answer on one.
const CONNECT_MAX: Duration = Duration::from_millis(1_500);
const ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// Keys that one step of a listing looks at.
const STEP: usize = 500;
/// Steps of a listing, so that a Redis full of other things does not hold a caller for ever.
const STEPS_MAX: usize = 2_000;

/// Before a write: the next number.
const NEXT: &str = "
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local n = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, now)
local version = string.format('%.0f', n)
redis.call('SET', KEYS[2], version)
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'n', version)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return version";

static PUT: LazyLock<Script> = LazyLock::new(|| Script::new(NEXT));
static COMPARE_AND_PUT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!("if (redis.call('HGET', KEYS[1], 'n') or '') ~= ARGV[3] then return '' end{NEXT}"))
});
static GET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local kept = redis.call('HMGET', KEYS[1], 'v', 'n')
         if not kept[1] or not kept[2] then return {} end
         return {kept[1], kept[2], tostring(redis.call('PTTL', KEYS[1]))}",
    )
});
static DELETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if ARGV[1] ~= '' and (redis.call('HGET', KEYS[1], 'n') or '') ~= ARGV[1] then return '0' end
         return tostring(redis.call('DEL', KEYS[1]))",
    )
});

/// See the file.
#[derive(Clone)]
pub(crate) struct Redis {
    client: Client,
    /// Replaced when it does not answer: what is on a dead connection would wait for ever.
    manager: Arc<Mutex<Option<ConnectionManager>>>,
    place: Arc<str>,
    prefix: Arc<str>,
}

impl Redis {
    pub(crate) fn open(url: &str, of: &str) -> Result<Self, CoordinationError> {
        let place = without_secret(url);
        let failed = |detail: String| CoordinationError {
            operation: "read the address",
            place: place.clone(),
            detail,
            is_transient: false,
        };
        let (url, authorities) = split_authorities(url);
        let client = match authorities {
            Some(path) => {
                let pem =
                    std::fs::read(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
                Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert: Some(pem) })
            }
            None => Client::open(url),
        };
        let client = client.map_err(|error| failed(error.category().to_owned()))?;
        Ok(Self { client, manager: Arc::default(), place: place.into(), prefix: space::prefix(of).into() })
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(super) async fn put(&self, key: &str, value: &str, lives_ms: i64) -> Result<u64, CoordinationError> {
        let lives_ms = lives_ms.max(1).to_string();
        let version: String = self.call("put", &PUT, key, &[value, &lives_ms]).await?;
        self.number("put", &version)
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<KeptKey>, CoordinationError> {
        let kept: Vec<String> = self.call("get", &GET, key, &[]).await?;
        let [value, version, lives_ms] = <[String; 3]>::try_from(kept).unwrap_or_default();
        if version.is_empty() {
            return Ok(None);
        }
        let lives_ms = lives_ms.parse().unwrap_or(0);
        let version = self.number("get", &version)?;
        // What has no end was not written by this program, and what is over lives no more.
        Ok((lives_ms > 0).then(|| KeptKey { key: key.to_owned(), value, version, lives_ms }))
    }

    pub(super) async fn list(&self, prefix: &str, limit: usize) -> Result<Vec<KeptKey>, CoordinationError> {
        let start = format!("{}k:", self.prefix);
        let pattern = format!("{}{}*", space::glob(&start), space::glob(prefix));
        let mut keys: Vec<String> = Vec::new();
        let mut cursor = "0".to_owned();
        for _ in 0..STEPS_MAX {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
            let mut manager = self.manager("list")?;
            let (next, found): (String, Vec<String>) =
                self.ask("list", command.query_async(&mut manager)).await?;
            keys.extend(found.iter().filter_map(|key| key.strip_prefix(&start)).map(str::to_owned));
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        // A key may come twice while Redis moves its table.
        keys.sort_unstable();
        keys.dedup();
        let mut kept = Vec::new();
        for key in keys {
            if kept.len() >= limit {
                break;
            }
            kept.extend(self.get(&key).await?);
        }
        Ok(kept)
    }

    pub(super) async fn delete(&self, key: &str, seen: Option<u64>) -> Result<bool, CoordinationError> {
        let seen = seen.map_or_else(String::new, |seen| seen.to_string());
        let gone: String = self.call("delete", &DELETE, key, &[&seen]).await?;
        Ok(gone != "0")
    }

    pub(super) async fn compare_and_put(
        &self,
        key: &str,
        seen: Option<u64>,
        value: &str,
        lives_ms: i64,
    ) -> Result<Option<u64>, CoordinationError> {
        let seen = seen.map_or_else(String::new, |seen| seen.to_string());
        let lives_ms = lives_ms.max(1).to_string();
        let arguments = [value, &lives_ms, &seen];
        let version: String = self.call("compare and put", &COMPARE_AND_PUT, key, &arguments).await?;
        if version.is_empty() { Ok(None) } else { self.number("compare and put", &version).map(Some) }
    }

    /// Runs a script on a key. The counter is its second key.
    async fn call<T: FromRedisValue>(
        &self,
        operation: &'static str,
        script: &Script,
        key: &str,
        arguments: &[&str],
    ) -> Result<T, CoordinationError> {
        let mut call = script.prepare_invoke();
        call.key(format!("{}k:{key}", self.prefix)).key(format!("{}n", self.prefix));
        for argument in arguments {
            call.arg(*argument);
        }
        let mut manager = self.manager(operation)?;
        self.ask(operation, call.invoke_async(&mut manager)).await
    }

    /// Runs a script on these keys, as they are.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        operation: &'static str,
        script: &Script,
        keys: &[String],
        arguments: &[String],
    ) -> Result<T, CoordinationError> {
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        for argument in arguments {
            call.arg(argument);
        }
        let mut manager = self.manager(operation)?;
        self.ask(operation, call.invoke_async(&mut manager)).await
    }

    /// Says one command.
    pub(crate) async fn say<T: FromRedisValue>(
        &self,
        operation: &'static str,
        command: &redis::Cmd,
    ) -> Result<T, CoordinationError> {
        let mut manager = self.manager(operation)?;
        self.ask(operation, command.query_async(&mut manager)).await
    }

    /// Waits for an answer. A connection that was lost, or does not answer, is made anew for the next call.
    async fn ask<T>(
        &self,
        operation: &'static str,
        asked: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, CoordinationError> {
        let answer = match tokio::time::timeout(CALL_MAX, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                self.forget();
                return Err(self.failed(operation, "no answer in time".to_owned(), true));
            }
        };
        answer.map_err(|error| {
            if error.is_timeout() || error.is_connection_dropped() {
                self.forget();
            }
            let is_away = error.is_io_error()
                || error.is_timeout()
                || error.is_connection_dropped()
                || matches!(error.code(), Some("LOADING" | "BUSY" | "READONLY" | "MASTERDOWN" | "TRYAGAIN"));
            self.failed(operation, error.to_string(), is_away)
        })
    }

    fn manager(&self, operation: &'static str) -> Result<ConnectionManager, CoordinationError> {
        let mut kept = self.kept();
        if let Some(manager) = kept.as_ref() {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(ANSWER_MAX));
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            .map_err(|error| self.failed(operation, error.to_string(), true))?;
        *kept = Some(made.clone());
        Ok(made)
    }

    fn kept(&self) -> MutexGuard<'_, Option<ConnectionManager>> {
        self.manager.lock().expect("no code panics while it holds this lock")
    }

    fn forget(&self) {
        *self.kept() = None;
    }

    fn failed(&self, operation: &'static str, detail: String, is_transient: bool) -> CoordinationError {
        CoordinationError { operation, place: self.place.to_string(), detail, is_transient }
    }

    fn number(&self, operation: &'static str, text: &str) -> Result<u64, CoordinationError> {
        text.parse()
            .map_err(|_| self.failed(operation, "somebody else wrote under this key".to_owned(), false))
    }
}
