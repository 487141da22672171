//! `cargo xtask e2e lab`: faults in a lab of real processes, and what is said of them.
//!
//! `--faults NAME,…` (all) one after the other, `--healthy MINUTES` (0) of nothing but noise before them, as the
//! program counts minutes. Needs root, `ip` and TUN devices.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a lab prints what it saw")]

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use caelum_testkit::diagnosis::{self, CLOSED_WITHIN, Fault, NAMED_WITHIN, Verdict};

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _inside = runtime.enter();
    let option = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |argument| argument != name).skip(1);
        arguments.next()
    };
    let faults: Vec<Fault> = match option("--faults") {
        None => Fault::ALL.to_vec(),
        Some(names) => names.split(',').filter(|name| !name.is_empty()).map(fault).collect::<Result<_>>()?,
    };
    let healthy = option("--healthy").map_or(Ok(0), |text| text.parse())?;
    let seed = option("--seed").map_or(Ok(7), |text| text.parse())?;
    let binary = option("--binary").map_or_else(sibling, |path| Ok(PathBuf::from(path)))?;
    let outcome = diagnosis::run(&binary, &faults, healthy, seed)?;
    println!("fault                expected                                           named  closed");
    for verdict in &outcome.verdicts {
        println!(
            "{:<20} {:<50} {:>5}  {:>6}   {}",
            verdict.fault.name(),
            format!("{} at {}", verdict.expected.0, verdict.expected.2),
            windows(verdict.named_after),
            windows(verdict.closed_after),
            verdict.sentence
        );
    }
    for other in &outcome.others {
        println!("about no fault: {}", other["sentence"]);
    }
    if let Some(reservation) = outcome.reservation() {
        println!("{reservation}");
    }
    let right = outcome.verdicts.iter().filter(|verdict| Verdict::is_right(verdict)).count();
    println!(
        "{right} of {} named within {NAMED_WITHIN} windows and closed within {CLOSED_WITHIN}; {} about no fault",
        outcome.verdicts.len(),
        outcome.others.len()
    );
    if !outcome.is_right() {
        eprintln!("{}", outcome.log);
        bail!("not everything was said rightly");
    }
    Ok(())
}

fn windows(number: Option<i64>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

fn fault(name: &str) -> Result<Fault> {
    let known = Fault::ALL.into_iter().find(|fault| fault.name().replace(' ', "-") == name);
    known.with_context(|| {
        let names: Vec<String> = Fault::ALL.iter().map(|fault| fault.name().replace(' ', "-")).collect();
        format!("there is no fault {name}; there are {}", names.join(", "))
    })
}

/// The program beside this one.
fn sibling() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this program has no folder")?.join("caelum"))
}
