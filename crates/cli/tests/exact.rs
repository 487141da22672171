//! What is accepted is counted exactly once, whatever happens to the process.
//!
//! Events of several probes, numbered ones and plain ones, are delivered with duplicates and in no order,
//! while the real process is killed again and again in the middle of a request. Afterwards every window's
//! counts equal those of the distinct events, and its percentiles are within the promised error.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use caelum_model::wire::{EventJson, TimingsJson};
use caelum_testkit::{
    api::Api,
    event::{Numbered, ndjson, now_ms, plain},
    server::{Plan, Server},
    wait,
};
use serde_json::Value;
use tokio::task::JoinSet;

const EVENTS: usize = 10_000;
const DUPLICATES: usize = 2_000;
const BATCH: usize = 100;
const KILLS: usize = 5;
const MINUTE_MS: i64 = 60_000;
/// Windows that the events fall into, ending now.
const WINDOWS: i64 = 10;
const TARGETS: [&str; 2] = ["https://one.example/", "https://two.example/path"];
/// Promised relative error of a percentile.
const ERROR: f64 = 0.006;

/// A sequence that looks random and is the same in every run.
struct Shuffler(u64);

impl Shuffler {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// What identifies a window: probe, target, start.
type Window = (String, String, i64);

fn events(shuffler: &mut Shuffler, first_ms: i64) -> Vec<EventJson<'static>> {
    let mut numbered = [Numbered::new("numbered-1", 11), Numbered::new("numbered-2", 12)];
    (0..EVENTS)
        .map(|_| {
            let target = TARGETS[shuffler.below(TARGETS.len())];
            let span = usize::try_from(WINDOWS * MINUTE_MS).expect("is small");
            let ts_ms = first_ms + i64::try_from(shuffler.below(span)).expect("is small");
            let tcp_ms = 5.0 + shuffler.below(100_000) as f64 / 1000.0;
            let timings = TimingsJson { tcp_ms: Some(tcp_ms), dns_ms: Some(1.5), ..TimingsJson::default() };
            match shuffler.below(3) {
                2 => plain("plain-1", target, ts_ms, timings),
                nth => numbered[nth].event(target, ts_ms, timings),
            }
        })
        .collect()
}

/// Posts a batch until it is acknowledged; a server that says "later" is asked again.
async fn deliver(api: &Api, body: &[u8]) {
    wait::until_answered("a batch is acknowledged", Duration::from_secs(60), async || {
        match api.post_events("application/x-ndjson", body.to_vec()).await {
            Ok((202, answer)) => {
                assert!(answer["rejected"].is_null(), "{answer}");
                Some(())
            }
            Ok((429 | 503, _)) => None,
            Ok((status, answer)) => panic!("a batch was answered with {status}: {answer}"),
            Err(error) => panic!("a batch was not answered: {error:#}"),
        }
    })
    .await;
}

/// Sends several batches at once and kills the server when the first is answered, so that the others are
/// wherever they are: on the way, in memory, in the log without an answer. Then brings it back.
async fn kill_amid(server: &mut Server, api: &Api, bodies: &[Vec<u8>]) {
    let mut posts = JoinSet::new();
    for body in bodies {
        let (api, body) = (api.clone(), body.clone());
        posts.spawn(async move { api.post_events("application/x-ndjson", body).await });
    }
    posts.join_next().await;
    server.kill();
    // Answers that were lost on the way say nothing: every batch is delivered again.
    posts.join_all().await;
    server.start().expect("starts again after a kill");
}

async fn rollups(api: &Api) -> HashMap<Window, Value> {
    let mut rows = HashMap::new();
    let mut cursor = String::new();
    loop {
        let page = api.json(&format!("/api/rollups?limit=500{cursor}")).await.expect("answers");
        for row in page["rollups"].as_array().expect("a list") {
            let text = |name: &str| row[name].as_str().expect("text").to_owned();
            let start = row["window_start_ms"].as_i64().expect("a number");
            let known = rows.insert((text("client_id"), text("target"), start), row.clone());
            assert!(known.is_none(), "a window is listed twice: {row}");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_equal_one_pass_over_the_distinct_events_whatever_is_killed() {
    let mut shuffler = Shuffler(0x5EED_CAE1);
    let mut server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("starts");
    let api = server.api().expect("the authority is there");
    let reader = api.with_token(&server.token("read").expect("made"));
    let writer = api.with_token(&server.token("ingest").expect("made"));

    let first_ms = (now_ms() / MINUTE_MS - WINDOWS) * MINUTE_MS;
    let events = events(&mut shuffler, first_ms);
    let mut deliveries: Vec<&EventJson<'static>> = events.iter().collect();
    deliveries.extend((0..DUPLICATES).map(|_| &events[shuffler.below(EVENTS)]));
    shuffler.shuffle(&mut deliveries);

    let batches: Vec<Vec<u8>> = deliveries.chunks(BATCH).map(|batch| ndjson(batch.iter().copied())).collect();
    let mut kills = 0;
    for part in batches.chunks(batches.len() / KILLS) {
        if kills < KILLS {
            kill_amid(&mut server, &writer, &part[..8]).await;
            kills += 1;
        }
        for body in part {
            deliver(&writer, body).await;
        }
    }
    assert_eq!(kills, KILLS);

    let counted = async || {
        let stats = reader.json("/api/stats").await.expect("answers");
        stats["pipeline"]["counted"].as_u64().expect("a number")
    };
    wait::until_answered("every event is counted", Duration::from_secs(60), async || {
        (counted().await >= EVENTS as u64).then_some(())
    })
    .await;

    let mut expected: BTreeMap<Window, Vec<f64>> = BTreeMap::new();
    for event in &events {
        let window = (
            event.client_id.to_string(),
            event.target.to_string(),
            event.ts_ms.div_euclid(MINUTE_MS) * MINUTE_MS,
        );
        expected.entry(window).or_default().push(event.timings.tcp_ms.expect("every event has one"));
    }
    let rows = rollups(&reader).await;
    assert_eq!(rows.len(), expected.len());
    for (window, mut values) in expected {
        let row = &rows[&window];
        values.sort_by(f64::total_cmp);
        let tcp = &row["measures"]["tcp"];
        assert_eq!(row["count_total"].as_u64(), Some(values.len() as u64), "{window:?}: {row}");
        assert_eq!(row["count_success"], row["count_total"], "{window:?}: {row}");
        assert_eq!(tcp["count"], row["count_total"], "{window:?}: {row}");
        for (name, q) in [("p50", 0.50), ("p90", 0.90), ("p95", 0.95), ("p99", 0.99)] {
            let Some(found) = tcp[name].as_f64() else { continue };
            let rank = (q * values.len() as f64).ceil() as usize;
            let exact = values[rank.clamp(1, values.len()) - 1];
            assert!((found - exact).abs() <= exact * ERROR, "{window:?} {name}: {found} for {exact}");
        }
    }
    assert_eq!(counted().await, EVENTS as u64);
}
