//! `caelum db` as its operator meets it.

use std::process::{Command, Output};

use caelum_testkit::postgres::PostgresServer;
use serde_json::Value;

fn caelum(arguments: &[&str], store: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary directory");
    Command::new(env!("CARGO_BIN_EXE_caelum"))
        .args(arguments)
        .args(["--store", store, "--data"])
        .arg(folder.path())
        .output()
        .expect("runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", said(output), String::from_utf8_lossy(&output.stderr))
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_new_database_is_looked_at_migrated_and_described() {
    let server = PostgresServer::shared();
    let url = server.url(&server.new_database().expect("made"));
    let before = caelum(&["db", "status", "--json"], &url);
    assert_eq!(json(&before)["health"]["schema"], 0, "looking changes nothing");
    let unready = caelum(&["db", "check"], &url);
    assert_eq!(unready.status.code(), Some(1));
    assert!(said(&unready).contains("run `caelum db migrate`"), "{}", said(&unready));

    let migrated = caelum(&["db", "migrate"], &url);
    assert!(migrated.status.success() && said(&migrated).contains("the schema was 0"), "{}", said(&migrated));
    let again = caelum(&["db", "migrate"], &url);
    assert!(said(&again).contains("as this version needs it"), "{}", said(&again));

    let status = json(&caelum(&["db", "status", "--json"], &url));
    assert_eq!(status["health"]["schema"], status["known_schema"]);
    assert_eq!(status["health"]["is_primary"], true);
    let text = said(&caelum(&["db", "status"], &url));
    assert!(text.contains("takes reads and writes") && text.contains("dead_letters"), "{text}");
}

#[test]
fn a_check_says_what_a_dangerous_setting_means_and_fails() {
    let server = PostgresServer::shared();
    let url = server.url(&server.new_database().expect("made"));
    assert!(caelum(&["db", "migrate"], &url).status.success());
    let checked = caelum(&["db", "check"], &url);
    assert_eq!(checked.status.code(), Some(1));
    assert!(said(&checked).contains("fsync is off: a crash of the host"), "{}", said(&checked));
}

#[test]
fn records_that_cannot_be_reached_have_an_exit_code_of_their_own() {
    for what in ["migrate", "status", "check"] {
        let away = caelum(&["db", what], "postgres://caelum:s3cret@127.0.0.1:1/records");
        let text = String::from_utf8_lossy(&away.stderr).into_owned();
        assert_eq!(away.status.code(), Some(69), "{what}: {text}");
        assert!(text.contains("postgres://caelum@127.0.0.1:1/records"), "{what}: {text}");
        assert!(!text.contains("s3cret"), "{what}: {text}");
        let nothing = caelum(&["db", what], "sqlite:/nowhere/caelum.db");
        assert_eq!(nothing.status.code(), Some(69), "{what}");
    }
}

#[test]
fn an_address_that_means_nothing_is_a_fault_of_the_settings() {
    let wrong = caelum(&["db", "status"], "mysql://u:s3cret@host/d");
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(64), "{text}");
    assert!(text.contains("server.store") && !text.contains("s3cret"), "{text}");
}
