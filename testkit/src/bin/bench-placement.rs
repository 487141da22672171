//! `cargo xtask bench placement`: how long it takes to find places for tasks, and how evenly they are spread.
//!
//! `--tasks N` (10,000) over `--nodes N` (1,000) on one core, each place with its reasons; and 1,000 tasks
//! between two heartbeats, when nothing is known but what was just given out.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::Instant;

use anyhow::{Result, bail};
use caelum_engine::{
    hash::mix,
    placement::{Board, Candidate, Wish},
};
use caelum_model::{cluster::Ceiling, id::NodeId, node::Level};
use caelum_testkit::measure::option;

/// Tasks between two heartbeats.
const BURST: u64 = 1_000;

fn main() -> Result<()> {
    let (tasks, nodes) = (option("--tasks", 10_000)?, option("--nodes", 1_000)?);
    let wish = Wish { words: &["linux".to_owned()], node: None, ceiling: Ceiling::Shell };
    let mut board = Board::new((0..nodes).map(|n| node(n, mix(n) % 80)).collect::<Result<_>>()?);
    let begin = Instant::now();
    let mut reasons = 0;
    for _ in 0..tasks {
        let Ok(place) = board.place(&wish) else { bail!("no node will do") };
        reasons += place.reasons.len();
    }
    let took = begin.elapsed();
    println!("{tasks} places over {nodes} nodes, each with its reasons; floor: 1 s for 10,000 over 1,000");
    println!("  took                         {:.0} ms", took.as_secs_f64() * 1e3);
    println!("  a place                      {:.1} µs", took.as_secs_f64() * 1e6 / tasks.max(1) as f64);
    println!("  reasons                      {reasons}");
    let mut board = Board::new((0..nodes.min(100)).map(|n| node(n, 10)).collect::<Result<_>>()?);
    for _ in 0..BURST {
        drop(board.place(&wish));
    }
    let most = board.candidates().iter().map(|candidate| candidate.tasks).max().unwrap_or(0);
    let mean = BURST as f64 / nodes.clamp(1, 100) as f64;
    println!(
        "{BURST} places between two heartbeats over {} equal nodes; floor: 1.2 times the mean",
        nodes.min(100)
    );
    println!("  the most loaded has          {:.2} times the mean", f64::from(most) / mean);
    Ok(())
}

fn node(number: u64, cpu: u64) -> Result<Candidate> {
    Ok(Candidate {
        node_id: NodeId::parse(&format!("node-{number:04}"))?,
        cpu_percent: Some(cpu as f64),
        memory_percent: Some(40.0),
        level: Some(Level::Healthy),
        tasks: 0,
        room: None,
        words: vec!["docker".to_owned(), "linux".to_owned(), "python".to_owned()],
        ceiling: Ceiling::Shell,
        is_draining: false,
    })
}
