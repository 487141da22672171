//! The interfaces of this host that carry beacons.

use std::net::{IpAddr, Ipv4Addr};

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) ip: IpAddr,
    /// What its netmask says; none where the network has no such address.
    pub(crate) broadcast: Option<Ipv4Addr>,
}

/// Every address that is up. Loopback is among them, so that processes of one host hear each other without
/// any network.
pub(crate) fn list() -> Vec<Interface> {
    let found = match if_addrs::get_if_addrs() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(code = "discovery.no_interfaces", %error, "the interfaces of this host cannot be read");
            return Vec::new();
        }
    };
    found
        .into_iter()
        .filter_map(|interface| {
            let ip = interface.ip();
            // Of IPv6 one address of an interface is enough, and each that is up has a link-local one.
            let is_used = match ip {
                IpAddr::V4(_) => true,
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            let broadcast = match &interface.addr {
                if_addrs::IfAddr::V4(v4) if !v4.ip.is_loopback() => broadcast_of(v4.ip, v4.netmask),
                _ => None,
            };
            is_used.then(|| Interface {
                name: interface.name.clone(),
                index: interface.index.unwrap_or(0),
                ip,
                broadcast,
            })
        })
        .collect()
}

/// The broadcast address of a network; point-to-point links and single hosts have none (RFC 3021).
fn broadcast_of(ip: Ipv4Addr, netmask: Ipv4Addr) -> Option<Ipv4Addr> {
    let mask = u32::from(netmask);
    (mask.leading_ones() < 31 && mask != 0).then(|| Ipv4Addr::from(u32::from(ip) | !mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broadcast_address_follows_the_netmask() {
        let of = |ip: [u8; 4], mask: [u8; 4]| broadcast_of(ip.into(), mask.into()).map(|ip| ip.octets());
        assert_eq!(of([10, 32, 3, 58], [255, 255, 252, 0]), Some([10, 32, 3, 255]));
        assert_eq!(of([10, 32, 1, 58], [255, 255, 254, 0]), Some([10, 32, 1, 255]));
        assert_eq!(of([192, 168, 1, 9], [255, 255, 255, 0]), Some([192, 168, 1, 255]));
        assert_eq!(of([172, 16, 5, 4], [255, 240, 0, 0]), Some([172, 31, 255, 255]));
        assert_eq!(of([10, 0, 0, 1], [255, 255, 255, 255]), None);
        assert_eq!(of([10, 0, 0, 1], [255, 255, 255, 254]), None);
    }
}
