//! Servers that follow the primary, and when one of them may answer.
//!
//! Two rules, both needed:
//! - It follows closely: at most [`LAG_MAX_MS`] behind when it was looked at last, a second ago at most.
//! - It has what this process has written, or read of the primary, before: whoever saw a change never sees the
//!   time before it again. A position in the server's log is noted after each write, and a replica that has
//!   not replayed it does not answer.
//!
//! Where the primary cannot be reached, a replica that keeps the second rule answers, whatever its lag:
//! [`Replicas::reads`] says how old that is.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use tokio::time::Instant;
use tokio_postgres::{Config, types::PgLsn};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{CALL_TIMEOUT, pool, session::Session, with_limits};
use crate::{Place, PostgresAddress, ReadsFrom, ReplicaHealth};

/// Furthest behind that a replica may be and still answer while the primary is there.
pub(super) const LAG_MAX_MS: i64 = 5_000;
/// How long what was found of a replica holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a replica that could not be reached is left alone.
const AWAY_FOR: Duration = Duration::from_secs(10);
/// Connections to each replica.
const CONNECTIONS: usize = 4;

pub(super) struct Replicas {
    each: Vec<Replica>,
    /// How far any replica that answers must have got in the primary's log.
    must_have: AtomicU64,
    /// Whether that could not be learnt after the newest write.
    is_unsure: AtomicBool,
    last: Mutex<ReadsFrom>,
}

struct Replica {
    place: String,
    pool: Pool,
    found: Mutex<Option<(Instant, Found)>>,
}

/// What a look at a replica found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) lag_ms: Option<i64>,
    pub(super) as_of_ms: Option<i64>,
    pub(super) fault: Option<String>,
}

impl Replicas {
    pub(super) fn new(address: &PostgresAddress, primary: &Config, tls: &MakeRustlsConnect) -> Self {
        let each = address.replicas.iter().map(|(host, port)| Replica {
            place: format!("{host}:{port}"),
            pool: pool(with_limits(elsewhere(primary, host, *port)), tls.clone(), CONNECTIONS),
            found: Mutex::default(),
        });
        Self {
            each: each.collect(),
            must_have: AtomicU64::new(0),
            is_unsure: AtomicBool::new(false),
            last: Mutex::default(),
        }
    }

    /// A connection to a replica that may answer just now.
    pub(super) async fn session(&self, operation: &'static str, primary: &Pool) -> Option<Session> {
        for replica in &self.each {
            let found = replica.look(primary).await;
            let is_close = found.lag_ms.is_some_and(|lag| lag <= LAG_MAX_MS);
            if found.fault.is_some() || !(is_close || is_away(primary).await) {
                continue;
            }
            let Ok(session) = Session::open(&replica.pool, operation, CALL_TIMEOUT).await else {
                replica.forget();
                continue;
            };
            if self.has_what_it_must(&session).await {
                self.answered(ReadsFrom {
                    place: Place::Replica,
                    lag_ms: found.lag_ms,
                    as_of_ms: found.as_of_ms,
                });
                return Some(session);
            }
        }
        if !self.each.is_empty() {
            self.answered(ReadsFrom::default());
        }
        None
    }

    /// Notes how far the primary's log is, so that no replica answers that lacks what was written or read now.
    pub(super) async fn note(&self, session: &Session) {
        if self.each.is_empty() {
            return;
        }
        let asked = session.row("select pg_current_wal_insert_lsn()", &[]).await;
        if let Ok(Some(row)) = asked
            && let Ok(position) = session.get::<PgLsn>(&row, 0)
        {
            self.must_have.fetch_max(position.into(), Ordering::Relaxed);
            self.is_unsure.store(false, Ordering::Relaxed);
        } else {
            // How far a replica must have got is not known: none answers until a later write says it.
            self.is_unsure.store(true, Ordering::Relaxed);
        }
    }

    async fn has_what_it_must(&self, session: &Session) -> bool {
        if self.is_unsure.load(Ordering::Relaxed) {
            return false;
        }
        let must_have = PgLsn::from(self.must_have.load(Ordering::Relaxed));
        // One that was promoted replays no more, and has all there is.
        let sql = "select coalesce(pg_last_wal_replay_lsn() >= $1, true) or not pg_is_in_recovery()";
        match session.row(sql, &[&must_have]).await {
            Ok(Some(row)) => session.get(&row, 0).unwrap_or(false),
            _ => false,
        }
    }

    fn answered(&self, from: ReadsFrom) {
        *self.last.lock().expect("no code panics while it holds this lock") = from;
    }

    pub(super) fn reads(&self) -> ReadsFrom {
        *self.last.lock().expect("no code panics while it holds this lock")
    }

    /// Looks at each of them.
    pub(super) async fn health(&self, primary: &Pool) -> Vec<ReplicaHealth> {
        let mut all = Vec::with_capacity(self.each.len());
        for replica in &self.each {
            let found = replica.look(primary).await;
            let is_close = found.lag_ms.is_some_and(|lag| lag <= LAG_MAX_MS);
            all.push(ReplicaHealth {
                place: replica.place.clone(),
                lag_ms: found.lag_ms,
                is_used: is_close && found.fault.is_none(),
                fault: found.fault,
            });
        }
        all
    }

    pub(super) fn close(&self) {
        for replica in &self.each {
            replica.pool.close();
        }
    }
}

impl Replica {
    /// What was found a moment ago, or a new look.
    async fn look(&self, primary: &Pool) -> Found {
        {
            let mut known = self.found.lock().expect("no code panics while it holds this lock");
            if let Some((at, found)) = &mut *known {
                let holds = if found.fault.is_some() { AWAY_FOR } else { LOOK_EVERY };
                if at.elapsed() < holds {
                    return found.clone();
                }
                // One looks again; the others make do with what is known until it has.
                *at = Instant::now();
            }
        }
        let found = self.ask(primary).await.unwrap_or_else(|error| Found {
            lag_ms: None,
            as_of_ms: None,
            fault: Some(match std::error::Error::source(&error) {
                Some(source) => source.to_string(),
                None => error.to_string(),
            }),
        });
        *self.found.lock().expect("no code panics while it holds this lock") =
            Some((Instant::now(), found.clone()));
        found
    }

    fn forget(&self) {
        *self.found.lock().expect("no code panics while it holds this lock") = None;
    }

    /// One that has replayed all that the primary has written is not behind, however long ago that was;
    /// otherwise it is as far behind as its newest change is old by its own clock.
    async fn ask(&self, primary: &Pool) -> Result<Found, crate::StoreError> {
        let operation = "look at a replica";
        let written = match Session::open(primary, operation, CALL_TIMEOUT).await {
            Ok(session) => match session.row("select pg_current_wal_insert_lsn()", &[]).await {
                Ok(Some(row)) => session.get::<PgLsn>(&row, 0).ok(),
                _ => None,
            },
            Err(_) => None,
        };
        let session = Session::open(&self.pool, operation, CALL_TIMEOUT).await?;
        let row = session
            .row(
                "select pg_is_in_recovery(), pg_last_wal_replay_lsn(),
                    (extract(epoch from pg_last_xact_replay_timestamp()) * 1000)::bigint,
                    (extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::bigint,
                    (extract(epoch from clock_timestamp()) * 1000)::bigint",
                &[],
            )
            .await?;
        let Some(row) = row else {
            return Ok(Found { lag_ms: None, as_of_ms: None, fault: None });
        };
        let now_ms: i64 = session.get(&row, 4)?;
        if !session.get::<bool>(&row, 0)? {
            return Ok(Found { lag_ms: Some(0), as_of_ms: Some(now_ms), fault: None });
        }
        let replayed: Option<PgLsn> = session.get(&row, 1)?;
        let is_level = replayed.zip(written).is_some_and(|(replayed, written)| replayed >= written);
        let age_ms: Option<i64> = session.get(&row, 3)?;
        Ok(Found {
            lag_ms: if is_level { Some(0) } else { age_ms.map(|age| age.max(0)) },
            as_of_ms: if is_level { Some(now_ms) } else { session.get(&row, 2)? },
            fault: None,
        })
    }
}

/// The same database and user on another host.
fn elsewhere(primary: &Config, host: &str, port: u16) -> Config {
    let mut config = Config::new();
    config.host(host).port(port).ssl_mode(primary.get_ssl_mode());
    config.channel_binding(primary.get_channel_binding());
    if let Some(user) = primary.get_user() {
        config.user(user);
    }
    if let Some(password) = primary.get_password() {
        config.password(password);
    }
    if let Some(database) = primary.get_dbname() {
        config.dbname(database);
    }
    if let Some(options) = primary.get_options() {
        config.options(options);
    }
    config
}

/// Whether the primary cannot be reached just now.
async fn is_away(primary: &Pool) -> bool {
    Session::open(primary, "look for the primary", CALL_TIMEOUT).await.is_err()
}
