//! What every mailbox promises, kept by real servers: PostgreSQL and Redis with accounts that have no more rights than
//! the manual names, and a shared directory.

mod promises;
mod strangers;

use caelum_store::{Address, Mailbox, MailboxAddress, Store, mailbox::rights};
use caelum_testkit::{postgres::PostgresServer, redis::RedisServer};

const CLUSTER: &str = "c-1";

/// A mailbox as a machine and as two servers see it.
struct Place {
    machine: Mailbox,
    one: Mailbox,
    other: Mailbox,
    redis: Option<RedisServer>,
    folder: Option<tempfile::TempDir>,
    /// The database, and the address of an account for machines.
    database: Option<(String, String)>,
}

async fn open(text: &str) -> Mailbox {
    let address: MailboxAddress = text.parse().expect("an address");
    Mailbox::open(&address, CLUSTER).await.expect("opens")
}

impl Place {
    async fn redis() -> Self {
        // What servers need, and what the manual says that machines need.
        let own = "~{caelum:c-1}:* -@all +@scripting +get +set +strlen +hget +hset +hmget +pexpire +pttl +del +time +scan \
                   +ping +acl|setuser";
        let server = tokio::task::spawn_blocking(move || {
            let server = RedisServer::start_for("caelum", "s3cret", own).expect("starts");
            for line in rights("redis", CLUSTER) {
                let line = line.replace("CHOOSE-ONE", "j0in");
                server.ask(&line.split(' ').collect::<Vec<_>>()).expect("made");
            }
            server
        });
        let server = server.await.expect("no panic");
        let (own, machine) = (server.url(), server.url().replace("caelum:s3cret", "caelum-join:j0in"));
        let (one, other) = (open(&own).await, open(&own).await);
        Self { machine: open(&machine).await, one, other, redis: Some(server), folder: None, database: None }
    }

    async fn postgres() -> Self {
        let made = tokio::task::spawn_blocking(|| {
            let server = PostgresServer::shared();
            server.new_database().map(|name| (server.url(&name), name))
        });
        let (url, name) = made.await.expect("no panic").expect("a new database");
        let records: Address = url.parse().expect("an address");
        drop(Store::connect(&records).await.expect("makes the schema"));
        let role = format!("join_{name}");
        let (database, machine) = (name.clone(), role.clone());
        let account = tokio::task::spawn_blocking(move || {
            let server = PostgresServer::shared();
            for line in rights("postgres", CLUSTER) {
                let line = line.replace("caelum_join", &role).replace("CHOOSE-ONE", "j0in");
                server.psql(&database, &line).expect("made");
            }
        });
        account.await.expect("no panic");
        let (_, place) = url.rsplit_once('@').expect("an address with a user");
        let machine = format!("postgres://{machine}:j0in@{place}");
        let (one, other) = (open(&url).await, open(&url).await);
        Self {
            machine: open(&machine).await,
            one,
            other,
            redis: None,
            folder: None,
            database: Some((name, machine)),
        }
    }

    async fn folder() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let url = format!("file:{}", folder.path().display());
        let (machine, one, other) = (open(&url).await, open(&url).await, open(&url).await);
        Self { machine, one, other, redis: None, folder: Some(folder), database: None }
    }
}
