//! A mailbox in Redis: a key a place, under a prefix that an account can be limited to.
//!
//! A machine needs `SET` and `GET` and nothing else. Redis cannot limit how large a value is; servers throw away what
//! is too large without reading it, at each look.

use std::sync::LazyLock;

use caelum_engine::mailbox::{
    ANSWER_BYTES_MAX, ANSWER_LIVES_MS, REQUEST_BYTES_MAX, REQUEST_LIVES_MS, SIGN_LIVES_MS, SLOTS, slot_name,
};
use redis::Script;

use super::SIGN_BYTES_MAX;
use crate::{
    CoordinationError,
    coordination::{redis::Redis, space},
};

/// Reads a key unless it is too large.
static READ: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local size = redis.pcall('STRLEN', KEYS[1])
         if type(size) == 'table' or size > tonumber(ARGV[1]) then redis.call('DEL', KEYS[1]) return '' end
         return redis.call('GET', KEYS[1]) or ''",
    )
});
/// Takes out what there is, up to a number. What is too large, or no text, goes.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local found = {}
         for _, key in ipairs(KEYS) do
             local size = redis.pcall('STRLEN', key)
             if type(size) == 'table' or size > tonumber(ARGV[1]) then
                 redis.call('DEL', key)
             elseif size > 0 and #found < tonumber(ARGV[2]) then
                 found[#found + 1] = redis.call('GET', key)
                 redis.call('DEL', key)
             end
         end
         return found",
    )
});

/// See the file.
#[derive(Clone)]
pub(super) struct RedisMailbox {
    redis: Redis,
    prefix: String,
}

impl RedisMailbox {
    pub(super) fn open(url: &str, of: &str) -> Result<Self, CoordinationError> {
        Ok(Self { redis: Redis::open(url, of)?, prefix: prefix(of) })
    }

    pub(super) fn place(&self) -> &str {
        self.redis.place()
    }

    pub(super) async fn sign(&self) -> Result<Option<String>, CoordinationError> {
        self.get("read the sign", format!("{}sign", self.prefix)).await
    }

    pub(super) async fn post(&self, slot: &str, request: &str) -> Result<bool, CoordinationError> {
        let mut command = redis::cmd("SET");
        command.arg(format!("{}q:{slot}", self.prefix)).arg(request);
        command.arg("NX").arg("PX").arg(REQUEST_LIVES_MS);
        let done: Option<String> = self.redis.say("leave a request", &command).await?;
        Ok(done.is_some())
    }

    pub(super) async fn answer(&self, request_id: &str) -> Result<Option<String>, CoordinationError> {
        self.get("read an answer", format!("{}a:{request_id}", self.prefix)).await
    }

    pub(super) async fn hang_out(&self, sign: &str) -> Result<String, CoordinationError> {
        let operation = "hang out a sign";
        let key = format!("{}sign", self.prefix);
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(sign).arg("NX").arg("PX").arg(SIGN_LIVES_MS);
        let done: Option<String> = self.redis.say(operation, &command).await?;
        if done.is_some() {
            return Ok(sign.to_owned());
        }
        let hangs: String = self.redis.run(operation, &READ, &[key], &[SIGN_BYTES_MAX.to_string()]).await?;
        Ok(hangs)
    }

    pub(super) async fn take(&self, first: u8, most: usize) -> Result<Vec<String>, CoordinationError> {
        let keys: Vec<String> =
            (0..SLOTS).map(|nth| format!("{}q:{}", self.prefix, slot_name((first + nth) % SLOTS))).collect();
        let found: Vec<Vec<u8>> = self
            .redis
            .run("take requests", &TAKE, &keys, &[REQUEST_BYTES_MAX.to_string(), most.to_string()])
            .await?;
        // What is no text is no request.
        Ok(found.into_iter().filter_map(|bytes| String::from_utf8(bytes).ok()).collect())
    }

    pub(super) async fn reply(&self, request_id: &str, answer: &str) -> Result<(), CoordinationError> {
        let mut command = redis::cmd("SET");
        command.arg(format!("{}a:{request_id}", self.prefix)).arg(answer).arg("PX").arg(ANSWER_LIVES_MS);
        let _: Option<String> = self.redis.say("leave an answer", &command).await?;
        Ok(())
    }

    async fn get(&self, operation: &'static str, key: String) -> Result<Option<String>, CoordinationError> {
        let mut command = redis::cmd("GET");
        command.arg(key);
        let bytes: Option<Vec<u8>> = self.redis.say(operation, &command).await?;
        let is_fine = |bytes: &Vec<u8>| bytes.len() <= ANSWER_BYTES_MAX;
        Ok(bytes.filter(is_fine).and_then(|bytes| String::from_utf8(bytes).ok()))
    }
}

/// What stands before every key of a cluster's mailbox.
pub(super) fn prefix(of: &str) -> String {
    format!("{}join:", space::prefix(of))
}
