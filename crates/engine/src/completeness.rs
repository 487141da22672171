//! What is missing, and when it was measured.
//!
//! Sequence numbers leave no doubt about how many events of a probe are missing; when those were measured is
//! told by the events on both sides of the gap. A gap of `n` numbers between two times is spread evenly over
//! them, in whole events, so that the sum over all windows is `n`. Numbers below the first that arrived are
//! placed at its time.
//!
//! Nothing of this is stored: it is computed from the seen ranges when it is asked for, and so is never stale.

use caelum_model::{UnixMs, rollup::SeenRanges};

/// Numbers that have not arrived, between two that have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First number missing.
    pub first: u64,
    /// Last number missing.
    pub last: u64,
    /// When the event before was measured.
    pub from_ms: UnixMs,
    /// When the event after was measured.
    pub to_ms: UnixMs,
}

impl Gap {
    /// Events missing.
    pub fn events(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Events missing before a time.
    fn before(&self, time_ms: UnixMs) -> u64 {
        if time_ms > self.to_ms {
            return self.events();
        }
        let span = i128::from(self.to_ms) - i128::from(self.from_ms);
        let past = i128::from(time_ms) - i128::from(self.from_ms);
        if past <= 0 || span <= 0 {
            return 0;
        }
        // It lies between zero and the number of events.
        u64::try_from(i128::from(self.events()) * past / span).unwrap_or(0)
    }

    /// Events missing in `[from_ms, to_ms)`.
    pub fn within(&self, from_ms: UnixMs, to_ms: UnixMs) -> u64 {
        self.before(to_ms).saturating_sub(self.before(from_ms))
    }
}

/// The gaps of one probe and epoch, oldest first.
pub fn gaps(seen: &SeenRanges) -> Vec<Gap> {
    let time = |index: usize| seen.edges.get(index).copied().unwrap_or((seen.max_ts_ms, seen.max_ts_ms));
    let mut gaps = Vec::new();
    let (mut next, mut from_ms) = (1u64, None);
    for (index, (first, last)) in seen.ranges.iter().enumerate() {
        let (first_ms, last_ms) = time(index);
        if *first > next {
            // The times of a probe whose clock was set back are put in order.
            let from_ms: UnixMs = from_ms.unwrap_or(first_ms);
            gaps.push(Gap {
                first: next,
                last: first - 1,
                from_ms: from_ms.min(first_ms),
                to_ms: first_ms.max(from_ms),
            });
        }
        next = last.saturating_add(1);
        from_ms = Some(last_ms);
    }
    gaps
}

/// Events of a probe that are missing in `[from_ms, to_ms)`, over all its epochs.
pub fn missing_within(seen: &[SeenRanges], from_ms: UnixMs, to_ms: UnixMs) -> u64 {
    seen.iter().flat_map(gaps).map(|gap| gap.within(from_ms, to_ms)).sum()
}

#[cfg(test)]
mod tests {
    use caelum_model::id::ClientId;
    use proptest::prelude::*;

    use super::*;

    fn seen(ranges: &[(u64, u64)], edges: &[(i64, i64)]) -> SeenRanges {
        SeenRanges {
            client_id: ClientId::parse("probe-1").expect("valid"),
            epoch: 1,
            ranges: ranges.to_vec(),
            edges: edges.to_vec(),
            max_ts_ms: edges.last().map_or(0, |(_, last)| *last),
            too_late: 0,
        }
    }

    #[test]
    fn a_gap_is_spread_over_the_time_between_its_neighbours() {
        let seen = [seen(&[(1, 10), (71, 80)], &[(0, 60_000), (120_000, 130_000)])];
        assert_eq!(missing_within(&seen, 0, 60_000), 0);
        assert_eq!(missing_within(&seen, 60_000, 90_000), 30);
        assert_eq!(missing_within(&seen, 90_000, 120_000), 30);
        assert_eq!(missing_within(&seen, 60_000, 180_000), 60);
    }

    #[test]
    fn what_is_missing_before_the_first_is_missing_at_its_time() {
        let seen = [seen(&[(6, 7)], &[(61_000, 62_000)])];
        assert_eq!(missing_within(&seen, 0, 60_000), 0);
        assert_eq!(missing_within(&seen, 60_000, 120_000), 5);
    }

    proptest! {
        #[test]
        fn windows_share_a_gap_without_losing_or_doubling_an_event(
            events in 1u64..100_000, from_ms in -1_000_000i64..1_000_000, span in 0i64..10_000_000, width in 1i64..1_000_000
        ) {
            let gap = Gap { first: 1, last: events, from_ms, to_ms: from_ms + span };
            let start = from_ms.div_euclid(width) * width;
            let windows = (span / width + 2).min(20_000);
            prop_assume!(windows < 20_000);
            let sum: u64 = (0..windows).map(|n| gap.within(start + n * width, start + (n + 1) * width)).sum();
            prop_assert_eq!(sum, events);
        }

        #[test]
        fn nonsense_never_panics(
            ranges in proptest::collection::vec((1u64..u64::MAX, any::<u64>()), 0..5),
            edges in proptest::collection::vec((any::<i64>(), any::<i64>()), 0..5),
        ) {
            let mut clean: Vec<(u64, u64)> = ranges.into_iter().map(|(a, b)| (a.min(b).max(1), a.max(b))).collect();
            clean.sort_unstable();
            let seen = [seen(&clean, &edges)];
            missing_within(&seen, 0, 60_000);
        }
    }
}
