//! The sockets of beacons and membership: one that everybody's datagrams reach, one of our own.
//!
//! The beacon port is shared: several processes of a host may listen on it, and each hears what is sent to a
//! group or to everyone. What is sent to one address reaches only one of them, so everything is *sent* from a
//! socket of this process alone, and whoever answers reaches it and nobody else.
//!
//! Groups are joined on every interface, broadcasts go to each interface's own address as its netmask says.
//! Interfaces come and go: they are looked at again now and then. Nothing is decided here.

mod ether;
pub(crate) mod interfaces;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Mutex,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use caelum_model::beacon::{
    DATAGRAM_ACCEPTED_MAX, DATAGRAM_SENT_MAX, MULTICAST_V4, MULTICAST_V6, SECOND_DIALECT_PORTS,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

pub use self::ether::{Ether, MemoryAir};
use self::interfaces::Interface;
use crate::ports::{self, BindError};

/// How often interfaces are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Datagrams that the kernel keeps for us, bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Everybody, on the beacon port: groups and broadcast addresses.
    Everyone,
    /// Everybody, on the first port of the second dialect.
    EveryoneSecond,
    /// One address.
    One(SocketAddr),
}

/// What became of sending one datagram to all its addresses.
#[derive(Debug, Default)]
pub struct SendReport {
    /// Addresses it was sent to.
    pub sent: usize,
    /// Addresses it could not be sent to, each with the reason; none of them is fatal.
    pub failures: Vec<String>,
}

/// What carries datagrams.
///
/// # Contract
///
/// - what is sent to one address arrives there, with an address of the sender that can be answered
/// - what is sent to everyone reaches everybody who listens on the network
/// - a datagram that is too large is not sent, and that is said
#[async_trait]
pub trait Air: Send + Sync {
    /// The next datagram and its source. Of one that is larger than the buffer only the beginning is given.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
    /// Sends a datagram.
    async fn send(&self, to: Destination, bytes: &[u8]) -> SendReport;
    /// Where our datagrams come from.
    fn source(&self) -> SocketAddr;
}

/// How sockets are opened.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The beacon port. 0 takes any, for tests.
    pub port: u16,
    /// Whether the second dialect's port is listened on too.
    pub second_dialect: bool,
    /// Whether groups are joined and sent to.
    pub multicast: bool,
    /// Whether broadcast addresses are sent to.
    pub broadcast: bool,
}

/// The sockets of this host.
pub struct UdpAir {
    plan: Plan,
    port: u16,
    /// Everybody's datagrams, one a family; and those of the second dialect.
    shared: Vec<UdpSocket>,
    /// Our own, for sending and for answers: IPv4, and IPv6 where there is any.
    own_v4: UdpSocket,
    own_v6: Option<UdpSocket>,
    interfaces: Mutex<(Instant, Vec<Interface>)>,
}

impl UdpAir {
    /// Opens the sockets. A beacon port that another program holds for itself is named with its holder; a
    /// second dialect without a free port is left out, which is logged.
    pub fn open(plan: Plan) -> Result<Self, BindError> {
        let v4 = shared(SocketAddr::from((Ipv4Addr::UNSPECIFIED, plan.port)))?;
        let io = |addr| move |source| BindError::Io { addr, source };
        let port = v4.local_addr().map_err(io(SocketAddr::from((Ipv4Addr::UNSPECIFIED, plan.port))))?.port();
        let mut sockets = vec![v4];
        match shared(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
            Ok(v6) => sockets.push(v6),
            Err(error) => tracing::info!(code = "discovery.no_ipv6", %error, "beacons go by IPv4 only"),
        }
        if plan.second_dialect {
            match SECOND_DIALECT_PORTS
                .iter()
                .find_map(|port| shared(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))).ok())
            {
                Some(second) => sockets.push(second),
                None => tracing::warn!(
                    code = "discovery.second_dialect_deaf",
                    "none of the ports {SECOND_DIALECT_PORTS:?} is free: beacons of the second dialect are heard on port {port} only"
                ),
            }
        }
        let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let own_v4 = own(any_v4).map_err(io(any_v4))?;
        let own_v6 = own(any_v6).ok();
        let air = Self {
            plan,
            port,
            shared: sockets,
            own_v4,
            own_v6,
            interfaces: Mutex::new((Instant::now(), Vec::new())),
        };
        air.look();
        Ok(air)
    }

    /// The beacon port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Looks at the interfaces and joins the groups on those that are new.
    fn look(&self) {
        let found = interfaces::list();
        let mut known = self.interfaces.lock().expect("no code panics while it holds this lock");
        if self.plan.multicast {
            for interface in found.iter().filter(|interface| !known.1.contains(interface)) {
                self.join(interface);
            }
        }
        *known = (Instant::now(), found);
    }

    fn join(&self, interface: &Interface) {
        for socket in &self.shared {
            let socket = socket2::SockRef::from(socket);
            let is_v4 = socket.domain().is_ok_and(|domain| domain == Domain::IPV4);
            let joined = match interface.ip {
                IpAddr::V4(ip) if is_v4 => socket.join_multicast_v4(&MULTICAST_V4, &ip),
                IpAddr::V6(_) if !is_v4 => socket.join_multicast_v6(&MULTICAST_V6, interface.index),
                _ => continue,
            };
            // An interface that carries several addresses is joined once for all of them.
            if let Err(error) = joined.or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse => Ok(()),
                _ => Err(error),
            }) {
                tracing::debug!(code = "discovery.not_joined", interface = interface.name, %error, "a multicast group could not be joined");
            }
        }
    }

    fn everyone(&self, port: u16) -> Vec<(SocketAddr, Option<Interface>)> {
        let known = self.interfaces.lock().expect("no code panics while it holds this lock");
        let mut to = Vec::new();
        for interface in &known.1 {
            match interface.ip {
                IpAddr::V4(_) => {
                    if self.plan.multicast {
                        to.push((SocketAddr::from((MULTICAST_V4, port)), Some(interface.clone())));
                    }
                    if let Some(broadcast) = interface.broadcast.filter(|_| self.plan.broadcast) {
                        to.push((SocketAddr::from((broadcast, port)), None));
                    }
                }
                IpAddr::V6(_) if self.plan.multicast => {
                    to.push((SocketAddr::from((MULTICAST_V6, port)), Some(interface.clone())));
                }
                IpAddr::V6(_) => {}
            }
        }
        to.sort_by_key(|(addr, interface)| {
            (*addr, interface.as_ref().map(|i| i.index), interface.as_ref().map(|i| i.ip))
        });
        // Several addresses of one interface send once; IPv4 chooses its interface by address, IPv6 by index.
        to.dedup_by(|a, b| a.0 == b.0 && a.1.as_ref().map(|i| i.index) == b.1.as_ref().map(|i| i.index));
        to
    }

    async fn send_one(&self, to: SocketAddr, via: Option<&Interface>, bytes: &[u8]) -> io::Result<()> {
        let socket = match to {
            SocketAddr::V4(_) => &self.own_v4,
            SocketAddr::V6(_) => {
                self.own_v6.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?
            }
        };
        // The option and the datagram belong together: only the loop that owns this value sends.
        match via.map(|interface| (interface.ip, interface.index)) {
            Some((IpAddr::V4(ip), _)) => socket2::SockRef::from(socket).set_multicast_if_v4(&ip)?,
            Some((IpAddr::V6(_), index)) => socket2::SockRef::from(socket).set_multicast_if_v6(index)?,
            None => {}
        }
        let sent = socket.send_to(bytes, to).await?;
        if sent < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "only a part was sent"));
        }
        Ok(())
    }
}

#[async_trait]
impl Air for UdpAir {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let all = self.shared.iter().chain([&self.own_v4]).chain(&self.own_v6);
        let waiting = all.map(|socket| Box::pin(socket.readable()));
        let (ready, which, rest) = futures_util::future::select_all(waiting).await;
        drop(rest);
        ready?;
        let mut sockets = self.shared.iter().chain([&self.own_v4]).chain(&self.own_v6);
        let socket = sockets.nth(which).expect("the order is the same");
        match socket.try_recv_from(buffer) {
            Ok((length, from)) => Ok((length, SocketAddr::new(from.ip().to_canonical(), from.port()))),
            // Linux reports here that an earlier datagram found nobody: news for nobody.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) =>
            {
                Box::pin(self.receive(buffer)).await
            }
            Err(error) => Err(error),
        }
    }

    async fn send(&self, to: Destination, bytes: &[u8]) -> SendReport {
        let mut report = SendReport::default();
        if bytes.len() > DATAGRAM_SENT_MAX {
            report.failures.push(format!("{} bytes are more than a datagram may have", bytes.len()));
            return report;
        }
        let is_stale = {
            let known = self.interfaces.lock().expect("no code panics while it holds this lock");
            known.0.elapsed() >= LOOK_EVERY
        };
        if is_stale {
            self.look();
        }
        let addresses = match to {
            Destination::Everyone => self.everyone(self.port),
            Destination::EveryoneSecond => self.everyone(SECOND_DIALECT_PORTS[0]),
            Destination::One(addr) => vec![(addr, None)],
        };
        for (addr, via) in addresses {
            match self.send_one(addr, via.as_ref(), bytes).await {
                Ok(()) => report.sent += 1,
                Err(error) => {
                    let interface =
                        via.map(|interface| format!(" on {}", interface.name)).unwrap_or_default();
                    report.failures.push(format!("send to {addr}{interface}: {error}"));
                }
            }
        }
        if !report.failures.is_empty() && !matches!(to, Destination::One(_)) {
            // An interface may have gone.
            self.look();
        }
        report
    }

    fn source(&self) -> SocketAddr {
        let ip = self
            .interfaces
            .lock()
            .expect("no code panics while it holds this lock")
            .1
            .iter()
            .map(|interface| interface.ip)
            .find(|ip| ip.is_ipv4() && !ip.is_loopback())
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let port = self.own_v4.local_addr().map_or(0, |addr| addr.port());
        SocketAddr::new(ip, port)
    }
}

/// A socket that other processes of this host may open too.
fn shared(addr: SocketAddr) -> Result<UdpSocket, BindError> {
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        settle(&socket)?;
        socket.bind(&addr.into())?;
        UdpSocket::from_std(socket.into())
    };
    open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Busy { addr, holder: ports::find_udp_holder(addr) },
        io::ErrorKind::PermissionDenied => BindError::NotPermitted { addr },
        _ => BindError::Io { addr, source },
    })
}

/// A socket of this process alone.
fn own(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_multicast_hops_v6(1)?;
        socket.set_multicast_loop_v6(true)?;
    } else {
        socket.set_broadcast(true)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(true)?;
    }
    settle(&socket)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

fn settle(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // The kernel gives what it allows; less is no fault.
    drop(socket.set_recv_buffer_size(BUFFER_BYTES.max(DATAGRAM_ACCEPTED_MAX)));
    Ok(())
}
