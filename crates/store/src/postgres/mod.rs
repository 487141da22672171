//! The PostgreSQL backend: a bounded pool to the server that takes writes, and one to replicas.
//!
//! # Purpose
//! The same records as [`crate::sqlite`] keeps, shared by several servers of Caelum. Each file has its twin
//! there, method by method.
//!
//! # Rules
//! - A write is one statement or one transaction, batched with `unnest`, never a round trip a row. It is
//!   answered when the server has committed it.
//! - What decides something (fences, tokens, what was seen, what changed since) is asked of the primary. What
//!   pages show may come from a replica that follows closely, and never from one that lacks what this process
//!   has written or read of the primary before ([`replicas`]).
//! - A server that is away makes calls fail as transient within seconds, and is used again when it is back.
//!   A connection that was in the middle of something when its call ended goes, and never back to the pool.
//! - Text is compared byte by byte (`collate "C"`), as SQLite does it. Times are integer milliseconds.
//!
//! # What it does not do
//! It chooses no ids and compares no two machines' clocks for anything that is stored.

mod alerts;
mod coordination;
mod dead_letters;
mod enrolments;
mod faults;
mod incidents;
mod look;
mod mailbox;
mod migrate;
mod news;
mod node_settings;
mod node_tiers;
mod nodes;
mod notices;
mod packages;
mod partitions;
mod parts;
mod people;
mod probes;
mod replicas;
mod rollups;
mod schedules;
mod seen;
mod session;
mod settings;
mod ssh;
mod targets;
mod tasks;
mod tiers;
mod tls;
mod tools;
mod verdicts;

use std::{sync::Mutex, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::{Client, Config};

pub(crate) use self::mailbox::PostgresMailbox;
use self::{parts::Parts, replicas::Replicas, session::Session};
use crate::{OpenError, PostgresAddress, ReadsFrom, StoreError};

/// Longest wait for one host to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a free connection, and for what else is to be done when one is made.
const POOL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest a read or a write takes; the server is told to give up a little before.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// Longest that tidying (dropping old rows, looking everything over) takes.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// What the server bounds by itself, so that nothing of ours lingers when we are gone.
const SERVER_LIMITS: &str =
    "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s";
/// A silent connection is looked after soon: a host that lost its power says nothing.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(4);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
/// Longest that sent bytes may stay without the other host's acknowledgement.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(8);

/// Handle to the store.
pub struct Postgres {
    /// Where it is, without a password.
    place: String,
    primary: Pool,
    replicas: Replicas,
    /// Parts of the rollups' table that are known to be there.
    parts: Mutex<Parts>,
    /// How a connection of its own is made.
    apart: Box<(Config, tokio_postgres_rustls::MakeRustlsConnect)>,
}

impl Postgres {
    /// Connects and brings the schema up to date.
    pub async fn connect(address: &PostgresAddress) -> Result<Self, OpenError> {
        let postgres = Self::reach(address).await?;
        migrate::run(postgres.first_client().await?, &postgres.place).await?;
        Ok(postgres)
    }

    /// Connects and leaves the schema as it is.
    pub async fn reach(address: &PostgresAddress) -> Result<Self, OpenError> {
        let place = address.to_string();
        let (config, tls) =
            tls::settle(address).await.map_err(|source| OpenError::Open { place: place.clone(), source })?;
        let primary = pool(with_limits(config.clone()), tls.clone(), address.pool);
        let replicas = Replicas::new(address, &config, &tls);
        let apart = Box::new((with_limits(config), tls));
        let postgres = Self { place, primary, replicas, parts: Mutex::default(), apart };
        drop(postgres.first_client().await?);
        Ok(postgres)
    }

    async fn first_client(&self) -> Result<deadpool_postgres::Object, OpenError> {
        self.primary.get().await.map_err(|error| {
            let place = self.place.clone();
            match faults::of_pool("reach the database", error) {
                StoreError::Backend { kind: crate::FaultKind::Transient, source, .. } => {
                    OpenError::Away { place, source }
                }
                StoreError::Backend { source, .. } => OpenError::Open { place, source },
                other => OpenError::Open { place, source: Box::new(other) },
            }
        })
    }

    /// A connection to the server that takes writes, for one call.
    async fn session(&self, operation: &'static str) -> Result<Session, StoreError> {
        Session::open(&self.primary, operation, CALL_TIMEOUT).await
    }

    /// The same for work that may take long. The server's bound is lifted to match.
    async fn long_session(&self, operation: &'static str) -> Result<Session, StoreError> {
        let session = Session::open(&self.primary, operation, LONG_CALL_TIMEOUT).await?;
        session.batch("begin; set local statement_timeout = '110s'; set local lock_timeout = '3s'").await?;
        Ok(session)
    }

    /// A connection for a read that may be a little old.
    async fn stale_session(&self, operation: &'static str) -> Result<Session, StoreError> {
        match self.replicas.session(operation, &self.primary).await {
            Some(session) => Ok(session),
            None => self.session(operation).await,
        }
    }

    /// Ends a write: from now on no replica answers this process that lacks it.
    async fn written(&self, session: Session) -> Result<(), StoreError> {
        self.replicas.note(&session).await;
        session.done();
        Ok(())
    }

    /// Where answers that may be a little old come from just now.
    pub fn reads(&self) -> ReadsFrom {
        self.replicas.reads()
    }

    /// Where it is, without a password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Lets go of every connection. Later calls answer `Closed`.
    pub fn close(&self) {
        self.primary.close();
        self.replicas.close();
    }
}

/// The driver's settings with every bound that the address does not set itself.
fn with_limits(mut config: Config) -> Config {
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_idle(KEEPALIVE_IDLE);
        config.keepalives_interval(KEEPALIVE_INTERVAL);
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_application_name().is_none() {
        config.application_name("caelum");
    }
    // The last word wins, and that is the operator's.
    let options = match config.get_options() {
        Some(own) => format!("{SERVER_LIMITS} {own}"),
        None => SERVER_LIMITS.to_owned(),
    };
    config.options(options);
    config
}

fn pool(config: Config, tls: tokio_postgres_rustls::MakeRustlsConnect, size: usize) -> Pool {
    // Hosts that say nothing are each waited for, and the last may be the one.
    let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(1).max(1);
    let each = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let timeouts = Timeouts {
        wait: Some(POOL_TIMEOUT),
        create: Some(each.saturating_mul(hosts).saturating_add(POOL_TIMEOUT)),
        recycle: Some(POOL_TIMEOUT),
    };
    let manager =
        Manager::from_config(config, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    Pool::builder(manager)
        .max_size(size)
        .timeouts(timeouts)
        .runtime(Runtime::Tokio1)
        .build()
        .expect("the runtime for the time-outs is given")
}

/// Reads the schema's number; 0 where nothing of ours is there.
async fn schema_version(client: &Client) -> Result<u32, tokio_postgres::Error> {
    let there = client.query_one("select to_regclass('schema_steps') is not null", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let newest = client.query_one("select coalesce(max(version), 0) from schema_steps", &[]).await?;
    Ok(newest.try_get::<_, i32>(0)?.unsigned_abs())
}

/// Writes a document; domain values always have a JSON form.
fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("domain values have string keys and no failing serialisers")
}
