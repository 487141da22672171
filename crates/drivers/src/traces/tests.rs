//! Spans arrive as the standard says, and a collector that is away costs spans and nothing else.

use caelum_testkit::{collector::Collector as Receiver, wait};
use tokio::sync::oneshot;

use super::*;

fn context(n: u8) -> TraceContext {
    TraceContext { trace_id: [n; 16], span_id: [n; 8], is_sampled: true }
}

#[tokio::test]
async fn a_span_arrives_at_a_collector_with_its_trace_its_parent_and_its_numbers() {
    let receiver = Receiver::start().await.expect("starts");
    let (tracer, exporter) = Tracer::open(receiver.url(), 7, "ingest", "n-1").expect("a tracer");
    assert_eq!(tracer.one_in(), Some(7));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(exporter.run(async { drop(stopped.await) }));
    let timer = Timer::start();
    tracer.record(timer.end("ingest", context(2), Some([1; 8]), vec![("events", 5.into())]));
    // What waits at the end is sent, however short the life.
    drop(stop);
    running.await.expect("ends");
    let spans = receiver.spans();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(
        (span.name.as_str(), &span.trace_id[..], &span.span_id[..]),
        ("ingest", &[2; 16][..], &[2; 8][..])
    );
    assert_eq!(span.parent_id, [1; 8]);
    assert_eq!(span.numbers["events"], 5);
    assert!(span.times_ns.0 > 0 && span.times_ns.0 <= span.times_ns.1, "{:?}", span.times_ns);
    let resource = |key: &str| span.resource[key].as_str();
    assert_eq!((resource("service.name"), resource("caelum.role")), ("caelum", "ingest"));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_no_time() {
    // A port that was free a moment ago.
    let url = Receiver::start().await.expect("starts").url().to_owned();
    let (tracer, exporter) = Tracer::open(&url, 1, "up", "n-1").expect("a tracer");
    for _ in 0..=WAITING_MAX {
        tracer.record(Timer::start().end("fold", context(1), None, Vec::new()));
    }
    assert_eq!(tracer.dropped(), 1);
    let (stop, stopped) = oneshot::channel::<()>();
    drop(stop);
    let running = tokio::spawn(exporter.run(async { drop(stopped.await) }));
    wait::until_answered("the exporter has ended", Duration::from_secs(20), async || {
        running.is_finished().then_some(())
    })
    .await;
    assert!(tracer.dropped() > 1, "what the collector did not take is counted, too");
    assert_eq!(tracer.sent(), 0);
}

#[test]
fn a_tracer_that_is_off_takes_everything_and_does_nothing() {
    let tracer = Tracer::default();
    tracer.record(Timer::start().end("fold", context(1), None, Vec::new()));
    assert_eq!((tracer.is_on(), tracer.one_in(), tracer.dropped()), (false, None, 0));
}
