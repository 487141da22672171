//! What follows from one measurement by itself: who wins a race of families, whether an answer was cached.
//!
//! Nothing is compared with other probes or other times here; that is `diagnose`'s.

use caelum_model::{details::Race, event::Family};

/// Head start of IPv6, µs (the connection attempt delay that RFC 8305 recommends).
const HEAD_START_US: u32 = 250_000;
/// An answer from the cache takes at most this share of one that was fetched.
const MUCH_LESS: f64 = 0.5;
/// Differences below this are noise, ms.
const NOISE_MS: f64 = 1.0;

/// Whom a browser would have used that tries IPv6 first and IPv4 a quarter of a second later, or at once
/// when IPv6 fails, from the connect time of each family; none where it failed.
pub fn race(ipv4_us: Option<u32>, ipv6_us: Option<u32>) -> Race {
    let winner = match (ipv4_us, ipv6_us) {
        (None, None) => Family::Any,
        (Some(_), None) => Family::V4,
        (Some(ipv4_us), Some(ipv6_us)) if ipv6_us > ipv4_us.saturating_add(HEAD_START_US) => Family::V4,
        (_, Some(_)) => Family::V6,
    };
    Race { ipv4_us, ipv6_us, winner }
}

/// What is known about one answer of a resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answered {
    /// The resolver speaks for the zone itself.
    pub is_authoritative: bool,
    /// Least time to live in the answer, s.
    pub ttl_s: Option<u32>,
    /// The longest of earlier answers to the same question, s.
    pub longest_ttl_s: Option<u32>,
    /// Time of the answer, ms.
    pub first_ms: f64,
    /// Time of the same question asked again at once, ms.
    pub second_ms: Option<f64>,
}

/// Whether an answer came out of the resolver's cache; none where nothing shows it. A resolver that speaks
/// for the zone has no cache, a time to live below an earlier one has been running, and an answer that was
/// not in the cache is in it when it is asked for again, which then takes much less time.
pub fn is_cached(answered: &Answered) -> Option<bool> {
    if answered.is_authoritative {
        return Some(false);
    }
    if let (Some(now), Some(longest)) = (answered.ttl_s, answered.longest_ttl_s)
        && now < longest
    {
        return Some(true);
    }
    let saved_ms = answered.first_ms - answered.second_ms?;
    (saved_ms > NOISE_MS && saved_ms > answered.first_ms * MUCH_LESS).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_family_wins_unless_it_fails_or_is_a_quarter_of_a_second_slower() {
        let winner = |ipv4_us, ipv6_us| race(ipv4_us, ipv6_us).winner;
        assert_eq!(winner(Some(1_000), Some(250_999)), Family::V6);
        assert_eq!(winner(Some(1_000), Some(251_001)), Family::V4);
        assert_eq!(winner(Some(1_000), None), Family::V4);
        assert_eq!(winner(None, Some(9_000_000)), Family::V6);
        assert_eq!(winner(None, None), Family::Any);
    }

    #[test]
    fn only_what_shows_the_cache_says_anything_about_it() {
        let answered = Answered { ttl_s: Some(60), first_ms: 20.0, ..Answered::default() };
        assert_eq!(is_cached(&answered), None);
        assert_eq!(is_cached(&Answered { is_authoritative: true, ..answered }), Some(false));
        assert_eq!(is_cached(&Answered { longest_ttl_s: Some(60), ..answered }), None);
        assert_eq!(is_cached(&Answered { longest_ttl_s: Some(61), ..answered }), Some(true));
        assert_eq!(is_cached(&Answered { second_ms: Some(1.0), ..answered }), Some(false));
        assert_eq!(is_cached(&Answered { second_ms: Some(19.0), ..answered }), None);
        let quick = Answered { first_ms: 0.9, second_ms: Some(0.1), ..answered };
        assert_eq!(is_cached(&quick), None, "that is noise");
    }
}
