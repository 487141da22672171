//! What a package costs: time to build each kind, its size, and the time from installing one to a node that is
//! seen. Takes root, as installing does.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use caelum_testkit::{
    measure::{mib, option, resident_bytes, sibling_binary},
    roots::Root,
    server::{Plan, Server},
    wait,
};
use serde_json::Value;

/// Longest time to a node.
const NODE_MAX: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let rounds = option("--rounds", 3)?.max(1);
    let mut server = Plan::new(sibling_binary()?).start()?;
    let token = server.token("admin")?;
    let build = |kind: &str, name: &str| -> Result<(Duration, u64)> {
        let file = server.folder().join(name);
        let began = Instant::now();
        let path = text(&file)?;
        run(&server, &token, &["package", "build", "--kind", kind, "--name", "bench", "-o", path])?;
        Ok((began.elapsed(), fs::metadata(&file).context("look at the package")?.len()))
    };
    let program = fs::metadata(sibling_binary()?).context("look at the program")?.len();
    println!("program {}, {rounds} rounds, the best of each", mib(program));
    for kind in ["deb", "rpm", "tar.gz"] {
        let mut best = (Duration::MAX, 0);
        for round in 0..rounds {
            best = best.min(build(kind, &format!("{round}.{kind}"))?);
        }
        println!("  {kind:<7} {:>6.0} ms with its command, {}", best.0.as_secs_f64() * 1e3, mib(best.1));
    }
    let mut times = Vec::new();
    for round in 0..rounds {
        let root = Root::debian()?;
        let file = server.folder().join(format!("{round}.deb"));
        let began = Instant::now();
        let installed = root.dpkg(&["-i", text(&file)?])?;
        ensure!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let installed_in = began.elapsed();
        let quiet = [
            ("CAELUM_SERVER_LISTEN", "127.0.0.1:0"),
            ("CAELUM_BEACON_ENABLED", "false"),
            ("CAELUM_PROBE_ENABLED", "false"),
        ];
        let mut agent = root.start_unit("caelum.service", &quiet)?;
        let known = wait::within(NODE_MAX, || {
            let listed = run(&server, &token, &["package", "list", "--json"]).ok()?;
            let listed: Value = serde_json::from_str(&listed).ok()?;
            let used = listed["packages"].as_array()?.iter().filter(|one| one["state"] == "used").count();
            (used > times.len()).then_some(())
        });
        ensure!(known.is_some(), "the node was not seen:\n{}", agent.log());
        times.push((installed_in, began.elapsed()));
        agent.terminate();
        agent.wait_for_end(NODE_MAX);
    }
    for (installed, joined) in &times {
        println!(
            "  install {:.0} ms, a node {:.0} ms after the install began (by asking with a command each time)",
            installed.as_secs_f64() * 1e3,
            joined.as_secs_f64() * 1e3
        );
    }
    let (now, highest) = resident_bytes(server.process().pid())?;
    println!("  server  resident {} (highest {})", mib(now), mib(highest));
    Ok(())
}

fn run(server: &Server, token: &str, arguments: &[&str]) -> Result<String> {
    let data = server.data();
    let ends = ["--data", text(&data)?, "--token", token];
    let output = server.run(&[arguments, &ends].concat())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("temporary folders have plain names")
}
