//! Backups of a server that takes events meanwhile, put back into another directory: what was accepted before is
//! there, and what is sent again is counted once.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use caelum_model::wire::{EventJson, TimingsJson};
use caelum_testkit::{
    api::Api,
    event::{Numbered, ndjson, now_ms},
    server::{Plan, Server},
    wait,
};
use reqwest::Method;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_caelum");
const BATCHES: usize = 60;
const BATCH: usize = 50;
const SOON: Duration = Duration::from_secs(60);

fn batches() -> Vec<Vec<u8>> {
    let first_ms = now_ms() - 600_000;
    let mut probes = [Numbered::new("van-1", 11), Numbered::new("van-2", 12)];
    (0..BATCHES)
        .map(|number| {
            let events: Vec<EventJson<'static>> = (0..BATCH)
                .map(|nth| {
                    let at = i64::try_from(number * BATCH + nth).expect("is small");
                    let timings = TimingsJson { tcp_ms: Some(12.0), ..TimingsJson::default() };
                    probes[nth % 2].event("https://one.example/", first_ms + at * 100, timings)
                })
                .collect();
            ndjson(&events)
        })
        .collect()
}

async fn deliver(api: &Api, body: &[u8]) {
    wait::until_answered("a batch is acknowledged", SOON, async || {
        let answered = api.post_events("application/x-ndjson", body.to_vec()).await.ok()?;
        (answered.0 == 202).then_some(())
    })
    .await;
}

async fn counted(api: &Api) -> u64 {
    let stats = api.json("/api/stats").await.expect("answers");
    stats["pipeline"]["counted"].as_u64().expect("a number")
}

/// Runs a command of the server's own machine; answers what it printed as JSON.
fn command(server: &Server, arguments: &[&str]) -> Value {
    let output = server.run(arguments).expect("it runs");
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_restored_from_a_backup_counts_everything_once() {
    let mut server = Plan::new(BINARY).start().expect("starts");
    let api = server.api().expect("a client");
    let write_token = server.token("ingest").expect("made");
    let writer = api.with_token(&write_token);
    let read_token = server.token("read").expect("made");
    let batches = batches();
    let (before, meanwhile) = batches.split_at(BATCHES / 2);
    for body in before {
        deliver(&writer, body).await;
    }
    // The other half arrives while the copy is made.
    let data = server.data();
    let copying = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(BINARY);
        command.env_clear().args(["backup", "--json", "--data"]).arg(data).output().expect("it runs")
    });
    for body in meanwhile {
        deliver(&writer, body).await;
    }
    let copied = copying.await.expect("ended");
    let said = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(copied.status.success(), "{said}");
    let made: Value = serde_json::from_slice(&copied.stdout).expect("JSON");
    let file = PathBuf::from(made["path"].as_str().expect("a path"));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o077, 0, "it holds secrets");
    server.kill();

    let there = tempfile::tempdir().expect("a folder");
    let data = there.path().join("data");
    let (file_text, data_text) = (file.to_str().expect("text"), data.to_str().expect("text"));
    let checked = command(&server, &["backup", "check", file_text, "--json"]);
    let names: Vec<&str> = checked["files"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|file| file["name"].as_str())
        .collect();
    for name in ["caelum.db", "queue.db", "secrets/ca.key", "secrets/cluster.keys"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(BINARY);
        command.env_clear().args(arguments).output().expect("it runs")
    };
    let restored = run(&["restore", file_text, "--data", data_text]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let again = run(&["restore", file_text, "--data", data_text]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("--replace"), "{said}");

    let back = Plan::new(BINARY).with_data(&data).start().expect("starts from the backup");
    let api = back.api().expect("a client: it is the same authority");
    let (reader, writer) = (api.with_token(&read_token), api.with_token(&write_token));
    let promised = (before.len() * BATCH) as u64;
    wait::until_answered("what was accepted before the backup is counted", SOON, async || {
        (counted(&reader).await >= promised).then_some(())
    })
    .await;
    // Probes send again what nobody acknowledged; here, all of it.
    for body in &batches {
        deliver(&writer, body).await;
    }
    let all = (BATCHES * BATCH) as u64;
    wait::until_answered("all is counted", SOON, async || (counted(&reader).await >= all).then_some(()))
        .await;
    let waiting = async || reader.json("/api/stats").await.expect("answers")["pipeline"].clone();
    wait::until_answered("every duplicate was looked at", SOON, async || {
        let pipeline = waiting().await;
        let looked_at = ["counted", "duplicates", "duplicate_on_arrival"].map(|name| pipeline[name].as_u64());
        (looked_at.into_iter().flatten().sum::<u64>() >= all + promised).then_some(())
    })
    .await;
    assert_eq!(counted(&reader).await, all, "and nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_an_administrators_matter_and_one_may_be_made_over_the_network() {
    let server = Plan::new(BINARY).start().expect("starts");
    let api = server.api().expect("a client");
    let status = async |scope: &str, method: Method| {
        let api = api.with_token(&server.token(scope).expect("made"));
        let answer = api.request(method, "/api/backups").send().await.expect("answers");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    for scope in ["read", "operate"] {
        assert_eq!(status(scope, Method::GET).await.0, 403, "{scope}");
        assert_eq!(status(scope, Method::POST).await.0, 403, "{scope}");
    }
    let (code, made) = status("admin", Method::POST).await;
    assert_eq!(code, 200, "{made}");
    let (_, listed) = status("admin", Method::GET).await;
    assert_eq!(listed["backups"][0]["name"], made["name"]);
    assert_eq!((listed["every_h"].as_u64(), listed["due_ms"].as_i64()), (Some(0), None));
    let reader = api.with_token(&server.token("admin").expect("made"));
    let audit = reader.json("/api/audit").await.expect("answers").to_string();
    assert!(audit.contains("backup.make") && audit.contains(made["name"].as_str().expect("text")), "{audit}");
    let data = server.data().display().to_string();
    let listed = command(&server, &["backup", "list", "--json", "--data", &data]);
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{listed}");
}
