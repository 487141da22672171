//! Serf beside, where it is installed: the same hosts, the same kill and the same cut cable, so that a figure of
//! ours has one of theirs next to it.
//!
//! Serf's log has whole seconds, so what counts is when a line was first seen here, which is looked at every 20 ms.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    lab::{Host, Lab},
    process::Process,
    wait,
};

const LONGEST: Duration = Duration::from_secs(120);

/// How long it took each of the others, in seconds, smallest first.
#[derive(Debug)]
pub struct Figures {
    /// What it calls itself.
    pub version: String,
    /// From the last start to all know all.
    pub known: Vec<f64>,
    /// From a kill to known.
    pub killed: Vec<f64>,
    /// From a cable cut silently to known.
    pub cut: Vec<f64>,
}

/// Where it is installed, if it is.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("serf")).find(|file| file.is_file())
}

/// Starts an agent on each host, with its settings for a LAN, kills one and cuts another off.
pub fn measure(program: &Path, lab: &Lab, at: &[Host], folder: &Path) -> Result<Figures> {
    let version = at[0].run(program, &["version"])?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
    let first = at[0].ip.clone();
    let mut agents = BTreeMap::new();
    for (number, host) in at.iter().enumerate() {
        let (node, bind) = (format!("-node=h{number}"), format!("-bind={}:7946", host.ip));
        let mut arguments = vec!["agent", &node, &bind, "-retry-interval=1s"];
        let join = format!("-retry-join={first}");
        if number > 0 {
            arguments.push(&join);
        }
        agents.insert(number, host.start(program, &arguments, &format!("serf{number}"), folder)?);
    }
    let all: Vec<usize> = (0..at.len()).collect();
    let joined = |log: &str| (0..at.len()).all(|other| log.contains(&format!("EventMemberJoin: h{other} ")));
    let known = seen(&agents, &all, joined).context("not all of Serf's agents know all")?;

    wait::pass(Duration::from_secs(20));
    let failed = |number: usize| move |log: &str| log.contains(&format!("EventMemberFailed: h{number} "));
    agents.get_mut(&4).context("it runs")?.kill();
    let others: Vec<usize> = all.iter().copied().filter(|number| *number != 4).collect();
    let killed = seen(&agents, &others, failed(4)).context("Serf did not notice the kill")?;

    lab.cut(&at[7])?;
    let others: Vec<usize> = others.into_iter().filter(|number| *number != 7).collect();
    let cut = seen(&agents, &others, failed(7));
    lab.join(&at[7])?;
    Ok(Figures { version, known, killed, cut: cut.context("Serf did not notice the cut")? })
}

/// When each was first seen to have logged something.
fn seen(agents: &BTreeMap<usize, Process>, of: &[usize], holds: impl Fn(&str) -> bool) -> Option<Vec<f64>> {
    let began = Instant::now();
    let mut times: BTreeMap<usize, f64> = BTreeMap::new();
    wait::within(LONGEST, || {
        for number in of.iter().filter(|number| !times.contains_key(number)).copied().collect::<Vec<_>>() {
            if holds(&agents[&number].output()) {
                times.insert(number, began.elapsed().as_secs_f64());
            }
        }
        (times.len() == of.len()).then_some(())
    })?;
    let mut times: Vec<f64> = times.into_values().collect();
    times.sort_by(f64::total_cmp);
    Some(times)
}
