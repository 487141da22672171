//! People are told once: many alerts come and go while servers are killed with notices under way.
//!
//! Three servers on PostgreSQL and NATS, real agents, and a receiver of notices that keeps a ledger. Agents'
//! thresholds are moved so that their metrics reach them and reach them no more; meanwhile a random server is
//! killed (`kill -9`) again and again, every second time while the receiver has a notice and has not yet answered.
//! `CAELUM_TOLD_AGENTS` and `CAELUM_TOLD_ROUNDS` make it longer: three incidents of an agent and round.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use caelum_testkit::{
    api::Api,
    fleet::{Fleet, PATIENCE, invite},
    measure,
    receiver::{Receiver, Told},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::fleet;

/// How long the receiver takes for an answer: long enough to be killed in.
const ANSWERS_AFTER: Duration = Duration::from_millis(120);
/// Longest for a round of alerts, which may have to wait for another leader several times.
const ROUND_MAX: Duration = Duration::from_secs(300);
/// Metrics that reach their threshold together. Processor use is left out here and in the oracle: on a busy machine
/// it is at 100 %, which is the highest threshold that there is, now and then without our help.
const METRICS: [&str; 3] = ["memory", "disk", "load"];

/// Thresholds that every machine reaches, or none.
fn thresholds(are_reached: bool) -> Value {
    let of = |most: f64| match are_reached {
        true => json!({ "warning": 0.0, "critical": 0.0 }),
        false => json!({ "warning": most, "critical": most }),
    };
    json!({
        "cpu": { "warning": 100.0, "critical": 100.0 }, "memory": of(100.0), "disk": of(100.0), "load": of(1e6),
        "load_per_core": false, "heartbeat_timeout_s": 3_600,
        "alert_hold_s": 0, "alert_clear_s": 0, "alert_margin": 0.0,
    })
}

fn is_processor(alert: &Value) -> bool {
    alert["metric"] == "cpu"
}

fn id_of(alert: &Value) -> &str {
    alert["alert_id"].as_str().expect("an id")
}

fn seeded(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Sends it to one server after the other until one has done it: they are killed all the time.
async fn until_done(apis: &[Api], method: &Method, path: &str, body: &Value) {
    let mut turn = 0;
    wait::until_answered(&format!("{method} {path} is done"), PATIENCE, async || {
        turn += 1;
        let request = apis[turn % apis.len()].request(method.clone(), path).json(body);
        let answer = request.timeout(Duration::from_secs(10)).send().await.ok()?;
        assert!(!answer.status().is_client_error(), "{path}: {answer:?}");
        answer.status().is_success().then_some(())
    })
    .await;
}

/// What some server says.
async fn said(apis: &[Api], path: &str) -> Option<Value> {
    for api in apis {
        let answer = api.request(Method::GET, path).timeout(Duration::from_secs(10)).send().await;
        if let Ok(answer) = answer
            && answer.status().is_success()
            && let Ok(text) = answer.text().await
        {
            return serde_json::from_str(&text).ok();
        }
    }
    None
}

/// Every page of a list.
async fn listed(api: &Api, path: &str, name: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.json(&format!("{path}&limit=500&cursor={cursor}")).await.expect("answers");
        all.extend(page[name].as_array().expect("a list").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return all,
        }
    }
}

/// Kills one server after the other until told to stop; answers how often.
async fn kill_at_random(fleet: &mut Fleet, receiver: &Receiver, is_over: &AtomicBool) -> u64 {
    let (mut seed, mut kills) = (measure::variable("CAELUM_TOLD_SEED", 20_261_121), 0);
    while !is_over.load(Ordering::SeqCst) {
        let pause = Duration::from_millis(200 + seeded(&mut seed) % 1_500);
        if kills % 2 == 0 {
            receiver.arrives(pause).await;
        } else {
            tokio::task::block_in_place(|| wait::pass(pause));
        }
        let victim = seeded(&mut seed) as usize % fleet.servers.len();
        tokio::task::block_in_place(|| {
            fleet.servers[victim].kill();
            fleet.servers[victim].start().expect("the server starts again");
        });
        kills += 1;
    }
    kills
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_incident_is_told_of_once_and_its_end_once_whoever_is_killed() {
    let agents = usize::try_from(measure::variable("CAELUM_TOLD_AGENTS", 4)).expect("few");
    let rounds = usize::try_from(measure::variable("CAELUM_TOLD_ROUNDS", 2)).expect("few");
    let receiver = Arc::new(Receiver::start(ANSWERS_AFTER).await.expect("listens"));
    let mut fleet = fleet(3, &[]).await;
    let apis: Vec<Api> = (0..3).map(|nth| fleet.admin(nth).expect("a client")).collect();
    let told = json!({ "channels": [{ "name": "ledger", "kind": "webhook", "url": receiver.url() }] });
    until_done(&apis, &Method::PUT, "/api/nodes/thresholds", &thresholds(false)).await;
    until_done(&apis, &Method::PUT, "/api/settings/notices", &told).await;

    let folder = tempfile::tempdir().expect("a folder");
    let mut ids = Vec::new();
    let mut running = Vec::new();
    for number in 0..agents {
        let server = &fleet.servers[number % 3];
        let token = invite(server, "agent").expect("made");
        let data = folder.path().join(format!("agent-{number}"));
        let data = data.to_str().expect("plain names");
        let joined = server.run(&["join", &token, "--data", data]).expect("runs");
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        let name = format!("agent-{number}");
        let rest = ["--listen", "127.0.0.1:0", "--no-probe", "--beacon-enabled", "false", "--name", &name];
        let begun = [&["agent", "--data", data][..], &rest].concat();
        running.push(server.spawn(&name, &begun).expect("starts"));
        let id = std::path::Path::new(data).join("secrets/node.id");
        ids.push(std::fs::read_to_string(id).expect("is there"));
    }
    for id in &ids {
        wait::until_answered("the agent is heard", PATIENCE, async || {
            let node = said(&apis, &format!("/api/nodes/{id}")).await?;
            node["cpu_usage"].is_number().then_some(())
        })
        .await;
    }

    let is_over = Arc::new(AtomicBool::new(false));
    let killing = {
        let (receiver, is_over) = (Arc::clone(&receiver), Arc::clone(&is_over));
        tokio::spawn(async move {
            let kills = kill_at_random(&mut fleet, &receiver, &is_over).await;
            (fleet, kills)
        })
    };
    let begun = Instant::now();
    for _ in 0..rounds {
        for (are_reached, wanted) in [(true, agents * METRICS.len()), (false, 0)] {
            for id in &ids {
                let wish = json!({ "thresholds": thresholds(are_reached) });
                until_done(&apis, &Method::PATCH, &format!("/api/nodes/{id}"), &wish).await;
            }
            wait::until_answered("as many alerts stand", ROUND_MAX, async || {
                let alerts = said(&apis, "/api/nodes/alerts?status=open&limit=500").await?;
                let is_ours = |alert: &&Value| {
                    ids.iter().any(|id| alert["node_id"] == id.as_str())
                        && METRICS.iter().any(|metric| alert["metric"] == *metric)
                };
                (alerts["alerts"].as_array()?.iter().filter(is_ours).count() == wanted).then_some(())
            })
            .await;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let (fleet, kills) = killing.await.expect("no panic");
    let took = begun.elapsed();

    let api = fleet.admin(0).expect("a client");
    wait::until_answered("every alert is over", ROUND_MAX, async || {
        let open = api.json("/api/nodes/alerts?status=open&limit=500").await.ok()?;
        open["alerts"].as_array()?.iter().all(is_processor).then_some(())
    })
    .await;
    let mut alerts = listed(&api, "/api/nodes/alerts?status=", "alerts").await;
    let of_processors: BTreeSet<String> =
        alerts.extract_if(.., |alert| is_processor(alert)).map(|alert| id_of(&alert).to_owned()).collect();
    let concerned: BTreeSet<String> = alerts.iter().map(|alert| id_of(alert).to_owned()).collect();
    wait::until_answered("nothing waits to be told", ROUND_MAX, async || {
        let waiting = api.json("/api/notices?status=waiting&limit=500").await.ok()?;
        let is_ours = |notice: &Value| notice["subject_id"].as_str().is_some_and(|id| concerned.contains(id));
        (!waiting["notices"].as_array()?.iter().any(is_ours)).then_some(())
    })
    .await;
    let mut ledger = receiver.told();
    ledger.retain(|told| !of_processors.contains(&told.subject_id));
    let ours = alerts.iter().filter(|alert| METRICS.iter().any(|metric| alert["metric"] == *metric)).count();
    assert!(ours >= agents * METRICS.len() * rounds, "{ours} alerts");
    let repeats = judge(&alerts, &ledger, kills);
    eprintln!(
        "{ours} incidents of agents and {} of servers, {kills} kills, {took:?}: each was told of once, and its \
         end once; {repeats} notices arrived twice under their own id",
        alerts.len() - ours
    );
}

/// Each alert has one failure, and one recovery after it where it ended well; nobody is told of anything else.
/// Answers how many requests were repeats, which carry the id of the first.
fn judge(alerts: &[Value], ledger: &[Told], kills: u64) -> usize {
    let mut first: BTreeMap<&str, Vec<&Told>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for told in ledger {
        if seen.insert(&told.notice_id) {
            first.entry(&told.subject_id).or_default().push(told);
        }
    }
    for alert in alerts {
        let id = id_of(alert);
        let told: Vec<&str> =
            first.remove(id).unwrap_or_default().iter().map(|told| told.kind.as_str()).collect();
        let wanted: &[&str] =
            if alert["resolved_because"] == "recovered" { &["failure", "recovery"] } else { &["failure"] };
        assert_eq!(told, wanted, "{alert}");
    }
    assert!(first.is_empty(), "told of what is no alert: {first:?}");
    let repeats = ledger.len() - seen.len();
    // Only who was killed between the request and its receipt leaves a notice to another; eight are under way.
    assert!(repeats as u64 <= kills * 8, "{repeats} repeats in {kills} kills");
    repeats
}
