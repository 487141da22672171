//! What incidents promise, on pairs that are judged like real ones.

use std::sync::Arc;

use caelum_model::{
    UnixMs,
    diagnosis::Label,
    event::Family,
    id::ClientId,
    incident::{EntityKind, Incident, Severity, StepKind},
    rollup::{MINUTE_MS, Measure},
};

use super::*;
use crate::{
    diagnose::{self, Observation, Pair},
    locate::{Config, Facts, Seen},
};

/// 2026-01-05 14:00:00 UTC.
const START_MS: UnixMs = 1_767_621_600_000;
const BASELINE: i64 = 20;

/// Two probes, three targets, one resolver for both.
struct World {
    pairs: Vec<(Arc<Facts>, Pair)>,
    history: History,
}

impl World {
    fn new() -> Self {
        let pairs = (0..6).map(|number| {
            let client_id = ClientId::parse(&format!("p{}", number / 3)).expect("valid");
            let target = format!("https://t{}.example/", number % 3);
            let resolver = Some("192.0.2.53");
            let facts =
                Facts::new(client_id.clone(), target.clone(), Family::V4, resolver, [None, None], None);
            (Arc::new(facts), Pair::new(client_id, target, Family::V4, diagnose::Config::default()))
        });
        Self { pairs: pairs.collect(), history: History::new(Config::default(), Vec::new()) }
    }

    /// What every pair shows in a minute; `dns` gives the look-up time of a pair, none for no measurement.
    fn show(&mut self, minute: i64, dns: &dyn Fn(usize) -> Option<f64>) -> Vec<Seen> {
        let start_ms = START_MS + minute * MINUTE_MS;
        let shown = self.pairs.iter_mut().enumerate().filter_map(|(number, (facts, pair))| {
            let mut observation = Observation::empty(start_ms);
            observation.count = 6;
            observation.note(Measure::Dns, dns(number)? * (1.0 + 0.02 * (minute % 3) as f64), 6);
            observation.note(Measure::Tcp, 20.0, 6);
            observation.note(Measure::Ttfb, 60.0, 6);
            pair.judge(observation);
            Some(Seen { facts: Arc::clone(facts), own_trouble: None, signals: pair.signals()? })
        });
        shown.collect()
    }

    fn minute(&mut self, minute: i64, dns: &dyn Fn(usize) -> Option<f64>) -> Vec<Incident> {
        let seen = self.show(minute, dns);
        self.history.take(START_MS + minute * MINUTE_MS, seen).incidents
    }

    fn known(&self) -> Vec<Incident> {
        self.history.known().cloned().collect()
    }
}

fn minute_of(ms: UnixMs) -> i64 {
    (ms - START_MS) / MINUTE_MS
}

fn slow_from(minute: i64, from: i64, to: i64) -> impl Fn(usize) -> Option<f64> {
    move |_| Some(if (from..to).contains(&minute) { 380.0 } else { 12.0 })
}

#[test]
fn it_opens_after_two_windows_and_closes_after_five_clear_ones() {
    let mut world = World::new();
    let mut opened = None;
    let mut closed = None;
    for minute in 0..40 {
        let changed = world.minute(minute, &slow_from(minute, BASELINE, BASELINE + 8));
        for incident in changed {
            opened = opened.or(Some(minute));
            closed = closed.or(incident.closed_window_ms.map(|_| minute));
        }
    }
    let incidents = world.known();
    let [incident] = incidents.as_slice() else { panic!("{incidents:#?}") };
    assert_eq!((incident.label, incident.entity.kind), (Label::Dns, EntityKind::Resolver));
    assert_eq!((opened, closed), (Some(BASELINE + 1), Some(BASELINE + 8 + 4)));
    assert_eq!(minute_of(incident.opened_window_ms), BASELINE);
    assert_eq!(incident.closed_window_ms.map(minute_of), Some(BASELINE + 8));
    assert_eq!((incident.pairs_touched, incident.pairs_observed), (6, 6));
    let kinds: Vec<StepKind> = incident.steps.iter().map(|step| step.kind).collect();
    assert_eq!(kinds, [StepKind::Opened, StepKind::Closed]);
    let evidence = &incident.evidence[0];
    assert!(evidence.before < 13.0 && evidence.during > 370.0, "{evidence:?}");
    assert!(evidence.after.is_some_and(|after| after < 13.0), "{evidence:?}");
    assert!(incident.confidence > 0.8, "{}", incident.confidence);
    assert_eq!(incident.severity, Severity::Major);
    assert_eq!(
        incident.steps[0].text,
        "DNS-bound at resolver 192.0.2.53 since 14:20 UTC: look-ups take 388 ms instead of 12 ms for 6 of 6 \
         pairs that use it (confidence 0.87); TCP and the server are normal."
    );
}

#[test]
fn the_same_windows_give_the_same_incidents() {
    let run = || {
        let mut world = World::new();
        for minute in 0..60 {
            world.minute(minute, &slow_from(minute, BASELINE, BASELINE + 15));
        }
        world.known()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_window_without_data_neither_keeps_it_open_nor_closes_it_and_half_an_hour_of_silence_does() {
    let mut world = World::new();
    for minute in 0..BASELINE + 4 {
        world.minute(minute, &slow_from(minute, BASELINE, i64::MAX));
    }
    for minute in BASELINE + 4..BASELINE + 33 {
        world.minute(minute, &|_| None);
        assert_eq!(world.history.open().count(), 1, "{minute}");
    }
    for minute in BASELINE + 33..BASELINE + 36 {
        world.minute(minute, &|_| None);
    }
    let incidents = world.known();
    assert_eq!(incidents[0].closed_window_ms.map(minute_of), Some(BASELINE + 4));
    let last = incidents[0].steps.last().expect("steps");
    assert_eq!(last.text, "closed: nothing has been measured for 30 minutes");
}

#[test]
fn one_that_turns_out_wider_ends_as_part_of_the_wider_one() {
    let mut world = World::new();
    for minute in 0..BASELINE + 20 {
        let dns = move |number: usize| {
            let is_slow = minute >= BASELINE && (number < 3 || minute >= BASELINE + 8);
            Some(if is_slow { 380.0 } else { 12.0 })
        };
        world.minute(minute, &dns);
    }
    let open: Vec<EntityKind> = world.history.open().map(|incident| incident.entity.kind).collect();
    assert_eq!(open, [EntityKind::Resolver]);
    let narrow = world.known().into_iter().find(|incident| incident.entity.kind == EntityKind::Probe);
    let narrow = narrow.expect("the probe's was found first");
    let last = narrow.steps.last().expect("steps");
    assert_eq!(last.text, "closed: it is part of what is wrong at resolver 192.0.2.53");
}

#[test]
fn a_late_window_takes_back_what_it_shows_to_be_wrong() {
    let mut world = World::new();
    for minute in 0..=BASELINE + 1 {
        world.minute(minute, &slow_from(minute, BASELINE, i64::MAX));
    }
    assert_eq!(world.history.open().count(), 1);
    // Both windows turn out to be as usual.
    let mut corrected = World::new();
    for minute in 0..=BASELINE + 1 {
        for seen in corrected.show(minute, &|_| Some(12.0)) {
            if minute >= BASELINE {
                world.history.revise(START_MS + minute * MINUTE_MS, seen);
            }
        }
    }
    let changes = world.history.settle();
    assert_eq!((changes.incidents.len(), changes.withdrawn.len()), (0, 1));
    assert_eq!(world.history.open().count(), 0);
    assert!(world.history.settle().is_empty(), "once is enough");
}

#[test]
fn a_late_window_revises_an_incident_and_its_history_says_so() {
    let mut world = World::new();
    let mut twin = World::new();
    let mut late = Vec::new();
    for minute in 0..=BASELINE + 6 {
        world.minute(minute, &slow_from(minute, BASELINE, i64::MAX));
        // One window alone would not move the median of them all.
        if (BASELINE..BASELINE + 5).contains(&minute) {
            late.push((minute, twin.show(minute, &|_| Some(900.0))));
        } else {
            twin.show(minute, &|_| Some(12.0));
        }
    }
    for (minute, window) in late {
        for seen in window {
            world.history.revise(START_MS + minute * MINUTE_MS, seen);
        }
    }
    let changes = world.history.settle();
    let [incident] = changes.incidents.as_slice() else { panic!("{changes:?}") };
    assert_eq!(incident.revision, 1);
    assert!(incident.sentence.contains("instead of 12 ms"), "{}", incident.sentence);
    assert!(incident.steps.iter().any(|step| step.kind == StepKind::Revised), "{:?}", incident.steps);
    assert!(changes.withdrawn.is_empty());
}

#[test]
fn an_incident_from_before_a_start_goes_on_under_its_name() {
    let mut first = World::new();
    for minute in 0..BASELINE + 3 {
        first.minute(minute, &slow_from(minute, BASELINE, i64::MAX));
    }
    let open: Vec<Incident> = first.history.open().cloned().collect();
    let mut second = World { history: History::new(Config::default(), open.clone()), ..World::new() };
    second.pairs = first.pairs;
    let mut changed = Vec::new();
    for minute in BASELINE + 3..BASELINE + 20 {
        changed.extend(second.minute(minute, &slow_from(minute, BASELINE, BASELINE + 6)));
    }
    let last = changed.last().expect("it went on");
    assert_eq!((&last.id, last.opened_window_ms), (&open[0].id, open[0].opened_window_ms));
    assert_eq!(last.closed_window_ms.map(minute_of), Some(BASELINE + 6));
}
