//! Keys with a time to live. Sessions stand on it; leases and heartbeats of servers will.

use caelum_model::UnixMs;

use super::Postgres;
use crate::StoreError;

impl Postgres {
    /// Stores a value that is gone at `expires_at_ms`, whatever was under the key before.
    pub async fn put_key(&self, key: String, value: String, expires_at_ms: UnixMs) -> Result<(), StoreError> {
        let session = self.session("store a key").await?;
        session
            .execute(
                "insert into coordination as known (key, value, version, expires_at_ms) values ($1, $2, 1, $3)
                 on conflict (key) do update set value = excluded.value,
                    expires_at_ms = excluded.expires_at_ms, version = known.version + 1",
                &[&key, &value, &expires_at_ms],
            )
            .await?;
        Ok(())
    }

    /// The value under a key, unless its time is over.
    pub async fn key(&self, key: String, now_ms: UnixMs) -> Result<Option<(String, UnixMs)>, StoreError> {
        let session = self.session("read a key").await?;
        let row = session
            .row(
                "select value, expires_at_ms from coordination where key = $1 and expires_at_ms > $2",
                &[&key, &now_ms],
            )
            .await?;
        row.map(|row| Ok((session.get(&row, 0)?, session.get(&row, 1)?))).transpose()
    }

    /// How many keys with a prefix still live.
    pub async fn count_keys(&self, prefix: String, now_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("count keys").await?;
        let row = session
            .row(
                "select count(*) from coordination where starts_with(key, $1) and expires_at_ms > $2",
                &[&prefix, &now_ms],
            )
            .await?;
        let count: i64 = row.map_or(Ok(0), |row| session.get(&row, 0))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Removes a key.
    pub async fn delete_key(&self, key: String) -> Result<(), StoreError> {
        let session = self.session("remove a key").await?;
        session.execute("delete from coordination where key = $1", &[&key]).await?;
        Ok(())
    }

    /// Removes every key that starts with a prefix and holds this value.
    pub async fn delete_keys_with_value(&self, prefix: String, value: String) -> Result<usize, StoreError> {
        let session = self.session("remove keys").await?;
        let gone = session
            .execute("delete from coordination where starts_with(key, $1) and value = $2", &[&prefix, &value])
            .await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// Removes what has expired.
    pub async fn sweep_keys(&self, now_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("sweep expired keys").await?;
        let gone = session.execute("delete from coordination where expires_at_ms <= $1", &[&now_ms]).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}
