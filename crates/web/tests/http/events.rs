//! `/events` as a stranger meets it: every answer of the wire document.

use std::io::Write;

use crate::fixture::{BODY_BYTES_MAX, Fixture, event};
use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use caelum_model::access::Scope;
use caelum_roles::ingest::Config;
use serde_json::{Value, json};

async fn post(
    fixture: &Fixture,
    token: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> (StatusCode, Option<String>, Value) {
    let mut request = Request::post("/events").header(header::AUTHORIZATION, format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, response, json) = fixture.ask(request.body(body.into()).expect("a request")).await;
    let retry = response.headers().get(header::RETRY_AFTER);
    (status, retry.map(|value| value.to_str().expect("text").to_owned()), json)
}

fn changed(member: &str, value: Value) -> Value {
    let mut event = event(1);
    event[member] = value;
    event
}

#[tokio::test]
async fn an_event_an_array_and_lines_are_accepted_when_they_are_durable() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Ingest).await;
    let (status, _, answer) = post(&fixture, &token, &[], event(1).to_string()).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(answer["event_id"], event(1)["event_id"]);
    assert_eq!((&answer["accepted"], &answer["ack_through"]), (&json!(1), &json!(1)));
    let (_, _, answer) = post(&fixture, &token, &[], json!([event(2), event(3)]).to_string()).await;
    assert_eq!((&answer["accepted"], &answer["ack_through"]), (&json!(2), &json!(3)));
    let lines = format!("{}\n{}\n", event(5), event(4));
    let ndjson = [("content-type", "application/x-ndjson")];
    let (_, _, answer) = post(&fixture, &token, &ndjson, lines).await;
    assert_eq!((&answer["accepted"], &answer["ack_through"]), (&json!(2), &json!(5)));
    assert_eq!(fixture.state.queue.depth().events, 5);
}

#[tokio::test]
async fn gzip_and_zstd_are_understood_and_nothing_else() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Ingest).await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(event(1).to_string().as_bytes()).expect("compresses");
    let body = gzip.finish().expect("compresses");
    let (status, ..) = post(&fixture, &token, &[("content-encoding", "gzip")], body.clone()).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let (status, _, answer) =
        post(&fixture, &token, &[("content-encoding", "gzip")], body[..body.len() / 2].to_vec()).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_request")));
    let body = zstd::bulk::compress(event(2).to_string().as_bytes(), 1).expect("compresses");
    let (status, ..) = post(&fixture, &token, &[("content-encoding", "zstd")], body).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let (status, ..) = post(&fixture, &token, &[("content-encoding", "br")], "x").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_body_that_unpacks_past_the_limit_is_refused() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Ingest).await;
    let bomb = zstd::bulk::compress(&vec![b' '; BODY_BYTES_MAX * 50], 1).expect("compresses");
    assert!(bomb.len() < BODY_BYTES_MAX);
    let (status, _, answer) = post(&fixture, &token, &[("content-encoding", "zstd")], bomb).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("payload_too_large"))
    );
    let (status, ..) = post(&fixture, &token, &[], vec![b' '; BODY_BYTES_MAX + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn every_bad_input_has_its_status_and_code_and_the_server_lives() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Ingest).await;
    let bad: &[(Value, u16, &str)] = &[
        (changed("schema_version", json!("9.9")), 400, "invalid_schema_version"),
        (changed("schema_version", Value::Null), 400, "invalid_request"),
        (changed("event_id", json!("x")), 400, "invalid_event_id"),
        (changed("ts_ms", json!(0)), 400, "invalid_timestamp"),
        (changed("ts_ms", json!(i64::MAX)), 400, "invalid_timestamp"),
        (changed("ts_ms", json!("soon")), 400, "invalid_request"),
        (changed("client_id", json!("")), 400, "invalid_request"),
        (changed("client_id", json!("probe-2")), 403, "forbidden_client"),
        (changed("target", json!("")), 400, "invalid_request"),
        (changed("timings", json!({"tcp_ms": -1})), 400, "invalid_request"),
        (changed("error_stage", json!("LUNCH")), 400, "invalid_request"),
        (changed("throughput_kbps", json!(-1)), 400, "invalid_request"),
        (json!([]), 400, "invalid_request"),
        (json!("text"), 400, "invalid_request"),
        (json!([1, 2]), 400, "invalid_request"),
    ];
    for (body, status, code) in bad {
        let (got, _, answer) = post(&fixture, &token, &[], body.to_string()).await;
        assert_eq!((got.as_u16(), &answer["error"]["code"]), (*status, &json!(code)), "{body}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        assert!(answer["error"]["request_id"].is_string(), "{body}");
    }
    for body in ["", "{", "[{}", "\u{0}", "nonsense"] {
        let (status, _, answer) = post(&fixture, &token, &[], body).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (400, &json!("invalid_request")), "{body:?}");
    }
    assert_eq!(fixture.state.queue.depth().events, 0);
    let (status, ..) = post(&fixture, &token, &[], event(1).to_string()).await;
    assert_eq!(status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_batch_with_bad_members_keeps_the_good_and_names_the_bad() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Ingest).await;
    let mut second = event(2);
    second["event_id"] = json!("x");
    let batch = json!([event(1), second, {"ts_ms": "?"}, event(3)]);
    let (status, _, answer) = post(&fixture, &token, &[], batch.to_string()).await;
    assert_eq!((status, &answer["accepted"]), (StatusCode::ACCEPTED, &json!(2)));
    let rejected: Vec<_> = answer["rejected"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["index"].clone(), one["code"].clone()))
        .collect();
    assert_eq!(rejected, vec![(json!(1), json!("invalid_event_id")), (json!(2), json!("invalid_request"))]);
    assert_eq!(answer["ack_through"], json!(3), "a refused event leaves no gap");
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let fixture = Fixture::new().await;
    let no_token = Request::post("/events").body(Body::from(event(1).to_string())).expect("a request");
    let (status, response, answer) = fixture.ask(no_token).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthorized")));
    assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
    let (status, ..) = post(&fixture, "wrong", &[], event(1).to_string()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let reader = fixture.token(Scope::Read).await;
    let (status, ..) = post(&fixture, &reader, &[], event(1).to_string()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, ..) = fixture.ask(Request::get("/events").body(Body::empty()).expect("a request")).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_revoked_token_stops_at_once() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Ingest).await;
    let kept = fixture.state.store.token_by_hash(caelum_web::auth::sha256(&token)).await.expect("read");
    let token_id = kept.expect("there").token_id;
    assert!(fixture.state.store.revoke_token(token_id, crate::fixture::NOW_MS).await.expect("revoked"));
    let (status, ..) = post(&fixture, &token, &[], event(1).to_string()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_sender_that_is_too_fast_is_told_when_to_come_back() {
    let fixture = Fixture::with(Config {
        partitions: 1,
        rate_events_per_s: 2,
        rate_burst_events: 3,
        backlog_events_max: 1000,
    })
    .await;
    let token = fixture.token(Scope::Ingest).await;
    let batch = json!([event(1), event(2), event(3)]).to_string();
    assert_eq!(post(&fixture, &token, &[], batch).await.0, StatusCode::ACCEPTED);
    let (status, retry, answer) = post(&fixture, &token, &[], event(4).to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limited")));
    assert_eq!(retry.as_deref(), Some("1"));
    fixture.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(post(&fixture, &token, &[], event(4).to_string()).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_backlog_or_a_full_queue_turns_senders_away_and_keeps_what_it_has() {
    let fixture = Fixture::with(Config {
        partitions: 1,
        rate_events_per_s: 1000,
        rate_burst_events: 1000,
        backlog_events_max: 2,
    })
    .await;
    let token = fixture.token(Scope::Ingest).await;
    let batch = json!([event(1), event(2)]).to_string();
    assert_eq!(post(&fixture, &token, &[], batch).await.0, StatusCode::ACCEPTED);
    let (status, retry, answer) = post(&fixture, &token, &[], event(3).to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("overloaded")));
    assert!(retry.is_some());
    assert_eq!(fixture.state.queue.depth().events, 2);
}

#[tokio::test]
async fn what_was_accepted_before_is_named_a_duplicate_and_not_stored_again() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Ingest).await;
    let mut anonymous = event(1);
    anonymous["schema_version"] = json!("1.0");
    for body in [event(1), anonymous] {
        let (_, _, first) = post(&fixture, &token, &[], body.to_string()).await;
        let (status, _, second) = post(&fixture, &token, &[], body.to_string()).await;
        assert_eq!(
            (status, &first["duplicate"], &second["duplicate"]),
            (StatusCode::ACCEPTED, &json!(0), &json!(1))
        );
    }
    assert_eq!(fixture.state.queue.depth().events, 2);
}
