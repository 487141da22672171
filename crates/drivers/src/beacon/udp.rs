//! Beacons over UDP: sockets on every interface, and a look around for new ones.
//!
//! Three kinds of socket. *Ears* are on the known ports, shared with other programs of this host that also
//! share them; multicast and broadcast reach all of them. The *voice* ([`super::voice`]) is ours alone.
//! Which interfaces there are is looked up again every [`RESCAN`], and when sending failed.
//!
//! Limits that an operator may meet: Linux lets a socket join 20 groups (`net.ipv4.igmp_max_memberships`), so
//! that of more interfaces than that some only hear broadcasts; a firewall has to let the ears' ports in, and
//! for unicast answers either the voice's port ([`OpenConfig::own_port`]) or answers to what was sent.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use caelum_model::beacon::{
    BEACON_PORT, DATAGRAM_SENT_MAX, MULTICAST_V4, MULTICAST_V6, SECOND_DIALECT_PORTS,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::{io::ReadBuf, net::UdpSocket};

use super::{
    Air, Bound, Destination, Interface, Reach, SendFailure, SendReport, interfaces,
    voice::{HOPS, Voice, Ways, any},
};
use crate::ports::{self, BindError};

/// Interfaces are looked up again after this long.
const RESCAN: Duration = Duration::from_secs(30);
/// And after a failure, but no sooner than this.
const RESCAN_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Room for datagrams that wait to be read: a thousand nodes may answer within half a second.
const RECEIVE_BYTES: usize = 1 << 20;

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConfig {
    /// Port of the first dialect; 0 takes any.
    pub port: u16,
    /// Ports of the second dialect in the order in which they are tried; everybody is sent to on the first.
    /// Empty: it is not listened to.
    pub second_ports: Vec<u16>,
    /// Port for sending and for answers; 0 takes any.
    pub own_port: u16,
    /// Which interfaces are sent by, and where multicast is heard.
    pub reach: Reach,
    /// Whether to use IPv4.
    pub ipv4: bool,
    /// Whether to use IPv6, where the system has it.
    pub ipv6: bool,
    /// Whether to send and hear multicast.
    pub multicast: bool,
    /// Whether to send to the broadcast address of each subnet. It is always heard.
    pub broadcast: bool,
}

impl Default for OpenConfig {
    fn default() -> Self {
        Self {
            port: BEACON_PORT,
            second_ports: SECOND_DIALECT_PORTS.to_vec(),
            own_port: 0,
            reach: Reach::All,
            ipv4: true,
            ipv6: true,
            multicast: true,
            broadcast: true,
        }
    }
}

/// What an operator chooses of it; the rest is usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Port of the first dialect; 0 takes any.
    pub port: u16,
    /// Whether the second dialect is listened to on its own port.
    pub second_dialect: bool,
    /// Whether to send and hear multicast.
    pub multicast: bool,
    /// Whether to send to the broadcast address of each subnet.
    pub broadcast: bool,
}

impl From<Plan> for OpenConfig {
    fn from(plan: Plan) -> Self {
        let Plan { port, second_dialect, multicast, broadcast } = plan;
        let second_ports = if second_dialect { SECOND_DIALECT_PORTS.to_vec() } else { Vec::new() };
        Self { port, second_ports, multicast, broadcast, ..Self::default() }
    }
}

/// Sockets.
#[derive(Debug)]
pub struct UdpAir {
    config: OpenConfig,
    bound: Bound,
    ears: Vec<Ear>,
    voice: Voice,
    around: Mutex<Around>,
    /// The socket that is asked first next time, so that a busy one does not silence the others.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Ear {
    socket: UdpSocket,
    is_v6: bool,
}

/// What was found when looking around.
#[derive(Debug, Default)]
struct Around {
    interfaces: Vec<Interface>,
    joined: BTreeSet<(usize, u32)>,
    refused: BTreeSet<(usize, u32)>,
    at: Option<Instant>,
    has_failed: bool,
}

impl UdpAir {
    /// Opens the sockets. Must be called inside the runtime.
    pub fn open(config: impl Into<OpenConfig>) -> Result<Self, BindError> {
        let config = config.into();
        let mut ears = Vec::new();
        let mut port = config.port;
        if config.ipv4 {
            let socket = shared(any(false, port))?;
            port = local_port(&socket, port);
            ears.push(Ear { socket, is_v6: false });
        }
        if config.ipv6 {
            match shared(any(true, port)) {
                Ok(socket) => {
                    port = local_port(&socket, port);
                    ears.push(Ear { socket, is_v6: true });
                }
                Err(error) if ears.is_empty() => return Err(error),
                Err(error) => tracing::info!(code = "discovery.no_ipv6", %error, "beacons go by IPv4 only"),
            }
        }
        let has = |is_v6: bool| ears.iter().any(|ear| ear.is_v6 == is_v6);
        let own = |is_v6: bool| has(is_v6).then(|| own_socket(any(is_v6, config.own_port))).transpose();
        let voice = Voice::new(own(false)?, own(true)?);
        if ears.is_empty() {
            let source = io::Error::new(io::ErrorKind::Unsupported, "IPv4 and IPv6 are both switched off");
            return Err(BindError::Io { addr: any(false, port), source });
        }
        // The second dialect is older than IPv6 in this family of programs.
        let mut second_port = None;
        for wanted in config.second_ports.iter().copied().filter(|_| config.ipv4) {
            match shared(any(false, wanted)) {
                Ok(socket) => {
                    second_port = Some(local_port(&socket, wanted));
                    ears.push(Ear { socket, is_v6: false });
                    break;
                }
                Err(error) => tracing::debug!(%error, "the second dialect's next port is tried"),
            }
        }
        if second_port.is_none() && config.ipv4 && !config.second_ports.is_empty() {
            tracing::warn!(
                code = "discovery.second_dialect_deaf",
                "none of the ports {:?} is free: beacons of the second dialect are heard on port {port} only",
                config.second_ports
            );
        }
        let bound = Bound {
            port,
            second_port,
            own_v4: Voice::port(voice.v4.as_ref()),
            own_v6: Voice::port(voice.v6.as_ref()),
        };
        let around = Mutex::new(Around::default());
        let air = Self { config, bound, ears, voice, around, next: AtomicUsize::new(0) };
        air.interfaces();
        Ok(air)
    }

    /// What is listened to.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Port of the first dialect.
    pub fn port(&self) -> u16 {
        self.bound.port
    }

    /// The interfaces, as they were when last looked up.
    pub fn interfaces(&self) -> Vec<Interface> {
        let mut around = self.around.lock().unwrap_or_else(PoisonError::into_inner);
        let age = around.at.map(|at| at.elapsed());
        let patience = if around.has_failed { RESCAN_AFTER_FAILURE } else { RESCAN };
        if age.is_none_or(|age| age >= patience) {
            self.look_around(&mut around);
        }
        around.interfaces.clone()
    }

    fn look_around(&self, around: &mut Around) {
        around.at = Some(Instant::now());
        around.has_failed = false;
        match interfaces::list(&self.config.reach) {
            Ok(interfaces) => around.interfaces = interfaces,
            Err(error) => {
                return tracing::warn!(code = "discovery.no_interfaces", %error, "list the interfaces: those known before are used");
            }
        }
        let Around { interfaces, joined, refused, .. } = around;
        let exists = |(_, index): &(usize, u32)| interfaces.iter().any(|interface| interface.index == *index);
        joined.retain(exists);
        refused.retain(exists);
        if !self.config.multicast {
            return;
        }
        for (at, ear) in self.ears.iter().enumerate() {
            for interface in interfaces.iter() {
                let key = (at, interface.index);
                let fits = if ear.is_v6 { interface.has_v6 } else { !interface.v4.is_empty() };
                if !fits || joined.contains(&key) {
                    continue;
                }
                match join(ear, interface.index) {
                    Ok(()) => {
                        joined.insert(key);
                    }
                    // Said once for each interface, not with each look around.
                    Err(error) if refused.insert(key) => {
                        tracing::warn!(code = "discovery.not_joined", interface = interface.name, %error, "multicast is not heard there");
                    }
                    Err(_) => {}
                }
            }
        }
    }

    fn send_everyone(&self, port: u16, bytes: &[u8], report: &mut SendReport) {
        let ways = Ways { multicast: self.config.multicast, broadcast: self.config.broadcast };
        let mut is_heard_here = false;
        for interface in self.interfaces() {
            // Others on this host hear what leaves by any interface. The loopback serves where there is
            // none, and only there: who is heard by it would be known by an address that means nothing
            // elsewhere.
            if !(interface.is_loopback && is_heard_here) {
                is_heard_here |= self.voice.send_all(&interface, port, ways, bytes, report);
            }
        }
    }
}

#[async_trait::async_trait]
impl Air for UdpAir {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let voices = [&self.voice.v4, &self.voice.v6].into_iter().flatten();
        let sockets: Vec<&UdpSocket> = voices.chain(self.ears.iter().map(|ear| &ear.socket)).collect();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        std::future::poll_fn(|context| {
            for turn in 0..sockets.len() {
                let socket = sockets[(first.wrapping_add(turn)) % sockets.len()];
                let mut space = ReadBuf::new(buffer);
                match socket.poll_recv_from(context, &mut space) {
                    Poll::Ready(Ok(from)) => return Poll::Ready(Ok((space.filled().len(), from))),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn send(&self, to: Destination, bytes: &[u8]) -> SendReport {
        let mut report = SendReport::default();
        if let Some(failure) = too_large(to, bytes) {
            report.failures.push(failure);
            return report;
        }
        match to {
            Destination::Everyone => self.send_everyone(self.bound.port, bytes, &mut report),
            Destination::EveryoneSecond => {
                let first = self.config.second_ports.first().copied().filter(|port| *port != 0);
                let port = first.or(self.bound.second_port).unwrap_or(SECOND_DIALECT_PORTS[0]);
                self.send_everyone(port, bytes, &mut report);
            }
            Destination::One(addr) => self.voice.send_one(addr, bytes, &mut report),
        }
        if !report.failures.is_empty() && !matches!(to, Destination::One(_)) {
            self.around.lock().unwrap_or_else(PoisonError::into_inner).has_failed = true;
        }
        report
    }

    fn source(&self) -> SocketAddr {
        let around = self.around.lock().unwrap_or_else(PoisonError::into_inner);
        let v4 = around.interfaces.iter().find_map(|interface| Some(interface.v4.first()?.0));
        let v4 = self.bound.own_v4.map(|port| SocketAddr::from((v4.unwrap_or(Ipv4Addr::LOCALHOST), port)));
        let v6 = self.bound.own_v6.map(|port| SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        v4.or(v6).unwrap_or_else(|| any(false, 0))
    }
}

/// A datagram that others would not have to look at is not sent.
pub(super) fn too_large(to: Destination, bytes: &[u8]) -> Option<SendFailure> {
    let to = match to {
        Destination::One(addr) => addr,
        Destination::Everyone | Destination::EveryoneSecond => SocketAddr::from((MULTICAST_V4, 0)),
    };
    let what = || format!("{} bytes are more than the {DATAGRAM_SENT_MAX} of a datagram", bytes.len());
    (bytes.len() > DATAGRAM_SENT_MAX).then(|| SendFailure {
        to,
        interface: None,
        source: io::Error::new(io::ErrorKind::InvalidInput, what()),
    })
}

fn local_port(socket: &UdpSocket, wanted: u16) -> u16 {
    socket.local_addr().map_or(wanted, |addr| addr.port())
}

fn shared(addr: SocketAddr) -> Result<UdpSocket, BindError> {
    open(addr, true).map_err(|source| ports::bind_error(addr, source, ports::find_udp_holder))
}

fn own_socket(addr: SocketAddr) -> Result<UdpSocket, BindError> {
    open(addr, false).map_err(|source| ports::bind_error(addr, source, ports::find_udp_holder))
}

fn open(addr: SocketAddr, is_shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_multicast_loop_v6(true)?;
        socket.set_multicast_hops_v6(HOPS)?;
    } else {
        socket.set_broadcast(true)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_multicast_ttl_v4(HOPS)?;
    }
    if is_shared {
        socket.set_reuse_address(true)?;
        // Linux shares with the first option alone; the second would restrict it to one user. The systems
        // that descend from BSD need it.
        #[cfg(all(unix, not(target_os = "linux")))]
        socket.set_reuse_port(true)?;
        // Without this a socket also hears groups that other programs joined on other interfaces.
        #[cfg(target_os = "linux")]
        if addr.is_ipv6() {
            socket.set_multicast_all_v6(false)?;
        } else {
            socket.set_multicast_all_v4(false)?;
        }
    }
    // The system may grant less; that is no reason not to start.
    drop(socket.set_recv_buffer_size(RECEIVE_BYTES));
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

fn join(ear: &Ear, index: u32) -> io::Result<()> {
    let socket = SockRef::from(&ear.socket);
    let result = if ear.is_v6 {
        socket.join_multicast_v6(&MULTICAST_V6, index)
    } else {
        socket.join_multicast_v4_n(&MULTICAST_V4, &InterfaceIndexOrAddress::Index(index))
    };
    match result {
        // It is a member already: the interface went and came back.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        result => result,
    }
}
