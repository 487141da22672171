//! Alerts, who is told of them, and what people say about nodes, over the API and on their pages.

use axum::http::StatusCode;
use caelum_engine::{
    Now,
    alert::{Observed, Watch},
};
use caelum_model::{
    access::Scope,
    alert::{Alert, AlertStatus, NoticeSettings},
    cluster::{Ceiling, Roster},
    host::{HostIdentity, HostSample},
    id::NodeId,
    node::{LinkFacts, Node, Thresholds},
};
use caelum_roles::alerts;
use caelum_store::AlertWrite;
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, NOW_MS},
    pages::{look, post, signed_in},
};

const HOSTILE: &str = "<script>alert(1)</script>";

fn node(name: &str, cpu_percent: f64, ceiling: Ceiling) -> Node {
    Node {
        node_id: NodeId::parse(&format!("n-{name}")).expect("valid"),
        name: name.to_owned(),
        identity: HostIdentity { hostname: format!("host-{name}"), ..HostIdentity::default() },
        roles: vec!["agent".into()],
        version: "1".into(),
        joined_at_ms: 1,
        seen_at_ms: NOW_MS,
        sample: Some(HostSample { cpu_percent, ..HostSample::default() }),
        links: LinkFacts { ceiling, capabilities: vec!["python".into()], ..LinkFacts::default() },
    }
}

/// Two nodes; `busy` has an alert since a while.
async fn with_an_alert() -> Fixture {
    let fixture = Fixture::new().await;
    let store = &fixture.state.store;
    let busy = node("busy", 97.0, Ceiling::Tasks);
    store.put_node(busy.clone(), None).await.expect("stored");
    store.put_node(node("idle", 5.0, Ceiling::Tasks), None).await.expect("stored");
    let (mut watch, mut decisions) = (Watch::default(), Vec::new());
    for seconds in 0..40 {
        let now = Now { ms: seconds * 1_000, wall_ms: NOW_MS - 60_000 + seconds * 1_000 };
        let seen = Observed::of(&busy, &Roster::default(), now.wall_ms, &Thresholds::default(), None);
        decisions = watch.look(now, &[seen], &[], &NoticeSettings::default().channels);
        if !decisions.is_empty() {
            break;
        }
    }
    decisions[0].alert.message = format!("CPU at 97 % {HOSTILE}");
    assert!(alerts::store(store, &decisions).await.expect("stored"));
    fixture
}

async fn listed(fixture: &Fixture, query: &str) -> Vec<Value> {
    let token = fixture.token(Scope::Read).await;
    let (status, body) = fixture.get(&format!("/api/nodes/alerts?{query}"), &token).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body["alerts"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn an_alert_is_listed_acknowledged_and_resolved() {
    let fixture = with_an_alert().await;
    let alert = listed(&fixture, "status=active&severity=critical&node_id=busy").await.remove(0);
    assert!(listed(&fixture, "severity=warning").await.is_empty());
    let operator = fixture.token(Scope::Operate).await;
    let id = alert["alert_id"].as_str().expect("an id").to_owned();
    let answer = async |what: &str, token: &str| {
        fixture.send("POST", &format!("/api/nodes/alerts/{id}/{what}"), token, &Value::Null).await
    };
    let reader = fixture.token(Scope::Read).await;
    assert_eq!(answer("acknowledge", &reader).await.0, StatusCode::FORBIDDEN);
    let (status, seen) = answer("acknowledge", &operator).await;
    assert_eq!((status, &seen["status"]), (StatusCode::OK, &json!("acknowledged")), "{seen}");
    let (status, over) = answer("resolve", &operator).await;
    assert_eq!((status, &over["resolved_because"]), (StatusCode::OK, &json!("resolved")));
    assert_eq!(answer("resolve", &operator).await.0, StatusCode::OK, "what is so already stays so");
    assert_eq!(answer("acknowledge", &operator).await.0, StatusCode::CONFLICT);
    assert!(listed(&fixture, "status=open").await.is_empty());
    let (_, told) = fixture.get("/api/notices?status=waiting", &reader).await;
    let kinds: Vec<&Value> =
        told["notices"].as_array().expect("a list").iter().map(|notice| &notice["kind"]).collect();
    assert_eq!(kinds, ["recovery", "failure"]);
}

#[tokio::test]
async fn who_is_told_is_set_tried_and_shown_without_passwords() {
    let fixture = Fixture::new().await;
    let (operator, reader) = (fixture.token(Scope::Operate).await, fixture.token(Scope::Read).await);
    let wish = json!({"channels": [
        {"name": "hook", "kind": "webhook", "url": "http://127.0.0.1:9/secret", "form": "slack"},
        {"name": "mail", "kind": "mail", "server": "127.0.0.1", "from": "a@example.net", "to": ["b@example.net"],
            "user": "u", "password": "hidden"},
        {"name": "log", "kind": "log", "least": "critical"}],
        "quiet_hours": [{"from_minute": 1320, "to_minute": 360, "time_zone": "Europe/Berlin"}]});
    let (status, set) = fixture.send("PUT", "/api/settings/notices", &operator, &wish).await;
    assert_eq!(status, StatusCode::OK, "{set}");
    let (_, shown) = fixture.get("/api/settings/notices", &reader).await;
    let text = shown.to_string();
    assert!(!text.contains("hidden") && !text.contains("secret"), "{text}");
    assert_eq!(shown["channels"][0]["url"], "http://127.0.0.1/…");
    let (_, shown) = fixture.get("/api/settings/notices", &operator).await;
    let sets: Vec<&Value> =
        shown["channels"].as_array().expect("a list").iter().map(|channel| &channel["set"]).collect();
    assert_eq!(sets, [&json!(true), &json!(true), &Value::Null], "{shown}");
    let kept = fixture.state.store.notice_settings().await.expect("read").expect("there");
    let text = format!("{kept:?}");
    assert!(!text.contains("hidden") && !text.contains("127.0.0.1:9"), "sealed in the records: {text}");
    let (status, again) = fixture.send("PUT", "/api/settings/notices", &operator, &shown).await;
    assert_eq!((status, &again), (StatusCode::OK, &shown), "what is answered can be sent back");
    assert_eq!(fixture.state.store.notice_settings().await.expect("read"), Some(kept), "and changes nothing");
    let test = json!({"channel": "log"});
    let (_, tested) = fixture.send("POST", "/api/settings/notices/test", &operator, &test).await;
    assert_eq!(tested["sent"], true);
    let test = json!({"channel": "hook"});
    let (_, tested) = fixture.send("POST", "/api/settings/notices/test", &operator, &test).await;
    assert_eq!(tested["sent"], false, "nobody listens there");
    for bad in [
        json!({"channels": [{"name": "x", "kind": "webhook", "url": "ftp://x/"}]}),
        json!({"channels": [], "quiet_hours": [{"from_minute": 0, "to_minute": 1, "time_zone": "Mars/X"}]}),
    ] {
        let (status, _) = fixture.send("PUT", "/api/settings/notices", &operator, &bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn a_node_is_tagged_drained_and_given_thresholds_of_its_own() {
    let fixture = with_an_alert().await;
    let operator = fixture.token(Scope::Operate).await;
    let mut own = serde_json::to_value(Thresholds::default()).expect("a value");
    own["cpu"] = json!({"warning": 98.0, "critical": 99.0});
    let wish = json!({"tags": ["web", "web"], "group": "rack-3", "draining": true, "thresholds": own});
    let (status, changed) = fixture.send("PATCH", "/api/nodes/busy", &operator, &wish).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!((&changed["status"], &changed["tags"]), (&json!("draining"), &json!(["web"])));
    let wish = json!({"draining": false});
    let (_, changed) = fixture.send("PATCH", "/api/nodes/busy", &operator, &wish).await;
    assert_eq!((&changed["status"], &changed["group"]), (&json!("healthy"), &json!("rack-3")));
    let wish = json!({"thresholds": null, "group": null});
    let (_, changed) = fixture.send("PATCH", "/api/nodes/busy", &operator, &wish).await;
    assert_eq!((&changed["status"], &changed["group"]), (&json!("critical"), &Value::Null));
    let (status, _) = fixture.send("PATCH", "/api/nodes/busy", &operator, &json!({"tags": ["!"]})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_node_can_be_named_before_it_is_heard() {
    let fixture = Fixture::new().await;
    let (operator, reader) = (fixture.token(Scope::Operate).await, fixture.token(Scope::Read).await);
    let new = json!({"name": "worker-1", "hostname": "worker1.local", "ip_address": "192.168.1.100",
        "capabilities": ["python", "docker"]});
    let (status, node) = fixture.send("POST", "/api/nodes", &operator, &new).await;
    assert_eq!(status, StatusCode::CREATED, "{node}");
    assert_eq!((&node["status"], &node["heard"]), (&json!("offline"), &json!(false)));
    assert_eq!(fixture.send("POST", "/api/nodes", &operator, &new).await.0, StatusCode::CONFLICT);
    let (_, health) = fixture.get("/api/nodes/health", &reader).await;
    assert_eq!(health["nodes"][0]["health"]["issues"][0]["message"], "gone: not heard yet");
}

#[tokio::test]
async fn work_is_recommended_to_who_can_take_it_and_refused_with_a_reason() {
    let fixture = with_an_alert().await;
    fixture.state.store.put_node(node("shy", 1.0, Ceiling::Observe), None).await.expect("stored");
    let reader = fixture.token(Scope::Read).await;
    let (status, body) = fixture.get("/api/nodes/recommend?count=3&capabilities=python", &reader).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!((&body["total_available"], &body["recommendations"][0]["name"]), (&json!(1), &json!("idle")));
    assert_eq!(body["recommendations"][0]["reasons"].as_array().map(Vec::len), Some(4));
    let refused: Vec<String> = body["refused"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| {
            format!("{}: {}", one["name"].as_str().unwrap_or("?"), one["because"].as_str().unwrap_or("?"))
        })
        .collect();
    assert!(refused.contains(&"busy: it is critical".to_owned()), "{refused:?}");
    assert!(refused.iter().any(|line| line.starts_with("shy: its ceiling")), "{refused:?}");
    let (_, body) = fixture.get("/api/nodes/distribution", &reader).await;
    assert_eq!(
        (&body["summary"]["online_nodes"], &body["summary"]["is_balanced"]),
        (&json!(3), &json!(true))
    );
}

#[tokio::test]
async fn pages_show_alerts_and_escape_what_they_say() {
    let fixture = with_an_alert().await;
    let cookie = signed_in(&fixture, "admin").await;
    for path in ["/", "/machines/busy", "/settings/alerts"] {
        let answer = look(&fixture, path, &cookie).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.html.contains("CPU at 97"), "{path}");
        assert!(!answer.html.contains(HOSTILE), "{path}");
    }
    let html = look(&fixture, "/settings/alerts", &cookie).await.html;
    for text in ["Acknowledge", "Who is told", "Quiet hours", "Thresholds", "log of the server"] {
        assert!(html.contains(text), "{text}");
    }
}

#[tokio::test]
async fn an_alert_is_answered_where_it_is_seen_by_whoever_may() {
    let fixture = with_an_alert().await;
    let alert = listed(&fixture, "status=open").await.remove(0);
    let id = alert["alert_id"].as_str().expect("an id").to_owned();
    let admin = signed_in(&fixture, "admin").await;
    for (path, from, back) in [("/", "overview", "/"), ("/machines/busy", "machine", "/machines/busy")] {
        let html = look(&fixture, path, &admin).await.html;
        for what in ["acknowledge", "resolve"] {
            assert!(html.contains(&format!("action=\"/settings/alerts/{id}/{what}\"")), "{path}: {what}");
        }
        let answered =
            post(&fixture, &format!("/settings/alerts/{id}/acknowledge"), &admin, &format!("from={from}"))
                .await;
        assert_eq!((answered.status, answered.location.as_str()), (StatusCode::SEE_OTHER, back));
        // The first of the two acknowledged it; the other changed nothing.
        let html = look(&fixture, path, &admin).await.html;
        assert!(!html.contains(&format!("{id}/acknowledge")) && html.contains(&format!("{id}/resolve")));
        fixture
            .state
            .store
            .put_alerts(vec![active_again(&fixture, &id).await], vec![], vec![])
            .await
            .expect("put");
    }
    let elsewhere =
        post(&fixture, &format!("/settings/alerts/{id}/resolve"), &admin, "from=//evil.example").await;
    assert_eq!((elsewhere.status, elsewhere.location.as_str()), (StatusCode::SEE_OTHER, "/settings/alerts"));
    assert!(!look(&fixture, "/", &admin).await.html.contains(&format!("{id}/resolve")), "it is over");
    let html = look(&fixture, "/", &signed_in(&fixture, "looker").await).await.html;
    assert!(!html.contains("/resolve"), "who may only look is offered nothing");
}

async fn active_again(fixture: &Fixture, id: &str) -> AlertWrite {
    let alert = fixture.state.store.alert(id).await.expect("read").expect("there");
    let seen = Some(alert.revision);
    AlertWrite { alert: Alert { status: AlertStatus::Active, revision: alert.revision + 1, ..alert }, seen }
}
