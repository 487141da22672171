//! Single words of the command line: what they may be, and what is said where they are something else.

use caelum_model::{
    access::Scope,
    cluster::{Ceiling, NodeRole},
};

pub(super) fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| "scopes are ingest, read, operate and admin".to_owned())
}

pub(super) fn node_role(text: &str) -> Result<NodeRole, String> {
    NodeRole::parse(text).ok_or_else(|| "roles are agent, beacon and server".to_owned())
}

pub(super) fn ceiling(text: &str) -> Result<Ceiling, String> {
    let known = Ceiling::ALL.into_iter().find(|ceiling| ceiling.as_str() == text);
    known.ok_or_else(|| "ceilings are observe, tasks and shell".to_owned())
}

pub(super) fn target_url(text: &str) -> Result<String, String> {
    caelum_drivers::probe::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// An address, with or without a port.
pub(super) fn resolver(text: &str) -> Result<std::net::SocketAddr, String> {
    const DNS_PORT: u16 = 53;
    let with_port = text.parse().ok();
    let alone = || text.parse().ok().map(|ip: std::net::IpAddr| (ip, DNS_PORT).into());
    with_port
        .or_else(alone)
        .ok_or_else(|| "write an address, such as 192.0.2.53 or [2001:db8::53]:5353".to_owned())
}

/// `host`, `host:port`, an IPv6 address, or one in brackets with a port.
pub(super) fn endpoint(text: &str) -> Result<(String, Option<u16>), String> {
    let refuse = || format!("{text} is not HOST, HOST:PORT or [IPV6]:PORT");
    if let Ok(ip) = text.parse::<std::net::Ipv6Addr>() {
        return Ok((ip.to_string(), None));
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(refuse)?)),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse::<u16>).transpose().map_err(|_| refuse())?;
    match host.is_empty() || port == Some(0) {
        true => Err(refuse()),
        false => Ok((host.to_owned(), port)),
    }
}

/// `90s`, `15m`, `12h` or `30d` as milliseconds.
pub(super) fn duration_ms(text: &str) -> Result<i64, String> {
    let refuse = || "write a number and its unit: 90s, 15m, 12h or 30d".to_owned();
    let unit_ms = match text.chars().last() {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err(refuse()),
    };
    let number: i64 = text[..text.len() - 1].parse().map_err(|_| refuse())?;
    number.checked_mul(unit_ms).filter(|ms| (1..=i64::from(u32::MAX) * 1_000).contains(ms)).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration_ms("30d"), Ok(2_592_000_000));
        assert_eq!(duration_ms("1s"), Ok(1000));
        for wrong in ["", "30", "d", "-1h", "0s", "3 h", "9999999999999d", "1µ"] {
            assert!(duration_ms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_machine_is_named_with_or_without_its_port() {
        let named = |text: &str| endpoint(text).ok();
        assert_eq!(named("box"), Some(("box".to_owned(), None)));
        assert_eq!(named("10.0.0.1:81"), Some(("10.0.0.1".to_owned(), Some(81))));
        assert_eq!(named("fe80::1"), Some(("fe80::1".to_owned(), None)));
        assert_eq!(named("[::1]:81"), Some(("::1".to_owned(), Some(81))));
        assert_eq!(named("[::1]"), Some(("::1".to_owned(), None)));
        for wrong in ["", ":81", "a:", "a:0", "a:x", "a:70000", "[::1]81", "[]:1"] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }
}
