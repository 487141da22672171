//! One host: its key, its commands, its connections, and what is refused.

use std::{fs, time::Duration};

use caelum_testkit::{server::Plan, wait};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::lab::{Lab, address, post};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_command_runs_on_a_host_whose_key_was_accepted_and_ends_as_it_ends() {
    let lab = Lab::start(&[]).await;
    let sshd = lab.sshd(11, 1).await;
    let (host, port) = (sshd.addresses()[0].to_string(), sshd.port());
    lab.add("h", &host, port).await;

    // Nobody knows the key yet.
    let unknown = lab.execute("h", "echo hello").await;
    assert_eq!(unknown["outcome"], "refused", "{unknown}");
    let shown = unknown["host_key"]["offered_fingerprint"].as_str().expect("its fingerprint").to_owned();
    assert!(unknown["error"].as_str().expect("why").contains(&shown), "{unknown}");

    // A fingerprint that is not its own is not accepted, and its own is.
    let wish = |fingerprint: &str| json!({ "entries": [{ "host": "h", "fingerprint": fingerprint }] });
    let (status, _) = lab.post("/api/ssh/known-hosts", wish("SHA256:nonsense")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, _) = lab.post("/api/ssh/known-hosts", wish(&shown)).await;
    assert_eq!(status, StatusCode::CREATED);

    let good = lab.execute("h", "echo hello; echo oh >&2").await;
    assert_eq!((&good["outcome"], &good["return_code"]), (&json!("ok"), &json!(0)), "{good}");
    assert_eq!((&good["stdout"], &good["stderr"]), (&json!("hello\n"), &json!("oh\n")));
    assert_eq!(good["connection"], format!("{}@{host}:{port}", lab.user));
    let bad = lab.execute("h", "exit 7").await;
    assert_eq!((&bad["outcome"], &bad["return_code"]), (&json!("failed"), &json!(7)), "{bad}");
    assert_eq!(bad["is_reused"], true);
    let killed = lab.execute("h", "kill -9 $$").await;
    assert_eq!((&killed["outcome"], &killed["return_code"]), (&json!("failed"), &Value::Null), "{killed}");
    let wish = json!({ "node_id": "h", "command": "exec sleep 600", "timeout": 1 });
    let (_, late) = lab.post("/api/ssh/execute", wish).await;
    assert_eq!(late["outcome"], "timed_out", "{late}");

    let stats = lab.stats().await;
    assert_eq!((&stats["total_created"], &stats["total_reused"]), (&json!(1), &json!(3)), "{stats}");
    assert_eq!((&stats["active_connections"], &stats["running"]), (&json!(1), &json!(0)), "{stats}");
    let (_, cleaned) = lab.post("/api/ssh/pool/cleanup", json!({})).await;
    assert_eq!(
        (&cleaned["stats"]["active_connections"], &cleaned["stats"]["total_closed"]),
        (&json!(0), &json!(1)),
        "{cleaned}"
    );
}

#[tokio::test]
async fn a_changed_host_key_is_refused_with_both_fingerprints() {
    let lab = Lab::start(&[]).await;
    let mut sshd = lab.sshd(31, 1).await;
    lab.add_all(&sshd, 31).await;
    assert_eq!(lab.execute("h-31", "true").await["outcome"], "ok");
    sshd.new_host_key().expect("another key");
    sshd.restart().expect("starts again");
    let refused = wait::until_answered("the old connection is gone", SOON, async || {
        let result = lab.execute("h-31", "true").await;
        (result["outcome"] == "refused").then_some(result)
    })
    .await;
    let problem = &refused["host_key"];
    let (offered, known) = (&problem["offered_fingerprint"], &problem["known_fingerprints"][0]);
    assert_ne!(offered, known);
    let said = refused["error"].as_str().expect("why");
    for fingerprint in [offered, known] {
        assert!(said.contains(fingerprint.as_str().expect("a fingerprint")), "{said}");
    }
    // It was set up anew: its old key is forgotten, and the new one accepted.
    let run = |arguments: &[&str]| {
        let data = lab.server.data();
        let token = lab.server.token("operate").expect("a token");
        let mut all = vec!["ssh"];
        all.extend(arguments);
        all.extend(["--token", &token, "--data", data.to_str().expect("plain")]);
        // What is to be run stands last.
        if let Some(at) = all.iter().position(|word| *word == "--") {
            let command: Vec<&str> = all.drain(at..at + 2).collect();
            all.extend(command);
        }
        lab.server.run(&all).expect("runs")
    };
    assert!(run(&["forget", "h-31"]).status.success());
    let shown = run(&["accept", "h-31"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let offered = offered.as_str().expect("a fingerprint");
    assert!(shown.contains(offered), "{shown}");
    assert!(run(&["accept", "h-31", "--fingerprint", offered]).status.success());
    let done = run(&["exec", "h-31", "--", "echo again; exit 3"]);
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(3), b"again\n".as_slice()), "{done:?}");
    for words in [&["pool"][..], &["hosts"], &["known-hosts"], &["key"], &["ca"]] {
        assert!(run(words).status.success(), "{words:?}");
    }
}

#[tokio::test]
async fn commands_on_one_host_share_few_connections_and_none_is_refused() {
    share_connections(3).await;
    share_connections(1).await;
}

/// `CAELUM_SSH_EXECUTIONS` commands (1,000), up to 40 at a time, over so many connections at most.
async fn share_connections(allowed: u64) {
    let lab = Lab::start(&["--ssh-connections-per-host", &allowed.to_string()]).await;
    let mut sshd = lab.sshd(51, 1).await;
    lab.add_all(&sshd, 51).await;
    let number = std::env::var("CAELUM_SSH_EXECUTIONS").ok().and_then(|number| number.parse().ok());
    let number: usize = number.unwrap_or(1_000);
    let api = lab.api.plain_at(&lab.server.http()).expect("a client");
    let mut running = tokio::task::JoinSet::new();
    let mut left = number;
    let mut most = 0;
    while left > 0 || !running.is_empty() {
        while left > 0 && running.len() < 40 {
            left -= 1;
            let api = api.clone();
            running.spawn(async move {
                let wish = json!({ "node_id": "h-51", "command": "true", "timeout": 60 });
                post(&api, "/api/ssh/execute", wish).await
            });
        }
        let (status, answer) = running.join_next().await.expect("one runs").expect("no panic");
        assert_eq!((status, &answer["outcome"]), (StatusCode::OK, &json!("ok")), "{answer}");
        if left.is_multiple_of(100) {
            let stats = lab.stats().await;
            most = most.max(stats["active_connections"].as_u64().expect("a number"));
        }
    }
    let stats = lab.stats().await;
    let made = stats["total_created"].as_u64().expect("a number");
    assert!(made <= allowed && most <= allowed, "{stats}");
    assert_eq!(stats["total_reused"].as_u64().expect("a number") + made, number as u64, "{stats}");
    assert!(!sshd.sessions().is_empty());
}

#[tokio::test]
async fn killing_sshd_in_the_middle_of_a_command_is_told_at_once_and_frees_its_slot() {
    let lab = Lab::start(&[]).await;
    let mut sshd = lab.sshd(71, 1).await;
    lab.add_all(&sshd, 71).await;
    let api = lab.api.clone();
    let running = tokio::spawn(async move {
        let wish = json!({ "node_id": "h-71", "command": "echo begun; sleep 600", "timeout": 500 });
        post(&api, "/api/ssh/execute", wish).await
    });
    wait::until_answered("it runs", SOON, async || {
        (lab.stats().await["running"] == 1 && sshd.sessions().len() > 1).then_some(())
    })
    .await;
    assert!(sshd.kill_sessions() > 0);
    let (_, result) = tokio::time::timeout(SOON, running).await.expect("it ends").expect("no panic");
    assert_eq!(result["outcome"], "unreachable", "{result}");
    assert!(result["error"].as_str().expect("why").contains("broke"), "{result}");
    let stats = lab.stats().await;
    assert_eq!((&stats["running"], &stats["waiting"]), (&json!(0), &json!(0)), "{stats}");
    assert_eq!(lab.execute("h-71", "echo back").await["stdout"], "back\n");
}

#[tokio::test]
async fn idle_connections_are_closed_at_their_time() {
    let lab = Lab::start(&["--ssh-idle-s", "1"]).await;
    let mut sshd = lab.sshd(91, 1).await;
    lab.add_all(&sshd, 91).await;
    assert_eq!(lab.execute("h-91", "true").await["outcome"], "ok");
    wait::until_answered("it is closed", SOON, async || {
        (lab.stats().await["active_connections"] == 0).then_some(())
    })
    .await;
    wait::until("sshd has no session", SOON, || sshd.sessions().is_empty().then_some(()));
    let stats = lab.stats().await;
    assert_eq!((&stats["total_created"], &stats["total_closed"]), (&json!(1), &json!(1)), "{stats}");
}

#[tokio::test]
async fn a_viewer_is_refused_and_every_command_is_in_the_audit_log_whole() {
    let lab = Lab::start(&[]).await;
    let sshd = lab.sshd(111, 2).await;
    lab.add_all(&sshd, 111).await;
    let long = format!("echo {}", "x".repeat(3_000));
    let viewer = lab.api.with_token(&lab.server.token("read").expect("a token"));
    let wish = json!({ "node_id": "h-111", "command": &long });
    let (status, _) = post(&viewer, "/api/ssh/execute", wish).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = post(&viewer, "/api/ssh/broadcast", json!({ "command": &long })).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    for (path, body) in [
        ("/api/ssh/hosts", json!({ "name": "x" })),
        ("/api/ssh/known-hosts", json!({ "entries": [] })),
        ("/api/ssh/pool/cleanup", json!({})),
    ] {
        assert_eq!(post(&viewer, path, body).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    let before = lab.audit().await;
    assert_eq!(
        before.iter().filter(|(_, what, how)| what.contains(&long) && how.contains("operator")).count(),
        2
    );
    assert!(before.iter().all(|(_, what, how)| !what.contains(&long) || how.starts_with("refused")));
    assert_eq!(lab.execute("h-111", &long).await["outcome"], "ok");
    assert_eq!(lab.broadcast(&long).await["successful"], 2);
    let ran = wait::until_answered("the end is written down", SOON, async || {
        let lines = lab.audit().await;
        let ran: Vec<_> = lines
            .into_iter()
            .filter(|(_, what, how)| what.ends_with(&long) && !how.starts_with("refused"))
            .collect();
        (ran.len() == 4).then_some(ran)
    })
    .await;
    assert_eq!(
        ran.iter().filter(|(_, what, _)| what == &format!("h-111, h-112: {long}")).count(),
        2,
        "{ran:?}"
    );
    assert_eq!(ran.iter().filter(|(_, _, how)| how == "begun").count(), 2, "{ran:?}");
    assert!(ran.iter().any(|(_, _, how)| how == "2 ok"), "{ran:?}");
}

#[tokio::test]
async fn a_node_that_may_only_be_looked_at_is_refused_whatever_the_role() {
    let user = caelum_testkit::sshd::user().expect("a user");
    let plan = Plan::new(env!("CARGO_BIN_EXE_caelum")).with(&["--ceiling", "observe", "--ssh-user", &user]);
    let server = plan.start().expect("the server starts");
    let admin = server.api().expect("an address").signed_in().await.expect("signs in");
    let name = wait::until_answered("the server's own node is known", SOON, async || {
        let nodes = admin.json("/api/nodes").await.expect("answers");
        nodes["nodes"][0]["name"].as_str().map(str::to_owned)
    })
    .await;
    let (status, answer) =
        post(&admin, "/api/ssh/execute", json!({ "node_id": &name, "command": "true" })).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::FORBIDDEN, &json!("ceiling")), "{answer}");
    let (_, answer) = post(&admin, "/api/ssh/broadcast", json!({ "command": "true" })).await;
    let result = &answer["results"][0];
    assert_eq!((&result["outcome"], &result["node"]), (&json!("refused"), &json!(name)), "{answer}");
    assert!(result["error"].as_str().expect("why").contains("ceiling"), "{answer}");
}

#[tokio::test]
async fn a_nodes_own_host_keys_are_trusted_because_its_agent_told_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let sshd = caelum_testkit::sshd::Sshd::start("", &[address(131)]).expect("sshd starts");
    let told = format!("{} root@host\n", sshd.host_key().expect("a key"));
    fs::write(folder.path().join("ssh_host_ed25519_key.pub"), told).expect("written");
    let keys = folder.path().to_str().expect("plain");
    let port = sshd.port().to_string();
    let lab = Lab::start(&["--ceiling", "shell", "--ssh-host-keys", keys, "--ssh-port", &port]).await;
    sshd.authorize(&lab.key().await).expect("written");
    let entry = wait::until_answered("the node has told its keys", SOON, async || {
        let known = lab.api.json("/api/ssh/known-hosts").await.expect("answers");
        known["entries"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(entry["origin"], "attested", "{entry}");
    assert_eq!(entry["key"], sshd.host_key().expect("a key"));
}

#[tokio::test]
async fn a_task_for_another_machine_runs_over_the_pool_with_its_output_and_can_be_called_off() {
    // A machine that is busy or full with other things is no place for work otherwise.
    let calm = ["cpu", "memory", "disk"].map(|what| format!("--health-{what}-critical"));
    let mut flags = vec!["--ceiling", "tasks", "--worker-slots", "4", "--health-load-critical", "10000"];
    flags.extend(calm.iter().flat_map(|flag| [flag.as_str(), "100"]));
    let lab = Lab::start(&flags).await;
    let mut sshd = lab.sshd(151, 1).await;
    lab.add_all(&sshd, 151).await;
    let ask = async |command: &str| {
        let data = json!({ "host": "h-151", "command": command, "env": { "WHO": "it's me" } });
        let task = json!({ "task_type": "ssh", "task_data": data, "max_retries": 0, "timeout_seconds": 500 });
        let (status, task) = lab.post("/api/tasks", task).await;
        assert!(status.is_success(), "{task}");
        task["task_id"].as_str().expect("an id").to_owned()
    };
    let ended = async |id: &str| {
        wait::until_answered("the task ends", SOON, async || {
            let task = lab.api.json(&format!("/api/tasks/{id}")).await.expect("answers");
            let is_held = ["queued", "leased", "running"].iter().any(|state| task["status"] == *state);
            (!is_held).then_some(task)
        })
        .await
    };
    let (good, bad, long) = (ask("echo $WHO").await, ask("exit 7").await, ask("echo begun; sleep 600").await);
    let task = ended(&good).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let output = lab.api.json(&format!("/api/tasks/{good}/output")).await.expect("answers");
    assert_eq!(output["output"][0]["text"], "it's me\n", "{output}");
    let task = ended(&bad).await;
    assert_eq!((&task["status"], &task["attempts"][0]["exit_code"]), (&json!("failed"), &json!(7)), "{task}");
    wait::until_answered("output comes while it runs", SOON, async || {
        let output = lab.api.json(&format!("/api/tasks/{long}/output")).await.expect("answers");
        (output["output"][0]["text"] == "begun\n").then_some(())
    })
    .await;
    let (status, _) = lab.post(&format!("/api/tasks/{long}/cancel"), json!({})).await;
    assert!(status.is_success());
    assert_eq!(ended(&long).await["status"], "cancelled");
    wait::until_answered("its slot is free", SOON, async || {
        (lab.stats().await["running"] == 0).then_some(())
    })
    .await;
    assert_eq!(lab.stats().await["total_created"], 1);
    assert!(!sshd.sessions().is_empty());
}
