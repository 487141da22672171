//! Tasks over HTTP: what may be asked by whom, what a worker is answered, and what people see of it.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use caelum_drivers::clock::Clock as _;
use caelum_model::{
    access::Scope,
    cluster::{Ceiling, NodePass, NodeRole},
    host::HostIdentity,
    id::NodeId,
    node::{LinkFacts, Node},
};
use caelum_web::serve::Transport;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fixture::{Fixture, NOW_MS};

pub async fn with_node(name: &str, ceiling: Ceiling) -> Fixture {
    let fixture = Fixture::new().await;
    let node = Node {
        node_id: NodeId::parse(name).expect("valid"),
        name: format!("{name}-name"),
        identity: HostIdentity { hostname: format!("{name}.host"), ..HostIdentity::default() },
        roles: Vec::new(),
        version: "1".into(),
        joined_at_ms: NOW_MS,
        seen_at_ms: NOW_MS,
        sample: None,
        links: LinkFacts { ceiling, capabilities: vec!["python".into()], ..LinkFacts::default() },
    };
    fixture.state.store.put_node(node, None).await.expect("stored");
    tokio::spawn(std::sync::Arc::clone(&fixture.state.desk).run(fixture.state.stop.clone()));
    fixture
}

/// Asks as a node does.
async fn as_node(fixture: &Fixture, name: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let mut request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let pass = NodePass {
        node_id: NodeId::parse(name).expect("valid"),
        role: NodeRole::Agent,
        expires_at_ms: NOW_MS * 2,
    };
    let peer = ([127, 0, 0, 1], 40_000).into();
    request.extensions_mut().insert(Transport { peer, is_tls: true, node: Some(pass) });
    let response = fixture.app.clone().oneshot(request).await.expect("the router answers");
    let status = response.status();
    let bytes = response.into_body().collect().await.expect("the body ends").to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn poll(free: u32, held: &Value) -> Value {
    json!({"worker": "w", "slots": 4, "free": free, "held": held, "wait_ms": 10_000})
}

async fn added(fixture: &Fixture, token: &str, body: Value) -> Value {
    let (status, json) = fixture.send("POST", "/api/tasks", token, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{json}");
    json
}

#[tokio::test]
async fn a_task_goes_to_a_worker_and_what_came_of_it_is_seen() {
    let fixture = with_node("n-1", Ceiling::Shell).await;
    let token = fixture.token(Scope::Operate).await;
    let task =
        added(&fixture, &token, json!({"task_type": "shell", "task_data": {"command": "uptime"}})).await;
    assert_eq!((&task["status"], &task["priority"]), (&json!("queued"), &json!(50)));
    assert_eq!(task["created_by"], json!("token:t"));
    let (status, work) = as_node(&fixture, "n-1", "/api/work/poll", &poll(2, &json!([]))).await;
    assert_eq!(status, StatusCode::OK, "{work}");
    let lease = &work["leases"][0];
    assert_eq!((&lease["task_id"], &lease["fence"]), (&task["task_id"], &json!(1)));
    assert_eq!(lease["task_data"], json!({"command": "uptime"}));
    let id = task["task_id"].as_str().expect("an id");
    let report = json!({"worker": "w", "items": [
        {"what": "started", "task_id": id, "fence": 1},
        {"what": "output", "task_id": id, "fence": 1, "seq": 0, "is_error": false, "text": "up 3 days\n", "after_ms": 2},
        {"what": "finished", "task_id": id, "fence": 1, "ending": {"outcome": "succeeded", "exit_code": 0, "output_bytes": 10}},
        {"what": "renewed", "task_id": "nowhere", "fence": 1},
    ]});
    let (status, receipt) = as_node(&fixture, "n-1", "/api/work/report", &report).await;
    assert_eq!(status, StatusCode::OK, "{receipt}");
    assert_eq!(receipt["refused"], json!([{"task_id": "nowhere", "fence": 1}]));
    let (_, seen) = fixture.get(&format!("/api/tasks/{id}"), &token).await;
    assert_eq!((&seen["status"], &seen["attempts"][0]["exit_code"]), (&json!("succeeded"), &json!(0)));
    let (_, output) = fixture.get(&format!("/api/tasks/{id}/output"), &token).await;
    assert_eq!((&output["output"][0]["text"], &output["is_complete"]), (&json!("up 3 days\n"), &json!(true)));
    let (_, flow) = fixture.get("/api/cluster/flow", &token).await;
    assert_eq!(flow["recent_tasks"][0]["node_id"], json!("n-1"));
    let (_, stats) = fixture.get("/api/stats", &token).await;
    assert_eq!((&stats["tasks"]["succeeded"], &stats["active_workers"]), (&json!(1), &json!(1)));
    let admin = fixture.token(Scope::Admin).await;
    let (_, audit) = fixture.get("/api/audit", &admin).await;
    assert!(audit.to_string().contains("task.add"), "{audit}");
}

#[tokio::test]
async fn output_is_followed_as_events_to_the_tasks_end_and_goes_on_where_a_reader_left_it() {
    let fixture = with_node("n-1", Ceiling::Shell).await;
    let token = fixture.token(Scope::Operate).await;
    let task = added(&fixture, &token, json!({"task_type": "shell", "task_data": "uptime"})).await;
    let id = task["task_id"].as_str().expect("an id");
    as_node(&fixture, "n-1", "/api/work/poll", &poll(1, &json!([]))).await;
    let wrote = |seq: u64, text: &str| json!({"what": "output", "task_id": id, "fence": 1, "seq": seq, "is_error": false, "text": text, "after_ms": 2});
    let end = json!({"what": "finished", "task_id": id, "fence": 1, "ending": {"outcome": "succeeded"}});
    let report = json!({"worker": "w", "items": [wrote(0, "one"), wrote(1, "two"), end]});
    as_node(&fixture, "n-1", "/api/work/report", &report).await;
    let events = async |last: Option<&str>| {
        let mut request = Request::get(format!("/api/tasks/{id}/output?fence=1"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut request = request.body(Body::empty()).expect("a request");
        let peer = ([127, 0, 0, 1], 40_000).into();
        request.extensions_mut().insert(Transport { peer, is_tls: true, node: None });
        let response = fixture.app.clone().oneshot(request).await.expect("the router answers");
        let bytes = response.into_body().collect().await.expect("it ends with the task").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    };
    let all = events(None).await;
    assert!(
        all.contains("id: 1:0") && all.contains("\"text\":\"two\"") && all.contains("event: end"),
        "{all}"
    );
    let rest = events(Some("1:0")).await;
    assert!(!rest.contains("\"one\"") && rest.contains("id: 1:1"), "{rest}");
}

#[tokio::test]
async fn work_is_only_for_nodes_that_let_others_give_them_work() {
    let fixture = with_node("n-1", Ceiling::Observe).await;
    let (status, json) = as_node(&fixture, "n-1", "/api/work/poll", &poll(1, &json!([]))).await;
    assert_eq!((status, &json["error"]["code"]), (StatusCode::FORBIDDEN, &json!("ceiling")));
    let token = fixture.token(Scope::Admin).await;
    let (status, _) = fixture.send("POST", "/api/work/poll", &token, &poll(1, &json!([]))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a token is no certificate");
}

#[tokio::test]
async fn who_may_only_look_asks_for_nothing_and_what_is_wrong_is_refused_by_name() {
    let fixture = with_node("n-1", Ceiling::Tasks).await;
    let reader = fixture.token(Scope::Read).await;
    let shell = json!({"task_type": "shell", "task_data": {"command": "id"}});
    let (status, _) = fixture.send("POST", "/api/tasks", &reader, &shell).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let token = fixture.token(Scope::Operate).await;
    for (body, words) in [
        (json!({"task_type": "shell", "task_data": {}}), "needs `command`"),
        (json!({"task_type": "shell", "task_data": "x", "sudo": true}), "unknown field"),
        (json!({"task_type": "shell", "task_data": "x", "depends_on": ["none"]}), "there is no task `none`"),
        (json!({"task_type": "shell", "task_data": "x", "assigned_node": "moon"}), "there is no node `moon`"),
        (
            json!({"tasks": [
                {"key": "a", "task_type": "shell", "task_data": "x", "depends_on": ["b"]},
                {"key": "b", "task_type": "shell", "task_data": "x", "depends_on": ["a"]}]}),
            "circle: a → b → a",
        ),
    ] {
        let (status, json) = fixture.send("POST", "/api/tasks", &token, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{json}");
        assert!(json["error"]["message"].as_str().expect("a message").contains(words), "{json}");
    }
}

#[tokio::test]
async fn tasks_of_one_breath_wait_for_each_other_and_the_same_key_is_the_same_task() {
    let fixture = with_node("n-1", Ceiling::Shell).await;
    let token = fixture.token(Scope::Operate).await;
    let body = json!({"tasks": [
        {"key": "build", "task_type": "build", "task_data": {"command": "make"}, "idempotency_key": "b-1"},
        {"task_type": "deploy", "task_data": {"command": "make install"}, "depends_on": ["build"]}]});
    let made = added(&fixture, &token, body.clone()).await;
    assert_eq!(made["tasks"][1]["depends_on"], json!([made["tasks"][0]["task_id"]]));
    assert_eq!((&made["tasks"][1]["blockers"], &made["tasks"][0]["preset"]), (&json!(1), &json!("build")));
    fixture.clock.set(fixture.clock.now_ms() + 5);
    let again = json!({"task_type": "build", "task_data": {"command": "make"}, "idempotency_key": "b-1"});
    let (status, same) = fixture.send("POST", "/api/tasks", &token, &again).await;
    assert_eq!((status, &same["task_id"]), (StatusCode::OK, &made["tasks"][0]["task_id"]));
    let (_, list) = fixture.get("/api/tasks?status=active&text=install&limit=1", &token).await;
    assert_eq!(list["tasks"].as_array().map(Vec::len), Some(1));
    let (status, _) = fixture.get("/api/tasks?status=sleeping", &token).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_task_is_called_off_and_asked_for_again() {
    let fixture = with_node("n-1", Ceiling::Shell).await;
    let token = fixture.token(Scope::Operate).await;
    let task = added(&fixture, &token, json!({"task_type": "shell", "task_data": "sleep 9"})).await;
    let path = format!("/api/tasks/{}", task["task_id"].as_str().expect("an id"));
    let nothing = json!({});
    let (status, json) = fixture.send("POST", &format!("{path}/retry"), &token, &nothing).await;
    assert_eq!(status, StatusCode::CONFLICT, "{json}");
    let (_, json) = fixture.send("POST", &format!("{path}/cancel"), &token, &nothing).await;
    assert_eq!((&json["status"], &json["cancelled_by"]), (&json!("cancelled"), &json!("token:t")));
    let (_, json) = fixture.send("POST", &format!("{path}/retry"), &token, &nothing).await;
    assert_eq!(json["status"], json!("queued"));
    let (status, _) = fixture.send("POST", "/api/tasks/none/cancel", &token, &nothing).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_task_is_placed_with_reasons_or_every_node_says_why_not() {
    let fixture = with_node("n-1", Ceiling::Shell).await;
    let token = fixture.token(Scope::Operate).await;
    let wish = json!({"task_type": "shell", "requirements": ["python"]});
    let (status, json) = fixture.send("POST", "/api/tasks/assign-optimal", &token, &wish).await;
    assert_eq!(status, StatusCode::OK, "{json}");
    assert_eq!((&json["assigned_node"], &json["task_id"]), (&json!("n-1"), &Value::Null));
    assert_eq!(json["assigned_hostname"], json!("n-1.host"));
    assert_eq!(json["reasons"].as_array().map(Vec::len), Some(4));
    let task = json!({"task_type": "shell", "requirements": ["python"], "task_data": {"command": "id"}});
    let (status, json) = fixture.send("POST", "/api/tasks/assign-optimal", &token, &task).await;
    assert_eq!((status, &json["success"]), (StatusCode::CREATED, &json!(true)));
    let wish = json!({"task_type": "shell", "requirements": ["docker"]});
    let (status, json) = fixture.send("POST", "/api/tasks/assign-optimal", &token, &wish).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json["error"]["details"]["nodes"][0]["because"], json!("it has no `docker`"));
}

#[tokio::test]
async fn schedules_are_added_paused_and_removed() {
    let fixture = with_node("n-1", Ceiling::Shell).await;
    let token = fixture.token(Scope::Operate).await;
    let body = json!({"name": "nightly", "cron": "0 2 * * *", "time_zone": "Europe/Berlin",
        "task": {"task_type": "shell", "task_data": "make backup"}});
    let (status, made) = fixture.send("POST", "/api/schedules", &token, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert!(made["next_at"].as_i64().expect("a time") > NOW_MS);
    let path = format!("/api/schedules/{}", made["schedule_id"].as_str().expect("an id"));
    let (_, paused) = fixture.send("PATCH", &path, &token, &json!({"enabled": false})).await;
    assert_eq!((&paused["next_at"], &paused["cron"]), (&Value::Null, &made["cron"]));
    let (status, json) = fixture.send("PATCH", &path, &token, &json!({"cron": "0 0 30 2 *"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{json}");
    let (_, list) = fixture.get("/api/schedules", &token).await;
    assert_eq!(list["schedules"][0]["name"], json!("nightly"));
    let (status, _) = fixture.send("DELETE", &path, &token, &json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn metrics_count_tasks_by_state() {
    let fixture = with_node("n-1", Ceiling::Shell).await;
    let token = fixture.token(Scope::Operate).await;
    added(&fixture, &token, json!({"task_type": "shell", "task_data": "true"})).await;
    let mut request = Request::get("/metrics")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::empty())
        .expect("a request");
    let peer = ([127, 0, 0, 1], 40_000).into();
    request.extensions_mut().insert(Transport { peer, is_tls: true, node: None });
    let response = fixture.app.clone().oneshot(request).await.expect("the router answers");
    let bytes = response.into_body().collect().await.expect("the body ends").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    assert!(text.contains("caelum_tasks{status=\"queued\"} 1"), "{text}");
    assert!(text.contains("caelum_task_wait_seconds_bucket{le=\"+Inf\"} 0"), "{text}");
}
