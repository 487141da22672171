//! The API as tools for assistants: the same operations, with the caller's own right.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use caelum_model::access::Scope;
use serde_json::{Value, json};

use crate::fixture::Fixture;

async fn say(fixture: &Fixture, token: &str, message: Value) -> (StatusCode, Value) {
    let mut request = Request::post("/mcp")
        .header(header::HOST, "caelum.example:8080")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, text/event-stream");
    if !token.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let (status, _, json) =
        fixture.ask(request.body(Body::from(message.to_string())).expect("a request")).await;
    (status, json)
}

async fn call(fixture: &Fixture, token: &str, tool: &str, arguments: Value) -> Value {
    let message = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": tool, "arguments": arguments },
    });
    let (status, answer) = say(fixture, token, message).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["result"].clone()
}

async fn names(fixture: &Fixture, token: &str) -> Vec<String> {
    let (_, answer) = say(fixture, token, json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" })).await;
    let tools = answer["result"]["tools"].as_array().cloned().unwrap_or_default();
    tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn an_assistant_shakes_hands_and_gets_nothing_without_a_token() {
    let fixture = Fixture::new().await;
    let hello = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        },
    });
    let (status, answer) = say(&fixture, "", hello.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    let (status, answer) = say(&fixture, "cae_nobody", hello.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    let token = fixture.token(Scope::Read).await;
    let (status, answer) = say(&fixture, &token, hello).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let result = &answer["result"];
    assert_eq!(
        (&result["serverInfo"]["name"], &result["protocolVersion"]),
        (&json!("caelum"), &json!("2025-06-18"))
    );
    assert!(result["instructions"].as_str().is_some_and(|text| text.contains("overview")), "{answer}");
}

#[tokio::test]
async fn a_tool_answers_what_its_route_answers() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    let (_, stats) = fixture.get("/api/stats", &token).await;
    let result = call(&fixture, &token, "overview", json!({})).await;
    assert_eq!((&result["structuredContent"], &result["isError"]), (&stats, &json!(false)));

    let arguments = json!({ "name": "site", "url": "https://example.net/" });
    let result = call(&fixture, &token, "add_target", arguments).await;
    assert_eq!(result["isError"], false, "{result}");
    let result = call(&fixture, &token, "targets", json!({})).await;
    let urls = result["structuredContent"]["targets"].to_string();
    assert!(urls.contains("https://example.net/"), "{result}");
}

#[tokio::test]
async fn what_a_route_refuses_a_tool_refuses_with_the_same_words() {
    let fixture = Fixture::new().await;
    let (read, operate) = (fixture.token(Scope::Read).await, fixture.token(Scope::Operate).await);
    let task = json!({ "task_type": "shell", "task_data": { "command": "true" } });
    let result = call(&fixture, &read, "run_task", task).await;
    assert_eq!(result["isError"], true, "{result}");
    assert!(result["content"][0]["text"].as_str().is_some_and(|text| text.starts_with("403")), "{result}");
    let result = call(&fixture, &operate, "task", json!({ "id": "no-such-task" })).await;
    assert!(result["content"][0]["text"].as_str().is_some_and(|text| text.starts_with("404")), "{result}");
    let result = call(&fixture, &operate, "tasks", json!({ "colour": "red" })).await;
    assert!(
        result["content"][0]["text"].as_str().is_some_and(|text| text.contains("no argument")),
        "{result}"
    );

    let (looks, works) = (names(&fixture, &read).await, names(&fixture, &operate).await);
    assert!(
        looks.contains(&"incidents".to_owned()) && !looks.contains(&"ssh_execute".to_owned()),
        "{looks:?}"
    );
    assert!(works.contains(&"ssh_execute".to_owned()) && works.len() > looks.len(), "{works:?}");
}

#[tokio::test]
async fn what_is_no_message_is_refused_and_harms_nobody() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Read).await;
    for nonsense in [json!([]), json!("x"), json!({ "jsonrpc": "1.0" }), json!({ "id": {} })] {
        let (status, answer) = say(&fixture, &token, nonsense.clone()).await;
        assert!(status.is_client_error(), "{nonsense}: {status} {answer}");
    }
    let message =
        json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": "format_disk" } });
    let (_, answer) = say(&fixture, &token, message).await;
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("format_disk")), "{answer}");
}
