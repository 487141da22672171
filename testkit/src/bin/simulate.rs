//! `cargo xtask sim`: whole clusters in virtual time, larger than the tests have time for.
//!
//! The world is that of the engine's tests. `--nodes N` (1,000) nodes on `--networks N` (10) networks, two of
//! them servers, `--seeds N` (1) runs: all know all; one is killed; what an idle node sends; a split into
//! halves for ten minutes heals.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../../crates/engine/tests/sim/world.rs"]
mod world;

use std::time::Instant;

use anyhow::{Context as _, Result};
use caelum_model::cluster::Liveness;
use caelum_testkit::measure::option;
use world::World;

const SERVERS: usize = 2;
const IDLE_S: u64 = 60;

fn main() -> Result<()> {
    let nodes = usize::try_from(option("--nodes", 1_000)?)?.max(4);
    let networks = usize::try_from(option("--networks", 10)?)?.max(1);
    println!("nodes  seed  all know all  kill known  bytes/s  healed after first beacon  took");
    for seed in 1..=option("--seeds", 1)? {
        let began = Instant::now();
        let run = run(nodes, networks, seed).with_context(|| format!("seed {seed}"))?;
        println!(
            "{nodes:>5} {seed:>5} {:>11.1} s {:>9.1} s {:>8} {:>24.1} s {:>4} s",
            run.known_s,
            run.missed_s,
            run.bytes,
            run.healed_s,
            began.elapsed().as_secs()
        );
    }
    Ok(())
}

struct Run {
    known_s: f64,
    missed_s: f64,
    bytes: u64,
    healed_s: f64,
}

fn run(nodes: usize, networks: usize, seed: u64) -> Result<Run> {
    let mut world = World::new(nodes, networks, SERVERS, seed);
    // In waves, as machines of a house start after the lights went out.
    for number in 0..nodes {
        world.start(number);
        world.run(3);
    }
    let known = world.until(120_000, World::all_know_all);
    let known = known.with_context(|| format!("{} pairs do not know each other", world.missing()))?;

    world.run(30_000);
    let victim = nodes - 1;
    world.kill(victim);
    let missed = world.until(30_000, |world| world.all_miss(victim)).context("some believe in the dead")?;
    world.start(victim);
    world.until(30_000, World::all_know_all).context("it came back, and some do not know")?;

    world.run(30_000);
    world.bytes.iter_mut().for_each(|bytes| *bytes = 0);
    world.run(IDLE_S as i64 * 1_000);
    let agents = &world.bytes[SERVERS..];
    let bytes = agents.iter().sum::<u64>() / agents.len() as u64 / IDLE_S;

    world.split(|number| u8::from(number >= nodes / 2));
    world.run(600_000);
    world.side = vec![0; nodes];
    world.beliefs.clear();
    let is_heard = |world: &World| world.beliefs.iter().any(|belief| belief.3 == Liveness::Alive);
    world.until(20_000, is_heard).context("nobody of the other half was heard")?;
    let healed = world.until(120_000, World::all_know_all);
    let healed = healed.with_context(|| format!("{} pairs are still split", world.missing()))?;
    let s = |ms: i64| ms as f64 / 1_000.0;
    Ok(Run { known_s: s(known), missed_s: s(missed), bytes, healed_s: s(healed) })
}
