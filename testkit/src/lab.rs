//! Hosts on networks of their own: network namespaces on bridges, inside a namespace that nobody else sees.
//!
//! Nothing outside can reach them, nor they anything outside. A host can be cut off silently (its cable stays
//! plugged in, nothing arrives), networks can be split and joined, and multicast can be taken away. Needs
//! root and `ip` of iproute2.

use std::{
    fmt::Write as _,
    fs::File,
    io::Write as _,
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::process::Process;

static LABS: AtomicU32 = AtomicU32::new(0);

/// Networks and hosts; gone when dropped.
#[derive(Debug)]
pub struct Lab {
    name: String,
    hosts: Vec<Host>,
    bridges: Vec<String>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    port: String,
    bridge: String,
    /// Its address.
    pub ip: String,
}

impl Lab {
    /// A lab without hosts.
    pub fn new() -> Result<Self> {
        // SAFETY: geteuid has no arguments, no preconditions and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            bail!("hosts in network namespaces need root: run the tests as root, or in `unshare -Urnm`");
        }
        let name = format!("cl{}x{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name: name.clone(), hosts: Vec::new(), bridges: Vec::new() };
        batch(None, &format!("netns add {name}"))?;
        batch(Some(&name), "link set lo up")?;
        Ok(lab)
    }

    /// Adds a network; several hosts on one network hear each other's broadcasts.
    pub fn network(&mut self) -> Result<Network> {
        let number = self.bridges.len();
        let bridge = format!("br{number}");
        batch(
            Some(&self.name),
            &format!("link add {bridge} type bridge mcast_snooping 0\nlink set {bridge} up"),
        )?;
        self.bridges.push(bridge.clone());
        Ok(Network { bridge, number })
    }

    /// Adds a host to a network.
    pub fn host(&mut self, network: &Network) -> Result<Host> {
        let number = self.hosts.len();
        let namespace = format!("{}h{number}", self.name);
        let (port, ip) = (format!("p{number}"), format!("10.77.{}.{}", network.number, number + 1));
        batch(None, &format!("netns add {namespace}"))?;
        let host = Host { namespace, port, bridge: network.bridge.clone(), ip };
        self.hosts.push(host.clone());
        let mut lines = String::new();
        let Host { namespace, port, bridge, ip } = &host;
        writeln!(lines, "link add {port} type veth peer name eth0 netns {namespace}")?;
        writeln!(lines, "link set {port} master {bridge} up")?;
        batch(Some(&self.name), &lines)?;
        let gateway = format!("10.77.{}.254", network.number);
        let lines = format!(
            "link set lo up\naddress add {ip}/24 brd + dev eth0\nlink set eth0 up\nroute add default via {gateway}"
        );
        batch(Some(namespace), &lines)?;
        Ok(host)
    }

    /// Joins the networks by a router, which forwards neither broadcast nor multicast.
    pub fn route(&self) -> Result<()> {
        let mut lines = String::new();
        for (number, bridge) in self.bridges.iter().enumerate() {
            writeln!(lines, "address add 10.77.{number}.254/24 dev {bridge}")?;
        }
        batch(Some(&self.name), &lines)?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        let status = Command::new("ip").args(["netns", "exec", &self.name, "sh", "-c", forward]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => bail!("switch forwarding on: {other:?}"),
        }
    }

    /// Nothing reaches the host any more, nor leaves it, and it cannot tell: its cable is plugged in.
    pub fn cut(&self, host: &Host) -> Result<()> {
        batch(Some(&self.name), &format!("link set {} nomaster", host.port))
    }

    /// Plugs a host in again.
    pub fn join(&self, host: &Host) -> Result<()> {
        batch(Some(&self.name), &format!("link set {} master {}", host.port, host.bridge))
    }

    /// Splits a network: these hosts hear each other and nobody else. [`Lab::join`] brings them back.
    pub fn split(&mut self, hosts: &[Host]) -> Result<()> {
        let aside = self.network()?;
        for host in hosts {
            batch(Some(&self.name), &format!("link set {} master {}", host.port, aside.bridge))?;
        }
        Ok(())
    }
}

/// A network.
#[derive(Clone, Debug)]
pub struct Network {
    bridge: String,
    number: usize,
}

impl Host {
    /// Name of its namespace.
    pub fn name(&self) -> &str {
        &self.namespace
    }

    /// Runs lines of `ip` on it.
    pub fn configure(&self, lines: &str) -> Result<()> {
        batch(Some(&self.namespace), lines)
    }

    /// Takes multicast away from the host's interface.
    pub fn without_multicast(&self) -> Result<()> {
        batch(Some(&self.namespace), "link set eth0 multicast off")
    }

    /// A program on this host, with an environment of its own.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Gives the host more addresses, `10.77.200.1` and following, from which it can send; who hears them
    /// cannot answer.
    pub fn with_addresses(&self, count: u8) -> Result<Vec<IpAddr>> {
        let addresses: Vec<IpAddr> = (1..=count).map(|last| IpAddr::from([10, 77, 200, last])).collect();
        let lines: Vec<String> =
            addresses.iter().map(|address| format!("address add {address}/32 dev eth0")).collect();
        batch(Some(&self.namespace), &lines.join("\n"))?;
        Ok(addresses)
    }

    /// Does something as if on this host: sockets that are opened then are the host's.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = format!("/run/netns/{}", self.namespace);
        let entered = move || {
            let file = File::open(&namespace).with_context(|| format!("open {namespace}"))?;
            // SAFETY: the file stays open over the call, which moves only this thread.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error()).with_context(|| format!("enter {namespace}"));
            }
            work()
        };
        thread::scope(|scope| {
            scope.spawn(entered).join().unwrap_or_else(|_| bail!("what was done on {} panicked", self.ip))
        })
    }

    /// Starts a program on this host; what it writes goes to files of this name in the folder.
    pub fn start(&self, program: &Path, arguments: &[&str], name: &str, folder: &Path) -> Result<Process> {
        let mut command = self.command(program);
        command.args(arguments).env("HOME", folder).current_dir(folder);
        Process::start(command, name, folder)
    }

    /// Runs a program on this host to its end.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Result<std::process::Output> {
        let mut command = self.command(program);
        command.args(arguments).output().with_context(|| format!("run {} on {}", program.display(), self.ip))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut lines = String::new();
        for host in &self.hosts {
            lines.push_str(&format!("netns delete {}\n", host.namespace));
        }
        lines.push_str(&format!("netns delete {}\n", self.name));
        // A namespace that stays is seen in `ip netns`; the test's own outcome matters more.
        drop(batch(None, &lines));
    }
}

/// Lines for `ip`, all in one process.
fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start `ip`; Debian package iproute2 brings it")?;
    child.stdin.take().context("write to `ip`")?.write_all(format!("{lines}\n").as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip -batch:\n{lines}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
