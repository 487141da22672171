//! Keys of hosts, and hosts without an agent.

use caelum_model::{
    id::NodeId,
    ssh::{KnownHost, SshHost},
};
use rusqlite::{Row, params};

use super::{Sqlite, from_json, to_json};
use crate::StoreError;

impl Sqlite {
    /// Every key that was accepted, by host.
    pub async fn known_hosts(&self) -> Result<Vec<KnownHost>, StoreError> {
        self.read("list known hosts", |connection| {
            connection
                .prepare_cached("select document from known_hosts order by host, port, key")?
                .query_map([], known_host_of)?
                .collect()
        })
        .await
    }

    /// Keys that were accepted of one host.
    pub async fn known_hosts_of(&self, host: &str, port: u16) -> Result<Vec<KnownHost>, StoreError> {
        let host = host.to_owned();
        self.read("list keys of a host", move |connection| {
            connection
                .prepare_cached(
                    "select document from known_hosts where host = ?1 and port = ?2 order by key",
                )?
                .query_map(params![host, port], known_host_of)?
                .collect()
        })
        .await
    }

    /// Accepts a key; one that was accepted stays accepted, by whoever said so last.
    pub async fn put_known_host(&self, known: KnownHost) -> Result<(), StoreError> {
        self.write("accept a host's key", move |transaction| {
            transaction.execute(
                "insert or replace into known_hosts (host, port, key, document) values (?1, ?2, ?3, ?4)",
                params![known.host, known.port, known.key, to_json(&known)],
            )?;
            Ok(())
        })
        .await
    }

    /// Forgets the keys of a host, or one of them; answers how many went.
    pub async fn forget_known_hosts(
        &self,
        host: &str,
        port: u16,
        key: Option<String>,
    ) -> Result<usize, StoreError> {
        let host = host.to_owned();
        self.write("forget keys of a host", move |transaction| {
            transaction.execute(
                "delete from known_hosts where host = ?1 and port = ?2 and (?3 is null or key = ?3)",
                params![host, port, key],
            )
        })
        .await
    }

    /// Every host without an agent, by name.
    pub async fn ssh_hosts(&self) -> Result<Vec<SshHost>, StoreError> {
        self.read("list SSH hosts", |connection| {
            connection
                .prepare_cached("select document from ssh_hosts order by name")?
                .query_map([], |row| from_json(0, &row.get::<_, String>(0)?))?
                .collect()
        })
        .await
    }

    /// Adds a host without an agent; answers false where another has its name or id.
    pub async fn add_ssh_host(&self, host: SshHost) -> Result<bool, StoreError> {
        self.write("add an SSH host", move |transaction| {
            let added = transaction.execute(
                "insert into ssh_hosts (node_id, name, document) values (?1, ?2, ?3) on conflict do nothing",
                params![host.node_id.as_str(), host.name, to_json(&host)],
            )?;
            Ok(added > 0)
        })
        .await
    }

    /// Removes a host without an agent; answers false where there is none of that id.
    pub async fn remove_ssh_host(&self, node_id: &NodeId) -> Result<bool, StoreError> {
        let node_id = node_id.as_str().to_owned();
        self.write("remove an SSH host", move |transaction| {
            Ok(transaction.execute("delete from ssh_hosts where node_id = ?1", params![node_id])? > 0)
        })
        .await
    }
}

fn known_host_of(row: &Row<'_>) -> rusqlite::Result<KnownHost> {
    from_json(0, &row.get::<_, String>(0)?)
}
