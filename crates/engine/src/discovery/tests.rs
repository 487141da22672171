//! Discovery values that talk to each other in virtual time, and a network that lies.

use std::net::SocketAddr;

use caelum_model::{
    beacon::{Beacon, BeaconKind, DATAGRAM_SENT_MAX},
    cluster::{ClusterKey, MachineKind, Service},
    id::NodeId,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{codec::seal_first, *};

fn key(generation: u32) -> ClusterKey {
    ClusterKey { generation, secret: format!("{generation:064x}") }
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 40_000))
}

fn config(n: u8, keys: &[ClusterKey]) -> Config {
    Config {
        node_id: NodeId::parse(&format!("node-{n}")).expect("valid"),
        hostname: format!("host-{n}"),
        instance: instance_of(1_000 + u64::from(n)),
        primary_ip: format!("192.168.7.{n}"),
        websocket_port: 8_080,
        cluster_id: "c-1".to_owned(),
        cluster_name: "lab".to_owned(),
        roles: vec!["agent".to_owned()],
        version: "0.1.0".to_owned(),
        services: Vec::new(),
        interval_ms: 15_000,
        timeout_ms: 60_000,
        keys: keys.to_vec(),
        unicast: Vec::new(),
        second_dialect: false,
        seed: u64::from(n) * 7_919,
    }
}

fn now(ms: i64) -> Now {
    Now { ms, wall_ms: 1_700_000_000_000 + ms }
}

fn started(n: u8, keys: &[ClusterKey]) -> Discovery {
    let mut discovery = Discovery::new(config(n, keys));
    discovery.handle(now(0), Input::Start, &mut Vec::new());
    discovery
}

fn tell(discovery: &mut Discovery, ms: i64, from: SocketAddr, bytes: &[u8]) -> Vec<Output> {
    let mut out = Vec::new();
    discovery.handle(now(ms), Input::Datagram { from, bytes }, &mut out);
    out
}

fn wake(discovery: &mut Discovery, ms: i64) -> Vec<Output> {
    let mut out = Vec::new();
    discovery.handle(now(ms), Input::Wake, &mut out);
    out
}

/// Wakes it whenever it wants, up to a time.
fn run(discovery: &mut Discovery, until_ms: i64) -> Vec<(i64, Output)> {
    let mut all = Vec::new();
    while let Some(due_ms) = discovery.next_wakeup_ms().filter(|due_ms| *due_ms <= until_ms) {
        all.extend(wake(discovery, due_ms).into_iter().map(|output| (due_ms, output)));
    }
    all
}

fn refusal(out: &[Output]) -> Option<Refusal> {
    out.iter().find_map(|output| match output {
        Output::Refused { reason, .. } => Some(*reason),
        _ => None,
    })
}

fn heard(out: &[Output]) -> Option<&Heard> {
    out.iter().find_map(|output| match output {
        Output::Heard(heard) => Some(heard.as_ref()),
        _ => None,
    })
}

fn sent(out: &[Output]) -> Vec<(To, Value)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Send { to, bytes } => Some((*to, serde_json::from_slice(bytes).expect("JSON"))),
            _ => None,
        })
        .collect()
}

/// A beacon of a node that is not simulated.
fn beacon(n: u8, run: u64, seq: u64) -> Beacon {
    Beacon {
        message_type: "CAELUM_BEACON".to_owned(),
        machine_id: format!("node-{n}"),
        hostname: format!("host-{n}"),
        websocket_port: 8_080,
        instance: instance_of(run),
        seq,
        ..Beacon::default()
    }
}

/// Lets node 2 prove a run to node 1, by hand, at this time.
fn prove(discovery: &mut Discovery, ms: i64, run: u64, seq: u64) {
    let asking = Beacon { kind: BeaconKind::Solicit, nonce: "theirs".to_owned(), ..beacon(2, run, seq) };
    tell(discovery, ms, addr(2), &seal_first(asking, Some(&key(1))));
    let answers = sent(&run_outputs(discovery, ms + 500));
    let (_, answer) = answers
        .iter()
        .find(|(to, value)| *to == To::One(addr(2)) && value["echo"] == "theirs")
        .expect("answer");
    let echo = answer["nonce"].as_str().expect("a challenge").to_owned();
    let answering = Beacon { echo, ..beacon(2, run, seq + 1) };
    let out = tell(discovery, ms + 500, addr(2), &seal_first(answering, Some(&key(1))));
    let heard = heard(&out).expect("heard");
    assert!(heard.proof == Proof::Fresh && heard.is_newly_proven);
}

fn run_outputs(discovery: &mut Discovery, until_ms: i64) -> Vec<Output> {
    run(discovery, until_ms).into_iter().map(|(_, output)| output).collect()
}

/// Nodes on one network; node n is at `addr(n)`.
struct Network {
    nodes: Vec<Discovery>,
    heard: Vec<Heard>,
    datagrams: usize,
    ms: i64,
}

impl Network {
    fn carry(&mut self, sender: usize, out: Vec<Output>) {
        let source = addr(sender as u8 + 1);
        for output in out {
            match output {
                Output::Send { to, bytes } => {
                    self.datagrams += 1;
                    assert!(self.datagrams < 100_000, "they talk without end");
                    for at in 0..self.nodes.len() {
                        if to == To::Everyone || to == To::One(addr(at as u8 + 1)) {
                            let out = tell(&mut self.nodes[at], self.ms, source, &bytes);
                            self.carry(at, out);
                        }
                    }
                }
                Output::Heard(heard) => self.heard.push(*heard),
                Output::Gone { .. } => {}
                Output::Refused { reason, .. } => panic!("{reason:?}"),
            }
        }
    }

    fn run(&mut self, until_ms: i64) {
        while let Some((due_ms, at)) = (0..self.nodes.len())
            .filter_map(|at| Some((self.nodes[at].next_wakeup_ms()?, at)))
            .min()
            .filter(|(due_ms, _)| *due_ms <= until_ms)
        {
            self.ms = due_ms;
            let out = wake(&mut self.nodes[at], due_ms);
            self.carry(at, out);
        }
        self.ms = until_ms;
    }
}

fn network(n: u8, keys: &[ClusterKey]) -> Network {
    let nodes = (1..=n).map(|n| Discovery::new(config(n, keys))).collect();
    let mut network = Network { nodes, heard: Vec::new(), datagrams: 0, ms: 0 };
    for at in 0..network.nodes.len() {
        let mut out = Vec::new();
        network.nodes[at].handle(now(0), Input::Start, &mut out);
        network.carry(at, out);
    }
    network
}

#[test]
fn two_nodes_prove_each_other_fresh_within_a_tenth_of_a_second() {
    let mut network = network(2, &[key(1)]);
    network.run(100);
    for (at, other) in [(0, 2), (1, 1)] {
        let config = config(other, &[]);
        assert!(network.nodes[at].is_fresh(config.node_id.as_str(), &config.instance), "{at}");
    }
    assert!(network.datagrams <= 6, "{}", network.datagrams);
    let told: Vec<_> = network.heard.iter().filter(|heard| heard.is_newly_proven).collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|heard| heard.kind == MachineKind::Caelum && heard.from.port() == 40_000));
}

#[test]
fn twenty_nodes_that_start_at_once_all_prove_each_other_and_fall_quiet() {
    let mut network = network(20, &[key(1)]);
    network.run(2_000);
    for node in &network.nodes {
        assert_eq!(node.machines().filter(|heard| heard.proof == Proof::Fresh).count(), 19);
    }
    let after_start = network.datagrams;
    network.run(32_000);
    let regular = network.datagrams - after_start;
    assert!((40..=60).contains(&regular), "{regular} datagrams in two intervals of twenty nodes");
    assert!(network.nodes.iter().all(|node| node.machines().count() == 19));
}

#[test]
fn without_a_key_machines_are_heard_and_nothing_is_proven() {
    let mut network = network(3, &[]);
    network.run(1_000);
    assert!(network.nodes.iter().all(|node| node.machines().count() == 2));
    assert!(network.heard.iter().all(|heard| heard.proof == Proof::None));
}

#[test]
fn nodes_that_get_a_key_later_prove_themselves_at_once() {
    let mut network = network(3, &[]);
    network.run(5_000);
    for at in 0..3 {
        network.nodes[at].handle(now(5_000), Input::Keys(vec![key(1)]), &mut Vec::new());
    }
    network.run(6_000);
    assert!(network.nodes.iter().all(|node| node.machines().all(|heard| heard.proof == Proof::Fresh)));
}

#[test]
fn a_start_is_three_beacons_of_which_the_first_asks_and_then_one_each_interval() {
    let mut discovery = Discovery::new(Config { second_dialect: true, ..config(1, &[key(1)]) });
    let mut out = Vec::new();
    discovery.handle(now(0), Input::Start, &mut out);
    let mut times = vec![0];
    assert_eq!(sent(&out)[0].1["kind"], "solicit");
    assert_eq!(sent(&out)[0].1["nonce"].as_str().expect("a challenge").len(), 32);
    assert_eq!(
        sent(&out)[1],
        (
            To::EveryoneSecond,
            json!({"type": "discovery", "clusterId": "node-1", "clusterName": "host-1", "wsPort": 8080,
            "capabilities": ["agent"], "role": "node"})
        )
    );
    for (ms, output) in run(&mut discovery, 60_000) {
        if let Output::Send { to: To::Everyone, bytes } = output {
            let value: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert!(value["kind"] == "announce" && value.get("nonce").is_none());
            times.push(ms);
        }
    }
    assert!((100..200).contains(&times[1]) && (600..800).contains(&times[2]), "{times:?}");
    assert!((13_500..=16_500).contains(&times[3]), "{times:?}");
    assert!(times[3..].windows(2).all(|pair| (13_500..=16_500).contains(&(pair[1] - pair[0]))), "{times:?}");
}

#[test]
fn configured_peers_are_asked_each_time() {
    let peer: SocketAddr = "203.0.113.9:8181".parse().expect("an address");
    let mut discovery = Discovery::new(Config { unicast: vec![peer], ..config(1, &[key(1)]) });
    let mut out = Vec::new();
    discovery.handle(now(0), Input::Start, &mut out);
    out.extend(run_outputs(&mut discovery, 17_000));
    let asked: Vec<_> = sent(&out).into_iter().filter(|(to, _)| *to == To::One(peer)).collect();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|(_, value)| value["kind"] == "solicit"));
}

#[test]
fn a_sent_beacon_has_the_fields_that_travel() {
    let mut discovery = Discovery::new(config(1, &[key(7)]));
    let mut out = Vec::new();
    discovery.handle(now(5), Input::Start, &mut out);
    let Output::Send { bytes, .. } = &out[0] else { panic!("{out:?}") };
    let text = String::from_utf8(bytes.clone()).expect("UTF-8");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    let object = value.as_object_mut().expect("an object");
    for name in ["auth", "nonce"] {
        assert!(object.remove(name).is_some(), "{name}");
    }
    assert_eq!(
        value,
        json!({
            "message_type": "CAELUM_BEACON", "machine_id": "node-1", "hostname": "host-1",
            "primary_ip": "192.168.7.1", "cluster_id": "c-1", "cluster_name": "lab", "websocket_port": 8080,
            "services": [], "timestamp": "2023-11-14T22:13:20.005+00:00", "instance": "00000000000003e9", "seq": 1,
            "kind": "solicit", "roles": ["agent"], "version": "0.1.0", "key_generation": 7
        })
    );
    assert!(text.starts_with("{\"auth\":\"") && !text.contains(": "), "the canonical form is what is sent");
}

#[test]
fn a_beacon_with_too_many_services_says_how_many() {
    let service = |n: u16| Service {
        name: format!("service-{n}"),
        kind: "mcp".to_owned(),
        port: n,
        status: "running".to_owned(),
    };
    let services: Vec<Service> = (0..40).map(service).collect();
    let hostname = "\"".repeat(300);
    let mut discovery = Discovery::new(Config { services, hostname, ..config(1, &[key(1)]) });
    let mut out = Vec::new();
    discovery.handle(now(0), Input::Start, &mut out);
    let Output::Send { bytes, .. } = &out[0] else { panic!("{out:?}") };
    assert!(bytes.len() <= DATAGRAM_SENT_MAX);
    let value = &sent(&out)[0].1;
    assert_eq!((&value["services"], &value["service_count"]), (&json!([]), &json!(40)));
}

#[test]
fn the_beacon_of_the_first_program_is_understood_and_proves_nothing() {
    let mut discovery = started(1, &[key(1)]);
    let bytes = br#"{"message_type": "CAELUM_BEACON", "machine_id": "caelum-0a1b2c3d", "hostname": "pi",
        "primary_ip": "192.168.1.5", "cluster_id": null, "cluster_name": "", "websocket_port": 8095,
        "services": [{"name": "files", "type": "mcp", "port": 8101, "status": "running"}],
        "timestamp": "2025-01-01T00:00:00+00:00"}"#;
    let out = tell(&mut discovery, 1_000, addr(9), bytes);
    let heard = heard(&out).expect("heard");
    assert_eq!((heard.kind, heard.proof, heard.is_new), (MachineKind::CaelumAnalytics, Proof::None, true));
    assert_eq!((heard.from, heard.websocket_port, heard.services[0].port), (addr(9), 8_095, 8_101));
    assert_eq!(heard.heard_wall_ms, 1_700_000_001_000);
}

#[test]
fn the_second_dialect_is_understood_and_its_question_answered_in_it() {
    let mut discovery = started(1, &[key(1)]);
    let bytes = br#"{"type":"discovery","clusterId":"cl-7","clusterName":"attic","capabilities":["gpu"],"role":"worker"}"#;
    let out = tell(&mut discovery, 1_000, addr(9), bytes);
    let heard = heard(&out).expect("heard");
    assert_eq!((heard.machine_id.as_str(), heard.hostname.as_str()), ("cl-7", "attic"));
    assert_eq!((heard.kind, heard.websocket_port), (MachineKind::CaelumCluster, 8_080));
    assert_eq!(
        (heard.capabilities.clone(), heard.role.as_deref()),
        (Some(vec!["gpu".to_owned()]), Some("worker"))
    );
    let answers = sent(&run_outputs(&mut discovery, 1_500));
    let to_them: Vec<_> = answers.iter().filter(|(to, _)| *to == To::One(addr(9))).collect();
    assert_eq!(to_them.len(), 1);
    assert_eq!((&to_them[0].1["type"], &to_them[0].1["clusterId"]), (&json!("beacon"), &json!("node-1")));
}

#[test]
fn a_caelum_that_speaks_both_dialects_stays_one_machine() {
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 1);
    let second = br#"{"type":"beacon","clusterId":"node-2"}"#;
    assert_eq!(tell(&mut discovery, 2_000, addr(2), second), []);
    assert_eq!(refusal(&tell(&mut discovery, 2_000, addr(6), second)), Some(Refusal::Unproven));
    assert_eq!(discovery.machine("node-2").expect("known").kind, MachineKind::Caelum);
}

#[test]
fn what_is_no_beacon_is_refused_with_its_reason() {
    let base = json!({"message_type": "CAELUM_BEACON", "machine_id": "m", "websocket_port": 1});
    let with = |name: &str, value: Value| {
        let mut changed = base.clone();
        changed[name] = value;
        changed.to_string().into_bytes()
    };
    let service = json!({"name": "n", "type": "t", "port": 1, "status": "s"});
    let deep = "[".repeat(2_000);
    let cases: Vec<(Vec<u8>, Refusal)> = vec![
        (vec![b' '; 4_097], Refusal::Oversized),
        (b"".to_vec(), Refusal::Malformed),
        (b"[]".to_vec(), Refusal::Malformed),
        (b"{\"message_type\":\"CAELUM_BEACON\"}".to_vec(), Refusal::Malformed),
        (b"\xff{}".to_vec(), Refusal::Malformed),
        (format!("{{\"a\":{deep}").into_bytes(), Refusal::Malformed),
        (b"{}".to_vec(), Refusal::UnknownType),
        (b"{\"type\":\"shout\",\"clusterId\":\"c\"}".to_vec(), Refusal::UnknownType),
        (b"{\"type\":7,\"clusterId\":\"c\"}".to_vec(), Refusal::UnknownType),
        (b"{\"type\":\"beacon\"}".to_vec(), Refusal::Malformed),
        (b"{\"type\":\"beacon\",\"clusterId\":\"c\",\"wsPort\":0}".to_vec(), Refusal::Malformed),
        (with("message_type", json!("OTHER")), Refusal::UnknownType),
        (with("machine_id", json!("")), Refusal::Malformed),
        (with("machine_id", json!("x".repeat(65))), Refusal::Malformed),
        (with("machine_id", json!("a\u{7}")), Refusal::Malformed),
        (with("machine_id", json!(5)), Refusal::Malformed),
        (with("hostname", json!("x".repeat(256))), Refusal::Malformed),
        (with("hostname", json!("a\nb")), Refusal::Malformed),
        (with("websocket_port", json!(0)), Refusal::Malformed),
        (with("websocket_port", json!(65_536)), Refusal::Malformed),
        (with("services", Value::Array(vec![service; 65])), Refusal::Malformed),
        (with("services", json!([{"name": "n"}])), Refusal::Malformed),
        (with("kind", json!("shout")), Refusal::Malformed),
    ];
    for (bytes, reason) in cases {
        let mut discovery = started(1, &[]);
        let out = tell(&mut discovery, 1, addr(9), &bytes);
        assert_eq!(refusal(&out), Some(reason), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(discovery.machines().count(), 0);
    }
    let mut discovery = started(1, &[]);
    let extra = with("of_tomorrow", json!({"a": [1, 2.5, null]}));
    assert!(heard(&tell(&mut discovery, 1, addr(9), &extra)).is_some(), "unknown fields are ignored");
}

#[test]
fn a_seal_covers_every_field_even_those_that_are_unknown() {
    let mut object = match serde_json::to_value(beacon(2, 5, 1)).expect("plain") {
        Value::Object(object) => object,
        _ => unreachable!(),
    };
    object.insert("key_generation".to_owned(), json!(1));
    object.insert("of_tomorrow".to_owned(), json!({"b": 1, "a": [0.5, "\u{e9}\n"]}));
    let code = crate::seal::mac(&key(1), &[&codec::canonical(&object)]);
    object.insert("auth".to_owned(), json!(codec::hex(&code)));
    let open = |object: &serde_json::Map<String, Value>| {
        codec::open(serde_json::to_string_pretty(object).expect("JSON").as_bytes(), &[key(1)])
    };
    assert!(matches!(open(&object), Ok(codec::Opened::First(_, Some(1)))), "white space is not sealed");
    object["of_tomorrow"]["a"][0] = json!(0.25);
    assert_eq!(open(&object), Err(Refusal::BadAuth));
}

#[test]
fn a_wrong_seal_under_a_key_we_have_changes_nothing_and_an_unknown_key_proves_nothing() {
    let mut discovery = started(1, &[key(1)]);
    let wrong = ClusterKey { generation: 1, secret: "guess".to_owned() };
    let out = tell(&mut discovery, 1, addr(2), &seal_first(beacon(2, 5, 1), Some(&wrong)));
    assert_eq!(refusal(&out), Some(Refusal::BadAuth));
    assert_eq!(discovery.machines().count(), 0);
    let out = tell(&mut discovery, 2, addr(2), &seal_first(beacon(2, 5, 1), Some(&key(2))));
    assert_eq!(heard(&out).map(|heard| heard.proof), Some(Proof::None));
    assert!(sent(&out).is_empty(), "who shows no key of ours is not challenged");
}

#[test]
fn a_recording_never_becomes_fresh_and_is_challenged_seldom() {
    let mut discovery = started(1, &[key(1)]);
    let recorded = seal_first(Beacon { echo: "old".to_owned(), ..beacon(2, 5, 1) }, Some(&key(1)));
    let mut challenges = 0;
    for ms in 0..100 {
        let out = tell(&mut discovery, 2_000 + ms * 100, addr(2), &recorded);
        assert!(heard(&out).is_none_or(|heard| heard.proof == Proof::None));
        challenges += sent(&out).len();
    }
    assert!(challenges <= 20, "{challenges}");
    assert!(!discovery.is_fresh("node-2", &instance_of(5)));
}

#[test]
fn an_answer_that_comes_after_five_seconds_proves_nothing() {
    for (after_ms, proof) in [(4_900, Proof::Fresh), (5_100, Proof::None)] {
        let mut discovery = started(1, &[key(1)]);
        let out = tell(&mut discovery, 10_000, addr(2), &seal_first(beacon(2, 5, 1), Some(&key(1))));
        let (to, challenge) = sent(&out).remove(0);
        assert_eq!((to, &challenge["kind"]), (To::One(addr(2)), &json!("solicit")));
        let echo = challenge["nonce"].as_str().expect("a challenge").to_owned();
        let answer = seal_first(Beacon { echo, ..beacon(2, 5, 2) }, Some(&key(1)));
        let out = tell(&mut discovery, 10_000 + after_ms, addr(2), &answer);
        assert_eq!(heard(&out).map(|heard| heard.proof), Some(proof));
    }
}

#[test]
fn of_a_fresh_machine_only_new_numbers_count_and_copies_by_another_path_are_quiet() {
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 10);
    let mut say = |ms: i64, n: u8, seq: u64| {
        tell(&mut discovery, ms, addr(n), &seal_first(beacon(2, 5, seq), Some(&key(1))))
    };
    assert!(heard(&say(2_000, 2, 30)).is_some());
    assert_eq!(say(2_100, 3, 30), [], "a copy by another path");
    assert_eq!(refusal(&say(4_000, 6, 30)), Some(Refusal::Replayed));
    assert!(heard(&say(4_000, 2, 29)).is_some(), "overtaken on the way");
    assert_eq!(refusal(&say(4_000, 2, 29)), None);
    assert!(heard(&say(5_000, 2, 200)).is_some());
    assert_eq!(refusal(&say(5_000, 2, 100)), Some(Refusal::Replayed));
    assert_eq!(discovery.machine("node-2").expect("known").from, addr(2));
}

#[test]
fn a_machine_with_several_addresses_is_known_by_the_best_and_keeps_it_while_heard_there() {
    let [local, good, other] = ["[fe80::1%2]:7", "10.0.0.2:7", "10.0.9.9:7"]
        .map(|addr| addr.parse::<SocketAddr>().expect("an address"));
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 1);
    let mut say = |ms: i64, from: SocketAddr, seq: u64| {
        let out = tell(&mut discovery, ms, from, &seal_first(beacon(2, 5, seq), Some(&key(1))));
        assert_eq!(refusal(&out), None);
        discovery.machine("node-2").expect("known").from
    };
    assert_eq!(say(2_000, local, 10), addr(2), "worth less");
    assert_eq!(say(2_001, other, 10), addr(2), "worth as much, and the one before still counts");
    assert_eq!(say(50_000, local, 11), local, "not heard from the one before for half the time-out");
    assert_eq!(say(50_001, good, 11), good, "a copy by a better path");
    for seq in 12..20 {
        let ms = 50_000 + (seq as i64 - 11) * 15_000;
        assert_eq!(say(ms, other, seq), good, "passed on by somebody who is quicker");
        assert_eq!(say(ms + 1, good, seq), good);
    }
}

#[test]
fn a_question_that_comes_by_two_paths_is_answered_once() {
    let mut discovery = started(1, &[key(1)]);
    run(&mut discovery, 1_000);
    let asking = Beacon { kind: BeaconKind::Solicit, nonce: "theirs".to_owned(), ..beacon(2, 5, 1) };
    let bytes = seal_first(asking, Some(&key(1)));
    let mut out = Vec::new();
    for from in ["[fe80::1%2]:7", "10.0.0.2:7", "10.0.0.3:7"] {
        out.extend(tell(&mut discovery, 1_000, from.parse().expect("an address"), &bytes));
    }
    out.extend(run_outputs(&mut discovery, 1_100));
    let to: Vec<To> = sent(&out).into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, [To::One("10.0.0.2:7".parse().expect("an address"))]);
}

#[test]
fn a_later_run_has_to_prove_itself_and_an_earlier_one_is_a_recording() {
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 1);
    let earlier = seal_first(beacon(2, 4, 900), Some(&key(1)));
    assert_eq!(refusal(&tell(&mut discovery, 2_000, addr(2), &earlier)), Some(Refusal::Replayed));
    let later = seal_first(beacon(2, 6, 1), Some(&key(1)));
    let out = tell(&mut discovery, 3_000, addr(7), &later);
    assert!(heard(&out).is_none() && sent(&out).len() == 1, "{out:?}");
    assert_eq!(discovery.machine("node-2").expect("known").from, addr(2));
    prove(&mut discovery, 4_000, 6, 2);
    let known = discovery.machine("node-2").expect("known");
    assert!(known.is_restart && !known.is_new && known.instance == instance_of(6));
}

#[test]
fn an_unproven_beacon_neither_changes_nor_removes_a_fresh_machine() {
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 1);
    let before = discovery.machine("node-2").cloned();
    let forged = Beacon { websocket_port: 1, ..beacon(2, 9, 99) };
    let goodbye = Beacon { kind: BeaconKind::Goodbye, ..beacon(2, 9, 99) };
    for beacon in [forged, goodbye.clone()] {
        for key in [None, Some(key(8))] {
            let out = tell(&mut discovery, 2_000, addr(2), &seal_first(beacon.clone(), key.as_ref()));
            assert_eq!(refusal(&out), Some(Refusal::Unproven));
        }
    }
    let out = tell(&mut discovery, 2_000, addr(2), &seal_first(goodbye, Some(&key(1))));
    assert_eq!(refusal(&out), Some(Refusal::Unproven), "a sealed goodbye of a run that is not proven");
    assert_eq!(discovery.machine("node-2").cloned(), before);
}

#[test]
fn a_proven_goodbye_removes_and_beacons_that_it_overtook_bring_nothing_back() {
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 1);
    let goodbye = seal_first(Beacon { kind: BeaconKind::Goodbye, ..beacon(2, 5, 10) }, Some(&key(1)));
    let gone = Output::Gone { machine_id: "node-2".to_owned(), why: Gone::Goodbye, proof: Proof::Fresh };
    assert_eq!(tell(&mut discovery, 2_000, addr(2), &goodbye), [gone]);
    for bytes in [goodbye, seal_first(beacon(2, 5, 9), Some(&key(1)))] {
        assert_eq!(refusal(&tell(&mut discovery, 2_100, addr(2), &bytes)), Some(Refusal::Replayed));
    }
    assert_eq!(discovery.machines().count(), 0);
    let next_run = seal_first(beacon(2, 6, 1), Some(&key(1)));
    assert!(heard(&tell(&mut discovery, 2_200, addr(2), &next_run)).is_some_and(|heard| heard.is_new));
}

#[test]
fn a_strangers_goodbye_counts_from_its_own_address_only() {
    let mut discovery = started(1, &[key(1)]);
    tell(&mut discovery, 1, addr(2), &seal_first(beacon(2, 5, 1), None));
    let goodbye = seal_first(Beacon { kind: BeaconKind::Goodbye, ..beacon(2, 5, 2) }, None);
    assert_eq!(refusal(&tell(&mut discovery, 2, addr(6), &goodbye)), Some(Refusal::Unproven));
    let gone = Output::Gone { machine_id: "node-2".to_owned(), why: Gone::Goodbye, proof: Proof::None };
    assert_eq!(tell(&mut discovery, 3, addr(2), &goodbye), [gone]);
}

#[test]
fn a_stopping_node_says_goodbye_to_everybody_to_its_peers_and_to_those_it_knows() {
    let peer: SocketAddr = "203.0.113.9:8181".parse().expect("an address");
    let mut discovery = Discovery::new(Config { unicast: vec![peer], ..config(1, &[key(1)]) });
    discovery.handle(now(0), Input::Start, &mut Vec::new());
    prove(&mut discovery, 1_000, 5, 1);
    let mut out = Vec::new();
    discovery.handle(now(2_000), Input::Stop, &mut out);
    let sent = sent(&out);
    let to: Vec<To> = sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [To::Everyone, To::One(peer), To::One(addr(2))]);
    assert!(sent.iter().all(|(_, value)| value["kind"] == "goodbye"));
    assert_eq!(discovery.next_wakeup_ms(), None);
    let asking = seal_first(Beacon { kind: BeaconKind::Solicit, ..beacon(3, 5, 1) }, None);
    assert!(tell(&mut discovery, 2_001, addr(3), &asking).iter().all(|o| !matches!(o, Output::Send { .. })));
}

#[test]
fn a_silent_machine_is_gone_on_a_quiet_network_too() {
    let mut discovery = started(1, &[key(1)]);
    tell(&mut discovery, 1_000, addr(2), &seal_first(beacon(2, 5, 1), None));
    let gone =
        |(ms, output): (i64, Output)| matches!(output, Output::Gone { why: Gone::Silent, .. }).then_some(ms);
    let times: Vec<i64> = run(&mut discovery, 120_000).into_iter().filter_map(gone).collect();
    assert_eq!(times, [61_000]);
}

#[test]
fn a_process_that_stood_still_asks_before_it_forgets() {
    let mut discovery = started(1, &[key(1)]);
    run(&mut discovery, 1_000);
    tell(&mut discovery, 1_000, addr(2), &seal_first(beacon(2, 5, 1), None));
    tell(&mut discovery, 1_000, addr(3), &seal_first(beacon(3, 5, 1), None));
    let out = wake(&mut discovery, 500_000);
    assert!(out.iter().all(|output| !matches!(output, Output::Gone { .. })));
    assert_eq!(sent(&out)[0].1["kind"], "solicit");
    tell(&mut discovery, 500_100, addr(2), &seal_first(beacon(2, 5, 2), None));
    let out = run_outputs(&mut discovery, 503_000);
    let gone: Vec<_> = out.iter().filter(|output| matches!(output, Output::Gone { .. })).collect();
    assert_eq!(gone.len(), 1);
    assert!(discovery.machine("node-2").is_some());
}

#[test]
fn our_own_beacons_are_told_by_id_and_instance() {
    let mut discovery = started(1, &[key(1)]);
    let own = |run: u64| seal_first(beacon(1, run, 1), Some(&key(1)));
    assert_eq!(tell(&mut discovery, 100, addr(1), &own(1_001)), []);
    assert_eq!(tell(&mut discovery, 100, addr(1), &own(900)), [], "our former run's last words");
    for (ms, run) in [(100, 2_000), (60_000, 900)] {
        assert_eq!(refusal(&tell(&mut discovery, ms, addr(9), &own(run))), Some(Refusal::DuplicateId));
    }
}

#[test]
fn an_asker_is_answered_once_a_second_within_its_jitter() {
    let mut discovery = started(1, &[]);
    run(&mut discovery, 5_000);
    let asking = seal_first(Beacon { kind: BeaconKind::Solicit, ..beacon(2, 5, 1) }, None);
    let mut answered = Vec::new();
    for ms in (5_000..8_000).step_by(100) {
        tell(&mut discovery, ms, addr(2), &asking);
        let sends = run(&mut discovery, ms + 99).into_iter();
        answered.extend(
            sends
                .filter(|(_, output)| matches!(output, Output::Send { to: To::One(_), .. }))
                .map(|(ms, _)| ms),
        );
    }
    assert_eq!(answered.len(), 3, "{answered:?}");
    assert!((5_000..=5_050).contains(&answered[0]));
}

#[test]
fn strangers_cause_at_most_fifty_answers_a_second_and_late_ones_come_later() {
    let mut discovery = started(1, &[]);
    run(&mut discovery, 1_000);
    let mut all = Vec::new();
    for n in 0..200 {
        let asking = seal_first(Beacon { kind: BeaconKind::Solicit, ..beacon(2, 5, 1) }, None);
        all.extend(tell(&mut discovery, 1_000, addr(n), &asking).into_iter().map(|output| (1_000, output)));
    }
    all.extend(run(&mut discovery, 8_000));
    let answers: Vec<i64> = all
        .into_iter()
        .filter(|(_, output)| matches!(output, Output::Send { to: To::One(_), .. }))
        .map(|(ms, _)| ms)
        .collect();
    assert_eq!(answers.len(), 200);
    for start_ms in (1_000..8_000).step_by(250) {
        let within = answers.iter().filter(|ms| (start_ms..start_ms + 1_000).contains(*ms)).count();
        assert!(within <= 101, "{within} answers in the second from {start_ms}");
    }
}

#[test]
fn strangers_never_take_more_than_half_and_make_room_for_the_proven() {
    let mut discovery = started(1, &[key(1)]);
    let mut ms = 10_000;
    let mut refused = 0;
    for n in 0..STRANGERS_MAX + 50 {
        ms += i64::from(n % 2 == 0) * 5;
        let stranger = Beacon { machine_id: format!("s-{n}"), ..beacon(2, 5, 1) };
        let from = SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 8_181));
        let out = tell(&mut discovery, ms, from, &seal_first(stranger, None));
        refused += usize::from(refusal(&out) == Some(Refusal::Full));
    }
    assert_eq!((discovery.machines().count(), refused), (STRANGERS_MAX, 50));
    prove(&mut discovery, ms, 5, 1);
}

#[test]
fn one_source_is_looked_at_forty_times_at_once_and_a_fresh_machine_of_its_host_still_heard() {
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 1);
    let flood =
        (0..200).map(|port| tell(&mut discovery, 3_000, SocketAddr::new(addr(2).ip(), 1 + port), b"x"));
    let refused = flood.filter(|out| refusal(out) == Some(Refusal::TooMany)).count();
    assert!(refused >= 160, "{refused}");
    let out = tell(&mut discovery, 3_000, addr(2), &seal_first(beacon(2, 5, 9), Some(&key(1))));
    assert!(heard(&out).is_some());
}

#[test]
fn a_proof_ends_with_its_key() {
    let mut discovery = started(1, &[key(1)]);
    prove(&mut discovery, 1_000, 5, 1);
    discovery.handle(now(2_000), Input::Keys(vec![key(1), key(2)]), &mut Vec::new());
    assert!(discovery.is_fresh("node-2", &instance_of(5)));
    discovery.handle(now(3_000), Input::Keys(vec![key(2)]), &mut Vec::new());
    assert!(!discovery.is_fresh("node-2", &instance_of(5)));
    let out = tell(&mut discovery, 3_001, addr(2), &seal_first(beacon(2, 5, 9), Some(&key(1))));
    assert_eq!(heard(&out).map(|heard| heard.proof), Some(Proof::None));
}

#[test]
fn a_run_and_its_instance_stand_for_each_other_in_order() {
    assert_eq!(run_of(&instance_of(u64::MAX)), Some(u64::MAX));
    assert!(instance_of(9) < instance_of(10) && instance_of(255) < instance_of(1 << 60));
    for text in ["", "1", "+00000000000001", "00000000000000FF", "000000000000000g"] {
        assert_eq!(run_of(text), None, "{text}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_000_000..1_000_000).prop_map(|n| Value::from(f64::from(n) / 1_024.0)),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{1,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn never_fresh(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut discovery = started(1, &[key(1)]);
    let out = tell(&mut discovery, 1, addr(2), bytes);
    prop_assert!(heard(&out).is_none_or(|heard| heard.proof == Proof::None));
    prop_assert!(discovery.machines().all(|heard| heard.proof == Proof::None));
    run(&mut discovery, 2_000);
    Ok(())
}

proptest! {
    #[test]
    fn fuzz_arbitrary_bytes_never_panic_and_never_are_fresh(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        never_fresh(&bytes)?;
    }

    #[test]
    fn fuzz_arbitrary_members_never_panic_and_never_are_fresh(
        name in prop_oneof![
            Just("machine_id"), Just("hostname"), Just("websocket_port"), Just("services"), Just("kind"),
            Just("seq"), Just("nonce"), Just("echo"), Just("auth"), Just("key_generation"), Just("roles"),
            Just("instance"), Just("message_type"), Just("type"), Just("clusterId"), Just("extra"),
        ],
        value in any_json(),
    ) {
        let mut beacon = serde_json::to_value(beacon(2, 5, 1)).expect("plain");
        beacon[name] = value.clone();
        never_fresh(beacon.to_string().as_bytes())?;
        let mut second = json!({"type": "beacon", "clusterId": "c"});
        second[name] = value;
        never_fresh(second.to_string().as_bytes())?;
    }

    #[test]
    fn fuzz_no_changed_byte_of_a_sealed_beacon_keeps_its_seal(at in 0_usize..400, change in 1_u8..=255) {
        let mut bytes = seal_first(beacon(2, 5, 1), Some(&key(1)));
        let at = at % bytes.len();
        bytes[at] ^= change;
        // Changing the key's generation into one that we lack makes it a beacon that proves nothing.
        let opened = codec::open(&bytes, &[key(1)]);
        prop_assert!(!matches!(opened, Ok(codec::Opened::First(_, Some(_)))), "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn the_canonical_form_reads_back_as_itself(value in any_json()) {
        let object = match value {
            Value::Object(object) => object,
            other => [("x".to_owned(), other)].into_iter().collect(),
        };
        let first = codec::canonical(&object);
        if let Ok(Value::Object(again)) = serde_json::from_slice(&first) {
            prop_assert_eq!(codec::canonical(&again), first);
        }
    }
}
