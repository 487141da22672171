//! People and programs: users and tokens.

use caelum_model::{
    UnixMs,
    access::{Role, Token, User},
};
use tokio_postgres::Row;

use super::{
    Postgres,
    session::{Session, from_json},
    settings::plain,
    to_json,
};
use crate::{FaultKind, StoreError};

const USER_COLUMNS: &str = "name, role, password_hash, created_at_ms";
const TOKEN_COLUMNS: &str =
    "token_id, name, secret_sha256, scopes, binding, created_at_ms, expires_at_ms, revoked_at_ms";

impl Postgres {
    /// Stores a user, replacing one of the same name.
    pub async fn put_user(&self, user: User) -> Result<(), StoreError> {
        let session = self.session("store a user").await?;
        session
            .execute(
                "insert into users (name, role, password_hash, created_at_ms) values ($1, $2, $3, $4)
                 on conflict (name) do update set
                    role = excluded.role, password_hash = excluded.password_hash",
                &[&user.name, &user.role.as_str(), &user.password_hash, &user.created_at_ms],
            )
            .await?;
        Ok(())
    }

    /// A user by name.
    pub async fn user(&self, name: String) -> Result<Option<User>, StoreError> {
        let session = self.session("read a user").await?;
        let name = plain(name);
        let row = session.row(&format!("select {USER_COLUMNS} from users where name = $1"), &[&name]).await?;
        row.map(|row| user_of(&session, &row)).transpose()
    }

    /// Every user, by name.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let session = self.session("list users").await?;
        let rows = session.rows(&format!("select {USER_COLUMNS} from users order by name"), &[]).await?;
        rows.iter().map(|row| user_of(&session, row)).collect()
    }

    /// Stores a new token.
    pub async fn add_token(&self, token: Token) -> Result<(), StoreError> {
        let session = self.session("store a token").await?;
        let added = session
            .execute(
                &format!("insert into tokens ({TOKEN_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8)"),
                &[
                    &token.token_id,
                    &plain(token.name.clone()),
                    &token.secret_sha256.as_slice(),
                    &to_json(&token.scopes),
                    &to_json(&token.binding),
                    &token.created_at_ms,
                    &token.expires_at_ms,
                    &token.revoked_at_ms,
                ],
            )
            .await;
        match added {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => {
                Err(StoreError::Exists { what: format!("the token {}", token.name) })
            }
            Err(error) => Err(error),
        }
    }

    /// The token with this hash, revoked and expired ones included.
    pub async fn token_by_hash(&self, secret_sha256: [u8; 32]) -> Result<Option<Token>, StoreError> {
        let session = self.session("look up a token").await?;
        let row = session
            .row(
                &format!("select {TOKEN_COLUMNS} from tokens where secret_sha256 = $1"),
                &[&secret_sha256.as_slice()],
            )
            .await?;
        row.map(|row| token_of(&session, &row)).transpose()
    }

    /// Every token, newest first.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let session = self.session("list tokens").await?;
        let sql = format!("select {TOKEN_COLUMNS} from tokens order by created_at_ms desc, token_id");
        let rows = session.rows(&sql, &[]).await?;
        rows.iter().map(|row| token_of(&session, row)).collect()
    }

    /// Revokes a token. Answers false where there is none of that id.
    pub async fn revoke_token(&self, token_id: String, now_ms: UnixMs) -> Result<bool, StoreError> {
        let session = self.session("revoke a token").await?;
        let changed = session
            .execute(
                "update tokens set revoked_at_ms = coalesce(revoked_at_ms, $2) where token_id = $1",
                &[&plain(token_id), &now_ms],
            )
            .await?;
        Ok(changed > 0)
    }
}

fn user_of(session: &Session, row: &Row) -> Result<User, StoreError> {
    let role: String = session.get(row, 1)?;
    Ok(User {
        name: session.get(row, 0)?,
        // An unknown role, written by a newer version, is worth the least.
        role: Role::parse(&role).unwrap_or(Role::Viewer),
        password_hash: session.get(row, 2)?,
        created_at_ms: session.get(row, 3)?,
    })
}

fn token_of(session: &Session, row: &Row) -> Result<Token, StoreError> {
    Ok(Token {
        token_id: session.get(row, 0)?,
        name: session.get(row, 1)?,
        secret_sha256: digest(session, row, 2)?,
        scopes: from_json(session.operation, row, 3)?,
        binding: from_json(session.operation, row, 4)?,
        created_at_ms: session.get(row, 5)?,
        expires_at_ms: session.get(row, 6)?,
        revoked_at_ms: session.get(row, 7)?,
    })
}

/// Reads bytes that must be of a certain number.
pub(super) fn digest<const N: usize>(
    session: &Session,
    row: &Row,
    column: usize,
) -> Result<[u8; N], StoreError> {
    session.get::<Vec<u8>>(row, column)?.try_into().map_err(|bytes: Vec<u8>| StoreError::Backend {
        operation: session.operation,
        kind: FaultKind::Lasting,
        source: format!("{} bytes are stored where {N} belong", bytes.len()).into(),
    })
}
