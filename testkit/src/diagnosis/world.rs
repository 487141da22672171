//! A site with a server, probes in machines of their own, web sites and a name server.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::FACTOR;
use crate::{
    lab::{Host, Lab},
    process::Process,
    sites::{self, Authority, OBJECT_PATH, Running},
    switch::{Names, Rule, Switch, resolve_by},
    wait,
};

/// Machines that measure, beside the server, which measures nothing.
pub const PROBES: usize = 4;
/// Web sites.
pub const SITES: usize = 3;
const READY_MAX: Duration = Duration::from_secs(60);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The name server.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 53);

/// Address of a probe.
pub fn probe(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, 10 + u8::try_from(number).unwrap_or(0))
}

/// Address of a web site.
pub fn site(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, 100 + u8::try_from(number).unwrap_or(0))
}

/// URL of a web site.
pub fn site_url(number: usize) -> String {
    format!("https://site-{number}.lab/")
}

/// Name of a probe in events.
pub fn probe_name(number: usize) -> String {
    format!("probe-{number}")
}

/// Everything that runs. Processes end before their hosts go.
pub struct World {
    /// The network.
    pub switch: Switch,
    /// Its sites, by number.
    pub sites: Vec<Running>,
    /// The name server.
    pub resolver: Running,
    processes: Vec<Process>,
    server: Host,
    token: String,
    binary: PathBuf,
    begin_ms: i64,
    _names: Vec<Names>,
    folder: TempDir,
    _lab: Lab,
}

impl World {
    /// Starts everything, and waits until each probe measures. Must be called within a runtime.
    pub fn start(binary: &Path, seed: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut lab = Lab::new()?;
        let switch = Switch::new(seed);
        let mut host = |address| -> Result<Host> {
            let network = lab.network()?;
            let host = lab.host(&network)?;
            switch.plug(&host, address)?;
            Ok(host)
        };
        let server = host(SERVER)?;
        let resolver_host = host(RESOLVER)?;
        let probes = (0..PROBES).map(|number| host(probe(number))).collect::<Result<Vec<_>>>()?;
        let site_hosts = (0..SITES).map(|number| host(site(number))).collect::<Result<Vec<_>>>()?;
        switch.set(usual());

        let authority = Authority::new()?;
        fs::write(folder.path().join("sites.pem"), &authority.pem)?;
        let mut sites = Vec::new();
        for (number, host) in site_hosts.iter().enumerate() {
            sites.push(sites::site(host, site(number), &format!("site-{number}.lab"), &authority)?);
        }
        let known = (0..SITES).map(|number| (format!("site-{number}.lab"), site(number)));
        let resolver = sites::names(&resolver_host, RESOLVER, known.collect::<BTreeMap<_, _>>())?;
        let hosts = probes.iter().chain([&server]);
        let names = hosts.map(|host| resolve_by(host, RESOLVER)).collect::<Result<Vec<_>>>()?;

        let begin_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let mut world = Self {
            switch,
            sites,
            resolver,
            processes: Vec::new(),
            server,
            token: String::new(),
            binary: binary.to_owned(),
            begin_ms,
            _names: names,
            folder,
            _lab: lab,
        };
        world.start_server()?;
        for (number, host) in probes.iter().enumerate() {
            world.start_probe(number, host)?;
        }
        Ok(world)
    }

    fn start_server(&mut self) -> Result<()> {
        let config = self.folder.path().join("server.toml");
        fs::write(&config, targets())?;
        let server = self.server.clone();
        let listen = format!("{SERVER}:8080,127.0.0.1:8080");
        let arguments = [
            "up",
            "--no-probe",
            "--beacon-enabled",
            "false",
            "--listen",
            &listen,
            "--config",
            text(&config)?,
        ];
        let process = self.start_on(&server, "server", &arguments)?;
        let ready = self.folder.path().join("server/run/ready.json");
        wait::within(READY_MAX, || ready.exists().then_some(()))
            .with_context(|| format!("the server does not serve: {}{}", process.output(), process.log()))?;
        self.processes.push(process);
        self.token = self.output("server", &["token", "new", "--scope", "operate"])?;
        Ok(())
    }

    fn start_probe(&mut self, number: usize, host: &Host) -> Result<()> {
        let name = probe_name(number);
        let join = self.output("server", &["token", "join"])?;
        let arguments = [
            "agent",
            "--beacon-enabled",
            "false",
            "--agent-name",
            &name,
            "--join",
            &join,
            "--probe-default-targets",
            "false",
            "--listen",
            "127.0.0.1:0",
        ];
        let process = self.start_on(host, &name, &arguments)?;
        let measures = || process.log().contains("probe.reflects").then_some(());
        wait::within(READY_MAX, measures)
            .with_context(|| format!("{name} does not measure:\n{}", process.log()))?;
        self.processes.push(process);
        Ok(())
    }

    fn command(&self, host: &Host, name: &str, arguments: &[&str]) -> Result<std::process::Command> {
        let mut command = host.command(&self.binary);
        command
            .args(arguments)
            .args(["--data", text(&self.folder.path().join(name))?])
            .env("HOME", self.folder.path())
            .env("CAELUM_LAB_CLOCK", format!("{FACTOR}@{}", self.begin_ms))
            .env("SSL_CERT_FILE", self.folder.path().join("sites.pem"))
            .current_dir(self.folder.path());
        Ok(command)
    }

    fn start_on(&self, host: &Host, name: &str, arguments: &[&str]) -> Result<Process> {
        Process::start(self.command(host, name, arguments)?, name, self.folder.path())
    }

    /// The last line of what a command on the server writes.
    fn output(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(&self.server, name, arguments)?.output()?;
        let written = String::from_utf8_lossy(&output.stdout).into_owned();
        match written.trim().lines().last() {
            Some(last) if output.status.success() => Ok(last.trim().to_owned()),
            _ => bail!("{}: {written}{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// What the server answers to a command line that asks it.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.server.command(&self.binary);
        command
            .args(arguments)
            .arg("--json")
            .env("HOME", self.folder.path())
            .env("CAELUM_SERVER", "http://127.0.0.1:8080")
            .env("CAELUM_TOKEN", &self.token);
        let output = command.output()?;
        if !output.status.success() {
            bail!("{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("read {}", arguments.join(" ")))
    }

    /// The time as the program sees it, ms since 1970.
    pub fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.as_seen_ms(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// A time as the program sees it.
    pub fn as_seen_ms(&self, real_ms: i64) -> i64 {
        self.begin_ms + (real_ms - self.begin_ms) * FACTOR
    }

    /// What the processes wrote, for when something is not as it should be.
    pub fn log(&self) -> String {
        let last = |process: &Process| {
            let log = process.log();
            let lines: Vec<&str> = log.lines().rev().take(40).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        self.processes.iter().map(last).collect::<Vec<_>>().join("\n---\n")
    }
}

/// How fast a site sends to a probe, bits a second. Far less than this machine could do, and to each probe by
/// itself: a transfer then measures the network, and not what else the machine has to do meanwhile.
const SITE_BITS_PER_S: u64 = 8_000_000;

/// What a site sends to each probe, at most so fast; to each by itself, as a provider does it: nobody's packets
/// queue behind another's.
pub fn throttled(number: usize, bits_per_s: u64) -> impl Iterator<Item = Rule> {
    (0..PROBES).map(move |to| Rule {
        from: Some(site(number)),
        to: Some(probe(to)),
        bits_per_s: Some(bits_per_s),
        ..Rule::default()
    })
}

/// How the network is when nothing is wrong: some milliseconds each way, different for each host, and a rate.
pub fn usual() -> Vec<Rule> {
    let around = |address: Ipv4Addr, ms: u64| {
        let rule =
            Rule { delay: Duration::from_millis(ms), jitter: Duration::from_micros(700), ..Rule::default() };
        Rule::around(address, rule)
    };
    let probes = (0..PROBES).flat_map(|number| around(probe(number), 2 + number as u64));
    let sites = (0..SITES).flat_map(|number| around(site(number), 3 + 2 * number as u64));
    let rates = (0..SITES).flat_map(|number| throttled(number, SITE_BITS_PER_S));
    probes.chain(sites).chain(around(RESOLVER, 1)).chain(rates).collect()
}

/// What is measured: the sites with all their stages, and the name server by itself.
fn targets() -> String {
    let mut text =
        String::from("[probe]\ndefault_targets = false\ntimeout_ms = 900\ninterval_s = 1\ntargets = [\n");
    for number in 0..SITES {
        let (url, object) = (site_url(number), OBJECT_PATH.trim_start_matches('/'));
        text.push_str(&format!("  {{ url = \"{url}\", throughput_url = \"{url}{object}\" }},\n"));
    }
    text.push_str(&format!("  {{ url = \"dns://{RESOLVER}\" }},\n]\n"));
    text
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}
