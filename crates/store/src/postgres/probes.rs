//! What is set for probes.

use caelum_model::{id::ClientId, probe::ProbeSetting};

use super::{Postgres, session::from_json, to_json};
use crate::StoreError;

impl Postgres {
    /// What is set for probes, by name; a probe without a setting has none here.
    pub async fn probe_settings(&self) -> Result<Vec<ProbeSetting>, StoreError> {
        let session = self.session("list settings of probes").await?;
        let rows = session.rows("select document from probe_settings order by client_id", &[]).await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Sets it for one probe.
    pub async fn put_probe_setting(&self, setting: ProbeSetting) -> Result<(), StoreError> {
        let session = self.session("set a probe").await?;
        session
            .execute(
                "insert into probe_settings (client_id, document) values ($1, $2)
                 on conflict (client_id) do update set document = excluded.document",
                &[&setting.client_id.as_str(), &to_json(&setting)],
            )
            .await?;
        Ok(())
    }

    /// Forgets what was set for a probe. Answers false where nothing was.
    pub async fn remove_probe_setting(&self, client_id: &ClientId) -> Result<bool, StoreError> {
        let session = self.session("forget the settings of a probe").await?;
        let sql = "delete from probe_settings where client_id = $1";
        Ok(session.execute(sql, &[&client_id.as_str()]).await? > 0)
    }
}
