//! `caelum probe`: a machine that is a probe and nothing else, and a look at once.

use std::{process::Command, time::Duration};

use caelum_testkit::{
    api::Api,
    server::Plan,
    target::{Script, Target},
    wait,
};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_caelum");

/// Runs `caelum probe once`; answers its exit code and what it printed.
fn once(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.env_clear().args(["probe", "once"]).args(arguments);
    let output = command.output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_without_a_node_measures_for_a_server_and_waits_for_it_when_it_is_away() {
    let measured = Target::start(Script::default()).await.expect("starts");
    let mut server = Plan::new(BINARY).start().expect("starts");
    let token = server.token("ingest").expect("a token");
    let data = server.folder().join("probe");
    std::fs::create_dir_all(&data).expect("a folder");
    let settings = format!(
        "[probe]\ninterval_s = 1\ntimeout_ms = 1000\nmetrics_listen = [\"127.0.0.1:0\"]\n\n\
         [[probe.targets]]\nurl = \"{}\"\ntrace_every_s = 60\n",
        measured.url()
    );
    std::fs::write(data.join("caelum.toml"), settings).expect("written");
    let ca = server.data().join("secrets/ca.pem");
    let (ca, data_text) = (ca.to_str().expect("text"), data.to_str().expect("text"));
    let https = server.https();
    let arguments = ["probe", "--server", &https, "--token", &token, "--ca", ca];
    let arguments = [&arguments[..], &["--name", "van-7", "--data", data_text]].concat();
    let probe = server.spawn("probe", &arguments).expect("starts");

    let api = server.api().expect("a client").signed_in().await.expect("signed in");
    let counted = async |at_least: u64| {
        wait::until_answered("measurements are counted", Duration::from_secs(60), async || {
            let probes = api.json("/api/probes").await.ok()?;
            let list = probes["probes"].as_array()?.clone();
            let ours = list.into_iter().find(|probe| probe["client_id"] == "van-7")?;
            (ours["counted"].as_u64()? >= at_least).then_some(ours)
        })
        .await
    };
    counted(2).await;
    let ready: Value = wait::until("it says where it answers", Duration::from_secs(20), || {
        serde_json::from_str(&std::fs::read_to_string(data.join("run/ready.json")).ok()?).ok()
    });
    let metrics = Api::plain(ready["metrics"][0].as_str().expect("an address")).expect("a client");

    server.kill();
    let before = measured.answered();
    wait::until("it measures on", Duration::from_secs(60), || {
        (measured.answered() >= before + 3).then_some(())
    });
    wait::until_answered("it says what waits", Duration::from_secs(60), async || {
        let text = metrics.answer("/metrics").await.ok()?.text().await.ok()?;
        let line = text.lines().find(|line| line.starts_with("caelum_probe_spool_events "))?;
        line.rsplit(' ').next()?.parse::<f64>().ok().filter(|waiting| *waiting >= 3.0)
    })
    .await;
    server.start().expect("starts again");
    let ours = counted(before + 3).await;
    assert_eq!(ours["missing"], 0);
    probe.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_shows_the_stages_and_fails_where_a_measurement_does() {
    let target = Target::start(Script::default()).await.expect("starts");
    let (code, shown) = once(&[target.url()]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("connect") && shown.contains("first byte") && shown.contains("HTTP/1.1 200"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "colours are for terminals");

    let (code, shown) = once(&[target.url(), "--count", "3", "--interval", "1s", "--json"]);
    let list: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((code, list.as_array().map(Vec::len)), (Some(0), Some(3)));
    assert!(list[0]["timings"]["tcp_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    assert_eq!(list[0]["caelum"]["web"]["status"], 200);

    target.change(Script { status: 503, ..Script::default() });
    let (code, shown) = once(&[target.url()]);
    assert_eq!(code, Some(1));
    assert!(shown.contains("HTTP failed: HTTP 503"), "{shown}");
    let (code, shown) = once(&["gopher://x"]);
    assert_eq!(code, Some(1));
    assert!(shown.contains("cannot be measured"), "{shown}");
}
