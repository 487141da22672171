//! What watches Caelum, by the programs it is made for: alert rules are tested by promtool, and every query of a
//! rule or a dashboard is answered by a real Prometheus that scrapes a real server.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use caelum_lab::process::Process;
use caelum_testkit::{
    api::Api,
    event::{Numbered, ndjson, now_ms},
    server::{Plan, Server},
    wait,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);
const MINUTE_MS: i64 = 60_000;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

fn promtool(arguments: &[&str], path: &Path) {
    let output = Command::new("promtool").args(arguments).arg(path).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn alert_rules_and_the_scrape_settings_are_clean_and_each_alert_fires_for_what_it_is_about() {
    promtool(&["check", "rules"], &deploy("prometheus/caelum.rules.yml"));
    promtool(&["check", "config", "--syntax-only"], &deploy("prometheus/prometheus.yml"));
    promtool(&["test", "rules"], &deploy("prometheus/caelum.rules.test.yml"));
}

/// Every query of a dashboard: the values of `expr` at any depth.
fn queries(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("expr").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| queries(member, found));
        }
        Value::Array(list) => list.iter().for_each(|member| queries(member, found)),
        _ => {}
    }
}

/// Names of Caelum's metrics in a query.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    query
        .split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_')
        .filter(|word| word.starts_with("caelum_"))
}

fn every_query() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(deploy("grafana/dashboards")).expect("there are dashboards") {
        let text = fs::read(entry.expect("is read").path()).expect("is read");
        queries(&serde_json::from_slice(&text).expect("a dashboard is JSON"), &mut found);
    }
    let rules = fs::read_to_string(deploy("prometheus/caelum.rules.yml")).expect("there are rules");
    found.extend(rules.lines().filter_map(|line| Some(line.trim().strip_prefix("expr: ")?.to_owned())));
    found
}

fn prometheus(server: &Server, token: &str) -> (Process, Api) {
    let folder = server.folder().join("prometheus");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("token"), token).expect("written");
    let settings = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [{}]\n\
         scrape_configs:\n\
         - job_name: caelum\n  \
           scheme: https\n  \
           tls_config: {{ ca_file: {}, server_name: localhost }}\n  \
           authorization: {{ credentials_file: {} }}\n  \
           static_configs: [{{ targets: ['127.0.0.1:{}'] }}]\n",
        deploy("prometheus/caelum.rules.yml").display(),
        server.data().join("secrets/ca.pem").display(),
        folder.join("token").display(),
        server.port()
    );
    let config = folder.join("prometheus.yml");
    fs::write(&config, settings).expect("written");
    // Another program takes the port in between only by the worst of luck; then this says so.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address={free}"));
    let process = Process::start(command, "prometheus", &folder).expect("prometheus starts");
    (process, Api::plain(&format!("http://{free}")).expect("a client"))
}

async fn ask(prometheus: &Api, query: &str) -> Option<Value> {
    let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    prometheus.answer(&format!("/api/v1/query?query={escaped}")).await.ok()?.json().await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_rules_and_dashboards_is_about_metrics_that_there_are_and_is_answered() {
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("starts");
    let api = server.api().expect("a client");
    let writer = api.with_token(&server.token("ingest").expect("made"));
    let mut probe = Numbered::new("van-7", 1);
    let before_ms = (now_ms() / MINUTE_MS - 5) * MINUTE_MS;
    let events: Vec<_> = (0..8)
        .map(|minute| probe.event("https://one.example/", before_ms + minute * 30_000, Default::default()))
        .collect();
    let taken = writer.post_events("application/x-ndjson", ndjson(&events)).await.expect("answers");
    assert_eq!(taken.0, 202, "{}", taken.1);

    let token = server.token("read").expect("made");
    let reader = api.with_token(&token);
    let queries = every_query();
    assert!(queries.len() > 30, "{queries:#?}");
    let named: BTreeSet<&str> = queries.iter().flat_map(|query| metrics(query)).collect();
    wait::until_answered("every metric that is asked for is shown", SOON, async || {
        let page = reader.answer("/metrics").await.ok()?.text().await.ok()?;
        let shown: BTreeSet<&str> = page
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split([' ', '{']).next())
            .collect();
        let missing: Vec<_> = named.difference(&shown).collect();
        if !missing.is_empty() {
            println!("not shown: {missing:?}");
        }
        missing.is_empty().then_some(())
    })
    .await;

    let (_process, prometheus) = prometheus(&server, &token);
    wait::until_answered("Prometheus has scraped twice", SOON, async || {
        let answer =
            ask(&prometheus, "min(count_over_time(up{job=\"caelum\"}[1m])) >= 2 and min(up) == 1").await?;
        (!answer["data"]["result"].as_array()?.is_empty()).then_some(())
    })
    .await;
    for query in &queries {
        let answer = ask(&prometheus, query).await.expect("answers");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        // A condition of an alert is empty while nothing is wrong; what a dashboard draws is not.
        let is_condition = [" == 0", " > "].iter().any(|sign| query.contains(sign));
        let is_drawn = answer["data"]["result"].as_array().is_some_and(|rows| !rows.is_empty());
        assert!(is_condition || is_drawn, "{query} draws nothing");
    }
}
