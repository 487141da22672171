//! `cargo xtask bench`: builds the release binary and hands it to a bench program of `testkit`.

use anyhow::{Result, bail};

use crate::command;

/// Every bench with its program and what it prints.
const BENCHES: [(&str, &str, &str); 15] = [
    (
        "diagnosis",
        "bench-diagnosis",
        "incidents against the labelled faults of simulated days; --first 101 --seeds 10 --days 1",
    ),
    (
        "discovery",
        "bench-discovery",
        "12 hosts: all know all, a kill, a cut cable; memory and CPU of a node at rest; Serf beside",
    ),
    (
        "ingest",
        "bench-ingest",
        "events/s accepted durable, events/s aggregated, CPU per event, memory; VictoriaMetrics and InfluxDB beside; --set postgres-nats",
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
    ("package", "bench-package", "packages: time and size of each kind; from installing one to a node"),
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
    (
        "ssh",
        "bench-ssh",
        "one command on 200 hosts, cold and warm, CPU and memory; pdsh, clush and parallel-ssh beside; --hosts 200",
    ),
    (
        "failover",
        "bench-failover",
        "a page whose server is killed, until it goes on at another, behind HAProxy; --kills 100",
    ),
    (
        "server",
        "bench-server",
        "a thousand agents on one server: CPU, memory, how long lists and pages take; --agents 1000",
    ),
    ("footprint", "bench-footprint", "server, agent and beacon at rest: resident memory, CPU, wake-ups"),
];

/// Runs the named bench; further arguments go to its program.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else { bail!("name a bench:\n{}", list()) };
    if command::asks_for_help(arguments) {
        print!("{}", list());
        return Ok(());
    }
    let Some((_, program, _)) = BENCHES.iter().find(|(bench, ..)| bench == name) else {
        bail!("no bench {name:?}; there are:\n{}", list())
    };
    command::run_built(program, rest)
}

fn list() -> String {
    BENCHES.iter().map(|(name, _, what)| format!("  {name:<10} {what}\n")).collect()
}
