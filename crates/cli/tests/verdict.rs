//! A target that becomes slow at one stage gets that stage's verdict and no other, through the real program:
//! HTTP in, queue, windows, diagnoser, HTTP out. Time is compressed through the events' own time stamps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use caelum_model::wire::{EventJson, TimingsJson};
use caelum_testkit::{
    api::Api,
    event::{Numbered, USUAL, ndjson, now_ms},
    server::Plan,
    wait,
};
use serde_json::Value;

const MINUTE_MS: i64 = 60_000;
const BASELINE_MINUTES: i64 = 12;
const FAULT_MINUTES: i64 = 5;
/// Two minutes after the fault, so that its last window is past.
const AFTER_MINUTES: i64 = 2;
const EVERY_MS: i64 = 10_000;
const USUAL_KBPS: f64 = 80_000.0;

/// What is done to a target while the fault lasts.
#[derive(Clone, Copy)]
struct Case {
    host: &'static str,
    label: Option<&'static str>,
    slow: fn(&mut TimingsJson, &mut f64),
}

const CASES: [Case; 7] = [
    Case { host: "dns", label: Some("DNS-bound"), slow: |t, _| add(&mut t.dns_ms, 300.0) },
    Case { host: "connect", label: Some("Handshake-bound"), slow: |t, _| add(&mut t.tcp_ms, 250.0) },
    Case { host: "tls", label: Some("Handshake-bound"), slow: |t, _| add(&mut t.tls_ms, 250.0) },
    Case { host: "server", label: Some("Server-bound"), slow: |t, _| add(&mut t.http_ttfb_ms, 600.0) },
    Case { host: "throughput", label: Some("Throughput-bound"), slow: |_, kbps| *kbps /= 8.0 },
    Case { host: "healthy", label: None, slow: |_, _| {} },
    Case { host: "healthy-too", label: None, slow: |_, _| {} },
];

fn add(stage: &mut Option<f64>, more_ms: f64) {
    *stage = stage.map(|ms| ms + more_ms);
}

impl Case {
    fn url(self) -> String {
        format!("https://{}.example.net/", self.host)
    }
}

/// Small, repeatable unrest: measurements are never twice the same.
struct Unrest(u64);

impl Unrest {
    /// Between 0.9 and 1.15.
    fn factor(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        0.9 + 0.25 * (self.0 >> 40) as f64 / f64::from(1u32 << 24)
    }
}

/// Every event of the story, oldest first.
fn story(start_ms: i64) -> Vec<EventJson<'static>> {
    let mut probe = Numbered::new("probe-1", 1);
    let mut unrest = Unrest(42);
    let fault = BASELINE_MINUTES * MINUTE_MS..(BASELINE_MINUTES + FAULT_MINUTES) * MINUTE_MS;
    let end_ms = fault.end + AFTER_MINUTES * MINUTE_MS;
    let mut events = Vec::new();
    for at_ms in (0..end_ms).step_by(usize::try_from(EVERY_MS).expect("positive")) {
        for case in CASES {
            let mut timings = USUAL;
            let mut kbps = USUAL_KBPS * unrest.factor();
            for stage in
                [&mut timings.dns_ms, &mut timings.tcp_ms, &mut timings.tls_ms, &mut timings.http_ttfb_ms]
            {
                *stage = stage.map(|ms| ms * unrest.factor());
            }
            if fault.contains(&at_ms) {
                (case.slow)(&mut timings, &mut kbps);
            }
            let mut event = probe.event(&case.url(), start_ms + at_ms, timings);
            event.throughput_kbps = Some(kbps);
            events.push(event);
        }
    }
    events
}

async fn diagnoses(api: &Api, from_ms: i64) -> Vec<Value> {
    let path = format!("/api/diagnoses?from={from_ms}&limit=500");
    let answer = api.json(&path).await.expect("diagnoses are listed");
    answer["diagnoses"].as_array().expect("a list").clone()
}

fn labels_by_target(diagnoses: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for diagnosis in diagnoses {
        let text = |member: &str| diagnosis[member].as_str().unwrap_or("").to_owned();
        labels.entry(text("target")).or_default().insert(text("label"));
    }
    labels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_becomes_slow_at_one_stage_gets_that_verdict_and_no_other() {
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("starts");
    let token = server.token("ingest").expect("a token");
    let api = server.api().expect("a client");
    // Whole minutes, the last of them just past.
    let minutes = BASELINE_MINUTES + FAULT_MINUTES + AFTER_MINUTES;
    let start_ms = (now_ms() / MINUTE_MS - minutes) * MINUTE_MS;
    let sender = api.with_token(&token);
    for part in story(start_ms).chunks(500) {
        let (status, answer) =
            sender.post_events("application/x-ndjson", ndjson(part)).await.expect("answered");
        assert_eq!(status, 202, "{answer}");
    }
    let person = api.signed_in().await.expect("signed in");
    let expected: BTreeMap<String, BTreeSet<String>> = CASES
        .into_iter()
        .filter_map(|case| Some((case.url(), BTreeSet::from([case.label?.to_owned()]))))
        .collect();
    let found =
        wait::until_answered("every slow target has its verdict", Duration::from_secs(30), async || {
            let found = diagnoses(&person, start_ms).await;
            (labels_by_target(&found).len() >= expected.len()).then_some(found)
        })
        .await;
    assert_eq!(labels_by_target(&found), expected);
    let fault =
        start_ms + BASELINE_MINUTES * MINUTE_MS..start_ms + (BASELINE_MINUTES + FAULT_MINUTES) * MINUTE_MS;
    for diagnosis in &found {
        let window = diagnosis["window_start_ms"].as_i64().expect("a time");
        assert!(fault.contains(&window), "a verdict outside the fault: {diagnosis}");
        let sentence = diagnosis["sentence"].as_str().expect("a sentence");
        assert!(sentence.contains(diagnosis["label"].as_str().expect("a label")), "{sentence}");
    }
    let handshakes: BTreeMap<_, _> = found
        .iter()
        .filter(|diagnosis| diagnosis["label"] == "Handshake-bound")
        .map(|diagnosis| (diagnosis["target"].clone().to_string(), diagnosis["sublabel"].clone().to_string()))
        .collect();
    let sublabels: BTreeSet<_> = handshakes.values().collect();
    assert_eq!(sublabels.len(), 2, "connect and TLS are told apart: {handshakes:?}");
}
