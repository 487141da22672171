//! `cargo xtask e2e lab`: faults in a lab of real processes, and what is said of them.
//!
//! `--faults NAME,…` (all) one after the other, `--healthy MINUTES` (0) of nothing but noise before them, as the
//! program counts minutes. Needs root, `ip` and TUN devices.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use caelum_testkit::{
    diagnosis::{FACTOR, FAULT_WINDOWS, Fault, REST_WINDOWS, USUAL_WINDOWS, WINDOW, World, judge},
    wait,
};

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _inside = runtime.enter();
    let option = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |argument| argument != name).skip(1);
        arguments.next()
    };
    let faults: Vec<Fault> = match option("--faults") {
        None => Fault::ALL.to_vec(),
        Some(names) => names
            .split(',')
            .map(|name| {
                let known = Fault::ALL.into_iter().find(|fault| fault.name().replace(' ', "-") == name);
                known.with_context(|| format!("there is no fault {name}"))
            })
            .collect::<Result<_>>()?,
    };
    let healthy: u64 = option("--healthy").map_or(Ok(0), |text| text.parse())?;
    let binary = option("--binary").map_or_else(sibling, |path| Ok(PathBuf::from(path)))?;
    let world = World::start(&binary, 7)?;
    println!("usual          {USUAL_WINDOWS} windows of {} s", WINDOW.as_secs());
    wait::pass(WINDOW * USUAL_WINDOWS);
    wait::pass(Duration::from_secs(healthy * 60) / u32::try_from(FACTOR)?);
    let mut done = Vec::new();
    for fault in faults {
        let from_ms = world.now_ms();
        println!("{:<14} begins", fault.name());
        fault.begin(&world);
        wait::pass(WINDOW * FAULT_WINDOWS);
        Fault::end(&world);
        done.push((fault, from_ms, world.now_ms()));
        wait::pass(WINDOW * REST_WINDOWS);
    }
    let answer = world.ask(&["incidents", "list"])?;
    let incidents = answer["incidents"].as_array().cloned().unwrap_or_default();
    let (verdicts, others) = judge(&done, &incidents);
    for verdict in &verdicts {
        println!(
            "{:<18} {:<17} {:<32} named after {:<4} closed after {:<4} {}",
            verdict.fault.name(),
            verdict.expected.0,
            verdict.expected.2,
            verdict.named_after.map_or("-".to_owned(), |windows| windows.to_string()),
            verdict.closed_after.map_or("-".to_owned(), |windows| windows.to_string()),
            verdict.sentence
        );
    }
    for other in &others {
        println!("about no fault: {}", other["sentence"]);
    }
    let right = verdicts.iter().filter(|verdict| verdict.is_right()).count();
    println!("right          {right} of {}, {} about no fault", verdicts.len(), others.len());
    if option("--log").is_some() {
        println!("{}", world.log());
    }
    if right < verdicts.len() || !others.is_empty() {
        bail!("not everything was said rightly");
    }
    Ok(())
}

/// The program beside this one.
fn sibling() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this program has no folder")?.join("caelum"))
}
