//! The longer steps of nodes' history.

use caelum_model::UnixMs;

use super::Postgres;
use crate::{StoreError, query::HistoryTier};

impl Postgres {
    /// Merges the steps of [from, to) of every node from the next finer ones, again and again with the same
    /// result; answers how many there are.
    pub async fn merge_node_tier(
        &self,
        tier: HistoryTier,
        from_ms: UnixMs,
        to_ms: UnixMs,
    ) -> Result<usize, StoreError> {
        let session = self.long_session("merge node history").await?;
        let columns = HistoryTier::COLUMNS.join(", ");
        let replaced: Vec<String> =
            HistoryTier::COLUMNS[3..].iter().map(|name| format!("{name} = excluded.{name}")).collect();
        let sql = format!(
            "insert into node_tiers ({columns}) {}
             on conflict (node_id, width_ms, at_ms) do update set {}",
            tier.merged("$1::bigint", "$2::bigint", "$3::bigint"),
            replaced.join(", ")
        );
        let merged = session.execute(&sql, &[&tier.width_ms(), &from_ms, &to_ms]).await?;
        session.commit().await?;
        Ok(usize::try_from(merged).unwrap_or(usize::MAX))
    }

    /// Forgets steps of a length from before a time.
    pub async fn drop_node_tier(&self, tier: HistoryTier, before_ms: UnixMs) -> Result<usize, StoreError> {
        let session = self.long_session("drop old node history").await?;
        let sql = "delete from node_tiers where width_ms = $1 and at_ms < $2";
        let gone = session.execute(sql, &[&tier.width_ms(), &before_ms]).await?;
        session.commit().await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}
