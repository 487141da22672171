//! Nodes and their history.

use caelum_model::{
    UnixMs,
    id::NodeId,
    node::{Node, NodePoint},
};
use tokio_postgres::Row;

use super::{
    Postgres,
    session::{Session, from_json, id, unsigned},
    settings::plain,
    to_json,
};
use crate::{StoreError, query};

const PUT_NODE: &str = "insert into nodes (node_id, name, document, seen_at_ms) values ($1, $2, $3, $4)
    on conflict (node_id) do update set
        name = excluded.name, document = excluded.document, seen_at_ms = excluded.seen_at_ms";
const PUT_POINT: &str = "insert into node_points (node_id, at_ms, cpu_percent, memory_percent, swap_percent,
        disk_percent, load_1, load_5, load_15, disk_read_bytes_per_s, disk_written_bytes_per_s,
        received_bytes_per_s, sent_bytes_per_s, temperature_celsius, process_count)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
    on conflict (node_id, at_ms) do update set cpu_percent = excluded.cpu_percent,
        memory_percent = excluded.memory_percent, swap_percent = excluded.swap_percent,
        disk_percent = excluded.disk_percent, load_1 = excluded.load_1, load_5 = excluded.load_5,
        load_15 = excluded.load_15, disk_read_bytes_per_s = excluded.disk_read_bytes_per_s,
        disk_written_bytes_per_s = excluded.disk_written_bytes_per_s,
        received_bytes_per_s = excluded.received_bytes_per_s, sent_bytes_per_s = excluded.sent_bytes_per_s,
        temperature_celsius = excluded.temperature_celsius, process_count = excluded.process_count";

impl Postgres {
    /// Stores a node, and the point its sample gives, in one write.
    pub async fn put_node(&self, node: Node, point: Option<NodePoint>) -> Result<(), StoreError> {
        let session = self.session("store a node").await?;
        let put = session.prepare(PUT_NODE).await?;
        let (id, name, document) = (node.node_id.as_str(), plain(node.name.clone()), to_json(&node));
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&id, &name, &document, &node.seen_at_ms];
        match point {
            None => {
                session.run(&put, &params).await?;
            }
            Some(p) => {
                let put_point = session.prepare(PUT_POINT).await?;
                let processes = p.process_count.cast_signed();
                let point: [&(dyn tokio_postgres::types::ToSql + Sync); 15] = [
                    &id,
                    &p.at_ms,
                    &p.cpu_percent,
                    &p.memory_percent,
                    &p.swap_percent,
                    &p.disk_percent,
                    &p.load_1,
                    &p.load_5,
                    &p.load_15,
                    &p.disk_read_bytes_per_s,
                    &p.disk_written_bytes_per_s,
                    &p.received_bytes_per_s,
                    &p.sent_bytes_per_s,
                    &p.temperature_celsius,
                    &processes,
                ];
                // One round trip: where a statement fails, the commit behind it rolls back.
                tokio::try_join!(
                    biased;
                    session.begin(),
                    session.run(&put, &params),
                    session.run(&put_point, &point),
                    session.commit(),
                )?;
            }
        }
        self.written(session).await
    }

    /// Every node, by name.
    pub async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let session = self.stale_session("list nodes").await?;
        let rows = session.rows("select document from nodes order by name, node_id", &[]).await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// The node with this id or, failing that, this name.
    pub async fn node(&self, id_or_name: &str) -> Result<Option<Node>, StoreError> {
        let session = self.session("read a node").await?;
        let row = session
            .row(
                "select document from nodes where node_id = $1 or name = $1
                 order by node_id = $1 desc, node_id limit 1",
                &[&plain(id_or_name.to_owned())],
            )
            .await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Forgets a node and its history. Answers false where there is none of that id.
    pub async fn remove_node(&self, node_id: &NodeId) -> Result<bool, StoreError> {
        let session = self.session("remove a node").await?;
        let gone = session
            .execute(
                "with history as (delete from node_points where node_id = $1),
                    tiers as (delete from node_tiers where node_id = $1),
                    setting as (delete from node_settings where node_id = $1)
                 delete from nodes where node_id = $1",
                &[&node_id.as_str()],
            )
            .await?;
        self.written(session).await?;
        Ok(gone > 0)
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
        let stretch = ((to_ms - from_ms) / (max_points.max(1) as i64)).max(1);
        let session = self.stale_session("read a node's history").await?;
        let rows = session
            .rows(
                &query::history("$1", "$2::bigint", "$3::bigint", "$4::bigint"),
                &[&node_id.as_str(), &from_ms, &to_ms, &stretch],
            )
            .await?;
        rows.iter().map(|row| point_of(&session, row)).collect()
    }

    /// Mean processor use of every node, by stretches.
    pub async fn node_loads(
        &self,
        from_ms: UnixMs,
        to_ms: UnixMs,
        stretch_ms: i64,
    ) -> Result<Vec<(NodeId, UnixMs, f64)>, StoreError> {
        const OPERATION: &str = "read the nodes' processor use";
        let session = self.stale_session(OPERATION).await?;
        let rows = session
            .rows(
                &query::loads("$1::bigint", "$2::bigint", "$3::bigint"),
                &[&from_ms, &to_ms, &stretch_ms.max(1)],
            )
            .await?;
        rows.iter()
            .map(|row| Ok((id(OPERATION, row, 0)?, session.get(row, 1)?, session.get(row, 2)?)))
            .collect()
    }

    /// Forgets history from before a time.
    pub async fn drop_node_points(&self, before_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.long_session("drop old node history").await?;
        let gone = session.execute("delete from node_points where at_ms < $1", &[&before_ms]).await?;
        session.commit().await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}

fn point_of(session: &Session, row: &Row) -> Result<NodePoint, StoreError> {
    Ok(NodePoint {
        at_ms: session.get(row, 0)?,
        cpu_percent: session.get(row, 1)?,
        memory_percent: session.get(row, 2)?,
        swap_percent: session.get(row, 3)?,
        disk_percent: session.get(row, 4)?,
        load_1: session.get(row, 5)?,
        load_5: session.get(row, 6)?,
        load_15: session.get(row, 7)?,
        disk_read_bytes_per_s: session.get(row, 8)?,
        disk_written_bytes_per_s: session.get(row, 9)?,
        received_bytes_per_s: session.get(row, 10)?,
        sent_bytes_per_s: session.get(row, 11)?,
        temperature_celsius: session.get(row, 12)?,
        process_count: unsigned(session.operation, row, 13)?,
    })
}
