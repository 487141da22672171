//! A server that is alone says so; what it says to load balancers needs no login.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use caelum_model::access::Scope;
use serde_json::json;

use crate::{
    fixture::Fixture,
    pages::{look, post, signed_in},
};

#[tokio::test]
async fn a_server_that_is_alone_says_so_and_is_well() {
    let fixture = Fixture::new().await;
    let viewer = fixture.token(Scope::Read).await;
    let (_, status) = fixture.get("/api/fleet/cluster/status", &viewer).await;
    assert_eq!((&status["enabled"], &status["mode"]), (&json!(false), &json!("standalone")));
    assert!(status["message"].as_str().is_some_and(|text| text.contains("--store")), "{status}");
    let (_, nodes) = fixture.get("/api/fleet/cluster/nodes", &viewer).await;
    assert_eq!(nodes["nodes"], json!([]));
    let (_, check) = fixture.get("/api/fleet/cluster/health-check", &viewer).await;
    assert_eq!((&check["overall"], &check["failover"]["ready"]), (&json!("degraded"), &json!(false)));
    assert!(check["records"]["latency_ms"].as_f64().is_some(), "{check}");

    let ask = || Request::get("/api/fleet/cluster/health").body(Body::empty()).expect("a request");
    let (status, _, health) = fixture.ask(ask()).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("healthy")));
    fixture.state.stop.cancel();
    let (status, _, health) = fixture.ask(ask()).await;
    assert_eq!(
        (status, &health["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("this server is stopping"))
    );
}

#[tokio::test]
async fn a_load_balancer_is_for_operators_and_for_several_servers() {
    let fixture = Fixture::new().await;
    let (viewer, operator) = (fixture.token(Scope::Read).await, fixture.token(Scope::Operate).await);
    let path = "/api/fleet/load-balancer";
    let wish = json!({ "kind": "haproxy" });
    assert_eq!(fixture.send("POST", path, &viewer, &wish).await.0, StatusCode::FORBIDDEN);
    assert_eq!(fixture.send("POST", path, &operator, &wish).await.0, StatusCode::CONFLICT);
    for wrong in [
        json!({ "kind": "apache" }),
        json!({ "kind": "nginx", "tls": "off" }),
        json!({}),
        json!({ "kind": "nginx", "port": 70_000 }),
    ] {
        assert_eq!(fixture.send("POST", path, &operator, &wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn the_master_key_is_replaced_by_administrators_once_at_a_time_and_never_shown() {
    let fixture = Fixture::new().await;
    let (viewer, operator) = (fixture.token(Scope::Read).await, fixture.token(Scope::Operate).await);
    let admin = fixture.token(Scope::Admin).await;
    let (rotate, finish) = ("/api/fleet/master-key/rotate", "/api/fleet/master-key/finish");
    for path in [rotate, finish] {
        for token in [&viewer, &operator] {
            assert_eq!(fixture.send("POST", path, token, &json!({})).await.0, StatusCode::FORBIDDEN);
        }
    }
    fixture.state.secrets.key().introduce(&fixture.state.node_id).await.expect("told");
    let secret = fixture.state.secrets.key().secret();
    for wrong in [json!({ "master_key": "short" }), json!({ "master_key": secret }), json!({ "key": 1 })] {
        let (status, answer) = fixture.send("POST", rotate, &admin, &wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        assert!(!answer.to_string().contains(&secret));
    }
    assert_eq!(fixture.send("POST", finish, &admin, &json!({})).await.0, StatusCode::CONFLICT);
    let (status, answer) = fixture.send("POST", rotate, &admin, &json!({})).await;
    assert_eq!((status, &answer["generation"]), (StatusCode::OK, &json!(2)), "{answer}");
    assert_ne!(fixture.state.secrets.key().secret(), secret);
    let (status, answer) = fixture.send("POST", rotate, &admin, &json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    let (_, key) = fixture.get("/api/fleet/master-key", &viewer).await;
    assert_eq!((&key["generation"], &key["handing_over"]), (&json!(2), &json!(true)), "{key}");
    assert_eq!((&key["servers"][0]["generation"], &key["servers"][0]["waits"]), (&json!(2), &json!(null)));

    // The page does the rest.
    let looker = signed_in(&fixture, "looker").await;
    let page = look(&fixture, "/settings/servers", &looker).await;
    assert!(page.html.contains("May be finished") && !page.html.contains("finish-key"), "{}", page.html);
    let refused = post(&fixture, "/settings/servers/finish-key", &looker, "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let ada = signed_in(&fixture, "admin").await;
    assert!(look(&fixture, "/settings/servers", &ada).await.html.contains("finish-key"));
    let done = post(&fixture, "/settings/servers/finish-key", &ada, "").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    assert!(look(&fixture, "/settings/servers", &ada).await.html.contains("rotate-key"));
    let done = post(&fixture, "/settings/servers/rotate-key", &ada, "").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    let audit = fixture.state.store.audit_log(i64::MAX, 100).await.expect("read");
    let done =
        |action: &str| audit.iter().filter(|entry| entry.action == action && entry.outcome == "done").count();
    assert_eq!((done("master_key.rotate"), done("master_key.finish")), (2, 1));
}
