//! Targets.

use caelum_model::{
    id::TargetId,
    target::{Target, TargetOrigin},
};
use rusqlite::{OptionalExtension, Row, params};

use super::{Sqlite, from_json, to_json};
use crate::StoreError;

impl Sqlite {
    /// Every target, by URL.
    pub async fn targets(&self) -> Result<Vec<Target>, StoreError> {
        self.read("list targets", |connection| {
            connection
                .prepare_cached("select document from targets order by url")?
                .query_map([], target_of)?
                .collect()
        })
        .await
    }

    /// The target with this id.
    pub async fn target(&self, target_id: &TargetId) -> Result<Option<Target>, StoreError> {
        let target_id = target_id.as_str().to_owned();
        self.read("read a target", move |connection| {
            connection
                .prepare_cached("select document from targets where target_id = ?1")?
                .query_row(params![target_id], target_of)
                .optional()
        })
        .await
    }

    /// Adds a target. A second one for the same URL is refused with [`StoreError::Exists`].
    pub async fn add_target(&self, target: Target) -> Result<(), StoreError> {
        let url = target.url.clone();
        self.write("add a target", move |transaction| insert(transaction, &target)).await.map_err(|error| {
            if error.is_conflict() { StoreError::Exists { what: format!("the target {url}") } } else { error }
        })
    }

    /// Replaces a target by its id. Answers false where there is none of that id; a URL that another target
    /// has is refused with [`StoreError::Exists`].
    pub async fn update_target(&self, target: Target) -> Result<bool, StoreError> {
        let url = target.url.clone();
        self.write("change a target", move |transaction| {
            let changed = transaction.execute(
                "update targets set url = ?2, document = ?3 where target_id = ?1",
                params![target.target_id.as_str(), target.url, to_json(&target)],
            )?;
            Ok(changed > 0)
        })
        .await
        .map_err(|error| {
            if error.is_conflict() { StoreError::Exists { what: format!("the target {url}") } } else { error }
        })
    }

    /// Removes a target; its rollups stay. Answers false where there is none of that id.
    pub async fn remove_target(&self, target_id: &TargetId) -> Result<bool, StoreError> {
        let target_id = target_id.as_str().to_owned();
        self.write("remove a target", move |transaction| {
            Ok(transaction.execute("delete from targets where target_id = ?1", params![target_id])? > 0)
        })
        .await
    }

    /// Replaces every target of the given origins by a new list; a URL that another origin already holds is
    /// left to that origin.
    pub async fn replace_targets(
        &self,
        origins: Vec<TargetOrigin>,
        targets: Vec<Target>,
    ) -> Result<(), StoreError> {
        self.write("replace targets", move |transaction| {
            let kept: Vec<Target> = transaction
                .prepare_cached("select document from targets")?
                .query_map([], target_of)?
                .collect::<rusqlite::Result<_>>()?;
            for target in kept.iter().filter(|target| origins.contains(&target.origin)) {
                transaction.execute(
                    "delete from targets where target_id = ?1",
                    params![target.target_id.as_str()],
                )?;
            }
            for target in &targets {
                let taken =
                    kept.iter().any(|other| other.url == target.url && !origins.contains(&other.origin));
                if !taken {
                    insert(transaction, target)?;
                }
            }
            Ok(())
        })
        .await
    }
}

fn insert(transaction: &rusqlite::Transaction<'_>, target: &Target) -> rusqlite::Result<()> {
    transaction.execute(
        "insert into targets (target_id, url, document) values (?1, ?2, ?3)",
        params![target.target_id.as_str(), target.url, to_json(target)],
    )?;
    Ok(())
}

fn target_of(row: &Row<'_>) -> rusqlite::Result<Target> {
    from_json(0, &row.get::<_, String>(0)?)
}
