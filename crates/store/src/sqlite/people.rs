//! People and programs: users and tokens.

use caelum_model::{
    UnixMs,
    access::{Role, Token, User},
};
use rusqlite::{OptionalExtension, Row, params};

use super::{Sqlite, from_json, to_json};
use crate::StoreError;

const TOKEN_COLUMNS: &str =
    "token_id, name, secret_sha256, scopes, binding, created_at_ms, expires_at_ms, revoked_at_ms";

impl Sqlite {
    /// Stores a user, replacing one of the same name.
    pub async fn put_user(&self, user: User) -> Result<(), StoreError> {
        self.write("store a user", move |transaction| {
            transaction.execute(
                "insert into users (name, role, password_hash, created_at_ms) values (?1, ?2, ?3, ?4)
                 on conflict (name) do update set
                    role = excluded.role, password_hash = excluded.password_hash",
                params![user.name, user.role.as_str(), user.password_hash, user.created_at_ms],
            )?;
            Ok(())
        })
        .await
    }

    /// A user by name.
    pub async fn user(&self, name: String) -> Result<Option<User>, StoreError> {
        self.read("read a user", move |connection| {
            connection
                .prepare_cached("select name, role, password_hash, created_at_ms from users where name = ?1")?
                .query_row(params![name], user_of)
                .optional()
        })
        .await
    }

    /// Every user, by name.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        self.read("list users", |connection| {
            connection
                .prepare_cached("select name, role, password_hash, created_at_ms from users order by name")?
                .query_map([], user_of)?
                .collect()
        })
        .await
    }

    /// Stores a new token.
    pub async fn add_token(&self, token: Token) -> Result<(), StoreError> {
        let name = token.name.clone();
        self.write("store a token", move |transaction| {
            transaction.execute(
                "insert into tokens (token_id, name, secret_sha256, scopes, binding, created_at_ms,
                    expires_at_ms, revoked_at_ms) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    token.token_id,
                    token.name,
                    token.secret_sha256,
                    to_json(&token.scopes),
                    to_json(&token.binding),
                    token.created_at_ms,
                    token.expires_at_ms,
                    token.revoked_at_ms
                ],
            )?;
            Ok(())
        })
        .await
        .map_err(|error| {
            if error.is_conflict() { StoreError::Exists { what: format!("the token {name}") } } else { error }
        })
    }

    /// The token with this hash, revoked and expired ones included.
    pub async fn token_by_hash(&self, secret_sha256: [u8; 32]) -> Result<Option<Token>, StoreError> {
        self.read("look up a token", move |connection| {
            connection
                .prepare_cached(&format!("select {TOKEN_COLUMNS} from tokens where secret_sha256 = ?1"))?
                .query_row(params![secret_sha256], token_of)
                .optional()
        })
        .await
    }

    /// Every token, newest first.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.read("list tokens", |connection| {
            connection
                .prepare_cached(&format!(
                    "select {TOKEN_COLUMNS} from tokens order by created_at_ms desc, token_id"
                ))?
                .query_map([], token_of)?
                .collect()
        })
        .await
    }

    /// Revokes a token. Answers false where there is none of that id.
    pub async fn revoke_token(&self, token_id: String, now_ms: UnixMs) -> Result<bool, StoreError> {
        self.write("revoke a token", move |transaction| {
            let changed = transaction.execute(
                "update tokens set revoked_at_ms = coalesce(revoked_at_ms, ?2) where token_id = ?1",
                params![token_id, now_ms],
            )?;
            Ok(changed > 0)
        })
        .await
    }
}

fn user_of(row: &Row<'_>) -> rusqlite::Result<User> {
    let role: String = row.get(1)?;
    Ok(User {
        name: row.get(0)?,
        // An unknown role, written by a newer version, is worth the least.
        role: Role::parse(&role).unwrap_or(Role::Viewer),
        password_hash: row.get(2)?,
        created_at_ms: row.get(3)?,
    })
}

fn token_of(row: &Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        token_id: row.get(0)?,
        name: row.get(1)?,
        secret_sha256: row.get(2)?,
        scopes: from_json(3, &row.get::<_, String>(3)?)?,
        binding: from_json(4, &row.get::<_, String>(4)?)?,
        created_at_ms: row.get(5)?,
        expires_at_ms: row.get(6)?,
        revoked_at_ms: row.get(7)?,
    })
}
