//! Pages drawn from a picture painted by hand: one healthy machine and one that is not, eight pairs, one of
//! them under a verdict, and names that would break out of HTML if they could.
//!
//! With `CAELUM_GALLERY` set to a directory, the drawn pages are left there to be looked at.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use caelum_model::{
    diagnosis::{Diagnosis, Evidence, Label, PairStatus, Standing},
    event::{ErrorStage, Family},
    host::{DiskSample, HostIdentity, HostSample, InterfaceSample, TemperatureSample, Usage},
    id::{ClientId, NodeId, PartitionId, TargetId},
    node::{LinkFacts, Node, NodePoint, Thresholds},
    rollup::{LastSeen, MINUTE_MS, Measure, Rollup, RollupKey, RollupState},
    target::{Target, TargetOrigin},
};
use caelum_store::Store;

use super::{
    format::Zone,
    frame::{Reader, Theme},
    gate::{Login, Notice},
    history::{self, Slot},
    machine, machines, network, overview,
    picture::{self, Picture, Scene},
    range::{Span, TimeQuery},
    settings,
    target_form::Form,
    topology,
};

const NOW: i64 = 1_763_476_324_000;
const HOSTILE: &str = "\"><script>alert(1)</script>&'";

fn histogram(values: &[f64]) -> Vec<u8> {
    let mut histogram = caelum_engine::sketch::Histogram::default();
    for value in values {
        histogram.record(*value).expect("finite");
    }
    histogram.encode()
}

fn wave(index: i64, base: f64, swing: f64) -> f64 {
    base + swing * ((index as f64 * 0.7).sin() + (index as f64 * 0.13).cos()) / 2.0
}

/// Stage medians of a target in a minute: a resolver that becomes slow for the last 20 minutes.
fn rollup(target: &str, minute: i64, stages: [Option<f64>; 4], slow_dns: bool) -> Rollup {
    let start = (NOW / MINUTE_MS - minute) * MINUTE_MS;
    let mut distributions = BTreeMap::new();
    let measures = [Measure::Dns, Measure::Tcp, Measure::Tls, Measure::Ttfb];
    let mut totals = [0.0; 6];
    for (measure, base) in measures.into_iter().zip(stages) {
        let Some(base) = base else { continue };
        let base = if measure == Measure::Dns && slow_dns { 431.0 } else { base };
        let values: Vec<f64> = (0..6).map(|i| wave(minute * 6 + i, base, base * 0.3).max(0.1)).collect();
        for (total, value) in totals.iter_mut().zip(&values) {
            *total += value;
        }
        distributions.insert(measure, histogram(&values));
    }
    if target.starts_with("icmp:") {
        distributions.insert(Measure::Rtt, histogram(&[11.0, 12.0, 14.0]));
        distributions.insert(Measure::Jitter, histogram(&[0.4]));
        distributions.insert(Measure::Loss, histogram(&[0.0, 0.0, 20.0]));
    } else {
        distributions.insert(Measure::Total, histogram(&totals));
    }
    Rollup {
        key: RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms: start,
            client_id: ClientId::parse("northlab-probe").expect("valid"),
            target: target.to_owned(),
            family: Family::Any,
        },
        partition: PartitionId(0),
        count_total: 6,
        count_success: 6,
        count_error: 0,
        errors_by_stage: BTreeMap::new(),
        errors_by_class: BTreeMap::new(),
        distributions,
        late_merged: 0,
        last: LastSeen {
            ts_ms: (start + 50_000).min(NOW - 2000),
            resolver: stages[0].map(|_| "192.0.2.53:53".to_owned()),
            remote_ip: None,
            error: slow_dns.then(|| (ErrorStage::Dns, HOSTILE.to_owned())),
            ..LastSeen::default()
        },
        state: RollupState::Settled,
        version: 1,
        updated_at_ms: start,
    }
}

const TARGETS: [(&str, &str, [Option<f64>; 4]); 5] = [
    ("https://app.example.net/", "", [Some(17.0), Some(1.2), Some(4.0), Some(22.0)]),
    ("https://git.example.net/status", "git", [Some(12.0), Some(9.0), Some(21.0), Some(64.0)]),
    ("tcp://198.51.100.80:443", "198.51.100.80", [None, Some(8.0), None, None]),
    ("dns://192.0.2.53/.", "Resolver 192.0.2.53", [Some(9.0), None, None, None]),
    ("icmp://192.0.2.1", HOSTILE, [None; 4]),
];

fn node(name: &str, cpu: f64, disk: u64, age_ms: i64) -> Node {
    let giga = 1_000_000_000;
    Node {
        node_id: NodeId::parse(&format!("n-{}", name.len())).expect("valid"),
        name: name.to_owned(),
        identity: HostIdentity {
            hostname: name.to_owned(),
            os: "Debian GNU/Linux 12".into(),
            kernel: "6.1.0-28-amd64".into(),
            arch: "x86_64".into(),
            cpu: "Ryzen 7 5700G".into(),
            cpu_cores: 16,
            addresses: vec!["192.0.2.22".into(), "2001:db8::22".into()],
            ssh_host_keys: Vec::new(),
        },
        roles: vec!["server".into(), "probe".into()],
        version: "0.1.0".into(),
        joined_at_ms: NOW - 3 * 86_400_000,
        seen_at_ms: NOW - age_ms,
        sample: Some(HostSample {
            at_ms: NOW - age_ms,
            cpu_percent: cpu,
            cpu_core_percent: (0..16).map(|i| wave(i, cpu, 20.0).clamp(0.0, 100.0)).collect(),
            memory: Usage { total_bytes: 64 << 30, used_bytes: 45 << 30 },
            swap: Usage { total_bytes: 8 << 30, used_bytes: 1 << 28 },
            load_average: [cpu / 7.0, cpu / 9.0, cpu / 12.0],
            disks: vec![
                DiskSample {
                    mount: "/".into(),
                    device: "/dev/nvme0n1p2".into(),
                    file_system: "ext4".into(),
                    space: Usage { total_bytes: 500 * giga, used_bytes: disk * 5 * giga },
                    read_bytes_per_s: 1.2e6,
                    written_bytes_per_s: 4.5e6,
                },
                DiskSample {
                    mount: "/tank".into(),
                    device: "tank".into(),
                    file_system: "zfs".into(),
                    space: Usage { total_bytes: 8000 * giga, used_bytes: 2000 * giga },
                    ..DiskSample::default()
                },
            ],
            interfaces: vec![InterfaceSample {
                name: "enp5s0".into(),
                received_bytes_per_s: 13.7e6,
                sent_bytes_per_s: 3.7e6,
                receive_errors: 0,
                send_errors: 0,
            }],
            process_count: 412,
            uptime_seconds: 41 * 86_400,
            temperatures: vec![
                TemperatureSample {
                    label: "CPU package".into(),
                    celsius: 81.0,
                    critical_celsius: Some(95.0),
                },
                TemperatureSample { label: "nvme0 composite".into(), celsius: 54.0, critical_celsius: None },
                TemperatureSample { label: "Board".into(), celsius: 42.0, critical_celsius: None },
            ],
        }),
        links: LinkFacts::default(),
    }
}

fn points(cpu: f64, count: i64, step_ms: i64) -> Vec<NodePoint> {
    (0..count)
        .map(|i| NodePoint {
            at_ms: NOW - (count - i) * step_ms,
            cpu_percent: wave(i, cpu, 14.0).clamp(0.0, 100.0),
            memory_percent: wave(i, 68.0, 4.0),
            swap_percent: Some(3.0),
            disk_percent: Some(64.0),
            load_1: wave(i, 5.0, 2.0),
            load_5: wave(i / 5, 4.5, 1.0),
            load_15: 4.0,
            disk_read_bytes_per_s: wave(i, 40e6, 30e6).max(0.0),
            disk_written_bytes_per_s: wave(i * 2, 25e6, 15e6).max(0.0),
            received_bytes_per_s: wave(i * 3, 13e6, 9e6).max(0.0),
            sent_bytes_per_s: wave(i, 4e6, 2e6).max(0.0),
            temperature_celsius: Some(wave(i, 64.0, 8.0)),
            process_count: 412,
        })
        .collect()
}

/// Stores a machine with what it said at a moment.
pub(super) async fn stored(store: &Store, name: &str, at_ms: i64, cpu_percent: f64) {
    let point = NodePoint { at_ms, cpu_percent, ..points(0.0, 1, 0).remove(0) };
    store.put_node(node(name, cpu_percent, 50, 0), Some(point)).await.expect("stored");
}

fn scene(time: &TimeQuery) -> Scene {
    Scene {
        now_ms: NOW,
        zone: Zone::utc(),
        span: Span::of(time, NOW),
        thresholds: Thresholds::default(),
        roster: Arc::default(),
        is_discovering: true,
        sweep: 0,
        node_id: "n-9".into(),
        cluster_name: "northlab".into(),
        version: "0.1.0".into(),
    }
}

fn empty() -> Picture {
    Picture {
        scene: scene(&TimeQuery::default()),
        machines: Vec::new(),
        targets: Vec::new(),
        pairs: Vec::new(),
        slots: Vec::new(),
        spells: Vec::new(),
        incidents: Vec::new(),
        probe_settings: Vec::new(),
        alerts: Vec::new(),
        notices: Vec::new(),
    }
}

fn troubled() -> Picture {
    let scene = scene(&TimeQuery::default());
    let targets: Vec<Target> = TARGETS
        .iter()
        .enumerate()
        .map(|(index, (url, name, _))| Target {
            name: (*name).to_owned(),
            origin: if index == 0 { TargetOrigin::Api } else { TargetOrigin::Default },
            ..Target::usual(
                TargetId::parse(&format!("t-{index}")).expect("valid"),
                (*url).to_owned(),
                NOW - 7_200_000 - index as i64 * 60_000,
            )
        })
        .collect();
    let minute_rows = |minute: i64| -> Vec<Rollup> {
        TARGETS
            .iter()
            .map(|(url, _, stages)| rollup(url, minute, *stages, minute < 20 && url.contains("app.")))
            .collect()
    };
    let since = NOW - 20 * MINUTE_MS;
    let diagnosis = Diagnosis {
        client_id: ClientId::parse("northlab-probe").expect("valid"),
        target: TARGETS[0].0.to_owned(),
        family: Family::Any,
        window_start_ms: NOW - MINUTE_MS,
        since_ms: since,
        label: Label::Dns,
        sublabel: None,
        confidence: 0.94,
        sentence: format!("DNS-bound since 14:12: look-ups take 431 ms instead of 17 ms {HOSTILE}"),
        evidence: vec![Evidence { measure: Some(Measure::Dns), value: 431.0, usual: 17.0, z: 5.0 }],
        consequences: Vec::new(),
        revision: 0,
    };
    let old = Diagnosis {
        target: TARGETS[1].0.to_owned(),
        label: Label::Server,
        since_ms: NOW - 50 * MINUTE_MS,
        window_start_ms: NOW - 41 * MINUTE_MS,
        evidence: vec![Evidence { measure: Some(Measure::Ttfb), value: 640.0, usual: 64.0, z: 4.0 }],
        ..diagnosis.clone()
    };
    let statuses = TARGETS
        .iter()
        .enumerate()
        .map(|(index, (url, _, stages))| PairStatus {
            client_id: ClientId::parse("northlab-probe").expect("valid"),
            target: (*url).to_owned(),
            family: Family::Any,
            standing: [
                Standing::Diagnosed,
                Standing::Usual,
                Standing::Usual,
                Standing::Suspect,
                Standing::Learning,
            ][index],
            window_start_ms: NOW - MINUTE_MS,
            usual: vec![(Measure::Total, stages.iter().flatten().sum()), (Measure::Dns, 15.0)],
            diagnosis: (index == 0).then(|| diagnosis.clone()),
        })
        .collect();
    let recent: Vec<Rollup> = (0..5).flat_map(minute_rows).collect();
    let pairs = picture::pairs_of(history::by_pair(&recent), statuses, &targets, NOW);
    let slots = (0..60)
        .rev()
        .map(|minute| {
            let rows = if (30..34).contains(&minute) { Vec::new() } else { minute_rows(minute) };
            Slot {
                start_ms: (NOW / MINUTE_MS - minute) * MINUTE_MS,
                pairs: Arc::new(history::by_pair(&rows)),
            }
        })
        .collect();
    let spells = picture::spells_of(vec![old, diagnosis], &pairs, NOW);
    let machines = [
        node("edge-perth-1", 3.0, 31, 900_000),
        node("hq-build-2", 93.0, 64, 4_000),
        node("hq-core-1", 18.0, 52, 2_000),
    ]
    .into_iter()
    .map(|node| {
        let cpu = node.sample.as_ref().map_or(0.0, |sample| sample.cpu_percent);
        let spark = points(cpu, 40, 90_000).iter().map(|point| Some(point.cpu_percent)).collect();
        picture::machine(node, None, spark, &scene)
    })
    .collect();
    Picture {
        scene,
        machines,
        targets,
        pairs,
        slots,
        spells,
        incidents: Vec::new(),
        probe_settings: Vec::new(),
        alerts: Vec::new(),
        notices: Vec::new(),
    }
}

fn reader(may_operate: bool) -> Reader {
    Reader { name: format!("ops{HOSTILE}"), may_operate, theme: Theme::System }
}

fn gallery(picture: &Picture) -> Vec<(&'static str, String)> {
    let mut pages = vec![
        ("overview", overview::page(picture, reader(true)).render()),
        ("machines", machines::page(picture, reader(true), &machines::Filter::default()).render()),
        ("topology", topology::page(picture, reader(true), &topology::Choice::default()).render()),
        ("network", network::page(picture, reader(true), &network::Choice::default()).render()),
        ("settings", settings::page(picture, reader(true), Form::fresh(), None).render()),
        (
            "settings-fault",
            settings::page(
                picture,
                reader(true),
                Form { url: HOSTILE.into(), ..Form::fresh() },
                Some(HOSTILE.into()),
            )
            .render(),
        ),
    ];
    if let Some(machine) = picture.machines.get(1) {
        pages.push((
            "machine",
            machine::page(picture, machine, &points(60.0, 360, 10_000), reader(true)).render(),
        ));
    }
    pages.into_iter().map(|(name, html)| (name, html.expect("renders"))).collect()
}

fn keep(prefix: &str, name: &str, html: &str) {
    if let Some(directory) = std::env::var_os("CAELUM_GALLERY") {
        std::fs::write(std::path::Path::new(&directory).join(format!("{prefix}{name}.html")), html)
            .expect("gallery is writable");
    }
}

mod cluster;
mod counting;
pub mod target;

#[test]
fn every_page_has_its_landmarks_and_lets_nothing_out_of_its_quotes() {
    for (prefix, picture) in [("", troubled()), ("empty-", empty())] {
        for (name, html) in gallery(&picture) {
            keep(prefix, name, &html);
            assert!(!html.contains("<script>alert"), "{name} lets a script through");
            assert!(!html.contains("alert(1)</"), "{name} lets a tag through");
            assert_eq!(html.matches("<h1>").count(), 1, "{name} has one heading");
            for landmark in [
                "<main id=\"main\">",
                "<nav class=\"nav\"",
                "class=\"skip\"",
                "id=\"b-horizon\"",
                "lang=\"en\"",
            ] {
                assert!(html.contains(landmark), "{name} lacks {landmark}");
            }
            assert!(!html.contains(" onclick") && !html.contains("javascript:"), "{name} has inline script");
            assert!(!html.contains("<style"), "{name} has an inline style sheet");
            assert!(!html.contains("NaN") && !html.contains("inf%"), "{name} shows a number that is none");
            assert_ids_are_unique(name, &html);
        }
    }
}

fn assert_ids_are_unique(page: &str, html: &str) {
    let mut seen = std::collections::HashSet::new();
    for id in html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(seen.insert(id), "{page} has the id {id} twice");
    }
}

#[test]
fn every_block_that_a_page_asks_for_can_be_drawn_alone_under_its_own_name() {
    let picture = troubled();
    let busy = &picture.machines[1];
    let filter = machines::Filter::default();
    let choice = network::Choice::default();
    type Draw<'a> = &'a dyn Fn(&str) -> Option<super::block::Block>;
    let pages: [(&str, Draw<'_>); 6] = [
        (overview::TOPICS, &|name| overview::block(name, &picture, true)),
        (machines::TOPICS, &|name| machines::block(name, &picture, &filter, true)),
        (topology::TOPICS, &|name| topology::block(name, &picture, &topology::Choice::default())),
        (machine::TOPICS, &|name| machine::block(name, &picture, busy, true)),
        (network::TOPICS, &|name| network::block(name, &picture, &choice)),
        (settings::TOPICS, &|name| settings::block(name, &picture, true)),
    ];
    for (topics, draw) in pages {
        for topic in topics.split(',').chain(["verdict"]).filter(|topic| *topic != "machine-charts") {
            let block = draw(topic).unwrap_or_else(|| panic!("no block {topic}"));
            assert!(block.html().contains(&format!("data-live=\"{topic}\"")), "{topic}");
        }
        assert!(draw("nonsense").is_none());
    }
}

#[test]
fn a_verdict_heads_the_page_and_names_what_is_wrong_with_its_usual() {
    let picture = troubled();
    let network = super::words::network(&picture);
    assert_eq!(
        network.sentence.replace('\u{a0}', " "),
        "Look-ups of app.example.net take 431 ms instead of 17 ms."
    );
    let overview = super::words::overview(&picture);
    assert!(
        overview
            .sentence
            .starts_with("Name look-ups for app.example.net are slow, edge-perth-1 has been silent"),
        "{}",
        overview.sentence
    );
    let places = picture.verdicts();
    let places = super::words::places(&picture, places[0].0, places[0].1).map(|place| place.at);
    assert_eq!(
        places,
        ["clear", "crit", "clear", "clear"].map(|at| if at == "crit" { places[1] } else { at })
    );
    assert_ne!(places[1], "clear");
}

#[test]
fn an_empty_start_promises_what_comes_and_shows_no_zero_for_what_is_unknown() {
    let picture = empty();
    let html = overview::page(&picture, reader(true)).render().expect("renders");
    assert!(html.contains("First steps"));
    assert!(html.contains("The first sample comes within ten seconds."));
    assert!(html.contains(super::format::ABSENT));
    assert_eq!(
        super::words::overview(&picture).sentence,
        "No machine has reported yet, and nothing is measured yet."
    );
}

#[test]
fn a_viewer_sees_no_button_that_would_be_refused() {
    let picture = troubled();
    let html = settings::page(&picture, reader(false), Form::fresh(), None).render().expect("renders");
    assert!(!html.contains("/settings/targets/remove"));
    assert!(html.contains("needs the role operator"));
}

#[test]
fn the_pages_outside_the_frame_escape_too() {
    let login = Login {
        name: HOSTILE.into(),
        next: HOSTILE.into(),
        fault: Some("Name or password is wrong.".into()),
        cluster_name: "northlab".into(),
        node_name: "hq-core-1".into(),
        version: "0.1.0".into(),
        fingerprint: "7c:1e:a4:09:5b:d2".into(),
        ..Login::default()
    };
    let notice = Notice {
        title: "There is no such page.".into(),
        text: "The address may be old.".into(),
        detail: HOSTILE.into(),
        cluster_name: "northlab".into(),
        version: "0.1.0".into(),
        theme: Theme::Dark,
    };
    for (name, html) in [("login", login.render()), ("notice", notice.render())] {
        let html = html.expect("renders");
        keep("", name, &html);
        assert!(!html.contains("<script>alert"), "{name}");
        assert_eq!(html.matches("<h1>").count(), 1, "{name}");
    }
}
