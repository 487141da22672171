//! `cargo xtask bench`: builds the release binary and hands it to a bench program of `testkit`.

use anyhow::{Result, bail};

use crate::command;

/// Every bench with its program and what it prints.
const BENCHES: [(&str, &str, &str); 4] = [
    (
        "discovery",
        "bench-discovery",
        "12 hosts: all know all, a kill, a cut cable; memory and CPU of a node at rest",
    ),
    ("ingest", "bench-ingest", "events/s accepted durable, events/s aggregated, CPU per event, memory"),
    (
        "flood",
        "bench-flood",
        "100,000 forged, replayed and malformed datagrams to a node: CPU, memory, beliefs",
    ),
    ("footprint", "bench-footprint", "server, agent and beacon at rest: resident memory, CPU, wake-ups"),
];

/// Runs the named bench; further arguments go to its program.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else { bail!("name a bench:\n{}", list()) };
    let Some((_, program, _)) = BENCHES.iter().find(|(bench, ..)| bench == name) else {
        bail!("no bench {name:?}; there are:\n{}", list())
    };
    let cargo = command::cargo();
    let build = ["build", "--release", "--locked", "-p", "caelum", "-p", "caelum-testkit", "--bins"];
    command::run(&cargo, &build)?;
    let mut run =
        vec!["run", "--release", "--locked", "--quiet", "-p", "caelum-testkit", "--bin", program, "--"];
    run.extend(rest.iter().map(String::as_str));
    command::run(&cargo, &run)
}

fn list() -> String {
    BENCHES.iter().map(|(name, _, what)| format!("  {name:<10} {what}\n")).collect()
}
