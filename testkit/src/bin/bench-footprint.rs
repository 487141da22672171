//! What `caelum up` costs while nobody does anything: memory and processor time, with its default probe.
//!
//! `--settle S` seconds pass before the measurement, which takes `--seconds S`.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use anyhow::Result;
use caelum_testkit::{
    measure::{cpu_time, mib, option, resident_bytes, sibling_binary},
    server::Plan,
    wait,
};

fn main() -> Result<()> {
    let settle = Duration::from_secs(option("--settle", 20)?);
    let seconds = Duration::from_secs(option("--seconds", 60)?);
    let mut server = Plan::new(sibling_binary()?).with_probe().start()?;
    let pid = server.process().pid();
    wait::pass(settle);

    let (cpu_before, begin) = (cpu_time(pid)?, Instant::now());
    wait::pass(seconds);
    let (cpu, elapsed) = (cpu_time(pid)? - cpu_before, begin.elapsed());
    let (resident, highest) = resident_bytes(pid)?;

    println!("caelum up at rest, measured for {:.0} s", elapsed.as_secs_f64());
    println!("  resident      {} (highest {})", mib(resident), mib(highest));
    println!("  CPU           {:.3} % of one core", 100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64());
    Ok(())
}
