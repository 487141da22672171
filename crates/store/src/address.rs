//! Where the records are, as an operator writes it: `sqlite:PATH` or `postgres://…`.
//!
//! A PostgreSQL address is a libpq URL, several hosts included (`postgres://caelum@db1,db2/caelum`). Beside
//! libpq's options it knows:
//!
//! | option | meaning |
//! |---|---|
//! | `replica=HOST:PORT,…` | servers that answer what may be a little old, as long as they follow closely |
//! | `password_file=FILE` | a file that holds the password alone, so that it stands in no command line |
//! | `sslrootcert=FILE` | PEM of the authorities that may vouch for the server, instead of the system's |
//! | `pool=N` | most connections of this process to the primary, 1 to 64, 8 where it is not said |
//!
//! Unless the address says otherwise, only a server that takes writes is connected to
//! (`target_session_attrs=read-write`). With `sslmode=require` (`verify-ca` and `verify-full` mean the same)
//! the server's certificate and name are always checked, which is stricter than libpq.
//!
//! What this file does not do: it opens nothing and reads no file.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

/// Connections to the primary where the address does not say.
const POOL: usize = 8;
/// Most connections an address may ask for.
const POOL_MAX: usize = 64;
/// Most bytes of an address.
const BYTES_MAX: usize = 4096;
/// Most replicas.
const REPLICAS_MAX: usize = 16;
/// PostgreSQL's port.
const PORT: u16 = 5432;

/// Where the records are. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A file on this machine.
    Sqlite(PathBuf),
    /// A PostgreSQL server, or several of which one takes writes.
    Postgres(Box<PostgresAddress>),
}

/// How to reach PostgreSQL.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    /// What the driver understands.
    pub(crate) config: Config,
    /// Hosts and ports that may answer what is a little old.
    pub(crate) replicas: Vec<(String, u16)>,
    /// A file that holds the password.
    pub(crate) password_file: Option<PathBuf>,
    /// PEM of the authorities that may vouch for the server.
    pub(crate) root_certificates: Option<PathBuf>,
    /// Most connections to the primary.
    pub(crate) pool: usize,
}

/// Why a text is no address of a store. Never says the text itself: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Neither `sqlite:` nor `postgres://`.
    #[error("must be sqlite:PATH or postgres://USER@HOST[:PORT][,HOST…]/DATABASE")]
    Kind,
    /// No path after `sqlite:`.
    #[error("sqlite: needs the path of a file after it")]
    Path,
    /// Longer than any address that means something.
    #[error("is longer than 4096 bytes")]
    TooLong,
    /// One of the options is not what it must be.
    #[error("the option {name} must be {expected}")]
    Option {
        /// Which.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The driver does not understand the URL.
    #[error("is no PostgreSQL URL: {0}")]
    Url(String),
    /// No host, user or database is named.
    #[error("names no {0}")]
    Lacks(&'static str),
}

impl Address {
    /// The file of a SQLite store.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }

    /// Whether several servers of Caelum can share these records.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.len() > BYTES_MAX {
            return Err(InvalidAddress::TooLong);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            // `sqlite:///var/lib/x` is what people write out of habit.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(InvalidAddress::Path);
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return PostgresAddress::parse(text).map(|address| Self::Postgres(Box::new(address)));
        }
        Err(InvalidAddress::Kind)
    }
}

impl PostgresAddress {
    fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut replicas, mut password_file, mut root_certificates, mut pool) =
            (Vec::new(), None, None, POOL);
        let (mut rest, mut is_any_server) = (Vec::new(), false);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "replica" => replicas = replicas_of(&decoded(value, "replica")?)?,
                "password_file" => password_file = Some(PathBuf::from(decoded(value, "password_file")?)),
                "sslrootcert" => root_certificates = Some(PathBuf::from(decoded(value, "sslrootcert")?)),
                "pool" => {
                    pool =
                        value.parse().ok().filter(|pool| (1..=POOL_MAX).contains(pool)).ok_or(
                            InvalidAddress::Option { name: "pool", expected: "a number from 1 to 64" },
                        )?;
                }
                "sslmode" if matches!(value, "verify-ca" | "verify-full") => rest.push("sslmode=require"),
                _ => {
                    is_any_server |= name == "target_session_attrs";
                    rest.push(option);
                }
            }
        }
        let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let mut config: Config = url.parse().map_err(|error| InvalidAddress::Url(deepest(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(InvalidAddress::Lacks("host"));
        }
        if config.get_user().is_none() {
            return Err(InvalidAddress::Lacks("user"));
        }
        if config.get_dbname().is_none() {
            return Err(InvalidAddress::Lacks("database"));
        }
        if !is_any_server {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(Self { config, replicas, password_file, root_certificates, pool })
    }

    /// Whether the server's certificate must be vouched for.
    pub(crate) fn is_verified(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Require
    }
}

/// The words of the innermost cause: the outer ones only say "invalid".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn replicas_of(text: &str) -> Result<Vec<(String, u16)>, InvalidAddress> {
    let wrong = InvalidAddress::Option { name: "replica", expected: "HOST[:PORT], at most 16 of them" };
    let replicas: Vec<(String, u16)> = text
        .split(',')
        .map(|place| match place.rsplit_once(':') {
            // An IPv6 address stands in brackets when a port follows, and may do so without one.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
            }
            _ => Some((place.trim_matches(['[', ']']).to_owned(), PORT)),
        })
        .collect::<Option<_>>()
        .ok_or_else(|| wrong.clone())?;
    if replicas.len() > REPLICAS_MAX || replicas.iter().any(|(host, port)| host.is_empty() || *port == 0) {
        return Err(wrong);
    }
    Ok(replicas)
}

/// Undoes `%20` and its like.
fn decoded(text: &str, name: &'static str) -> Result<String, InvalidAddress> {
    let wrong = || InvalidAddress::Option { name, expected: "text with well-formed %-escapes" };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    if text.is_empty() || text.contains('\0') { Err(wrong()) } else { Ok(text) }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.config.get_user().unwrap_or_default())?;
        let ports = self.config.get_ports();
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]")?,
                Host::Tcp(name) => f.write_str(name)?,
                #[cfg(unix)]
                Host::Unix(path) => f.write_str(&path.display().to_string().replace('/', "%2F"))?,
            }
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(text: &str) -> PostgresAddress {
        match text.parse() {
            Ok(Address::Postgres(address)) => *address,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        let text = "postgres://caelum:s3cret@db1:5433,db2:5434/records?pool=3&password_file=%2Fetc%2Fpw";
        let address: Address = text.parse().expect("valid");
        for shown in [address.to_string(), format!("{address:?}")] {
            assert_eq!(shown, "postgres://caelum@db1:5433,db2:5434/records");
        }
        let address = postgres(text);
        assert_eq!((address.pool, address.password_file), (3, Some("/etc/pw".into())));
    }

    #[test]
    fn a_server_that_takes_writes_is_wanted_unless_the_address_says_otherwise() {
        let wanted = |text| postgres(text).config.get_target_session_attrs();
        assert_eq!(wanted("postgres://u@a,b/d"), TargetSessionAttrs::ReadWrite);
        assert_eq!(wanted("postgres://u@a/d?target_session_attrs=any"), TargetSessionAttrs::Any);
    }

    #[test]
    fn replicas_have_hosts_and_ports() {
        let replicas = |list: &str| postgres(&format!("postgresql://u@a/d?replica={list}")).replicas;
        let expected = vec![("db2".to_owned(), 5432), ("db3".to_owned(), 6000), ("::1".to_owned(), 7)];
        assert_eq!(replicas("db2,db3:6000,[::1]:7"), expected);
    }

    #[test]
    fn verification_is_asked_for_by_each_of_libpqs_words() {
        for mode in ["require", "verify-ca", "verify-full"] {
            assert!(postgres(&format!("postgres://u@a/d?sslmode={mode}")).is_verified(), "{mode}");
        }
        assert!(!postgres("postgres://u@a/d").is_verified());
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in [
            "",
            "caelum.db",
            "mysql://u:secret@a/d",
            "sqlite:",
            "postgres://",
            "postgres://u:secret@a",
            "postgres://a/d",
            "postgres://u:secret@a/d?pool=0",
            "postgres://u:secret@a/d?replica=",
            "postgres://u:secret@a/d?replica=x:99999",
            "postgres://u:secret@a/d?secret=1%",
            "postgres://u:secret@a/d?password_file=%zz",
            "postgres://u:secret@a:x/d",
        ] {
            let refusal = text.parse::<Address>().expect_err(text).to_string();
            assert!(!refusal.contains("u:secret"), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_file_is_named_by_its_path() {
        let file = |text: &str| text.parse::<Address>().expect("valid").file().map(Path::to_owned);
        assert_eq!(file("sqlite:/a/b.db"), Some("/a/b.db".into()));
        assert_eq!(file("sqlite:///a/b.db"), Some("/a/b.db".into()));
        assert_eq!(file("sqlite:b.db"), Some("b.db".into()));
    }
}
