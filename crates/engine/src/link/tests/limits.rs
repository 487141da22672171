//! Silence, floods and nonsense.

use caelum_model::{cluster::NodeRole, envelope::MessageType};
use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn what_cannot_be_understood_is_answered_with_one_error_and_too_much_of_it_ends_the_link() {
    let mut rig = Rig::node(NodeRole::Agent);
    let unknown = json!({"message_id": "u-1", "message_type": "dance", "source_machine": "n-1"});
    let error = only(&rig.text(0, &unknown));
    assert_eq!(error.message_type, MessageType::Error);
    assert_eq!(error.correlation_id.as_deref(), Some("u-1"));
    let mut errors = 1;
    for n in 2..=20 {
        let out = rig.put(0, Input::Text("{"));
        errors += envelopes(&out).len();
        assert_eq!(closing(&out), None, "fault {n}");
    }
    assert_eq!(errors, 5, "complaints are limited");
    assert_eq!(closing(&rig.put(0, Input::Text("{"))), Some(&Closing::TooManyFaults));
}

#[test]
fn a_fault_now_and_then_is_forgiven() {
    let mut rig = Rig::node(NodeRole::Agent);
    for n in 0..500 {
        assert_eq!(closing(&rig.put(n * 59_999, Input::Text("{}"))), None);
    }
}

#[test]
fn floods_end_the_link_sooner_for_strangers() {
    for (mut rig, burst) in [(Rig::node(NodeRole::Agent), 400), (Rig::stranger(), 40)] {
        let beat = |rig: &mut Rig| closing(&rig.say(0, "machine_heartbeat", json!({}))).cloned();
        let passed = (0..1_000).take_while(|_| beat(&mut rig).is_none()).count();
        assert_eq!(passed + 1, burst, "the registration was one");
        assert_eq!(rig.put(0, Input::Text("{}")), [], "nothing is read after the end");
    }
}

#[test]
fn a_lost_ping_is_no_more_than_that_and_a_minute_of_silence_ends_the_link() {
    let mut rig = Rig::node(NodeRole::Agent);
    let (mut lost, mut pings) = (0, 0);
    let end_ms = loop {
        let now_ms = rig.session.next_wakeup_ms().expect("the link is open");
        let out = rig.put(now_ms, Input::Wake);
        lost += out.iter().filter(|one| **one == Output::Lost).count();
        pings += out.iter().filter(|one| matches!(one, Output::Ping(_))).count();
        if let Some(reason) = closing(&out) {
            assert_eq!(reason, &Closing::Silent);
            break now_ms;
        }
    };
    assert_eq!(end_ms, 60_000);
    assert_eq!((lost, pings), (11, 12));
    assert_eq!(rig.session.quality().loss_pct, Some(100.0));
}

#[test]
fn an_answered_ping_tells_its_round_trip_and_keeps_the_link() {
    let mut rig = Rig::node(NodeRole::Agent);
    for _ in 0..100 {
        let now_ms = rig.session.next_wakeup_ms().expect("the link is open");
        let out = rig.put(now_ms, Input::Wake);
        let [Output::Ping(payload)] = out[..] else { panic!("{out:?}") };
        let out = rig.put(now_ms + 2, Input::Pong { payload, rtt_ms: 1.5 });
        assert_eq!(out, [Output::RoundTrip { ms: 1.5 }]);
    }
    assert_eq!(rig.session.quality().loss_pct, Some(0.0));
}

#[test]
fn our_own_freeze_is_not_held_against_the_peer() {
    let mut rig = Rig::node(NodeRole::Agent);
    let out = rig.put(300_000, Input::Wake);
    assert_eq!(closing(&out), None);
    assert!(!out.contains(&Output::Lost));
    assert_eq!(closing(&rig.put(359_999, Input::Wake)), None, "late again, for a while");
}

#[test]
fn nothing_of_a_stranger_but_life_signs_is_handed_up() {
    let mut stranger = Rig::stranger();
    let mut node = Rig::node(NodeRole::Server);
    let rows = [
        ("machine_heartbeat", true),
        ("machine_goodbye", true),
        ("status_broadcast", false),
        ("service_announce", false),
        ("probe_config", false),
        ("task_output", false),
    ];
    for (message_type, is_open) in rows {
        assert_eq!(received(&stranger.say(1, message_type, json!({}))).len(), usize::from(is_open));
        assert_eq!(received(&node.say(1, message_type, json!({}))).len(), 1, "{message_type}");
    }
    let mut nameless = Rig::with(None);
    nameless.put(0, Input::Open);
    assert_eq!(nameless.say(1, "machine_heartbeat", json!({})), [], "nobody knows whose it is");
}

#[test]
fn frames_of_strangers_are_smaller() {
    let big = json!("x".repeat(100 << 10));
    let mut node = Rig::node(NodeRole::Agent);
    assert_eq!(received(&node.say(1, "machine_heartbeat", big.clone())).len(), 1);
    let mut stranger = Rig::stranger();
    assert_eq!(only(&stranger.say(1, "machine_heartbeat", big)).payload["code"], "too_large");
}

fn messages() -> impl Strategy<Value = String> {
    let types = proptest::sample::select(vec![
        "machine_register",
        "machine_update",
        "machine_discover",
        "machine_heartbeat",
        "ping",
        "pong",
        "error",
        "resource_request",
        "resource_released",
        "task_distribute",
        "service_query",
        "roster_delta",
        "dance",
    ]);
    let payloads = proptest::sample::select(vec![
        "null",
        "[]",
        "{}",
        "7",
        r#"{"machine_id":"n-1"}"#,
        r#"{"machine_info":{"machine_id":7}}"#,
        r#"{"resource_request":{"cpu_cores":1e308}}"#,
        r#"{"service_name":"s"}"#,
        r#"{"roster":[]}"#,
    ]);
    let text = (types, payloads, 0..4_u8, proptest::option::of("[a-z]{0,3}")).prop_map(|(kind, payload, id, to)| {
        let to = to.map_or("null".to_owned(), |to| format!("[{to:?}]"));
        format!(
            r#"{{"message_id":"{id}","message_type":"{kind}","source_machine":"n-1","payload":{payload},"target_machines":{to},"correlation_id":"{id}"}}"#
        )
    });
    prop_oneof![text, "\\PC{0,60}", r#"[{}\[\]":,a-z0-9]{0,40}"#]
}

proptest! {
    #[test]
    fn no_text_breaks_a_session_and_none_makes_more_than_one_message(
        texts in proptest::collection::vec((messages(), 0..3_000_i64), 0..60), is_node in any::<bool>(),
    ) {
        let mut rig = Rig::with(is_node.then(|| pass("n-1", NodeRole::Agent)));
        rig.put(0, Input::Open);
        let mut now_ms = 0;
        let mut is_closed = false;
        for (text, step_ms) in texts {
            now_ms += step_ms;
            let out = rig.put(now_ms, Input::Text(&text));
            prop_assert!(envelopes(&out).len() <= 1);
            prop_assert!(!is_closed || out.is_empty());
            is_closed |= closing(&out).is_some();
        }
    }
}
