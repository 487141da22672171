//! How many events a server takes in and counts, and what one costs: HTTP in, authenticated, checked,
//! deduplicated, synced to disk, folded into windows, committed.
//!
//! `--connections N` keep-alive connections post batches of `--batch N` numbered events as NDJSON for
//! `--seconds N`, in the name of `--probes N` probes that measure `--targets N` targets each. The clock for
//! "aggregated" stops when the server has counted every accepted event. The load generator runs on the same
//! machine; what it costs is printed too.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use caelum_testkit::{
    api::Api,
    event::now_ms,
    measure::{cpu_time, mib, option, resident_bytes, sibling_binary},
    server::Plan,
    wait,
};

/// The shape of the load.
#[derive(Clone, Copy)]
struct Load {
    batch: u64,
    probes: u64,
    targets: u64,
    connections: u64,
    time: Duration,
}

/// What one connection did.
#[derive(Default)]
struct Done {
    accepted: u64,
    turned_away: u64,
    answered_in: Vec<Duration>,
}

fn main() -> Result<()> {
    let load = Load {
        batch: option("--batch", 1000)?,
        probes: option("--probes", 64)?,
        targets: option("--targets", 8)?,
        connections: option("--connections", 4)?,
        time: Duration::from_secs(option("--seconds", 20)?),
    };
    ensure!(
        load.connections > 0 && load.probes >= load.connections,
        "there must be a probe for each connection"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("start the async runtime")?.block_on(bench(load))
}

async fn bench(load: Load) -> Result<()> {
    let plan = Plan::new(sibling_binary()?).with(&["--ingest-rate-limit-events-per-s", "0"]);
    let mut server = plan.start()?;
    let pid = server.process().pid();
    let api = server.api()?;
    let reader = api.with_token(&server.token("read")?);
    // Plain HTTP on loopback: what TLS costs is not what is measured here.
    let writer = api.plain_at(&server.http())?.with_token(&server.token("ingest")?);
    let counted_before = counted(&reader).await?;
    let (cpu_before, own_before) = (cpu_time(pid)?, cpu_time(std::process::id())?);
    let begin = Instant::now();

    let connections: Vec<_> =
        (0..load.connections).map(|nth| tokio::spawn(post(writer.clone(), load, nth, begin))).collect();
    let mut done = Done::default();
    for connection in connections {
        let one = connection.await.context("wait for a connection")??;
        done.accepted += one.accepted;
        done.turned_away += one.turned_away;
        done.answered_in.extend(one.answered_in);
    }
    let accepted_in = begin.elapsed();
    let aggregated_in =
        wait::until_answered("every event is counted", Duration::from_secs(300), async || {
            let all = counted(&reader).await.ok()? - counted_before >= done.accepted;
            all.then(|| begin.elapsed())
        })
        .await;
    let (cpu, own) = (cpu_time(pid)? - cpu_before, cpu_time(std::process::id())? - own_before);
    let (resident, highest) = resident_bytes(pid)?;
    if done.accepted == 0 {
        bail!("nothing was accepted");
    }

    done.answered_in.sort_unstable();
    let quantile = |share: f64| {
        let at = (done.answered_in.len() as f64 * share) as usize;
        done.answered_in[at.min(done.answered_in.len() - 1)].as_secs_f64() * 1e3
    };
    let events = done.accepted as f64;
    println!(
        "{} events from {} probes x {} targets, {} connections, batches of {}",
        done.accepted, load.probes, load.targets, load.connections, load.batch
    );
    println!("  accepted      {:.0} events/s, durable when answered", events / accepted_in.as_secs_f64());
    println!("  answered      p50 {:.1} ms, p99 {:.1} ms a batch", quantile(0.5), quantile(0.99));
    println!("  turned away   {} requests", done.turned_away);
    println!("  aggregated    {:.0} events/s, end to end", events / aggregated_in.as_secs_f64());
    println!("  server CPU    {:.2} us/event", cpu.as_secs_f64() * 1e6 / events);
    println!("  generator CPU {:.2} us/event", own.as_secs_f64() * 1e6 / events);
    println!("  resident      {} (highest {})", mib(resident), mib(highest));
    Ok(())
}

/// Distinct events in the server's windows.
async fn counted(reader: &Api) -> Result<u64> {
    let stats = reader.json("/api/stats").await?;
    stats["pipeline"]["counted"].as_u64().with_context(|| format!("find what was counted in {stats}"))
}

/// One connection: its probes take turns, so that each probe's events arrive in order.
async fn post(writer: Api, load: Load, nth: u64, begin: Instant) -> Result<Done> {
    let mut done = Done::default();
    let own: Vec<u64> = (0..load.probes).filter(|probe| probe % load.connections == nth).collect();
    let mut next_seq = vec![1_u64; own.len()];
    let mut body = String::new();
    for turn in (0..own.len()).cycle() {
        if begin.elapsed() >= load.time {
            return Ok(done);
        }
        write_batch(&mut body, own[turn], next_seq[turn], load);
        let asked = Instant::now();
        let (status, answer) = writer.post_events("application/x-ndjson", body.clone()).await?;
        match status {
            202 => {
                done.answered_in.push(asked.elapsed());
                done.accepted += answer["accepted"].as_u64().unwrap_or(0);
                next_seq[turn] += load.batch;
            }
            // The same batch comes again at this probe's next turn.
            429 | 503 => done.turned_away += 1,
            other => bail!("a batch was answered with {other}: {answer}"),
        }
    }
    Ok(done)
}

/// Events of one probe, its targets in turn, with times that vary as real ones do.
fn write_batch(body: &mut String, probe: u64, first_seq: u64, load: Load) {
    body.clear();
    let now_ms = now_ms();
    for seq in first_seq..first_seq + load.batch {
        // A cheap spread over about a factor of two; the numbers need not be random, only not all equal.
        let spread = 1.0 + (seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1 << 24);
        let target = seq % load.targets;
        writeln!(
            body,
            "{{\"event_id\":\"{probe:08x}-0000-7000-8000-{seq:012x}\",\"client_id\":\"bench-{probe}\",\
             \"ts_ms\":{now_ms},\"schema_version\":\"1.1\",\"target\":\"https://target-{target}.example/\",\
             \"network_context\":{{\"interface_type\":\"ethernet\",\"vpn_enabled\":false}},\
             \"timings\":{{\"dns_ms\":{:.2},\"tcp_ms\":{:.2},\"tls_ms\":{:.2},\"http_ttfb_ms\":{:.2}}},\
             \"throughput_kbps\":{:.0},\"epoch\":1,\"seq\":{seq}}}",
            8.0 * spread,
            20.0 * spread,
            25.0 * spread,
            60.0 * spread,
            40_000.0 / spread,
        )
        .expect("a string takes everything");
    }
}
