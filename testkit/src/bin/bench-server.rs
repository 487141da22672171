//! `cargo xtask bench server`: what a server costs that many agents hang on, each a process of its own.
//!
//! `--agents N` (1,000) agents report every ten seconds to one `caelum up` over loopback, without beacons; they know
//! the server from their invitation and each other from it. Once all are online, processor time and memory of the
//! server over `--seconds S` (120), and how long the long lists take. What an agent takes is printed too. An agent
//! is about 10 MiB: a thousand want 10 GiB. With `--mesh 1` they measure each other as well.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use caelum_testkit::{
    api::Api,
    measure::{Cost, mib, option, sibling_binary},
    process::Process,
    server::{Plan, Server},
    wait,
};

/// Agents that are started at once.
const AT_ONCE: usize = 25;
/// Most time for these to be online.
const ONLINE_MAX: Duration = Duration::from_secs(120);
/// What starts and joins has its own cost, which is not measured.
const CALM: Duration = Duration::from_secs(60);
/// What people look at when there are many nodes.
const LISTS: [&str; 5] = ["/api/nodes", "/api/cluster/topology", "/machines", "/topology", "/"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let many = usize::try_from(option("--agents", 1_000)?)?;
    let seconds = Duration::from_secs(option("--seconds", 120)?);
    let is_mesh = option("--mesh", 0)? > 0;
    let binary = sibling_binary()?;
    let mut server = Plan::new(&binary).start()?;
    let token = invitation(&server, many)?;
    let folder = tempfile::tempdir()?;
    let began = Instant::now();
    let api = server.api()?.with_token(&server.token("admin")?);
    let mut agents = Vec::new();
    // A few at a time: what starts wants the processors that the server needs to admit it.
    while agents.len() < many {
        for number in agents.len()..many.min(agents.len() + AT_ONCE) {
            agents.push(agent(&binary, folder.path(), &token, number, is_mesh)?);
        }
        wait::until_answered("all are online that were started", ONLINE_MAX, async || {
            (online_nodes(&api).await.ok()? > agents.len()).then_some(())
        })
        .await;
    }
    println!("all are online after {:.1} s", began.elapsed().as_secs_f64());

    wait::pass(CALM);
    let (of_server, of_agents) = (Cost::of(server.process().pid())?, look_all(&agents)?);
    let began = Instant::now();
    wait::pass(seconds);
    let passed_s = began.elapsed().as_secs_f64();
    let (then, agents_then) = (Cost::of(server.process().pid())?, look_all(&agents)?);
    println!(
        "server: {:.1} % of a core, {} resident, {} at its highest, woken {:.0} times a second",
        100.0 * then.cpu.saturating_sub(of_server.cpu).as_secs_f64() / passed_s,
        mib(then.resident),
        mib(then.highest),
        then.sleeps.saturating_sub(of_server.sleeps) as f64 / passed_s,
    );
    println!(
        "an agent: {:.3} % of a core, {} resident",
        100.0 * agents_then.cpu.saturating_sub(of_agents.cpu).as_secs_f64() / passed_s / many as f64,
        mib(agents_then.resident / many.max(1) as u64),
    );
    println!("{} of {} are online", online_nodes(&api).await?, many + 1);
    let person = server.api()?.signed_in().await?;
    for path in LISTS {
        let began = Instant::now();
        let answer = person.answer(path).await?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await?.len();
        println!("{path}: {status}, {} kB in {:.0} ms", bytes / 1_000, began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn invitation(server: &Server, many: usize) -> Result<String> {
    let data = server.data();
    let data = data.to_str().context("temporary folders have plain names")?;
    let output = server.run(&["token", "join", "--uses", &many.to_string(), "--data", data])?;
    let text = String::from_utf8(output.stdout)?;
    match text.trim().lines().last() {
        Some(token) if output.status.success() => Ok(token.to_owned()),
        _ => bail!("no token was made: {text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// One agent on a free port, which joins and stays.
fn agent(binary: &Path, folder: &Path, token: &str, number: usize, is_mesh: bool) -> Result<Process> {
    let mut command = Command::new(binary);
    command
        .args(["agent", "--listen", "127.0.0.1:0", "--join", token, "--data"])
        .arg(folder.join(format!("a{number}")))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("CAELUM_BEACON_ENABLED", "false")
        .env("CAELUM_PROBE_ENABLED", is_mesh.to_string())
        .current_dir(folder);
    Process::start(command, &format!("a{number}"), folder)
}

async fn online_nodes(api: &Api) -> Result<usize> {
    let answer = api.json("/api/nodes").await?;
    let nodes = answer["nodes"].as_array().context("nodes")?;
    Ok(nodes.iter().filter(|node| node["status"] != "offline").count())
}

/// The sum.
fn look_all(processes: &[Process]) -> Result<Cost> {
    processes.iter().try_fold(Cost::default(), |sum, process| {
        let one = Cost::of(process.pid())?;
        Ok(Cost { resident: sum.resident + one.resident, cpu: sum.cpu + one.cpu, ..sum })
    })
}
