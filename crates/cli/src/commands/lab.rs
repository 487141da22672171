//! `caelum lab`: proofs that an operator can repeat.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::{
    clock::{Clock as _, SystemClock},
    tls,
};
use caelum_lab::{
    process,
    torture::{self, Ordeal, Report},
};
use caelum_model::rollup::{MINUTE_MS, Rollup, RollupKey};
use caelum_store::{RollupQuery, Store};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    arguments::{Lab, Torture},
    exit::Exit,
    output,
};

/// Rows read at once.
const PAGE: usize = 5_000;

/// Runs a proof.
pub(super) fn run(command: Lab) -> Result<Exit> {
    let Lab::Torture(arguments) = command;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the async runtime")?.block_on(torture(arguments))
}

async fn torture(arguments: Torture) -> Result<Exit> {
    let seed = arguments.seed.unwrap_or_else(|| SystemClock.now_ms().unsigned_abs() % 1_000_000);
    let ordeal = Ordeal {
        program: std::env::current_exe().context("find this program's own file")?,
        set: arguments.set,
        seed,
        kills: arguments.kills,
        absence_s: arguments.absence.unwrap_or(0).unsigned_abs() / 1000,
        probes: arguments.probes.into(),
        duplicates_percent: arguments.duplicates,
        late_permille: u16::from(arguments.late) * 10,
        ingests: arguments.ingests.into(),
        aggregators: arguments.aggregators.into(),
        backends: arguments.store.zip(arguments.queue),
        folder: arguments.keep,
    };
    let started = Instant::now();
    let is_terminal = std::io::stderr().is_terminal();
    let tell = move |line: String| {
        let at = started.elapsed().as_secs();
        // Nobody is left to tell when standard error is gone.
        let text =
            if is_terminal { format!("\r\x1b[K{at:>4} s  {line}") } else { format!("{at:>4} s  {line}\n") };
        drop(std::io::stderr().lock().write_all(text.as_bytes()));
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config(tls::root_store("")?).context("prepare TLS")?)
        .timeout(torture::ANSWER_MAX)
        .build()
        .context("make a client")?;
    let report = tokio::select! {
        report = torture::run(ordeal, client, read_rows, tell) => report?,
        () = told_to_end() => {
            process::kill_all();
            bail!("told to end in the middle; everything that was started is gone");
        }
    };
    if is_terminal {
        drop(std::io::stderr().lock().write_all(b"\r\x1b[K"));
    }
    if arguments.json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&report).context("write JSON")?))?;
    } else {
        output::print(&say(&report))?;
    }
    Ok(if report.is_exact() { Exit::Fine } else { Exit::Failed })
}

async fn told_to_end() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn read_rows(address: &str) -> Result<Vec<Rollup>> {
    let store = Store::connect(&address.parse().context("read the store's address")?).await?;
    let mut rows: Vec<Rollup> = Vec::new();
    let mut after: Option<RollupKey> = None;
    loop {
        let query = RollupQuery { width_ms: MINUTE_MS, after, limit: PAGE, ..RollupQuery::default() };
        let page = store.rollups(query).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|row| row.key.clone());
        rows.extend(page);
        if is_last {
            break;
        }
    }
    store.close();
    Ok(rows)
}

fn say(report: &Report) -> String {
    let verdict = match report.is_exact() {
        true => format!(
            "Nothing was lost and nothing was counted twice: {} events, each in its row.",
            report.events
        ),
        false => format!(
            "NOT EXACT: {} lost, {} doubled, {} rows wrong, of {} events.",
            report.lost, report.doubled, report.wrong, report.events
        ),
    };
    let kills: usize = report.kills.values().sum();
    let by_kind: Vec<String> = report.kills.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let mut text = format!(
        "{verdict}\n\n  {:<12} {}\n  {:<12} {kills} ({})\n  {:<12} {} frozen, {} restarted in order\n  {:<12} {} \
         requests, {} of them repeated\n  {:<12} {:.1} s under fire, complete {:.1} s after the last wound\n  {:<12} {}\n",
        "set-up",
        report.set,
        "killed",
        by_kind.join(", "),
        "milder",
        report.freezes,
        report.restarts,
        "sent",
        report.requests,
        report.retries,
        "time",
        report.hurt_s,
        report.recovery_s,
        "seed",
        report.seed,
    );
    for absence in &report.absences {
        text.push_str(&format!("  absence      {absence}\n"));
    }
    for difference in &report.differences {
        text.push_str(&format!("  differs: {difference}\n"));
    }
    if let Some(folder) = &report.folder {
        text.push_str(&format!("\nThe files are in {}.\n", folder.display()));
    }
    text
}
