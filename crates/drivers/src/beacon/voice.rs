//! The sockets that only this process has: all is sent from them, and answers come back to them.
//!
//! A port that several processes share gives a datagram for one address to only one of them, and not to the
//! one that is meant. Sending from a port of one's own makes every source an address for answers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::{Mutex, PoisonError},
};

use caelum_model::beacon::{MULTICAST_V4, MULTICAST_V6};
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::{Interface, SendFailure, SendReport};

/// Multicast stays on its link.
pub(super) const HOPS: u32 = 1;

/// What reaches everybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    pub(super) multicast: bool,
    pub(super) broadcast: bool,
}

/// Our own sockets.
#[derive(Debug)]
pub(super) struct Voice {
    pub(super) v4: Option<UdpSocket>,
    pub(super) v6: Option<UdpSocket>,
    /// The interface of IPv4 multicast is a setting of the socket: it is set and used by one at a time.
    turn: Mutex<()>,
}

impl Voice {
    pub(super) fn new(v4: Option<UdpSocket>, v6: Option<UdpSocket>) -> Self {
        Self { v4, v6, turn: Mutex::new(()) }
    }

    pub(super) fn port(socket: Option<&UdpSocket>) -> Option<u16> {
        Some(socket?.local_addr().ok()?.port())
    }

    /// Sends to one address.
    pub(super) fn send_one(&self, to: SocketAddr, bytes: &[u8], report: &mut SendReport) {
        let result = match (to.ip(), &self.v4, &self.v6) {
            (IpAddr::V4(_), Some(socket), _) | (IpAddr::V6(_), _, Some(socket)) => send(socket, to, bytes),
            (IpAddr::V4(_), None, _) => Err(off("IPv4")),
            (IpAddr::V6(_), _, None) => Err(off("IPv6")),
        };
        note(report, result, to, None);
    }

    /// Sends by an interface to everybody that it reaches. Says whether multicast left.
    pub(super) fn send_all(
        &self,
        interface: &Interface,
        port: u16,
        ways: Ways,
        bytes: &[u8],
        report: &mut SendReport,
    ) -> bool {
        let before = report.sent;
        let name = Some(interface.name.as_str());
        if let (true, Some(v4), Some((ip, _))) = (ways.multicast, &self.v4, interface.v4.first()) {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let to = SocketAddr::from((MULTICAST_V4, port));
            let result = SockRef::from(v4).set_multicast_if_v4(ip).and_then(|()| send(v4, to, bytes));
            note(report, result, to, name);
        }
        if let (true, Some(v6), true) = (ways.multicast, &self.v6, interface.has_v6) {
            let to = SocketAddr::V6(SocketAddrV6::new(MULTICAST_V6, port, 0, interface.index));
            note(report, send(v6, to, bytes), to, name);
        }
        let has_multicast = report.sent > before;
        if let (true, Some(v4)) = (ways.broadcast, &self.v4) {
            for everybody in interface.v4.iter().filter_map(|(_, everybody)| *everybody) {
                let to = SocketAddr::from((everybody, port));
                note(report, send(v4, to, bytes), to, name);
            }
        }
        has_multicast
    }
}

fn off(family: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{family} is switched off or not there"))
}

/// Sends now or not at all. Goes past the runtime, which would first have to hear from the system that the
/// socket can be written to; a datagram socket nearly always can.
fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    SockRef::from(socket).send_to(bytes, &to.into()).map(drop)
}

fn note(report: &mut SendReport, result: io::Result<()>, to: SocketAddr, interface: Option<&str>) {
    match result {
        Ok(()) => report.sent += 1,
        Err(source) => {
            report.failures.push(SendFailure { to, interface: interface.map(str::to_owned), source });
        }
    }
}

/// Everything of a family, on a port.
pub(super) fn any(is_v6: bool, port: u16) -> SocketAddr {
    if is_v6 { (Ipv6Addr::UNSPECIFIED, port).into() } else { (Ipv4Addr::UNSPECIFIED, port).into() }
}
