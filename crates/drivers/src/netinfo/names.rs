//! What the machine knows about names: `resolv.conf` and the hosts file.
//!
//! Only parsing; questions are asked by [`crate::probe`]. Other sources of names (mDNS, LDAP) are not read.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
};

const DNS_PORT: u16 = 53;
/// As in the C library: more are ignored (`MAXNS` of resolv.h).
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 32;
const MAX_NDOTS: usize = 15;
/// Bytes of either file that are looked at. Block lists of a million names are found in hosts files; what
/// lies beyond is not seen.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Whom to ask and which names to try: `resolv.conf(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverConfig {
    /// Resolvers in the order in which they are asked.
    pub servers: Vec<SocketAddr>,
    /// Domains appended to short names.
    pub search: Vec<String>,
    /// Names with at least this many dots are tried as they are first.
    pub ndots: usize,
}

impl Default for ResolverConfig {
    /// What holds without any configuration: a resolver on this machine.
    fn default() -> Self {
        Self { servers: vec![(Ipv4Addr::LOCALHOST, DNS_PORT).into()], search: Vec::new(), ndots: 1 }
    }
}

impl ResolverConfig {
    /// This machine's configuration as it is now.
    pub fn system() -> Self {
        Self::parse(&read_bounded(Path::new("/etc/resolv.conf")))
    }

    /// Reads the text of a `resolv.conf`. What is not understood is passed over, as every resolver does.
    pub fn parse(text: &str) -> Self {
        let mut config = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(parse_server);
                    config.servers.extend(server.filter(|_| config.servers.len() < MAX_SERVERS));
                }
                // The last of these lines wins.
                Some("search" | "domain") => {
                    let domains =
                        words.take(MAX_SEARCH).map(|domain| domain.trim_end_matches('.').to_owned());
                    config.search = domains.filter(|domain| !domain.is_empty()).collect();
                }
                Some("options") => {
                    let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse::<usize>().ok());
                    config.ndots = ndots.map_or(config.ndots, |ndots| ndots.min(MAX_NDOTS));
                }
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers = Self::default().servers;
        }
        config
    }

    /// The full names to ask for, in order, without final dots. A name that ends in a dot is taken as it
    /// is.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        let bare = name.trim_end_matches('.');
        if name.ends_with('.') || self.search.is_empty() {
            return vec![bare.to_owned()];
        }
        let as_it_is = std::iter::once(bare.to_owned());
        let extended = self.search.iter().map(|domain| format!("{bare}.{domain}"));
        if bare.matches('.').count() >= self.ndots {
            as_it_is.chain(extended).collect()
        } else {
            extended.chain(as_it_is).collect()
        }
    }
}

fn parse_server(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, DNS_PORT).into());
    }
    // A link-local resolver, as router advertisements give it: `fe80::1%eth0`.
    let (address, zone) = text.split_once('%')?;
    let scope = zone.parse().ok().or_else(|| interface_index(zone))?;
    Some(SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, scope).into())
}

fn interface_index(name: &str) -> Option<u32> {
    if_addrs::get_if_addrs().ok()?.into_iter().find(|interface| interface.name == name)?.index
}

/// Names with addresses fixed on this machine: `hosts(5)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    addresses: HashMap<String, Vec<IpAddr>>,
}

impl Hosts {
    /// This machine's hosts file as it is now.
    pub fn system() -> Self {
        Self::parse(&read_bounded(Path::new("/etc/hosts")))
    }

    /// Reads the text of a hosts file.
    pub fn parse(text: &str) -> Self {
        let mut addresses: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            for name in words {
                let known = addresses.entry(canonical(name)).or_default();
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        Self { addresses }
    }

    /// The addresses of a name, if it is fixed here. `localhost` always is, for both families (RFC 6761,
    /// section 6.3), whatever the file leaves out.
    pub fn look_up(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = canonical(name);
        let mut known = self.addresses.get(&name).cloned().unwrap_or_default();
        if name == "localhost" || name.ends_with(".localhost") {
            for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                if known.iter().all(|address| address.is_ipv4() != loopback.is_ipv4()) {
                    known.push(loopback);
                }
            }
        }
        (!known.is_empty()).then_some(known)
    }
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// A missing or unreadable file counts as an empty one: that is how the C library sees it, too.
fn read_bounded(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)) {
        tracing::debug!(path = %path.display(), %error, "a names file was not read");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_c_library_reads_it() {
        let config = ResolverConfig::parse(
            "# made by hand\nnameserver 192.0.2.53 # first\nnameserver 2001:db8::53\nnameserver nonsense\n\
             domain old.example\nsearch a.example b.example.\noptions edns0 ndots:2 rotate\n\
             nameserver 192.0.2.54\nnameserver 192.0.2.55\n",
        );
        let servers: Vec<String> = config.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:53", "192.0.2.54:53"]);
        assert_eq!(config.search, ["a.example", "b.example"]);
        assert_eq!(config.ndots, 2);
    }

    #[test]
    fn without_a_configuration_the_resolver_of_this_machine_is_asked() {
        assert_eq!(ResolverConfig::parse("; nothing here\n"), ResolverConfig::default());
    }

    #[test]
    fn short_names_are_tried_in_the_search_list_first_and_long_ones_last() {
        let config = ResolverConfig::parse("search a.example b.example\n");
        assert_eq!(config.candidates("box"), ["box.a.example", "box.b.example", "box"]);
        assert_eq!(config.candidates("box.net"), ["box.net", "box.net.a.example", "box.net.b.example"]);
        assert_eq!(config.candidates("box."), ["box"]);
        assert_eq!(ResolverConfig::default().candidates("box"), ["box"]);
    }

    #[test]
    fn the_hosts_file_fixes_names_in_any_case_and_localhost_is_always_known() {
        let hosts =
            Hosts::parse("192.0.2.7 Box.example box # ours\n::1 box\nnot-an-address x\n192.0.2.7 box\n");
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(hosts.look_up("BOX.example."), Some(vec![ip("192.0.2.7")]));
        assert_eq!(hosts.look_up("box"), Some(vec![ip("192.0.2.7"), ip("::1")]));
        assert_eq!(hosts.look_up("x"), None);
        assert_eq!(hosts.look_up("a.localhost"), Some(vec![ip("127.0.0.1"), ip("::1")]));
    }
}
