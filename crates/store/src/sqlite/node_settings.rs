//! What people said about nodes.

use caelum_model::{id::NodeId, node::NodeSetting};
use rusqlite::{OptionalExtension, params};

use super::{Sqlite, from_json, to_json};
use crate::StoreError;

impl Sqlite {
    /// What is set for nodes, by id; a node without a setting has none here.
    pub async fn node_settings(&self) -> Result<Vec<NodeSetting>, StoreError> {
        self.read("list settings of nodes", |connection| {
            connection
                .prepare_cached("select document from node_settings order by node_id")?
                .query_map([], |row| from_json(0, &row.get::<_, String>(0)?))?
                .collect()
        })
        .await
    }

    /// What is set for one node, if anything is.
    pub async fn node_setting(&self, node_id: &NodeId) -> Result<Option<NodeSetting>, StoreError> {
        let node_id = node_id.as_str().to_owned();
        self.read("read the settings of a node", move |connection| {
            connection
                .prepare_cached("select document from node_settings where node_id = ?1")?
                .query_row(params![node_id], |row| from_json(0, &row.get::<_, String>(0)?))
                .optional()
        })
        .await
    }

    /// Sets it for one node.
    pub async fn put_node_setting(&self, setting: NodeSetting) -> Result<(), StoreError> {
        self.write("set a node", move |transaction| {
            transaction.execute(
                "insert or replace into node_settings (node_id, document) values (?1, ?2)",
                params![setting.node_id.as_str(), to_json(&setting)],
            )?;
            Ok(())
        })
        .await
    }
}
