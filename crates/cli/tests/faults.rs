//! Faults in a lab of real processes: each is named rightly and in time, and closed after its repair.
//!
//! Two of the lab's faults; `cargo xtask e2e lab` runs them all.

use std::path::Path;

use caelum_testkit::{
    diagnosis::{self, Fault},
    stalls,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_and_a_long_last_mile_are_told_apart_and_closed_after_the_repair() {
    let binary = Path::new(env!("CARGO_BIN_EXE_caelum"));
    let faults = [Fault::SlowServer, Fault::LongLastMile];
    let outcome = tokio::task::block_in_place(|| diagnosis::run(binary, &faults, 0, 3)).expect("runs");
    if let Some(reservation) = outcome.reservation() {
        stalls::shout(&reservation);
    }
    assert!(
        outcome.is_right(),
        "{:#?}\nabout no fault: {:#?}\n{}",
        outcome.verdicts,
        outcome.others,
        outcome.log
    );
}
