//! Where a mailbox is, as an operator writes it: `postgres://…`, `redis://…`, `rediss://…` or `file:DIRECTORY`; and
//! what an account for machines has to be allowed, in the backend's own words.

use std::{fmt, path::PathBuf, str::FromStr};

use redis::IntoConnectionInfo as _;

use super::redis::prefix;
use crate::{
    Address, CoordinationAddress, InvalidAddress, PostgresAddress,
    coordination::{InvalidCoordination, address::split_authorities, space},
};

/// Where a mailbox is. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub enum MailboxAddress {
    /// A Redis server.
    Redis(String),
    /// A directory that machines and servers see.
    Folder(PathBuf),
    /// A PostgreSQL server with the records, and the address as it was written.
    Postgres(Box<PostgresAddress>, String),
}

/// Why a text is no such address. Never says the text itself: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMailbox {
    /// None of the kinds.
    #[error(
        "must be postgres://USER:PASSWORD@HOST/DATABASE, redis://USER:PASSWORD@HOST[:PORT], rediss://… for TLS, \
             or file:DIRECTORY"
    )]
    Kind,
    /// No address of PostgreSQL.
    #[error(transparent)]
    Postgres(InvalidAddress),
    /// No address of Redis, or no directory.
    #[error(transparent)]
    Other(InvalidCoordination),
}

impl FromStr for MailboxAddress {
    type Err = InvalidMailbox;

    fn from_str(text: &str) -> Result<Self, InvalidMailbox> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return match text.parse().map_err(InvalidMailbox::Postgres)? {
                Address::Postgres(address) => Ok(Self::Postgres(address, text.to_owned())),
                Address::Sqlite(_) => Err(InvalidMailbox::Kind),
            };
        }
        match text.parse() {
            Ok(CoordinationAddress::Redis(url)) => Ok(Self::Redis(url)),
            Ok(CoordinationAddress::Folder(path)) => Ok(Self::Folder(path)),
            Err(InvalidCoordination::Kind) => Err(InvalidMailbox::Kind),
            Err(error) => Err(InvalidMailbox::Other(error)),
        }
    }
}

impl MailboxAddress {
    /// What kind it is: `postgres`, `redis` or `file`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Folder(_) => "file",
            Self::Postgres(..) => "postgres",
        }
    }

    /// The address as it was written, with its password: for an invitation.
    pub fn with_secrets(&self) -> String {
        match self {
            Self::Redis(url) => url.clone(),
            Self::Folder(path) => format!("file:{}", path.display()),
            Self::Postgres(_, text) => text.clone(),
        }
    }

    /// Whose account it names; none where it names nobody's.
    pub fn user(&self) -> Option<String> {
        match self {
            Self::Redis(url) => {
                let info = split_authorities(url).0.into_connection_info().ok()?;
                info.redis_settings().username().map(str::to_owned).filter(|user| user != "default")
            }
            Self::Folder(_) => None,
            Self::Postgres(address, _) => address.config.get_user().map(str::to_owned),
        }
    }

    /// What an operator types there to make an account for machines that can do nothing but leave a request and read
    /// answers. CHOOSE-ONE stands for a password.
    pub fn rights(&self, cluster_id: &str) -> Vec<String> {
        rights(self.kind(), cluster_id)
    }
}

/// See [`MailboxAddress::rights`], for a kind.
pub fn rights(kind: &str, cluster_id: &str) -> Vec<String> {
    match kind {
        "redis" => {
            let prefix = prefix(cluster_id);
            vec![format!(
                "ACL SETUSER caelum-join on >CHOOSE-ONE resetkeys resetchannels -@all +set +get \
                 %W~{prefix}q:[0-9][0-9] %R~{prefix}a:* %R~{prefix}sign"
            )]
        }
        "postgres" => [
            "create role caelum_join login password 'CHOOSE-ONE' connection limit 20;",
            "grant usage on schema public to caelum_join;",
            "grant execute on function caelum_mailbox_post(integer, text), caelum_mailbox_read(text) to caelum_join;",
        ]
        .map(str::to_owned)
        .to_vec(),
        "file" => {
            let folder = format!("DIRECTORY/{}-join", space::file_name(cluster_id));
            vec![
                format!("chmod 755 {folder} {folder}/answers"),
                format!("chmod 1733 {folder}/requests"),
            ]
        }
        _ => Vec::new(),
    }
}

impl fmt::Display for MailboxAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(url) => CoordinationAddress::Redis(url.clone()).fmt(f),
            Self::Folder(path) => CoordinationAddress::Folder(path.clone()).fmt(f),
            Self::Postgres(address, _) => address.fmt(f),
        }
    }
}

impl fmt::Debug for MailboxAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> MailboxAddress {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_says_its_kind_and_whose_account_it_is_and_hides_the_password() {
        for (text, kind, user) in [
            ("redis://join:s3cret@db:6380/1", "redis", Some("join")),
            ("redis://:s3cret@db", "redis", None),
            ("redis://default:s3cret@db", "redis", None),
            ("postgres://caelum_join:s3cret@db/caelum", "postgres", Some("caelum_join")),
            ("file:/mnt/caelum", "file", None),
        ] {
            let address = address(text);
            assert_eq!((address.kind(), address.user().as_deref()), (kind, user), "{text}");
            assert_eq!(address.with_secrets(), text);
            assert!(!address.to_string().contains("s3cret") && !format!("{address:?}").contains("s3cret"));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for text in
            ["", "sqlite:/a", "file:here", "redis://u:s3cret@db:port", "postgres://u:s3cret@", "s3cret"]
        {
            let refusal = text.parse::<MailboxAddress>().expect_err(text).to_string();
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
    }

    #[test]
    fn rights_name_the_cluster_and_no_more_than_its_mailbox() {
        let redis = rights("redis", "c-1").join("\n");
        assert!(redis.contains("%W~{caelum:c-1}:join:q:[0-9][0-9]") && !redis.contains("+@"), "{redis}");
        assert!(rights("file", "c-1")[1].contains("1733 DIRECTORY/c-1-join/requests"));
        assert_eq!(rights("postgres", "c-1").len(), 3);
        assert!(rights("memory", "c-1").is_empty());
    }
}
