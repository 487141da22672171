//! The longer steps of nodes' history.

use caelum_model::UnixMs;
use rusqlite::params;

use super::Sqlite;
use crate::{StoreError, query::HistoryTier};

impl Sqlite {
    /// Merges the steps of [from, to) of every node from the next finer ones, again and again with the same
    /// result; answers how many there are.
    pub async fn merge_node_tier(
        &self,
        tier: HistoryTier,
        from_ms: UnixMs,
        to_ms: UnixMs,
    ) -> Result<usize, StoreError> {
        self.write("merge node history", move |transaction| {
            let sql = format!("insert or replace into node_tiers {}", tier.merged("?1", "?2", "?3"));
            transaction.prepare_cached(&sql)?.execute(params![tier.width_ms(), from_ms, to_ms])
        })
        .await
    }

    /// Forgets steps of a length from before a time.
    pub async fn drop_node_tier(&self, tier: HistoryTier, before_ms: UnixMs) -> Result<usize, StoreError> {
        self.write("drop old node history", move |transaction| {
            let sql = "delete from node_tiers where width_ms = ?1 and at_ms < ?2";
            transaction.execute(sql, params![tier.width_ms(), before_ms])
        })
        .await
    }
}
