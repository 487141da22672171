//! The air: where beacons and membership datagrams are sent and heard.
//!
//! Two of them: [`UdpAir`] is sockets, [`Ether`] is memory. Both pass the suite in `contract.rs`. What is
//! said, and what is believed of what is heard, is the engine's.

#[cfg(test)]
mod contract;
mod ether;
pub(crate) mod interfaces;
mod udp;
mod voice;

use std::{io, net::SocketAddr};

pub use ether::{Ether, Fate, Flight, MemoryAir};
pub use interfaces::{Interface, Reach};
pub use udp::{OpenConfig, Plan, UdpAir};

/// Room that a buffer for [`Air::receive`] should have: one byte more than is looked at, so that a datagram
/// that is too large is seen to be so.
pub const BUFFER_BYTES: usize = caelum_model::beacon::DATAGRAM_ACCEPTED_MAX + 1;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// Everybody, on the port of the first dialect.
    Everyone,
    /// Everybody, on the first port of the second dialect.
    EveryoneSecond,
    /// One address.
    One(SocketAddr),
}

/// What became of a datagram.
#[derive(Debug, Default)]
pub struct SendReport {
    /// How many times it left: once for each interface and way of reaching everybody.
    pub sent: usize,
    /// Where it did not leave to, and why.
    pub failures: Vec<SendFailure>,
}

/// A way that a datagram could not take.
#[derive(Debug, thiserror::Error)]
#[error("send a beacon to {to}{}: {source}", on(.interface.as_deref()))]
pub struct SendFailure {
    /// Where to.
    pub to: SocketAddr,
    /// By which interface, if one was chosen.
    pub interface: Option<String>,
    /// What the system says.
    pub source: io::Error,
}

fn on(interface: Option<&str>) -> String {
    interface.map_or_else(String::new, |name| format!(" on {name}"))
}

/// What is listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Port of the first dialect, shared with others of this host.
    pub port: u16,
    /// Port of the second dialect, if one was free.
    pub second_port: Option<u16>,
    /// Port that only this process has over IPv4, from which all is sent and where answers arrive.
    pub own_v4: Option<u16>,
    /// The same over IPv6.
    pub own_v6: Option<u16>,
}

/// Where datagrams are sent and heard.
///
/// # Contract
/// - What is sent to everyone is heard by everyone on the network, the sender included, perhaps several
///   times.
/// - The source of what is heard is an address at which its sender, and nobody else, is reached; it stays
///   the same for as long as the sender has it open.
/// - What is sent to one address is heard there only.
/// - What is sent to everyone of the second dialect is heard by those that listen to it.
/// - Nothing larger than [`DATAGRAM_SENT_MAX`](caelum_model::beacon::DATAGRAM_SENT_MAX) is sent.
/// - One way that fails does not keep the others from being taken.
#[async_trait::async_trait]
pub trait Air: Send + Sync {
    /// Waits for a datagram. What does not fit into the buffer is cut off. Only one may wait at a time.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;

    /// Sends a datagram. Does not wait: what the system does not take at once is a failure.
    async fn send(&self, to: Destination, bytes: &[u8]) -> SendReport;

    /// The address that others see as our source: of several the one that most can reach.
    fn source(&self) -> SocketAddr;
}
