//! The cluster's tools as an assistant meets them: `caelum mcp` started as a program, spoken to line by line.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use caelum_testkit::server::{Plan, Server};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// The program, and who speaks with it.
struct Assistant {
    program: Child,
    says: ChildStdin,
    hears: BufReader<ChildStdout>,
}

impl Assistant {
    fn of(server: &Server, scope: &str) -> Self {
        let token = server.token(scope).expect("a token");
        let mut program = Command::new(env!("CARGO_BIN_EXE_caelum"))
            .args(["mcp", "--token", &token, "--data"])
            .arg(server.data())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("starts");
        let (says, hears) = (program.stdin.take().expect("piped"), program.stdout.take().expect("piped"));
        Self { program, says, hears: BufReader::new(hears) }
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.says, "{message}").expect("it listens");
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.hears.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn call(&mut self, id: u64, tool: &str, arguments: Value) -> Value {
        self.say(&json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": { "name": tool, "arguments": arguments },
        }));
        let answer = self.hear();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    fn shake_hands(&mut self) {
        self.say(&json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18", "capabilities": {},
                "clientInfo": { "name": "test", "version": "1" },
            },
        }));
        let answer = self.hear();
        assert_eq!(answer["result"]["serverInfo"]["name"], "caelum", "{answer}");
        // Nothing is answered to this one: what comes next answers the next.
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    }
}

#[test]
fn an_assistant_finds_the_tools_asks_about_the_machine_and_runs_a_task_on_it() {
    let calm = ["cpu", "memory", "disk"].map(|what| format!("--health-{what}-critical"));
    let mut flags = vec!["--ceiling", "shell", "--worker-slots", "1", "--health-load-critical", "10000"];
    flags.extend(calm.iter().flat_map(|flag| [flag.as_str(), "100"]));
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).with(&flags).start().expect("starts");
    let mut assistant = Assistant::of(&server, "operate");
    assistant.shake_hands();
    assistant.say(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    let list = assistant.hear();
    let tools = list["result"]["tools"].as_array().expect("tools");
    let run = tools.iter().find(|tool| tool["name"] == "run_task").expect("a tool");
    assert_eq!(run["inputSchema"]["type"], "object", "{run}");
    assert!(run["inputSchema"]["properties"]["task_type"].is_object(), "{run}");

    let nodes = assistant.call(2, "nodes", json!({}));
    assert!(
        nodes["result"]["structuredContent"]["nodes"].as_array().is_some_and(|all| all.len() == 1),
        "{nodes}"
    );
    let wish = json!({ "task_type": "shell", "task_data": { "command": "echo from the assistant" } });
    let task = assistant.call(3, "run_task", wish);
    let id = task["result"]["structuredContent"]["task_id"].as_str().expect("an id").to_owned();
    let mut number = 10;
    caelum_testkit::wait::until("the task is done", SOON, || {
        number += 1;
        let task = assistant.call(number, "task", json!({ "id": &id }));
        (task["result"]["structuredContent"]["status"] == "succeeded").then_some(())
    });
    let output = assistant.call(4, "task_output", json!({ "id": &id }));
    assert!(output["result"].to_string().contains("from the assistant"), "{output}");

    drop(assistant.says);
    assert!(assistant.program.wait().expect("ends").success(), "it ends with its input");
}

#[test]
fn every_call_is_answered_whatever_happens_to_the_server() {
    let mut server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("starts");
    let mut assistant = Assistant::of(&server, "read");
    assistant.shake_hands();
    let refused =
        assistant.call(1, "run_task", json!({ "task_type": "shell", "task_data": { "command": "id" } }));
    assert_eq!(refused["result"]["isError"], true, "{refused}");
    writeln!(assistant.says, "this is no JSON").expect("it listens");
    let answer = assistant.hear();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32700)), "{answer}");
    server.kill();
    let answer = assistant.call(2, "overview", json!({}));
    assert!(
        answer["error"]["message"].as_str().is_some_and(|text| text.contains("cannot be reached")),
        "{answer}"
    );
    server.start().expect("starts again");
    let answer = assistant.call(3, "overview", json!({}));
    assert_eq!(answer["result"]["isError"], false, "{answer}");
}
