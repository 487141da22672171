//! A measurement is followed from the probe to its row: one trace, of real spans, at a real collector.

use std::time::Duration;

use caelum_testkit::{
    collector::{Collector, Received},
    server::Plan,
    target::{Script, Target},
    wait,
};

/// The chain of spans that ends with `last`, from the first to it.
fn chain(spans: &[Received], last: &Received) -> Vec<Received> {
    let mut chain = vec![last.clone()];
    while let Some(parent) = spans.iter().find(|span| {
        let child = &chain[chain.len() - 1];
        span.span_id == child.parent_id && span.trace_id == child.trace_id
    }) {
        chain.push(parent.clone());
    }
    chain.reverse();
    chain
}

/// Everything is traced, to a collector at this address, and one target is measured.
fn tracing_to(collector: &str, target: &Target) -> Plan {
    let trace = ["--telemetry-otlp-url", collector, "--telemetry-trace-one-in", "1"];
    let probe = ["--probe-default-targets", "false", "--probe-targets", target.url()];
    Plan::new(env!("CARGO_BIN_EXE_caelum")).with_probe().with(&trace).with(&probe)
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_no_collector_takes_are_counted_and_cost_no_event() {
    let target = Target::start(Script::default()).await.expect("starts");
    // The port that throws everything away, where nobody listens.
    let plan = tracing_to("http://127.0.0.1:9", &target);
    let server = plan.start().expect("starts");
    let api = server.api().expect("a client").with_token(&server.token("read").expect("a token"));
    wait::until_answered("spans are dropped, and measurements taken", Duration::from_secs(40), async || {
        let page = api.answer("/metrics").await.ok()?.text().await.ok()?;
        let value = |name: &str| -> Option<f64> {
            page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        };
        let is_counted = value("caelum_trace_spans_dropped_total")? > 0.0
            && value("caelum_trace_spans_sent_total")? == 0.0
            && value("caelum_ingest_events_accepted_total")? > 0.0;
        is_counted.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_a_measurement_to_the_commit_of_its_row() {
    let collector = Collector::start().await.expect("starts");
    let target = Target::start(Script::default()).await.expect("starts");
    let plan = tracing_to(collector.url(), &target);
    let mut server = plan.start().expect("starts");
    wait::until("something was measured", Duration::from_secs(20), || (target.answered() > 0).then_some(()));
    wait::until("a commit is traced", Duration::from_secs(20), || {
        collector.spans().iter().any(|span| span.name == "commit").then_some(())
    });
    let ended = server.stop(Duration::from_secs(5));
    assert!(ended.success(), "{ended}");
    let spans = collector.spans();
    let commit = spans.iter().find(|span| span.name == "commit").expect("there is one");
    let chain = chain(&spans, commit);
    let names: Vec<&str> = chain.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["measure", "ingest", "fold", "commit"], "{spans:#?}");
    let [measure, ingest, fold, commit] = &chain[..] else { panic!("four") };
    assert!(measure.parent_id.is_empty(), "a trace begins with its measurement");
    assert!(ingest.numbers["events"] >= 1 && ingest.numbers["bytes"] > 0 && ingest.numbers["append_us"] > 0);
    assert_eq!(fold.numbers["partition"], commit.numbers["partition"]);
    assert!(fold.numbers["offset"] <= commit.numbers["offset"] && commit.numbers["rows"] >= 1);
    assert!(chain.is_sorted_by_key(|span| span.times_ns.0), "{chain:#?}");
}
