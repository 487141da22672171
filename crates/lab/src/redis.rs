//! A Redis server of a test's own: made, killed, frozen and brought back, on a free port of 127.0.0.1.

use std::{fs, net::TcpListener, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{process::Process, wait};

/// Most time a start may take, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(60);

/// One server with its files; both are gone when it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    process: Option<Process>,
    port: u16,
    /// Lines of configuration beside the usual.
    lines: Vec<String>,
    login: Option<(String, String)>,
    is_encrypted: bool,
}

impl RedisServer {
    /// Starts one that asks nobody who he is, and keeps nothing on the disk.
    pub fn start() -> Result<Self> {
        Self::start_with(&[], None)
    }

    /// Starts one that lets in this user alone, with the rights given as Redis' own words.
    pub fn start_for(user: &str, password: &str, rights: &str) -> Result<Self> {
        let own = format!("user {user} on >{password} {rights}");
        let login = Some((user.to_owned(), password.to_owned()));
        Self::start_with(&["user default off", &own], login)
    }

    /// Starts one that speaks TLS alone, with this certificate and key as PEM.
    pub fn start_with_tls(certificate_pem: &str, key_pem: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for redis-server")?;
        let (certificate, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
        fs::write(&certificate, certificate_pem).context("write the certificate for redis-server")?;
        fs::write(&key, key_pem).context("write the key for redis-server")?;
        let lines = vec![
            format!("tls-cert-file {}", certificate.display()),
            format!("tls-key-file {}", key.display()),
            "tls-auth-clients no".to_owned(),
        ];
        let mut server = Self { folder, process: None, port: 0, lines, login: None, is_encrypted: true };
        server.restart()?;
        Ok(server)
    }

    fn start_with(lines: &[&str], login: Option<(String, String)>) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for redis-server")?;
        let lines = lines.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { folder, process: None, port: 0, lines, login, is_encrypted: false };
        server.restart()?;
        Ok(server)
    }

    /// Starts it, on the port that it had if it had one, and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        if self.port == 0 {
            // Free now; Redis itself takes no number from the system.
            let free = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
            self.port = free.local_addr().context("find a free port")?.port();
        }
        let folder = self.folder.path();
        let config = format!(
            "bind 127.0.0.1\n{}port {}\nsave \"\"\nappendonly no\ndir {}\n{}\n",
            if self.is_encrypted { "port 0\ntls-" } else { "" },
            self.port,
            folder.display(),
            self.lines.join("\n")
        );
        let path = folder.join("redis.conf");
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
        let mut command = Command::new("redis-server");
        command.arg(&path).current_dir(folder);
        let process = Process::start(command, "redis", self.folder.path())
            .context("start redis-server; on Debian: apt-get install --no-install-recommends redis-server")?;
        self.process = Some(process);
        let seen = wait::within(START, || {
            if let Some(status) = self.process().ended() {
                return Some(Err(format!("it ended with {status}")));
            }
            self.process().output().contains("Ready to accept connections").then_some(Ok(()))
        });
        match seen {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => bail!("redis-server does not start: {why}\n{}", self.process().output()),
            None => bail!("redis-server is not ready after {START:?}\n{}", self.process().output()),
        }
    }

    /// Its address for clients, with the password.
    pub fn url(&self) -> String {
        match &self.login {
            None if self.is_encrypted => format!("rediss://127.0.0.1:{}/0", self.port),
            Some((user, password)) => format!("redis://{user}:{password}@127.0.0.1:{}/0", self.port),
            None => format!("redis://127.0.0.1:{}/0", self.port),
        }
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started and not taken away")
    }

    /// Kills it as a crash would. [`RedisServer::restart`] brings it back, empty.
    pub fn kill(&mut self) {
        self.process().kill();
        // What it wrote before would be taken for the next start's.
        drop(fs::remove_file(self.folder.path().join("redis.out")));
    }

    /// Says something to it with its own client, and answers what comes back.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "--no-auth-warning"]);
        if let Some((user, password)) = &self.login {
            command.args(["--user", user, "--pass", password]);
        }
        let output = command.args(words).output().context("start redis-cli")?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!("redis-cli {}: {text}{}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }
}
