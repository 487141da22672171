//! What people said about nodes.

use caelum_model::{id::NodeId, node::NodeSetting};

use super::{Postgres, session::from_json, to_json};
use crate::StoreError;

impl Postgres {
    /// What is set for nodes, by id; a node without a setting has none here.
    pub async fn node_settings(&self) -> Result<Vec<NodeSetting>, StoreError> {
        let session = self.session("list settings of nodes").await?;
        let rows = session.rows("select document from node_settings order by node_id", &[]).await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// What is set for one node, if anything is.
    pub async fn node_setting(&self, node_id: &NodeId) -> Result<Option<NodeSetting>, StoreError> {
        let session = self.session("read the settings of a node").await?;
        let sql = "select document from node_settings where node_id = $1";
        let row = session.row(sql, &[&node_id.as_str()]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Sets it for one node.
    pub async fn put_node_setting(&self, setting: NodeSetting) -> Result<(), StoreError> {
        let session = self.session("set a node").await?;
        session
            .execute(
                "insert into node_settings (node_id, document) values ($1, $2)
                 on conflict (node_id) do update set document = excluded.document",
                &[&setting.node_id.as_str(), &to_json(&setting)],
            )
            .await?;
        self.written(session).await
    }
}
