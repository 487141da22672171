//! Rates from two looks: how fast counters grow, as far as pages have looked at them.
//!
//! Nothing runs in the background: a counter that nobody looks at has no rate, and the first look has none.

use std::{collections::VecDeque, sync::Mutex};

use caelum_model::UnixMs;

/// Looks closer together than this are one, ms.
const APART_MS: i64 = 1_000;
/// Shortest time that a rate is taken over, ms.
const OVER_MIN_MS: i64 = 2_000;
/// Looks older than this are forgotten, ms.
const KEPT_MS: i64 = 30_000;
/// Looks kept at most.
const LOOKS_MAX: usize = 32;

/// Counters at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at_ms: UnixMs,
    /// Events this process took in.
    pub accepted: u64,
    /// Events counted, by everybody.
    pub counted: u64,
}

/// Events a second; none while there were not two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Taken in.
    pub accepted: Option<f64>,
    /// Counted.
    pub counted: Option<f64>,
}

/// The looks of the last seconds, of all readers.
#[derive(Debug, Default)]
pub struct Looks {
    kept: Mutex<VecDeque<Look>>,
}

impl Looks {
    /// Adds a look and answers the rates as of it.
    pub fn add(&self, look: Look) -> Rates {
        let mut kept = self.kept.lock().expect("no code panics while it holds this lock");
        // A clock that was set back starts anew.
        kept.retain(|old| (0..=KEPT_MS).contains(&(look.at_ms - old.at_ms)));
        let oldest = kept.front().copied().filter(|old| look.at_ms - old.at_ms >= OVER_MIN_MS);
        if kept.back().is_none_or(|last| look.at_ms - last.at_ms >= APART_MS) {
            kept.push_back(look);
        }
        while kept.len() > LOOKS_MAX {
            kept.pop_front();
        }
        let Some(oldest) = oldest else { return Rates::default() };
        let seconds = (look.at_ms - oldest.at_ms) as f64 / 1000.0;
        // A counter that shrank was started anew: its rate is not known.
        let rate = |now: u64, then: u64| now.checked_sub(then).map(|grown| grown as f64 / seconds);
        Rates { accepted: rate(look.accepted, oldest.accepted), counted: rate(look.counted, oldest.counted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at_ms: i64, accepted: u64, counted: u64) -> Look {
        Look { at_ms, accepted, counted }
    }

    #[test]
    fn a_rate_needs_two_looks_that_lie_apart() {
        let looks = Looks::default();
        assert_eq!(looks.add(look(10_000, 5, 5)), Rates::default());
        assert_eq!(looks.add(look(10_500, 9, 9)), Rates::default());
        let rates = looks.add(look(12_000, 25, 15));
        assert_eq!((rates.accepted, rates.counted), (Some(10.0), Some(5.0)));
    }

    #[test]
    fn old_looks_are_forgotten_and_a_counter_that_shrank_has_no_rate() {
        let looks = Looks::default();
        looks.add(look(0, 0, 0));
        assert_eq!(looks.add(look(100_000, 900, 900)), Rates::default());
        let rates = looks.add(look(104_000, 4, 940));
        assert_eq!((rates.accepted, rates.counted), (None, Some(10.0)));
        assert_eq!(looks.add(look(50_000, 1, 1)), Rates::default());
    }
}
