//! The real program, started on a free port with a data directory of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{api::Api, process::Process, wait};

/// The password that the first start is given.
pub const PASSWORD: &str = "correct-horse-battery";

/// Most time a start may take, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(60);

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Plan {
    binary: PathBuf,
    command: &'static str,
    listen: &'static str,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    data: Option<PathBuf>,
}

impl Plan {
    /// `caelum up` on a free port of 127.0.0.1, without a probe. Cargo tells tests where the binary is:
    /// `env!("CARGO_BIN_EXE_caelum")`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            command: "up",
            listen: "127.0.0.1",
            arguments: vec!["--no-probe".to_owned()],
            // Tests that run side by side are no neighbours; those about neighbours have a lab.
            variables: [("CAELUM_SERVER_ADMIN_PASSWORD", PASSWORD), ("CAELUM_BEACON_ENABLED", "false")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            data: None,
        }
    }

    /// `caelum server` instead of `caelum up`.
    pub fn as_one_of_several(mut self) -> Self {
        self.command = "server";
        self
    }

    /// Serves on every address of the host, for one in a lab.
    pub fn on_every_address(mut self) -> Self {
        self.listen = "0.0.0.0";
        self
    }

    /// Lets the probe run.
    pub fn with_probe(mut self) -> Self {
        self.arguments.retain(|argument| argument != "--no-probe");
        self
    }

    /// Lets the first start generate its password.
    pub fn with_generated_password(mut self) -> Self {
        self.variables.retain(|(name, _)| name != "CAELUM_SERVER_ADMIN_PASSWORD");
        self
    }

    /// Gives work to machines however busy they are: a machine under tests or a bench always is.
    pub fn giving_work_to_the_busy(self) -> Self {
        let percents =
            ["CPU", "MEMORY", "DISK"].map(|what| (format!("CAELUM_HEALTH_{what}_CRITICAL"), "100"));
        let load = ("CAELUM_HEALTH_LOAD_CRITICAL".to_owned(), "10000");
        percents.into_iter().chain([load]).fold(self, |plan, (name, value)| plan.with_variable(&name, value))
    }

    /// Sets a variable of the environment, for the server and for every command beside it.
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps its data here instead of in a folder of its own.
    pub fn with_data(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// Adds arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Starts and waits until it serves.
    pub fn start(self) -> Result<Server> {
        let folder = tempfile::tempdir().context("make a folder for the server")?;
        let mut server = Server { plan: self, folder, process: None, port: 0 };
        server.start()?;
        Ok(server)
    }
}

/// A server with its data directory; both are gone when it is dropped.
#[derive(Debug)]
pub struct Server {
    plan: Plan,
    folder: TempDir,
    process: Option<Process>,
    port: u16,
}

impl Server {
    /// Starts it, on the port it had before if it had one, and waits until it serves.
    pub fn start(&mut self) -> Result<()> {
        let ready_file = self.data().join("run/ready.json");
        match fs::remove_file(&ready_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("remove an old ready file: {error}")
            }
            _ => {}
        }
        let listen = format!("{}:{}", self.plan.listen, self.port);
        let mut command = self.command();
        command
            .arg(self.plan.command)
            .arg("--data")
            .arg(self.data())
            .args(["--listen", &listen])
            .args(&self.plan.arguments);
        let mut process = Process::start(command, "caelum", self.folder.path())?;
        let pid = process.pid();
        let ready = wait::within(START, || {
            if let Some(status) = process.ended() {
                return Some(Err(format!("it ended with {status}")));
            }
            let ready: Value = serde_json::from_str(&fs::read_to_string(&ready_file).ok()?).ok()?;
            (ready["pid"] == pid).then_some(Ok(ready))
        });
        let ready = match ready {
            Some(Ok(ready)) => ready,
            Some(Err(why)) => bail!("caelum does not start: {why}\n{}{}", process.output(), process.log()),
            None => bail!("caelum is not ready after {START:?}\n{}{}", process.output(), process.log()),
        };
        let url = ready["urls"][0].as_str().context("find an address in ready.json")?;
        let port = url.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
        self.port = port.with_context(|| format!("find the port in {url}"))?;
        self.process = Some(process);
        Ok(())
    }

    /// The port it serves on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address with TLS.
    pub fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its address without.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.plan.data.clone().unwrap_or_else(|| self.folder.path().join("data"))
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started and not taken away")
    }

    /// Kills it as a crash would. [`Server::start`] brings it back.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// Ends it as a service manager would, and answers how it ended.
    #[track_caller]
    pub fn stop(&mut self, at_most: Duration) -> std::process::ExitStatus {
        self.process().terminate();
        self.process().wait_for_end(at_most)
    }

    /// Runs another command of the same program and waits for it.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command().args(arguments).output().with_context(|| format!("run caelum {}", arguments.join(" ")))
    }

    /// Starts another command of the same program and does not wait for it.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.command();
        command.args(arguments);
        Process::start(command, name, self.folder.path())
    }

    /// A folder for whatever else the test needs, gone with the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new token with these scopes; ingest tokens may speak for any probe.
    pub fn token(&self, scope: &str) -> Result<String> {
        let data = self.data();
        let mut arguments = vec!["token", "new", "--scope", scope, "--data", path_text(&data)?];
        if scope.split(',').any(|scope| scope == "ingest") {
            arguments.extend(["--client-id", "*"]);
        }
        let output = self.run(&arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.lines().last() {
            Some(token) if output.status.success() => Ok(token.to_owned()),
            _ => bail!("no token was made: {text}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// A client of its API that trusts its authority.
    pub fn api(&self) -> Result<Api> {
        let authority = self.data().join("secrets/ca.pem");
        let pem = fs::read(&authority).with_context(|| format!("read {}", authority.display()))?;
        Api::new(&self.https(), &pem)
    }

    /// The program with an environment of its own: nothing of the developer's settings reaches it.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.plan.binary);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .envs(self.plan.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path());
        command
    }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("temporary folders have plain names")
}
