//! `cargo xtask bench footprint`: what `caelum up`, an agent and a beacon cost while nobody does anything.
//!
//! Three hosts in network namespaces, the server with its default probe. Resident memory after the first
//! minute and at the end, and between them processor time and wake-ups, over `--seconds S` (60). A long run
//! shows whether it stays flat. Needs root.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use caelum_testkit::{
    lab::{Host, Lab},
    measure::{Cost, mib, option, sibling_binary},
    process::Process,
    wait,
};

const FIRST: Duration = Duration::from_secs(60);
const READY_MAX: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let seconds = Duration::from_secs(option("--seconds", 60)?);
    let binary = sibling_binary()?;
    let mut lab = Lab::new()?;
    let network = lab.network()?;
    let at = [lab.host(&network)?, lab.host(&network)?, lab.host(&network)?];
    let folder = tempfile::tempdir()?;
    let command = |host: &Host, number: usize, arguments: &[&str]| {
        let mut command = host.command(&binary);
        let data = folder.path().join(format!("d{number}"));
        command.args(arguments).arg("--data").arg(data).env("HOME", folder.path());
        command
    };
    let start = |number: usize, arguments: &[&str]| {
        Process::start(command(&at[number], number, arguments), &format!("h{number}"), folder.path())
    };
    let server = start(0, &["up"])?;
    let ready = folder.path().join("d0/run/ready.json");
    wait::within(READY_MAX, || ready.exists().then_some(())).context("the server does not serve")?;
    let token = output(command(&at[0], 0, &["token", "join", "--uses", "2"]))?;
    let token = token.trim().lines().last().context("a join token")?;
    for (number, host) in at.iter().enumerate().skip(1) {
        output(command(host, number, &["join", token]))?;
    }
    let roles = [("caelum up", server), ("agent", start(1, &["agent"])?), ("beacon", start(2, &["beacon"])?)];

    wait::pass(FIRST);
    let before = roles.iter().map(|(_, process)| Cost::of(process.pid())).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    wait::pass(seconds);
    let elapsed_s = began.elapsed().as_secs_f64();
    println!("at rest for {elapsed_s:.0} s, program of {}", mib(size_of(&binary)?));
    println!("role        after a minute     at the end      highest        CPU   woken a second");
    for ((role, process), before) in roles.iter().zip(before) {
        let after = Cost::of(process.pid())?;
        println!(
            "{role:<10} {:>14} {:>14} {:>12} {:>8.3} % {:>14.1}",
            mib(before.resident),
            mib(after.resident),
            mib(after.highest),
            100.0 * (after.cpu.saturating_sub(before.cpu)).as_secs_f64() / elapsed_s,
            after.sleeps.saturating_sub(before.sleeps) as f64 / elapsed_s
        );
    }
    Ok(())
}

fn size_of(binary: &Path) -> Result<u64> {
    Ok(std::fs::metadata(binary)?.len())
}

fn output(mut command: std::process::Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
