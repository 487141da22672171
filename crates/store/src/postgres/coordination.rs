//! Keys with a time to live, each with the number of its last write. Sessions, leases and, where nothing else
//! is set, servers' heartbeats stand on it.
//!
//! Whether a time is over is said by the database server's clock, whatever the callers' clocks say.

use caelum_model::UnixMs;
use tokio_postgres::Row;

use super::{
    Postgres,
    session::{Session, limit, unsigned},
};
use crate::{KeptKey, StoreError};

/// The server's clock, as milliseconds since 1970.
macro_rules! server_ms {
    () => {
        "(extract(epoch from clock_timestamp()) * 1000)::bigint"
    };
}

impl Postgres {
    /// Stores a value for a time, whatever was under the key before, and answers the number of this write.
    pub async fn put_key(
        &self,
        key: String,
        value: String,
        _now_ms: UnixMs,
        lives_ms: i64,
    ) -> Result<u64, StoreError> {
        let session = self.session("store a key").await?;
        let row = session
            .row(
                concat!(
                    "insert into coordination as known (key, value, version, expires_at_ms)
                     values ($1, $2, nextval('coordination_versions'), ",
                    server_ms!(),
                    " + $3)
                     on conflict (key) do update set value = excluded.value,
                        expires_at_ms = excluded.expires_at_ms, version = excluded.version
                     returning version"
                ),
                &[&key, &value, &lives_ms],
            )
            .await?;
        Ok(version(&session, row)?.unwrap_or(0))
    }

    /// What is under a key, unless its time is over.
    pub async fn key(&self, key: String, _now_ms: UnixMs) -> Result<Option<KeptKey>, StoreError> {
        let session = self.session("read a key").await?;
        let row = session
            .row(
                concat!(
                    "select key, value, version, expires_at_ms - ",
                    server_ms!(),
                    " from coordination where key = $1 and expires_at_ms > ",
                    server_ms!()
                ),
                &[&key],
            )
            .await?;
        row.map(|row| kept(&session, &row)).transpose()
    }

    /// Keys with a prefix that still live, in order.
    pub async fn keys(
        &self,
        prefix: String,
        _now_ms: UnixMs,
        most: usize,
    ) -> Result<Vec<KeptKey>, StoreError> {
        let session = self.session("list keys").await?;
        let rows = session
            .rows(
                concat!(
                    "select key, value, version, expires_at_ms - ",
                    server_ms!(),
                    " from coordination where starts_with(key, $1) and expires_at_ms > ",
                    server_ms!(),
                    " order by key limit $2"
                ),
                &[&prefix, &limit(most)],
            )
            .await?;
        rows.iter().map(|row| kept(&session, row)).collect()
    }

    /// Stores a value if the last write of the key is still the one seen; `None` where nothing may live there.
    /// Answers the number of this write, or nothing where another was faster.
    pub async fn compare_and_put_key(
        &self,
        key: String,
        seen: Option<u64>,
        value: String,
        _now_ms: UnixMs,
        lives_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        let session = self.session("compare and store a key").await?;
        let row = match seen {
            None => {
                session
                    .row(
                        concat!(
                            "insert into coordination as known (key, value, version, expires_at_ms)
                             values ($1, $2, nextval('coordination_versions'), ",
                            server_ms!(),
                            " + $3)
                             on conflict (key) do update set value = excluded.value,
                                expires_at_ms = excluded.expires_at_ms, version = excluded.version
                             where known.expires_at_ms <= ",
                            server_ms!(),
                            " returning version"
                        ),
                        &[&key, &value, &lives_ms],
                    )
                    .await?
            }
            Some(seen) => {
                session
                    .row(
                        concat!(
                            "update coordination set value = $2, version = nextval('coordination_versions'),
                                expires_at_ms = ",
                            server_ms!(),
                            " + $3 where key = $1 and version = $4 and expires_at_ms > ",
                            server_ms!(),
                            " returning version"
                        ),
                        &[&key, &value, &lives_ms, &seen.cast_signed()],
                    )
                    .await?
            }
        };
        version(&session, row)
    }

    /// How many keys with a prefix still live.
    pub async fn count_keys(&self, prefix: String, _now_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("count keys").await?;
        let row = session
            .row(
                concat!(
                    "select count(*) from coordination where starts_with(key, $1) and expires_at_ms > ",
                    server_ms!()
                ),
                &[&prefix],
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

    /// Removes a key if its last write is still the one seen.
    pub async fn delete_key_at(&self, key: String, seen: u64) -> Result<bool, StoreError> {
        let session = self.session("remove a key").await?;
        let gone = session
            .execute("delete from coordination where key = $1 and version = $2", &[&key, &seen.cast_signed()])
            .await?;
        Ok(gone > 0)
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
    pub async fn sweep_keys(&self, _now_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.session("sweep expired keys").await?;
        let gone = session
            .execute(concat!("delete from coordination where expires_at_ms <= ", server_ms!()), &[])
            .await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}

fn version(session: &Session, row: Option<Row>) -> Result<Option<u64>, StoreError> {
    row.map(|row| unsigned(session.operation, &row, 0)).transpose()
}

fn kept(session: &Session, row: &Row) -> Result<KeptKey, StoreError> {
    Ok(KeptKey {
        key: session.get(row, 0)?,
        value: session.get(row, 1)?,
        version: unsigned(session.operation, row, 2)?,
        lives_ms: session.get(row, 3)?,
    })
}
