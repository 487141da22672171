//! Join tokens and the nodes that were admitted.

use caelum_model::{
    UnixMs,
    cluster::{Ceiling, NodeRole},
    id::NodeId,
    join::{Enrolment, JoinToken},
};
use tokio_postgres::Row;

use super::{
    Postgres,
    people::digest,
    session::{Session, id, limit},
    settings::plain,
};
use crate::{AdmitOutcome, StoreError};

const TOKEN_COLUMNS: &str =
    "token_id, secret_sha256, role, uses_left, uses, created_at_ms, expires_at_ms, revoked_at_ms";
const ENROLMENT_COLUMNS: &str =
    "node_id, key_sha256, role, admitted_by, admitted_at_ms, revoked_at_ms, ceiling, hostname";

impl Postgres {
    /// Stores a new join token.
    pub async fn add_join_token(&self, token: JoinToken) -> Result<(), StoreError> {
        let session = self.session("store a join token").await?;
        let added = session
            .execute(
                &format!("insert into join_tokens ({TOKEN_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8)"),
                &[
                    &token.token_id,
                    &token.secret_sha256.as_slice(),
                    &token.role.as_str(),
                    &i64::from(token.uses_left),
                    &i64::from(token.uses),
                    &token.created_at_ms,
                    &token.expires_at_ms,
                    &token.revoked_at_ms,
                ],
            )
            .await;
        match added {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => {
                Err(StoreError::Exists { what: format!("the join token {}", token.token_id) })
            }
            Err(error) => Err(error),
        }
    }

    /// The newest join tokens, used up, expired and revoked ones included.
    pub async fn join_tokens(&self, most: usize) -> Result<Vec<JoinToken>, StoreError> {
        let session = self.session("list join tokens").await?;
        let sql =
            format!("select {TOKEN_COLUMNS} from join_tokens order by created_at_ms desc, token_id limit $1");
        let rows = session.rows(&sql, &[&limit(most)]).await?;
        rows.iter().map(|row| token_of(&session, row)).collect()
    }

    /// A join token by its id.
    pub async fn join_token(&self, token_id: String) -> Result<Option<JoinToken>, StoreError> {
        let session = self.session("look up a join token").await?;
        let sql = format!("select {TOKEN_COLUMNS} from join_tokens where token_id = $1");
        let row = session.row(&sql, &[&plain(token_id)]).await?;
        row.map(|row| token_of(&session, &row)).transpose()
    }

    /// Revokes a join token. Answers false where there is none of that id.
    pub async fn revoke_join_token(&self, token_id: String, now_ms: UnixMs) -> Result<bool, StoreError> {
        let session = self.session("revoke a join token").await?;
        let changed = session
            .execute(
                "update join_tokens set revoked_at_ms = coalesce(revoked_at_ms, $2) where token_id = $1",
                &[&plain(token_id), &now_ms],
            )
            .await?;
        Ok(changed > 0)
    }

    /// Admits a node, and takes one use of the token that admits it, both or neither. Everything is checked
    /// again here: of two that hold the same last use, one is admitted.
    ///
    /// The same node with the same key may be admitted again; its enrolment is then replaced.
    pub async fn admit(
        &self,
        enrolment: Enrolment,
        token_id: Option<String>,
        now_ms: UnixMs,
    ) -> Result<AdmitOutcome, StoreError> {
        let session = self.session("admit a node").await?;
        // One admission at a time: ids and keys are looked at before they are written.
        session.batch("begin; lock table enrolments in share row exclusive mode").await?;
        let refusal = refusal(&session, &enrolment, token_id, now_ms).await?;
        if let Some(refusal) = refusal {
            session.rollback().await?;
            return Ok(refusal);
        }
        session
            .execute(
                &format!(
                    "insert into enrolments ({ENROLMENT_COLUMNS}) values ($1, $2, $3, $4, $5, null, $6, $7)
                     on conflict (node_id) do update set role = excluded.role,
                        admitted_by = excluded.admitted_by, admitted_at_ms = excluded.admitted_at_ms,
                        ceiling = excluded.ceiling, hostname = excluded.hostname"
                ),
                &[
                    &enrolment.node_id.as_str(),
                    &enrolment.key_sha256,
                    &enrolment.role.as_str(),
                    &enrolment.admitted_by,
                    &enrolment.admitted_at_ms,
                    &enrolment.ceiling.as_str(),
                    &plain(enrolment.hostname.clone()),
                ],
            )
            .await?;
        session.commit().await?;
        Ok(AdmitOutcome::Admitted)
    }

    /// Every node that was admitted, revoked ones included.
    pub async fn enrolments(&self) -> Result<Vec<Enrolment>, StoreError> {
        let session = self.session("list admitted nodes").await?;
        let rows = session
            .rows(&format!("select {ENROLMENT_COLUMNS} from enrolments order by node_id"), &[])
            .await?;
        rows.iter().map(|row| enrolment_of(&session, row)).collect()
    }

    /// The node that was admitted with this key.
    pub async fn enrolment_by_key(&self, key_sha256: String) -> Result<Option<Enrolment>, StoreError> {
        let session = self.session("look up a node's key").await?;
        let sql = format!("select {ENROLMENT_COLUMNS} from enrolments where key_sha256 = $1");
        let row = session.row(&sql, &[&plain(key_sha256)]).await?;
        row.map(|row| enrolment_of(&session, &row)).transpose()
    }

    /// Shuts a node out for good. Answers false where none of that id was admitted.
    pub async fn revoke_node(&self, node_id: &NodeId, now_ms: UnixMs) -> Result<bool, StoreError> {
        let session = self.session("revoke a node").await?;
        let changed = session
            .execute(
                "update enrolments set revoked_at_ms = coalesce(revoked_at_ms, $2) where node_id = $1",
                &[&node_id.as_str(), &now_ms],
            )
            .await?;
        Ok(changed > 0)
    }
}

/// Why a node is not admitted; where nothing is against it, a use of the token is gone.
async fn refusal(
    session: &Session,
    enrolment: &Enrolment,
    token_id: Option<String>,
    now_ms: UnixMs,
) -> Result<Option<AdmitOutcome>, StoreError> {
    let sql = format!("select {ENROLMENT_COLUMNS} from enrolments where node_id = $1 or key_sha256 = $2");
    let rows = session.rows(&sql, &[&enrolment.node_id.as_str(), &enrolment.key_sha256]).await?;
    let known: Vec<Enrolment> =
        rows.iter().map(|row| enrolment_of(session, row)).collect::<Result<_, _>>()?;
    if known.iter().any(|known| known.revoked_at_ms.is_some()) {
        return Ok(Some(AdmitOutcome::NodeRevoked));
    }
    let is_other =
        |known: &Enrolment| known.node_id != enrolment.node_id || known.key_sha256 != enrolment.key_sha256;
    if known.iter().any(is_other) {
        return Ok(Some(AdmitOutcome::NodeIdTaken));
    }
    let Some(token_id) = token_id.map(plain) else { return Ok(None) };
    let sql = format!("select {TOKEN_COLUMNS} from join_tokens where token_id = $1 for update");
    let row = session.row(&sql, &[&token_id]).await?;
    let refusal = match row.map(|row| token_of(session, &row)).transpose()? {
        None => Some(AdmitOutcome::TokenUnknown),
        Some(token) if token.revoked_at_ms.is_some() => Some(AdmitOutcome::TokenRevoked),
        Some(token) if token.expires_at_ms <= now_ms => Some(AdmitOutcome::TokenExpired),
        Some(token) if token.uses_left == 0 => Some(AdmitOutcome::TokenUsedUp),
        Some(_) => None,
    };
    if refusal.is_none() {
        let sql = "update join_tokens set uses_left = uses_left - 1 where token_id = $1";
        session.execute(sql, &[&token_id]).await?;
    }
    Ok(refusal)
}

fn token_of(session: &Session, row: &Row) -> Result<JoinToken, StoreError> {
    let count = |column| Ok(u32::try_from(session.get::<i64>(row, column)?).unwrap_or(0));
    Ok(JoinToken {
        token_id: session.get(row, 0)?,
        secret_sha256: digest(session, row, 1)?,
        role: role_of(&session.get::<String>(row, 2)?),
        uses_left: count(3)?,
        uses: count(4)?,
        created_at_ms: session.get(row, 5)?,
        expires_at_ms: session.get(row, 6)?,
        revoked_at_ms: session.get(row, 7)?,
    })
}

fn enrolment_of(session: &Session, row: &Row) -> Result<Enrolment, StoreError> {
    let ceiling: String = session.get(row, 6)?;
    Ok(Enrolment {
        node_id: id(session.operation, row, 0)?,
        key_sha256: session.get(row, 1)?,
        role: role_of(&session.get::<String>(row, 2)?),
        admitted_by: session.get(row, 3)?,
        admitted_at_ms: session.get(row, 4)?,
        revoked_at_ms: session.get(row, 5)?,
        ceiling: Ceiling::ALL.into_iter().find(|known| known.as_str() == ceiling).unwrap_or_default(),
        hostname: session.get(row, 7)?,
    })
}

/// An unknown role, written by a newer version, is worth the least.
fn role_of(text: &str) -> NodeRole {
    NodeRole::parse(text).unwrap_or(NodeRole::Beacon)
}
