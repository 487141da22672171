//! Error budgets: how much of what a target is held to has been used up, and how fast.
//!
//! What it does not do: it reads nothing. Whoever asks counts over the right stretches of time.

use caelum_model::{UnixMs, target::Objective};

use crate::{sketch::Histogram, window::tier};

/// Good measurements among all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Those that succeeded in time.
    pub good: u64,
    /// All of them.
    pub all: u64,
}

impl Counted {
    /// Counts a window: `whole` is the time of whole measurements, or the round trip where there are no stages.
    pub fn of(objective: &Objective, whole: &Histogram, successes: u64, all: u64) -> Self {
        Self { good: whole.count_at_most(objective.within_ms.into()).min(successes), all }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { good: self.good + other.good, all: self.all + other.all }
    }

    /// Share of good measurements, 0 to 1; none of nothing.
    pub fn share(self) -> Option<f64> {
        (self.all > 0).then(|| self.good as f64 / self.all as f64)
    }

    fn bad_share(self) -> Option<f64> {
        Some(1.0 - self.share()?)
    }
}

/// How a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Share that is promised, 0 to 1.
    pub promised: f64,
    /// Counted over its days.
    pub counted: Counted,
    /// Share of the budget that is left: 1 untouched, 0 used up, below 0 the promise is broken.
    pub left: Option<f64>,
    /// How many times faster than the promise allows the budget was used in the last hour: 1 uses it up exactly
    /// at the end of the days.
    pub burn_1h: Option<f64>,
    /// The same over six hours.
    pub burn_6h: Option<f64>,
}

/// The budget of an objective, from what was counted over its days, the last hour and the last six.
pub fn budget(objective: &Objective, days: Counted, hour: Counted, six_hours: Counted) -> Budget {
    let promised = f64::from(objective.promised_bp) / 10_000.0;
    let allowed = 1.0 - promised;
    let rate = |counted: Counted| {
        counted.bad_share().filter(|_| allowed > 0.0).map(|bad| (bad / allowed * 1e6).round() / 1e6)
    };
    Budget {
        promised,
        counted: days,
        left: rate(days).map(|used| 1.0 - used),
        burn_1h: rate(hour),
        burn_6h: rate(six_hours),
    }
}

/// Which windows cover a stretch of time with as few rows as can be: `(width, from, to)`, oldest first. The
/// beginning is moved back to a full window of the longest kind that fits into the stretch.
pub fn cover(from_ms: UnixMs, to_ms: UnixMs) -> Vec<(i64, UnixMs, UnixMs)> {
    let mut widths = tier::WIDTHS_MS;
    widths.sort_unstable();
    let longest = widths.iter().rev().find(|width| **width <= to_ms - from_ms).unwrap_or(&widths[0]);
    let mut at = from_ms.div_euclid(*longest) * longest;
    let mut parts = Vec::new();
    for width in widths.iter().rev().filter(|width| *width <= longest) {
        let end = to_ms.div_euclid(*width) * width;
        if end > at {
            parts.push((*width, at, end));
            at = end;
        }
    }
    // The minute that is still filling.
    if at < to_ms {
        parts.push((widths[0], at, to_ms));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISE: Objective = Objective { within_ms: 300, promised_bp: 9_900, days: 28 };

    fn counted(good: u64, all: u64) -> Counted {
        Counted { good, all }
    }

    #[test]
    fn a_measurement_is_good_if_it_succeeds_in_time() {
        let mut whole = Histogram::default();
        for ms in [100.0, 200.0, 250.0, 900.0] {
            whole.record(ms).expect("measurable");
        }
        assert_eq!(Counted::of(&PROMISE, &whole, 4, 5), counted(3, 5));
        assert_eq!(Counted::of(&PROMISE, &whole, 2, 5), counted(2, 5), "a failed one may have a time");
    }

    #[test]
    fn the_budget_is_what_the_promise_leaves() {
        let of = |days, hour, six| budget(&PROMISE, days, hour, six);
        let half = of(counted(9_950, 10_000), counted(99, 100), counted(90, 100));
        assert_eq!((half.left, half.burn_1h, half.burn_6h), (Some(0.5), Some(1.0), Some(10.0)));
        let untouched = of(counted(100, 100), counted(10, 10), counted(60, 60));
        assert_eq!((untouched.left, untouched.burn_1h), (Some(1.0), Some(0.0)));
        assert_eq!(of(counted(97, 100), counted(1, 1), counted(1, 1)).left, Some(-2.0), "broken");
        let unknown = of(Counted::default(), Counted::default(), Counted::default());
        assert_eq!((unknown.left, unknown.burn_1h, unknown.counted.share()), (None, None, None));
    }

    #[test]
    fn a_long_stretch_is_covered_by_long_windows_without_gap_or_overlap() {
        const DAY: i64 = 86_400_000;
        let now = 20_000 * DAY + 7 * 3_600_000 + 20 * 60_000 + 30_000;
        let parts = cover(now - 28 * DAY, now);
        assert_eq!(parts.first().map(|part| (part.0, part.1)), Some((DAY, 20_000 * DAY - 28 * DAY)));
        assert_eq!(parts.last().map(|part| part.2), Some(now));
        assert!(parts.windows(2).all(|pair| pair[0].2 == pair[1].1), "{parts:?}");
        assert_eq!(
            parts.iter().map(|part| part.0).collect::<Vec<_>>(),
            [DAY, 21_600_000, 900_000, 60_000, 60_000]
        );
        let hour = cover(now - 3_600_000, now);
        assert_eq!(hour[0], (900_000, now - 3_600_000 - 5 * 60_000 - 30_000, now - 5 * 60_000 - 30_000));
    }
}
