//! What the detector promises, on simulated measurements. Noise comes from a seeded generator, so that a
//! run is a seed.

use std::collections::BTreeMap;

use caelum_model::{
    diagnosis::{Diagnosis, Label, Standing},
    event::{ErrorStage, Family},
    id::{ClientId, PartitionId},
    rollup::{LastSeen, MINUTE_MS, Measure, Rollup, RollupKey, RollupState},
};
use proptest::prelude::*;

use super::{Config, Observation, Pair, Reading, observation::WATCHED, reference::median};
use crate::sketch::Histogram;

/// 2026-01-05 14:00:00 UTC.
const START_MS: i64 = 1_767_621_600_000;
const BASELINE: usize = 12;
const FAULT: usize = 5;
const AFTER: usize = 10;

/// A linear congruential generator (Knuth's MMIX constants).
struct Chance(u64);

impl Chance {
    fn of(seed: u64) -> Self {
        let mut chance = Self(seed ^ 0x9e37_79b9_7f4a_7c15);
        for _ in 0..4 {
            chance.uniform();
        }
        chance
    }

    /// Evenly in (0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Normal with deviation one (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A value that varies by factors, and now and then by large ones.
    fn around(&mut self, value: f64, spread: f64) -> f64 {
        let tail = if self.uniform() < 0.03 { 1.0 + 4.0 * self.uniform() } else { 1.0 };
        value * (self.normal() * spread).exp() * tail
    }
}

/// A target as a probe sees it, in ms and kbit/s.
#[derive(Clone, Copy, Debug)]
struct Site {
    dns: f64,
    round_trip: f64,
    tls_round_trips: f64,
    tls_work: f64,
    server: f64,
    rate: f64,
    trains: bool,
    samples: usize,
}

const SITE: Site = Site {
    dns: 12.0,
    round_trip: 20.0,
    tls_round_trips: 1.0,
    tls_work: 5.0,
    server: 40.0,
    rate: 40_000.0,
    trains: false,
    samples: 6,
};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    dns: f64,
    round_trip: f64,
    connect: f64,
    tls: f64,
    server: f64,
    rate_share: Option<f64>,
    loss: f64,
    failing: Option<(ErrorStage, f64)>,
}

fn client() -> ClientId {
    ClientId::parse("probe-1").expect("valid")
}

/// The measurements of one window.
#[derive(Default)]
struct Measured {
    values: BTreeMap<Measure, Vec<f64>>,
    errors: BTreeMap<ErrorStage, u64>,
}

fn measure(chance: &mut Chance, site: &Site, fault: &Fault) -> Measured {
    let mut measured = Measured::default();
    for _ in 0..site.samples {
        let failed = fault.failing.filter(|(_, share)| chance.uniform() < *share).map(|(stage, _)| stage);
        let round_trip = site.round_trip + fault.round_trip;
        let tls = round_trip * site.tls_round_trips + site.tls_work;
        let answer = chance.around(round_trip, 0.06) + chance.around(site.server, 0.2);
        let rate = chance.around(site.rate, 0.1) * fault.rate_share.unwrap_or(1.0);
        let stages = [
            (ErrorStage::Dns, Measure::Dns, chance.around(site.dns, 0.35) + fault.dns),
            (ErrorStage::Tcp, Measure::Tcp, chance.around(round_trip, 0.06) + fault.connect),
            (ErrorStage::Tls, Measure::Tls, chance.around(tls, 0.07) + fault.tls),
            (ErrorStage::Http, Measure::Ttfb, answer + fault.server),
            (ErrorStage::Throughput, Measure::Throughput, rate),
        ];
        for (stage, measure, value) in stages {
            if failed == Some(stage) {
                *measured.errors.entry(stage).or_default() += 1;
                break;
            }
            measured.values.entry(measure).or_default().push(value);
        }
        if site.trains {
            measured.values.entry(Measure::Rtt).or_default().push(chance.around(round_trip, 0.05));
            let lost = (0..20).filter(|_| chance.uniform() < 0.001 + fault.loss).count();
            measured.values.entry(Measure::Loss).or_default().push(lost as f64 * 5.0);
        }
    }
    measured
}

fn histogram_of(values: &[f64]) -> Vec<u8> {
    let mut histogram = Histogram::default();
    for value in values {
        histogram.record(*value).expect("measurable");
    }
    histogram.encode()
}

fn window(chance: &mut Chance, site: &Site, fault: &Fault, number: usize) -> Rollup {
    let measured = measure(chance, site, fault);
    let count_error = measured.errors.values().sum();
    let window_start_ms = START_MS + number as i64 * MINUTE_MS;
    Rollup {
        key: RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms,
            client_id: client(),
            target: "https://example.net/".into(),
            family: Family::V4,
        },
        partition: PartitionId(0),
        count_total: site.samples as u64,
        count_success: site.samples as u64 - count_error,
        count_error,
        errors_by_class: if count_error > 0 { [("timed out".into(), count_error)].into() } else { [].into() },
        errors_by_stage: measured.errors,
        distributions: measured
            .values
            .iter()
            .map(|(measure, values)| (*measure, histogram_of(values)))
            .collect(),
        late_merged: 0,
        last: LastSeen::default(),
        state: RollupState::Complete,
        version: 1,
        updated_at_ms: 0,
    }
}

/// The same without the way over histograms, which takes most of the time.
fn observe_directly(chance: &mut Chance, site: &Site, number: usize) -> Observation {
    let measured = measure(chance, site, &Fault::default());
    let mut observation = Observation::empty(START_MS + number as i64 * MINUTE_MS);
    observation.count = site.samples as u64;
    for (place, measure) in WATCHED.into_iter().enumerate() {
        observation.readings[place] = measured.values.get(&measure).map(|values| {
            let mut values = values.clone();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let value = if measure == Measure::Loss { mean } else { median(&mut values) };
            Reading { value: value as f32, samples: values.len() as u32 }
        });
    }
    observation
}

fn observe(rollup: &Rollup) -> Observation {
    Observation::of(rollup).expect("readable")
}

fn pair() -> Pair {
    Pair::new(client(), "https://example.net/".into(), Family::V4, Config::default())
}

/// A baseline, a fault, and what follows it.
fn course(seed: u64, site: &Site, fault: &Fault, lengths: [usize; 3]) -> Vec<Observation> {
    let mut chance = Chance::of(seed);
    let [baseline, during, after] = lengths;
    (0..baseline + during + after)
        .map(|number| {
            let is_fault = (baseline..baseline + during).contains(&number);
            let fault = if is_fault { *fault } else { Fault::default() };
            observe(&window(&mut chance, site, &fault, number))
        })
        .collect()
}

fn number_of(diagnosis: &Diagnosis) -> usize {
    ((diagnosis.window_start_ms - START_MS) / MINUTE_MS) as usize
}

/// Runs a fault of five minutes after a baseline of twelve over some seeds: every run must give the label,
/// to windows of the fault only, and to nearly all of them.
fn expect_only(label: Label, sublabel: Option<&str>, site: &Site, fault: &Fault) {
    const RUNS: u64 = 20;
    let (mut labelled, mut slowest) = (0, 0);
    for seed in 0..RUNS {
        let diagnoses = pair().replay(course(seed, site, fault, [BASELINE, FAULT, AFTER]));
        assert!(!diagnoses.is_empty(), "seed {seed}: no verdict on {fault:?}");
        for diagnosis in &diagnoses {
            assert_eq!(diagnosis.label, label, "seed {seed}: {}", diagnosis.sentence);
            assert_eq!(diagnosis.sublabel.as_deref(), sublabel, "seed {seed}");
            let number = number_of(diagnosis);
            assert!(
                (BASELINE..BASELINE + FAULT).contains(&number),
                "seed {seed}: {number}: {}",
                diagnosis.sentence
            );
            assert!((0.0..=1.0).contains(&diagnosis.confidence));
        }
        labelled += diagnoses.len();
        let mut watched = pair();
        let raised = course(seed, site, fault, [BASELINE, FAULT, 0])
            .into_iter()
            .position(|window| watched.judge(window).is_some_and(|verdicts| !verdicts.diagnoses.is_empty()))
            .expect("it was labelled above");
        slowest = slowest.max(raised + 1 - BASELINE);
    }
    let share = labelled as f64 / (RUNS as usize * FAULT) as f64;
    println!(
        "{label:?} {sublabel:?} {} samples: {share:.3} of faulty windows labelled, raised in minute {slowest} at the latest",
        site.samples
    );
    assert!(share > 0.9, "{share} of the fault's windows are labelled");
}

const DENSE: Site = Site { samples: 60, ..SITE };

#[test]
fn slow_look_ups_are_dns_bound_and_nothing_else() {
    for site in [SITE, DENSE] {
        for dns in [150.0, 368.0, 2_000.0] {
            expect_only(Label::Dns, None, &site, &Fault { dns, ..Fault::default() });
        }
    }
}

#[test]
fn a_slow_tls_handshake_is_handshake_bound_and_says_tls() {
    for site in [SITE, DENSE] {
        for tls in [60.0, 300.0] {
            let fault = Fault { tls, ..Fault::default() };
            expect_only(Label::Handshake, Some("TLS handshake"), &site, &fault);
        }
    }
}

#[test]
fn slow_connects_alone_are_handshake_bound_and_say_tcp() {
    for site in [SITE, DENSE] {
        for connect in [40.0, 300.0] {
            let fault = Fault { connect, ..Fault::default() };
            expect_only(Label::Handshake, Some("TCP connect"), &site, &fault);
        }
    }
}

#[test]
fn a_slow_first_byte_is_server_bound_and_nothing_else() {
    for site in [SITE, DENSE] {
        for server in [120.0, 500.0] {
            expect_only(Label::Server, None, &site, &Fault { server, ..Fault::default() });
        }
    }
}

#[test]
fn slow_transfers_are_throughput_bound_and_nothing_else() {
    for site in [SITE, DENSE] {
        for share in [0.4, 0.05] {
            let fault = Fault { rate_share: Some(share), ..Fault::default() };
            expect_only(Label::Throughput, None, &site, &fault);
        }
    }
}

#[test]
fn a_longer_round_trip_is_path_bound_and_explains_handshakes_answers_and_transfers() {
    for tls_round_trips in [1.0, 2.0] {
        for trains in [false, true] {
            for round_trip in [40.0, 200.0] {
                let site = Site { tls_round_trips, trains, ..SITE };
                let fault = Fault { round_trip, rate_share: Some(0.3), ..Fault::default() };
                expect_only(Label::Path, None, &site, &fault);
            }
        }
    }
    let fault = Fault { round_trip: 100.0, ..Fault::default() };
    let diagnoses = pair().replay(course(1, &SITE, &fault, [BASELINE, FAULT, 0]));
    let last = diagnoses.last().expect("a verdict");
    assert_eq!(last.consequences, [Measure::Tls, Measure::Ttfb]);
}

#[test]
fn lost_packets_are_loss_bound() {
    let site = Site { trains: true, ..SITE };
    expect_only(Label::Loss, None, &site, &Fault { loss: 0.2, ..Fault::default() });
}

#[test]
fn failures_are_named_by_their_stage() {
    let labels = [
        (ErrorStage::Dns, Label::Dns),
        (ErrorStage::Tcp, Label::Unreachable),
        (ErrorStage::Tls, Label::Handshake),
        (ErrorStage::Http, Label::Server),
        (ErrorStage::Throughput, Label::Throughput),
    ];
    for (stage, label) in labels {
        for share in [0.5, 0.9, 1.0] {
            let fault = Fault { failing: Some((stage, share)), ..Fault::default() };
            expect_only(label, Some("timed out"), &SITE, &fault);
        }
    }
}

#[test]
fn of_two_faults_at_once_the_one_that_costs_more_is_the_label_and_is_less_sure() {
    let last = |fault: Fault| {
        let diagnoses = pair().replay(course(19, &SITE, &fault, [BASELINE, FAULT, 0]));
        assert!(diagnoses.iter().all(|diagnosis| diagnosis.label == Label::Server));
        diagnoses.last().expect("a verdict").clone()
    };
    let alone = last(Fault { server: 500.0, ..Fault::default() });
    let both = last(Fault { server: 500.0, dns: 300.0, ..Fault::default() });
    assert!(both.confidence < alone.confidence, "{} {}", both.confidence, alone.confidence);
    assert!(!both.sentence.contains("DNS"), "{}", both.sentence);
    assert_eq!(both.consequences, [], "the one does not explain the other");
}

#[test]
fn a_fault_that_starts_and_ends_within_a_minute_labels_no_minute_it_did_not_touch() {
    for seed in 0..20 {
        let mut chance = Chance::of(seed);
        let slow = Fault { tls: 300.0, ..Fault::default() };
        let windows = (0..BASELINE + FAULT + AFTER).map(|number| {
            let whole = window(&mut chance, &SITE, &Fault::default(), number);
            let faulty = window(&mut chance, &SITE, &slow, number);
            let mut observation = observe(if (12..17).contains(&number) { &faulty } else { &whole });
            if number == 12 || number == 17 {
                // Half of its measurements are slow: the median lies on either side.
                let parts = [&whole, &faulty].map(|rollup| observe(rollup).reading(Measure::Tls));
                let [Some(fine), Some(slow)] = parts else { unreachable!("both were measured") };
                let value = fine.value + (slow.value - fine.value) * chance.uniform() as f32;
                let place = WATCHED.iter().position(|measure| *measure == Measure::Tls).expect("watched");
                observation.readings[place] = Some(Reading { value, samples: 6 });
            }
            observation
        });
        let numbers: Vec<usize> = pair().replay(windows).iter().map(number_of).collect();
        assert!(numbers.iter().all(|number| (12..=17).contains(number)), "seed {seed}: {numbers:?}");
        assert!((13..=16).all(|number| numbers.contains(&number)), "seed {seed}: {numbers:?}");
    }
}

#[test]
fn a_target_that_never_answered_is_unreachable_without_a_baseline() {
    let fault = Fault { failing: Some((ErrorStage::Tcp, 1.0)), ..Fault::default() };
    let mut never = pair();
    let diagnoses = never.replay(course(3, &SITE, &fault, [0, 3, 0]));
    assert_eq!(diagnoses.len(), 3);
    assert_eq!(diagnoses[0].label, Label::Unreachable);
    assert_eq!(never.status().expect("judged").standing, Standing::Diagnosed);
}

#[test]
fn a_verdict_is_a_sentence_with_its_numbers() {
    let site = Site { samples: 60, ..SITE };
    let diagnoses =
        pair().replay(course(5, &site, &Fault { dns: 368.0, ..Fault::default() }, [BASELINE, FAULT, 0]));
    let last = diagnoses.last().expect("a verdict");
    let (place, rest) = last.sentence.split_once(": ").expect("place and numbers");
    assert_eq!(place, "DNS-bound between probe probe-1 and https://example.net/ over IPv4 since 14:12 UTC");
    assert!(rest.starts_with("look-ups take 38"), "{rest}");
    assert!(rest.ends_with("; TCP, TLS, the server and throughput are normal."), "{rest}");
    assert_eq!(last.evidence[0].measure, Some(Measure::Dns));
    assert!((11.0..13.5).contains(&last.evidence[0].usual), "{:?}", last.evidence);
    assert!(last.confidence > 0.9, "{}", last.confidence);
}

#[test]
fn a_verdict_ends_with_its_fault_and_the_pair_is_as_usual_again() {
    let mut repaired = pair();
    let fault = Fault { server: 500.0, ..Fault::default() };
    let windows = course(7, &SITE, &fault, [BASELINE, 30, 3]);
    let diagnoses = repaired.replay(windows);
    assert_eq!(diagnoses.last().map(number_of), Some(BASELINE + 29));
    assert_eq!(repaired.status().expect("judged").standing, Standing::Usual);
    assert_eq!(repaired.status().expect("judged").diagnosis, None);
}

#[test]
fn standing_goes_from_learning_over_usual_and_suspect_to_diagnosed() {
    let mut standings = Vec::new();
    let mut seen = pair();
    for observation in course(9, &SITE, &Fault { tls: 300.0, ..Fault::default() }, [BASELINE, FAULT, 0]) {
        seen.judge(observation).expect("newer");
        standings.push(seen.status().expect("judged").standing);
    }
    assert_eq!(standings[6], Standing::Learning);
    assert_eq!(standings[7], Standing::Usual);
    assert_eq!(standings[BASELINE], Standing::Suspect);
    assert_eq!(standings[BASELINE + FAULT - 1], Standing::Diagnosed);
}

#[test]
fn what_lasts_six_hours_is_what_is_usual() {
    let mut moved = pair();
    let fault = Fault { server: 200.0, ..Fault::default() };
    let mut shifts = Vec::new();
    let mut diagnosed = Vec::new();
    for observation in course(11, &SITE, &fault, [60, 420, 0]) {
        let verdicts = moved.judge(observation).expect("newer");
        shifts.extend(verdicts.shift);
        diagnosed.extend(verdicts.diagnoses);
    }
    assert_eq!(shifts.len(), 1);
    let (measure, from, to) = shifts[0].changes[0];
    assert_eq!(measure, Measure::Ttfb);
    assert!(from < 80.0 && to > 200.0, "{from} {to}");
    let last = diagnosed.last().map(number_of).expect("verdicts");
    assert!((60 + 359..=60 + 361).contains(&last), "{last}");
    assert_eq!(moved.status().expect("judged").standing, Standing::Usual);
}

#[test]
fn windows_with_few_measurements_neither_raise_an_alarm_nor_become_usual() {
    let mut chance = Chance::of(13);
    let thin = Site { samples: 1, dns: 200.0, server: 90.0, ..DENSE };
    let windows: Vec<Observation> = (0..80)
        .map(|number| {
            let site = if number >= BASELINE && number % 3 == 0 { &thin } else { &DENSE };
            observe(&window(&mut chance, site, &Fault::default(), number))
        })
        .collect();
    let mut mixed = pair();
    assert_eq!(mixed.replay(windows), []);
    let usual = mixed.status().expect("judged").usual;
    assert!(usual.iter().any(|(measure, value)| *measure == Measure::Dns && *value < 14.0), "{usual:?}");
}

#[test]
fn a_healthy_day_of_twenty_pairs_has_nearly_no_label() {
    let mut labels = 0;
    let mut windows = 0;
    for seed in 0..20 {
        let mut chance = Chance::of(1_000 + seed);
        let site = Site {
            dns: 5.0 + 40.0 * chance.uniform(),
            round_trip: 0.5 + 120.0 * chance.uniform(),
            tls_round_trips: if chance.uniform() < 0.5 { 1.0 } else { 2.0 },
            server: 1.0 + 200.0 * chance.uniform(),
            trains: chance.uniform() < 0.3,
            ..SITE
        };
        let mut healthy = pair();
        for number in 0..24 * 60 {
            // The busy hours of a day take half as long again.
            let swing = 1.0 + 0.25 * (1.0 - (number as f64 / 1_440.0 * std::f64::consts::TAU).cos());
            let now = Site {
                round_trip: site.round_trip * swing,
                server: site.server * swing,
                rate: site.rate / swing,
                ..site
            };
            let observation = observe_directly(&mut chance, &now, number);
            let verdicts = healthy.judge(observation).expect("newer");
            for diagnosis in &verdicts.diagnoses {
                println!("seed {seed}: {}", diagnosis.sentence);
            }
            labels += verdicts.diagnoses.len();
            windows += 1;
        }
    }
    println!("{labels} labels in {windows} healthy windows");
    assert!(labels <= 3, "{labels} labels in {windows} healthy windows");
}

#[test]
fn the_first_hour_of_two_hundred_healthy_pairs_has_nearly_no_label() {
    let mut labels = 0;
    for seed in 0..200 {
        let mut chance = Chance::of(2_000 + seed);
        let site =
            Site { round_trip: 0.3 + 150.0 * chance.uniform(), server: 300.0 * chance.uniform(), ..SITE };
        let mut healthy = pair();
        let windows: Vec<Observation> =
            (0..60).map(|number| observe_directly(&mut chance, &site, number)).collect();
        labels += usize::from(!healthy.replay(windows).is_empty());
    }
    println!("{labels} of 200 healthy pairs labelled in their first hour");
    assert!(labels <= 2, "{labels} of 200 healthy pairs are labelled in their first hour");
}

#[test]
fn a_window_that_is_not_newer_changes_nothing() {
    let mut judged = pair();
    let windows = course(15, &SITE, &Fault::default(), [3, 0, 0]);
    judged.replay(windows.clone());
    let before = judged.status();
    assert_eq!(judged.judge(windows[2].clone()), None);
    assert_eq!(judged.judge(windows[0].clone()), None);
    assert_eq!(judged.status(), before);
}

/// A row as nobody would make it: any counts, any measures, any values.
fn odd_rollup() -> impl Strategy<Value = Rollup> {
    let value = prop_oneof![Just(0.0), 1e-12..1e-6f64, 0.1..500.0f64, Just(1e15)];
    let distributions =
        proptest::collection::btree_map(0u8..10, proptest::collection::vec(value, 1..5), 0..8);
    let errors = proptest::collection::btree_map(0usize..5, 0u64..100, 0..4);
    (distributions, errors, 0u64..50, 1i64..90).prop_map(|(distributions, errors, count_total, gap)| {
        let mut rollup = window(&mut Chance::of(0), &SITE, &Fault::default(), gap as usize);
        rollup.distributions = distributions
            .into_iter()
            .map(|(number, values)| (Measure::from_number(number).expect("a measure"), histogram_of(&values)))
            .collect();
        rollup.errors_by_stage =
            errors.into_iter().map(|(stage, count)| (ErrorStage::ALL[stage], count)).collect();
        rollup.count_total = count_total;
        rollup
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_rows_give_at_most_one_label_a_window_and_the_same_all_at_once(
        rollups in proptest::collection::vec(odd_rollup(), 0..60),
        baseline in 0usize..20,
    ) {
        let mut windows = course(17, &SITE, &Fault::default(), [baseline, 0, 0]);
        let mut start_ms = START_MS + baseline as i64 * MINUTE_MS;
        for rollup in &rollups {
            let mut observation = observe(rollup);
            // Mostly the next minute, sometimes after a gap.
            let gap = (rollup.key.window_start_ms - START_MS) / MINUTE_MS;
            start_ms += if gap > 40 { gap * MINUTE_MS } else { MINUTE_MS };
            observation.window_start_ms = start_ms;
            windows.push(observation);
        }
        let mut one_by_one = pair();
        let mut kept: BTreeMap<i64, Diagnosis> = BTreeMap::new();
        for observation in windows.clone() {
            let verdicts = one_by_one.judge(observation).expect("newer");
            kept.retain(|start_ms, _| *start_ms < verdicts.from_ms);
            for diagnosis in verdicts.diagnoses {
                prop_assert!(diagnosis.window_start_ms >= verdicts.from_ms);
                prop_assert!(diagnosis.since_ms <= diagnosis.window_start_ms);
                prop_assert!((0.0..=1.0).contains(&diagnosis.confidence));
                let is_finite = diagnosis.evidence.iter().all(|evidence| {
                    evidence.value.is_finite() && evidence.usual.is_finite() && evidence.z.is_finite()
                });
                prop_assert!(is_finite, "{:?}", diagnosis.evidence);
                prop_assert_eq!(kept.insert(diagnosis.window_start_ms, diagnosis), None, "two labels");
            }
        }
        let mut at_once = pair();
        prop_assert_eq!(at_once.replay(windows), kept.into_values().collect::<Vec<_>>());
        prop_assert_eq!(at_once.status(), one_by_one.status());
    }
}
