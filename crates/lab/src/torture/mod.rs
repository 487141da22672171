//! The crash proof: kill anything at any time, and count what was accepted.
//!
//! [`plan`] says by a seed what is sent and who is hurt when; [`stage`] is the processes; [`ledger`] compares
//! the rows with the events that were acknowledged. This file runs them against each other.
//!
//! Senders deliver each batch until it is acknowledged, some of them twice and in no order, while the stage
//! is hurt. At the end everything is up again, the senders finish, and the rows are read until they do not
//! change any more. Whatever then differs from one pass over the distinct events was lost or doubled.

pub mod ledger;
pub mod plan;
pub mod stage;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use caelum_model::rollup::Rollup;
use serde::Serialize;

use crate::event::{ndjson, now_ms};
use ledger::{Ledger, Verdict};
use plan::{Fault, Sender, Shuffler};
pub use stage::Set;
use stage::Stage;

/// Most time that the senders may take to finish, and again the rows to be complete, once nobody is hurt.
const CALM_MAX: Duration = Duration::from_secs(180);
/// How long one node of a NATS cluster is away, ms.
const NODE_AWAY_MS: u64 = 12_000;
/// Pause of a sender between two batches.
const SEND_PAUSE: Duration = Duration::from_millis(15);
/// Pause before a batch is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Longest time an answer may take; a frozen server answers nobody.
pub const ANSWER_MAX: Duration = Duration::from_secs(8);

/// What is to be proved, and how hard.
#[derive(Clone, Debug)]
pub struct Ordeal {
    /// The program under test.
    pub program: PathBuf,
    /// Which parts, on which backends.
    pub set: Set,
    /// Everything follows from it, except what the operating system does.
    pub seed: u64,
    /// Processes killed without warning.
    pub kills: usize,
    /// How long each backend that is ours is away once, s; 0 for not at all.
    pub absence_s: u64,
    /// Probes that send.
    pub probes: usize,
    /// Batches of a hundred that are sent twice.
    pub duplicates_percent: u8,
    /// Events of a thousand that are hours old.
    pub late_permille: u16,
    /// Processes that take events in, where they are apart.
    pub ingests: usize,
    /// Processes that count, where they are apart.
    pub aggregators: usize,
    /// Records and stream of the operator's own; both or none. They are used and never hurt.
    pub backends: Option<(String, String)>,
    /// Where files are made; a temporary folder where none is named.
    pub folder: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The set-up.
    pub set: String,
    /// The seed.
    pub seed: u64,
    /// Processes killed, by what they were.
    pub kills: std::collections::BTreeMap<String, usize>,
    /// Processes frozen for a while.
    pub freezes: usize,
    /// Processes stopped in order and started again.
    pub restarts: usize,
    /// Long absences of backends, and what the parts said about their health meanwhile.
    pub absences: Vec<String>,
    /// Distinct events acknowledged.
    pub events: u64,
    /// Requests that were sent, repeated ones included.
    pub requests: u64,
    /// Requests that had to be repeated.
    pub retries: u64,
    /// Acknowledged events that are in no row.
    pub lost: u64,
    /// Events counted more than once.
    pub doubled: u64,
    /// Rows that differ otherwise: sums, errors, distributions.
    pub wrong: u64,
    /// The first differences, in words.
    pub differences: Vec<String>,
    /// Time under fire, s.
    pub hurt_s: f64,
    /// Time from the last wound to complete rows, s.
    pub recovery_s: f64,
    /// Where the files are that were left for inspection.
    pub folder: Option<PathBuf>,
}

impl Report {
    /// Whether nothing was lost, doubled or wrong.
    pub fn is_exact(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.wrong == 0
    }
}

/// What senders share.
struct Field {
    urls: Vec<String>,
    token: String,
    client: reqwest::Client,
    ledger: Mutex<Ledger>,
    is_over: AtomicBool,
    requests: AtomicU64,
    retries: AtomicU64,
    duplicates_percent: u8,
    late_permille: u16,
}

/// Runs the ordeal. `client` sends, and gives up after [`ANSWER_MAX`]. `read_rows` reads every one-minute row at a store's address; `tell` hears how it goes on.
pub async fn run(
    ordeal: Ordeal,
    client: reqwest::Client,
    read_rows: impl AsyncFn(&str) -> Result<Vec<Rollup>>,
    tell: impl Fn(String) + Send + Sync + Clone + 'static,
) -> Result<Report> {
    let setup = ordeal.clone();
    let stage = tokio::task::spawn_blocking(move || Stage::set(&setup)).await.context("set the stage")??;
    let store = stage.store_address();
    tell(format!("the stage is set: {}", stage.describe()));
    let field = Arc::new(Field {
        urls: stage.urls(),
        token: stage.token().to_owned(),
        client,
        ledger: Mutex::default(),
        is_over: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        duplicates_percent: ordeal.duplicates_percent,
        late_permille: ordeal.late_permille,
    });
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..ordeal.probes {
        let shuffler = Shuffler::new(ordeal.seed, &format!("sender {number}"));
        senders.spawn(send(Arc::clone(&field), Sender::new(number, ordeal.seed, now_ms()), shuffler));
    }
    let started = Instant::now();
    let mut faults = plan::faults(ordeal.seed, ordeal.kills, &stage.victims());
    if let Some(victim) = stage.one_node() {
        let wound = plan::Wound::Kill { away_ms: NODE_AWAY_MS };
        faults.insert(faults.len() / 2, Fault { after_ms: 200, victim, wound });
    }
    faults.extend(plan::absences(ordeal.absence_s.saturating_mul(1000), &stage.victims()));
    let progress = tell.clone();
    let (mut stage, tally) = tokio::task::spawn_blocking(move || hurt(stage, &faults, &progress))
        .await
        .context("hurt the stage")??;
    let hurt_s = started.elapsed().as_secs_f64();
    let calm = Instant::now();
    field.is_over.store(true, Ordering::Relaxed);
    tell("nobody is hurt any more; the senders finish".to_owned());
    let finished = tokio::time::timeout(CALM_MAX, async {
        while let Some(sender) = senders.join_next().await {
            sender.context("a sender ended by a panic")??;
        }
        anyhow::Ok(())
    });
    let Ok(finished) = finished.await else {
        stage.keep();
        bail!(
            "events are still not acknowledged {} s after the last wound; the files are in {} (seed {})",
            CALM_MAX.as_secs(),
            stage.folder().display(),
            ordeal.seed
        );
    };
    finished?;
    tell("everything is acknowledged; waiting until it is counted".to_owned());
    let verdict = settle(&field, &store, &read_rows).await?;
    let recovery_s = calm.elapsed().as_secs_f64();
    let ledger = field.ledger.lock().expect("no code panics while it holds this lock");
    let is_exact = verdict.lost == 0 && verdict.doubled == 0 && verdict.wrong == 0;
    if !is_exact {
        stage.keep();
    }
    Ok(Report {
        set: ordeal.set.name().to_owned(),
        seed: ordeal.seed,
        kills: tally.kills,
        freezes: tally.freezes,
        restarts: tally.restarts,
        absences: tally.absences,
        events: ledger.events(),
        requests: field.requests.load(Ordering::Relaxed),
        retries: field.retries.load(Ordering::Relaxed),
        lost: verdict.lost,
        doubled: verdict.doubled,
        wrong: verdict.wrong,
        differences: verdict.differences,
        hurt_s,
        recovery_s,
        folder: (!is_exact).then(|| stage.folder().to_owned()),
    })
}

/// Reads the rows until they agree with the ledger, or do not change any more.
async fn settle(
    field: &Field,
    store: &str,
    read_rows: &impl AsyncFn(&str) -> Result<Vec<Rollup>>,
) -> Result<Verdict> {
    let end = Instant::now() + CALM_MAX;
    loop {
        let rows = read_rows(store).await?;
        let verdict = field.ledger.lock().expect("no code panics while it holds this lock").compare(&rows);
        let is_complete = verdict.lost == 0;
        if is_complete || Instant::now() >= end {
            return Ok(verdict);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn send(field: Arc<Field>, mut sender: Sender, mut shuffler: Shuffler) -> Result<()> {
    // Batches that wait are sent in no order.
    let mut waiting: Vec<Vec<plan::Event>> = Vec::new();
    loop {
        let is_over = field.is_over.load(Ordering::Relaxed);
        while !is_over && waiting.len() < 4 {
            waiting.push(sender.batch(now_ms(), field.late_permille));
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let batch = waiting.swap_remove(shuffler.below(waiting.len()));
        let body = ndjson(batch.iter().map(|event| &event.json));
        let times = if shuffler.chance(field.duplicates_percent) { 2 } else { 1 };
        for _ in 0..times {
            deliver(&field, &body, &mut shuffler).await?;
        }
        field.ledger.lock().expect("no code panics while it holds this lock").add(&batch);
        tokio::time::sleep(SEND_PAUSE).await;
    }
}

/// Posts a batch until it is acknowledged, each time to whoever chance says.
async fn deliver(field: &Field, body: &[u8], shuffler: &mut Shuffler) -> Result<()> {
    loop {
        let url = &field.urls[shuffler.below(field.urls.len())];
        field.requests.fetch_add(1, Ordering::Relaxed);
        let sent = field
            .client
            .post(url)
            .bearer_auth(&field.token)
            .header("content-type", "application/x-ndjson")
            .body(body.to_vec())
            .send()
            .await;
        match sent.map(|answer| (answer.status().as_u16(), answer)) {
            Ok((202, _)) => return Ok(()),
            // Away, busy, or stopped in the middle: the same again.
            Ok((429 | 500..=599, _)) | Err(_) => {}
            Ok((status, answer)) => {
                bail!("a batch was answered with {status}: {}", answer.text().await.unwrap_or_default())
            }
        }
        field.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

#[derive(Default)]
struct Tally {
    kills: std::collections::BTreeMap<String, usize>,
    freezes: usize,
    restarts: usize,
    absences: Vec<String>,
}

/// Carries the faults out, one after the other, and makes everybody well at the end.
fn hurt(mut stage: Stage, faults: &[Fault], tell: &impl Fn(String)) -> Result<(Stage, Tally)> {
    let mut tally = Tally::default();
    let mut done = 0;
    for fault in faults {
        stage.pass(Duration::from_millis(fault.after_ms))?;
        let name = stage.name_of(fault.victim);
        match fault.wound {
            plan::Wound::Kill { away_ms } => {
                // Whoever is away comes back first, so that as many are killed as was said.
                let patience = Instant::now() + CALM_MAX;
                while !stage.can_be_killed(fault.victim) {
                    if Instant::now() >= patience {
                        bail!("{name} is not well again after {} s", CALM_MAX.as_secs());
                    }
                    stage.pass(Duration::from_millis(50))?;
                }
                stage.kill(fault.victim, Duration::from_millis(away_ms));
                *tally.kills.entry(name).or_default() += 1;
                done += 1;
                if done % 10 == 0 {
                    tell(format!("{done} killed"));
                }
            }
            plan::Wound::Freeze { for_ms } => {
                stage.freeze(fault.victim, Duration::from_millis(for_ms));
                tally.freezes += 1;
            }
            plan::Wound::Absence { for_ms } => {
                tell(format!("{name} is away for {} s", for_ms / 1000));
                tally.absences.push(stage.leave_away(fault.victim, Duration::from_millis(for_ms))?);
            }
            plan::Wound::Restart => {
                stage.restart(fault.victim)?;
                tally.restarts += 1;
            }
        }
    }
    stage.heal()?;
    Ok((stage, tally))
}
