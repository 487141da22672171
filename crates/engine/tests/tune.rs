#[path = "scorecard/score.rs"]
mod score;
#[path = "scorecard/world.rs"]
mod world;
use score::{Score, run};
#[test]
fn tune() {
    let first: u64 = std::env::var("FIRST").unwrap().parse().unwrap();
    let n: u64 = std::env::var("N").unwrap().parse().unwrap();
    let mut sum = Score::default();
    for seed in first..first + n {
        sum.add(run(seed, 30, 10, 1440, 30));
    }
    for note in &sum.notes {
        println!("{note}");
    }
    println!(
        "precision {:.3} recall {:.3} exact {:.3} false {:.2} delay {} {} extra {:.2} of {} faults {} incidents",
        sum.precision(),
        sum.recall(),
        sum.exact(),
        sum.false_rate(),
        sum.delay(0.5),
        sum.delay(0.9),
        sum.extra_rate(),
        sum.faults,
        sum.incidents
    );
    for ((t, f), c) in &sum.confusion {
        if t != f {
            println!("{c} {t} -> {f}");
        }
    }
}
