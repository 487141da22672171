//! OpenSSH's own server with a host key and a port of its own: on loopback at as many addresses as a test wants
//! hosts, or on one host of a lab.
//!
//! It runs as whoever runs the test, and lets in whoever has one of the keys it was told.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::{process::Process, wait};

/// Most time a start may take, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(60);
/// Addresses that one server listens on: sshd has no more sockets.
pub const ADDRESSES_MAX: usize = 16;
/// Where Debian has it.
const PROGRAM: &str = "/usr/sbin/sshd";

/// One server with its files; both are gone when it is dropped.
#[derive(Debug)]
pub struct Sshd {
    folder: TempDir,
    process: Option<Process>,
    addresses: Vec<Ipv4Addr>,
    more: String,
    port: u16,
}

impl Sshd {
    /// Starts one that lets in `authorized` (lines as in `authorized_keys`), at these addresses: of loopback, or
    /// of the host of a lab on which the calling thread is.
    pub fn start(authorized: &str, addresses: &[Ipv4Addr]) -> Result<Self> {
        Self::start_with(authorized, addresses, "")
    }

    /// The same with further lines of configuration.
    pub fn start_with(authorized: &str, addresses: &[Ipv4Addr], more: &str) -> Result<Self> {
        ensure!(
            !addresses.is_empty() && addresses.len() <= ADDRESSES_MAX,
            "sshd listens on 1 to 16 addresses"
        );
        let is_own = |address: &Ipv4Addr| address.is_loopback() || address.is_private();
        ensure!(addresses.iter().all(is_own), "a test's sshd listens on loopback, or on a host of a lab");
        let folder = tempfile::tempdir().context("make a folder for sshd")?;
        let mut server =
            Self { folder, process: None, addresses: addresses.to_vec(), more: more.to_owned(), port: 0 };
        server.authorize(authorized)?;
        server.new_host_key()?;
        server.restart()?;
        Ok(server)
    }

    /// Lets in these keys from now on.
    pub fn authorize(&self, authorized: &str) -> Result<()> {
        fs::write(self.path().join("authorized_keys"), format!("{authorized}\n"))
            .context("write authorized_keys")
    }

    /// Gives it another host key, which holds from the next start.
    pub fn new_host_key(&self) -> Result<()> {
        let key = self.path().join("ssh_host_ed25519_key");
        for path in [key.clone(), key.with_extension("pub")] {
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(&key)
            .status()
            .context("start ssh-keygen; on Debian: apt-get install --no-install-recommends openssh-client")?;
        ensure!(made.success(), "ssh-keygen ended with {made}");
        Ok(())
    }

    /// Starts it again, on the port and the files that it had, and waits until it greets.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        if self.port == 0 {
            self.port = free_port(&self.addresses)?;
        }
        make_separation_directory();
        let folder = self.path().display().to_string();
        let listen: String =
            self.addresses.iter().map(|address| format!("ListenAddress {address}:{}\n", self.port)).collect();
        // Nothing of the developer's own shell reaches the commands: its start files are found by HOME.
        let config = format!(
            "{listen}HostKey {folder}/ssh_host_ed25519_key\nPidFile none\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPrintMotd no\nPrintLastLog no\n\
             LogLevel VERBOSE\nSetEnv HOME={folder}\n{}\n",
            self.more
        );
        let path = self.path().join("sshd_config");
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
        let mut command = Command::new(PROGRAM);
        command.args(["-D", "-e", "-f"]).arg(&path).current_dir(self.path());
        let process = Process::start(command, "sshd", self.path())
            .context("start sshd; on Debian: apt-get install --no-install-recommends openssh-server")?;
        self.process = Some(process);
        let greets = wait::within(START, || match self.process().ended() {
            Some(status) => Some(Err(format!("it ended with {status}"))),
            None => self.greeting().filter(|greeting| greeting.starts_with("SSH-2.0")).map(Ok),
        });
        match greets {
            Some(Ok(_)) => Ok(()),
            Some(Err(why)) => bail!("sshd does not start: {why}\n{}", self.process().log()),
            None => bail!("waited {START:?} in vain until sshd greets\n{}", self.process().log()),
        }
    }

    fn greeting(&self) -> Option<String> {
        let mut socket = TcpStream::connect((self.addresses[0], self.port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut greeting = [0; 7];
        socket.read_exact(&mut greeting).ok()?;
        String::from_utf8(greeting.to_vec()).ok()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Its files, the host key's public half among them.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The host key as in a `known_hosts` file, without a comment.
    pub fn host_key(&self) -> Result<String> {
        let text =
            fs::read_to_string(self.path().join("ssh_host_ed25519_key.pub")).context("read the host key")?;
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        Ok(words.join(" "))
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started and not taken away")
    }

    /// Processes of its connections, children and grandchildren alike.
    pub fn sessions(&mut self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut open = vec![self.process().pid()];
        while let Some(pid) = open.pop() {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|word| word.parse().ok()) {
                found.push(child);
                open.push(child);
            }
        }
        found
    }

    /// Kills the processes of its connections and what runs in them, as a crash would, and leaves the listener.
    pub fn kill_sessions(&mut self) -> usize {
        let sessions = self.sessions();
        for pid in &sessions {
            // SAFETY: kill has no memory to go wrong with. These are descendants of our child: as long as it
            // runs, and it is not waited for here, only they can have been given those ids by it.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        }
        sessions.len()
    }

    /// Kills everything of it. [`Sshd::restart`] brings it back.
    pub fn kill(&mut self) {
        if self.process.is_some() {
            self.kill_sessions();
        }
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Its connections are in sessions of their own and would stay.
        if self.process.is_some() {
            self.kill_sessions();
        }
    }
}

/// Whoever runs the test, by name: whom sshd lets in.
pub fn user() -> Result<String> {
    let said = Command::new("id").arg("-un").output().context("ask for the user's name")?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// A port that is free on all of the addresses just now.
fn free_port(addresses: &[Ipv4Addr]) -> Result<u16> {
    for _ in 0..50 {
        let first = TcpListener::bind((addresses[0], 0)).context("find a free port")?;
        let port = first.local_addr().context("find a free port")?.port();
        if addresses[1..].iter().all(|address| TcpListener::bind((*address, port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no port is free on {} addresses at once", addresses.len())
}

/// As root, sshd wants an empty directory that its package makes at boot.
fn make_separation_directory() {
    // It is there, or cannot be made, and then sshd says so.
    drop(fs::create_dir_all("/run/sshd"));
}
