//! A mailbox in the records. Machines have an account of their own there, which may call two functions and see no
//! table; these functions keep the bounds, whatever a machine sends.
//!
//! Whether a time is over is said by the database server's clock.

use caelum_engine::mailbox::{ANSWER_LIVES_MS, REQUEST_BYTES_MAX, SIGN_LIVES_MS};
use deadpool_postgres::Pool;

use super::{
    CALL_TIMEOUT, pool,
    session::{Session, get, limit},
    tls, with_limits,
};
use crate::{CoordinationError, PostgresAddress, StoreError};

/// Connections: a server looks, and answers, from one task.
const CONNECTIONS: usize = 2;

/// See the file.
#[derive(Clone)]
pub(crate) struct PostgresMailbox {
    place: String,
    pool: Pool,
}

impl PostgresMailbox {
    /// Reads the files that the address names. Nothing is asked of the server yet.
    pub(crate) async fn open(address: &PostgresAddress) -> Result<Self, CoordinationError> {
        let place = address.to_string();
        let (config, tls) = tls::settle(address).await.map_err(|error| CoordinationError {
            operation: "read the address",
            place: place.clone(),
            detail: error.to_string(),
            is_transient: false,
        })?;
        Ok(Self { place, pool: pool(with_limits(config), tls, CONNECTIONS) })
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(crate) async fn post(&self, slot: u8, request: &str) -> Result<bool, CoordinationError> {
        let asked = async |session: Session| {
            let row =
                session.row("select caelum_mailbox_post($1, $2)", &[&i32::from(slot), &request]).await?;
            row.map_or(Ok(false), |row| get(session.operation, &row, 0))
        };
        self.call("leave a request", asked).await
    }

    pub(crate) async fn read(&self, key: &str) -> Result<Option<String>, CoordinationError> {
        let asked = async |session: Session| {
            let row = session.row("select caelum_mailbox_read($1)", &[&key]).await?;
            row.map_or(Ok(None), |row| get(session.operation, &row, 0))
        };
        self.call("read what servers left", asked).await
    }

    pub(crate) async fn hang_out(&self, sign: &str) -> Result<String, CoordinationError> {
        let asked = async |session: Session| {
            session.execute("delete from mailbox where expires_at_ms <= caelum_now_ms()", &[]).await?;
            session
                .execute(
                    "insert into mailbox (key, value, expires_at_ms) values ('sign', $1, caelum_now_ms() + $2)
                     on conflict (key) do nothing",
                    &[&sign, &SIGN_LIVES_MS],
                )
                .await?;
            let row = session.row("select value from mailbox where key = 'sign'", &[]).await?;
            row.map_or(Ok(sign.to_owned()), |row| get(session.operation, &row, 0))
        };
        self.call("hang out a sign", asked).await
    }

    pub(crate) async fn take(&self, most: usize) -> Result<Vec<String>, CoordinationError> {
        let asked = async |session: Session| {
            let rows = session
                .rows(
                    "delete from mailbox where key in (
                        select key from mailbox where starts_with(key, 'q/') order by expires_at_ms
                        limit $1 for update skip locked)
                     returning value",
                    &[&limit(most)],
                )
                .await?;
            let texts: Result<Vec<String>, StoreError> =
                rows.iter().map(|row| get(session.operation, row, 0)).collect();
            Ok(texts?.into_iter().filter(|text| text.len() <= REQUEST_BYTES_MAX).collect())
        };
        self.call("take requests", asked).await
    }

    pub(crate) async fn reply(&self, request_id: &str, answer: &str) -> Result<(), CoordinationError> {
        let key = format!("a/{request_id}");
        let asked = async |session: Session| {
            session
                .execute(
                    "insert into mailbox (key, value, expires_at_ms) values ($1, $2, caelum_now_ms() + $3)
                     on conflict (key) do update set value = excluded.value, expires_at_ms = excluded.expires_at_ms",
                    &[&key, &answer, &ANSWER_LIVES_MS],
                )
                .await
        };
        self.call("leave an answer", asked).await.map(drop)
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        asked: impl AsyncFnOnce(Session) -> Result<T, StoreError>,
    ) -> Result<T, CoordinationError> {
        let answered = async { asked(Session::open(&self.pool, operation, CALL_TIMEOUT).await?).await };
        answered.await.map_err(|error: StoreError| CoordinationError {
            operation,
            place: self.place.clone(),
            is_transient: error.is_transient(),
            detail: match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        })
    }
}
