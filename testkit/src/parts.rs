//! Caelum's ingests and aggregators as processes of their own, on a NATS server and a PostgreSQL server of
//! this machine.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{api::Api, nats::NatsServer, postgres, postgres::PostgresServer, process::Process, wait};

/// Most time a start may take.
const START: Duration = Duration::from_secs(60);

/// The backends, and the parts that were started on them.
pub struct Parts {
    binary: PathBuf,
    folder: TempDir,
    nats: NatsServer,
    /// Held for its life.
    _postgres: PostgresServer,
    store: String,
    running: Vec<Part>,
}

/// A running part.
pub struct Part {
    /// `ingest` or `aggregator`.
    pub role: &'static str,
    /// The process.
    pub process: Process,
    ready: Value,
}

impl Part {
    /// A client of the address in a list of its ready file.
    fn client(&self, list: &str) -> Result<Api> {
        let url = self.ready[list][0].as_str().with_context(|| format!("find {list} of {}", self.role))?;
        Api::plain(url)
    }
}

impl Parts {
    /// Starts the backends, synced to disk as in earnest, and no parts.
    pub fn start(binary: PathBuf) -> Result<Self> {
        let nats = NatsServer::start()?;
        let postgres = postgres::Plan::new().durable().start()?;
        let store = postgres.url(&postgres.new_database()?);
        let folder = tempfile::tempdir().context("make a folder")?;
        Ok(Self { binary, folder, nats, _postgres: postgres, store, running: Vec::new() })
    }

    /// Starts one more part and waits until it is ready.
    pub fn add(&mut self, role: &'static str) -> Result<()> {
        let name = format!("{role}-{}", self.running.len());
        let mut command = self.command(role, &name)?;
        command.args(["--listen", "127.0.0.1:0", "--ingest-rate-limit-events-per-s", "0"]);
        command.args([
            "--ingest-rate-limit-requests-per-s",
            "0",
            &format!("--{role}-metrics-listen"),
            "127.0.0.1:0",
        ]);
        let mut process = Process::start(command, &name, self.folder.path())?;
        let file = self.folder.path().join(&name).join("run/ready.json");
        let ready = wait::within(START, || {
            if process.ended().is_some() {
                return Some(None);
            }
            let ready: Value = serde_json::from_str(&fs::read_to_string(&file).ok()?).ok()?;
            (ready["pid"] == process.pid()).then_some(Some(ready))
        });
        let Some(Some(ready)) = ready else { bail!("{name} does not start:\n{}", process.log()) };
        self.running.push(Part { role, process, ready });
        Ok(())
    }

    /// A client for each ingest, with a token for any probe.
    pub fn writers(&self) -> Result<Vec<Api>> {
        let mut token = self.command("token", "token")?;
        let made =
            token.args(["new", "--scope", "ingest", "--client-id", "*"]).output().context("make a token")?;
        let text = String::from_utf8_lossy(&made.stdout).into_owned();
        let Some(token) = text.lines().last().filter(|_| made.status.success()) else {
            bail!("no token was made: {text}{}", String::from_utf8_lossy(&made.stderr));
        };
        let ingests = self.running.iter().filter(|part| part.role == "ingest");
        ingests.map(|part| Ok(part.client("urls")?.with_token(token))).collect()
    }

    /// A client for the metrics of each aggregator.
    pub fn readers(&self) -> Result<Vec<Api>> {
        let aggregators = self.running.iter().filter(|part| part.role == "aggregator");
        aggregators.map(|part| part.client("metrics")).collect()
    }

    /// The parts that run.
    pub fn running(&self) -> &[Part] {
        &self.running
    }

    /// The process of the NATS server.
    pub fn nats(&mut self) -> &mut Process {
        self.nats.process()
    }

    fn command(&self, role: &str, name: &str) -> Result<Command> {
        let data = self.folder.path().join(name);
        fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
        let mut command = Command::new(&self.binary);
        command
            .arg(role)
            .env("CAELUM_DATA", &data)
            .env("CAELUM_BEACON_ENABLED", "false")
            .env("CAELUM_SERVER_STORE", &self.store)
            .env("CAELUM_SERVER_QUEUE", self.nats.url());
        Ok(command)
    }
}

/// Events that these aggregators have counted since their start.
pub async fn counted(readers: &[Api]) -> Result<u64> {
    let mut all = 0;
    for reader in readers {
        let text = reader.answer("/metrics").await?.text().await.context("read metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix("caelum_aggregator_events_counted_total "));
        let count = line.and_then(|count| count.trim().parse::<f64>().ok());
        all += count.context("find what was counted among the metrics")? as u64;
    }
    Ok(all)
}
