//! Databases of others that the same measurements are given to, for comparison: the real programs, on loopback,
//! with folders of their own.
//!
//! Both take InfluxDB's line protocol, one line an event with its four stages, so that the same bytes go to both.
//! They authenticate nobody here, check no schema, know no duplicate, and answer before anything is on disk.

use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    measure::{cpu_time, resident_bytes},
    process::Process,
    wait,
};

/// Most time for a start, or until all that was posted is seen.
const PATIENCE: Duration = Duration::from_secs(120);
/// A stage's field of every event.
const FIELD: &str = "ttfb";

/// A program that takes lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// VictoriaMetrics, one node.
    VictoriaMetrics,
    /// InfluxDB 1.
    InfluxDb,
}

/// What it cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Lines that were posted.
    pub events: u64,
    /// Lines that it finds afterwards.
    pub found: u64,
    /// Until the last was answered.
    pub answered_in: Duration,
    /// Until all were found.
    pub found_in: Duration,
    /// Processor time until then.
    pub cpu: Duration,
    /// Highest resident memory, bytes.
    pub highest: u64,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::VictoriaMetrics, Self::InfluxDb];

    /// The program.
    pub fn program(self) -> &'static str {
        match self {
            Self::VictoriaMetrics => "victoria-metrics",
            Self::InfluxDb => "influxd",
        }
    }

    /// The Debian package that brings it.
    pub fn package(self) -> &'static str {
        match self {
            Self::VictoriaMetrics => "victoria-metrics",
            Self::InfluxDb => "influxdb",
        }
    }

    /// Whether it is installed here.
    pub fn is_installed(self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(self.program()).is_file())
    }

    /// Starts it, posts so many events by so many connections, waits until it finds them, and ends it.
    pub async fn measure(self, events: u64, batch: u64, connections: u64) -> Result<Cost> {
        let (mut running, base) = self.start().await?;
        let http = reqwest::Client::new();
        let cpu = cpu_time(running.process.pid())?;
        let begin = Instant::now();
        // In the past, so that nothing is refused as to come; whole seconds, so that the question is simple.
        let begin_ms = crate::event::now_ms() / 1000 * 1000 - 3_600_000;
        let next = Arc::new(AtomicU64::new(0));
        let posting: Vec<_> = (0..connections)
            .map(|_| {
                tokio::spawn(post(
                    http.clone(),
                    self.write_url(&base),
                    Arc::clone(&next),
                    events,
                    batch,
                    begin_ms,
                ))
            })
            .collect();
        for one in posting {
            one.await.context("wait for a connection")??;
        }
        let answered_in = begin.elapsed();
        let found = wait::until_answered("it finds what was posted", PATIENCE, async || {
            let found = self.count(&http, &base, begin_ms).await.ok()?;
            (found >= events).then_some(found)
        })
        .await;
        let found_in = begin.elapsed();
        let pid = running.process.pid();
        let cpu = cpu_time(pid)? - cpu;
        let (_, highest) = resident_bytes(pid)?;
        running.process.kill();
        Ok(Cost { events, found, answered_in, found_in, cpu, highest })
    }

    async fn start(self) -> Result<(Running, String)> {
        let folder = tempfile::tempdir().context("make a folder for a peer")?;
        let port = free_port()?;
        let mut command = Command::new(self.program());
        match self {
            Self::VictoriaMetrics => {
                command.arg(format!("-httpListenAddr=127.0.0.1:{port}")).arg("-loggerLevel=ERROR");
                command.arg(format!("-storageDataPath={}", folder.path().join("data").display()));
            }
            Self::InfluxDb => {
                let at = folder.path().display();
                let config = format!(
                    "reporting-disabled = true\nbind-address = \"127.0.0.1:{}\"\n[meta]\n  dir = \"{at}/meta\"\n\
                     [data]\n  dir = \"{at}/data\"\n  wal-dir = \"{at}/wal\"\n  query-log-enabled = false\n\
                     [http]\n  bind-address = \"127.0.0.1:{port}\"\n  log-enabled = false\n[logging]\n  level = \"error\"\n",
                    free_port()?
                );
                let path = folder.path().join("influxdb.conf");
                fs::write(&path, config).context("write influxdb.conf")?;
                command.arg("-config").arg(&path);
            }
        }
        let process = Process::start(command, self.program(), folder.path())?;
        let running = Running { process, _folder: folder };
        let base = format!("http://127.0.0.1:{port}");
        let http = reqwest::Client::new();
        wait::until_answered(&format!("{} answers", self.program()), PATIENCE, async || {
            let answer = http.get(format!("{base}/ping")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        if self == Self::InfluxDb {
            let made = http.post(format!("{base}/query?q=CREATE%20DATABASE%20bench")).send().await?;
            ensure!(made.status().is_success(), "influxd makes no database: {}", made.status());
        }
        Ok((running, base))
    }

    fn write_url(self, base: &str) -> String {
        match self {
            Self::VictoriaMetrics => format!("{base}/write?precision=ms"),
            Self::InfluxDb => format!("{base}/write?db=bench&precision=ms"),
        }
    }

    /// Events that it finds.
    async fn count(self, http: &reqwest::Client, base: &str, begin_ms: i64) -> Result<u64> {
        let url = match self {
            Self::VictoriaMetrics => {
                http.get(format!("{base}/internal/force_flush")).send().await?;
                let query = format!("sum(count_over_time(experience_{FIELD}[1h]))")
                    .replace('[', "%5B")
                    .replace(']', "%5D");
                format!("{base}/api/v1/query?query={query}&time={}", begin_ms / 1000 + 3_590)
            }
            Self::InfluxDb => format!("{base}/query?db=bench&q=SELECT%20count({FIELD})%20FROM%20experience"),
        };
        let answer: serde_json::Value = serde_json::from_str(&http.get(url).send().await?.text().await?)?;
        let found = match self {
            Self::VictoriaMetrics => {
                answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok())
            }
            Self::InfluxDb => answer["results"][0]["series"][0]["values"][0][1].as_u64(),
        };
        found.with_context(|| format!("find a number in {answer}"))
    }
}

struct Running {
    process: Process,
    _folder: TempDir,
}

/// Posts batches until all are posted.
async fn post(
    http: reqwest::Client,
    url: String,
    next: Arc<AtomicU64>,
    events: u64,
    batch: u64,
    begin_ms: i64,
) -> Result<()> {
    loop {
        let first = next.fetch_add(batch, Ordering::Relaxed);
        if first >= events {
            return Ok(());
        }
        let lines = lines(first, batch.min(events - first), begin_ms);
        let answer = http.post(&url).body(lines).send().await.context("post lines")?;
        if !answer.status().is_success() {
            bail!(
                "lines were answered with {}: {}",
                answer.status(),
                answer.text().await.unwrap_or_default()
            );
        }
    }
}

/// 64 probes that measure 8 targets each, a measurement of a pair each millisecond.
fn lines(first: u64, count: u64, begin_ms: i64) -> String {
    let mut lines = String::with_capacity(count as usize * 110);
    for number in first..first + count {
        let (probe, target) = (number % 64, number / 64 % 8);
        let at_ms = begin_ms + (number / 512) as i64;
        let wobble = (number % 97) as f64 / 10.0;
        writeln!(
            lines,
            "experience,client=probe-{probe},target=https://t{target}.example/ dns={:.1},tcp={:.1},tls={:.1},{FIELD}={:.1} {at_ms}",
            1.0 + wobble,
            9.0 + wobble,
            18.0 + wobble,
            40.0 + wobble
        )
        .expect("text takes more text");
    }
    lines
}

fn free_port() -> Result<u16> {
    let socket = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(socket.local_addr().context("find a free port")?.port())
}
