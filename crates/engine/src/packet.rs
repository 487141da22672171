//! Membership datagrams: sealed with the cluster's key, numbered, and told from beacons by their first byte.
//!
//! ```text
//! 0xCA 0xE1 | version 1 | kind | key generation u32 | run u64 | seq u64 | id length u8 | id | body | MAC 16
//! ```
//!
//! Numbers are big-endian. The MAC is HMAC-SHA-256 over everything before it, cut to 16 bytes (RFC 2104,
//! section 5). A beacon is JSON and starts with `{`, so both share a port.

use std::net::{IpAddr, SocketAddr};

use caelum_model::{cluster::ClusterKey, id::NodeId};

use crate::seal;

/// What every membership datagram starts with.
pub const MAGIC: [u8; 2] = [0xca, 0xe1];
const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
const HEAD_BYTES: usize = 2 + 1 + 1 + 4 + 8 + 8 + 1;

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// A message of SWIM.
    Swim(Vec<u8>),
    /// Are you there? Answered with [`Packet::Here`] to whoever is named, else to the sender.
    Ask { nonce: u64, reply_to: Option<SocketAddr> },
    /// Ask somebody else for me.
    AskFor { nonce: u64, target: SocketAddr },
    /// I am.
    Here { nonce: u64 },
}

/// A datagram whose seal is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) node_id: NodeId,
    pub(crate) run: u64,
    pub(crate) seq: u64,
    pub(crate) packet: Packet,
}

/// Why a datagram was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// It is no membership datagram of a version we know.
    Malformed,
    /// We have no key of that generation.
    UnknownKey,
    /// The seal is not right.
    BadSeal,
    /// It is our own.
    Ours,
    /// Its sender, or this run of it, has not proven to be there.
    Unproven,
    /// It was seen before, or is too old to tell.
    Replayed,
}

impl Refusal {
    /// A word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::BadSeal => "bad_seal",
            Self::Ours => "ours",
            Self::Unproven => "unproven",
            Self::Replayed => "replayed",
        }
    }
}

/// Whether a datagram is one of these rather than a beacon.
pub fn is_membership(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Writes and seals a datagram; nothing without a key.
pub(crate) fn seal(
    packet: &Packet,
    node_id: &NodeId,
    run: u64,
    seq: u64,
    key: Option<&ClusterKey>,
) -> Option<Vec<u8>> {
    let key = key?;
    let kind = match packet {
        Packet::Swim(_) => 0,
        Packet::Ask { .. } => 1,
        Packet::AskFor { .. } => 2,
        Packet::Here { .. } => 3,
    };
    let id = node_id.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + id.len() + 32 + MAC_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(&key.generation.to_be_bytes());
    bytes.extend_from_slice(&run.to_be_bytes());
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.push(u8::try_from(id.len()).ok()?);
    bytes.extend_from_slice(id);
    match packet {
        Packet::Swim(message) => bytes.extend_from_slice(message),
        Packet::Ask { nonce, reply_to } => {
            bytes.extend_from_slice(&nonce.to_be_bytes());
            if let Some(addr) = reply_to {
                put_addr(&mut bytes, *addr);
            }
        }
        Packet::AskFor { nonce, target } => {
            bytes.extend_from_slice(&nonce.to_be_bytes());
            put_addr(&mut bytes, *target);
        }
        Packet::Here { nonce } => bytes.extend_from_slice(&nonce.to_be_bytes()),
    }
    let mac = seal::mac(key, &[&bytes]);
    bytes.extend_from_slice(&mac[..MAC_BYTES]);
    Some(bytes)
}

/// Checks the seal, then reads.
pub(crate) fn open(bytes: &[u8], keys: &[ClusterKey]) -> Result<Opened, Refusal> {
    let (body, mac) = bytes
        .len()
        .checked_sub(MAC_BYTES)
        .filter(|length| *length >= HEAD_BYTES)
        .map(|at| bytes.split_at(at))
        .ok_or(Refusal::Malformed)?;
    if body[..2] != MAGIC || body[2] != VERSION {
        return Err(Refusal::Malformed);
    }
    let generation = u32::from_be_bytes(array(&body[4..8]));
    let key = keys.iter().find(|key| key.generation == generation).ok_or(Refusal::UnknownKey)?;
    if !seal::is_mac(key, &[body], mac) {
        return Err(Refusal::BadSeal);
    }
    read(body).ok_or(Refusal::Malformed)
}

fn read(body: &[u8]) -> Option<Opened> {
    let kind = body[3];
    let run = u64::from_be_bytes(array(&body[8..16]));
    let seq = u64::from_be_bytes(array(&body[16..24]));
    let (id, rest) = body[HEAD_BYTES..].split_at_checked(usize::from(body[24]))?;
    let node_id = NodeId::parse(std::str::from_utf8(id).ok()?).ok()?;
    let nonce = || rest.get(..8).map(|bytes| u64::from_be_bytes(array(bytes)));
    let packet = match kind {
        0 => Packet::Swim(rest.to_vec()),
        1 => {
            let reply_to = match rest.get(8..)? {
                [] => None,
                addr => Some(take_addr(addr)?),
            };
            Packet::Ask { nonce: nonce()?, reply_to }
        }
        2 => Packet::AskFor { nonce: nonce()?, target: take_addr(rest.get(8..)?)? },
        3 => Packet::Here { nonce: nonce()? },
        _ => return None,
    };
    Some(Opened { node_id, run, seq, packet })
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the slice was cut to this length")
}

fn put_addr(bytes: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.extend_from_slice(&addr.port().to_be_bytes());
}

fn take_addr(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_at_checked(bytes.len().checked_sub(2)?)?;
    let ip: IpAddr = match ip.len() {
        4 => array::<4>(ip).into(),
        16 => array::<16>(ip).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(array(port))))
}

/// Which numbers of a run were seen: the highest, and which of the 64 before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    highest: u64,
    seen: u64,
}

impl Window {
    /// Notes a number; false where it was seen or is too old to tell.
    pub fn admit(&mut self, seq: u64) -> bool {
        if seq > self.highest {
            let by = seq - self.highest;
            self.seen = if by >= 64 { 0 } else { self.seen << by };
            self.seen |= 1;
            self.highest = seq;
            return true;
        }
        let bit = self.highest - seq;
        if seq == 0 || bit >= 64 || self.seen & (1 << bit) != 0 {
            return false;
        }
        self.seen |= 1 << bit;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(generation: u32) -> ClusterKey {
        ClusterKey { generation, secret: format!("{generation:064x}") }
    }

    fn id() -> NodeId {
        NodeId::parse("n-1").expect("valid")
    }

    fn packets() -> [Packet; 6] {
        let v4 = "10.0.0.1:8181".parse().expect("an address");
        let v6 = "[fe80::1]:8181".parse().expect("an address");
        [
            Packet::Swim(vec![1, 2, 3]),
            Packet::Ask { nonce: 7, reply_to: None },
            Packet::Ask { nonce: 7, reply_to: Some(v6) },
            Packet::AskFor { nonce: 8, target: v4 },
            Packet::AskFor { nonce: 8, target: v6 },
            Packet::Here { nonce: u64::MAX },
        ]
    }

    #[test]
    fn what_was_sealed_opens_as_it_was_with_the_key_and_no_other() {
        for packet in packets() {
            let bytes = seal(&packet, &id(), 5, 9, Some(&key(2))).expect("sealed");
            let opened = open(&bytes, &[key(1), key(2)]).expect("opens");
            assert_eq!(opened, Opened { node_id: id(), run: 5, seq: 9, packet });
            assert_eq!(open(&bytes, &[key(1)]), Err(Refusal::UnknownKey));
            let other = ClusterKey { generation: 2, secret: "0".repeat(64) };
            assert_eq!(open(&bytes, &[other]), Err(Refusal::BadSeal));
        }
    }

    #[test]
    fn no_changed_bit_goes_unnoticed() {
        let bytes = seal(&packets()[4], &id(), 5, 9, Some(&key(2))).expect("sealed");
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&forged, &[key(2)]).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(open(&bytes[..length], &[key(2)]).is_err());
        }
    }

    #[test]
    fn a_number_is_admitted_once_in_any_order_and_never_when_it_is_too_old() {
        let mut window = Window::default();
        for seq in [3, 1, 2, 66, 4] {
            assert!(window.admit(seq), "{seq}");
        }
        for seq in [3, 1, 66, 4, 0] {
            assert!(!window.admit(seq), "{seq}");
        }
        assert!(window.admit(500) && !window.admit(436) && window.admit(437));
    }

    proptest! {
        #[test]
        fn fuzz_arbitrary_bytes_are_refused_and_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(&bytes, &[key(1)]).is_err());
            if bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[0xca, 0xe1, 1, 0, 0, 0, 0, 1]);
                prop_assert!(open(&bytes, &[key(1)]).is_err());
            }
        }

        #[test]
        fn fuzz_arbitrary_bodies_under_the_right_seal_never_panic(body in proptest::collection::vec(any::<u8>(), 17..200)) {
            let mut bytes = vec![0xca, 0xe1, 1, body[0] % 5, 0, 0, 0, 1];
            bytes.extend_from_slice(&body);
            let mac = crate::seal::mac(&key(1), &[&bytes]);
            bytes.extend_from_slice(&mac[..16]);
            drop(open(&bytes, &[key(1)]));
        }
    }
}
