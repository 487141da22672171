//! `icmp://` targets: a train of echo requests, its losses, round trips and jitter.
//!
//! Linux lets processes without privileges ping if `net.ipv4.ping_group_range` covers their group (IPv6
//! included); macOS always does. Elsewhere a raw socket is tried, which needs root or CAP_NET_RAW.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use caelum_engine::{stamp::summarize, target::PACKETS_MAX};
use caelum_model::event::{ErrorStage, Rtt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{Failure, Measurement, ms, words};
use crate::{fault::describe, random};

/// Packets in a train where the target does not say.
const PACKETS_USUAL: u16 = 5;
/// Time between two: 20 ms is the rhythm of a voice codec.
const SPACING: Duration = Duration::from_millis(20);
/// After the last packet, a reply may take this many times the slowest one so far before it counts as lost,
/// but never less than [`SHORTEST_WAIT`].
const PATIENCE: u32 = 4;
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const HEADER_BYTES: usize = 8;
/// Random bytes that tell our replies from those to other programs, which a raw socket shows as well.
const TOKEN_BYTES: usize = 16;

/// This process may not ping.
#[derive(Debug, thiserror::Error)]
#[error(
    "ping is not permitted: type `sysctl -w net.ipv4.ping_group_range='0 2147483647'` as root, \
     or give the program CAP_NET_RAW ({source})"
)]
pub struct IcmpRefused {
    source: io::Error,
}

/// Whether this process may ping at all. Without it, a `tcp` target measures the same path.
pub fn check_icmp() -> Result<(), IcmpRefused> {
    open(IpAddr::from([127, 0, 0, 1])).map(drop).map_err(|source| IcmpRefused { source })
}

/// Sends the train and leaves what came back in the measurement.
pub(super) async fn ping(
    address: IpAddr,
    packets: Option<u16>,
    timeout: Duration,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(ErrorStage::Tcp, detail);
    let packets = packets.unwrap_or(PACKETS_USUAL).clamp(1, PACKETS_MAX);
    let train = send_train(address, packets, timeout).await.map_err(|refused| failed(refused.to_string()))?;
    let train = train.map_err(|error| failed(describe(&error)))?;
    let rtt = train.summary();
    measurement.rtt = Some(rtt);
    if rtt.received == 0 {
        return Err(failed(match train.complaint {
            Some(error) => describe(&error),
            None => format!("none of {packets} pings answered within {}", words(timeout)),
        }));
    }
    Ok(())
}

/// The quicker of two round trips to a machine nearby; none where neither came back in time.
pub async fn round_trip(address: IpAddr, timeout: Duration) -> Result<Option<Duration>, IcmpRefused> {
    let train = send_train(address, 2, timeout).await?;
    Ok(train.ok().and_then(|train| train.round_trips.iter().flatten().min().copied()))
}

/// Sends a whole train. The outer error is that this process may not.
async fn send_train(
    address: IpAddr,
    packets: u16,
    timeout: Duration,
) -> Result<io::Result<Train>, IcmpRefused> {
    let (socket, is_raw) = open(address).map_err(|source| IcmpRefused { source })?;
    let sent = async {
        socket.connect(&SocketAddr::new(address, 0).into())?;
        // The runtime knows no ICMP sockets; to send and receive on a connected one there is no difference.
        let socket = UdpSocket::from_std(socket.into())?;
        let mut train = Train::new(address, is_raw, packets);
        train.run(&socket, timeout).await?;
        Ok(train)
    };
    Ok(sent.await)
}

/// An ICMP socket, and whether it is a raw one.
pub(super) fn open(address: IpAddr) -> io::Result<(Socket, bool)> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let (socket, is_raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(error) => match Socket::new(domain, Type::RAW, Some(protocol)) {
            Ok(socket) => (socket, true),
            Err(_) => return Err(error),
        },
    };
    socket.set_nonblocking(true)?;
    Ok((socket, is_raw))
}

/// A train under way.
struct Train {
    is_v4: bool,
    is_raw: bool,
    identifier: u16,
    token: [u8; TOKEN_BYTES],
    sent_at: Vec<Instant>,
    round_trips: Vec<Option<Duration>>,
    /// What the network said about a packet that it could not deliver.
    complaint: Option<io::Error>,
}

impl Train {
    fn new(address: IpAddr, is_raw: bool, packets: u16) -> Self {
        let mut token = [0; TOKEN_BYTES];
        random::fill(&mut token);
        let identifier = u16::from_be_bytes([token[0], token[1]]);
        let places = usize::from(packets);
        Self {
            is_v4: address.is_ipv4(),
            is_raw,
            identifier,
            token,
            sent_at: Vec::with_capacity(places),
            round_trips: vec![None; places],
            complaint: None,
        }
    }

    async fn run(&mut self, socket: &UdpSocket, timeout: Duration) -> io::Result<()> {
        let started = Instant::now();
        for number in 0..self.round_trips.len() {
            let number = u16::try_from(number).expect("a train is short");
            let packet = self.packet(number);
            self.sent_at.push(Instant::now());
            match socket.send(&packet).await {
                Ok(_) => {}
                // An error that an earlier packet brought back ("no such host") is that packet's loss.
                Err(error) if is_about_the_path(&error) => self.complaint = Some(error),
                Err(error) => return Err(error),
            }
            let until = started + SPACING * u32::from(number + 1);
            self.receive(socket, until).await?;
        }
        // The first wait is for the whole time-out; once something came back, what is missing is lost
        // long before that.
        while self.round_trips.contains(&None) {
            let slowest = self.round_trips.iter().flatten().max();
            let patience = slowest.map_or(timeout, |slowest| (*slowest * PATIENCE).max(SHORTEST_WAIT));
            let last_sent = self.sent_at.last().copied().unwrap_or(started);
            let deadline = last_sent + patience.min(timeout);
            if Instant::now() >= deadline {
                break;
            }
            self.receive_one(socket, deadline).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, socket: &UdpSocket, until: Instant) -> io::Result<()> {
        while Instant::now() < until {
            self.receive_one(socket, until).await?;
        }
        Ok(())
    }

    /// Waits for one datagram at most until then, and notes it if it is a reply of ours.
    async fn receive_one(&mut self, socket: &UdpSocket, until: Instant) -> io::Result<()> {
        let mut buffer = [0_u8; 512];
        match tokio::time::timeout_at(until.into(), socket.recv(&mut buffer)).await {
            Err(_) => Ok(()),
            Ok(Err(error)) if is_about_the_path(&error) => {
                self.complaint = Some(error);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(length)) => {
                let now = Instant::now();
                if let Some(number) = self.number_of(&buffer[..length]) {
                    let round_trip = now.duration_since(self.sent_at[number]);
                    // A duplicate says nothing new.
                    self.round_trips[number].get_or_insert(round_trip);
                }
                Ok(())
            }
        }
    }

    fn summary(&self) -> Rtt {
        let sent = u32::try_from(self.round_trips.len()).unwrap_or(u32::MAX);
        let times: Vec<f64> = self.round_trips.iter().flatten().map(|round_trip| ms(*round_trip)).collect();
        summarize(sent, &times)
    }

    fn packet(&self, number: u16) -> Vec<u8> {
        let kind = if self.is_v4 { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
        let mut packet = vec![kind, 0, 0, 0];
        packet.extend_from_slice(&self.identifier.to_be_bytes());
        packet.extend_from_slice(&number.to_be_bytes());
        packet.extend_from_slice(&self.token);
        if self.is_v4 {
            // The kernel fills in the checksum of ICMPv6, which covers addresses too.
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// The number of our packet that these bytes answer. The identifier is not compared: kernels replace it
    /// on sockets without privileges.
    fn number_of(&self, bytes: &[u8]) -> Option<usize> {
        let bytes = if self.is_v4 { strip_ip_header(bytes, self.is_raw)? } else { bytes };
        let reply = if self.is_v4 { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
        let header = bytes.get(..HEADER_BYTES)?;
        let number = usize::from(u16::from_be_bytes([header[6], header[7]]));
        let is_ours = header[0] == reply && bytes.get(HEADER_BYTES..) == Some(&self.token[..]);
        (is_ours && number < self.sent_at.len()).then_some(number)
    }
}

/// Raw sockets, and all of macOS's, deliver the IPv4 header too.
fn strip_ip_header(bytes: &[u8], is_raw: bool) -> Option<&[u8]> {
    if !is_raw && !cfg!(target_os = "macos") {
        return Some(bytes);
    }
    let words = usize::from(bytes.first()? & 0x0f);
    bytes.get(words * 4..)
}

/// Whether an error reports the fate of an earlier packet instead of a fault on this machine.
fn is_about_the_path(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::ConnectionRefused
    )
}

/// RFC 1071.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        let mut train = Train::new(IpAddr::from([127, 0, 0, 1]), true, 5);
        train.sent_at.push(Instant::now());
        let packet = train.packet(0);
        assert_eq!(checksum(&packet), 0);
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }

    #[test]
    fn only_replies_with_our_token_and_a_number_that_was_sent_count() {
        let mut train = Train::new(IpAddr::from([127, 0, 0, 1]), false, 5);
        train.is_raw = true;
        train.sent_at.push(Instant::now());
        let reply = |number: u16, kind: u8, token: &[u8]| {
            let mut bytes = vec![0x45; 20];
            bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(token);
            bytes
        };
        assert_eq!(train.number_of(&reply(0, ECHO_REPLY_V4, &train.token)), Some(0));
        assert_eq!(train.number_of(&reply(1, ECHO_REPLY_V4, &train.token)), None);
        assert_eq!(train.number_of(&reply(0, ECHO_REQUEST_V4, &train.token)), None);
        assert_eq!(train.number_of(&reply(0, ECHO_REPLY_V4, &[0; TOKEN_BYTES - 1])), None);
        assert_eq!(train.number_of(&[]), None);
        assert_eq!(train.number_of(&[0x4f; 30]), None);
    }
}
