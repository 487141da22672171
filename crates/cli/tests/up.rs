//! `caelum up` as its operator meets it: the real program, its files, its port, its end.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use caelum_testkit::{
    server::{Plan, Server},
    wait,
};
use serde_json::Value;

/// What the program promises for its end.
const END: Duration = Duration::from_secs(5);

fn plan() -> Plan {
    Plan::new(env!("CARGO_BIN_EXE_caelum"))
}

fn start(plan: Plan) -> Server {
    plan.start().expect("the server starts")
}

#[tokio::test]
async fn a_first_start_serves_this_machine_to_whoever_signs_in() {
    let server = start(plan());
    let api = server.api().expect("the authority is in the data directory");

    let health = api.json("/health").await.expect("health needs no login");
    assert_eq!(health["status"], "healthy", "{health}");
    let plain = api.at(&server.http()).json("/health").await.expect("this machine may ask without TLS");
    assert_eq!(plain["node_id"], health["node_id"]);

    let refused = api.answer("/api/nodes").await.expect("answers");
    assert_eq!(refused.status().as_u16(), 401);

    let person = api.signed_in().await.expect("the administrator signs in");
    let nodes = wait::until_answered("this node has a sample", Duration::from_secs(30), async || {
        let nodes = person.json("/api/nodes").await.expect("answers");
        nodes["nodes"][0]["cpu_usage"].is_number().then_some(nodes)
    })
    .await;
    let node = &nodes["nodes"][0];
    assert_eq!(node["node_id"], health["node_id"], "{nodes}");
    assert!(node["last_heartbeat_age_ms"].as_u64().is_some_and(|age| age < 15_000), "{nodes}");
}

#[tokio::test]
async fn a_generated_password_is_printed_once_and_signs_in() {
    let mut server = start(plan().with_generated_password());
    let printed = server.process().output();
    let line = printed.lines().find(|line| line.to_lowercase().contains("password")).unwrap_or_default();
    let password = line.split_whitespace().last().expect("a password is printed").to_owned();
    let api = server.api().expect("the authority is there");
    api.signed_in_as("admin", &password).await.unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert!(api.signed_in_as("admin", "not-the-password").await.is_err());

    assert!(server.stop(END).success());
    server.start().expect("starts again");
    let printed = server.process().output();
    assert_eq!(printed.matches(&password).count(), 1, "{printed}");
    assert!(!server.process().log().contains(&password));
    api.signed_in_as("admin", &password).await.expect("the password still holds");
}

#[test]
fn everything_in_the_data_directory_is_its_owners_only() {
    let server = start(plan());
    let mut seen = 0;
    let mut open = Vec::new();
    visit(&server.data(), &mut |path, mode| {
        seen += 1;
        if mode & 0o077 != 0 {
            open.push(format!("{} {mode:o}", path.display()));
        }
    });
    assert!(seen > 5, "only {seen} files");
    assert_eq!(open, Vec::<String>::new());
}

fn visit(path: &Path, look: &mut impl FnMut(&Path, u32)) {
    let metadata = fs::symlink_metadata(path).expect("is there");
    look(path, metadata.permissions().mode() & 0o777);
    if metadata.is_dir() {
        for entry in fs::read_dir(path).expect("can be listed") {
            visit(&entry.expect("can be listed").path(), look);
        }
    }
}

#[test]
fn a_taken_port_names_its_holder_and_the_way_out() {
    let mut server = start(plan());
    let (pid, address) = (server.process().pid(), format!("127.0.0.1:{}", server.port()));
    let other = server.folder().join("other");
    let other = other.to_str().expect("plain names");
    let mut second = server.spawn("second", &["up", "--data", other, "--listen", &address]).expect("starts");
    let status = second.wait_for_end(Duration::from_secs(30));
    let said = second.log();
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(said.contains(&format!("process {pid}")) && said.contains("caelum"), "{said}");
    assert!(said.contains("--listen 127.0.0.1:PORT"), "{said}");
}

#[test]
fn a_data_directory_is_used_by_one_process_at_a_time() {
    let server = start(plan());
    let data = server.data();
    let data = data.to_str().expect("plain names");
    let mut second =
        server.spawn("second", &["up", "--data", data, "--listen", "127.0.0.1:0"]).expect("starts");
    assert_eq!(second.wait_for_end(Duration::from_secs(30)).code(), Some(69), "{}", second.log());
}

#[tokio::test]
async fn being_told_to_stop_ends_well_and_the_next_start_goes_on() {
    let mut server = start(plan());
    let api = server.api().expect("the authority is there");
    let person = api.signed_in().await.expect("signs in");
    let before = identity(&person.json("/health").await.expect("answers"));
    let certificate = fs::read(server.data().join("secrets/ca.pem")).expect("is there");

    let status = server.stop(END);
    assert_eq!(status.code(), Some(0), "{}", server.process().log());
    assert!(!server.data().join("run/ready.json").exists());

    server.start().expect("starts again");
    assert_eq!(identity(&person.json("/health").await.expect("answers")), before);
    assert_eq!(fs::read(server.data().join("secrets/ca.pem")).expect("is there"), certificate);
    person.json("/api/me").await.expect("the session outlives the restart");
}

fn identity(health: &Value) -> String {
    health["node_id"].as_str().expect("a node has an id").to_owned()
}

#[tokio::test]
async fn a_kill_loses_neither_identity_nor_sessions() {
    let mut server = start(plan());
    let api = server.api().expect("the authority is there");
    let person = api.signed_in().await.expect("signs in");
    let before = identity(&person.json("/health").await.expect("answers"));
    server.kill();
    server.start().expect("starts again");
    assert_eq!(identity(&person.json("/health").await.expect("answers")), before);
    person.json("/api/me").await.expect("the session outlives the crash");
}

#[tokio::test]
async fn tokens_and_passwords_are_changed_while_the_server_runs() {
    let server = start(plan());
    let api = server.api().expect("the authority is there");
    let token = server.token("read").expect("a token is made");
    api.with_token(&token).json("/api/nodes").await.expect("the token is known at once");

    let data = server.data();
    let data = data.to_str().expect("plain names");
    let listed = server.run(&["token", "list", "--json", "--data", data]).expect("runs");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("is JSON");
    let tokens = listed["tokens"].as_array().expect("a list").iter();
    let id = tokens.filter(|token| token["name"] == "read").find_map(|token| token["token_id"].as_str());
    let revoked = server.run(&["token", "revoke", id.expect("is listed"), "--data", data]).expect("runs");
    assert!(revoked.status.success());
    assert_eq!(api.with_token(&token).answer("/api/nodes").await.expect("answers").status().as_u16(), 401);

    let person = api.signed_in().await.expect("signs in");
    let reset = server.run(&["user", "password", "admin", "--data", data]).expect("runs");
    let printed = String::from_utf8(reset.stdout).expect("is text");
    let password = printed.lines().last().expect("a password is printed");
    assert_eq!(person.answer("/api/me").await.expect("answers").status().as_u16(), 401);
    api.signed_in_as("admin", password).await.expect("the new password holds");
}

#[tokio::test]
async fn the_command_line_finds_the_server_on_its_machine() {
    let server = start(plan());
    let data = server.data();
    let data = data.to_str().expect("plain names");
    let token = server.token("operate").expect("a token is made");
    let ask = |arguments: &[&str]| {
        let output = server.run(&[arguments, &["--data", data, "--token", &token]].concat()).expect("runs");
        let text = String::from_utf8(output.stdout).expect("is text");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let url = "https://target.example/";
    ask(&["targets", "add", url, "--name", "Example", "--interval-s", "30"]);
    assert!(ask(&["targets", "list"]).contains(url));
    ask(&["targets", "remove", url]);
    assert!(!ask(&["targets", "list"]).contains(url));
    assert!(ask(&["nodes"]).contains("STATUS"));
    let nodes: Value = serde_json::from_str(&ask(&["nodes", "--json"])).expect("is JSON");
    assert!(nodes["nodes"].is_array());
}

#[test]
fn wrong_settings_end_with_their_own_code_and_every_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("caelum.toml");
    fs::write(&file, "[server]\nlitsen = 1\n[agent]\nhistory_hours = 0\n").expect("is written");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_caelum"))
        .env_clear()
        .args(["up", "--data"])
        .arg(folder.path())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).expect("is text");
    let place = file.display();
    assert!(
        said.contains(&format!("{place}:2: server.litsen is not a setting; did you mean server.listen?")),
        "{said}"
    );
    assert!(said.contains(&format!("{place}:4: agent.history_hours is 0; allowed:")), "{said}");
    assert!(!folder.path().join("caelum.db").exists(), "a start that is refused leaves nothing behind");
}
