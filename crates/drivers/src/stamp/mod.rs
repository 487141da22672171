//! The reflector of STAMP packets (RFC 8762): what other machines' probes measure the way to this one by.
//!
//! It answers only whom it is told to, never with more bytes than it got, and no more packets a second than
//! agreed; what it sends back is decided by `engine::stamp`. TWAMP-light senders are answered too. It keeps
//! no record of what it saw but [`Counters`].

mod moments;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use caelum_engine::stamp::{Declined, Limits, Reflector};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    ancillary::{self, Wish},
    fault::describe,
};

pub(crate) use moments::Moments;

/// The largest datagram that is reflected; of a longer one, only so much comes back.
const DATAGRAM_MAX: usize = 2_048;
/// Wait after a fault of the socket itself, so that a lasting one costs nothing.
const FAULT_PAUSE: Duration = Duration::from_millis(100);

/// Who is answered.
pub type Allow = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Why there is no reflector.
#[derive(Debug, thiserror::Error)]
#[error("reflect STAMP packets on {address}: {}", describe(source))]
pub struct ReflectorError {
    address: SocketAddr,
    source: io::Error,
}

/// What a reflector did since it began.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets that were sent back.
    pub reflected: AtomicU64,
    /// Packets of senders that are not allowed.
    pub strangers: AtomicU64,
    /// Packets too short for an answer of their size.
    pub too_short: AtomicU64,
    /// Packets above the rate.
    pub too_many: AtomicU64,
    /// Answers that this machine would not send.
    pub unsent: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A socket at which packets are reflected.
#[derive(Debug)]
pub struct StampReflector {
    socket: UdpSocket,
    limits: Limits,
    counters: Arc<Counters>,
}

impl StampReflector {
    /// Binds an address; an IPv6 one takes IPv6 alone, so that both families can be bound side by side.
    /// Must be called within a runtime.
    pub fn bind(address: SocketAddr, limits: Limits) -> Result<Self, ReflectorError> {
        let socket = open(address).map_err(|source| ReflectorError { address, source })?;
        Ok(Self { socket, limits, counters: Arc::default() })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What it did so far; stays readable while it runs.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Reflects what the allowed send. Ends only when it is dropped.
    pub async fn run(self, allow: Allow) {
        let started = Instant::now();
        let mut moments = Moments::begin();
        let mut reflector = Reflector::new(self.limits, 0);
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let take = || ancillary::receive(&self.socket, &mut buffer, false);
            let datagram = match self.socket.async_io(Interest::READABLE, take).await {
                Ok(datagram) => datagram,
                Err(error) => {
                    tracing::debug!(code = "stamp.receive_failed", %error, "a packet could not be received");
                    tokio::time::sleep(FAULT_PAUSE).await;
                    continue;
                }
            };
            let Some(from) = datagram.from else { continue };
            if !allow(from.ip().to_canonical()) {
                Counters::add(&self.counters.strangers);
                continue;
            }
            if moments.is_old() {
                moments = Moments::begin();
            }
            let now_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
            let received = moments.of(datagram.at);
            let bytes = &buffer[..datagram.length];
            let facts = (received, datagram.ttl.unwrap_or(0), moments.error());
            match reflector.answer(from, bytes, facts, now_ms) {
                Ok(answer) => {
                    let sent = self.socket.try_send_to(&answer.encode(moments.now()), from);
                    Counters::add(if sent.is_ok() {
                        &self.counters.reflected
                    } else {
                        &self.counters.unsent
                    });
                }
                Err(Declined::TooShort) => Counters::add(&self.counters.too_short),
                Err(Declined::TooMany) => Counters::add(&self.counters.too_many),
            }
        }
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    // Without these, times are taken a little later and hops are not told; that is no reason to be silent.
    for wish in [Wish::Times, Wish::Hops] {
        drop(ancillary::wish(&socket, address.is_ipv4(), wish));
    }
    Ok(socket)
}

/// A socket of this machine for a train to `to`, connected, so that only its answers arrive.
pub(crate) async fn socket_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    drop(ancillary::wish(&socket, to.is_ipv4(), Wish::Times));
    Ok(socket)
}
