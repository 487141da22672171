//! Hosts, their keys and commands over SSH, as far as nothing is dialled.

use axum::http::StatusCode;
use caelum_model::{access::Scope, cluster::Ceiling};
use serde_json::{Value, json};

use crate::{fixture::Fixture, tasks::with_node};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

#[tokio::test]
async fn a_host_without_an_agent_is_added_once_and_removed() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    let wish = json!({"name": "db-1", "address": "192.0.2.7", "port": 2222, "tags": ["db", "db"]});
    let (status, host) = fixture.send("POST", "/api/ssh/hosts", &token, &wish).await;
    assert_eq!(status, StatusCode::CREATED, "{host}");
    assert_eq!(
        (&host["port"], &host["tags"], &host["added_by"]),
        (&json!(2222), &json!(["db"]), &json!("token:t"))
    );
    let (status, _) = fixture.send("POST", "/api/ssh/hosts", &token, &wish).await;
    assert_eq!(status, StatusCode::CONFLICT);
    for wrong in [
        json!({"name": ""}),
        json!({"name": "a b"}),
        json!({"name": "x", "address": "-oProxyCommand=x"}),
        json!({"name": "x", "port": 0}),
        json!({"name": "x", "tags": ["a b"]}),
    ] {
        let (status, answer) = fixture.send("POST", "/api/ssh/hosts", &token, &wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {answer}");
    }
    let (_, chosen) = fixture.get("/api/ssh/targets?on=tag%3Ddb", &token).await;
    assert_eq!(
        (&chosen["total"], &chosen["nodes"][0]["connection"]),
        (&json!(1), &json!("root@192.0.2.7:2222"))
    );
    let (status, _) = fixture.send("DELETE", "/api/ssh/hosts?id=db-1", &token, &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = fixture.send("DELETE", "/api/ssh/hosts?id=db-1", &token, &Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, list) = fixture.get("/api/ssh/hosts", &token).await;
    assert_eq!(list["hosts"], json!([]));
}

#[tokio::test]
async fn a_key_is_accepted_as_text_listed_and_forgotten() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    let wish = json!({"entries": [{"host": "192.0.2.7", "key": format!("{KEY} root@db-1")}]});
    let (status, answer) = fixture.send("POST", "/api/ssh/known-hosts", &token, &wish).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let (_, list) = fixture.get("/api/ssh/known-hosts", &token).await;
    let entry = &list["entries"][0];
    assert_eq!(
        (&entry["key"], &entry["port"], &entry["origin"]),
        (&json!(KEY), &json!(22), &json!("accepted"))
    );
    assert!(entry["fingerprint"].as_str().expect("text").starts_with("SHA256:"));
    for wrong in [
        json!({"entries": []}),
        json!({"entries": [{"host": "a"}]}),
        json!({"entries": [{"host": "a", "key": "nonsense"}]}),
        json!({"entries": [{"host": "a", "key": KEY, "fingerprint": "SHA256:other"}]}),
    ] {
        let (status, _) = fixture.send("POST", "/api/ssh/known-hosts", &token, &wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let path = "/api/ssh/known-hosts?host=192.0.2.7&port=22";
    let (status, answer) = fixture.send("DELETE", path, &token, &Value::Null).await;
    assert_eq!((status, &answer["removed"]), (StatusCode::OK, &json!(1)));
    let (status, _) = fixture.send("DELETE", path, &token, &Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_operators_run_commands_and_a_node_that_forbids_it_is_refused_to_them_too() {
    let fixture = with_node("n-1", Ceiling::Tasks).await;
    let (viewer, operator) = (fixture.token(Scope::Read).await, {
        let (token, secret) = caelum_web::api::access::make_token(
            "o",
            vec![Scope::Operate],
            None,
            None,
            crate::fixture::NOW_MS,
        )
        .expect("a valid wish");
        fixture.state.store.add_token(token).await.expect("stored");
        secret
    });
    let wish = json!({"node_id": "n-1", "command": "rm -rf /tmp/x"});
    let (status, _) = fixture.send("POST", "/api/ssh/execute", &viewer, &wish).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, answer) = fixture.send("POST", "/api/ssh/execute", &operator, &wish).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::FORBIDDEN, &json!("ceiling")), "{answer}");
    let log = fixture.state.store.audit_log(i64::MAX, 10).await.expect("read");
    let refused = log.iter().filter(|entry| {
        entry.action == "ssh.execute"
            && entry.subject.contains("rm -rf /tmp/x")
            && entry.outcome.starts_with("refused")
    });
    assert_eq!(refused.count(), 2, "{log:?}");
    for wrong in [
        json!({"node_id": "n-1", "command": " "}),
        json!({"node_id": "n-1", "command": "true", "timeout": 0}),
        json!({"node_id": "n-1"}),
    ] {
        let (status, _) = fixture.send("POST", "/api/ssh/execute", &operator, &wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let nobody = json!({"node_id": "nobody", "command": "true"});
    let (status, _) = fixture.send("POST", "/api/ssh/execute", &operator, &nobody).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Every host has its row, whatever stands against it.
    let all = json!({"command": "true"});
    let (status, answer) = fixture.send("POST", "/api/ssh/broadcast", &operator, &all).await;
    assert_eq!((status, &answer["total_nodes"], &answer["failed"]), (StatusCode::OK, &json!(1), &json!(1)));
    assert_eq!(answer["results"][0]["outcome"], json!("refused"));
    let (_, key) = fixture.get("/api/ssh/key", &viewer).await;
    assert!(key["public_key"].as_str().expect("text").starts_with("ssh-ed25519 "));
}
