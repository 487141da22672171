//! Who the other end is.

use caelum_model::{
    cluster::{DiscoveryMethod, Machine, MachineKind, MachineState, NodeRole},
    envelope::{MessageType, RosterDelta},
};
use serde_json::json;

use super::*;

fn registered(out: &[Output]) -> Vec<String> {
    let id = |one: &'_ Output| match one {
        Output::Registered(info) => Some(info.machine_id.clone()),
        _ => None,
    };
    out.iter().filter_map(id).collect()
}

#[test]
fn both_ends_know_each_other_after_opening() {
    let addr = ([127, 0, 0, 1], 9).into();
    let ends = [("a", "b", true), ("b", "a", false)].map(|(me, other, is_dialled)| {
        let peer = Peer { pass: Some(pass(other, NodeRole::Agent)), addr, is_dialled };
        (Session::new(at(0), peer, me.len() as u64), world(me))
    });
    let [(mut a, mut world_a), (mut b, mut world_b)] = ends;
    let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
    a.handle(at(0), Input::Open, &mut world_a, &mut to_b);
    b.handle(at(0), Input::Open, &mut world_b, &mut to_a);
    let mut frames = 0;
    while !to_a.is_empty() || !to_b.is_empty() {
        for out in std::mem::take(&mut to_b) {
            if let Output::Text(text) = out {
                frames += 1;
                b.handle(at(1), Input::Text(&text), &mut world_b, &mut to_a);
            }
        }
        for out in std::mem::take(&mut to_a) {
            if let Output::Text(text) = out {
                frames += 1;
                a.handle(at(1), Input::Text(&text), &mut world_a, &mut to_b);
            }
        }
        assert!(frames < 10, "answers are not answered");
    }
    assert_eq!((a.peer_id(), b.peer_id()), (Some("b"), Some("a")));
}

#[test]
fn a_program_that_only_answers_is_known_by_its_answer() {
    let mut rig = Rig::with(None);
    let register = only(&rig.put(0, Input::Open));
    assert_eq!(register.message_type, MessageType::MachineRegister);
    assert_eq!(register.payload["machine_info"]["machine_id"], "me");
    // The first programs answer a registration without naming it.
    let out = rig.say(5, "machine_update", json!({"machine_info": {"machine_id": "n-1", "hostname": "h"}}));
    assert_eq!(registered(&out), ["n-1"]);
    assert!(envelopes(&out).is_empty(), "an answer is not answered");
}

#[test]
fn a_program_that_only_registers_is_known_and_answered() {
    let mut rig = Rig::with(None);
    rig.put(0, Input::Open);
    let out = rig.say(5, "machine_register", json!({"machine_id": "n-1"}));
    assert_eq!(registered(&out), ["n-1"]);
    let answer = only(&out);
    assert_eq!(answer.message_type, MessageType::MachineUpdate);
    assert_eq!(answer.correlation_id.as_deref(), Some("m-1"));
    assert_eq!(answer.payload["machine_info"]["hostname"], "host-me");
    assert_eq!(answer.payload["caelum"]["instance"], "i-me");
}

#[test]
fn who_does_not_register_in_ten_seconds_is_left() {
    let mut rig = Rig::with(None);
    rig.put(0, Input::Open);
    for ms in [2_000, 4_000, 6_000, 8_000, 9_999] {
        assert_eq!(closing(&rig.say(ms, "ping", json!({}))), None);
    }
    assert_eq!(closing(&rig.put(10_000, Input::Wake)), Some(&Closing::RegistrationTimedOut));
    assert_eq!(rig.session.next_wakeup_ms(), None);
    assert_eq!(rig.put(10_001, Input::Wake), []);
}

#[test]
fn a_certificate_says_who_the_peer_is_and_nothing_else_does() {
    let mut rig = Rig::with(Some(pass("n-2", NodeRole::Agent)));
    rig.put(0, Input::Open);
    let out = rig.say(1, "machine_register", json!({"machine_id": "n-2"}));
    assert_eq!(closing(&out), Some(&Closing::WrongIdentity { claimed: "n-1".into() }));
    let mut rig = Rig::node(NodeRole::Agent);
    let out = rig.say(1, "machine_update", json!({"machine_info": {"machine_id": "n-2"}}));
    assert_eq!(closing(&out), Some(&Closing::WrongIdentity { claimed: "n-2".into() }));
}

#[test]
fn a_stranger_may_not_use_the_name_of_a_machine_that_proved_its_own() {
    let mut rig = Rig::with(None);
    rig.world.machines.push(machine("n-1", true));
    rig.put(0, Input::Open);
    let out = rig.say(1, "machine_register", json!({"machine_id": "n-1"}));
    assert_eq!(only(&out).message_type, MessageType::Error);
    assert!(matches!(closing(&out), Some(Closing::WrongIdentity { .. })));
    assert!(registered(&out).is_empty());
}

#[test]
fn a_stranger_keeps_the_name_it_registered_under() {
    let mut rig = Rig::stranger();
    let mut message = rig.message("machine_register", json!({"machine_id": "n-9"}));
    message["source_machine"] = json!("n-9");
    assert!(matches!(closing(&rig.text(1, &message)), Some(Closing::WrongIdentity { .. })));
}

#[test]
fn a_machine_that_reaches_itself_is_told_so() {
    let mut rig = Rig::with(Some(pass("me", NodeRole::Server)));
    rig.put(0, Input::Open);
    let mut message = rig.message("machine_register", json!({"machine_id": "me"}));
    message["source_machine"] = json!("me");
    assert_eq!(closing(&rig.text(1, &message)), Some(&Closing::Myself));
}

#[test]
fn keys_are_told_to_certified_peers_only_and_taken_from_servers_only() {
    let delta = RosterDelta { revoked: vec!["n-8".into()], ..RosterDelta::default() };
    for is_certified in [true, false] {
        let mut rig = Rig::with(is_certified.then(|| pass("n-1", NodeRole::Agent)));
        rig.world.delta = Some(delta.clone());
        let first = only(&rig.put(0, Input::Open));
        let answer = only(&rig.say(0, "machine_register", json!({"machine_id": "n-1"})));
        let known = only(&rig.say(0, "machine_discover", json!({})));
        let update = only(&rig.put(1, Input::Updated));
        for told in [first, answer, known, update] {
            assert_eq!(told.payload.get("roster").is_some(), is_certified, "{told:?}");
        }
    }
    let update = || json!({"machine_info": {"machine_id": "n-1"}, "roster": {"revoked": ["n-8"]}});
    let mut server = Rig::node(NodeRole::Server);
    assert_eq!(received(&server.say(1, "machine_update", update())), [MessageType::MachineUpdate]);
    assert_eq!(received(&server.say(1, "roster_delta", json!({}))), [MessageType::RosterDelta]);
    let mut agent = Rig::node(NodeRole::Agent);
    assert_eq!(received(&agent.say(1, "machine_update", update())), []);
    assert_eq!(received(&agent.say(1, "roster_delta", json!({}))), []);
}

#[test]
fn a_registration_that_is_refused_ends_the_link() {
    let mut rig = Rig::with(Some(pass("n-1", NodeRole::Server)));
    let register = only(&rig.put(0, Input::Open));
    let mut message = rig.message("error", json!({"code": "forbidden", "error": "revoked"}));
    message["correlation_id"] = json!(register.message_id);
    let out = rig.text(1, &message);
    assert!(matches!(closing(&out), Some(Closing::Refused(reason)) if reason.contains("revoked")));
}

pub(super) fn machine(id: &str, authenticated: bool) -> Machine {
    Machine {
        machine_id: id.into(),
        hostname: format!("host-{id}"),
        primary_ip: "192.0.2.1".into(),
        sender_ip: "192.0.2.2".into(),
        cluster_id: String::new(),
        cluster_name: String::new(),
        websocket_port: 8080,
        services: Vec::new(),
        last_seen: 0.0,
        discovery_method: DiscoveryMethod::UdpBeacon,
        kind: MachineKind::CaelumAnalytics,
        state: MachineState::Discovered,
        authenticated,
        capabilities: None,
        role: None,
        reason: None,
    }
}
