//! What localisation promises, on windows made by hand.

use std::{collections::BTreeSet, sync::Arc};

use caelum_model::{
    details::Condition,
    diagnosis::Label,
    event::{ErrorStage, Family},
    id::ClientId,
    incident::{Entity, EntityKind},
};

use super::*;
use crate::diagnose::{OwnVerdict, Signal};

/// A pair in which the given symptoms are off, and the other stages of a web page as usual.
fn pair(probe: usize, target: usize, off: &[Symptom]) -> Seen {
    let facts = Facts::new(
        ClientId::parse(&format!("p{probe}")).expect("valid"),
        format!("https://t{target}.example/"),
        Family::V4,
        Some(&format!("192.0.2.{}", probe / 2)),
        [Some(if probe < 3 { "east" } else { "west" }), None],
        None,
    );
    seen(facts, off)
}

fn seen(facts: Facts, off: &[Symptom]) -> Seen {
    let usual = [Symptom::Dns, Symptom::Connect, Symptom::Tls, Symptom::Server, Symptom::Throughput];
    let bits =
        |symptoms: &[Symptom]| symptoms.iter().map(|symptom| symptom.bit()).fold(0, |all, bit| all | bit);
    let mut signals = [Signal::default(); Symptom::ALL.len()];
    for symptom in off {
        signals[symptom.place()] = Signal { z: 6.0, weight: 0.7, value: 380.0, usual: 12.0 };
    }
    Seen {
        facts: Arc::new(facts),
        own_trouble: None,
        signals: Signals {
            window_start_ms: 0,
            verdict: None,
            class: None,
            observed: bits(&usual) | bits(off),
            abnormal: bits(off),
            explained_by: [0; Symptom::ALL.len()],
            with_network: 0,
            consequences: 0,
            signals,
        },
    }
}

/// Six probes and five targets; `off` says what is off in each pair.
fn world(off: impl Fn(usize, usize) -> Vec<Symptom>) -> Vec<Seen> {
    (0..6)
        .flat_map(|probe| (0..5).map(move |target| (probe, target)))
        .map(|(probe, target)| pair(probe, target, &off(probe, target)))
        .collect()
}

fn found(seen: &[Seen]) -> Vec<(Label, EntityKind, String)> {
    locate(&Config::default(), seen, &BTreeSet::new())
        .into_iter()
        .map(|finding| (finding.label, finding.entity.kind, finding.entity.ids[0].clone()))
        .collect()
}

fn when(is: bool, symptoms: &[Symptom]) -> Vec<Symptom> {
    if is { symptoms.to_vec() } else { Vec::new() }
}

#[test]
fn as_usual_there_is_nothing_to_find() {
    assert_eq!(found(&world(|_, _| Vec::new())), []);
}

#[test]
fn all_targets_of_one_probe_are_its_own_side() {
    let seen = world(|probe, _| when(probe == 2, &[Symptom::Connect]));
    assert_eq!(found(&seen), [(Label::Path, EntityKind::Probe, "p2".to_owned())]);
    let place = &locate(&Config::default(), &seen, &BTreeSet::new())[0].place;
    assert_eq!(place, "the last mile of probe p2");
}

#[test]
fn a_machine_that_is_always_busy_is_not_to_blame_for_that() {
    let busy = |percent| Condition { cpu_percent: Some(percent), ..Condition::default() };
    let usual_after = |percent| {
        let mut usual = UsualLoad::default();
        (0..30).for_each(|_| usual.note(&busy(percent)));
        usual
    };
    assert_eq!(own_trouble(&busy(99), usual_after(92)), None);
    assert_eq!(own_trouble(&busy(99), usual_after(30)).as_deref(), Some("CPU 99 %"));
}

#[test]
fn a_probe_whose_machine_is_in_trouble_is_told_so() {
    let mut seen = world(|probe, _| when(probe == 2, &[Symptom::Connect]));
    let condition = Condition { cpu_percent: Some(97), ..Condition::default() };
    for pair in seen.iter_mut().filter(|pair| pair.facts.client_id.as_str() == "p2") {
        pair.own_trouble = own_trouble(&condition, UsualLoad::default()).map(String::into_boxed_str);
    }
    let findings = locate(&Config::default(), &seen, &BTreeSet::new());
    assert_eq!(findings[0].place, "the machine of probe p2 itself (CPU 97 %)");
    assert_eq!(own_trouble(&Condition::default(), UsualLoad::default()), None);
    let lost = Condition { is_gateway_lost: true, ..Condition::default() };
    assert_eq!(own_trouble(&lost, UsualLoad::default()).as_deref(), Some("its gateway does not answer"));
}

#[test]
fn one_target_from_everywhere_is_the_target() {
    let seen = world(|_, target| when(target == 3, &[Symptom::Server]));
    assert_eq!(found(&seen), [(Label::Server, EntityKind::Target, "https://t3.example/".to_owned())]);
}

#[test]
fn slow_look_ups_of_all_who_use_a_resolver_are_the_resolvers_and_of_one_of_them_its_own() {
    let shared = world(|probe, _| when(probe / 2 == 1, &[Symptom::Dns]));
    assert_eq!(found(&shared), [(Label::Dns, EntityKind::Resolver, "192.0.2.1".to_owned())]);
    let own = world(|probe, _| when(probe == 2, &[Symptom::Dns]));
    assert_eq!(found(&own), [(Label::Dns, EntityKind::Probe, "p2".to_owned())]);
}

#[test]
fn a_resolver_on_the_loopback_is_the_probes_own_and_one_that_is_measured_is_known_by_its_address() {
    let place = |facts: &Facts| {
        facts.places.iter().find(|place| place.kind == EntityKind::Resolver).map(|place| place.ids[0].clone())
    };
    let of = |target: &str, resolver: Option<&str>| {
        let client_id = ClientId::parse("p").expect("valid");
        Facts::new(client_id, target.to_owned(), Family::Any, resolver, [None, None], None)
    };
    assert_eq!(place(&of("https://t/", Some("127.0.0.53:53"))), None);
    assert_eq!(place(&of("https://t/", Some("192.0.2.9:53"))).as_deref(), Some("192.0.2.9"));
    assert_eq!(place(&of("dns://192.0.2.9/example.net", None)).as_deref(), Some("192.0.2.9"));
    assert_eq!(place(&of("https://t/", Some("[2001:db8::1]:5353"))).as_deref(), Some("[2001:db8::1]:5353"));
}

#[test]
fn a_slower_network_explains_what_is_slow_after_it() {
    let slow = [Symptom::Connect, Symptom::Tls, Symptom::Server, Symptom::Throughput];
    let mut seen = world(|probe, _| when(probe < 3, &slow));
    for pair in &mut seen {
        for symptom in &slow[1..] {
            pair.signals.explained_by[symptom.place()] = Symptom::Connect.bit();
        }
        pair.signals.with_network = 1;
    }
    let findings = locate(&Config::default(), &seen, &BTreeSet::new());
    assert_eq!(found(&seen), [(Label::Path, EntityKind::Group, "east".to_owned())]);
    assert_eq!(findings[0].consequences, [Measure::Tls, Measure::Ttfb, Measure::Throughput]);
    assert_eq!((findings[0].pairs.len(), findings[0].observed), (15, 15));
    assert!(findings[0].normal.contains(&Measure::Dns));
}

#[test]
fn two_faults_at_once_are_two_findings() {
    let seen = world(|probe, target| {
        let mut off = when(probe == 1, &[Symptom::Dns]);
        off.extend(when(target == 0, &[Symptom::Tls]));
        off
    });
    assert_eq!(
        found(&seen),
        [
            (Label::Dns, EntityKind::Probe, "p1".to_owned()),
            (Label::Handshake, EntityKind::Target, "https://t0.example/".to_owned()),
        ]
    );
}

#[test]
fn a_lone_pair_needs_its_own_alarm() {
    let mut seen = world(|probe, target| when((probe, target) == (1, 1), &[Symptom::Connect]));
    assert_eq!(found(&seen), []);
    let pair = seen.iter_mut().find(|pair| pair.signals.abnormal != 0).expect("one");
    pair.signals.verdict =
        Some(OwnVerdict { label: Label::Path, since_ms: 0, confidence: 0.9, symptom: Symptom::Connect });
    assert_eq!(found(&seen), [(Label::Path, EntityKind::Pair, "p1".to_owned())]);
}

#[test]
fn a_single_probe_tells_its_own_side_from_one_target() {
    let alone = |off: &dyn Fn(usize) -> bool| -> Vec<Seen> {
        (0..4).map(|target| pair(0, target, &when(off(target), &[Symptom::Connect]))).collect()
    };
    assert_eq!(found(&alone(&|_| true)), [(Label::Path, EntityKind::Probe, "p0".to_owned())]);
    let mut one = alone(&|target| target == 2);
    one[2].signals.verdict =
        Some(OwnVerdict { label: Label::Path, since_ms: 0, confidence: 0.9, symptom: Symptom::Connect });
    let findings = locate(&Config::default(), &one, &BTreeSet::new());
    assert_eq!(findings[0].place, "target https://t2.example/ as probe p0 sees it over IPv4");
}

#[test]
fn a_place_with_an_open_incident_keeps_it_at_less() {
    let seen = world(|probe, target| when(probe == 2 && target < 2, &[Symptom::Connect]));
    assert_eq!(found(&seen), []);
    let entity = Entity { kind: EntityKind::Probe, ids: vec!["p2".to_owned()] };
    let open = BTreeSet::from([(entity.clone(), Class::Network)]);
    let findings = locate(&Config::default(), &seen, &open);
    assert_eq!(findings.first().map(|finding| &finding.entity), Some(&entity));
}

#[test]
fn failures_that_come_now_and_then_need_fewer_pairs_at_once() {
    let failing = Symptom::Failures(ErrorStage::Http);
    let seen = world(|probe, target| when(target == 4 && probe % 2 == 0, &[failing]));
    assert_eq!(found(&seen), [(Label::Server, EntityKind::Target, "https://t4.example/".to_owned())]);
    let slow = world(|probe, target| when(target == 4 && probe % 2 == 0, &[Symptom::Server]));
    assert_eq!(found(&slow), []);
}

#[test]
fn a_machine_that_is_measured_and_measures_is_one_place() {
    let mesh = |from: usize, to: usize| {
        let facts = Facts::new(
            ClientId::parse(&format!("m{from}")).expect("valid"),
            format!("stamp://192.0.2.{to}:862"),
            Family::Any,
            None,
            [None, None],
            Some(&format!("m{to}")),
        );
        let mut pair = seen(facts, &when(from == 1 || to == 1, &[Symptom::Rtt]));
        pair.signals.observed = Symptom::Rtt.bit();
        pair
    };
    let all: Vec<Seen> =
        (0..4).flat_map(|from| (0..4).filter(move |to| *to != from).map(move |to| mesh(from, to))).collect();
    assert_eq!(found(&all), [(Label::Path, EntityKind::Probe, "m1".to_owned())]);
}
