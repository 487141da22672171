//! Keys with a time to live, each with the number of its last write. Sessions, leases and, where nothing else
//! is set, servers' heartbeats stand on it.
//!
//! The file is one machine's, so that its clock is the caller's.

use caelum_model::UnixMs;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::Sqlite;
use crate::{KeptKey, StoreError, coordination::end_ms};

impl Sqlite {
    /// Stores a value for a time, whatever was under the key before, and answers the number of this write.
    pub async fn put_key(
        &self,
        key: String,
        value: String,
        now_ms: UnixMs,
        lives_ms: i64,
    ) -> Result<u64, StoreError> {
        self.write("store a key", move |transaction| put(transaction, &key, &value, end_ms(now_ms, lives_ms)))
            .await
    }

    /// What is under a key, unless its time is over.
    pub async fn key(&self, key: String, now_ms: UnixMs) -> Result<Option<KeptKey>, StoreError> {
        self.read("read a key", move |connection| {
            connection
                .prepare_cached(
                    "select key, value, version, expires_at_ms from coordination
                     where key = ?1 and expires_at_ms > ?2",
                )?
                .query_row(params![key, now_ms], |row| kept(row, now_ms))
                .optional()
        })
        .await
    }

    /// Keys with a prefix that still live, in order.
    pub async fn keys(
        &self,
        prefix: String,
        now_ms: UnixMs,
        limit: usize,
    ) -> Result<Vec<KeptKey>, StoreError> {
        self.read("list keys", move |connection| {
            connection
                .prepare_cached(
                    "select key, value, version, expires_at_ms from coordination
                     where substr(key, 1, length(?1)) = ?1 and expires_at_ms > ?2 order by key limit ?3",
                )?
                .query_map(params![prefix, now_ms, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                    kept(row, now_ms)
                })?
                .collect()
        })
        .await
    }

    /// Stores a value if the last write of the key is still the one seen; `None` where nothing may live there.
    /// Answers the number of this write, or nothing where another was faster.
    pub async fn compare_and_put_key(
        &self,
        key: String,
        seen: Option<u64>,
        value: String,
        now_ms: UnixMs,
        lives_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        self.write("compare and store a key", move |transaction| {
            let there: Option<i64> = transaction
                .prepare_cached("select version from coordination where key = ?1 and expires_at_ms > ?2")?
                .query_row(params![key, now_ms], |row| row.get(0))
                .optional()?;
            if there.map(i64::cast_unsigned) != seen {
                return Ok(None);
            }
            put(transaction, &key, &value, end_ms(now_ms, lives_ms)).map(Some)
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

    /// Removes a key if its last write is still the one seen.
    pub async fn delete_key_at(&self, key: String, seen: u64) -> Result<bool, StoreError> {
        self.write("remove a key", move |transaction| {
            let gone = transaction.execute(
                "delete from coordination where key = ?1 and version = ?2",
                params![key, seen.cast_signed()],
            )?;
            Ok(gone > 0)
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

/// Numbers grow over all keys, so that one that was removed and came back is never mistaken for itself.
fn put(
    transaction: &Transaction<'_>,
    key: &str,
    value: &str,
    expires_at_ms: UnixMs,
) -> rusqlite::Result<u64> {
    let version: i64 = transaction
        .prepare_cached("update coordination_versions set newest = newest + 1 returning newest")?
        .query_row([], |row| row.get(0))?;
    transaction
        .prepare_cached(
            "insert into coordination (key, value, version, expires_at_ms) values (?1, ?2, ?3, ?4)
             on conflict (key) do update set
                value = excluded.value, expires_at_ms = excluded.expires_at_ms, version = excluded.version",
        )?
        .execute(params![key, value, version, expires_at_ms])?;
    Ok(version.cast_unsigned())
}

fn kept(row: &Row<'_>, now_ms: UnixMs) -> rusqlite::Result<KeptKey> {
    Ok(KeptKey {
        key: row.get(0)?,
        value: row.get(1)?,
        version: row.get::<_, i64>(2)?.cast_unsigned(),
        lives_ms: row.get::<_, i64>(3)?.saturating_sub(now_ms),
    })
}
