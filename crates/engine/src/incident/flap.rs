//! Whether something comes and goes: the share of changes in the last states, newer ones counting more
//! (Nagios).

/// States that are looked at.
const STATES: u32 = 21;
/// Share of changes from which on it flaps.
const HIGH: f64 = 0.30;
/// Share of changes below which it is steady again.
const LOW: f64 = 0.15;
/// Weight of the oldest and of the newest change.
const WEIGHTS: (f64, f64) = (0.8, 1.2);

/// The last states, newest in the lowest bit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flap {
    states: u32,
    is_flapping: bool,
}

impl Flap {
    /// Takes the next state. Answers true where it began or ceased to flap.
    pub(super) fn note(&mut self, is_found: bool) -> bool {
        self.states = ((self.states << 1) | u32::from(is_found)) & ((1 << STATES) - 1);
        let score = self.score();
        let is_flapping = if self.is_flapping { score >= LOW } else { score >= HIGH };
        std::mem::replace(&mut self.is_flapping, is_flapping) != is_flapping
    }

    pub(super) fn is_flapping(&self) -> bool {
        self.is_flapping
    }

    /// Nothing was found in any of the last states.
    pub(super) fn is_quiet(&self) -> bool {
        self.states == 0
    }

    fn score(&self) -> f64 {
        let changes = STATES - 1;
        let changed = (self.states ^ (self.states >> 1)) & ((1 << changes) - 1);
        let sum: f64 = (0..changes)
            .filter(|age| changed & (1 << age) != 0)
            .map(|age| WEIGHTS.1 - (WEIGHTS.1 - WEIGHTS.0) * f64::from(age) / f64::from(changes - 1))
            .sum();
        sum / f64::from(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_flaps_until_it_has_been_steady_for_a_while() {
        let mut flap = Flap::default();
        let began = (0..21).position(|number| {
            flap.note(number % 4 < 2);
            flap.is_flapping()
        });
        assert!(began.is_some_and(|windows| windows > 8), "{began:?}");
        let ceased = (0..21).position(|_| {
            flap.note(true);
            !flap.is_flapping()
        });
        assert!(ceased.is_some_and(|windows| windows > 3), "{ceased:?}");
    }

    #[test]
    fn one_fault_with_a_pause_does_not_flap() {
        let mut flap = Flap::default();
        for number in 0..40 {
            flap.note((10..15).contains(&number) || (18..25).contains(&number));
            assert!(!flap.is_flapping(), "{number}");
        }
    }
}
