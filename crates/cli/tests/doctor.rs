//! `caelum doctor` as its operator meets it.

use std::net::TcpListener;

use caelum_testkit::server::Plan;
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
