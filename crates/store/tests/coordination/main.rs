//! What every backend of coordination promises, each promise a sentence, kept by real servers: SQLite,
//! PostgreSQL, Redis with a user of its own, a shared directory, and memory.

mod away;
mod encrypted;
mod promises;

use std::{sync::Arc, time::Duration};

use caelum_store::{Address, Coordination, CoordinationAddress, Store};
use caelum_testkit::{event, postgres::PostgresServer, redis::RedisServer};

/// Longest that something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A space that is a test's own, as two servers see it.
struct Space {
    one: Coordination,
    other: Coordination,
    _redis: Option<RedisServer>,
    _folder: Option<tempfile::TempDir>,
}

impl Space {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let address = Address::Sqlite(folder.path().join("caelum.db"));
        Self { _folder: Some(folder), ..Self::records(address).await }
    }

    async fn postgres() -> Self {
        let made = tokio::task::spawn_blocking(|| {
            let server = PostgresServer::shared();
            server.new_database().map(|name| server.url(&name))
        });
        let url = made.await.expect("no panic").expect("a new database");
        Self::records(url.parse().expect("an address")).await
    }

    async fn records(address: Address) -> Self {
        let connect = async || {
            let store = Arc::new(Store::connect(&address).await.expect("opens"));
            Coordination::on_records(store, Arc::new(event::now_ms))
        };
        Self { one: connect().await, other: connect().await, _redis: None, _folder: None }
    }

    async fn redis() -> Self {
        // No more rights than the manual names.
        let rights = "~{caelum:c-1}:* -@all +@scripting +get +set +hget +hset +hmget +pexpire +pttl +del \
                      +time +scan +ping";
        let server = tokio::task::spawn_blocking(move || RedisServer::start_for("caelum", "s3cret", rights));
        let server = server.await.expect("no panic").expect("starts");
        let (one, other) = (open(&server.url()), open(&server.url()));
        Self { one, other, _redis: Some(server), _folder: None }
    }

    async fn folder() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let url = format!("file:{}", folder.path().display());
        Self { one: open(&url), other: open(&url), _redis: None, _folder: Some(folder) }
    }

    async fn memory() -> Self {
        let one = Coordination::in_memory(Arc::new(event::now_ms));
        Self { other: one.clone(), one, _redis: None, _folder: None }
    }
}

fn open(url: &str) -> Coordination {
    let address: CoordinationAddress = url.parse().expect("an address");
    Coordination::open(&address, "c-1").expect("opens")
}
