//! The network around this machine: ports, groups, and who answers. Blocks the thread, for seconds at most.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use caelum_model::beacon::{DATAGRAM_ACCEPTED_MAX, MULTICAST_V4, MULTICAST_V6};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{
    beacon::{Reach, interfaces},
    ports::{self, Holder},
};

/// Time in which a datagram comes back to its own machine.
const LOOPBACK_MAX: Duration = Duration::from_millis(300);
/// Most answers that are kept.
const ANSWERS_MAX: usize = 1_024;

/// How a port fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It can be had.
    Free,
    /// Somebody has it; who may be hidden from this user.
    Held(Option<Holder>),
    /// It cannot be had for another reason.
    Refused(String),
}

fn state(bound: io::Result<()>, find: impl FnOnce() -> Option<Holder>) -> PortState {
    match bound {
        Ok(()) => PortState::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => PortState::Held(find()),
        Err(error) => PortState::Refused(error.to_string()),
    }
}

/// Whether a TCP address can be listened on.
pub fn tcp_port(addr: SocketAddr) -> PortState {
    let bind = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(1)?;
        drop(TcpListener::from(socket));
        Ok(())
    };
    state(bind(), || ports::find_holder(addr))
}

/// Whether a UDP address can be had. One that its holder shares counts as held too.
pub fn udp_port(addr: SocketAddr) -> PortState {
    state(UdpSocket::bind(addr).map(drop), || ports::find_udp_holder(addr))
}

/// Whether a datagram to the group came back on an interface.
#[derive(Clone, Debug)]
pub struct Loopback {
    /// The interface, with `(IPv6)` where that family was tried.
    pub interface: String,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Whether it was heard, or why it could not be tried.
    pub heard: Result<bool, String>,
}

/// Sends a datagram to the group on each interface, to a port of this process alone, and listens for it.
pub fn loopbacks() -> Vec<Loopback> {
    let mut tried: Vec<(u32, bool)> = Vec::new();
    let mut found = Vec::new();
    for interface in addresses() {
        let key = (interface.index, interface.ip.is_ipv6());
        if tried.contains(&key) {
            continue;
        }
        tried.push(key);
        let family = if interface.ip.is_ipv6() { " (IPv6)" } else { "" };
        found.push(Loopback {
            interface: format!("{}{family}", interface.name),
            is_loopback: interface.ip.is_loopback(),
            heard: loopback(&interface).map_err(|error| error.to_string()),
        });
    }
    found
}

fn loopback(interface: &Interface) -> io::Result<bool> {
    let ear = match interface.ip {
        IpAddr::V4(ip) => {
            let ear = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            ear.join_multicast_v4(&MULTICAST_V4, &ip)?;
            ear
        }
        IpAddr::V6(_) => {
            let ear = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            ear.join_multicast_v6(&MULTICAST_V6, interface.index)?;
            ear
        }
    };
    let said = crate::random::number().to_be_bytes();
    let mouth = mouth(interface)?;
    mouth.send_to(&said, group(interface, ear.local_addr()?.port()))?;
    let until = Instant::now() + LOOPBACK_MAX;
    let mut buffer = [0; 64];
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        ear.set_read_timeout(Some(left))?;
        match ear.recv_from(&mut buffer) {
            Ok((length, _)) if buffer[..length] == said => return Ok(true),
            Ok(_) => {}
            Err(error) if is_silence(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// A socket that sends on one interface.
fn mouth(interface: &Interface) -> io::Result<UdpSocket> {
    let socket = match interface.ip {
        IpAddr::V4(ip) => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_broadcast(true)?;
            SockRef::from(&socket).set_multicast_if_v4(&ip)?;
            socket
        }
        IpAddr::V6(_) => {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            SockRef::from(&socket).set_multicast_if_v6(interface.index)?;
            socket
        }
    };
    Ok(socket)
}

fn group(interface: &Interface, port: u16) -> SocketAddr {
    match interface.ip {
        IpAddr::V4(_) => SocketAddr::from((MULTICAST_V4, port)),
        IpAddr::V6(_) => SocketAddrV6::new(MULTICAST_V6, port, 0, interface.index).into(),
    }
}

/// What somebody answered.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Who.
    pub from: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
    /// How long after the question.
    pub after: Duration,
}

/// Sends a question to everybody on the networks of this machine, listens, and says goodbye, all from one
/// socket that is its own. IPv4, as every machine has it.
pub fn ask_everybody(question: &[u8], goodbye: &[u8], port: u16, listen: Duration) -> io::Result<Vec<Heard>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    let interfaces: Vec<Interface> =
        addresses().into_iter().filter(|interface| interface.ip.is_ipv4()).collect();
    let say = |bytes: &[u8]| {
        for interface in &interfaces {
            if let IpAddr::V4(ip) = interface.ip
                && SockRef::from(&socket).set_multicast_if_v4(&ip).is_ok()
            {
                // An interface that cannot send is found by its own check.
                drop(socket.send_to(bytes, (MULTICAST_V4, port)));
            }
            if let Some(broadcast) = interface.broadcast {
                drop(socket.send_to(bytes, (broadcast, port)));
            }
        }
    };
    let asked = Instant::now();
    say(question);
    let mut heard = Vec::new();
    let mut buffer = [0; DATAGRAM_ACCEPTED_MAX];
    while heard.len() < ANSWERS_MAX {
        let Some(left) = listen.checked_sub(asked.elapsed()).filter(|left| !left.is_zero()) else { break };
        socket.set_read_timeout(Some(left))?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                heard.push(Heard { from, bytes: buffer[..length].to_vec(), after: asked.elapsed() });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if is_silence(&error) => break,
            Err(error) => return Err(error),
        }
    }
    say(goodbye);
    Ok(heard)
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// One address of an interface, or that it has IPv6.
struct Interface {
    name: String,
    index: u32,
    ip: IpAddr,
    broadcast: Option<Ipv4Addr>,
}

fn addresses() -> Vec<Interface> {
    let found = match interfaces::list(&Reach::All) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(code = "doctor.no_interfaces", %error, "the interfaces of this host cannot be read");
            return Vec::new();
        }
    };
    let mut addresses = Vec::new();
    for interface in found {
        let one =
            |ip, broadcast| Interface { name: interface.name.clone(), index: interface.index, ip, broadcast };
        addresses.extend(interface.v4.iter().map(|(ip, broadcast)| one(IpAddr::V4(*ip), *broadcast)));
        if interface.has_v6 {
            addresses.push(one(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), None));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_held_names_its_holder() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = [tcp_port(tcp.local_addr().unwrap()), udp_port(udp.local_addr().unwrap())];
        for state in found {
            let PortState::Held(holder) = state else { panic!("{state:?}") };
            if cfg!(target_os = "linux") {
                assert_eq!(holder.map(|holder| holder.pid), Some(std::process::id()));
            }
        }
        assert_eq!(tcp_port("127.0.0.1:0".parse().unwrap()), PortState::Free);
        assert_eq!(udp_port("127.0.0.1:0".parse().unwrap()), PortState::Free);
    }

    #[test]
    fn an_interface_is_tried_once_a_family() {
        let found = loopbacks();
        let mut names: Vec<&str> = found.iter().map(|found| found.interface.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{found:?}");
    }
}
