//! What can be measured, as a URL: checked once, with errors that a person can act upon.
//!
//! | URL | measured |
//! |---|---|
//! | `http://host[:port]/path`, `https://…` | resolve, connect, TLS, first byte; throughput if asked |
//! | `tcp://host:port` | resolve, connect |
//! | `dns://resolver[:port]/name[?type=A]` | one question to that resolver; without a name: the root's servers |
//! | `dns+tcp://…`, `dns+tls://…` | the same over TCP, and over TLS (RFC 7858, port 853) |
//! | `…?fresh=1` | a label before the name that nobody asked for before, so that no cache knows the answer |
//! | `icmp://host` | a train of echo requests |
//! | `stamp://host[:port]` | a train of STAMP packets (RFC 8762, port 862) |

use std::{fmt, net::IpAddr, str::FromStr};

use caelum_engine::stamp;

use hickory_proto::rr::RecordType;
use http::uri::PathAndQuery;

/// The longest URL accepted.
pub const MAX_URL_BYTES: usize = 2_048;
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Why a text cannot be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// More than [`MAX_URL_BYTES`].
    #[error("the URL is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Not of the form `scheme://…`.
    #[error("the URL has no scheme: write http://, https://, tcp://, dns://, icmp:// or stamp:// before it")]
    NoScheme,
    /// Nothing here measures that.
    #[error("'{0}' cannot be measured: use http, https, tcp, dns, dns+tcp, dns+tls, icmp or stamp")]
    UnknownScheme(String),
    /// Blanks, control characters, or letters beyond ASCII.
    #[error("the URL contains {0:?}: write it percent-encoded, host names in their xn-- form")]
    Character(char),
    /// A name and password were given.
    #[error("the URL contains credentials: they would be stored with every measurement")]
    Credentials,
    /// Nothing stands where the host should.
    #[error("the URL has no host")]
    NoHost,
    /// Neither a name nor an address.
    #[error("'{0}' is neither a host name nor an address")]
    Host(String),
    /// The port is none.
    #[error("'{0}' is no port: it must be between 1 and 65535")]
    Port(String),
    /// This scheme has no usual port.
    #[error("a tcp target needs a port: tcp://host:port")]
    NoPort,
    /// This scheme has nothing behind the host.
    #[error("a {scheme} target ends with its host{}", if *scheme == "icmp" { "" } else { " and port" })]
    Path {
        /// The scheme.
        scheme: &'static str,
    },
    /// Something behind the host that HTTP cannot carry.
    #[error("'{0}' is no path of a web page")]
    WebPath(String),
    /// A port was given to a scheme that has none.
    #[error("an icmp target has no port")]
    IcmpPort,
    /// No name that DNS could hold.
    #[error("'{0}' is no name that can be asked for")]
    Name(String),
    /// A fresh name is one below a name.
    #[error("fresh=1 needs a name to put a new label before: dns://resolver/name?fresh=1")]
    FreshRoot,
    /// No type of record that we ask for.
    #[error("'{0}' is no type of DNS record: use A, AAAA, NS, MX, TXT, SOA, CNAME, PTR, SRV, CAA or HTTPS")]
    RecordType(String),
}

/// A host as written: an address, or a name that must be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address: nothing to resolve.
    Address(IpAddr),
    /// A name.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A web page or object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl {
    /// Whether over TLS.
    pub secure: bool,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Path and query, beginning with a slash.
    pub path: PathAndQuery,
}

impl WebUrl {
    /// What belongs into the `Host` header: the port only where it is not the usual one.
    pub fn authority(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// What a target's URL asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeUrl {
    /// `http` and `https`.
    Web(WebUrl),
    /// `tcp`.
    Tcp {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
    },
    /// `dns`.
    Dns {
        /// Who is asked.
        resolver: Host,
        /// At which port.
        port: u16,
        /// What for; empty for the root.
        name: String,
        /// Which records.
        record_type: RecordType,
        /// How the question travels.
        transport: DnsTransport,
        /// Whether a new label is put before the name each time.
        is_fresh: bool,
    },
    /// `icmp`.
    Icmp {
        /// The host.
        host: Host,
    },
    /// `stamp`.
    Stamp {
        /// The host of the reflector.
        host: Host,
        /// Its port.
        port: u16,
    },
}

impl ProbeUrl {
    /// Whom the measurement goes to.
    pub fn host(&self) -> &Host {
        match self {
            Self::Web(WebUrl { host, .. })
            | Self::Tcp { host, .. }
            | Self::Dns { resolver: host, .. }
            | Self::Icmp { host }
            | Self::Stamp { host, .. } => host,
        }
    }
}

/// How a question to a resolver travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// In a datagram, and over TCP where the answer does not fit in one.
    Udp,
    /// Over TCP.
    Tcp,
    /// Over TLS, the certificate checked against the host that is named.
    Tls,
}

impl DnsTransport {
    fn port(self) -> u16 {
        if self == Self::Tls { 853 } else { 53 }
    }
}

/// Reads a target's URL.
pub fn parse(text: &str) -> Result<ProbeUrl, UrlError> {
    if text.len() > MAX_URL_BYTES {
        return Err(UrlError::TooLong);
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(UrlError::Character(bad));
    }
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
    // What follows '#' never leaves a client.
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    match scheme.to_ascii_lowercase().as_str() {
        "http" => parse_web(false, authority, tail).map(ProbeUrl::Web),
        "https" => parse_web(true, authority, tail).map(ProbeUrl::Web),
        "tcp" => {
            let (host, port) = parse_authority(authority)?;
            let port = port.ok_or(UrlError::NoPort)?;
            no_path("tcp", tail).map(|()| ProbeUrl::Tcp { host, port })
        }
        "dns" => parse_dns(DnsTransport::Udp, authority, tail),
        "dns+tcp" => parse_dns(DnsTransport::Tcp, authority, tail),
        "dns+tls" => parse_dns(DnsTransport::Tls, authority, tail),
        "stamp" => {
            let (host, port) = parse_authority(authority)?;
            let port = port.unwrap_or(stamp::PORT);
            no_path("stamp", tail).map(|()| ProbeUrl::Stamp { host, port })
        }
        "icmp" => match parse_authority(authority)? {
            (host, None) => no_path("icmp", tail).map(|()| ProbeUrl::Icmp { host }),
            (_, Some(_)) => Err(UrlError::IcmpPort),
        },
        other => Err(UrlError::UnknownScheme(other.to_owned())),
    }
}

/// Reads the URL of a throughput object: `http` or `https`.
pub fn parse_web_url(text: &str) -> Result<WebUrl, UrlError> {
    match parse(text)? {
        ProbeUrl::Web(url) => Ok(url),
        ProbeUrl::Tcp { .. } => Err(UrlError::UnknownScheme("tcp".to_owned())),
        ProbeUrl::Dns { .. } => Err(UrlError::UnknownScheme("dns".to_owned())),
        ProbeUrl::Icmp { .. } => Err(UrlError::UnknownScheme("icmp".to_owned())),
        ProbeUrl::Stamp { .. } => Err(UrlError::UnknownScheme("stamp".to_owned())),
    }
}

fn parse_web(secure: bool, authority: &str, tail: &str) -> Result<WebUrl, UrlError> {
    let (host, port) = parse_authority(authority)?;
    let path = if tail.starts_with('/') { tail.to_owned() } else { format!("/{tail}") };
    let path = PathAndQuery::try_from(path).map_err(|_| UrlError::WebPath(tail.to_owned()))?;
    Ok(WebUrl { secure, host, port: port.unwrap_or(if secure { 443 } else { 80 }), path })
}

/// The form of RFC 4501, restricted to its `type` parameter, with one of ours.
fn parse_dns(transport: DnsTransport, authority: &str, tail: &str) -> Result<ProbeUrl, UrlError> {
    let (resolver, port) = parse_authority(authority)?;
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let name = path.trim_start_matches('/').trim_end_matches('.');
    if !name.is_empty() && !is_name(name) {
        return Err(UrlError::Name(name.to_owned()));
    }
    let wanted = query.split(['&', ';']).find_map(|parameter| parameter.strip_prefix("type="));
    let record_type = match wanted {
        None if name.is_empty() => RecordType::NS,
        None => RecordType::A,
        Some(text) => parse_record_type(text)?,
    };
    let is_fresh = query.split(['&', ';']).any(|parameter| parameter == "fresh=1");
    if is_fresh && name.is_empty() {
        return Err(UrlError::FreshRoot);
    }
    Ok(ProbeUrl::Dns {
        resolver,
        port: port.unwrap_or(transport.port()),
        name: name.to_owned(),
        record_type,
        transport,
        is_fresh,
    })
}

fn parse_record_type(text: &str) -> Result<RecordType, UrlError> {
    use RecordType::{A, AAAA, CAA, CNAME, HTTPS, MX, NS, PTR, SOA, SRV, TXT};
    let wanted = RecordType::from_str(&text.to_ascii_uppercase()).ok();
    wanted
        .filter(|wanted| [A, AAAA, NS, MX, TXT, SOA, CNAME, PTR, SRV, CAA, HTTPS].contains(wanted))
        .ok_or_else(|| UrlError::RecordType(text.to_owned()))
}

fn no_path(scheme: &'static str, tail: &str) -> Result<(), UrlError> {
    if tail.is_empty() || tail == "/" { Ok(()) } else { Err(UrlError::Path { scheme }) }
}

fn parse_authority(text: &str) -> Result<(Host, Option<u16>), UrlError> {
    if text.contains('@') {
        return Err(UrlError::Credentials);
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']').ok_or_else(|| UrlError::Host(text.to_owned()))?;
        let address = address.parse().map_err(|_| UrlError::Host(text.to_owned()))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if rest.is_empty() => None,
            None => return Err(UrlError::Host(text.to_owned())),
        };
        return Ok((Host::Address(IpAddr::V6(address)), port));
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(UrlError::Host(format!("{text} (write [{text}])")));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    if let Ok(address) = host.parse() {
        return Ok((Host::Address(IpAddr::V4(address)), port));
    }
    // A last label of digits would be an address, and is none (WHATWG URL, "ends in a number").
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if !is_name(host.trim_end_matches('.')) || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Host(host.to_owned()));
    }
    Ok((Host::Name(host.to_owned()), port))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| UrlError::Port(text.to_owned()))
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= MAX_NAME_BYTES && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn each_scheme_reads_its_own_form() {
        let web = |secure, host, port, path: &str| {
            ProbeUrl::Web(WebUrl { secure, host, port, path: path.parse().unwrap() })
        };
        let v6 = Host::Address("::1".parse().unwrap());
        let dns_by = |transport, is_fresh, resolver: &str, port, name: &str, record_type| ProbeUrl::Dns {
            resolver: Host::Address(resolver.parse().unwrap()),
            port,
            name: name.to_owned(),
            record_type,
            transport,
            is_fresh,
        };
        let dns = |resolver: &str, port, name: &str, record_type| {
            dns_by(DnsTransport::Udp, false, resolver, port, name, record_type)
        };
        let cases = [
            ("http://example.net", web(false, name("example.net"), 80, "/")),
            ("HTTPS://example.net:8443/a?b=c#d", web(true, name("example.net"), 8443, "/a?b=c")),
            ("https://[::1]:9/?x", web(true, v6.clone(), 9, "/?x")),
            ("http://h?x", web(false, name("h"), 80, "/?x")),
            ("tcp://box.lan.:22", ProbeUrl::Tcp { host: name("box.lan."), port: 22 }),
            ("dns://192.0.2.53", dns("192.0.2.53", 53, "", RecordType::NS)),
            ("dns://192.0.2.53/", dns("192.0.2.53", 53, "", RecordType::NS)),
            ("dns://192.0.2.53:5353/a.example.", dns("192.0.2.53", 5353, "a.example", RecordType::A)),
            ("dns://192.0.2.53/_x.example?type=txt", dns("192.0.2.53", 53, "_x.example", RecordType::TXT)),
            (
                "dns+tcp://192.0.2.53/a",
                dns_by(DnsTransport::Tcp, false, "192.0.2.53", 53, "a", RecordType::A),
            ),
            (
                "dns+tls://192.0.2.53/a?type=AAAA&fresh=1",
                dns_by(DnsTransport::Tls, true, "192.0.2.53", 853, "a", RecordType::AAAA),
            ),
            ("stamp://box.lan", ProbeUrl::Stamp { host: name("box.lan"), port: 862 }),
            ("stamp://[::1]:9000", ProbeUrl::Stamp { host: v6.clone(), port: 9000 }),
            ("icmp://[::1]", ProbeUrl::Icmp { host: v6 }),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused_with_the_reason() {
        let text = |text: &str| text.to_owned();
        let cases = [
            ("example.net", UrlError::NoScheme),
            ("ftp://example.net/", UrlError::UnknownScheme(text("ftp"))),
            ("https://", UrlError::NoHost),
            ("https:///x", UrlError::NoHost),
            ("https://a b/", UrlError::Character(' ')),
            ("https://ü.example/", UrlError::Character('ü')),
            ("https://me:pw@example.net/", UrlError::Credentials),
            ("https://a..b/", UrlError::Host(text("a..b"))),
            ("https://1.2.3/", UrlError::Host(text("1.2.3"))),
            ("https://::1/", UrlError::Host(text("::1 (write [::1])"))),
            ("https://[::1/", UrlError::Host(text("[::1"))),
            ("https://a:0/", UrlError::Port(text("0"))),
            ("https://a:65536/", UrlError::Port(text("65536"))),
            ("http://a/<x>", UrlError::WebPath(text("/<x>"))),
            ("tcp://a", UrlError::NoPort),
            ("tcp://a:1/x", UrlError::Path { scheme: "tcp" }),
            ("icmp://a:1", UrlError::IcmpPort),
            ("stamp://a/x", UrlError::Path { scheme: "stamp" }),
            ("dns://192.0.2.53?fresh=1", UrlError::FreshRoot),
            ("icmp://a/x", UrlError::Path { scheme: "icmp" }),
            ("dns://192.0.2.53/a..b", UrlError::Name(text("a..b"))),
            ("dns://192.0.2.53/a?type=BOGUS", UrlError::RecordType(text("BOGUS"))),
            ("dns://192.0.2.53/a?type=AXFR", UrlError::RecordType(text("AXFR"))),
        ];
        for (url, expected) in cases {
            assert_eq!(parse(url), Err(expected), "{url}");
        }
        assert_eq!(parse(&format!("https://a/{}", "x".repeat(MAX_URL_BYTES))), Err(UrlError::TooLong));
        assert!(parse_web_url("icmp://a").is_err());
    }

    #[test]
    fn the_host_header_names_the_port_only_where_it_is_unusual() {
        let authority = |text| parse_web_url(text).unwrap().authority();
        assert_eq!(authority("https://a.example:443/"), "a.example");
        assert_eq!(authority("http://a.example:443/"), "a.example:443");
        assert_eq!(authority("https://[::1]:8080/"), "[::1]:8080");
    }
}
