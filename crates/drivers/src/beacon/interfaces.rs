//! Which interfaces there are, and what reaches everybody on each.

use std::{collections::BTreeMap, io, net::Ipv4Addr};

use if_addrs::IfAddr;

/// Which interfaces are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// All that are up.
    #[default]
    All,
    /// Those of these names.
    Named(Vec<String>),
}

impl Reach {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|wanted| wanted == name),
        }
    }
}

/// An interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Whether it leads nowhere but to this host.
    pub is_loopback: bool,
    /// Its IPv4 addresses, each with the address that reaches everybody on its subnet.
    pub v4: Vec<(Ipv4Addr, Option<Ipv4Addr>)>,
    /// Whether IPv6 multicast can be sent by it. Loopback interfaces mostly have no route for it.
    pub has_v6: bool,
}

/// The interfaces that are up, loopback last: a node that is heard both ways should be known by the address
/// at which others reach it.
pub(crate) fn list(reach: &Reach) -> io::Result<Vec<Interface>> {
    Ok(gather(if_addrs::get_if_addrs()?, reach))
}

fn gather(addresses: Vec<if_addrs::Interface>, reach: &Reach) -> Vec<Interface> {
    let mut found: BTreeMap<(bool, u32), Interface> = BTreeMap::new();
    for address in addresses {
        let Some(index) = address.index.filter(|_| address.is_oper_up() && reach.has(&address.name)) else {
            continue;
        };
        // A second address on the loopback interface does not make it an interface of its own.
        let is_loopback = address.is_loopback() || found.contains_key(&(true, index));
        let interface = found.entry((is_loopback, index)).or_insert_with(|| Interface {
            name: address.name.clone(),
            index,
            is_loopback,
            v4: Vec::new(),
            has_v6: false,
        });
        match address.addr {
            IfAddr::V4(v4) => {
                let everybody = (!is_loopback).then(|| broadcast(v4.ip, v4.netmask)).flatten();
                interface.v4.push((v4.ip, everybody));
            }
            IfAddr::V6(_) => interface.has_v6 |= !is_loopback,
        }
    }
    found.into_values().collect()
}

/// The address of everybody on a subnet. None where a subnet is a single address or a pair (RFC 3021).
fn broadcast(ip: Ipv4Addr, netmask: Ipv4Addr) -> Option<Ipv4Addr> {
    let mask = netmask.to_bits();
    let is_subnet =
        mask.leading_ones() + mask.trailing_zeros() == 32 && (1..31).contains(&mask.leading_ones());
    is_subnet.then(|| Ipv4Addr::from_bits(ip.to_bits() | !mask))
}

#[cfg(test)]
mod tests {
    use if_addrs::{IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn v4(name: &str, index: u32, ip: [u8; 4], mask: [u8; 4]) -> if_addrs::Interface {
        if_addrs::Interface {
            name: name.to_owned(),
            addr: IfAddr::V4(Ifv4Addr { ip: ip.into(), netmask: mask.into(), prefixlen: 0, broadcast: None }),
            index: Some(index),
            oper_status: IfOperStatus::Up,
            is_p2p: false,
        }
    }

    fn v6(name: &str, index: u32, ip: &str) -> if_addrs::Interface {
        let ip = ip.parse().expect("an address");
        let addr = IfAddr::V6(Ifv6Addr { ip, netmask: ip, prefixlen: 64, broadcast: None });
        if_addrs::Interface { addr, ..v4(name, index, [0; 4], [0; 4]) }
    }

    #[test]
    fn everybody_is_reached_by_the_real_netmask() {
        for (ip, mask, everybody) in [
            ("192.168.1.7", "255.255.255.0", Some("192.168.1.255")),
            ("172.16.5.9", "255.240.0.0", Some("172.31.255.255")),
            ("10.1.2.3", "255.255.252.0", Some("10.1.3.255")),
            ("10.0.0.1", "255.255.255.252", Some("10.0.0.3")),
            ("10.0.0.1", "255.255.255.254", None),
            ("10.0.0.1", "255.255.255.255", None),
            ("10.0.0.1", "0.0.0.0", None),
            ("10.0.0.1", "255.0.255.0", None),
        ] {
            let parse = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
            assert_eq!(broadcast(parse(ip), parse(mask)), everybody.map(parse), "{ip} {mask}");
        }
    }

    #[test]
    fn interfaces_are_told_by_number_and_loopback_comes_last() {
        let down = if_addrs::Interface {
            oper_status: IfOperStatus::Down,
            ..v4("eth9", 9, [10, 9, 9, 9], [255, 0, 0, 0])
        };
        let addresses = vec![
            v4("lo", 1, [127, 0, 0, 1], [255, 0, 0, 0]),
            v6("lo", 1, "::1"),
            v4("lo", 1, [10, 5, 5, 5], [255, 255, 255, 255]),
            v4("eth0", 4, [192, 168, 1, 7], [255, 255, 255, 0]),
            v4("eth0", 4, [192, 168, 2, 7], [255, 255, 255, 0]),
            v6("eth0", 4, "fe80::1"),
            down,
        ];
        let all = gather(addresses.clone(), &Reach::All);
        let names: Vec<_> = all.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "lo"]);
        assert!(all[0].has_v6 && !all[1].has_v6 && all[0].v4.len() == 2 && all[1].v4.len() == 2);
        assert!(all[1].v4.iter().all(|(_, everybody)| everybody.is_none()));
        let named = gather(addresses, &Reach::Named(vec!["lo".to_owned()]));
        assert!(named.len() == 1 && named[0].is_loopback);
    }
}
