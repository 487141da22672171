//! How this machine is connected: routes, the interface in use, resolvers, the hosts file.
//!
//! Read from what the system publishes; nothing is sent. The questions with a second answer on another
//! system (macOS) fall back to what can be learnt from socket calls alone, or to "not known".
//!
//! [`names`] reads `resolv.conf` and the hosts file; the rest is here.

mod names;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
};

use caelum_model::event::InterfaceType;

pub use names::{Hosts, ResolverConfig};

/// Addresses set aside for documentation (RFC 5737, RFC 3849): every default route covers them and nobody
/// has them, so they stand for "somewhere far away".
const FAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const FAR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// A route to everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface it leaves by.
    pub interface: String,
    /// The next hop; none on a point-to-point link.
    pub gateway: Option<IpAddr>,
    /// The lower, the more preferred.
    pub metric: u32,
}

/// The next hop towards everywhere, IPv4 before IPv6. IPv6 link-local gateways are left out, because they
/// mean nothing without their interface.
pub fn default_gateway() -> Option<IpAddr> {
    default_routes().into_iter().filter_map(|route| route.gateway).find(|gateway| match gateway {
        IpAddr::V4(_) => true,
        IpAddr::V6(gateway) => !gateway.is_unicast_link_local(),
    })
}

/// Routes to everywhere, best first, IPv4 before IPv6. Empty where the system does not publish them as
/// files.
pub fn default_routes() -> Vec<DefaultRoute> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = parse_ipv4_routes(&read("/proc/net/route"));
    routes.extend(parse_ipv6_routes(&read("/proc/net/ipv6_route")));
    routes
}

/// The resolvers this machine is configured to ask, in order.
pub fn resolvers() -> Vec<SocketAddr> {
    ResolverConfig::system().servers
}

/// The address this machine would use towards `to`. The kernel is asked by connecting a UDP socket, which
/// sends nothing and honours routing policy, which the route table alone does not show.
pub fn source_address(to: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = match to {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    // Port 9 is "discard"; no datagram is sent.
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The machine's own addresses, loopback and link-local left out, the one used towards the world first.
pub fn addresses() -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local())
        .map(|interface| interface.ip())
        .collect();
    let used = [source_address(FAR_V4), source_address(FAR_V6)];
    addresses.sort_by_key(|address| {
        let rank = used.iter().position(|used| used.as_ref() == Some(address)).unwrap_or(used.len());
        (rank, address.is_ipv6())
    });
    addresses.dedup();
    addresses
}

/// The interface by which traffic leaves, IPv4 before IPv6.
fn outgoing_interface() -> Option<String> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    [FAR_V4, FAR_V6]
        .into_iter()
        .filter_map(source_address)
        .find_map(|source| interfaces.iter().find(|interface| interface.ip() == source))
        .map(|interface| interface.name.clone())
}

/// What kind of link the machine is on. Under a VPN: the link below the tunnel.
pub fn interface_type() -> InterfaceType {
    let outgoing = outgoing_interface();
    let physical = default_routes()
        .into_iter()
        .map(|route| route.interface)
        .chain(outgoing)
        .find(|interface| !is_tunnel(Path::new("/sys/class/net"), interface));
    physical.map_or(InterfaceType::Unknown, |interface| kind_of(Path::new("/sys/class/net"), &interface))
}

/// Whether traffic to the world leaves through a tunnel.
pub fn vpn_enabled() -> bool {
    outgoing_interface().is_some_and(|interface| is_tunnel(Path::new("/sys/class/net"), &interface))
}

fn kind_of(sys: &Path, interface: &str) -> InterfaceType {
    let directory = sys.join(interface);
    let uevent = std::fs::read_to_string(directory.join("uevent")).unwrap_or_default();
    let is_type = |kind: &str| uevent.lines().any(|line| line == format!("DEVTYPE={kind}"));
    if is_type("wlan") || directory.join("wireless").exists() || directory.join("phy80211").exists() {
        return InterfaceType::Wifi;
    }
    if is_type("wwan") || ["wwan", "rmnet"].iter().any(|prefix| interface.starts_with(prefix)) {
        return InterfaceType::Cellular;
    }
    // ARPHRD_ETHER: cables, and what pretends to be one inside virtual machines and containers.
    match std::fs::read_to_string(directory.join("type")).unwrap_or_default().trim() {
        "1" => InterfaceType::Ethernet,
        _ => InterfaceType::Unknown,
    }
}

/// Whether an interface is a layer-3 tunnel. Layer-2 `tap` devices are not counted: containers without
/// privileges have one as their only link.
fn is_tunnel(sys: &Path, interface: &str) -> bool {
    const IFF_TUN: u32 = 1;
    const PREFIXES: [&str; 6] = ["tun", "utun", "wg", "ipsec", "tailscale", "ppp"];
    let directory = sys.join(interface);
    if !directory.exists() {
        return PREFIXES.iter().any(|prefix| interface.starts_with(prefix));
    }
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    let flags = read("tun_flags");
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    flags & IFF_TUN != 0 || read("uevent").lines().any(|line| line == "DEVTYPE=wireguard")
}

/// `/proc/net/route`: one line a route, addresses as words in the machine's byte order.
fn parse_ipv4_routes(table: &str) -> Vec<DefaultRoute> {
    const UP: u32 = 0x1;
    const GATEWAY: u32 = 0x2;
    let mut routes: Vec<DefaultRoute> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [interface, destination, gateway, flags, _, _, metric, mask, ..] = fields[..] else {
                return None;
            };
            let flags = u32::from_str_radix(flags, 16).ok()?;
            if destination != "00000000" || mask != "00000000" || flags & UP == 0 {
                return None;
            }
            let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
            Some(DefaultRoute {
                interface: interface.to_owned(),
                gateway: (flags & GATEWAY != 0).then_some(IpAddr::V4(gateway)),
                metric: metric.parse().ok()?,
            })
        })
        .collect();
    routes.sort_by_key(|route| route.metric);
    routes
}

/// `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, metric (all hexadecimal),
/// two counters, flags, interface.
fn parse_ipv6_routes(table: &str) -> Vec<DefaultRoute> {
    const UP: u32 = 0x1;
    const REJECT: u32 = 0x200;
    let mut routes: Vec<DefaultRoute> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [destination, length, _, _, hop, metric, _, _, flags, interface] = fields[..] else {
                return None;
            };
            let flags = u32::from_str_radix(flags, 16).ok()?;
            let everywhere = length == "00" && destination.bytes().all(|byte| byte == b'0');
            if !everywhere || flags & UP == 0 || flags & REJECT != 0 || interface == "lo" {
                return None;
            }
            let hop = Ipv6Addr::from(u128::from_str_radix(hop, 16).ok()?);
            Some(DefaultRoute {
                interface: interface.to_owned(),
                gateway: (!hop.is_unspecified()).then_some(IpAddr::V6(hop)),
                metric: u32::from_str_radix(metric, 16).ok()?,
            })
        })
        .collect();
    routes.sort_by_key(|route| route.metric);
    routes
}

#[cfg(test)]
mod tests;
