//! How long it takes until events that waited in the queue are counted, when an aggregator comes back.
//!
//! One ingest takes `--events N` (2,000,000) events while no aggregator runs; then `--aggregators N` (1) are
//! started. The clock runs from before the start of the first to when every event is counted. On a NATS server
//! and a PostgreSQL server of this machine, since with `caelum up` alone nothing waits: who takes events counts
//! them.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use caelum_testkit::{
    load::Load,
    measure::{cpu_time, mib, option, resident_bytes, sibling_binary},
    parts::{self, Parts},
    wait,
};

/// Longest time for either half.
const HALF_MAX: Duration = Duration::from_secs(1_800);

fn main() -> Result<()> {
    let events = option("--events", 2_000_000)?;
    let aggregators = option("--aggregators", 1)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("start the async runtime")?.block_on(bench(events, aggregators))
}

async fn bench(events: u64, aggregators: u64) -> Result<()> {
    let mut parts = Parts::start(sibling_binary()?)?;
    parts.add("ingest")?;
    let load = Load {
        batch: 1000,
        probes: 64,
        targets: 8,
        connections: 4,
        time: HALF_MAX,
        events: Some(events),
        rate: None,
    };
    let begin = Instant::now();
    let done = load.post(&parts.writers()?).await?;
    let filled_in = begin.elapsed();
    ensure!(done.accepted >= events, "only {} of {events} events were accepted", done.accepted);

    let begin = Instant::now();
    for _ in 0..aggregators.max(1) {
        parts.add("aggregator")?;
    }
    let ready_in = begin.elapsed();
    let readers = parts.readers()?;
    let counted_in = wait::until_answered("every event is counted", HALF_MAX, async || {
        let all = parts::counted(&readers).await.ok()? >= done.accepted;
        all.then(|| begin.elapsed())
    })
    .await;
    println!("{} events waited in NATS; aggregators: {aggregators}; rows in PostgreSQL", done.accepted);
    println!("  floor     60 s for 10,000,000; aim: 30 s");
    println!("  filled    in {:.1} s", filled_in.as_secs_f64());
    println!("  ready     after {:.1} s", ready_in.as_secs_f64());
    println!(
        "  counted   after {:.1} s, {:.0} events/s",
        counted_in.as_secs_f64(),
        done.accepted as f64 / counted_in.as_secs_f64()
    );
    println!("  so        {:.0} s for 10,000,000", counted_in.as_secs_f64() * 1e7 / done.accepted as f64);
    for part in parts.running().iter().filter(|part| part.role == "aggregator") {
        let (cpu, (now, highest)) = (cpu_time(part.process.pid())?, resident_bytes(part.process.pid())?);
        let per_event = cpu.as_secs_f64() * 1e6 / done.accepted as f64;
        println!(
            "  {:<9} {per_event:.2} us an event, resident {} (highest {})",
            part.role,
            mib(now),
            mib(highest)
        );
    }
    Ok(())
}
