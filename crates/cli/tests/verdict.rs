//! A target that becomes slow at one stage gets that stage's verdict and no other, through the real program:
//! HTTP in, queue, windows, diagnoser, HTTP out. Time is compressed through the events' own time stamps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use caelum_testkit::{
    api::Api,
    event::{ndjson, now_ms},
    server::Plan,
    story::{CASES, Story},
    wait,
};
use serde_json::Value;

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
    // Two minutes after the fault, so that its last window is past.
    let story = Story::until(now_ms(), 2);
    let sender = api.with_token(&token);
    for part in story.events.chunks(500) {
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
        wait::until_answered("every slow target has its verdict", Duration::from_secs(90), async || {
            let found = diagnoses(&person, story.start_ms).await;
            (labels_by_target(&found).len() >= expected.len()).then_some(found)
        })
        .await;
    assert_eq!(labels_by_target(&found), expected);
    for diagnosis in &found {
        let window = diagnosis["window_start_ms"].as_i64().expect("a time");
        assert!(story.fault.contains(&window), "a verdict outside the fault: {diagnosis}");
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
