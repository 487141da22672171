//! The scorecard of verdicts and localisation, on a world small enough for every run of the tests.
//!
//! `cargo xtask bench diagnosis` runs larger ones and prints the figures.

mod score;
mod world;

use score::{Score, run};

#[test]
fn incidents_of_simulated_hours_are_right_about_what_and_where() {
    let mut sum = Score::default();
    for seed in 1..=2 {
        sum.add(run(seed, 9, 10, 600, 11));
    }
    for note in &sum.notes {
        println!("{note}");
    }
    println!(
        "precision {:.3} recall {:.3} exact {:.3} false {:.2} delay {} {} extra {:.2} of {} faults",
        sum.precision(),
        sum.recall(),
        sum.exact(),
        sum.false_rate(),
        sum.delay(0.5),
        sum.delay(0.9),
        sum.extra_rate(),
        sum.faults
    );
    assert!(sum.precision() >= 0.90, "precision {:.3}", sum.precision());
    assert!(sum.recall() >= 0.90, "recall {:.3}", sum.recall());
    assert!(sum.exact() >= 0.85, "exact {:.3}", sum.exact());
    assert!(sum.delay(0.5) <= 3, "median delay of {} windows", sum.delay(0.5));
}
