//! The lines that the cluster's guide shows people typing, with our address and a token: each is answered as it
//! promises. The bodies are the guide's own; the node that they speak of is made by its first line.

use caelum_testkit::{api::Api, server::Plan};
use reqwest::Method;
use serde_json::{Value, json};

async fn ask(api: &Api, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = api.request(method.clone(), path);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await.expect("answers");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("text");
    let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {status} {text}"));
    (status, json)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guide_shows_typing_is_answered_as_it_promises() {
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("starts");
    let api = server.api().expect("a client").with_token(&server.token("admin").expect("made"));
    let post = |path: &'static str, body: Value| ask(&api, Method::POST, path, Some(body));
    let get = |path: &'static str| ask(&api, Method::GET, path, None);

    let new = json!({
        "name": "worker-1", "hostname": "worker1.local", "ip_address": "127.0.0.9",
        "capabilities": ["python", "docker"],
    });
    let (status, node) = post("/api/nodes", new).await;
    assert!((200..300).contains(&status), "{status} {node}");
    let (status, nodes) = get("/api/nodes").await;
    assert_eq!(status, 200);
    assert!(nodes["nodes"].to_string().contains("worker-1"), "{nodes}");

    // Nobody can do it now, and it says why of each node; with somebody who can, the seed's members are there.
    let wish = json!({ "task_type": "shell", "requirements": ["python", "docker"] });
    let (status, placed) = post("/api/tasks/assign-optimal", wish).await;
    assert!(status == 503 || (status == 200 && placed["success"] == true), "{status} {placed}");
    let id = node["node_id"].as_str().expect("an id").to_owned();
    assert!(placed.to_string().contains(&id), "it says why each node was refused: {placed}");

    for (path, members) in [
        ("/api/nodes/recommend?count=3", &["recommendations", "total_available"][..]),
        ("/api/nodes/distribution", &["distribution", "summary"]),
        ("/api/ssh/pool/stats", &["total_created", "total_reused", "total_closed", "active_connections"]),
        ("/api/cluster/topology", &["nodes", "edges"]),
        ("/api/cluster/flow", &["recent_tasks", "node_task_counts", "timestamp"]),
        ("/api/cluster/stats", &["nodes", "tasks", "sessions", "active_workers"]),
        ("/api/nodes/health", &["nodes", "summary", "cluster_metrics", "active_alerts", "thresholds"]),
        ("/api/nodes/alerts", &["alerts"]),
        ("/api/stats", &["nodes", "tasks"]),
    ] {
        let (status, answer) = get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        for member in members {
            assert!(!answer[member].is_null(), "{path} has no {member}: {answer}");
        }
    }

    let (status, answer) = ask(&api, Method::POST, "/api/ssh/pool/cleanup", None).await;
    assert_eq!(status, 200, "{answer}");
    // The guide's node is a made-up address: the outcome says so in a row, and nothing hangs.
    let run = json!({ "node_id": id, "command": "uptime", "timeout": 3 });
    let (status, ran) = post("/api/ssh/execute", run).await;
    assert!(status == 200 && ran["success"] == false || (400..=503).contains(&status), "{status} {ran}");
    let (status, ran) = post("/api/ssh/broadcast", json!({ "command": "df -h", "timeout": 3 })).await;
    assert_eq!(status, 200, "{ran}");
    assert_eq!(ran["total_nodes"].as_u64(), ran["results"].as_array().map(|rows| rows.len() as u64), "{ran}");
}
