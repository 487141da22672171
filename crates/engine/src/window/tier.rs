//! Longer windows: 15 minutes, 6 hours, a day, each merged from the windows below it.
//!
//! A longer row is a function of the shorter rows stored in it: counts add, distributions merge exactly and in
//! any order to the same bytes. So it may be made again at any time, by anybody, after any crash, and comes
//! out the same; nothing is averaged. Its version is the sum of theirs: it grows whenever one of them is
//! corrected.

use caelum_model::{
    UnixMs,
    id::PartitionId,
    rollup::{MINUTE_MS, Rollup, RollupKey},
};

use super::cell::Cell;
use crate::sketch::DecodeError;

/// Lengths of windows, shortest first, ms. Each is a whole number of the one before.
pub const WIDTHS_MS: [i64; 4] = [MINUTE_MS, 15 * MINUTE_MS, 6 * 60 * MINUTE_MS, 24 * 60 * MINUTE_MS];

/// The length of the windows that a longer window is merged from; none for the shortest and for lengths that
/// are not kept.
pub fn part_width_ms(width_ms: i64) -> Option<i64> {
    let place = WIDTHS_MS.iter().position(|width| *width == width_ms)?;
    WIDTHS_MS.get(place.checked_sub(1)?).copied()
}

/// The longer window that a window is part of, under the same probe, target and family.
pub fn whole_of(key: &RollupKey) -> Option<RollupKey> {
    let place = WIDTHS_MS.iter().position(|width| *width == key.width_ms)?;
    let width_ms = *WIDTHS_MS.get(place + 1)?;
    Some(RollupKey {
        width_ms,
        window_start_ms: key.window_start_ms.div_euclid(width_ms) * width_ms,
        ..key.clone()
    })
}

/// The longer windows that hold any of these rows, each once.
pub fn wholes_of(rows: &[Rollup]) -> Vec<RollupKey> {
    let mut wholes: Vec<RollupKey> = rows.iter().filter_map(|row| whole_of(&row.key)).collect();
    wholes.sort_unstable();
    wholes.dedup();
    wholes
}

/// Merges the rows of a longer window; none where there are none.
pub fn merge(
    key: RollupKey,
    partition: PartitionId,
    parts: &[Rollup],
    now_ms: UnixMs,
) -> Result<Option<Rollup>, DecodeError> {
    let Some((first, rest)) = parts.split_first() else { return Ok(None) };
    let mut whole = Cell::of(first)?;
    for part in rest {
        whole.absorb(&Cell::of(part)?);
    }
    Ok(Some(whole.to_rollup(key, partition, now_ms)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use caelum_model::{
        event::{ErrorStage, Family},
        id::ClientId,
        rollup::{LastSeen, Measure, RollupState},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::sketch::Histogram;

    fn key(width_ms: i64, window_start_ms: i64) -> RollupKey {
        RollupKey {
            width_ms,
            window_start_ms,
            client_id: ClientId::parse("probe-1").expect("valid"),
            target: "tcp://a:1".into(),
            family: Family::V4,
        }
    }

    fn minute(n: i64, values: &[f64]) -> Rollup {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(*value).expect("a value that can be measured");
        }
        let errors = u64::from(n % 3 == 0);
        Rollup {
            key: key(MINUTE_MS, n * MINUTE_MS),
            partition: PartitionId(1),
            count_total: values.len() as u64,
            count_success: values.len() as u64 - errors.min(values.len() as u64),
            count_error: errors.min(values.len() as u64),
            errors_by_stage: BTreeMap::from([(ErrorStage::Tcp, errors)]),
            errors_by_class: BTreeMap::from([("refused".into(), errors)]),
            distributions: BTreeMap::from([(Measure::Tcp, histogram.encode())]),
            late_merged: 1,
            last: LastSeen { ts_ms: n * MINUTE_MS + 7, ..LastSeen::default() },
            state: if n == 2 { RollupState::Settled } else { RollupState::Complete },
            version: 2,
            updated_at_ms: 0,
        }
    }

    #[test]
    fn each_window_lies_in_one_longer_window_also_before_1970() {
        assert_eq!(whole_of(&key(MINUTE_MS, 16 * MINUTE_MS)), Some(key(WIDTHS_MS[1], WIDTHS_MS[1])));
        assert_eq!(whole_of(&key(MINUTE_MS, -MINUTE_MS)), Some(key(WIDTHS_MS[1], -WIDTHS_MS[1])));
        assert_eq!(whole_of(&key(WIDTHS_MS[2], 3 * WIDTHS_MS[2])), Some(key(WIDTHS_MS[3], 0)));
        assert_eq!(whole_of(&key(WIDTHS_MS[3], 0)), None);
        assert_eq!(part_width_ms(WIDTHS_MS[1]), Some(MINUTE_MS));
        assert_eq!(part_width_ms(MINUTE_MS), None);
    }

    #[test]
    fn a_longer_window_is_as_final_as_the_least_final_in_it_and_grows_its_version_with_theirs() {
        let parts: Vec<Rollup> = (1..4).map(|n| minute(n, &[1.0, 2.0])).collect();
        let whole = merge(key(WIDTHS_MS[1], 0), PartitionId(1), &parts, 5)
            .expect("readable")
            .expect("there are parts");
        assert_eq!((whole.count_total, whole.count_error, whole.late_merged), (6, 1, 3));
        assert_eq!((whole.state, whole.version), (RollupState::Settled, 6));
        assert_eq!(whole.last.ts_ms, 3 * MINUTE_MS + 7);
    }

    proptest! {
        #[test]
        fn the_order_and_the_grouping_of_the_parts_do_not_matter(
            minutes in proptest::collection::vec(proptest::collection::vec(0.001f64..1e6, 1..6), 2..8),
            cut in 1usize..7,
        ) {
            let parts: Vec<Rollup> =
                minutes.iter().enumerate().map(|(n, values)| minute(n as i64, values)).collect();
            let whole = |parts: &[Rollup]| merge(key(WIDTHS_MS[1], 0), PartitionId(1), parts, 5).expect("readable");
            let straight = whole(&parts);
            let mut turned = parts.clone();
            turned.reverse();
            prop_assert_eq!(&whole(&turned), &straight);
            let (left, right) = parts.split_at(cut.min(parts.len() - 1));
            let halves: Vec<Rollup> = whole(left).into_iter().chain(whole(right)).collect();
            prop_assert_eq!(&whole(&halves), &straight);
        }
    }
}
