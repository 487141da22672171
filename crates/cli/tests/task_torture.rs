//! Tasks outlive everything: servers and three agents run many small tasks while a random one of them is killed
//! again and again. Once with one server and its own file, once with two servers on one PostgreSQL.
//!
//! The oracle is a ledger that the tasks write themselves, a line for each time that one ran, with its fencing
//! number. Every task ends as it should, its end stands on a run that the ledger knows, and no task runs twice
//! under one number. `CAELUM_TORTURE_TASKS` and `CAELUM_TORTURE_PAUSE_MS` make it longer or harder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use caelum_testkit::{
    api::Api,
    fleet::{Fleet, invite},
    postgres,
    process::Process,
    server::{Plan, Server},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_caelum");
const AGENTS: usize = 3;
/// Longest that everything may take after the last kill.
const END_MAX: Duration = Duration::from_secs(240);
/// Tasks of one request.
const BATCH: usize = 100;

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Busy machines are no place for work otherwise, and this one is busy.
fn calm() -> Vec<String> {
    let percents = ["cpu", "memory", "disk"]
        .iter()
        .flat_map(|what| [format!("--health-{what}-critical"), "100".to_owned()]);
    percents.chain(["--health-load-critical".to_owned(), "10000".to_owned()]).collect()
}

fn agent(server: &Server, number: usize) -> Process {
    let folder = server.folder().join(format!("agent-{number}"));
    let folder = folder.to_str().expect("plain names");
    let name = format!("agent-{number}");
    let arguments = ["agent", "--data", folder, "--port", "0", "--no-probe", "--name", &name];
    let worker = ["--ceiling", "shell", "--worker-slots", "4"];
    server.spawn(&name, &[&arguments[..], &worker].concat()).expect("an agent starts")
}

/// What the task of this number does: most end well, every tenth takes its time, every twentieth fails.
fn order(number: usize, ledger: &Path) -> Value {
    let write = format!("echo $CAELUM_TASK_ID $CAELUM_TASK_FENCE >> {}", ledger.display());
    let (kind, data) = match number % 20 {
        7 => ("shell", json!({ "command": format!("{write}; exit 3") })),
        3 | 13 => ("shell", json!({ "command": format!("{write}; sleep 0.3") })),
        n if n % 2 == 0 => ("script", json!({ "script": format!("{write}\n") })),
        _ => ("shell", json!({ "command": write })),
    };
    json!({
        "task_type": kind, "task_data": data, "max_retries": 0,
        "idempotency_key": format!("torture-{number}"),
    })
}

fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Asks until the server is there to say yes; the keys make that harmless.
async fn ask(api: &Api, orders: &[Value]) -> Vec<String> {
    wait::until_answered("tasks are taken", END_MAX, async || {
        let answer =
            api.request(Method::POST, "/api/tasks").json(&json!({ "tasks": orders })).send().await.ok()?;
        let text = answer.status().is_success().then_some(answer)?.text().await.ok()?;
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let ids = answer["tasks"].as_array().expect("a list").iter();
        Some(ids.map(|task| task["task_id"].as_str().expect("an id").to_owned()).collect())
    })
    .await
}

/// Work is done by servers, too, and a machine under tests is always busy.
const VARIABLES: [(&str, &str); 2] = [("CAELUM_AGENT_CEILING", "shell"), ("CAELUM_WORKER_SLOTS", "4")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_done_once_whoever_is_killed() {
    let plan =
        VARIABLES.iter().fold(Plan::new(BINARY), |plan, (name, value)| plan.with_variable(name, value));
    let server =
        plan.with(&calm().iter().map(String::as_str).collect::<Vec<_>>()).start().expect("the server starts");
    eprintln!("{}", torture(&mut [server], setting("CAELUM_TORTURE_TASKS", 1_000)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_done_once_on_two_servers_that_share_their_records() {
    let calm: Vec<(String, String)> = calm()
        .chunks(2)
        .map(|pair| {
            (
                format!("CAELUM{}", pair[0].replace("--", "_").replace('-', "_").to_uppercase()),
                pair[1].clone(),
            )
        })
        .collect();
    let calm = calm.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let variables: Vec<(&str, &str)> = VARIABLES.into_iter().chain(calm).collect();
    let records = postgres::Plan::new().durable().start().expect("PostgreSQL starts");
    let mut fleet = Fleet::start(BINARY, records, 2, &variables).expect("the servers start");
    let tasks = setting("CAELUM_TORTURE_SHARED_TASKS", 600);
    eprintln!("{}", torture(&mut fleet.servers, tasks).await);
}

/// Answers what it was, for whoever measures.
async fn torture(servers: &mut [Server], tasks: u64) -> String {
    let tasks = usize::try_from(tasks).expect("a small number");
    let pause = Duration::from_millis(setting("CAELUM_TORTURE_PAUSE_MS", 400));
    for number in 0..AGENTS {
        let server = &servers[0];
        let token = invite(server, "agent").expect("a token is printed");
        let folder = server.folder().join(format!("agent-{number}"));
        let folder = folder.to_str().expect("plain names");
        let joined = server.run(&["join", &token, "--data", folder, "--ceiling", "shell"]).expect("runs");
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    }
    let mut agents: Vec<Process> = (0..AGENTS).map(|number| agent(&servers[0], number)).collect();
    let token = servers[0].token("operate").expect("a token");
    let apis: Vec<Api> =
        servers.iter().map(|server| server.api().expect("an address").with_token(&token)).collect();
    let api = &apis[0];
    let ledger = servers[0].folder().join("ledger");

    let orders: Vec<Value> = (0..tasks).map(|number| order(number, &ledger)).collect();
    let mut ids = Vec::new();
    let mut seed = setting("CAELUM_TORTURE_SEED", 20_261_121);
    let (mut kills, mut done) = (0, 0);
    let begin = Instant::now();
    let mut batches = orders.chunks(BATCH);
    loop {
        match batches.next() {
            Some(batch) => ids.extend(ask(&apis[kills % apis.len()], batch).await),
            None if done == tasks => break,
            None => {}
        }
        wait::pass(pause);
        match mix(&mut seed) as usize % (AGENTS + servers.len()) {
            number if number < AGENTS => {
                agents[number].kill();
                agents[number] = agent(&servers[0], number);
            }
            number => {
                let server = &mut servers[number - AGENTS];
                server.kill();
                server.start().expect("the server starts again");
            }
        }
        kills += 1;
        assert!(begin.elapsed() < END_MAX * 2, "{done} of {tasks} are done after {kills} kills");
        if let Ok(text) = std::fs::read_to_string(&ledger) {
            // Near enough: what is not yet said to be done is looked for at the end.
            done = text.lines().filter_map(|line| line.split(' ').next()).collect::<BTreeSet<_>>().len();
        }
    }
    let took = begin.elapsed();

    let mut ran: BTreeMap<(String, u64), u32> = BTreeMap::new();
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for (number, id) in ids.iter().enumerate() {
        let task = wait::until_answered("the task ends", END_MAX, async || {
            let task = api.json(&format!("/api/tasks/{id}")).await.ok()?;
            let is_over = !["queued", "leased", "running"].iter().any(|state| task["status"] == *state);
            is_over.then_some(task)
        })
        .await;
        let wanted = if number % 20 == 7 { "failed" } else { "succeeded" };
        assert_eq!(task["status"], wanted, "{task}");
        *ends.entry(wanted.to_owned()).or_default() += 1;
        let attempts = task["attempts"].as_array().expect("a list");
        let ended: Vec<&Value> = attempts.iter().filter(|attempt| attempt["outcome"] == wanted).collect();
        let [ended] = ended.as_slice() else { panic!("it ended {} times: {task}", ended.len()) };
        ran.insert((id.clone(), ended["fence"].as_u64().expect("a number")), 0);
    }
    let text = std::fs::read_to_string(&ledger).expect("is there");
    let mut lines: BTreeMap<(String, u64), u32> = BTreeMap::new();
    for line in text.lines() {
        let (id, fence) = line.split_once(' ').expect("two words");
        *lines.entry((id.to_owned(), fence.parse().expect("a number"))).or_default() += 1;
    }
    let twice: Vec<_> = lines.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "run twice under one number: {twice:?}");
    let unsaid: Vec<_> = ran.keys().filter(|run| !lines.contains_key(*run)).collect();
    assert!(unsaid.is_empty(), "ended without having run: {unsaid:?}");
    format!("{tasks} tasks, {kills} kills, {took:?}; {ends:?}; {} runs in all", lines.len())
}
