//! Keys with a time to live. Sessions stand on it; leases and heartbeats of servers will.

use caelum_model::UnixMs;
use rusqlite::{OptionalExtension, params};

use super::Sqlite;
use crate::StoreError;

impl Sqlite {
    /// Stores a value that is gone at `expires_at_ms`, whatever was under the key before.
    pub async fn put_key(&self, key: String, value: String, expires_at_ms: UnixMs) -> Result<(), StoreError> {
        self.write("store a key", move |transaction| {
            transaction.execute(
                "insert into coordination (key, value, version, expires_at_ms) values (?1, ?2, 1, ?3)
                 on conflict (key) do update set
                    value = excluded.value, expires_at_ms = excluded.expires_at_ms, version = version + 1",
                params![key, value, expires_at_ms],
            )?;
            Ok(())
        })
        .await
    }

    /// The value under a key, unless its time is over.
    pub async fn key(&self, key: String, now_ms: UnixMs) -> Result<Option<(String, UnixMs)>, StoreError> {
        self.read("read a key", move |connection| {
            connection
                .prepare_cached(
                    "select value, expires_at_ms from coordination where key = ?1 and expires_at_ms > ?2",
                )?
                .query_row(params![key, now_ms], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .await
    }

    /// How many keys with a prefix still live.
    pub async fn count_keys(&self, prefix: String, now_ms: UnixMs) -> Result<usize, StoreError> {
        self.read("count keys", move |connection| {
            connection
                .prepare_cached(
                    "select count(*) from coordination
                     where substr(key, 1, length(?1)) = ?1 and expires_at_ms > ?2",
                )?
                .query_row(params![prefix, now_ms], |row| row.get::<_, i64>(0))
                .map(|count| usize::try_from(count).unwrap_or(0))
        })
        .await
    }

    /// Removes a key.
    pub async fn delete_key(&self, key: String) -> Result<(), StoreError> {
        self.write("remove a key", move |transaction| {
            transaction.execute("delete from coordination where key = ?1", params![key])?;
            Ok(())
        })
        .await
    }

    /// Removes every key that starts with a prefix and holds this value.
    pub async fn delete_keys_with_value(&self, prefix: String, value: String) -> Result<usize, StoreError> {
        self.write("remove keys", move |transaction| {
            transaction.execute(
                "delete from coordination where substr(key, 1, length(?1)) = ?1 and value = ?2",
                params![prefix, value],
            )
        })
        .await
    }

    /// Removes what has expired.
    pub async fn sweep_keys(&self, now_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("sweep expired keys", move |transaction| {
            transaction.execute("delete from coordination where expires_at_ms <= ?1", params![now_ms])
        })
        .await
    }
}
