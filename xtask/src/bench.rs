//! `cargo xtask bench`: builds the release binary and hands it to a bench program of `testkit`.

use anyhow::{Result, bail};

use crate::command;

/// Every bench with its program and what it prints.
const BENCHES: [(&str, &str, &str); 11] = [
    (
        "diagnosis",
        "bench-diagnosis",
        "incidents against the labelled faults of simulated days; --first 101 --seeds 10 --days 1",
    ),
    (
        "discovery",
        "bench-discovery",
        "12 hosts: all know all, a kill, a cut cable; memory and CPU of a node at rest",
    ),
    (
        "ingest",
        "bench-ingest",
        "events/s accepted durable, events/s aggregated, CPU per event, memory; --set postgres-nats",
    ),
    ("freshness", "bench-freshness", "accepted to seen in a query, at 1,000 and at 50,000 events a second"),
    (
        "recovery",
        "bench-recovery",
        "events that waited in the queue, until they are counted; --events 10000000",
    ),
    ("sketch", "bench-sketch", "distributions: error after merges, bytes of a minute, time of a merge"),
    (
        "flood",
        "bench-flood",
        "100,000 forged, replayed and malformed datagrams to a node: CPU, memory, beliefs",
    ),
    (
        "probe",
        "bench-probe",
        "500 targets every 10 s: how punctual, CPU a measurement, memory; --hanging 200; blackbox_exporter beside",
    ),
    (
        "placement",
        "bench-placement",
        "places for 10,000 tasks over 1,000 nodes, with reasons; how even they are",
    ),
    (
        "tasks",
        "bench-tasks",
        "a task's way from being asked for to its start at 200/s, and no-op tasks/s; SQLite and PostgreSQL",
    ),
    ("footprint", "bench-footprint", "server, agent and beacon at rest: resident memory, CPU, wake-ups"),
];

/// Programs of others that the same events could be given to, for comparison.
const PEERS: [&str; 3] = ["prometheus", "victoria-metrics", "influxd"];

/// Says which peers are installed; none of them is started here.
fn name_peers() {
    let folders: Vec<std::path::PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    for peer in PEERS {
        let is_there = folders.iter().any(|folder| folder.join(peer).is_file());
        let state =
            if is_there { "is installed, and not measured by this program" } else { "is not installed here" };
        println!("  {peer}: {state}");
    }
}

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
    command::run(&cargo, &run)?;
    if name == "ingest" {
        println!("peers:");
        name_peers();
    }
    Ok(())
}

fn list() -> String {
    BENCHES.iter().map(|(name, _, what)| format!("  {name:<10} {what}\n")).collect()
}
