//! How much is looked at: a bucket for each source, one for all strangers, and chance for jitter.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::hash::mix;

/// Datagrams a second from one source.
const SOURCE_RATE: i64 = 20;
/// Datagrams at once from one source.
const SOURCE_BURST: i64 = 40;
/// Several nodes of one host share its loopback address, and who is on the host has shorter ways to hurt us.
const LOOPBACK_FACTOR: i64 = 20;
/// Most sources that are told apart; further ones share a bucket.
const SOURCES_MAX: usize = 4_096;
/// Datagrams a second from all sources that are not told apart.
const OTHERS_RATE: i64 = 500;

/// So many a second, so many at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: i64,
    burst: i64,
    /// Thousandths of one.
    level: i64,
    at_ms: i64,
}

impl Bucket {
    pub(super) fn full(rate: i64, burst: i64, now_ms: i64) -> Self {
        Self { rate, burst, level: burst * 1_000, at_ms: now_ms }
    }

    fn fill(&mut self, now_ms: i64) {
        let passed = (now_ms - self.at_ms).clamp(0, 3_600_000);
        self.level = (self.level + passed * self.rate).min(self.burst * 1_000);
        self.at_ms = self.at_ms.max(now_ms);
    }

    /// Takes one; false where none is left.
    pub(super) fn take(&mut self, now_ms: i64) -> bool {
        self.fill(now_ms);
        let has = self.level >= 1_000;
        if has {
            self.level -= 1_000;
        }
        has
    }

    /// How long until one is there, ms.
    pub(super) fn wait_ms(&mut self, now_ms: i64) -> i64 {
        self.fill(now_ms);
        (1_000 - self.level).max(0).div_euclid(self.rate) + i64::from(self.level < 1_000)
    }

    fn is_full(&mut self, now_ms: i64) -> bool {
        self.fill(now_ms);
        self.level == self.burst * 1_000
    }
}

/// A bucket for each source.
#[derive(Debug)]
pub(super) struct Sources {
    buckets: BTreeMap<SocketAddr, Bucket>,
    others: Bucket,
    /// A full table is looked through no more often than once a second, however hard the flood.
    swept_ms: Option<i64>,
}

impl Sources {
    pub(super) fn new() -> Self {
        Self { buckets: BTreeMap::new(), others: Bucket::full(OTHERS_RATE, OTHERS_RATE, 0), swept_ms: None }
    }

    /// Whether a datagram is looked at. The ports of a host share a bucket, except those from where a
    /// proven machine speaks: a flood from its host must not silence it.
    pub(super) fn admit(&mut self, now_ms: i64, from: SocketAddr, is_proven: bool) -> bool {
        let key = if is_proven { from } else { SocketAddr::new(from.ip(), 0) };
        if !self.buckets.contains_key(&key) && self.buckets.len() >= SOURCES_MAX {
            if self.swept_ms.is_none_or(|swept_ms| now_ms - swept_ms >= 1_000) {
                self.swept_ms = Some(now_ms);
                self.buckets.retain(|_, bucket| !bucket.is_full(now_ms));
            }
            if self.buckets.len() >= SOURCES_MAX {
                return self.others.take(now_ms);
            }
        }
        let factor = if from.ip().is_loopback() { LOOPBACK_FACTOR } else { 1 };
        let fresh = Bucket::full(SOURCE_RATE * factor, SOURCE_BURST * factor, now_ms);
        self.buckets.entry(key).or_insert(fresh).take(now_ms)
    }
}

/// Chance for jitter: SplitMix64 (Steele, Lea, Flood 2014) from a seed. Nothing secret comes from it.
#[derive(Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    /// A number from 0 to below `span`; 0 where that is none.
    pub(super) fn below(&mut self, span: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = mix(self.0);
        let span = u64::try_from(span).unwrap_or(0).max(1);
        i64::try_from(mixed % span).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_its_rate() {
        let mut bucket = Bucket::full(20, 40, 0);
        assert_eq!((0..100).filter(|_| bucket.take(0)).count(), 40);
        let wait_ms = bucket.wait_ms(0);
        assert!(!bucket.take(wait_ms - 2) && bucket.take(wait_ms));
        assert_eq!((0..10_000).filter(|ms| bucket.take(1_000 + ms)).count(), 200 + 18);
        assert!(!bucket.take(-5), "a clock that goes back fills nothing");
    }

    #[test]
    fn a_flood_from_many_sources_is_bounded_in_memory_and_number() {
        let mut sources = Sources::new();
        let addr = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 8181));
        let admitted = (0..20_000).filter(|n| sources.admit(1, addr(*n), false)).count();
        assert_eq!(admitted, SOURCES_MAX + 500);
        assert!(sources.buckets.len() <= SOURCES_MAX);
        assert!(sources.admit(60_000, addr(20_001), false), "quiet sources make room");
    }

    #[test]
    fn a_flood_from_its_host_does_not_silence_a_proven_machine() {
        let mut sources = Sources::new();
        let addr = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        for port in 1..1_000 {
            sources.admit(0, addr(port), false);
        }
        assert!(!sources.admit(0, addr(7), false));
        assert!(sources.admit(0, addr(7), true));
    }
}
