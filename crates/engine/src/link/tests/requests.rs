//! What is asked and answered.

use caelum_model::{
    cluster::{NodeRole, Service},
    envelope::MessageType as M,
};
use serde_json::json;

use super::{super::AskError, registration::machine, *};

#[test]
fn every_request_gets_exactly_one_answer_that_names_it() {
    let ask = |cpu: f64| json!({"resource_request": {"cpu_cores": cpu, "memory_gb": 1.0}});
    // Type, payload, answer to a node, answer to a stranger.
    let rows = [
        ("machine_register", json!({"machine_id": "n-1"}), M::MachineUpdate, M::MachineUpdate),
        ("machine_discover", json!({}), M::MachineUpdate, M::MachineUpdate),
        ("task_distribute", json!({"task": {"task_id": "t"}}), M::TaskFailed, M::Error),
        ("resource_request", ask(1.0), M::ResourceReserved, M::Error),
        ("resource_request", ask(99.0), M::Error, M::Error),
        ("resource_request", json!({"cpu_cores": "x"}), M::Error, M::Error),
        ("resource_request", json!(null), M::Error, M::Error),
        ("service_query", json!({"service_name": "x"}), M::ServiceResponse, M::ServiceResponse),
        ("service_query", json!({}), M::Error, M::Error),
        ("ping", json!({}), M::Pong, M::Pong),
    ];
    for (message_type, payload, to_node, to_stranger) in rows {
        for (mut rig, expected) in [(Rig::node(NodeRole::Agent), to_node), (Rig::stranger(), to_stranger)] {
            let message = rig.message(message_type, payload.clone());
            let answer = only(&rig.text(1, &message));
            assert_eq!(answer.message_type, expected, "{message_type}");
            assert_eq!(answer.correlation_id.as_deref(), message["message_id"].as_str());
            assert_eq!(answer.source_machine, "me");
            assert_eq!(rig.text(2, &message), [], "a message that comes twice is acted upon once");
        }
    }
}

#[test]
fn a_message_for_others_is_neither_acted_upon_nor_answered() {
    let mut rig = Rig::node(NodeRole::Agent);
    let mut message = rig.message("ping", json!({}));
    message["target_machines"] = json!(["n-7"]);
    assert_eq!(rig.text(1, &message), []);
    message["target_machines"] = json!(["n-7", "me"]);
    assert_eq!(only(&rig.text(1, &message)).message_type, M::Pong);
}

#[test]
fn answers_and_errors_are_never_answered() {
    let mut rig = Rig::node(NodeRole::Agent);
    for message_type in ["pong", "error", "machine_update", "service_response", "task_failed"] {
        let mut message = rig.message(message_type, json!({}));
        message["correlation_id"] = json!("nothing-we-asked");
        assert_eq!(rig.text(1, &message), [], "{message_type}");
    }
    assert_eq!(rig.text(1, &json!({"message_type": "error", "message_id": 7})), []);
}

#[test]
fn a_service_is_found_here_first_then_with_machines_that_proved_who_they_are() {
    let service = |port| Service { name: "s".into(), kind: "http".into(), port, status: "running".into() };
    let mut rig = Rig::stranger();
    let found = |rig: &mut Rig| {
        only(&rig.say(1, "service_query", json!({"service_name": "s"}))).payload["location"].clone()
    };
    assert_eq!(found(&mut rig), json!(null));
    for (id, authenticated, port) in [("x", false, 1), ("y", true, 2)] {
        let mut machine = machine(id, authenticated);
        machine.services.push(service(port));
        rig.world.machines.push(machine);
    }
    assert_eq!(found(&mut rig)["machine_id"], "y");
    assert_eq!(found(&mut rig)["endpoint"], "http://192.0.2.2:2", "the address it was heard from");
    rig.world.services.push(service(3));
    assert_eq!(found(&mut rig)["machine_id"], "me");
}

#[test]
fn a_list_of_machines_that_is_too_long_is_cut_and_says_so() {
    let mut rig = Rig::node(NodeRole::Agent);
    rig.world.machines = (0..6_000).map(|n| machine(&format!("n-{n}"), false)).collect();
    let answer = only(&rig.say(1, "machine_discover", json!({})));
    let listed = answer.payload["discovered_machines"].as_array().expect("a list").len();
    assert!(listed > 1_000);
    assert_eq!(answer.payload["left_out"], 6_000 - listed);
}

fn ask(tag: u64) -> Input<'static> {
    Input::Ask { tag, message_type: M::ServiceQuery, payload: json!({}), timeout_ms: 1_000 }
}

fn answers(out: Vec<Output>) -> Vec<(u64, Result<M, AskError>)> {
    let answer = |one| match one {
        Output::Answered { tag, answer } => Some((tag, answer.map(|envelope| envelope.message_type))),
        _ => None,
    };
    out.into_iter().filter_map(answer).collect()
}

#[test]
fn an_ask_ends_exactly_once() {
    let mut rig = Rig::node(NodeRole::Agent);
    let ids: Vec<String> = (0..4).map(|tag| only(&rig.put(0, ask(tag))).message_id).collect();
    let reply = |rig: &mut Rig, ms, message_type: &str, n: usize| {
        let mut message = rig.message(message_type, json!({"code": "no", "error": "never"}));
        message["correlation_id"] = json!(ids[n]);
        answers(rig.text(ms, &message))
    };
    assert_eq!(reply(&mut rig, 1, "service_response", 0), [(0, Ok(M::ServiceResponse))]);
    assert_eq!(reply(&mut rig, 2, "service_response", 0), [], "answered already");
    let refused = AskError::Refused { code: "no".into(), message: "never".into() };
    assert_eq!(reply(&mut rig, 3, "error", 1), [(1, Err(refused))]);
    rig.put(500, ask(9));
    let mut late = answers(rig.put(1_000, Input::Wake));
    late.sort_by_key(|(tag, _)| *tag);
    assert_eq!(late, [(2, Err(AskError::TimedOut)), (3, Err(AskError::TimedOut))]);
    assert_eq!(reply(&mut rig, 1_001, "service_response", 2), [], "too late");
    assert_eq!(answers(rig.put(1_002, Input::Ended)), [(9, Err(AskError::Closed))]);
    assert_eq!(answers(rig.put(1_003, ask(10))), [(10, Err(AskError::Closed))]);
}

#[test]
fn asks_that_wait_are_bounded() {
    let mut rig = Rig::node(NodeRole::Agent);
    for tag in 0..256 {
        assert_eq!(answers(rig.put(0, ask(tag))), []);
    }
    assert_eq!(answers(rig.put(0, ask(256))), [(256, Err(AskError::TooMany))]);
    let huge = json!("x".repeat(2 << 20));
    let mut rig = Rig::node(NodeRole::Agent);
    let out = rig.put(0, Input::Ask { tag: 1, message_type: M::Ping, payload: huge, timeout_ms: 1 });
    assert_eq!(answers(out), [(1, Err(AskError::TooLarge))]);
}

#[test]
fn a_request_for_whoever_is_above_is_answered_once_by_it_or_by_time() {
    let mut rig = Rig::node(NodeRole::Agent);
    let out = rig.say(0, "certificate_request", json!({"csr_pem": "…"}));
    assert!(matches!(&out[..], [Output::Requested(envelope)] if envelope.message_id == "m-2"));
    let answer = || Input::Answer {
        correlation: "m-2",
        message_type: M::CertificateIssued,
        payload: json!({"certificate_pem": "…"}),
    };
    let sent = only(&rig.put(1, answer()));
    assert_eq!((sent.message_type, sent.correlation_id.as_deref()), (M::CertificateIssued, Some("m-2")));
    assert_eq!(rig.put(2, answer()), []);
    rig.say(3, "certificate_request", json!({}));
    let late = envelopes(&rig.put(30_003, Input::Wake));
    assert_eq!((late[0].message_type, late[0].correlation_id.as_deref()), (M::Error, Some("m-3")));
    let mut stranger = Rig::stranger();
    assert_eq!(only(&stranger.say(0, "certificate_request", json!({}))).payload["code"], "forbidden");
}

#[test]
fn what_was_reserved_is_free_again_when_given_back_or_when_the_link_ends() {
    let mut rig = Rig::node(NodeRole::Agent);
    let reserve = |rig: &mut Rig| {
        let answer = only(&rig.say(1, "resource_request", json!({"cpu_cores": 3})));
        answer.payload["reservation_id"].as_str().map(str::to_owned)
    };
    let id = reserve(&mut rig).expect("there is room");
    assert_eq!(reserve(&mut rig), None);
    assert_eq!(rig.say(2, "resource_released", json!({"reservation_id": id})), []);
    assert!(reserve(&mut rig).is_some());
    rig.put(3, Input::Ended);
    assert_eq!(rig.world.reservations.iter().count(), 0);
}

#[test]
fn goodbye_is_said_before_the_link_ends() {
    let mut rig = Rig::node(NodeRole::Agent);
    let out = rig.put(1, Input::Close { goodbye: true });
    assert_eq!(only(&out).message_type, M::MachineGoodbye);
    assert_eq!(out.last(), Some(&Output::Close { reason: Closing::Asked }));
}
