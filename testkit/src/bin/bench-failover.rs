//! `cargo xtask bench failover`: how soon a page goes on when the server that it is on is killed.
//!
//! Three servers of the release build on a PostgreSQL and a NATS server of this machine, behind the real
//! HAProxy, with the configuration that Caelum wrote for it. A signed-in reader does as the page's script does;
//! `--kills N` (100) times the server that it is on is killed and brought back. From the kill to the first block
//! of the new stream, and until what somebody else wrote after the kill is on the page.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use caelum_testkit::{
    failover,
    fleet::{Balancer, Fleet, Kind},
    measure::{option, sibling_binary},
    postgres,
};

fn main() -> Result<()> {
    let kills = usize::try_from(option("--kills", 100)?).context("read --kills")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("start the async runtime")?.block_on(measure(kills))
}

async fn measure(kills: usize) -> Result<()> {
    let records = postgres::Plan::new().durable().start()?;
    let mut fleet = Fleet::start(sibling_binary()?, records, 3, &[])?;
    fleet.see_each_other(3).await?;
    let balancer = Balancer::start(Kind::Haproxy, &fleet.admin(0)?).await?;
    println!("{kills} kills of three servers behind HAProxy; floor: p99 5 s, aim 2 s");
    let resumed = failover::measure(&mut fleet, &balancer, kills).await?;
    for (name, mut times) in [
        ("page goes on", resumed.iter().map(|one| one.resumed).collect::<Vec<_>>()),
        ("news shown", resumed.iter().map(|one| one.shown).collect()),
    ] {
        times.sort_unstable();
        println!(
            "{name:>14}  p50 {:>6.0} ms  p99 {:>6.0} ms  longest {:>6.0} ms",
            at(&times, 0.50),
            at(&times, 0.99),
            at(&times, 1.0)
        );
    }
    Ok(())
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last);
    sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
}
