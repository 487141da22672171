//! The pages of one target and of the mesh, painted by hand.

use askama::Template;
use caelum_model::{
    details::{CertificateFacts, Details, Hop, OneWay, Race, WebFacts},
    diagnosis::Label,
    incident::{Entity, EntityKind, Incident, IncidentEvidence, PairRef, Severity},
    rollup::TracedPath,
    target::Objective,
};

use super::*;
use crate::pages::{
    course::{Course, Moment},
    incident::{self, Seen},
    mesh,
    target::{self, Sight},
};

fn details() -> Details {
    Details {
        web: Some(WebFacts {
            status: Some(200),
            http_version: Some(HOSTILE.into()),
            tls_version: Some("1.3".into()),
            certificate: Some(CertificateFacts {
                starts_at_ms: NOW - 86_400_000,
                expires_at_ms: NOW + 5 * 86_400_000,
                subject: HOSTILE.into(),
                issuer: HOSTILE.into(),
            }),
            race: Some(Race { ipv4_us: Some(1_500), ipv6_us: None, winner: Family::V4 }),
            ..WebFacts::default()
        }),
        one_way: Some(OneWay { sent: 10, reached: 10, returned: 9, ..OneWay::default() }),
        ..Details::default()
    }
}

/// A target that knows everything, measured with stages.
fn sight() -> Sight {
    let (url, name, stages) = TARGETS[0];
    let mut rows: Vec<Rollup> = (0..15).map(|minute| rollup(url, minute, stages, false)).collect();
    for row in &mut rows {
        row.distributions.insert(Measure::LossOut, histogram(&[1.5]));
        row.distributions.insert(Measure::LossBack, histogram(&[0.0]));
        row.distributions.insert(Measure::DelayOut, histogram(&[4.0]));
        row.last.details = Some(Box::new(details()));
        row.last.path = Some(TracedPath {
            ts_ms: NOW - 60_000,
            hops: vec![
                Hop { ttl: 1, ip: Some(HOSTILE.into()), rtt_us: Some(400) },
                Hop { ttl: 2, ip: None, rtt_us: None },
            ],
        });
    }
    rows.reverse();
    let target = Target {
        name: name.into(),
        objective: Some(Objective { within_ms: 300, promised_bp: 9_990, days: 28 }),
        group: Some(HOSTILE.into()),
        tags: vec![HOSTILE.into()],
        ..Target::usual(TargetId::parse("t-0").expect("valid"), url.into(), NOW)
    };
    let budget = crate::api::scores::BudgetJson {
        objective: target.objective.expect("set above"),
        promised: 0.999,
        good: 9_995,
        all: 10_000,
        good_share: Some(0.9995),
        left: Some(0.5),
        burn_1h: Some(2.0),
        burn_6h: Some(7.0),
    };
    Sight::of(target, Some(budget), rows, NOW).expect("rows can be read")
}

#[test]
fn a_target_shows_what_it_keeps_what_it_answers_and_the_way_there() {
    let (picture, sight) = (troubled(), sight());
    let choice = network::Choice::default();
    let html = target::page(&picture, &sight, reader(true), &choice).render().expect("renders");
    keep("", "target", &html);
    assert!(!html.contains("<script>alert"), "lets a script through");
    assert_ids_are_unique("target", &html);
    let text = html.replace('\u{a0}', " ");
    for said in [
        "50 % left",
        "99.9 % within 300 ms over 28 days",
        "used up in 2 days",
        "ends in 5 days",
        "1.5 %",
        "4 ms",
        "2 hops",
        "IPv4 1.5 ms, IPv6 failed",
        "What these assume",
        "ITU-T G.107",
    ] {
        assert!(text.contains(said), "the page lacks {said}");
    }
    for topic in target::TOPICS.split(',').chain(["verdict"]) {
        let block = target::block(topic, &picture, &sight, &choice).unwrap_or_else(|| panic!("no {topic}"));
        assert!(block.html().contains(&format!("data-live=\"{topic}\"")), "{topic}");
    }
}

#[test]
fn a_target_that_nobody_measured_and_nobody_promised_says_so() {
    let target = Target::usual(TargetId::parse("t").expect("valid"), "icmp://192.0.2.9".into(), NOW);
    let sight = Sight::of(target, None, Vec::new(), NOW).expect("nothing to read");
    let choice = network::Choice::default();
    let html = target::page(&empty(), &sight, reader(false), &choice).render().expect("renders");
    assert!(html.contains("has not been measured yet") && html.contains("It is held to nothing"));
    assert!(!html.contains("NaN"));
}

#[test]
fn machines_see_each_other_in_a_table_of_their_own() {
    let mut picture = troubled();
    let url = "stamp://192.0.2.22:862";
    let mut row = rollup(url, 1, [None; 4], false);
    row.distributions.clear();
    for (measure, value) in [(Measure::Rtt, 12.0), (Measure::LossOut, 2.0), (Measure::LossBack, 0.0)] {
        row.distributions.insert(measure, histogram(&[value]));
    }
    let before =
        network::page(&picture, reader(true), &network::Choice::default()).render().expect("renders");
    picture.pairs.extend(picture::pairs_of(history::by_pair(&[row]), Vec::new(), &picture.targets, NOW));
    picture.pairs.sort_by(|a, b| a.pair.cmp(&b.pair));
    let html = mesh::page(&picture, reader(true)).render().expect("renders");
    keep("", "mesh", &html);
    let text = html.replace('\u{a0}', " ");
    let to = &picture
        .machines
        .iter()
        .find(|machine| machine.node.identity.addresses.iter().any(|address| address == "192.0.2.22"));
    let to = &to.expect("a machine has the address").node.name;
    for said in [to.as_str(), "12 ms", "2 % out", "loses packets on its way to"] {
        assert!(text.contains(said), "the page lacks {said}");
    }
    let after = network::page(&picture, reader(true), &network::Choice::default()).render().expect("renders");
    let columns = |html: &str| html.matches("<th>").count();
    assert_eq!(columns(&before), columns(&after), "the matrix of targets stays as it is");
    assert!(
        mesh::page(&empty(), reader(true)).render().expect("renders").contains("No machine measures another")
    );
}

/// An incident at the resolver, as if the diagnoser had found it.
pub fn open_incident() -> Incident {
    Incident {
        id: "i-207".into(),
        label: Label::Dns,
        sublabel: None,
        entity: Entity { kind: EntityKind::Resolver, ids: vec!["192.0.2.53".into()] },
        place: "resolver 192.0.2.53".into(),
        opened_window_ms: NOW - 20 * MINUTE_MS,
        detected_window_ms: NOW - 19 * MINUTE_MS,
        closed_window_ms: None,
        severity: Severity::Critical,
        confidence: 0.94,
        sentence: format!(
            "DNS-bound at resolver 192.0.2.53 since 14:05: look-ups take 431 ms instead of 17 ms for 2 of 3 pairs that use it (confidence 0.94); TCP, TLS and servers are normal.{HOSTILE}"
        ),
        pairs: TARGETS[..2]
            .iter()
            .map(|(url, ..)| PairRef {
                client_id: ClientId::parse("northlab-probe").expect("valid"),
                target: (*url).to_owned(),
                family: Family::Any,
            })
            .collect(),
        pairs_touched: 2,
        pairs_observed: 3,
        consequences: vec![Measure::Ttfb],
        evidence: vec![IncidentEvidence {
            measure: Some(Measure::Dns),
            before: 17.0,
            during: 431.0,
            after: None,
            z: 8.4,
            pairs: 2,
            pairs_observed: 3,
        }],
        steps: Vec::new(),
        is_flapping: false,
        revision: 0,
        updated_window_ms: NOW - MINUTE_MS,
    }
}

#[test]
fn an_open_incident_leads_the_overview_and_takes_its_verdicts_with_it() {
    let mut picture = troubled();
    assert!(!picture.unexplained().is_empty());
    picture.incidents = vec![open_incident()];
    assert!(picture.unexplained().is_empty(), "its pair is touched");
    let html = overview::page(&picture, reader(true)).render().expect("renders");
    keep("", "overview-incident", &html);
    assert!(html.contains("Name look-ups are slow at resolver 192.0.2.53, "), "heads the page");
    assert!(html.contains("/incidents/i-207") && html.contains("aria-label=\"1 open\""));
    assert!(!html.contains("<script>alert"));
}

#[test]
fn an_incident_is_drawn_with_its_course_and_the_place_of_the_fault() {
    let mut picture = troubled();
    let incident = open_incident();
    picture.incidents = vec![incident.clone()];
    let moments = (0..60)
        .map(|minute| Moment {
            at_ms: NOW - (60 - minute) * MINUTE_MS,
            touched: Some(if minute < 40 { wave(minute, 17.0, 3.0) } else { wave(minute, 431.0, 30.0) }),
            others: Some(wave(minute, 21.0, 4.0)),
        })
        .collect();
    let course = Course {
        measure: Some(Measure::Dns),
        step_ms: MINUTE_MS,
        from_ms: NOW - 60 * MINUTE_MS,
        to_ms: NOW,
        moments,
        before: Some(17.0),
        is_cut: false,
    };
    let seen = Seen { incident, course };
    let html = incident::page(&picture, &seen, reader(true)).render().expect("renders");
    keep("", "incident", &html);
    assert!(!html.contains("<script>alert"), "lets a script through");
    assert_ids_are_unique("incident", &html);
    let text = html.replace('\u{a0}', " ");
    for said in ["At fault, 431 ms", "Not to blame", "First byte is slow because of it", "As a table", "94 %"]
    {
        assert!(text.contains(said), "the page lacks {said}");
    }
    for topic in incident::TOPICS.split(',').chain(["verdict"]) {
        let block = incident::block(topic, &picture, &seen).unwrap_or_else(|| panic!("no {topic}"));
        assert!(block.html().contains(&format!("data-live=\"{topic}\"")), "{topic}");
    }
}
