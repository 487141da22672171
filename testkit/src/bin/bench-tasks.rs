//! `cargo xtask bench tasks`: how soon a task starts, and how many a server and its own worker get done.
//!
//! `caelum up` with a worker in it. First `--rate N` (200) tasks a second for `--seconds N` (20), each asked for
//! alone: from the task's being asked for until it was leased, and until its start was written down, by the
//! server's clock. Then `--tasks N` (2,000) that do nothing, asked for in batches: how long until all are done.
//! With SQLite, and with a PostgreSQL server of this machine unless `--set sqlite` is given.
//!
//! Then, on SQLite, `--cancels N` (100) tasks are called off that have a child in their group and one that left
//! it: until no process of them is left. And of two agents the one that has a task is killed, `--kills N` (20) times,
//! and stopped in its tracks, `--freezes N` (3) times: until the other has it.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use caelum_testkit::{
    api::Api,
    ends::{self, Death, Pair},
    measure::{option, sibling_binary, word},
    postgres,
    server::Plan,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

/// Longest that all tasks may take.
const DONE_MAX: Duration = Duration::from_secs(300);
/// Tasks of one request.
const BATCH: u64 = 500;
/// Time between looks.
const LOOK: Duration = Duration::from_millis(50);

fn main() -> Result<()> {
    let (rate, seconds, tasks) =
        (option("--rate", 200)?, option("--seconds", 20)?, option("--tasks", 2_000)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start the async runtime")?;
    let set = word("--set").unwrap_or_else(|| "both".to_owned());
    if !matches!(set.as_str(), "both" | "sqlite" | "postgres") {
        bail!("no set {set:?}; there are sqlite, postgres and both");
    }
    println!(
        "{rate} tasks a second for {seconds} s, each asked for alone; floor: p50 5 ms, p99 25 ms until leased"
    );
    println!(
        "{:>10} {:>16} {:>16} {:>16} {:>16} {:>16}",
        "", "leased p50", "p99", "started p50", "p99", "no-op tasks/s"
    );
    for (name, is_wanted) in [("SQLite", set != "postgres"), ("PostgreSQL", set != "sqlite")] {
        if !is_wanted {
            continue;
        }
        let server = (name == "PostgreSQL").then(|| postgres::Plan::new().durable().start()).transpose()?;
        let store =
            server.as_ref().map(|server| anyhow::Ok(server.url(&server.new_database()?))).transpose()?;
        println!("{}", runtime.block_on(measure(name, store.as_deref(), rate, seconds, tasks))?);
    }
    let (cancels, kills, freezes) =
        (option("--cancels", 100)?, option("--kills", 20)?, option("--freezes", 3)?);
    runtime.block_on(measure_ends(cancels, kills, freezes))
}

async fn measure_ends(cancels: u64, kills: u64, freezes: u64) -> Result<()> {
    let server = plan()?.start()?;
    let api = Api::plain(&server.http())?.with_token(&server.token("operate")?);
    let node = own_node(&api).await?;
    let line = |what: &str, goal: &str, sorted: &[Duration]| {
        let at = |percent: usize| {
            let nth = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(nth).map_or(0, Duration::as_millis)
        };
        println!("{what:>44}: p50 {:>6} ms, p99 {:>6} ms, of {}; goal {goal}", at(50), at(99), sorted.len());
    };
    if cancels > 0 {
        let took = ends::cancels(&api, &node, cancels).await?;
        line("called off until no process of it is left", "p99 250 ms", &took);
    }
    if kills + freezes > 0 {
        let mut pair = Pair::start(&server, &api).await?;
        let took = pair.losses(Death::Killed, kills).await?;
        line("worker killed until another has its task", "1 s", &took);
        let took = pair.losses(Death::Frozen, freezes).await?;
        line("worker silent until another has its task", "16 s", &took);
    }
    Ok(())
}

/// A server with a worker, which gets work however busy the machine is.
fn plan() -> Result<Plan> {
    let plan = Plan::new(sibling_binary()?).giving_work_to_the_busy();
    Ok(plan.with(&["--agent-ceiling", "shell", "--worker-slots", "16"]))
}

/// The server's own node.
async fn own_node(api: &Api) -> Result<String> {
    let begin = Instant::now();
    loop {
        let nodes = api.json("/api/nodes").await?;
        match &nodes["nodes"][0]["node_id"] {
            Value::String(node) => return Ok(node.clone()),
            _ if begin.elapsed() > DONE_MAX => bail!("the server's own node does not appear"),
            _ => wait::pass(LOOK),
        }
    }
}

async fn measure(name: &str, store: Option<&str>, rate: u64, seconds: u64, tasks: u64) -> Result<String> {
    let plan = plan()?;
    let plan = store.map_or(plan.clone(), |store| plan.with(&["--store", store]));
    let server = plan.start()?;
    let api = Api::plain(&server.http())?.with_token(&server.token("operate")?);
    let node = own_node(&api).await?;
    let task = json!({"task_type": "shell", "task_data": ":", "assigned_node": node});
    // The first one also waits for the worker.
    ask(&api, task.clone()).await?;
    done(&api, 1).await?;
    let mut turns = interval(Duration::from_secs_f64(1.0 / rate.max(1) as f64));
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..rate * seconds {
        turns.tick().await;
        let (api, task) = (api.clone(), task.clone());
        asking.spawn(async move { ask(&api, task).await });
    }
    while let Some(asked) = asking.join_next().await {
        asked.context("wait for an order")??;
    }
    done(&api, 1 + rate * seconds).await?;
    let (mut leased, mut started) = (Vec::new(), Vec::new());
    let mut cursor = String::new();
    loop {
        let page = api.json(&format!("/api/tasks?limit=500&cursor={cursor}")).await?;
        for task in page["tasks"].as_array().context("find tasks in the answer")? {
            let at = |value: &Value| value.as_i64();
            let created = at(&task["created_at"]).context("find when a task was made")?;
            leased.extend(at(&task["attempts"][0]["leased_at"]).map(|at| at - created));
            started.extend(at(&task["attempts"][0]["started_at"]).map(|at| at - created));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    leased.sort_unstable();
    started.sort_unstable();
    let begin = Instant::now();
    let mut left = tasks;
    while left > 0 {
        let count = left.min(BATCH);
        let batch: Vec<Value> = (0..count)
            .map(|_| json!({"task_type": "shell", "task_data": ":", "assigned_node": node}))
            .collect();
        ask(&api, json!({ "tasks": batch })).await?;
        left -= count;
    }
    done(&api, 1 + rate * seconds + tasks).await?;
    let per_s = tasks as f64 / begin.elapsed().as_secs_f64();
    let at = |sorted: &[i64], percent: usize| {
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    Ok(format!(
        "{name:>10} {:>13} ms {:>13} ms {:>13} ms {:>13} ms {per_s:>16.0}",
        at(&leased, 50),
        at(&leased, 99),
        at(&started, 50),
        at(&started, 99),
    ))
}

async fn ask(api: &Api, body: Value) -> Result<()> {
    let answer =
        api.request(Method::POST, "/api/tasks").json(&body).send().await.context("ask for a task")?;
    let status = answer.status();
    if !status.is_success() {
        bail!("a task was answered with {status}: {}", answer.text().await.unwrap_or_default());
    }
    Ok(())
}

/// Waits until so many tasks have ended well.
async fn done(api: &Api, wanted: u64) -> Result<()> {
    let begin = Instant::now();
    loop {
        let stats = api.json("/api/stats").await?;
        let succeeded = stats["tasks"]["succeeded"].as_u64().unwrap_or(0);
        if succeeded >= wanted {
            return Ok(());
        }
        if begin.elapsed() > DONE_MAX {
            bail!("{succeeded} of {wanted} tasks were done after {DONE_MAX:?}: {}", stats["tasks"]);
        }
        wait::pass(LOOK);
    }
}
