//! Targets.

use caelum_model::{
    id::TargetId,
    target::{Target, TargetOrigin},
};

use super::{Postgres, session::from_json, to_json};
use crate::StoreError;

impl Postgres {
    /// Every target, by URL.
    pub async fn targets(&self) -> Result<Vec<Target>, StoreError> {
        let session = self.session("list targets").await?;
        let rows = session.rows("select document from targets order by url", &[]).await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// The target with this id.
    pub async fn target(&self, target_id: &TargetId) -> Result<Option<Target>, StoreError> {
        let session = self.session("read a target").await?;
        let row =
            session.row("select document from targets where target_id = $1", &[&target_id.as_str()]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// Adds a target. A second one for the same URL is refused with [`StoreError::Exists`].
    pub async fn add_target(&self, target: Target) -> Result<(), StoreError> {
        let session = self.session("add a target").await?;
        let added = session
            .execute(
                "insert into targets (target_id, url, document) values ($1, $2, $3)",
                &[&target.target_id.as_str(), &target.url, &to_json(&target)],
            )
            .await;
        match added {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => {
                Err(StoreError::Exists { what: format!("the target {}", target.url) })
            }
            Err(error) => Err(error),
        }
    }

    /// Replaces a target by its id. Answers false where there is none of that id; a URL that another target
    /// has is refused with [`StoreError::Exists`].
    pub async fn update_target(&self, target: Target) -> Result<bool, StoreError> {
        let session = self.session("change a target").await?;
        let changed = session
            .execute(
                "update targets set url = $2, document = $3 where target_id = $1",
                &[&target.target_id.as_str(), &target.url, &to_json(&target)],
            )
            .await;
        match changed {
            Ok(count) => Ok(count > 0),
            Err(error) if error.is_conflict() => {
                Err(StoreError::Exists { what: format!("the target {}", target.url) })
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a target; its rollups stay. Answers false where there is none of that id.
    pub async fn remove_target(&self, target_id: &TargetId) -> Result<bool, StoreError> {
        let session = self.session("remove a target").await?;
        let gone =
            session.execute("delete from targets where target_id = $1", &[&target_id.as_str()]).await?;
        Ok(gone > 0)
    }

    /// Replaces every target of the given origins by a new list; a URL that another origin already holds is
    /// left to that origin.
    pub async fn replace_targets(
        &self,
        origins: Vec<TargetOrigin>,
        targets: Vec<Target>,
    ) -> Result<(), StoreError> {
        let session = self.session("replace targets").await?;
        // Whoever adds one meanwhile waits; whoever reads does not.
        session.batch("begin; lock table targets in share row exclusive mode").await?;
        let rows = session.rows("select document from targets", &[]).await?;
        let kept: Vec<Target> =
            rows.iter().map(|row| from_json(session.operation, row, 0)).collect::<Result<_, _>>()?;
        let gone: Vec<&str> = kept
            .iter()
            .filter(|target| origins.contains(&target.origin))
            .map(|target| target.target_id.as_str())
            .collect();
        let is_taken = |target: &&Target| {
            kept.iter().any(|other| other.url == target.url && !origins.contains(&other.origin))
        };
        let added: Vec<&Target> = targets.iter().filter(|target| !is_taken(target)).collect();
        let ids: Vec<&str> = added.iter().map(|target| target.target_id.as_str()).collect();
        let urls: Vec<&str> = added.iter().map(|target| target.url.as_str()).collect();
        let documents: Vec<String> = added.iter().map(|target| to_json(*target)).collect();
        session.execute("delete from targets where target_id = any($1)", &[&gone]).await?;
        session
            .execute(
                "insert into targets (target_id, url, document)
                 select * from unnest($1::text[], $2::text[], $3::text[])",
                &[&ids, &urls, &documents],
            )
            .await?;
        session.commit().await
    }
}
