//! The machines on the way to an address, by packets that may go only so many hops.
//!
//! All packets of a trace are of one flow with one checksum, so that routers with several ways take the same
//! one for each of them. First by UDP, which every process may send; where that leaves gaps, by echo
//! requests, if this process may ping: routers that quote little of a packet can only be told apart there.
//! Only Linux hands the complaints of routers to processes without privileges; elsewhere a path is empty.
//!
//! A trace takes at most three seconds and never fails: what kept silent is a hop without an address.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use caelum_model::details::Hop;
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use super::icmp;
use crate::{
    ancillary::{self, Datagram, Wish},
    random,
};

/// Hops that are tried.
const HOPS_TRIED: u8 = 30;
/// Packets under way at once, the time between two, and the wait for what they bring back. Four batches by
/// each way stay below three seconds.
const BATCH: u8 = 8;
const GAP: Duration = Duration::from_millis(2);
const BATCH_WAIT: Duration = Duration::from_millis(340);
/// The port that nobody listens at, by custom.
const PORT: u16 = 33_434;
const TOKEN_BYTES: usize = 8;
/// Token, number, and what makes up for the number in the checksum.
const PAYLOAD_BYTES: usize = TOKEN_BYTES + 4;
const ICMP_HEADER_BYTES: usize = 8;
const IPV4_HEADER_BYTES_MIN: usize = 20;

/// Traces the path to an address.
pub async fn trace(to: IpAddr) -> Vec<Hop> {
    let mut best = Found::default();
    for way in [Way::Udp, Way::Echo] {
        match Trace::open(to, way).await {
            Ok(mut trace) => {
                trace.run().await;
                best.add(&trace.found);
            }
            Err(error) => {
                tracing::debug!(code = "path.way_closed", %to, ?way, %error, "the path cannot be traced this way");
            }
        }
        if best.is_whole() {
            break;
        }
    }
    best.into_hops()
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Udp,
    Echo,
}

/// Who answered at which hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    hops: [Option<(IpAddr, Duration)>; HOPS_TRIED as usize],
    /// The hop at which the path ends: the target, or a machine that knows no way on.
    end: Option<u8>,
}

impl Found {
    fn note(&mut self, ttl: u8, by: IpAddr, took: Duration) {
        if let Some(place) = usize::from(ttl).checked_sub(1).and_then(|at| self.hops.get_mut(at)) {
            place.get_or_insert((by, took));
        }
    }

    fn end_at(&mut self, ttl: u8) {
        self.end = Some(self.end.map_or(ttl, |end| end.min(ttl)));
    }

    /// Takes over what another way found and this one did not.
    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.hops.iter_mut().zip(&other.hops) {
            *mine = mine.or(*theirs);
        }
        if let Some(end) = other.end {
            self.end_at(end);
        }
    }

    fn is_whole(&self) -> bool {
        self.end.is_some_and(|end| self.hops[..usize::from(end)].iter().all(Option::is_some))
    }

    /// Up to the end, or to the last that answered.
    fn into_hops(self) -> Vec<Hop> {
        let last = self.hops.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        let count = self.end.map_or(last, usize::from);
        let numbered = self.hops.iter().take(count).zip(1_u8..);
        numbered
            .map(|(hop, ttl)| Hop {
                ttl,
                ip: hop.map(|(by, _)| by.to_string()),
                rtt_us: hop.map(|(_, took)| u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            })
            .collect()
    }
}

/// A trace by one way.
struct Trace {
    socket: UdpSocket,
    to: IpAddr,
    way: Way,
    is_raw: bool,
    token: [u8; TOKEN_BYTES],
    sent_at: [Option<Instant>; HOPS_TRIED as usize],
    found: Found,
}

impl Trace {
    async fn open(to: IpAddr, way: Way) -> io::Result<Self> {
        let (socket, is_raw) = match way {
            Way::Udp => {
                let any: IpAddr = match to {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0)).await?;
                socket.connect((to, PORT)).await?;
                (socket, false)
            }
            Way::Echo => {
                let (socket, is_raw) = icmp::open(to)?;
                socket.connect(&SocketAddr::new(to, 0).into())?;
                (UdpSocket::from_std(socket.into())?, is_raw)
            }
        };
        ancillary::wish(&socket, to.is_ipv4(), Wish::Complaints)?;
        let mut token = [0; TOKEN_BYTES];
        random::fill(&mut token);
        let sent_at = [None; HOPS_TRIED as usize];
        Ok(Self { socket, to, way, is_raw, token, sent_at, found: Found::default() })
    }

    async fn run(&mut self) {
        let mut next = 1;
        while next <= HOPS_TRIED && self.found.end.is_none() {
            let last = (next + BATCH - 1).min(HOPS_TRIED);
            for ttl in next..=last {
                if self.send(ttl).await.is_err() {
                    return;
                }
                self.receive(Instant::now() + GAP, last).await;
            }
            self.receive(Instant::now() + BATCH_WAIT, last).await;
            next = last + 1;
        }
    }

    async fn send(&mut self, ttl: u8) -> io::Result<()> {
        let options = SockRef::from(&self.socket);
        match self.to {
            IpAddr::V4(_) => options.set_ttl_v4(u32::from(ttl))?,
            IpAddr::V6(_) => options.set_unicast_hops_v6(u32::from(ttl))?,
        }
        let packet = self.packet(ttl);
        self.sent_at[usize::from(ttl - 1)] = Some(Instant::now());
        // An error that waits from an earlier packet is told instead of sending; then it is sent again.
        let mut sent = self.socket.send(&packet).await;
        for _ in 0..BATCH {
            match &sent {
                Err(error) if is_about_the_path(error) => sent = self.socket.send(&packet).await,
                _ => break,
            }
        }
        match sent {
            Err(error) if !is_about_the_path(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn packet(&self, ttl: u8) -> Vec<u8> {
        let number = u16::from(ttl);
        let mut packet = Vec::with_capacity(ICMP_HEADER_BYTES + PAYLOAD_BYTES);
        if self.way == Way::Echo {
            let kind = if self.to.is_ipv4() { 8 } else { 128 };
            packet.extend_from_slice(&[kind, 0, 0, 0]);
            // The identifier is one for the whole trace; on sockets without privileges the kernel's.
            packet.extend_from_slice(&self.token[..2]);
            packet.extend_from_slice(&number.to_be_bytes());
        }
        packet.extend_from_slice(&self.token);
        if self.way == Way::Udp {
            packet.extend_from_slice(&number.to_be_bytes());
        }
        // The sum of a number and its complement is always the same.
        packet.extend_from_slice(&(!number).to_be_bytes());
        if self.way == Way::Echo && self.to.is_ipv4() {
            let sum = icmp::checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// Takes what comes until then, or until all up to `last` answered.
    async fn receive(&mut self, until: Instant, last: u8) {
        while Instant::now() < until && !self.is_answered(last) {
            let mut buffer = [0; 512];
            let take = || match ancillary::receive(&self.socket, &mut buffer, true) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ancillary::receive(&self.socket, &mut buffer, false)
                }
                taken => taken,
            };
            let taken = self.socket.async_io(Interest::READABLE | Interest::ERROR, take);
            match tokio::time::timeout_at(until.into(), taken).await {
                Err(_) => return,
                Ok(Ok(datagram)) => {
                    let length = datagram.length.min(buffer.len());
                    self.note(&datagram, &buffer[..length]);
                }
                Ok(Err(error)) if is_about_the_path(&error) => {}
                Ok(Err(_)) => return,
            }
        }
    }

    fn is_answered(&self, last: u8) -> bool {
        let last = self.found.end.map_or(last, |end| end.min(last));
        let is_sent = self.sent_at[usize::from(last - 1)].is_some();
        is_sent && self.found.hops[..usize::from(last)].iter().all(Option::is_some)
    }

    fn note(&mut self, datagram: &Datagram, bytes: &[u8]) {
        let (by, is_end, number) = match datagram.complaint {
            Some(complaint) => {
                let Some(by) = complaint.by else { return };
                let expired = if self.to.is_ipv4() { 11 } else { 3 };
                (by, complaint.kind.0 != expired, self.number_in(bytes))
            }
            None => (self.to, true, self.number_in_reply(bytes)),
        };
        let Some(ttl) = number.and_then(|number| u8::try_from(number).ok()) else { return };
        let Some(sent_at) = usize::from(ttl).checked_sub(1).and_then(|at| *self.sent_at.get(at)?) else {
            return;
        };
        self.found.note(ttl, by, sent_at.elapsed());
        if is_end {
            self.found.end_at(ttl);
        }
    }

    /// The number of our packet whose beginning was brought back.
    fn number_in(&self, quoted: &[u8]) -> Option<u16> {
        let (number_at, token_at) = match self.way {
            Way::Udp => (TOKEN_BYTES, 0),
            Way::Echo => (ICMP_HEADER_BYTES - 2, ICMP_HEADER_BYTES),
        };
        // Where nothing of the token was quoted, the socket's address pair has to do.
        let token = quoted.get(token_at..).unwrap_or_default();
        let is_ours = token.iter().zip(&self.token).all(|(quoted, ours)| quoted == ours);
        let number = quoted.get(number_at..number_at + 2)?;
        is_ours.then(|| u16::from_be_bytes([number[0], number[1]]))
    }

    fn number_in_reply(&self, bytes: &[u8]) -> Option<u16> {
        if self.way == Way::Udp {
            return None;
        }
        let bytes = match self.to.is_ipv4() && self.is_raw {
            true => {
                let length = usize::from(bytes.first()? & 0x0f) * 4;
                bytes.get(length.max(IPV4_HEADER_BYTES_MIN)..)?
            }
            false => bytes,
        };
        let reply = if self.to.is_ipv4() { 0 } else { 129 };
        let is_ours = *bytes.first()? == reply
            && bytes.get(ICMP_HEADER_BYTES..ICMP_HEADER_BYTES + TOKEN_BYTES)? == self.token;
        if is_ours { self.number_in(bytes) } else { None }
    }
}

fn is_about_the_path(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::ConnectionRefused
    ) || error.raw_os_error() == Some(libc::EPROTO)
        || error.raw_os_error() == Some(libc::EACCES)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test]
    async fn the_path_to_this_machine_has_one_hop() {
        for target in ["127.0.0.1", "::1"] {
            let target: IpAddr = target.parse().unwrap();
            let hops = trace(target).await;
            assert_eq!(hops.len(), 1, "{hops:?}");
            assert_eq!((hops[0].ttl, hops[0].ip.as_deref()), (1, Some(target.to_string().as_str())));
            assert!(hops[0].rtt_us.is_some());
        }
    }

    #[tokio::test]
    async fn all_packets_of_a_trace_have_one_checksum() {
        let trace = Trace::open(ip(1), Way::Udp).await.unwrap();
        let sums: Vec<u16> = (1..=HOPS_TRIED).map(|ttl| icmp::checksum(&trace.packet(ttl))).collect();
        assert!(sums.windows(2).all(|pair| pair[0] == pair[1]));
        let trace = Trace { way: Way::Echo, ..trace };
        let sums: Vec<Vec<u8>> = (1..=HOPS_TRIED).map(|ttl| trace.packet(ttl)[2..4].to_vec()).collect();
        assert!(sums.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[tokio::test]
    async fn what_a_router_quotes_names_the_packet_or_nothing() {
        for way in [Way::Udp, Way::Echo] {
            let mut trace = Trace::open(ip(1), Way::Udp).await.unwrap();
            trace.way = way;
            let packet = trace.packet(7);
            assert_eq!(trace.number_in(&packet), Some(7));
            for length in 0..packet.len() {
                let number = trace.number_in(&packet[..length]);
                assert!(number.is_none_or(|number| number == 7));
                assert_eq!(trace.number_in_reply(&packet[..length]), None);
            }
            let mut other = packet.clone();
            let at = if way == Way::Udp { 0 } else { ICMP_HEADER_BYTES };
            other[at] ^= 1;
            assert_eq!(trace.number_in(&other), None);
        }
        let trace = Trace::open(ip(1), Way::Udp).await.unwrap();
        assert_eq!(trace.number_in(&[]), None);
    }

    #[test]
    fn two_ways_complete_each_other_and_silence_at_the_end_is_left_out() {
        let ms = Duration::from_millis;
        let (mut first, mut second) = (Found::default(), Found::default());
        first.note(1, ip(1), ms(1));
        first.note(3, ip(3), ms(3));
        second.note(2, ip(2), ms(2));
        second.note(1, ip(9), ms(9));
        assert_eq!(first.clone().into_hops().len(), 3);
        second.note(4, ip(4), ms(4));
        second.end_at(4);
        first.add(&second);
        assert!(first.is_whole());
        let hops: Vec<Option<String>> = first.into_hops().into_iter().map(|hop| hop.ip).collect();
        assert_eq!(hops, [1, 2, 3, 4].map(|last| Some(ip(last).to_string())));
        assert_eq!(Found::default().into_hops(), []);
        let mut outside = Found::default();
        outside.note(0, ip(1), ms(1));
        outside.note(31, ip(1), ms(1));
        assert_eq!(outside, Found::default());
    }
}
