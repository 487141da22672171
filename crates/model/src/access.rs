//! Who may do what: people with roles, programs with scopes.

use serde::{Deserialize, Serialize};

use crate::{UnixMs, id::ClientId};

/// What a person may do. The order is the order of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look, and act on machines, tasks and targets.
    Operator,
    /// Everything, people and tokens included.
    Admin,
}

impl Role {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Reads the wire spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

/// What a program may do with its token.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Post events, as the probe that the token is bound to.
    Ingest,
    /// Read everything that a viewer sees.
    Read,
    /// Do what an operator does.
    Operate,
    /// Do what an administrator does.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Read, Self::Operate, Self::Admin];

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    /// Reads the wire spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }

    /// The role a person would need for the same; none for `ingest`, which no person has.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Ingest => None,
            Self::Read => Some(Role::Viewer),
            Self::Operate => Some(Role::Operator),
            Self::Admin => Some(Role::Admin),
        }
    }
}

/// Which probes an ingest token may speak for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientBinding {
    /// None: the token is not for ingest.
    None,
    /// This one.
    One(ClientId),
    /// Any, said explicitly when the token was made.
    Any,
}

/// A person who may sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name to sign in with.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Argon2id hash in PHC form; never leaves the server.
    pub password_hash: String,
    /// When the user was made.
    pub created_at_ms: UnixMs,
}

/// A bearer token as kept: the secret itself is known only to its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Identity, shown in lists.
    pub token_id: String,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Which probes it may speak for.
    pub binding: ClientBinding,
    /// When it was made.
    pub created_at_ms: UnixMs,
    /// When it stops working; none means never.
    pub expires_at_ms: Option<UnixMs>,
    /// When it was revoked, if it was.
    pub revoked_at_ms: Option<UnixMs>,
}

/// One line of the audit log: who did what to what, with which outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// When.
    pub at_ms: UnixMs,
    /// User name or token name.
    pub actor: String,
    /// A static code such as `target.add`.
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// `done`, `refused` or `failed`, with a reason after a colon.
    pub outcome: String,
}
