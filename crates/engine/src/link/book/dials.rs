//! When to dial again: waits that grow, and what shortens them.

use crate::hash::mix;

/// First bound of a wait, ms; it doubles with each failure.
const WAIT_MS: i64 = 200;
/// Longest wait, ms.
const WAIT_MAX_MS: i64 = 30_000;
/// A link that lived this long was a good one, ms.
const GOOD_MS: i64 = 30_000;
/// Wait after a refusal, ms.
const REFUSED_MS: i64 = 60_000;
/// A beacon shortens only waits longer than this, ms …
const HURRY_OVER_MS: i64 = 1_000;
/// … to at most this, ms …
const HURRY_TO_MS: i64 = 200;
/// … and only once in this time, ms.
const HURRY_EVERY_MS: i64 = 5_000;

/// Numbers that nobody can foresee without the seed.
#[derive(Clone, Debug)]
pub(super) struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A number in a range.
    pub(super) fn between(&mut self, range: std::ops::RangeInclusive<i64>) -> i64 {
        self.drawn += 1;
        let width = (range.end() - range.start()).max(0) as u64 + 1;
        range.start() + (mix(self.seed ^ mix(self.drawn)) % width) as i64
    }
}

/// A wait before the next dial.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    until_ms: i64,
    failures: u32,
    is_refused: bool,
    hurried_ms: Option<i64>,
}

impl Wait {
    /// A first dial, not before a time.
    pub(super) fn until(until_ms: i64) -> Self {
        Self { until_ms, failures: 0, is_refused: false, hurried_ms: None }
    }

    /// When to dial.
    pub(super) fn until_ms(&self) -> i64 {
        self.until_ms
    }

    /// A dial failed: full jitter below a bound that doubles, so that many who lost the same peer come back
    /// spread out.
    pub(super) fn failed(&mut self, now_ms: i64, was_refused: bool, defer_ms: i64, chance: &mut Chance) {
        self.is_refused = was_refused;
        if was_refused {
            self.until_ms = now_ms + REFUSED_MS;
            return;
        }
        let bound_ms = WAIT_MS.saturating_mul(1 << self.failures.min(16)).min(WAIT_MAX_MS);
        self.failures = self.failures.saturating_add(1);
        self.until_ms = now_ms + defer_ms + chance.between(0..=bound_ms);
    }

    /// A link ended.
    pub(super) fn lost(
        &mut self,
        now_ms: i64,
        since_ms: i64,
        was_refused: bool,
        defer_ms: i64,
        chance: &mut Chance,
    ) {
        if now_ms - since_ms >= GOOD_MS {
            self.failures = 0;
        }
        self.failed(now_ms, was_refused, defer_ms, chance);
    }

    /// The peer was heard: it is there, so a long wait is of no use.
    pub(super) fn hurry(&mut self, now_ms: i64, chance: &mut Chance) {
        let is_too_soon = self.hurried_ms.is_some_and(|last_ms| now_ms - last_ms < HURRY_EVERY_MS);
        if self.is_refused || is_too_soon || self.until_ms - now_ms <= HURRY_OVER_MS {
            return;
        }
        self.hurried_ms = Some(now_ms);
        self.until_ms = now_ms + chance.between(0..=HURRY_TO_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_bound_that_doubles_up_to_half_a_minute() {
        let (mut wait, mut chance) = (Wait::until(0), Chance::new(7));
        for n in 0..40 {
            wait.failed(0, false, 0, &mut chance);
            assert!((0..=(WAIT_MS << n.min(16)).min(WAIT_MAX_MS)).contains(&wait.until_ms()));
        }
        wait.lost(GOOD_MS, 0, false, 0, &mut chance);
        assert!(wait.until_ms() <= GOOD_MS + WAIT_MS, "a good link makes up for failures");
    }

    #[test]
    fn a_beacon_shortens_a_long_wait_once_in_a_while_and_never_that_of_a_refusal() {
        let (mut wait, mut chance) = (Wait::until(20_000), Chance::new(7));
        wait.hurry(0, &mut chance);
        assert!(wait.until_ms() <= HURRY_TO_MS);
        wait.until_ms = 20_000;
        wait.hurry(4_999, &mut chance);
        assert_eq!(wait.until_ms(), 20_000, "not so soon again");
        wait.hurry(5_000, &mut chance);
        assert!(wait.until_ms() <= 5_000 + HURRY_TO_MS);
        wait.failed(6_000, true, 0, &mut chance);
        wait.hurry(20_000, &mut chance);
        assert_eq!(wait.until_ms(), 6_000 + REFUSED_MS);
    }
}
