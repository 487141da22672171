//! The API as programs meet it: the document and the router agree, rights hold, lists have their shape.

use crate::fixture::Fixture;
use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use caelum_model::access::Scope;
use serde_json::json;

#[tokio::test]
async fn every_operation_of_the_document_is_served_and_asks_who_is_there() {
    let fixture = Fixture::new().await;
    let (_, document) = fixture.get("/api/openapi.json", "").await;
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 18, "only {} paths", paths.len());
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let uri = path.replace("{id}", "none");
            let request = Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(&uri)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from("{}"))
                .expect("a request");
            let (status, ..) = fixture.ask(request).await;
            assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path} is not served");
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path} is not served");
            let is_open = operation["security"].as_array().is_none_or(Vec::is_empty);
            if !is_open {
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} is open to strangers");
            }
        }
    }
}

#[tokio::test]
async fn a_viewer_reads_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let viewer = fixture.token(Scope::Read).await;
    for path in ["/api/nodes", "/api/targets", "/api/stats", "/api/rollups", "/api/diagnoses", "/metrics"] {
        assert_eq!(fixture.get(path, &viewer).await.0, StatusCode::OK, "{path}");
    }
    let target = json!({"url": "tcp://127.0.0.1:1"});
    let (status, answer) = fixture.send("POST", "/api/targets", &viewer, &target).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("operator")));
    for path in ["/api/users", "/api/tokens", "/api/audit"] {
        assert_eq!(fixture.get(path, &viewer).await.0, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_target_is_added_once_listed_and_removed() {
    let fixture = Fixture::new().await;
    let operator = fixture.token(Scope::Operate).await;
    let wish = json!({"url": "https://example.net/", "name": "Example", "interval_s": 5});
    let (status, made) = fixture.send("POST", "/api/targets", &operator, &wish).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, _) = fixture.send("POST", "/api/targets", &operator, &wish).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (_, list) = fixture.get("/api/targets", &operator).await;
    assert_eq!(list["targets"][0]["url"], "https://example.net/");
    assert!(list.get("next_cursor").is_some());
    let path = format!("/api/targets/{}", made["target_id"].as_str().expect("an id"));
    assert_eq!(fixture.send("DELETE", &path, &operator, &json!({})).await.0, StatusCode::NO_CONTENT);
    assert_eq!(fixture.get(&path, &operator).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_target_that_cannot_be_measured_is_refused_with_the_reason() {
    let fixture = Fixture::new().await;
    let operator = fixture.token(Scope::Operate).await;
    let wishes = [
        json!({"url": "example.net"}),
        json!({"url": "gopher://example.net"}),
        json!({"url": "tcp://example.net"}),
        json!({"url": "https://example.net/", "interval_s": 0}),
        json!({"url": "https://example.net/", "throughput_url": "tcp://x:1"}),
        json!({"name": "no url"}),
    ];
    for wish in wishes {
        let (status, answer) = fixture.send("POST", "/api/targets", &operator, &wish).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_request")),
            "{wish}"
        );
    }
}

async fn login(fixture: &Fixture, name: &str, password: &str) -> (StatusCode, Option<String>) {
    let request = Request::post("/api/login")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(json!({"username": name, "password": password}).to_string()))
        .expect("a request");
    let (status, response, _) = fixture.ask(request).await;
    let cookie =
        response.headers().get(header::SET_COOKIE).map(|value| value.to_str().expect("text").to_owned());
    (status, cookie)
}

#[tokio::test]
async fn a_session_is_opened_used_and_ended() {
    let fixture = Fixture::new().await;
    let (status, cookie) = login(&fixture, "admin", "correct horse").await;
    assert_eq!(status, StatusCode::OK);
    let cookie = cookie.expect("a cookie");
    for attribute in ["HttpOnly", "SameSite=Lax", "Secure", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let pair = cookie.split(';').next().expect("a pair").to_owned();
    let with_cookie = |method: &str, path: &str| {
        Request::builder().method(method).uri(path).header(header::COOKIE, &pair).header(header::HOST, "a")
    };
    let me = |request: axum::http::request::Builder| request.body(Body::empty()).expect("a request");
    assert_eq!(fixture.ask(me(with_cookie("GET", "/api/me"))).await.0, StatusCode::OK);
    let foreign = with_cookie("POST", "/api/logout").header(header::ORIGIN, "https://evil.example");
    assert_eq!(fixture.ask(me(foreign)).await.0, StatusCode::FORBIDDEN, "a page of another site");
    assert_eq!(fixture.ask(me(with_cookie("POST", "/api/logout"))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(fixture.ask(me(with_cookie("GET", "/api/me"))).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_session_slides_while_it_is_used_and_ends_when_it_is_not() {
    let fixture = Fixture::new().await;
    let (_, cookie) = login(&fixture, "admin", "correct horse").await;
    let pair = cookie.expect("a cookie").split(';').next().expect("a pair").to_owned();
    let mut seen = Vec::new();
    for minutes in [40, 40, 40, 61] {
        fixture.clock.advance(std::time::Duration::from_secs(minutes * 60));
        let request =
            Request::get("/api/me").header(header::COOKIE, &pair).body(Body::empty()).expect("a request");
        seen.push(fixture.ask(request).await.0.as_u16());
    }
    assert_eq!(seen, [200, 200, 200, 401]);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_says_nothing_about_names() {
    let fixture = Fixture::new().await;
    for name in ["admin", "nobody"] {
        assert_eq!(login(&fixture, name, "wrong").await.0, StatusCode::UNAUTHORIZED);
    }
    for _ in 0..3 {
        login(&fixture, "admin", "wrong").await;
    }
    assert_eq!(login(&fixture, "admin", "correct horse").await.0, StatusCode::TOO_MANY_REQUESTS);
    fixture.clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(login(&fixture, "admin", "correct horse").await.0, StatusCode::OK);
}

#[tokio::test]
async fn thresholds_hold_at_once_and_are_checked() {
    let fixture = Fixture::new().await;
    let operator = fixture.token(Scope::Operate).await;
    let (_, mut thresholds) = fixture.get("/api/nodes/thresholds", &operator).await;
    assert_eq!(thresholds["cpu"], json!({"warning": 80.0, "critical": 95.0}));
    thresholds["cpu"] = json!({"warning": 50.0, "critical": 60.0});
    assert_eq!(fixture.send("PUT", "/api/nodes/thresholds", &operator, &thresholds).await.0, StatusCode::OK);
    assert_eq!(fixture.state.thresholds().cpu.warning, 50.0);
    thresholds["cpu"] = json!({"warning": 70.0, "critical": 60.0});
    assert_eq!(
        fixture.send("PUT", "/api/nodes/thresholds", &operator, &thresholds).await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn every_write_is_in_the_audit_log() {
    let fixture = Fixture::new().await;
    let admin = fixture.token(Scope::Admin).await;
    fixture.send("POST", "/api/targets", &admin, &json!({"url": "tcp://127.0.0.1:1"})).await;
    fixture.send("POST", "/api/tokens", &admin, &json!({"name": "x", "scopes": ["read"]})).await;
    let (_, log) = fixture.get("/api/audit", &admin).await;
    let actions: Vec<_> =
        log["audit"].as_array().expect("a list").iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, [json!("token.add"), json!("target.add")]);
}

#[tokio::test]
async fn what_leads_nowhere_answers_with_the_same_shape() {
    let fixture = Fixture::new().await;
    let (status, answer) = fixture.get("/api/nothing", "").await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
}

#[tokio::test]
async fn a_stale_cookie_of_one_transport_does_not_hide_the_session_of_the_other() {
    let fixture = Fixture::new().await;
    let (_, cookie) = login(&fixture, "admin", "correct horse").await;
    let pair = cookie.expect("a cookie").split(';').next().expect("a pair").to_owned();
    let secret = pair.split_once('=').expect("name and secret").1;
    let both = format!("caelum_session=stale; caelum_session_plain={secret}");
    let request =
        Request::get("/api/me").header(header::COOKIE, both).body(Body::empty()).expect("a request");
    assert_eq!(fixture.ask(request).await.0, StatusCode::OK);
}
