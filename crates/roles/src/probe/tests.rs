//! The probe's schedule in virtual time, on a scripted prober; and what an event says of a measurement.

use caelum_drivers::{
    clock::ManualClock,
    probe::{Extras, Scripted, Turn},
    traces::Tracer,
};
use caelum_model::{
    details::{Condition, WebFacts},
    id::TargetId,
};
use tokio::time::Instant;

use super::{condition::Surroundings, schedule::Scheduler, *};

const INTERVAL_S: u32 = 10;

fn target(name: &str) -> Target {
    Target {
        interval_s: INTERVAL_S,
        ..Target::usual(TargetId::parse(name).expect("valid"), format!("tcp://{name}:1"), 0)
    }
}

struct Run {
    began: Instant,
    asked: Vec<(String, Extras, Instant)>,
    counters: Arc<Counters>,
}

/// Runs these targets for so long, in virtual time.
async fn run(scripted: Scripted, targets: Vec<Target>, lasts: Duration) -> Run {
    let scripted = Arc::new(scripted);
    let (_targets, receiver) = watch::channel(Arc::new(targets));
    let (events, mut measured) = mpsc::channel(EVENTS_WAITING_MAX);
    let (_seen, surroundings) = watch::channel(Arc::new(Surroundings::default()));
    let counters = Arc::<Counters>::default();
    let scheduler = Scheduler {
        client_id: ClientId::parse("p").expect("valid"),
        prober: Arc::clone(&scripted) as Arc<dyn Measure>,
        targets: receiver,
        clock: Arc::new(ManualClock::new(0)),
        surroundings,
        events,
        tracer: Tracer::default(),
        counters: Arc::clone(&counters),
    };
    let began = Instant::now();
    let stop = CancellationToken::new();
    let drain = async { while measured.recv().await.is_some() {} };
    let ends = async {
        tokio::time::sleep(lasts).await;
        stop.cancel();
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(scheduler.run(stop.clone()), ends) } => {}
        () = drain => {}
    }
    Run { began, asked: scripted.asked(), counters }
}

#[tokio::test(start_paused = true)]
async fn targets_that_hang_delay_no_other() {
    let scripted = Scripted::default();
    let takes = Duration::from_secs(5);
    let mut targets = Vec::new();
    for number in 0..500 {
        let target = target(&format!("t-{number}"));
        if number < 200 {
            scripted.set(&target.url, Turn { takes, ..Turn::default() });
        }
        targets.push(target);
    }
    let good: Vec<Target> = targets[200..].to_vec();
    let run = run(scripted, targets, Duration::from_secs(65)).await;
    let interval = Duration::from_secs(u64::from(INTERVAL_S));
    for target in &good {
        let at: Vec<Instant> =
            run.asked.iter().filter(|(url, ..)| *url == target.url).map(|(_, _, at)| *at).collect();
        assert!((6..=8).contains(&at.len()), "{} was measured {} times", target.url, at.len());
        // The first comes at once; its phase is the clock's, which stands still here, and starts behind it.
        for pair in at[1..].windows(2) {
            let late = (pair[1] - pair[0]).abs_diff(interval);
            assert!(late <= Duration::from_millis(10), "{} was {late:?} out of phase", target.url);
        }
        assert!(at[0] - run.began <= Duration::from_secs(1), "the first came after {:?}", at[0] - run.began);
    }
    assert_eq!(run.counters.skipped.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_measurement_longer_than_the_interval_costs_the_next_and_is_counted() {
    let scripted = Scripted::default();
    let target = target("slow");
    scripted.set(&target.url, Turn { takes: Duration::from_secs(15), ..Turn::default() });
    let run = run(scripted, vec![target], Duration::from_secs(120)).await;
    let at: Vec<Duration> = run.asked.iter().map(|(_, _, at)| *at - run.began).collect();
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(15)), "{at:?}");
    assert!(run.counters.skipped.load(Ordering::Relaxed) >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_path_is_traced_at_once_and_a_line_is_loaded_in_phase_and_both_as_seldom_as_told() {
    let target = Target { trace_every_s: Some(60), load_every_s: Some(120), ..target("t") };
    let run = run(Scripted::default(), vec![target], Duration::from_secs(601)).await;
    let at = |is: fn(&Extras) -> bool| -> Vec<Duration> {
        run.asked.iter().filter(|(_, extras, _)| is(extras)).map(|(_, _, at)| *at - run.began).collect()
    };
    let (traces, loads) = (at(|extras| extras.trace), at(|extras| extras.load));
    assert_eq!(traces[0], Duration::ZERO);
    assert!((9..=11).contains(&traces.len()), "{traces:?}");
    assert!(traces.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(60)));
    assert!((4..=5).contains(&loads.len()), "{loads:?}");
    assert!(loads.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(120)));
    assert!(run.asked.len() >= 60, "the usual measurements go on");
}

#[test]
fn an_event_says_all_that_was_seen_and_the_path_only_once() {
    let measurement = Measurement {
        target: "https://x.example/".to_owned(),
        rpm: Some(900.0),
        details: Details {
            web: Some(WebFacts { status: Some(200), ..WebFacts::default() }),
            path: vec![
                Hop { ttl: 1, ip: Some("192.0.2.1".to_owned()), rtt_us: Some(1_500) },
                Hop { ttl: 2, ..Hop::default() },
            ],
            ..Details::default()
        },
        ..Measurement::default()
    };
    let surroundings = Surroundings {
        condition: Some(Condition { cpu_percent: Some(7), ..Condition::default() }),
        interface_type: InterfaceType::Wifi,
        vpn_enabled: true,
    };
    let client_id = ClientId::parse("p").expect("valid");
    let event = to_event(&client_id, measurement, 5, &surroundings);
    assert_eq!((event.ts_ms, event.rpm, event.network_context.vpn_enabled), (5, Some(900.0), true));
    let path = event.path.expect("was traced");
    assert_eq!((path.len(), path[0].rtt_ms, path[1].ip.as_deref()), (2, Some(1.5), None));
    let details = event.details.expect("something is known");
    assert!(details.path.is_empty());
    assert_eq!(details.condition.and_then(|condition| condition.cpu_percent), Some(7));
    assert_eq!(details.web.and_then(|web| web.status), Some(200));

    let bare = to_event(&client_id, Measurement::default(), 5, &Surroundings::default());
    assert_eq!((bare.path, bare.details), (None, None));
}
