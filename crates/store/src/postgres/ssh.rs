//! Keys of hosts, and hosts without an agent.

use caelum_model::{
    id::NodeId,
    ssh::{KnownHost, SshHost},
};

use super::{Postgres, session::from_json, settings::plain, to_json};
use crate::StoreError;

impl Postgres {
    /// Every key that was accepted, by host.
    pub async fn known_hosts(&self) -> Result<Vec<KnownHost>, StoreError> {
        let session = self.session("list known hosts").await?;
        let rows = session.rows("select document from known_hosts order by host, port, key", &[]).await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Keys that were accepted of one host.
    pub async fn known_hosts_of(&self, host: &str, port: u16) -> Result<Vec<KnownHost>, StoreError> {
        let session = self.session("list keys of a host").await?;
        let (host, port) = (plain(host.to_owned()), i32::from(port));
        let rows = session
            .rows(
                "select document from known_hosts where host = $1 and port = $2 order by key",
                &[&host, &port],
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Accepts a key; one that was accepted stays accepted, by whoever said so last.
    pub async fn put_known_host(&self, known: KnownHost) -> Result<(), StoreError> {
        let session = self.session("accept a host's key").await?;
        let (host, port, key) = (plain(known.host.clone()), i32::from(known.port), plain(known.key.clone()));
        session
            .execute(
                "insert into known_hosts (host, port, key, document) values ($1, $2, $3, $4)
                 on conflict (host, port, key) do update set document = excluded.document",
                &[&host, &port, &key, &to_json(&known)],
            )
            .await?;
        self.written(session).await
    }

    /// Forgets the keys of a host, or one of them; answers how many went.
    pub async fn forget_known_hosts(
        &self,
        host: &str,
        port: u16,
        key: Option<String>,
    ) -> Result<usize, StoreError> {
        let session = self.session("forget keys of a host").await?;
        let (host, port, key) = (plain(host.to_owned()), i32::from(port), key.map(plain));
        let gone = session
            .execute(
                "delete from known_hosts where host = $1 and port = $2 and ($3::text is null or key = $3)",
                &[&host, &port, &key],
            )
            .await?;
        self.written(session).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// Every host without an agent, by name.
    pub async fn ssh_hosts(&self) -> Result<Vec<SshHost>, StoreError> {
        let session = self.session("list SSH hosts").await?;
        let rows = session.rows("select document from ssh_hosts order by name", &[]).await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Adds a host without an agent; answers false where another has its name or id.
    pub async fn add_ssh_host(&self, host: SshHost) -> Result<bool, StoreError> {
        let session = self.session("add an SSH host").await?;
        let added = session
            .execute(
                "insert into ssh_hosts (node_id, name, document) values ($1, $2, $3) on conflict do nothing",
                &[&host.node_id.as_str(), &plain(host.name.clone()), &to_json(&host)],
            )
            .await?;
        self.written(session).await?;
        Ok(added > 0)
    }

    /// Removes a host without an agent; answers false where there is none of that id.
    pub async fn remove_ssh_host(&self, node_id: &NodeId) -> Result<bool, StoreError> {
        let session = self.session("remove an SSH host").await?;
        let gone = session.execute("delete from ssh_hosts where node_id = $1", &[&node_id.as_str()]).await?;
        self.written(session).await?;
        Ok(gone > 0)
    }
}
