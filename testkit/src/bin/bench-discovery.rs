//! `cargo xtask bench discovery`: how soon hosts know each other and who is gone, and what that costs at rest.
//!
//! Twelve hosts in network namespaces on this machine, times from their logs, all by one clock. Needs root.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use caelum_testkit::{
    lab::{Host, Lab},
    measure::{cpu_time, mib, resident_bytes, sibling_binary},
    process::Process,
    serf, wait,
};
use serde_json::Value;

const HOSTS: usize = 12;
const LONGEST: Duration = Duration::from_secs(40);
const AT_REST: Duration = Duration::from_secs(30);

struct Bench {
    lab: Lab,
    at: Vec<Host>,
    folder: tempfile::TempDir,
    processes: BTreeMap<usize, Process>,
    binary: PathBuf,
}

fn main() -> Result<()> {
    let binary = sibling_binary()?;
    let mut lab = Lab::new()?;
    let network = lab.network()?;
    let at = (0..HOSTS).map(|_| lab.host(&network)).collect::<Result<Vec<Host>>>()?;
    let folder = tempfile::tempdir()?;
    let mut bench = Bench { lab, at, folder, processes: BTreeMap::new(), binary };
    bench.start(0, &["up", "--no-probe"])?;
    let ready = bench.folder.path().join("d0/run/ready.json");
    wait::until("the server serves", LONGEST, || ready.exists().then_some(()));
    let token = bench.output(0, &["token", "join", "--uses", "100"])?;
    let token = token.trim().lines().last().context("a join token")?.to_owned();
    for number in 1..HOSTS {
        bench.output(number, &["join", &token])?;
    }
    for number in 1..HOSTS - 1 {
        bench.start(number, &["agent"])?;
    }
    let last_start = now_s();
    bench.start(HOSTS - 1, &["beacon"])?;
    bench.until("membership.node_alive", &[], HOSTS - 1, "")?;
    let known = bench.times("membership.node_alive", &[], "", last_start);
    println!("last of {HOSTS} hosts started -> all know all      {}", spread(&known));

    wait::pass(Duration::from_secs(20));
    let killed = now_s();
    bench.processes.get_mut(&4).context("it runs")?.kill();
    bench.until("membership.node_dead", &[4], 1, "h4 ")?;
    let missed = bench.times("membership.node_dead", &[4], "h4 ", killed);
    println!("kill -9 of one -> known to the others            {}", spread(&missed));

    let cut = now_s();
    bench.lab.cut(&bench.at[7].clone())?;
    bench.until("membership.node_dead", &[4, 7], 1, "h7 ")?;
    let gone = bench.times("membership.node_dead", &[4, 7], "h7 ", cut);
    println!("cable cut silently -> known to the others        {}", spread(&gone));

    let healed = now_s();
    bench.lab.join(&bench.at[7].clone())?;
    wait::pass(Duration::from_secs(20));
    println!(
        "cable back -> the others know it again           {}",
        spread(&bench.times("membership.node_alive", &[4, 7], "h7 ", healed))
    );

    for (number, what) in [(0, "caelum up"), (1, "agent"), (HOSTS - 1, "beacon")] {
        let pid = bench.processes[&number].pid();
        let before = cpu_time(pid)?;
        wait::pass(AT_REST);
        let share = (cpu_time(pid)? - before).as_secs_f64() / AT_REST.as_secs_f64();
        let (resident, _) = resident_bytes(pid)?;
        println!("{what:<10} resident {}, {:.2} % of a core at rest", mib(resident), share * 100.0);
    }
    bench.beside(&[known, missed, gone])
}

impl Bench {
    /// Serf on the same hosts, after ours have gone.
    fn beside(mut self, ours: &[Vec<f64>; 3]) -> Result<()> {
        let Some(program) = serf::program() else {
            println!("Serf is not installed, so nothing is compared with it (Debian: apt-get install serf)");
            return Ok(());
        };
        self.processes.clear();
        let theirs = serf::measure(&program, &self.lab, &self.at, self.folder.path())?;
        println!("{}, its settings for a LAN, on the same hosts:", theirs.version);
        let rows = [
            ("last started -> all know all", &theirs.known),
            ("kill -9 of one -> known", &theirs.killed),
            ("cable cut silently -> known", &theirs.cut),
        ];
        for ((what, theirs), ours) in rows.into_iter().zip(ours) {
            let ratio = match (theirs.last(), ours.last()) {
                (Some(theirs), Some(ours)) if *ours > 0.0 => format!("{:.1} times ours", theirs / ours),
                _ => "no ratio".to_owned(),
            };
            println!("{what:<48} {}; worst: {ratio}", spread(theirs));
        }
        Ok(())
    }

    fn command(&self, number: usize, arguments: &[&str]) -> std::process::Command {
        let mut command = self.at[number].command(&self.binary);
        command
            .args(arguments)
            .arg("--data")
            .arg(self.folder.path().join(format!("d{number}")))
            .env("HOME", self.folder.path())
            .env("CAELUM_AGENT_NAME", format!("h{number}"));
        command
    }

    fn start(&mut self, number: usize, arguments: &[&str]) -> Result<()> {
        let command = self.command(number, arguments);
        let process = Process::start(command, &format!("h{number}"), self.folder.path())?;
        self.processes.insert(number, process);
        Ok(())
    }

    fn output(&self, number: usize, arguments: &[&str]) -> Result<String> {
        let output = self.command(number, arguments).output()?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// When each host logged this about somebody for the first time after a moment, seconds after it.
    fn times(&self, code: &str, but: &[usize], about: &str, from_s: f64) -> Vec<f64> {
        let mut times = Vec::new();
        for number in (0..HOSTS).filter(|number| !but.contains(number)) {
            let log = self.processes[&number].log();
            let found: Vec<f64> = log
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|line| {
                    line["code"] == code && line["message"].as_str().is_some_and(|m| m.starts_with(about))
                })
                .filter_map(|line| seconds(line["timestamp"].as_str()?))
                .filter(|at_s| *at_s >= from_s)
                .map(|at_s| at_s - from_s)
                .collect();
            // About everybody: the last; about one: the first.
            times.extend(if about.is_empty() {
                found.into_iter().reduce(f64::max)
            } else {
                found.into_iter().next()
            });
        }
        times.sort_by(f64::total_cmp);
        times
    }

    fn until(&self, code: &str, but: &[usize], each: usize, about: &str) -> Result<()> {
        let all = || {
            (0..HOSTS).filter(|number| !but.contains(number)).all(|number| {
                let log = self.processes[&number].log();
                let is_it = |line: &&str| {
                    line.contains(code) && (about.is_empty() || line.contains(&format!("\"{about}")))
                };
                log.lines().filter(is_it).count() >= each
            })
        };
        wait::within(LONGEST, || all().then_some(())).with_context(|| format!("wait for {code} {about}"))
    }
}

fn spread(times: &[f64]) -> String {
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return "nobody".to_owned() };
    format!(
        "median {:.2} s, worst {last:.2} s, first {first:.2} s ({} hosts)",
        times[times.len() / 2],
        times.len()
    )
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `2026-11-21T06:34:13.687893Z` as seconds; only differences within a day matter.
fn seconds(text: &str) -> Option<f64> {
    let (_, time) = text.split_once('T')?;
    let mut parts = time.trim_end_matches('Z').split(':');
    let (hours, minutes, seconds): (f64, f64, f64) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let midnight = (now_s() / 86_400.0).floor() * 86_400.0;
    Some(midnight + hours * 3_600.0 + minutes * 60.0 + seconds)
}
