//! A set of sequence numbers as closed ranges: what has been seen, and so what is missing.
//!
//! Memory grows with the number of gaps, not of numbers. In a [`RangeSet`] [`GAPS_MAX`] bounds it: past that, the
//! lowest gap is closed, which gives up on the numbers in it. An [`ExactSet`] gives up on none, and is for numbers
//! that are bounded otherwise.

use std::collections::BTreeMap;

/// Most gaps kept.
pub const GAPS_MAX: usize = 4096;

/// A set that closes the lowest of too many gaps.
pub type RangeSet = Ranges<GAPS_MAX>;
/// A set that closes no gap.
pub type ExactSet = Ranges<{ usize::MAX }>;

/// A set of `u64`, stored as disjoint closed ranges that never touch, with at most so many gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges<const GAPS: usize> {
    /// First → last.
    ranges: BTreeMap<u64, u64>,
}

impl<const GAPS: usize> Ranges<GAPS> {
    /// Builds a set from ranges in any order; touching and overlapping ones are joined.
    pub fn of(ranges: &[(u64, u64)]) -> Self {
        let mut set = Self::default();
        for (first, last) in ranges.iter().filter(|(first, last)| first <= last) {
            set.insert_range(*first, *last);
        }
        set
    }

    /// Adds the number past the newest, which is the usual case and touches a single entry. Answers where its range
    /// begins; nothing, and adds nothing, where the number is any other.
    pub fn extend(&mut self, number: u64) -> Option<u64> {
        let mut newest = self.ranges.last_entry()?;
        if newest.get().checked_add(1) != Some(number) {
            return None;
        }
        *newest.get_mut() = number;
        Some(*newest.key())
    }

    /// Adds a number. Answers false if it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.extend(number).is_some() {
            return true;
        }
        if self.contains(number) {
            return false;
        }
        self.insert_range(number, number);
        true
    }

    /// Adds every number of another set.
    pub fn merge<const OTHERS: usize>(&mut self, other: &Ranges<OTHERS>) {
        for (first, last) in other.ranges() {
            self.insert_range(first, last);
        }
    }

    fn insert_range(&mut self, mut first: u64, mut last: u64) {
        if let Some((&before_first, &before_last)) = self.ranges.range(..=first).next_back()
            && before_last.saturating_add(1) >= first
        {
            first = before_first;
            last = last.max(before_last);
        }
        let reach = last.saturating_add(1);
        let swallowed: Vec<u64> = self.ranges.range(first..=reach).map(|(start, _)| *start).collect();
        for start in swallowed {
            if let Some(end) = self.ranges.remove(&start) {
                last = last.max(end);
            }
        }
        self.ranges.insert(first, last);
        if self.ranges.len() - 1 > GAPS {
            self.close_lowest_gap();
        }
    }

    fn close_lowest_gap(&mut self) {
        let (Some((first, _)), Some((_, last))) = (self.ranges.pop_first(), self.ranges.pop_first()) else {
            return;
        };
        self.ranges.insert(first, last);
    }

    /// Whether a number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// The highest number up to which the set has no gap, counting from `start`; none if `start` is missing.
    pub fn contiguous_from(&self, start: u64) -> Option<u64> {
        self.ranges.range(..=start).next_back().map(|(_, last)| *last).filter(|last| *last >= start)
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// Numbers between 1 and the highest that are not in the set.
    pub fn missing(&self) -> u64 {
        let mut missing = 0u64;
        let mut next = 1u64;
        for (first, last) in self.ranges() {
            missing += first.saturating_sub(next);
            next = last.saturating_add(1);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_answers_as_a_plain_set_would(numbers in prop::collection::vec(1u64..60, 0..100)) {
            let mut set = RangeSet::default();
            let mut plain = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(set.insert(number), plain.insert(number));
            }
            for number in 0..62 {
                prop_assert_eq!(set.contains(number), plain.contains(&number));
            }
            let highest = plain.last().copied().unwrap_or(0);
            prop_assert_eq!(set.missing(), highest - plain.len() as u64);
            let contiguous = (1..).take_while(|number| plain.contains(number)).last();
            prop_assert_eq!(set.contiguous_from(1), contiguous);
            let ranges: Vec<_> = set.ranges().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "ranges touch");
            prop_assert_eq!(RangeSet::of(&ranges), set);
        }
    }

    #[test]
    fn the_ends_of_the_number_line_are_numbers_like_others() {
        let mut set = RangeSet::default();
        assert!(set.insert(u64::MAX) && set.insert(0) && set.insert(u64::MAX - 1));
        assert!(!set.insert(u64::MAX));
        assert_eq!(set.ranges().collect::<Vec<_>>(), vec![(0, 0), (u64::MAX - 1, u64::MAX)]);
    }

    #[test]
    fn more_gaps_than_allowed_close_from_below() {
        let mut set = RangeSet::default();
        for n in 0..=(GAPS_MAX as u64 + 5) {
            set.insert(n * 2 + 1);
        }
        assert_eq!(set.ranges().count(), GAPS_MAX + 1);
        assert!(set.contains(2), "the lowest gap was given up");
        assert!(!set.contains(GAPS_MAX as u64 * 2));
        let mut exact = ExactSet::default();
        for n in (0..=(GAPS_MAX as u64 + 5)).rev() {
            assert!(exact.insert(n * 2 + 1));
        }
        assert!(!exact.contains(2), "nothing was given up");
    }
}
