//! Where servers coordinate, as an operator writes it: `redis://…`, `rediss://…` or `file:DIRECTORY`.
//!
//! With `rediss://` the server's certificate is always checked. `rediss://…?sslrootcert=FILE` names the authorities that
//! may vouch for it, PEM, instead of the system's.

use std::{fmt, path::PathBuf, str::FromStr};

use redis::IntoConnectionInfo as _;

/// Most bytes of an address.
const BYTES_MAX: usize = 4096;

/// Where servers coordinate, where that is not the records. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub enum CoordinationAddress {
    /// A Redis server: `redis://USER:PASSWORD@HOST:PORT/NUMBER`, `rediss://` with TLS.
    Redis(String),
    /// A directory that all servers see.
    Folder(PathBuf),
}

/// Why a text is no such address. Never says the text itself: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCoordination {
    /// None of the kinds.
    #[error("must be redis://[USER:PASSWORD@]HOST[:PORT], rediss://… for TLS, or file:DIRECTORY")]
    Kind,
    /// A relative directory means another one for each server.
    #[error("file: needs the whole path of a directory, such as file:/mnt/caelum")]
    Path,
    /// Longer than any address that means something.
    #[error("is longer than 4096 bytes")]
    TooLong,
    /// The file with authorities is not as it must be.
    #[error("sslrootcert= needs rediss://, and the whole path of a file with certificates")]
    Authorities,
    /// Redis' own parser refuses it.
    #[error("is no address of a Redis server: {0}")]
    Redis(String),
}

impl FromStr for CoordinationAddress {
    type Err = InvalidCoordination;

    fn from_str(text: &str) -> Result<Self, InvalidCoordination> {
        if text.len() > BYTES_MAX {
            return Err(InvalidCoordination::TooLong);
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Folder(path)) } else { Err(InvalidCoordination::Path) };
        }
        if !text.starts_with("redis://") && !text.starts_with("rediss://") {
            return Err(InvalidCoordination::Kind);
        }
        let (url, authorities) = split_authorities(text);
        if authorities.is_some_and(|path| !path.is_absolute() || !text.starts_with("rediss://")) {
            return Err(InvalidCoordination::Authorities);
        }
        match url.into_connection_info() {
            Ok(_) => Ok(Self::Redis(text.to_owned())),
            Err(error) => Err(InvalidCoordination::Redis(error.category().to_owned())),
        }
    }
}

impl CoordinationAddress {
    /// The address as it was written, with its password: for a server that is given everything.
    pub fn with_secrets(&self) -> String {
        match self {
            Self::Redis(url) => url.clone(),
            Self::Folder(path) => format!("file:{}", path.display()),
        }
    }
}

impl fmt::Display for CoordinationAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(url) => f.write_str(&without_secret(url)),
            Self::Folder(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl fmt::Debug for CoordinationAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The option that names a file with authorities.
const AUTHORITIES: &str = "sslrootcert=";

/// A URL of Redis without the file of authorities that it may name, and that file.
pub(crate) fn split_authorities(url: &str) -> (String, Option<PathBuf>) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let (named, rest): (Vec<&str>, Vec<&str>) = query
        .split('&')
        .filter(|option| !option.is_empty())
        .partition(|option| option.starts_with(AUTHORITIES));
    let path = named.first().and_then(|option| option.strip_prefix(AUTHORITIES)).map(PathBuf::from);
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    (url, path)
}

/// A URL without what stands between user and host, and without its query.
pub(crate) fn without_secret(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return String::new() };
    match rest.rsplit_once('@') {
        Some((who, place)) => {
            let user = who.split(':').next().unwrap_or_default();
            if user.is_empty() { format!("{scheme}://{place}") } else { format!("{scheme}://{user}@{place}") }
        }
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (text, shown) in [
            ("redis://caelum:s3cret@db:6380/1", "redis://caelum@db:6380/1"),
            ("redis://:s3cret@db", "redis://db"),
            ("redis://db:6379", "redis://db:6379"),
            ("rediss://:s3cret@db?sslrootcert=/etc/ca.pem", "rediss://db"),
            ("file:/mnt/caelum", "file:/mnt/caelum"),
        ] {
            let address: CoordinationAddress = text.parse().expect("an address");
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), shown);
            assert_eq!(address.with_secrets(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for text in ["redis://u:s3cret@db?sslrootcert=/a", "rediss://u:s3cret@db?sslrootcert=a.pem"] {
            assert_eq!(text.parse::<CoordinationAddress>(), Err(InvalidCoordination::Authorities));
        }
        for text in ["", "memcached://db", "file:here", "redis://", "redis://u:s3cret@db:port", "s3cret"] {
            let refusal = text.parse::<CoordinationAddress>().expect_err(text).to_string();
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
        assert_eq!("file:x".repeat(2_000).parse::<CoordinationAddress>(), Err(InvalidCoordination::TooLong));
    }
}
