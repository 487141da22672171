//! How long it takes from an event being accepted to its being seen in a query, under load.
//!
//! At each of two rates (`--low N`, 1,000 a second, and `--high N`, 50,000), for `--seconds N` (30): a load as
//! `bench-ingest` makes it, and beside it a probe of its own that sends one event after the other, each of
//! which is looked for in `/api/rollups` every five milliseconds from the moment it is answered until it is
//! there. The looking is part of the load.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use caelum_testkit::{
    api::Api,
    event::{Numbered, USUAL, ndjson, now_ms},
    load::{Load, quantile_ms},
    measure::{option, sibling_binary},
    server::Plan,
};
use tokio::time::{MissedTickBehavior, interval};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// Longest time that an event may take to be seen at all.
const SEEN_MAX: Duration = Duration::from_secs(60);
/// Pause between two events that are looked for, so that they meet commits at any phase.
const PAUSE: Duration = Duration::from_millis(137);

fn main() -> Result<()> {
    let (low, high) = (option("--low", 1_000)?, option("--high", 50_000)?);
    let time = Duration::from_secs(option("--seconds", 30)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start the async runtime")?;
    println!(
        "accepted to seen in /api/rollups; floor: p99 2 s, aim: p99 1 s at 50,000/s; load and looks on the"
    );
    println!("same cores, caelum up with its own defaults, {} s each\n", time.as_secs());
    println!("{:>10} {:>10} {:>7} {:>9} {:>9} {:>9}", "wanted/s", "taken/s", "looked", "p50", "p99", "worst");
    for rate in [low, high] {
        println!("{}", runtime.block_on(at_rate(rate, time))?);
    }
    Ok(())
}

async fn at_rate(rate: u64, time: Duration) -> Result<String> {
    let server = Plan::new(sibling_binary()?).with(&["--ingest-rate-limit-events-per-s", "0"]).start()?;
    let writer = Api::plain(&server.http())?.with_token(&server.token("ingest")?);
    let reader = Api::plain(&server.http())?.with_token(&server.token("read")?);
    let connections = 4;
    // Ten requests a second and connection.
    let batch = (rate / connections / 10).max(1);
    let load = Load { batch, probes: 64, targets: 8, connections, time, events: None, rate: Some(rate) };
    let begin = Instant::now();
    let posting = tokio::spawn(async move { (load.post(&[writer]).await, begin.elapsed()) });
    let sender = Api::plain(&server.http())?.with_token(&server.token("ingest")?);
    let mut seen_in = look(&sender, &reader, begin + time).await?;
    let (done, took) = posting.await.context("wait for the load")?;
    let done = done?;
    seen_in.sort_unstable();
    let worst = quantile_ms(&seen_in, 1.0);
    Ok(format!(
        "{rate:>10} {:>10.0} {:>7} {:>6.0} ms {:>6.0} ms {worst:>6.0} ms",
        done.accepted as f64 / took.as_secs_f64(),
        seen_in.len(),
        quantile_ms(&seen_in, 0.5),
        quantile_ms(&seen_in, 0.99),
    ))
}

/// Sends and looks for one event after the other.
async fn look(sender: &Api, reader: &Api, until: Instant) -> Result<Vec<Duration>> {
    let mut probe = Numbered::new("bench-seen", 1);
    let mut seen_in = Vec::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turns = interval(PAUSE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < until {
        let event = probe.event("https://seen.example/", now_ms(), USUAL);
        let (status, answer) = sender.post_events("application/x-ndjson", ndjson([&event])).await?;
        let accepted_at = Instant::now();
        if status != 202 {
            bail!("an event was answered with {status}: {answer}");
        }
        let sent = seen_in.len() as u64 + 1;
        while rows(reader).await? < sent {
            if accepted_at.elapsed() > SEEN_MAX {
                bail!("an event was accepted and not seen for {SEEN_MAX:?}");
            }
            looks.tick().await;
        }
        seen_in.push(accepted_at.elapsed());
        turns.reset();
        turns.tick().await;
    }
    Ok(seen_in)
}

/// Events of the own probe in the answer to a query.
async fn rows(reader: &Api) -> Result<u64> {
    let answer = reader.json("/api/rollups?client_id=bench-seen").await?;
    let rollups = answer["rollups"].as_array().context("find rollups in the answer")?;
    Ok(rollups.iter().filter_map(|row| row["count_total"].as_u64()).sum())
}
