//! Targets and probes: what may be set over the API and by forms, and what is refused with which words.

use axum::http::StatusCode;
use caelum_model::{access::Scope, id::ClientId, probe::ProbeSetting};
use serde_json::{Value, json};

use crate::{
    fixture::Fixture,
    pages::{look, post, signed_in},
};

async fn added(fixture: &Fixture, token: &str, body: Value) -> Value {
    let (status, json) = fixture.send("POST", "/api/targets", token, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{json}");
    json
}

#[tokio::test]
async fn a_target_starts_from_a_template_and_is_changed_field_by_field() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    let made = added(
        &fixture,
        &token,
        json!({"url": "https://app.example.net/", "template": "api", "interval_s": 7, "tags": ["web"],
            "group": "berlin", "probes": ["tag:wifi"]}),
    )
    .await;
    assert_eq!((&made["interval_s"], &made["timeout_ms"]), (&json!(7), &json!(5000)));
    assert_eq!(made["objective"], json!({"within_ms": 300, "promised_bp": 9990, "days": 28}));
    let path = format!("/api/targets/{}", made["target_id"].as_str().expect("an id"));
    let change = json!({"group": null, "objective": null, "enabled": false, "name": "App"});
    let (status, json) = fixture.send("PATCH", &path, &token, &change).await;
    assert_eq!(status, StatusCode::OK, "{json}");
    assert_eq!(
        (&json["group"], &json["objective"], &json["enabled"]),
        (&Value::Null, &Value::Null, &json!(false))
    );
    assert_eq!(
        (&json["name"], &json["tags"], &json["interval_s"]),
        (&json!("App"), &json!(["web"]), &json!(7))
    );
    let (status, _) = fixture.send("PATCH", "/api/targets/none", &token, &change).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let admin = fixture.token(Scope::Admin).await;
    let (_, audit) = fixture.get("/api/audit", &admin).await;
    let audit = audit.to_string();
    assert!(audit.contains("target.add") && audit.contains("target.change"), "{audit}");
}

#[tokio::test]
async fn what_cannot_be_measured_that_way_is_refused_with_its_reason() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    for (body, words) in [
        (json!({"url": "icmp://192.0.2.1", "template": "web"}), "this template is for http and https"),
        (json!({"url": "icmp://192.0.2.1", "template": "moon"}), "there is no template 'moon'"),
        (json!({"url": "icmp://192.0.2.1", "probes": ["site:x"]}), "looks in 'site'"),
        (json!({"url": "tcp://192.0.2.1:1", "packets": 20}), "packets is for icmp and stamp"),
        (json!({"url": "icmp://192.0.2.1", "group": "two words"}), "is no name of a tag or group"),
        (json!({"url": "ftp://192.0.2.1"}), "cannot be measured"),
        (json!({"url": "https://a.example/", "load_every_s": 600}), "needs a throughput_url"),
    ] {
        let (status, json) = fixture.send("POST", "/api/targets", &token, &body).await;
        let message = json["error"]["message"].as_str().expect("a message");
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(message.contains(words), "{message} lacks {words}");
    }
    added(&fixture, &token, json!({"url": "icmp://192.0.2.1"})).await;
    let (status, _) = fixture.send("POST", "/api/targets", &token, &json!({"url": "icmp://192.0.2.1"})).await;
    assert_eq!(status, StatusCode::CONFLICT, "one URL is measured once");
    let reader = fixture.token(Scope::Read).await;
    let (status, _) =
        fixture.send("POST", "/api/targets", &reader, &json!({"url": "icmp://192.0.2.2"})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, json) = fixture.get("/api/targets/templates", &reader).await;
    assert_eq!(status, StatusCode::OK);
    assert!(json["templates"].as_array().expect("a list").iter().any(|known| known["name"] == "voice"));
}

#[tokio::test]
async fn a_probe_that_is_known_is_given_a_place_and_an_unknown_one_is_not() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    let client_id = ClientId::parse("probe-1").expect("valid");
    fixture.state.store.put_probe_setting(ProbeSetting::usual(client_id)).await.expect("stored");
    let change = json!({"group": "berlin", "tags": ["wifi", "wifi"], "mesh": false});
    let (status, json) = fixture.send("PATCH", "/api/probes/probe-1", &token, &change).await;
    assert_eq!(status, StatusCode::OK, "{json}");
    assert_eq!(
        (&json["group"], &json["tags"], &json["mesh"]),
        (&json!("berlin"), &json!(["wifi"]), &json!(false))
    );
    let (_, json) = fixture.send("PATCH", "/api/probes/probe-1", &token, &json!({"group": null})).await;
    assert_eq!((&json["group"], &json["tags"]), (&Value::Null, &json!(["wifi"])));
    let (status, _) = fixture.send("PATCH", "/api/probes/probe-9", &token, &change).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, json) =
        fixture.send("PATCH", "/api/probes/probe-1", &token, &json!({"tags": ["a b"]})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{json}");
}

#[tokio::test]
async fn the_forms_of_targets_work_without_a_script_and_keep_what_was_typed() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "admin").await;
    let form =
        "url=https%3A%2F%2Fapp.example.net%2F&template=web&tags=front+shop&probes=tag%3Awifi&families=any";
    let answer = post(&fixture, "/settings/targets", &cookie, form).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.html);
    let target = fixture.state.store.targets().await.expect("reads").remove(0);
    assert_eq!((target.tags.len(), target.interval_s), (2, 30));
    let page = format!("/settings/targets/{}", target.target_id);
    let shown = look(&fixture, &page, &cookie).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert!(shown.html.contains("value=\"front shop\"") && shown.html.contains("value=\"tag:wifi\""));
    let form = "name=Shop&interval_s=15&timeout_ms=900&families=ipv4&tags=shop&probes=&within_ms=400&promised=99.5&enabled=off";
    let answer = post(&fixture, &page, &cookie, form).await;
    assert_eq!((answer.status, answer.location.as_str()), (StatusCode::SEE_OTHER, "/settings/targets"));
    let changed = fixture.state.store.targets().await.expect("reads").remove(0);
    assert_eq!((changed.name.as_str(), changed.interval_s, changed.enabled), ("Shop", 15, false));
    assert_eq!(changed.objective.map(|objective| objective.promised_bp), Some(9_950));
    assert_eq!(changed.trace_every_s, None, "what is emptied is taken away");
    let form = "name=Shop&interval_s=15&families=any&within_ms=400&promised=<script>alert(1)</script>";
    let answer = post(&fixture, &page, &cookie, form).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.html.contains("Not changed.") && !answer.html.contains("<script>alert"));
    let looker = signed_in(&fixture, "looker").await;
    assert_eq!(post(&fixture, &page, &looker, "name=x").await.status, StatusCode::FORBIDDEN);
}
