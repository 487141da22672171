//! Nodes and their history.

use caelum_model::{
    UnixMs,
    id::NodeId,
    node::{Node, NodePoint},
};
use rusqlite::{OptionalExtension, Row, params};

use super::{Sqlite, from_json, parse_id, to_json};
use crate::{StoreError, query};

impl Sqlite {
    /// Stores a node, and the point its sample gives, in one write.
    pub async fn put_node(&self, node: Node, point: Option<NodePoint>) -> Result<(), StoreError> {
        self.write("store a node", move |transaction| {
            transaction
                .prepare_cached(
                    "insert into nodes (node_id, name, document, seen_at_ms) values (?1, ?2, ?3, ?4)
                     on conflict (node_id) do update set
                        name = excluded.name, document = excluded.document, seen_at_ms = excluded.seen_at_ms",
                )?
                .execute(params![node.node_id.as_str(), node.name, to_json(&node), node.seen_at_ms])?;
            if let Some(p) = point {
                transaction
                    .prepare_cached(
                        "insert or replace into node_points values
                         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
                    )?
                    .execute(params![
                        node.node_id.as_str(),
                        p.at_ms,
                        p.cpu_percent,
                        p.memory_percent,
                        p.swap_percent,
                        p.disk_percent,
                        p.load_1,
                        p.load_5,
                        p.load_15,
                        p.disk_read_bytes_per_s,
                        p.disk_written_bytes_per_s,
                        p.received_bytes_per_s,
                        p.sent_bytes_per_s,
                        p.temperature_celsius,
                        p.process_count as i64
                    ])?;
            }
            Ok(())
        })
        .await
    }

    /// Every node, by name.
    pub async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        self.read("list nodes", |connection| {
            connection
                .prepare_cached("select document from nodes order by name, node_id")?
                .query_map([], node_of)?
                .collect()
        })
        .await
    }

    /// The node with this id or, failing that, this name.
    pub async fn node(&self, id_or_name: &str) -> Result<Option<Node>, StoreError> {
        let wanted = id_or_name.to_owned();
        self.read("read a node", move |connection| {
            connection
                .prepare_cached(
                    "select document from nodes where node_id = ?1 or name = ?1
                     order by node_id = ?1 desc, node_id limit 1",
                )?
                .query_row(params![wanted], node_of)
                .optional()
        })
        .await
    }

    /// Forgets a node and its history. Answers false where there is none of that id.
    pub async fn remove_node(&self, node_id: &NodeId) -> Result<bool, StoreError> {
        let node_id = node_id.as_str().to_owned();
        self.write("remove a node", move |transaction| {
            for table in ["node_points", "node_tiers", "node_settings"] {
                transaction.execute(&format!("delete from {table} where node_id = ?1"), params![node_id])?;
            }
            Ok(transaction.execute("delete from nodes where node_id = ?1", params![node_id])? > 0)
        })
        .await
    }

    /// A node's history in [from, to), oldest first, thinned to at most `max_points` by taking the mean of
    /// equal stretches of time (the largest value for temperatures).
    pub async fn node_points(
        &self,
        node_id: &NodeId,
        from_ms: UnixMs,
        to_ms: UnixMs,
        max_points: usize,
    ) -> Result<Vec<NodePoint>, StoreError> {
        let node_id = node_id.as_str().to_owned();
        let stretch = ((to_ms - from_ms) / (max_points.max(1) as i64)).max(1);
        self.read("read a node's history", move |connection| {
            connection
                .prepare_cached(&query::history("?1", "?2", "?3", "?4"))?
                .query_map(params![node_id, from_ms, to_ms, stretch], point_of)?
                .collect()
        })
        .await
    }

    /// Mean processor use of every node, by stretches.
    pub async fn node_loads(
        &self,
        from_ms: UnixMs,
        to_ms: UnixMs,
        stretch_ms: i64,
    ) -> Result<Vec<(NodeId, UnixMs, f64)>, StoreError> {
        self.read("read the nodes' processor use", move |connection| {
            connection
                .prepare_cached(&query::loads("?1", "?2", "?3"))?
                .query_map(params![from_ms, to_ms, stretch_ms.max(1)], |row| {
                    Ok((parse_id(0, &row.get::<_, String>(0)?)?, row.get(1)?, row.get(2)?))
                })?
                .collect()
        })
        .await
    }

    /// Forgets history from before a time.
    pub async fn drop_node_points(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("drop old node history", move |transaction| {
            transaction.execute("delete from node_points where at_ms < ?1", params![before_ms])
        })
        .await
    }
}

fn node_of(row: &Row<'_>) -> rusqlite::Result<Node> {
    from_json(0, &row.get::<_, String>(0)?)
}

fn point_of(row: &Row<'_>) -> rusqlite::Result<NodePoint> {
    Ok(NodePoint {
        at_ms: row.get(0)?,
        cpu_percent: row.get(1)?,
        memory_percent: row.get(2)?,
        swap_percent: row.get(3)?,
        disk_percent: row.get(4)?,
        load_1: row.get(5)?,
        load_5: row.get(6)?,
        load_15: row.get(7)?,
        disk_read_bytes_per_s: row.get(8)?,
        disk_written_bytes_per_s: row.get(9)?,
        received_bytes_per_s: row.get(10)?,
        sent_bytes_per_s: row.get(11)?,
        temperature_celsius: row.get(12)?,
        process_count: row.get::<_, i64>(13)?.unsigned_abs(),
    })
}
