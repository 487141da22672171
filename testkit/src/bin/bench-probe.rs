//! `cargo xtask bench probe`: what measuring costs, and how punctual it is.
//!
//! One `caelum probe` with `--targets N` (500) HTTP targets on loopback every `--interval-s S` (10), for
//! `--seconds S` (60) after the first round, `--hanging N` (0) of them at a port that takes connections and
//! never answers. Its events go to an ingest of the bench's own, which knows from their times how far each
//! measurement was from its moment. Where Prometheus' blackbox exporter is installed, it makes the same
//! measurements, one after the other.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use caelum_engine::{hash::fnv1a, schedule::until_phase};
use caelum_model::{id::TargetId, wire::EventJson};
use caelum_testkit::{
    api,
    measure::{cpu_time, mib, option, resident_bytes, sibling_binary},
    process::Process,
    target::{Script, Target},
    wait,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

const START_MAX: Duration = Duration::from_secs(60);
const BODY_BYTES_MAX: usize = 8 << 20;

/// What came in: target, time, whether it failed.
type Seen = Arc<Mutex<Vec<(String, i64, bool)>>>;

fn main() -> Result<()> {
    let (targets, hanging) = (option("--targets", 500)?, option("--hanging", 0)?);
    let (interval_s, seconds) = (option("--interval-s", 10)?, option("--seconds", 60)?);
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let (target, silent, ingest, seen) = runtime.block_on(async {
        let target = Target::start(Script::default()).await?;
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let (ingest, seen) = take_events().await?;
        anyhow::Ok((target, silent, ingest, seen))
    })?;
    let silent_url = format!("http://{}/", silent.local_addr()?);
    runtime.spawn(keep_silent(silent));
    let mut settings = format!("[probe]\ntimeout_ms = 5000\ninterval_s = {interval_s}\n");
    for number in 0..targets {
        let base = if number < hanging { &silent_url } else { target.url() };
        write!(settings, "[[probe.targets]]\nurl = \"{base}{number}\"\n")?;
    }
    let file = folder.path().join("caelum.toml");
    fs::write(&file, settings)?;
    let probe = start(&file, &ingest, folder.path())?;
    wait::within(START_MAX, || (count(&seen) as u64 >= targets - hanging).then_some(()))
        .context("the probe does not measure")?;
    // The first round comes at once and not in phase.
    wait::pass(Duration::from_secs(interval_s));
    let (before, cpu_before) = (count(&seen), cpu_time(probe.pid())?);
    wait::pass(Duration::from_secs(seconds));
    let (after, cpu_after) = (count(&seen), cpu_time(probe.pid())?);
    let (resident, highest) = resident_bytes(probe.pid())?;
    let events: Vec<(String, i64, bool)> =
        seen.lock().unwrap_or_else(PoisonError::into_inner)[before..after].to_vec();
    let good: Vec<_> = events.iter().filter(|(.., failed)| !failed).collect();
    let mut errors: Vec<u64> =
        good.iter().map(|(url, ts_ms, _)| off_phase_ms(url, *ts_ms, interval_s)).collect();
    errors.sort_unstable();
    let expected = (targets - hanging) * seconds / interval_s.max(1);
    println!("{targets} targets every {interval_s} s, {hanging} of them silent, for {seconds} s");
    println!("  measurements that succeeded   {} of about {expected}", good.len());
    println!("  off their moment, p50, p99    {} ms, {} ms", at(&errors, 50), at(&errors, 99));
    let cpu = cpu_after.saturating_sub(cpu_before);
    println!(
        "  processor time a measurement  {:.0} µs (spool and sending included)",
        cpu.as_secs_f64() * 1e6 / events.len().max(1) as f64
    );
    println!("  resident, highest             {}, {}", mib(resident), mib(highest));
    drop(probe);
    beside(&runtime, target.url(), folder.path())
}

fn start(file: &Path, ingest: &str, folder: &Path) -> Result<Process> {
    let mut command = Command::new(sibling_binary()?);
    command.args(["probe", "--server", ingest, "--token", "bench", "--name", "bench"]);
    command.arg("--config").arg(file).arg("--data").arg(folder.join("data")).env("HOME", folder);
    Process::start(command, "probe", folder)
}

fn count(seen: &Seen) -> usize {
    seen.lock().unwrap_or_else(PoisonError::into_inner).len()
}

fn at(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// How far a moment is from the phase of its target.
fn off_phase_ms(url: &str, ts_ms: i64, interval_s: u64) -> u64 {
    let target_id = TargetId::parse(&format!("{:016x}", fnv1a(url))).expect("hexadecimal");
    let interval = Duration::from_secs(interval_s.max(1));
    let until = until_phase(&target_id, interval, ts_ms);
    let off = until.min(interval.saturating_sub(until));
    u64::try_from(off.as_millis()).unwrap_or(u64::MAX)
}

async fn keep_silent(listener: TcpListener) {
    let mut kept = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        kept.push(stream);
        if kept.len() > 1_000 {
            kept.drain(..500);
        }
    }
}

/// An ingest that acknowledges everything.
async fn take_events() -> Result<(String, Seen)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&kept);
            tokio::spawn(async move {
                // A probe that hangs up ends its own conversation only.
                drop(converse(stream, &seen).await);
            });
        }
    });
    Ok((url, seen))
}

async fn converse(stream: TcpStream, seen: &Seen) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        if length > BODY_BYTES_MAX {
            bail!("a request of {length} bytes");
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let (mut accepted, mut ack) = (0, 0);
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: EventJson<'_> = serde_json::from_slice(line)?;
            accepted += 1;
            ack = ack.max(event.seq.unwrap_or(0));
            let one = (event.target.into_owned(), event.ts_ms, event.error_stage.is_some());
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(one);
        }
        let answer = serde_json::json!({
            "status": "accepted", "accepted": accepted, "duplicate": 0, "ack_through": ack
        });
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
        stream.write_all(head.as_bytes()).await?;
    }
}

/// The same measurements by Prometheus' blackbox exporter, where it is installed.
fn beside(runtime: &tokio::runtime::Runtime, url: &str, folder: &Path) -> Result<()> {
    const NAMES: [&str; 2] = ["blackbox_exporter", "prometheus-blackbox-exporter"];
    const ROUNDS: u32 = 2_000;
    let path: Vec<_> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let program =
        NAMES.iter().find_map(|name| path.iter().map(|folder| folder.join(name)).find(|file| file.is_file()));
    let Some(program) = program else {
        println!("blackbox_exporter is not installed here (Debian package prometheus-blackbox-exporter)");
        return Ok(());
    };
    let config = folder.join("blackbox.yml");
    fs::write(
        &config,
        "modules:\n  http:\n    prober: http\n    timeout: 5s\n    http:\n      preferred_ip_protocol: ip4\n",
    )?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let exporter = Process::start(command, "blackbox", folder)?;
    api::install_cryptography();
    let client = reqwest::Client::new();
    let asked = format!("http://127.0.0.1:{port}/probe?module=http&target={url}");
    runtime.block_on(async {
        wait::until_answered("the exporter answers", START_MAX, async || {
            client.get(&asked).send().await.ok()
        })
        .await;
        let before = cpu_time(exporter.pid())?;
        let mut counts = HashMap::new();
        for _ in 0..ROUNDS {
            let page = client.get(&asked).send().await?.text().await?;
            *counts.entry(page.contains("probe_success 1")).or_insert(0_u32) += 1;
        }
        let cpu = cpu_time(exporter.pid())?.saturating_sub(before);
        let (resident, highest) = resident_bytes(exporter.pid())?;
        println!(
            "blackbox_exporter, {} of {ROUNDS} succeeded, one at a time",
            counts.get(&true).copied().unwrap_or(0)
        );
        println!("  processor time a measurement  {:.0} µs", cpu.as_secs_f64() * 1e6 / f64::from(ROUNDS));
        println!("  resident, highest             {}, {}", mib(resident), mib(highest));
        anyhow::Ok(())
    })
}
