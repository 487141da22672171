//! Join tokens and the nodes that were admitted.

use caelum_model::{
    UnixMs,
    cluster::{Ceiling, NodeRole},
    id::NodeId,
    join::{Enrolment, JoinToken},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Sqlite, parse_id};
use crate::{AdmitOutcome, StoreError};

const TOKEN_COLUMNS: &str =
    "token_id, secret_sha256, role, uses_left, uses, created_at_ms, expires_at_ms, revoked_at_ms";
const ENROLMENT_COLUMNS: &str =
    "node_id, key_sha256, role, admitted_by, admitted_at_ms, revoked_at_ms, ceiling, hostname";

impl Sqlite {
    /// Stores a new join token.
    pub async fn add_join_token(&self, token: JoinToken) -> Result<(), StoreError> {
        let id = token.token_id.clone();
        self.write("store a join token", move |transaction| {
            transaction.execute(
                "insert into join_tokens (token_id, secret_sha256, role, uses_left, uses, created_at_ms,
                    expires_at_ms, revoked_at_ms) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    token.token_id,
                    token.secret_sha256,
                    token.role.as_str(),
                    token.uses_left,
                    token.uses,
                    token.created_at_ms,
                    token.expires_at_ms,
                    token.revoked_at_ms
                ],
            )?;
            Ok(())
        })
        .await
        .map_err(|error| {
            if error.is_conflict() {
                StoreError::Exists { what: format!("the join token {id}") }
            } else {
                error
            }
        })
    }

    /// The newest join tokens, used up, expired and revoked ones included.
    pub async fn join_tokens(&self, limit: usize) -> Result<Vec<JoinToken>, StoreError> {
        self.read("list join tokens", move |connection| {
            connection
                .prepare_cached(&format!(
                    "select {TOKEN_COLUMNS} from join_tokens order by created_at_ms desc, token_id limit ?1"
                ))?
                .query_map(params![limit as i64], token_of)?
                .collect()
        })
        .await
    }

    /// A join token by its id.
    pub async fn join_token(&self, token_id: String) -> Result<Option<JoinToken>, StoreError> {
        self.read("look up a join token", move |connection| token(connection, &token_id)).await
    }

    /// Revokes a join token. Answers false where there is none of that id.
    pub async fn revoke_join_token(&self, token_id: String, now_ms: UnixMs) -> Result<bool, StoreError> {
        self.write("revoke a join token", move |transaction| {
            let changed = transaction.execute(
                "update join_tokens set revoked_at_ms = coalesce(revoked_at_ms, ?2) where token_id = ?1",
                params![token_id, now_ms],
            )?;
            Ok(changed > 0)
        })
        .await
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
        self.write("admit a node", move |transaction| {
            let known: Vec<Enrolment> = transaction
                .prepare_cached(&format!(
                    "select {ENROLMENT_COLUMNS} from enrolments where node_id = ?1 or key_sha256 = ?2"
                ))?
                .query_map(params![enrolment.node_id.as_str(), enrolment.key_sha256], enrolment_of)?
                .collect::<rusqlite::Result<_>>()?;
            if known.iter().any(|known| known.revoked_at_ms.is_some()) {
                return Ok(AdmitOutcome::NodeRevoked);
            }
            let is_other = |known: &Enrolment| {
                known.node_id != enrolment.node_id || known.key_sha256 != enrolment.key_sha256
            };
            if known.iter().any(is_other) {
                return Ok(AdmitOutcome::NodeIdTaken);
            }
            if let Some(token_id) = token_id {
                let refusal = match token(transaction, &token_id)? {
                    None => Some(AdmitOutcome::TokenUnknown),
                    Some(token) if token.revoked_at_ms.is_some() => Some(AdmitOutcome::TokenRevoked),
                    Some(token) if token.expires_at_ms <= now_ms => Some(AdmitOutcome::TokenExpired),
                    Some(token) if token.uses_left == 0 => Some(AdmitOutcome::TokenUsedUp),
                    Some(_) => None,
                };
                if let Some(refusal) = refusal {
                    return Ok(refusal);
                }
                transaction.execute(
                    "update join_tokens set uses_left = uses_left - 1 where token_id = ?1",
                    params![token_id],
                )?;
            }
            transaction.execute(
                &format!(
                    "insert or replace into enrolments ({ENROLMENT_COLUMNS})
                     values (?1, ?2, ?3, ?4, ?5, null, ?6, ?7)"
                ),
                params![
                    enrolment.node_id.as_str(),
                    enrolment.key_sha256,
                    enrolment.role.as_str(),
                    enrolment.admitted_by,
                    enrolment.admitted_at_ms,
                    enrolment.ceiling.as_str(),
                    enrolment.hostname
                ],
            )?;
            Ok(AdmitOutcome::Admitted)
        })
        .await
    }

    /// Every node that was admitted, revoked ones included.
    pub async fn enrolments(&self) -> Result<Vec<Enrolment>, StoreError> {
        self.read("list admitted nodes", |connection| {
            connection
                .prepare_cached(&format!("select {ENROLMENT_COLUMNS} from enrolments order by node_id"))?
                .query_map([], enrolment_of)?
                .collect()
        })
        .await
    }

    /// The node that was admitted with this key.
    pub async fn enrolment_by_key(&self, key_sha256: String) -> Result<Option<Enrolment>, StoreError> {
        self.read("look up a node's key", move |connection| {
            connection
                .prepare_cached(&format!("select {ENROLMENT_COLUMNS} from enrolments where key_sha256 = ?1"))?
                .query_row(params![key_sha256], enrolment_of)
                .optional()
        })
        .await
    }

    /// Shuts a node out for good. Answers false where none of that id was admitted.
    pub async fn revoke_node(&self, node_id: &NodeId, now_ms: UnixMs) -> Result<bool, StoreError> {
        let node_id = node_id.as_str().to_owned();
        self.write("revoke a node", move |transaction| {
            let changed = transaction.execute(
                "update enrolments set revoked_at_ms = coalesce(revoked_at_ms, ?2) where node_id = ?1",
                params![node_id, now_ms],
            )?;
            Ok(changed > 0)
        })
        .await
    }
}

fn token(connection: &Connection, token_id: &str) -> rusqlite::Result<Option<JoinToken>> {
    connection
        .prepare_cached(&format!("select {TOKEN_COLUMNS} from join_tokens where token_id = ?1"))?
        .query_row(params![token_id], token_of)
        .optional()
}

fn token_of(row: &Row<'_>) -> rusqlite::Result<JoinToken> {
    Ok(JoinToken {
        token_id: row.get(0)?,
        secret_sha256: row.get(1)?,
        role: role_of(&row.get::<_, String>(2)?),
        uses_left: row.get(3)?,
        uses: row.get(4)?,
        created_at_ms: row.get(5)?,
        expires_at_ms: row.get(6)?,
        revoked_at_ms: row.get(7)?,
    })
}

fn enrolment_of(row: &Row<'_>) -> rusqlite::Result<Enrolment> {
    let ceiling: String = row.get(6)?;
    Ok(Enrolment {
        node_id: parse_id(0, &row.get::<_, String>(0)?)?,
        key_sha256: row.get(1)?,
        role: role_of(&row.get::<_, String>(2)?),
        admitted_by: row.get(3)?,
        admitted_at_ms: row.get(4)?,
        revoked_at_ms: row.get(5)?,
        ceiling: Ceiling::ALL.into_iter().find(|known| known.as_str() == ceiling).unwrap_or_default(),
        hostname: row.get(7)?,
    })
}

/// An unknown role, written by a newer version, is worth the least.
fn role_of(text: &str) -> NodeRole {
    NodeRole::parse(text).unwrap_or(NodeRole::Beacon)
}
