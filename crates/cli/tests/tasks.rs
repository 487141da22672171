//! Tasks as people meet them: the real server with its own worker, asked by the command line and the pages.

use std::time::Duration;

use caelum_testkit::{
    api::Api,
    server::{Plan, Server},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn start(ceiling: &str) -> Server {
    let plan = Plan::new(env!("CARGO_BIN_EXE_caelum")).with(&["--ceiling", ceiling, "--worker-slots", "4"]);
    plan.start().expect("the server starts")
}

async fn ask(api: &Api, task: Value) -> String {
    let answer = api.request(Method::POST, "/api/tasks").json(&task).send().await.expect("answers");
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    let task: Value = answer.json().await.expect("JSON");
    task["task_id"].as_str().expect("an id").to_owned()
}

async fn ended(api: &Api, id: &str) -> Value {
    wait::until_answered("the task ends", SOON, async || {
        let task = api.json(&format!("/api/tasks/{id}")).await.expect("answers");
        let is_held = ["queued", "leased", "running"].iter().any(|state| task["status"] == *state);
        (!is_held).then_some(task)
    })
    .await
}

fn shell(command: &str) -> Value {
    json!({ "task_type": "shell", "task_data": { "command": command }, "max_retries": 0 })
}

#[tokio::test]
async fn a_task_runs_on_the_servers_own_node_and_its_output_is_kept() {
    let server = start("shell");
    let api = server.api().expect("an address").signed_in().await.expect("signs in");
    let good = ask(&api, shell("echo hello; echo oh >&2")).await;
    let bad = ask(&api, shell("exit 7")).await;
    let task = ended(&api, &good).await;
    assert_eq!(
        (&task["status"], &task["attempts"][0]["exit_code"]),
        (&json!("succeeded"), &json!(0)),
        "{task}"
    );
    let output = api.json(&format!("/api/tasks/{good}/output")).await.expect("answers");
    let text: String = output["output"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|chunk| chunk["text"].as_str())
        .collect();
    assert!(text.contains("hello\n") && text.contains("oh\n"), "{output}");
    let task = ended(&api, &bad).await;
    assert_eq!((&task["status"], &task["attempts"][0]["exit_code"]), (&json!("failed"), &json!(7)), "{task}");
    for page in
        ["/tasks".to_owned(), "/tasks/new".to_owned(), format!("/tasks/{good}"), format!("/tasks/{bad}")]
    {
        let answer = api.answer(&page).await.expect("answers");
        assert_eq!(answer.status().as_u16(), 200, "{page}");
    }
}

#[tokio::test]
async fn a_task_that_is_called_off_ends_and_leaves_nothing_behind() {
    let server = start("shell");
    let api = server.api().expect("an address").signed_in().await.expect("signs in");
    let id = ask(&api, shell("echo ready; sleep 1000")).await;
    wait::until_answered("it runs", SOON, async || {
        let output = api.json(&format!("/api/tasks/{id}/output")).await.expect("answers");
        (output["output"][0]["text"] == "ready\n").then_some(())
    })
    .await;
    let answer = api.request(Method::POST, &format!("/api/tasks/{id}/cancel")).send().await.expect("answers");
    assert!(answer.status().is_success());
    assert_eq!(ended(&api, &id).await["status"], "cancelled");
}

#[tokio::test]
async fn a_server_that_is_stopped_lets_its_tasks_end() {
    let mut server = start("shell");
    let api = server.api().expect("an address").signed_in().await.expect("signs in");
    let id = ask(&api, shell("echo ready; sleep 1; echo done")).await;
    wait::until_answered("it runs", SOON, async || {
        let output = api.json(&format!("/api/tasks/{id}/output")).await.expect("answers");
        (output["output"][0]["text"] == "ready\n").then_some(())
    })
    .await;
    assert!(server.stop(SOON).success());
    server.start().expect("starts again");
    let api = server.api().expect("an address").signed_in().await.expect("signs in");
    let task = ended(&api, &id).await;
    assert_eq!(
        (&task["status"], task["attempts"].as_array().map(Vec::len)),
        (&json!("succeeded"), Some(1)),
        "{task}"
    );
}

#[tokio::test]
async fn a_server_that_is_killed_runs_its_tasks_again_and_leaves_no_process() {
    let mut server = start("shell");
    let api = server.api().expect("an address").signed_in().await.expect("signs in");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ledger = folder.path().join("ledger");
    let command = format!(
        "echo $$ $CAELUM_TASK_FENCE >> {0}; if [ $CAELUM_TASK_FENCE -gt 1 ]; then exit 0; fi; sleep 1000",
        ledger.display()
    );
    let id = ask(&api, shell(&command)).await;
    let first = wait::until_answered("it runs", SOON, async || {
        std::fs::read_to_string(&ledger).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    server.process().kill();
    let process = first.split(' ').next().expect("an id").to_owned();
    wait::until_answered("its process is gone", SOON, async || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z")).then_some(())
    })
    .await;
    server.start().expect("starts again");
    let api = server.api().expect("an address").signed_in().await.expect("signs in");
    let task = ended(&api, &id).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let ledger = std::fs::read_to_string(&ledger).expect("is there");
    assert_eq!(ledger.lines().count(), 2, "{ledger}");
}

#[tokio::test]
async fn a_node_that_only_lets_itself_be_watched_runs_nothing() {
    let server = start("observe");
    let api = server.api().expect("an address").signed_in().await.expect("signs in");
    let refused = api
        .request(Method::POST, "/api/tasks/assign-optimal")
        .json(&json!({ "task_type": "shell" }))
        .send()
        .await
        .expect("answers");
    assert_eq!(refused.status().as_u16(), 503);
}
