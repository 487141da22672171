//! `cargo xtask bench ssh`: one command on many hosts, cold and warm, and what the connections cost.
//!
//! `--hosts N` (200), each a network namespace with an `sshd` of OpenSSH and a host key of its own, with strict host
//! keys; `--loopback` takes addresses of this machine instead, sixteen to an `sshd`, and needs no root. Cold is the first broadcast, which makes every connection; warm is the median of `--rounds N` (7)
//! more over the same connections. Processor time is Caelum's own, without that of `sshd`; memory is what it has more
//! than before the first. Beside it run `pdsh`, `clush` and `parallel-ssh` where they are installed: cold, and warm over
//! OpenSSH's multiplexing, with the processor time of themselves and every `ssh` that they start.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use caelum_testkit::{
    api::Api,
    lab::{Host, Lab},
    measure::{cpu_time, mib, option, resident_bytes, sibling_binary},
    server::Plan,
    sshd::{self, ADDRESSES_MAX, Sshd},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

/// Hosts that are added in one go.
const BATCH: usize = 500;
/// Addresses of a lab's network, less the server's and the router's.
const HOSTS_MAX: u64 = 253;
/// What OpenSSH's server has to bear here.
const SSHD: &str = "MaxStartups 200\nMaxSessions 10\nLogLevel ERROR\n";
/// Longest that a peer may take.
const PEER_MAX: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let (hosts, rounds) = (option("--hosts", 200)?, option("--rounds", 7)?.max(1));
    let run = |site: Option<&Site>| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.context("start the async runtime")?.block_on(measure(site, hosts, rounds))
    };
    if std::env::args().any(|argument| argument == "--loopback") {
        return run(None);
    }
    let site = Site::of(hosts)?;
    // What is opened and started there, by the runtime's threads too, is on the server's host.
    site.server.inside(|| run(Some(&site)))
}

/// Hosts on a network of their own.
struct Site {
    server: Host,
    hosts: Vec<Host>,
    _lab: Lab,
}

impl Site {
    fn of(hosts: u64) -> Result<Self> {
        ensure!(
            hosts < HOSTS_MAX,
            "a network has room for fewer than {HOSTS_MAX} hosts; `--loopback` for more"
        );
        let mut lab = Lab::new()?;
        let network = lab.network()?;
        let server = lab.host(&network)?;
        let hosts = (0..hosts).map(|_| lab.host(&network)).collect::<Result<_>>()?;
        Ok(Self { server, hosts, _lab: lab })
    }

    fn sshds(&self, authorized: &str) -> Result<Vec<Sshd>> {
        let start = |host: &Host| {
            let address = host.ip.parse().context("read a host's address")?;
            host.inside(|| Sshd::start_with(authorized, &[address], SSHD))
        };
        self.hosts.iter().map(start).collect()
    }
}

/// `sshd` at addresses of this machine.
fn on_loopback(authorized: &str, hosts: u64) -> Result<Vec<Sshd>> {
    let start = |first: u64| {
        let count = (hosts - first).min(ADDRESSES_MAX as u64);
        let addresses: Vec<Ipv4Addr> = (first..first + count).map(address).collect::<Result<_>>()?;
        Sshd::start_with(authorized, &addresses, SSHD)
    };
    (0..hosts).step_by(ADDRESSES_MAX).map(start).collect()
}

/// What one broadcast took.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

impl Took {
    fn shown(&self) -> String {
        format!("{:>8.2} s {:>8.2} CPU-s", self.wall.as_secs_f64(), self.cpu.as_secs_f64())
    }
}

fn median(mut all: Vec<Took>) -> Took {
    all.sort_by_key(|took| took.wall);
    all[all.len() / 2]
}

async fn measure(site: Option<&Site>, hosts: u64, rounds: u64) -> Result<()> {
    let user = sshd::user()?;
    let mut server = Plan::new(sibling_binary()?).with(&["--ssh-user", &user]).start()?;
    let api = Api::plain(&server.http())?.with_token(&server.token("operate")?);
    let key = api.json("/api/ssh/key").await?["public_key"].as_str().context("find the key")?.to_owned();
    let own = Peers::new(server.folder())?;
    let authorized = format!("{key}\n{}", own.public_key()?);
    let servers = match site {
        Some(site) => site.sshds(&authorized)?,
        None => on_loopback(&authorized, hosts)?,
    };
    let mut names: Vec<(String, Ipv4Addr, u16, String)> = Vec::new();
    for sshd in &servers {
        for address in sshd.addresses() {
            names.push((format!("h-{}", names.len()), *address, sshd.port(), sshd.host_key()?));
        }
    }
    for batch in names.chunks(BATCH) {
        let entries: Vec<Value> = batch
            .iter()
            .map(|(_, address, port, key)| json!({ "host": address.to_string(), "port": port, "key": key }))
            .collect();
        post(&api, "/api/ssh/known-hosts", json!({ "entries": entries })).await?;
    }
    for (name, address, port, _) in &names {
        let host = json!({ "name": name, "address": address.to_string(), "port": port, "tags": ["bench"] });
        post(&api, "/api/ssh/hosts", host).await?;
    }
    own.write(&names, &user)?;

    let pid = server.process().pid();
    let (before, _) = resident_bytes(pid)?;
    println!("{hosts} hosts, `true` on each; floor: warm 1 s, cold 5 s, 60 MiB");
    let cold = broadcast(&api, pid, hosts).await?;
    println!("{:<24} {}", "caelum, cold", cold.shown());
    let (after, _) = resident_bytes(pid)?;
    let mut all = Vec::new();
    for _ in 0..rounds {
        all.push(broadcast(&api, pid, hosts).await?);
    }
    let warm = median(all);
    println!("{:<24} {}", "caelum, warm", warm.shown());
    let stats = api.json("/api/ssh/pool/stats").await?;
    println!(
        "{:<24} {:>8} for {} connections ({} before, {} after)",
        "caelum, resident",
        mib(after.saturating_sub(before)),
        stats["active_connections"],
        mib(before),
        mib(after)
    );
    for peer in PEERS {
        if !is_installed(peer.program) {
            println!("{:<24} is not installed here (Debian package {})", peer.program, peer.package);
            continue;
        }
        let cold_peer = own.run(peer, false, names.len())?;
        println!(
            "{:<24} {}  {}",
            format!("{}, cold", peer.program),
            cold_peer.shown(),
            ratio(cold_peer, cold)
        );
        // The first makes the masters that the others go over.
        own.run(peer, true, names.len())?;
        let warm_peer = own.run(peer, true, names.len())?;
        println!(
            "{:<24} {}  {}",
            format!("{}, warm", peer.program),
            warm_peer.shown(),
            ratio(warm_peer, warm)
        );
        own.end_masters(&names);
    }
    drop(servers);
    Ok(())
}

fn ratio(other: Took, own: Took) -> String {
    format!(
        "{:.1} times as long, {:.1} times the CPU",
        other.wall.as_secs_f64() / own.wall.as_secs_f64().max(0.001),
        other.cpu.as_secs_f64() / own.cpu.as_secs_f64().max(0.001)
    )
}

fn address(number: u64) -> Result<Ipv4Addr> {
    let [.., high, low] = number.to_be_bytes();
    ensure!(number < 60_000, "there are no more addresses");
    Ok(Ipv4Addr::new(127, 1 + high, low, 1))
}

async fn post(api: &Api, path: &str, body: Value) -> Result<Value> {
    let answer = api.request(Method::POST, path).json(&body).send().await.context("ask")?;
    let status = answer.status();
    let text = answer.text().await.context("read the answer")?;
    ensure!(status.is_success(), "{path} was answered with {status}: {text}");
    serde_json::from_str(&text).context("read the answer")
}

async fn broadcast(api: &Api, pid: u32, hosts: u64) -> Result<Took> {
    let cpu = cpu_time(pid)?;
    let begin = Instant::now();
    let wish = json!({ "command": "true", "on": ["tag=bench"], "timeout": 60 });
    let answer = post(api, "/api/ssh/broadcast", wish).await?;
    let wall = begin.elapsed();
    if answer["successful"].as_u64() != Some(hosts) {
        bail!("not all hosts answered well: {}", answer["groups"]);
    }
    Ok(Took { wall, cpu: cpu_time(pid)? - cpu })
}

/// A program that does the same.
#[derive(Clone, Copy)]
struct Peer {
    program: &'static str,
    package: &'static str,
    arguments: fn(&Files, &str, usize) -> Vec<String>,
}

const PEERS: [Peer; 3] = [
    Peer {
        program: "pdsh",
        package: "pdsh",
        arguments: |_, names, count| {
            ["-R", "ssh", "-f", &count.to_string(), "-w", names, "true"].map(str::to_owned).into()
        },
    },
    Peer {
        program: "clush",
        package: "clustershell",
        arguments: |files, names, count| {
            let options = format!("-F {}", files.config.display());
            ["-f", &count.to_string(), "-o", &options, "-w", names, "true"].map(str::to_owned).into()
        },
    },
    Peer {
        program: "parallel-ssh",
        package: "pssh",
        arguments: |files, _, count| {
            let options = format!("-F {}", files.config.display());
            let hosts = files.hosts.display().to_string();
            ["-p", &count.to_string(), "-t", "60", "-h", &hosts, "-x", &options, "true"]
                .map(str::to_owned)
                .into()
        },
    },
];

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Files of the peers: a key, and configurations of `ssh` with and without multiplexing.
struct Files {
    folder: PathBuf,
    config: PathBuf,
    hosts: PathBuf,
}

struct Peers {
    files: Files,
    names: std::cell::RefCell<String>,
}

impl Peers {
    fn new(folder: &Path) -> Result<Self> {
        let folder = folder.join("peers");
        fs::create_dir_all(folder.join("sockets")).context("make a folder for the peers")?;
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(folder.join("key"))
            .status()
            .context("start ssh-keygen")?;
        ensure!(made.success(), "ssh-keygen ended with {made}");
        let files = Files { config: folder.join("config"), hosts: folder.join("hosts"), folder };
        Ok(Self { files, names: Default::default() })
    }

    fn public_key(&self) -> Result<String> {
        fs::read_to_string(self.files.folder.join("key.pub")).context("read the peers' key")
    }

    fn write(&self, names: &[(String, Ipv4Addr, u16, String)], user: &str) -> Result<()> {
        let folder = self.files.folder.display().to_string();
        let (mut hosts, mut known, mut list) = (String::new(), String::new(), String::new());
        for (name, address, port, key) in names {
            writeln!(hosts, "Host {name}\n  HostName {address}\n  Port {port}")?;
            writeln!(known, "[{address}]:{port} {key}")?;
            writeln!(list, "{name}")?;
        }
        let common = format!(
            "Host *\n  User {user}\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n  \
             UserKnownHostsFile {folder}/known_hosts\n  BatchMode yes\n  LogLevel ERROR\n"
        );
        let warm = format!(
            "{common}  ControlMaster auto\n  ControlPath {folder}/sockets/%C\n  ControlPersist 120\n"
        );
        let write = |name: &str, text: &str| {
            fs::write(self.files.folder.join(name), text).with_context(|| format!("write {name}"))
        };
        write("known_hosts", &known)?;
        write("hosts", &list)?;
        write("cold", &format!("{hosts}{common}"))?;
        write("warm", &format!("{hosts}{warm}"))?;
        *self.names.borrow_mut() = names.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>().join(",");
        Ok(())
    }

    fn run(&self, peer: Peer, is_warm: bool, count: usize) -> Result<Took> {
        let kind = if is_warm { "warm" } else { "cold" };
        fs::copy(self.files.folder.join(kind), &self.files.config).context("choose the configuration")?;
        let arguments = (peer.arguments)(&self.files, &self.names.borrow(), count);
        let cpu = children_cpu();
        let begin = Instant::now();
        let mut child = Command::new(peer.program)
            .args(arguments)
            .env("PDSH_SSH_ARGS_APPEND", format!("-F {}", self.files.config.display()))
            .env("HOME", &self.files.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", peer.program))?;
        let ended = wait::within(PEER_MAX, || child.try_wait().ok().flatten());
        let wall = begin.elapsed();
        let Some(status) = ended else {
            child.kill().context("end a peer")?;
            child.wait().context("end a peer")?;
            bail!("{} did not end within {PEER_MAX:?}", peer.program);
        };
        if !status.success() {
            println!("  ({} ended with {status}: some hosts did not answer it)", peer.program);
        }
        Ok(Took { wall, cpu: children_cpu().saturating_sub(cpu) })
    }

    /// Ends what OpenSSH keeps open.
    fn end_masters(&self, names: &[(String, Ipv4Addr, u16, String)]) {
        for (name, ..) in names {
            let ended = Command::new("ssh")
                .arg("-F")
                .arg(self.files.folder.join("warm"))
                .args(["-O", "exit", name])
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .status();
            // One that is gone already cannot be ended.
            drop(ended);
        }
    }
}

/// Processor time of all children that were waited for, and of theirs.
fn children_cpu() -> Duration {
    // SAFETY: the structure is plain numbers, and the kernel fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::from_secs_f64(time.tv_sec as f64 + time.tv_usec as f64 / 1e6);
    of(usage.ru_utime) + of(usage.ru_stime)
}
