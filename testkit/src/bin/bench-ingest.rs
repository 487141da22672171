//! How many events a server takes in and counts, and what one costs: HTTP in, authenticated, checked,
//! deduplicated, synced to disk, folded into windows, committed.
//!
//! `--connections N` keep-alive connections post batches of `--batch N` numbered events as NDJSON for
//! `--seconds N`, in the name of `--probes N` probes that measure `--targets N` targets each. The clock for
//! "aggregated" stops when the server has counted every accepted event. The load generator runs on the same
//! machine; what it costs is printed too.
//!
//! `--set embedded` (the default) is `caelum up`; `--set postgres-nats` is two ingests and three aggregators in
//! processes of their own, on a NATS server and a PostgreSQL server of this machine.
//!
//! Beside it run VictoriaMetrics and InfluxDB where they are installed, with as many measurements, at most
//! `--peer-events N` (2,000,000; 0 for none). They are given lines without identities and without a token, and
//! answer before anything is on disk: what they do is a part of what Caelum does.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use caelum_testkit::{
    api::Api,
    load::{Load, quantile_ms},
    measure::{cpu_time, mib, option, resident_bytes, sibling_binary, word},
    parts::{self, Parts},
    peers::Peer,
    server::{Plan, Server},
    wait,
};

/// What is measured.
enum Set {
    Embedded { server: Box<Server>, reader: Api },
    PostgresNats { parts: Box<Parts>, readers: Vec<Api> },
}

fn main() -> Result<()> {
    let load = Load {
        batch: option("--batch", 1000)?,
        probes: option("--probes", 64)?,
        targets: option("--targets", 8)?,
        connections: option("--connections", 4)?,
        time: Duration::from_secs(option("--seconds", 20)?),
        events: None,
        rate: None,
    };
    ensure!(
        load.connections > 0 && load.probes >= load.connections,
        "there must be a probe for each connection"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("start the async runtime")?.block_on(bench(load))
}

impl Set {
    /// Starts it. Answers who takes events, too.
    fn start() -> Result<(Self, Vec<Api>)> {
        match word("--set").as_deref() {
            None | Some("embedded") => {
                let plan = Plan::new(sibling_binary()?).with(&["--ingest-rate-limit-events-per-s", "0"]);
                let server = plan.start()?;
                let reader = server.api()?.with_token(&server.token("read")?);
                // Plain HTTP on loopback: what TLS costs is not what is measured here.
                let writer = reader.plain_at(&server.http())?.with_token(&server.token("ingest")?);
                Ok((Self::Embedded { server: Box::new(server), reader }, vec![writer]))
            }
            Some("postgres-nats") => {
                let mut parts = Parts::start(sibling_binary()?)?;
                for role in ["ingest", "ingest", "aggregator", "aggregator", "aggregator"] {
                    parts.add(role)?;
                }
                let (readers, writers) = (parts.readers()?, parts.writers()?);
                Ok((Self::PostgresNats { parts: Box::new(parts), readers }, writers))
            }
            Some(other) => bail!("no set {other:?}; there are embedded and postgres-nats"),
        }
    }

    /// Distinct events in windows.
    async fn counted(&self) -> Result<u64> {
        match self {
            Self::Embedded { reader, .. } => {
                let stats = reader.json("/api/stats").await?;
                let counted = stats["pipeline"]["counted"].as_u64();
                counted.with_context(|| format!("find what was counted in {stats}"))
            }
            Self::PostgresNats { readers, .. } => parts::counted(readers).await,
        }
    }

    /// Every process, by what it is.
    fn processes(&mut self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Embedded { server, .. } => vec![("up", server.process().pid())],
            Self::PostgresNats { parts, .. } => {
                let nats = parts.nats().pid();
                let running = parts.running().iter().map(|part| (part.role, part.process.pid()));
                running.chain([("nats", nats)]).collect()
            }
        }
    }
}

async fn bench(load: Load) -> Result<()> {
    let (mut set, writers) = Set::start()?;
    let processes = set.processes();
    let counted_before = set.counted().await?;
    let cpu_before = processes.iter().map(|(_, pid)| cpu_time(*pid)).collect::<Result<Vec<_>>>()?;
    let own_before = cpu_time(std::process::id())?;
    let begin = Instant::now();
    let done = load.post(&writers).await?;
    let accepted_in = begin.elapsed();
    let aggregated_in =
        wait::until_answered("every event is counted", Duration::from_secs(300), async || {
            let all = set.counted().await.ok()? - counted_before >= done.accepted;
            all.then(|| begin.elapsed())
        })
        .await;
    let own = cpu_time(std::process::id())? - own_before;
    if done.accepted == 0 {
        bail!("nothing was accepted");
    }
    let events = done.accepted as f64;
    println!(
        "{} events from {} probes x {} targets, {} connections, batches of {}",
        done.accepted, load.probes, load.targets, load.connections, load.batch
    );
    println!("  floor         4 us/event, 100,000 events/s end to end; aim: 2 us, 200,000");
    println!("  accepted      {:.0} events/s, durable when answered", events / accepted_in.as_secs_f64());
    let (p50, p99) = (quantile_ms(&done.answered_in, 0.5), quantile_ms(&done.answered_in, 0.99));
    println!("  answered      p50 {p50:.1} ms, p99 {p99:.1} ms a batch");
    println!("  turned away   {} requests", done.turned_away);
    println!("  aggregated    {:.0} events/s, end to end", events / aggregated_in.as_secs_f64());
    let mut all = Duration::ZERO;
    for ((name, pid), before) in processes.iter().zip(cpu_before) {
        let cpu = cpu_time(*pid)? - before;
        let (resident, highest) = resident_bytes(*pid)?;
        all += cpu;
        let per_event = cpu.as_secs_f64() * 1e6 / events;
        println!(
            "  {name:<13} {per_event:.2} us/event, resident {} (highest {})",
            mib(resident),
            mib(highest)
        );
    }
    println!(
        "  together      {:.2} us/event (a PostgreSQL server is not in it)",
        all.as_secs_f64() * 1e6 / events
    );
    let own_cost = all.as_secs_f64() / events;
    println!("  generator CPU {:.2} us/event", own.as_secs_f64() * 1e6 / events);
    drop(set);
    beside(load, done.accepted.min(option("--peer-events", 2_000_000)?), own_cost).await
}

/// The same by others. `own_cost` is ours, seconds an event.
async fn beside(load: Load, events: u64, own_cost: f64) -> Result<()> {
    if events == 0 {
        return Ok(());
    }
    for peer in Peer::ALL {
        if !peer.is_installed() {
            println!("{} is not installed here (Debian package {})", peer.program(), peer.package());
            continue;
        }
        let cost = peer.measure(events, load.batch, load.connections).await?;
        let each = cost.cpu.as_secs_f64() / cost.events as f64;
        println!(
            "{}, {} measurements of four stages, {} found afterwards",
            peer.program(),
            cost.events,
            cost.found
        );
        println!(
            "  {:.2} us/event, {:.1} times ours; answered {:.0} events/s, found {:.0} events/s; resident, highest {}",
            each * 1e6,
            each / own_cost,
            cost.events as f64 / cost.answered_in.as_secs_f64(),
            cost.events as f64 / cost.found_in.as_secs_f64(),
            mib(cost.highest)
        );
    }
    Ok(())
}
