//! Where the durable stream is: a text that people write, and what it means.
//!
//! `embedded:PATH`, or `nats://[user:password@]host[:port][,host[:port]…][?option=value&…]`; `tls://` is the
//! same with TLS demanded. A login of one part is a token. Percent signs in a login are escapes, as in any
//! URL. Options: `stream` (its name), `replicas` (1 to 5), `creds` (a credentials file), `ca` (a PEM file of
//! authorities to trust). Neither `Display` nor `Debug` shows a password.

use std::{fmt, path::PathBuf, str::FromStr};

/// The stream's name where the address says none.
const STREAM: &str = "CAELUM_EVENTS";
/// The port of NATS.
const PORT: u16 = 4222;
/// Most servers in an address.
const HOSTS_MAX: usize = 32;
/// Most replicas that JetStream knows.
const REPLICAS_MAX: usize = 5;

/// Where the queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A SQLite file on this machine.
    Embedded(PathBuf),
    /// A stream of NATS JetStream.
    Nats(NatsAddress),
}

/// Where JetStream is, how to log in there, and which stream is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsAddress {
    /// Whether TLS is demanded.
    pub tls: bool,
    /// `host:port` of each server that may be asked first; at least one.
    pub hosts: Vec<String>,
    /// How to log in, if the address says so.
    pub login: Option<Login>,
    /// A credentials file, as made by `nsc`.
    pub credentials: Option<PathBuf>,
    /// A PEM file of authorities to trust besides the system's.
    pub authority: Option<PathBuf>,
    /// The stream.
    pub stream: String,
    /// How many servers are to hold each record; none lets the servers decide.
    pub replicas: Option<usize>,
}

/// What the server wants to hear.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// One secret.
    Token(String),
    /// A name and a password.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(…)"),
            Self::User { name, .. } => write!(f, "User({name}, …)"),
        }
    }
}

/// Why a text is no address. It never repeats the text, which may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue's address {reason}; write embedded:PATH or nats://host:port[,host:port]?stream=NAME")]
pub struct AddressError {
    reason: String,
}

fn wrong(reason: impl Into<String>) -> AddressError {
    AddressError { reason: reason.into() }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("embedded:") {
            if path.is_empty() {
                return Err(wrong("names no file"));
            }
            return Ok(Self::Embedded(PathBuf::from(path)));
        }
        let (tls, rest) = match text.split_once("://") {
            Some(("nats", rest)) => (false, rest),
            Some(("tls", rest)) => (true, rest),
            Some((scheme, _)) if scheme.chars().all(char::is_alphanumeric) => {
                return Err(wrong(format!("begins with {scheme}://, which is not known")));
            }
            _ => return Err(wrong("does not say what it is an address of")),
        };
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, hosts) = match place.rsplit_once('@') {
            Some((login, hosts)) => (Some(login_of(login)?), hosts),
            None => (None, place),
        };
        let mut address = NatsAddress {
            tls,
            hosts: hosts.trim_end_matches('/').split(',').map(host_of).collect::<Result<_, _>>()?,
            login,
            credentials: None,
            authority: None,
            stream: STREAM.to_owned(),
            replicas: None,
        };
        if address.hosts.len() > HOSTS_MAX {
            return Err(wrong(format!("names more than {HOSTS_MAX} servers")));
        }
        for option in options.split('&').filter(|option| !option.is_empty()) {
            address.set(option)?;
        }
        Ok(Self::Nats(address))
    }
}

impl NatsAddress {
    fn set(&mut self, option: &str) -> Result<(), AddressError> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = unescape(value)?;
        if value.is_empty() {
            return Err(wrong(format!("says nothing for {name:?}")));
        }
        match name {
            "stream" => {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
                if value.len() > 64 || !value.chars().all(is_plain) {
                    return Err(wrong("has a stream name with more than letters, digits, _ and -"));
                }
                self.stream = value;
            }
            "replicas" => {
                let replicas = value.parse().ok().filter(|replicas| (1..=REPLICAS_MAX).contains(replicas));
                self.replicas = Some(replicas.ok_or_else(|| wrong("wants replicas from 1 to 5"))?);
            }
            "creds" => self.credentials = Some(PathBuf::from(value)),
            "ca" => self.authority = Some(PathBuf::from(value)),
            _ => return Err(wrong(format!("has an option {name:?}, which is not known"))),
        }
        Ok(())
    }

    /// The servers, as people should read them in logs and errors.
    pub fn servers(&self) -> String {
        self.hosts.join(",")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "embedded:{}", path.display()),
            Self::Nats(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "tls" } else { "nats" };
        let login = match &self.login {
            Some(Login::User { name, .. }) => format!("{name}:…@"),
            Some(Login::Token(_)) => "…@".to_owned(),
            None => String::new(),
        };
        write!(f, "{scheme}://{login}{}?stream={}", self.servers(), self.stream)
    }
}

fn login_of(text: &str) -> Result<Login, AddressError> {
    Ok(match text.split_once(':') {
        Some((name, password)) => Login::User { name: unescape(name)?, password: unescape(password)? },
        None => Login::Token(unescape(text)?),
    })
}

fn host_of(text: &str) -> Result<String, AddressError> {
    // Colons inside of brackets belong to an IPv6 address.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_whole = host.starts_with('[') == host.ends_with(']');
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    if host.is_empty() || !is_whole || !host.chars().all(is_host) {
        return Err(wrong("has a place where a host's name is missing or not one"));
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(wrong("has an IPv6 address without brackets"));
    }
    let port = match port {
        Some(port) => port.parse().map_err(|_| wrong(format!("has no port number behind {host}:")))?,
        None => PORT,
    };
    Ok(format!("{host}:{port}"))
}

fn unescape(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits =
                    [rest.next(), rest.next()].map(|digit| char::from(digit.unwrap_or(b'?')).to_digit(16));
                let [Some(high), Some(low)] = digits else { return Err(wrong("has a % that is no escape")) };
                u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong("has escapes that are no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nats(text: &str) -> NatsAddress {
        match text.parse() {
            Ok(Address::Nats(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_address_names_a_file_or_servers() {
        assert_eq!("embedded:queue.db".parse(), Ok(Address::Embedded("queue.db".into())));
        let address = nats("nats://a,b.example:5222,[::1]:99?stream=A-1&replicas=3&creds=/etc/a%20b");
        assert_eq!(address.hosts, ["a:4222", "b.example:5222", "[::1]:99"]);
        assert_eq!((address.stream.as_str(), address.replicas), ("A-1", Some(3)));
        assert_eq!(address.credentials, Some("/etc/a b".into()));
        assert!(!address.tls && nats("tls://a").tls);
        assert_eq!(nats("nats://a/").stream, "CAELUM_EVENTS");
    }

    #[test]
    fn a_password_is_read_and_never_shown() {
        let address = nats("nats://me:s%3Acret@a:1");
        assert_eq!(address.login, Some(Login::User { name: "me".into(), password: "s:cret".into() }));
        let token = nats("nats://t0ken@a:1");
        assert_eq!(token.login, Some(Login::Token("t0ken".into())));
        for shown in [format!("{address} {address:?}"), format!("{token} {token:?}")] {
            assert!(!shown.contains("cret") && !shown.contains("t0ken"), "{shown}");
        }
        assert_eq!(address.to_string(), "nats://me:…@a:1?stream=CAELUM_EVENTS");
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason_and_without_the_text() {
        for (text, reason) in [
            ("queue.db", "does not say what"),
            ("redis://a", "redis://, which is not known"),
            ("embedded:", "names no file"),
            ("nats://", "host's name is missing"),
            ("nats://a,,b", "host's name is missing"),
            ("nats://a:x", "no port number"),
            ("nats://::1", "without brackets"),
            ("nats://a?replicas=9", "from 1 to 5"),
            ("nats://a?stream=a.b", "stream name"),
            ("nats://a?color=red", "not known"),
            ("nats://s%zz@a", "no escape"),
            ("nats://a?creds=", "says nothing"),
        ] {
            let error = Address::from_str(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
