//! The histogram's promises: error, exact merging, bytes, and bytes from strangers.

use proptest::prelude::*;

use super::{
    DecodeError, Histogram, Unmeasurable,
    adversaries::{ADVERSARIES, Chance},
    index_of, upper_bound,
};

fn of(values: &[f64]) -> Histogram {
    let mut histogram = Histogram::default();
    for value in values {
        histogram.record(*value).expect("measurable");
    }
    histogram
}

/// The nearest-rank quantile of the values themselves.
fn exact(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
    values[rank - 1]
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (-20.0..40.0f64).prop_map(f64::exp2),
        2 => 1.0..1000.0f64,
        1 => Just(0.0),
        1 => (0i32..30).prop_map(|n| f64::from(n).exp2()),
    ]
}

proptest! {
    #[test]
    fn any_quantile_is_within_its_stated_error(mut values in prop::collection::vec(value(), 1..300), q in 0.0..=1.0f64) {
        let answered = of(&values).quantile(q).expect("not empty");
        let exact = exact(&mut values, q);
        prop_assert!((answered - exact).abs() <= exact * 0.005_44, "{answered} for {exact}");
    }

    #[test]
    fn any_merge_tree_in_any_order_gives_the_same_bytes(values in prop::collection::vec(value(), 0..200), cuts in prop::collection::vec(0usize..200, 0..5), rotation in 0usize..5) {
        let whole = of(&values).encode();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(values.len())).collect();
        cuts.extend([0, values.len()]);
        cuts.sort_unstable();
        let mut parts: Vec<Histogram> = cuts.windows(2).map(|pair| of(&values[pair[0]..pair[1]])).collect();
        let middle = rotation.min(parts.len());
        parts.rotate_left(middle);
        while parts.len() > 1 {
            let last = parts.pop().expect("more than one");
            let at = rotation % parts.len();
            parts[at].merge(&last);
        }
        prop_assert_eq!(parts.pop().map(|part| part.encode()), Some(whole));
    }

    #[test]
    fn the_stored_form_reads_back(values in prop::collection::vec(value(), 0..200)) {
        let histogram = of(&values);
        prop_assert_eq!(Histogram::decode(&histogram.encode()), Ok(histogram));
    }

    #[test]
    fn bytes_from_a_stranger_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(histogram) = Histogram::decode(&bytes) {
            let _ = histogram.quantile(0.5);
        }
    }

    #[test]
    fn a_share_below_a_limit_is_right_within_one_bucket(values in prop::collection::vec(value(), 1..200), limit in value()) {
        let answered = of(&values).count_at_most(limit);
        let surely = values.iter().filter(|value| **value <= limit / 1.011).count() as u64;
        let possibly = values.iter().filter(|value| **value <= limit * 1.011).count() as u64;
        prop_assert!(surely <= answered && answered <= possibly, "{surely} {answered} {possibly}");
    }
}

#[test]
fn a_value_on_a_bound_belongs_to_the_bucket_below() {
    for power in -20..40 {
        let bound = f64::from(power).exp2();
        assert_eq!(upper_bound(index_of(bound)), bound, "2^{power}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_and_leaves_no_trace() {
    let mut histogram = Histogram::default();
    for value in [f64::NAN, f64::INFINITY, -0.1] {
        assert_eq!(histogram.record(value), Err(Unmeasurable));
    }
    assert_eq!(histogram, Histogram::default());
    assert_eq!(histogram.quantile(0.5), None);
}

#[test]
fn sixty_samples_of_one_stage_stay_under_a_hundred_and_fifty_bytes() {
    // A log-normal spread as probes see it: a third of an octave around 20 ms.
    let values: Vec<f64> = (0..60).map(|n| 20.0 * (f64::from((n * 37) % 60 - 30) / 90.0).exp2()).collect();
    let bytes = of(&values).encode().len();
    assert!(bytes <= 150, "{bytes} bytes");
}

#[test]
fn a_damaged_form_is_named() {
    assert_eq!(Histogram::decode(&[]), Err(DecodeError::Short));
    assert_eq!(Histogram::decode(&[9]), Err(DecodeError::Version(9)));
    let mut bytes = of(&[1.0, 2.0]).encode();
    bytes.push(0);
    assert_eq!(Histogram::decode(&bytes), Err(DecodeError::Trailing));
}

/// Merges parts in an order that chance chooses, each pair in either direction, by way of their stored forms
/// now and then.
fn merged(values: &[f64], parts: usize, chance: &mut Chance) -> Histogram {
    let mut parts: Vec<Histogram> = (0..parts).map(|_| Histogram::default()).collect();
    for value in values {
        let at = (chance.number() % parts.len() as u64) as usize;
        parts[at].record(*value).expect("measurable");
    }
    while parts.len() > 1 {
        let last = parts.swap_remove((chance.number() % parts.len() as u64) as usize);
        let at = (chance.number() % parts.len() as u64) as usize;
        if chance.number().is_multiple_of(2) {
            parts[at].merge(&last);
        } else {
            let stored = Histogram::decode(&parts[at].encode()).expect("reads back");
            parts[at] = last;
            parts[at].merge(&stored);
        }
    }
    parts.pop().expect("one is left")
}

#[test]
fn adversaries_merged_in_any_order_have_the_same_bytes_and_an_error_of_at_most_0_55_percent() {
    for (name, draw) in ADVERSARIES {
        let mut chance = Chance(43);
        let mut values: Vec<f64> = (0..5_000).map(|_| draw(&mut chance)).collect();
        let whole = of(&values);
        for parts in [2, 7, 60, 500] {
            for seed in 0..5 {
                let merged = merged(&values, parts, &mut Chance(seed));
                assert_eq!(merged.encode(), whole.encode(), "{name}, {parts} parts, seed {seed}");
            }
        }
        values.sort_by(f64::total_cmp);
        for rank in 1..=values.len() {
            let answered = whole.quantile((rank as f64 - 0.5) / values.len() as f64).expect("not empty");
            let exact = values[rank - 1];
            assert!(
                (answered - exact).abs() <= exact * 0.005_5,
                "{name}: {answered} for {exact}, rank {rank}"
            );
        }
    }
}
