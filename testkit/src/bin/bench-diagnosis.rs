//! `cargo xtask bench diagnosis`: how right incidents are about what and where, on simulated days.
//!
//! `--first N` (101) and `--seeds N` (10) say which worlds; seeds 1 to 5 were used for tuning. `--days N` (1),
//! `--probes N` (30) and `--targets N` (10) say how large they are; `--notes 1` prints what was wrong.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "../../../crates/engine/tests/scorecard/score.rs"]
mod score;
#[path = "../../../crates/engine/tests/scorecard/world.rs"]
mod world;

use std::time::Instant;

use anyhow::Result;
use caelum_testkit::measure::option;
use score::{Score, run};

/// Faults a day.
const FAULTS: usize = 30;

fn main() -> Result<()> {
    let size =
        |name: &str, usual: u64| -> Result<usize> { Ok(usize::try_from(option(name, usual)?)?.max(1)) };
    let (first, seeds) = (option("--first", 101)?, option("--seeds", 10)?);
    let (days, probes, targets) = (size("--days", 1)?, size("--probes", 30)?, size("--targets", 10)?);
    let mut sum = Score::default();
    for seed in first..first + seeds {
        let began = Instant::now();
        let score = run(seed, probes.max(5), targets.max(10), days * 1_440, days * FAULTS);
        print_line(&format!("seed {seed}"), &score);
        println!("  {:.1} s", began.elapsed().as_secs_f64());
        sum.add(score);
    }
    print_line("all", &sum);
    println!("\n\nfault → first incident that touches it");
    for ((truth, found), count) in &sum.confusion {
        println!("{count:>5}  {truth:<26} → {found}{}", if truth == found { "" } else { "  ✗" });
    }
    if option("--notes", 0)? > 0 {
        sum.notes.iter().for_each(|note| println!("{note}"));
    }
    Ok(())
}

fn print_line(name: &str, score: &Score) {
    print!(
        "{name:<9} faults {:>4}  incidents {:>4}  precision {:.3}  recall {:.3}  exact {:.3}  false {:.2}  \
         delay p50 {} p90 {}  extra {:.2}",
        score.faults,
        score.incidents,
        score.precision(),
        score.recall(),
        score.exact(),
        score.false_rate(),
        score.delay(0.5),
        score.delay(0.9),
        score.extra_rate()
    );
}
