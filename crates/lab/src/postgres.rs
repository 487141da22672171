//! A PostgreSQL server of a test's own: made, stopped, killed, followed and promoted.
//!
//! It listens on a free port of 127.0.0.1, keeps its files in a temporary folder, and trusts whoever comes.
//! PostgreSQL refuses to run as root; a test that is root runs it as the user `postgres`, or else `nobody`.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tempfile::TempDir;

use crate::{process::Process, wait};

/// Most time a start may take, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(60);

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    settings: Vec<String>,
    is_durable: bool,
    identity: Option<(String, String)>,
}

impl Plan {
    /// One that forgets to sync: for tests that are not about durability.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that loses nothing that it confirmed.
    pub fn durable(mut self) -> Self {
        self.is_durable = true;
        self
    }

    /// Adds a setting, such as `wal_level=replica`.
    pub fn with(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Shows a certificate to whoever asks for encryption.
    pub fn with_tls(mut self, certificate_pem: &str, key_pem: &str) -> Self {
        self.identity = Some((certificate_pem.to_owned(), key_pem.to_owned()));
        self
    }

    /// Makes a server and starts it.
    pub fn start(self) -> Result<PostgresServer> {
        let mut server = PostgresServer::made(self)?;
        let data = server.data();
        let made = server
            .tool("initdb")?
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "--no-sync"])
            .arg(&data)
            .output()
            .context("start initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        if let Some((certificate, key)) = server.plan.identity.clone() {
            server.keep("server.crt", &certificate)?;
            server.keep("server.key", &key)?;
            server.plan.settings.push("ssl=on".to_owned());
        }
        server.start()?;
        Ok(server)
    }
}

/// A server with its files; both are gone when it is dropped.
#[derive(Debug)]
pub struct PostgresServer {
    plan: Plan,
    folder: TempDir,
    port: u16,
    user: Option<(u32, u32)>,
    process: Option<Process>,
}

impl PostgresServer {
    /// Makes a server and starts it.
    pub fn start_new() -> Result<Self> {
        Plan::new().start()
    }

    /// One server for all tests of a program. It ends when the program does, however that ends.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<(PostgresServer, Child)> = OnceLock::new();
        let (server, _watcher) = SHARED.get_or_init(|| {
            let server = Self::start_new().expect("a PostgreSQL server can be started");
            let watcher = server.watched().expect("a shell can be started");
            (server, watcher)
        });
        server
    }

    fn made(plan: Plan) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for PostgreSQL")?;
        let user = unprivileged()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).context("hand the folder to PostgreSQL's user")?;
        }
        // Tests read the log; the data below is its owner's alone.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).context("open the folder")?;
        let port = free_port()?;
        Ok(Self { plan, folder, port, user, process: None })
    }

    /// Writes a file beside the data that only the server reads.
    fn keep(&self, name: &str, text: &str) -> Result<()> {
        let path = self.data().join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("close the file to others")?;
        let (uid, gid) = self.user.unzip();
        chown(&path, uid, gid).context("hand the file to PostgreSQL's user")
    }

    /// A program of PostgreSQL's, run as whom it accepts.
    fn tool(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(programs()?.join(name));
        command.current_dir(self.folder.path()).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid).env("HOME", self.folder.path());
        }
        Ok(command)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it again, with the data it has, on the port it had. What a killed one left behind may refuse the
    /// first tries.
    pub fn start(&mut self) -> Result<()> {
        let mut last = None;
        wait::within(START, || match self.try_start() {
            Ok(()) => Some(()),
            Err(error) => {
                last = Some(error);
                None
            }
        })
        .ok_or_else(|| last.unwrap_or_else(|| anyhow!("PostgreSQL was not tried")))
    }

    fn try_start(&mut self) -> Result<()> {
        let mut command = self.tool("postgres")?;
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        let socket = format!("unix_socket_directories={}", self.folder.path().display());
        for setting in [&socket, "max_connections=200", "shared_buffers=32MB", "max_prepared_transactions=0"]
        {
            command.args(["-c", setting]);
        }
        if !self.plan.is_durable {
            command.args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off"]);
        }
        for setting in &self.plan.settings {
            command.args(["-c", setting]);
        }
        let mut process = Process::start(command, "postgres", self.folder.path())?;
        let port = self.port;
        let ready = wait::within(START, || {
            if process.ended().is_some() {
                return Some(false);
            }
            self.psql("postgres", "select 1").is_ok().then_some(true)
        });
        if ready != Some(true) {
            bail!("PostgreSQL did not start on port {port}:\n{}", process.log());
        }
        self.process = Some(process);
        Ok(())
    }

    /// Ends the server in the middle of whatever it does, as a lost host does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = process.pid();
            // Its children have groups of their own; those that are started meanwhile see that it is gone.
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            process.kill();
            for child in children.split_whitespace().filter_map(|word| word.parse::<i32>().ok()) {
                // SAFETY: kill has no memory to go wrong with; the child was its parent's a moment ago.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
        }
    }

    /// Ends the server in order, and waits until it is gone.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // SIGINT is PostgreSQL's fast shutdown: clients are cut off.
            // SAFETY: kill has no memory to go wrong with, and the process is ours and was not waited for.
            unsafe { libc::kill(i32::try_from(process.pid()).expect("process ids are small"), libc::SIGINT) };
            process.wait_for_end(START);
        }
    }

    /// Host and port.
    pub fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.place())
    }

    /// Makes an empty database with a name of its own and answers with its name.
    pub fn new_database(&self) -> Result<String> {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        self.psql("postgres", &format!("create database {name}"))?;
        Ok(name)
    }

    /// Runs statements and answers what they print, without headings.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let answer = self
            .tool("psql")?
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-d", database])
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .context("start psql")?;
        if !answer.status.success() {
            bail!("psql failed at {sql}: {}", String::from_utf8_lossy(&answer.stderr));
        }
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }

    /// A server that follows this one, under a name that `synchronous_standby_names` may hold.
    pub fn replica(&self, name: &str, plan: Plan) -> Result<Self> {
        let mut replica = Self::made(plan)?;
        let data = replica.data();
        let copied = replica
            .tool("pg_basebackup")?
            .arg("-D")
            .arg(&data)
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d"])
            .arg(format!(
                "host=127.0.0.1 port={} user=postgres application_name={name} connect_timeout=3",
                self.port
            ))
            .output()
            .context("start pg_basebackup")?;
        if !copied.status.success() {
            bail!("pg_basebackup failed: {}", String::from_utf8_lossy(&copied.stderr));
        }
        replica.start()?;
        Ok(replica)
    }

    /// Makes a follower the one that takes writes.
    pub fn promote(&self) -> Result<()> {
        self.psql("postgres", "select pg_promote(true, 60)").map(drop)
    }

    /// A shell that outlives this program by a moment and takes the server and its files with it.
    fn watched(&self) -> Result<Child> {
        let process = self.process.as_ref().context("the server runs")?;
        Command::new("sh")
            .args([
                "-c",
                "read _; kill -QUIT \"$1\"; while kill -0 \"$1\"; do sleep 0.1; done; rm -rf -- \"$2\"",
                "sh",
            ])
            .arg(process.pid().to_string())
            .arg(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not of our group: whoever interrupts the tests must not interrupt the tidying.
            .process_group(0)
            .spawn()
            .context("start sh")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody had a moment ago.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("look for a free port")?;
    Ok(listener.local_addr().context("look at the free port")?.port())
}

/// Where the server's programs are: the newest that Debian has installed, or whatever the path leads to.
fn programs() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("postgres").is_file())
        .collect();
    found.sort();
    if let Some((_, newest)) = found.pop() {
        return Ok(newest);
    }
    let mut usual = ["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].into_iter().map(PathBuf::from);
    usual
        .find(|folder| folder.join("initdb").is_file())
        .context("there is no PostgreSQL server on this machine: apt-get install postgresql")
}

/// Whom to run the server as; none where we may run it ourselves.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    // SAFETY: geteuid has no arguments, no preconditions and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string(Path::new("/etc/passwd")).context("read the users of this machine")?;
    let ids = |wanted: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.map(Some).context("there is neither a user postgres nor nobody to run PostgreSQL as")
}
