//! `cargo xtask bench flood`: what a node bears of datagrams that nobody should believe.
//!
//! A server and a beacon on one network, and a third host that asks for real beacons and then sends
//! `--count N` (100,000) datagrams at `--rate N` (1,000) a second to the beacon, from `--sources N` (100)
//! addresses: forged, replayed, malformed. Needs root.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use caelum_testkit::{
    flood,
    lab::{Host, Lab},
    measure::{cpu_time, mib, option, resident_bytes, sibling_binary},
    process::Process,
    wait,
};

const READY_MAX: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let (count, rate) = (option("--count", 100_000)?, option("--rate", 1_000)?);
    let sources = u8::try_from(option("--sources", 100)?).context("at most 255 sources")?;
    let mut lab = Lab::new()?;
    let network = lab.network()?;
    let [server, beacon, attacker] = [lab.host(&network)?, lab.host(&network)?, lab.host(&network)?];
    let folder = tempfile::tempdir()?;
    let bench = Bench { binary: sibling_binary()?, folder: folder.path().to_owned() };
    let serving = bench.start(&server, "server", &["up", "--no-probe"])?;
    let ready = folder.path().join("server/run/ready.json");
    wait::within(READY_MAX, || ready.exists().then_some(())).context("the server does not serve")?;
    let token = bench.output(&server, "server", &["token", "join"])?;
    let token = token.trim().lines().last().context("a join token")?.to_owned();
    bench.output(&beacon, "beacon", &["join", &token])?;
    let victim = bench.start(&beacon, "beacon", &["beacon"])?;
    let is_known = || victim.log().contains("membership.node_alive").then_some(());
    wait::within(READY_MAX, is_known).context("the beacon does not know the server")?;
    wait::pass(SETTLE);

    let everybody: IpAddr = "10.77.0.255".parse()?;
    let real = attacker.inside(|| flood::overhear(everybody, Duration::from_secs(3)))?;
    println!("overheard {} real beacons", real.len());
    let beliefs = |process: &Process| process.log().matches("\"membership.").count();
    let before =
        (beliefs(&victim), beliefs(&serving), resident_bytes(victim.pid())?.0, cpu_time(victim.pid())?);
    let from = attacker.with_addresses(sources)?;
    let target: IpAddr = beacon.ip.parse()?;
    let took = attacker.inside(|| flood::send(target, &from, &real, count, rate))?;
    let cpu = cpu_time(victim.pid())?.saturating_sub(before.3);
    let (resident, highest) = resident_bytes(victim.pid())?;
    let share = 100.0 * cpu.as_secs_f64() / took.as_secs_f64();

    let log = victim.log();
    println!("sent          {count} datagrams in {:.1} s from {sources} addresses", took.as_secs_f64());
    println!(
        "CPU           {share:.2} % of one core, {:.1} µs a datagram",
        1e6 * cpu.as_secs_f64() / count as f64
    );
    println!("resident      {} before, {} after, {} at most", mib(before.2), mib(resident), mib(highest));
    println!(
        "beliefs       {} changed at the beacon, {} at the server",
        beliefs(&victim) - before.0,
        beliefs(&serving) - before.1
    );
    println!("proven ghosts {}", proven_ghosts(&log));
    println!(
        "shown ghosts  {} lines of unproven machines, which the table bounds",
        log.matches("ghost-").count()
    );
    Ok(())
}

/// Machines of the flood that the log names as members or as linked.
fn proven_ghosts(log: &str) -> usize {
    let is_believed = |line: &&str| line.contains("membership.") || line.contains("link.");
    log.lines().filter(is_believed).filter(|line| line.contains("ghost")).count()
}

struct Bench {
    binary: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn command(&self, host: &Host, name: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = host.command(&self.binary);
        command.args(arguments).arg("--data").arg(self.folder.join(name)).env("HOME", &self.folder);
        command
    }

    fn start(&self, host: &Host, name: &str, arguments: &[&str]) -> Result<Process> {
        Process::start(self.command(host, name, arguments), name, &self.folder)
    }

    fn output(&self, host: &Host, name: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(host, name, arguments).output()?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
