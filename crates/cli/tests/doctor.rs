//! `caelum doctor` as its operator meets it.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

use caelum_testkit::{nats::NatsServer, postgres, server::Plan};
use serde_json::Value;

fn findings(text: &[u8]) -> Vec<Value> {
    let answer: Value = serde_json::from_slice(text).expect("JSON");
    answer["findings"].as_array().expect("a list").clone()
}

fn level(findings: &[Value], subject: &str) -> String {
    let finding = findings.iter().find(|finding| finding["subject"] == subject);
    finding.unwrap_or_else(|| panic!("nothing about {subject}: {findings:?}"))["level"].to_string()
}

#[test]
fn a_running_server_has_a_sound_store_queue_and_port_of_its_own() {
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("the server starts");
    let listen = format!("127.0.0.1:{}", server.port());
    let data = server.data().display().to_string();
    let output = server.run(&["doctor", "--json", "--data", &data, "--listen", &listen]).expect("runs");
    let found = findings(&output.stdout);
    for subject in ["data directory", "store", "queue", &format!("{listen}/tcp")] {
        assert_eq!(level(&found, subject), "\"ok\"", "{subject}: {found:?}");
    }
}

#[test]
fn a_port_that_another_process_has_is_a_fault_that_names_it() {
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("the server starts");
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = other.local_addr().expect("an address").to_string();
    let data = server.data().display().to_string();
    let output = server.run(&["doctor", "--data", &data, "--listen", &listen]).expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(text.contains("server.listen"), "{text}");
}

/// Level, finding and remedy of everything that was said of a subject.
fn told(findings: &[Value], subject: &str) -> Vec<(String, String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let about = findings.iter().filter(|finding| finding["subject"] == subject);
    about.map(|one| (text(one, "level"), text(one, "what"), text(one, "remedy"))).collect()
}

/// What the doctor says where the settings name these servers. No server of Caelum runs.
fn with_backends(store: &str, queue: &str) -> (Vec<Value>, Option<i32>) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_caelum"))
        .args(["doctor", "--json", "--listen", "127.0.0.1:0", "--beacon-enabled", "false", "--data"])
        // One that is not there is no fault.
        .arg(folder.path().join("data"))
        .env("HOME", folder.path())
        .env("CAELUM_SERVER_STORE", store)
        .env("CAELUM_SERVER_QUEUE", queue)
        .output()
        .expect("runs");
    (findings(&output.stdout), output.status.code())
}

#[test]
fn a_database_and_a_stream_are_reached_and_their_absence_and_wrong_logins_have_remedies() {
    let folder = tempfile::tempdir().expect("a folder");
    let hba = folder.path().join("hba.conf");
    fs::write(&hba, "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        .expect("written");
    // The server may run as another user than this test.
    for (path, mode) in [(folder.path(), 0o755), (hba.as_path(), 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("readable");
    }
    let plan = postgres::Plan::new().durable().with(&format!("hba_file={}", hba.display()));
    let mut database = plan.start().expect("PostgreSQL starts");
    database.psql("postgres", "create role caelum login password 'right'").expect("made");
    database.psql("postgres", "create database caelum owner caelum").expect("made");
    let mut nats =
        NatsServer::start_with("authorization { user: caelum, password: right }").expect("NATS starts");
    let store = |password: &str| format!("postgres://caelum:{password}@{}/caelum", database.place());
    let queue = |password: &str| format!("nats://caelum:{password}@127.0.0.1:{}", nats.port());
    let (store_right, store_wrong, queue_right, queue_wrong) =
        (store("right"), store("wrong"), queue("right"), queue("wrong"));

    // Up, and nobody has set anything up yet.
    let (found, code) = with_backends(&store_right, &queue_right);
    let (store, queue) = (told(&found, "store"), told(&found, "queue"));
    assert_eq!(code, Some(0), "{found:?}");
    assert!(store.iter().any(|(level, what, _)| level == "ok" && what.contains("postgres")), "{store:?}");
    assert!(
        store.iter().any(|(level, _, remedy)| level == "note" && remedy.contains("db migrate")),
        "{store:?}"
    );
    assert!(queue.iter().any(|(level, what, _)| level == "note" && what.contains("no stream")), "{queue:?}");
    assert_eq!(
        database.psql("caelum", "select count(*) from pg_tables where schemaname = 'public'").expect("asked"),
        "0",
        "looking sets nothing up"
    );

    // A wrong password of each.
    let (found, code) = with_backends(&store_wrong, &queue_wrong);
    let (store, queue) = (told(&found, "store"), told(&found, "queue"));
    assert_eq!(code, Some(1), "{found:?}");
    assert!(store[0].0 == "fault" && store[0].2.contains("password in server.store"), "{store:?}");
    assert!(queue[0].0 == "fault" && queue[0].2.contains("login in server.queue"), "{queue:?}");
    assert!(!format!("{found:?}").contains("wrong"), "no password is shown");

    // Set up by a server, and looked at while it runs.
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum"))
        .with(&["--store", &store_right, "--queue", &queue_right])
        .start()
        .expect("the server starts");
    let (found, _) = with_backends(&store_right, &queue_right);
    for subject in ["store", "queue"] {
        let said = told(&found, subject);
        assert!(said.iter().any(|(level, _, _)| level == "ok"), "{said:?}");
        assert!(said.iter().all(|(level, _, _)| level == "ok" || level == "note"), "{said:?}");
    }
    assert!(told(&found, "queue").iter().any(|(_, what, _)| what.contains("CAELUM_EVENTS")), "{found:?}");
    drop(server);

    // Gone.
    database.kill();
    nats.kill();
    let (found, code) = with_backends(&store_right, &queue_right);
    let (store, queue) = (told(&found, "store"), told(&found, "queue"));
    assert_eq!(code, Some(1), "{found:?}");
    assert!(store[0].0 == "fault" && store[0].2.contains("start PostgreSQL"), "{store:?}");
    assert!(queue[0].0 == "fault" && queue[0].2.contains("start NATS"), "{queue:?}");
}
