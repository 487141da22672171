//! What is set for probes.

use caelum_model::{id::ClientId, probe::ProbeSetting};
use rusqlite::params;

use super::{Sqlite, from_json, to_json};
use crate::StoreError;

impl Sqlite {
    /// What is set for probes, by name; a probe without a setting has none here.
    pub async fn probe_settings(&self) -> Result<Vec<ProbeSetting>, StoreError> {
        self.read("list settings of probes", |connection| {
            connection
                .prepare_cached("select document from probe_settings order by client_id")?
                .query_map([], |row| from_json(0, &row.get::<_, String>(0)?))?
                .collect()
        })
        .await
    }

    /// Sets it for one probe.
    pub async fn put_probe_setting(&self, setting: ProbeSetting) -> Result<(), StoreError> {
        self.write("set a probe", move |transaction| {
            transaction.execute(
                "insert or replace into probe_settings (client_id, document) values (?1, ?2)",
                params![setting.client_id.as_str(), to_json(&setting)],
            )?;
            Ok(())
        })
        .await
    }

    /// Forgets what was set for a probe. Answers false where nothing was.
    pub async fn remove_probe_setting(&self, client_id: &ClientId) -> Result<bool, StoreError> {
        let client_id = client_id.as_str().to_owned();
        self.write("forget the settings of a probe", move |transaction| {
            let sql = "delete from probe_settings where client_id = ?1";
            Ok(transaction.execute(sql, params![client_id])? > 0)
        })
        .await
    }
}
