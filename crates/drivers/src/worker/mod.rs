//! Running one task: in a process group of its own, or as a request of this process.
//!
//! # Rules
//! - A program gets a clean environment: the few variables that the worker was given, what the task says, and
//!   `CAELUM_TASK_ID`, `CAELUM_TASK_FENCE`, `CAELUM_TASK_ATTEMPT`, `CAELUM_NODE`. Its standard input is empty.
//!   Where the task names no directory, it works in one of its own, which is [empty](place), and what it leaves
//!   there is removed.
//! - Everything that it starts in its process group ends with it: when its first process ends, by itself, by
//!   time or because somebody says so. What left the group is found by a [mark](escaped) in its environment. A
//!   [guard](guard) sees to both where the worker itself is killed.
//! - It is asked to end first (SIGTERM), and killed after a grace.
//! - Output is read to the end whatever its length, kept up to a bound, and told in numbered chunks.
//!
//! # What it does not do
//! It decides neither what is run nor whether it may be; and what gets rid of the mark on purpose, or is started
//! by a service manager, is not followed.

mod escaped;
mod guard;
mod output;
mod place;
mod process;
mod remote;
#[cfg(test)]
mod tests;
mod web;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use caelum_model::{
    id::{NodeId, TargetId},
    target::Target,
    task::{OutputChunk, TaskKind, TaskState},
    work::{Ending, Held, TaskLease},
};
use rustls::RootCertStore;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::remote::{Remote, RemoteEnd, RemoteOrder};
use self::{
    escaped::Marks,
    guard::Guard,
    output::Collector,
    place::{Place, Places},
    process::Program,
    web::Visitor,
};
use crate::{
    probe::{Extras, Measure, Measurement},
    tls::TlsError,
};

/// What running tasks stands on.
pub struct Settings {
    /// This node.
    pub node_id: NodeId,
    /// The shell of `shell` tasks and of scripts that name no interpreter.
    pub shell: PathBuf,
    /// Where tasks have their directories. Emptied when the worker starts.
    pub directory: PathBuf,
    /// Variables that programs see.
    pub environment: Vec<(String, String)>,
    /// Time between asking a program to end and killing it.
    pub kill_after: Duration,
}

/// What happened to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It runs.
    Started,
    /// It wrote something.
    Output(OutputChunk),
    /// It ended, and nothing of it is left.
    Ended(Ending),
}

/// Runs tasks.
pub struct Runner {
    settings: Settings,
    visitor: Visitor,
    prober: Arc<dyn Measure>,
    guard: Guard,
    marks: Arc<Marks>,
    places: Places,
    remote: Option<Arc<dyn Remote>>,
}

impl Runner {
    /// A runner that trusts `roots` and measures by `prober`.
    pub fn new(
        settings: Settings,
        roots: RootCertStore,
        prober: Arc<dyn Measure>,
    ) -> Result<Self, RunnerError> {
        let places = Places::begin(&settings.directory)
            .map_err(|source| RunnerError::Directory { path: settings.directory.clone(), source })?;
        let marks = Marks::new();
        let guard = Guard::new(&settings.shell, marks.run());
        Ok(Self { visitor: Visitor::new(roots)?, settings, prober, guard, marks, places, remote: None })
    }

    /// Runs tasks for other machines too, over this.
    pub fn with_remote(self, remote: Option<Arc<dyn Remote>>) -> Self {
        Self { remote, ..self }
    }

    /// Runs a task to its end, and tells what happens to it. Returns when nothing of it is left.
    pub async fn run(
        &self,
        lease: TaskLease,
        stop: CancellationToken,
        happenings: mpsc::Sender<(Held, Happening)>,
    ) {
        let mut teller = Teller {
            held: lease.held.clone(),
            collector: Collector::new(lease.held.fence, Instant::now()),
            happenings,
        };
        let outcome = match lease.task_type {
            TaskKind::Shell => self.shell(&lease, &stop, &mut teller).await,
            TaskKind::Script => self.script(&lease, &stop, &mut teller).await,
            TaskKind::Http | TaskKind::Fetch | TaskKind::Probe => {
                teller.tell(Happening::Started).await;
                let limit = Duration::from_secs(lease.timeout_seconds);
                tokio::select! {
                    outcome = self.ask(&lease, &mut teller) => outcome,
                    () = stop.cancelled() => Err(Fault::stopped()),
                    () = tokio::time::sleep(limit) => Err(Fault::timed_out(limit)),
                }
            }
            TaskKind::Ssh => self.elsewhere(&lease, &stop, &mut teller).await,
        };
        teller.flush().await;
        let output_bytes = teller.collector.bytes();
        let ending = match outcome {
            Ok(exit_code) => Ending { outcome: TaskState::Succeeded, exit_code, error: None, output_bytes },
            Err(Fault { outcome, exit_code, error }) => {
                Ending { outcome, exit_code, error: Some(error), output_bytes }
            }
        };
        teller.tell(Happening::Ended(ending)).await;
    }

    async fn shell(&self, lease: &TaskLease, stop: &CancellationToken, teller: &mut Teller) -> Outcome {
        let asked: ShellData = read(&lease.task_data)?;
        let (place, works_in) = self.place(asked.cwd).await?;
        let arguments = vec![self.settings.shell.clone().into(), "-c".into(), asked.command.into()];
        let outcome = match self.program(lease, arguments, works_in, asked.env) {
            Ok(program) => process::run(program, &self.guard, stop, teller).await,
            Err(fault) => Err(fault),
        };
        self.places.give_back(place, Instant::now()).await;
        outcome
    }

    async fn script(&self, lease: &TaskLease, stop: &CancellationToken, teller: &mut Teller) -> Outcome {
        let asked: ScriptData = read(&lease.task_data)?;
        let (place, works_in) = self.place(asked.cwd).await?;
        let file = place.own.join("script");
        let interpreter = asked.interpreter.unwrap_or_default();
        let mut words: Vec<_> = interpreter.split_whitespace().map(Into::into).collect();
        if words.is_empty() || interpreter == "sh" {
            words = vec![self.settings.shell.clone().into()];
        }
        words.push(file.clone().into());
        words.extend(asked.args.into_iter().map(Into::into));
        let written = write_script(&file, &asked.script)
            .map_err(|error| Fault::failed(format!("write the script to {}: {error}", file.display())));
        let outcome = match written.and_then(|()| self.program(lease, words, works_in, asked.env)) {
            Ok(program) => process::run(program, &self.guard, stop, teller).await,
            Err(fault) => Err(fault),
        };
        self.places.give_back(place, Instant::now()).await;
        outcome
    }

    async fn elsewhere(&self, lease: &TaskLease, stop: &CancellationToken, teller: &mut Teller) -> Outcome {
        let Some(remote) = &self.remote else {
            return Err(Fault::failed(
                "this worker runs no ssh tasks: only servers do, where ssh.enabled is true",
            ));
        };
        let order = read(&lease.task_data)?;
        teller.tell(Happening::Started).await;
        let who = format!("task:{}", lease.held.task_id);
        remote::run(remote.as_ref(), &who, order, lease.timeout_seconds, stop, teller).await
    }

    async fn ask(&self, lease: &TaskLease, teller: &mut Teller) -> Outcome {
        match lease.task_type {
            TaskKind::Http => self.visitor.check(&read(&lease.task_data)?, teller).await,
            TaskKind::Fetch => self.visitor.fetch(&read(&lease.task_data)?, teller).await,
            _ => self.probe(&read(&lease.task_data)?, teller).await,
        }?;
        Ok(None)
    }

    async fn probe(&self, asked: &ProbeData, teller: &mut Teller) -> Result<(), Fault> {
        let target_id = TargetId::parse("task").expect("short text");
        let mut target = Target::usual(target_id, asked.url.clone(), 0);
        target.timeout_ms = asked.timeout_ms.unwrap_or(target.timeout_ms);
        let measured = self.prober.measure(&target, Extras::default()).await;
        let measurements = measured.map_err(|error| Fault::failed(error.to_string()))?;
        for one in &measurements {
            teller.write(false, format!("{}\n", to_json(one)).as_bytes()).await;
        }
        match measurements.iter().find_map(|one| Some((one.error_stage?, one.error_detail.clone()))) {
            Some((stage, detail)) => {
                Err(Fault::failed(format!("{}: {}", stage.as_str(), detail.unwrap_or_default())))
            }
            None => Ok(()),
        }
    }

    /// The directory of a task, and the one that it works in.
    async fn place(&self, cwd: Option<PathBuf>) -> Result<(Place, PathBuf), Fault> {
        if let Some(cwd) = &cwd
            && !cwd.is_absolute()
        {
            return Err(Fault::failed(format!("{} is not an absolute directory", cwd.display())));
        }
        let taken = self.places.take(Instant::now()).await;
        let place = taken.map_err(|(own, error)| {
            Fault::failed(format!("make the directory {}: {error}", own.display()))
        })?;
        let works_in = cwd.unwrap_or_else(|| place.own.clone());
        Ok((place, works_in))
    }

    fn program(
        &self,
        lease: &TaskLease,
        arguments: Vec<std::ffi::OsString>,
        directory: PathBuf,
        env: Variables,
    ) -> Result<Program, Fault> {
        if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(Fault::failed(format!("{name:?} is no name of a variable")));
        }
        let mark = self.marks.give();
        let mut environment = self.settings.environment.clone();
        environment.extend(env);
        environment.extend([
            ("CAELUM_TASK_ID".to_owned(), lease.held.task_id.to_string()),
            ("CAELUM_TASK_FENCE".to_owned(), lease.held.fence.to_string()),
            ("CAELUM_TASK_ATTEMPT".to_owned(), lease.attempt.to_string()),
            ("CAELUM_NODE".to_owned(), self.settings.node_id.to_string()),
            (escaped::MARK.to_owned(), mark.text()),
        ]);
        Ok(Program {
            arguments,
            mark,
            directory,
            environment,
            limit: Duration::from_secs(lease.timeout_seconds),
            kill_after: self.settings.kill_after,
        })
    }
}

/// Why there is no runner.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// There is no place for tasks to work in.
    #[error("make {path} for tasks to work in: {source}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The authorities are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connections can be made.
    #[error("prepare requests of tasks: {0}")]
    Client(String),
}

/// What a program ended with, where there was one.
type Outcome = Result<Option<i32>, Fault>;
type Variables = std::collections::BTreeMap<String, String>;

/// How a task did not end well.
#[derive(Debug)]
struct Fault {
    outcome: TaskState,
    exit_code: Option<i32>,
    error: String,
}

impl Fault {
    fn failed(error: impl Into<String>) -> Self {
        Self { outcome: TaskState::Failed, exit_code: None, error: error.into() }
    }

    fn stopped() -> Self {
        Self { outcome: TaskState::Cancelled, exit_code: None, error: "called off".to_owned() }
    }

    fn timed_out(limit: Duration) -> Self {
        let error = format!("took longer than {} s", limit.as_secs());
        Self { outcome: TaskState::TimedOut, exit_code: None, error }
    }
}

/// Tells what a task does.
struct Teller {
    held: Held,
    collector: Collector,
    happenings: mpsc::Sender<(Held, Happening)>,
}

impl Teller {
    async fn tell(&self, happening: Happening) {
        // Where nobody listens any more, the worker is ending.
        drop(self.happenings.send((self.held.clone(), happening)).await);
    }

    async fn write(&mut self, is_error: bool, bytes: &[u8]) {
        for chunk in self.collector.push(is_error, bytes, Instant::now()) {
            self.tell(Happening::Output(chunk)).await;
        }
    }

    async fn flush(&mut self) {
        for chunk in self.collector.flush(Instant::now()) {
            self.tell(Happening::Output(chunk)).await;
        }
    }
}

#[derive(Deserialize)]
struct ShellData {
    command: String,
    cwd: Option<PathBuf>,
    #[serde(default)]
    env: Variables,
}

#[derive(Deserialize)]
struct ScriptData {
    script: String,
    interpreter: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    cwd: Option<PathBuf>,
    #[serde(default)]
    env: Variables,
}

#[derive(Deserialize)]
struct ProbeData {
    url: String,
    timeout_ms: Option<u32>,
}

fn read<T: DeserializeOwned>(data: &Value) -> Result<T, Fault> {
    T::deserialize(data).map_err(|error| Fault::failed(format!("task_data: {error}")))
}

fn write_script(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o700);
    io::Write::write_all(&mut options.open(path)?, text.as_bytes())
}

fn to_json(one: &Measurement) -> Value {
    json!({
        "target": one.target,
        "family": one.family,
        "timings": one.timings,
        "throughput_kbps": one.throughput_kbps,
        "error_stage": one.error_stage,
        "error_detail": one.error_detail,
        "resolver": one.resolver,
        "remote_ip": one.remote_ip,
        "rtt": one.rtt,
        "details": one.details,
    })
}
