//! The reflector as a value: a packet and the times go in, the answer comes out.

use std::{collections::HashMap, net::SocketAddr};

use super::packet::{
    ErrorEstimate, NtpTime, PACKET_BYTES, REFLECTED_BYTES_MIN, ReflectedPacket, SenderPacket,
};
use crate::intake::Bucket;

/// A sender is forgotten when it was silent so long: its next packet begins a new count.
const IDLE_MS: i64 = 60_000;

/// Bounds of a reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets a second that are answered, from all senders together.
    pub rate: u32,
    /// Packets that are answered at once above that rate.
    pub burst: u32,
    /// Senders whose packets are counted; another takes the place of the one that was silent longest.
    pub senders: usize,
}

impl Default for Limits {
    /// A thousand probes with ten packets every ten seconds, with room to spare; 2 Mbit/s at most.
    fn default() -> Self {
        Self { rate: 4_000, burst: 4_000, senders: 4_096 }
    }
}

/// Why a packet was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// Too short: the answer would be larger than the question.
    TooShort,
    /// The rate is used up.
    TooMany,
}

/// What is to be sent back; it takes the time of leaving at the last moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    packet: ReflectedPacket,
    /// What the sender appended, cut or kept so that the answer has the size of the question.
    tail: Vec<u8>,
    length: usize,
}

impl Answer {
    /// The bytes to send, which leave now.
    pub fn encode(mut self, sent: NtpTime) -> Vec<u8> {
        self.packet.sent = sent;
        let mut bytes = self.packet.encode().to_vec();
        bytes.extend_from_slice(&self.tail);
        bytes.truncate(self.length);
        bytes
    }
}

#[derive(Clone, Copy, Debug)]
struct Sender {
    next_seq: u32,
    at_ms: i64,
}

/// A stateful reflector: counts the packets of each sender, so that both ways' losses can be told apart.
#[derive(Debug)]
pub struct Reflector {
    limits: Limits,
    bucket: Bucket,
    senders: HashMap<SocketAddr, Sender>,
}

impl Reflector {
    /// One that has seen nobody.
    pub fn new(limits: Limits, now_ms: i64) -> Self {
        Self { limits, bucket: Bucket::full(limits.burst, now_ms), senders: HashMap::new() }
    }

    /// Senders that are counted at the moment.
    pub fn senders(&self) -> usize {
        self.senders.len()
    }

    /// Takes a packet that came at `received` with so many hops left, by a clock as good as `error`.
    pub fn answer(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        (received, ttl, error): (NtpTime, u8, ErrorEstimate),
        now_ms: i64,
    ) -> Result<Answer, Declined> {
        let sender = SenderPacket::parse(bytes).ok_or(Declined::TooShort)?;
        if bytes.len() < REFLECTED_BYTES_MIN {
            return Err(Declined::TooShort);
        }
        let rated = self.bucket.take(1, self.limits.rate, self.limits.burst, now_ms);
        rated.map_err(|_| Declined::TooMany)?;
        let seq = self.count(from, now_ms);
        Ok(Answer {
            packet: ReflectedPacket { seq, sent: NtpTime::default(), error, received, sender, ttl },
            tail: bytes.get(PACKET_BYTES..).unwrap_or_default().to_vec(),
            length: bytes.len(),
        })
    }

    fn count(&mut self, from: SocketAddr, now_ms: i64) -> u32 {
        if !self.senders.contains_key(&from) && self.senders.len() >= self.limits.senders.max(1) {
            self.senders.retain(|_, sender| now_ms - sender.at_ms < IDLE_MS);
            if self.senders.len() >= self.limits.senders.max(1) {
                let idle = self.senders.iter().min_by_key(|(_, sender)| sender.at_ms);
                if let Some(idle) = idle.map(|(from, _)| *from) {
                    self.senders.remove(&idle);
                }
            }
        }
        let sender = self.senders.entry(from).or_insert(Sender { next_seq: 0, at_ms: now_ms });
        if now_ms - sender.at_ms >= IDLE_MS {
            sender.next_seq = 0;
        }
        sender.at_ms = now_ms;
        let seq = sender.next_seq;
        sender.next_seq = seq.wrapping_add(1);
        seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn times() -> (NtpTime, u8, ErrorEstimate) {
        (NtpTime(5), 63, ErrorEstimate::new(true, 1_000))
    }

    fn packet(seq: u32) -> [u8; PACKET_BYTES] {
        SenderPacket { seq, sent: NtpTime(4), error: ErrorEstimate::default() }.encode()
    }

    #[test]
    fn each_sender_is_counted_by_itself_and_anew_when_it_was_silent() {
        let mut reflector = Reflector::new(Limits::default(), 0);
        let mut seq = |port, now_ms| {
            let answer = reflector.answer(from(port), &packet(9), times(), now_ms).expect("answered");
            let bytes = answer.encode(NtpTime(6));
            let packet = ReflectedPacket::parse(&bytes).expect("whole");
            assert_eq!(
                (packet.sender.seq, packet.received, packet.sent, packet.ttl),
                (9, NtpTime(5), NtpTime(6), 63)
            );
            packet.seq
        };
        assert_eq!([seq(1, 0), seq(1, 20), seq(2, 30), seq(1, 40)], [0, 1, 0, 2]);
        assert_eq!(seq(1, 40 + IDLE_MS), 0);
    }

    #[test]
    fn an_answer_has_the_size_of_its_question_and_short_ones_get_none() {
        let mut reflector = Reflector::new(Limits::default(), 0);
        for length in [0, 13, 14, 40] {
            let bytes = &packet(1)[..length];
            assert_eq!(reflector.answer(from(1), bytes, times(), 0).err(), Some(Declined::TooShort));
        }
        for length in [41, 44, 45, 1400] {
            let mut bytes = packet(1).to_vec();
            bytes.resize(length, 0xab);
            let answer = reflector.answer(from(1), &bytes, times(), 0).expect("answered").encode(NtpTime(1));
            assert_eq!(answer.len(), length);
            assert!(answer.get(PACKET_BYTES..).is_none_or(|tail| tail.iter().all(|byte| *byte == 0xab)));
        }
    }

    #[test]
    fn no_more_than_the_rate_is_answered_and_no_more_senders_than_agreed_are_kept() {
        let mut reflector = Reflector::new(Limits { rate: 10, burst: 3, senders: 2 }, 0);
        let mut ask = |port, now_ms| reflector.answer(from(port), &packet(1), times(), now_ms).map(drop);
        assert_eq!([ask(1, 0), ask(2, 1), ask(3, 2)], [Ok(()); 3]);
        assert_eq!(ask(1, 3), Err(Declined::TooMany));
        assert_eq!(ask(1, 103), Ok(()));
        assert_eq!(reflector.senders(), 2);
    }
}
