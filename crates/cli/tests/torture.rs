//! The crash proof, as an operator runs it, with few kills. `docs/operations.md` says how to run it with many.

use std::process::Command;

fn exact(arguments: &[&str]) {
    let answer = Command::new(env!("CARGO_BIN_EXE_caelum"))
        .args(["lab", "torture", "--json"])
        .args(arguments)
        .output()
        .expect("the program starts");
    let (out, told) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    assert!(answer.status.success(), "{out}\n{told}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("a report");
    assert!(report["events"].as_u64().is_some_and(|events| events > 500), "{report}");
    let kills: u64 = report["kills"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    assert!(kills > 0, "{report}");
}

#[test]
fn up_alone_loses_and_doubles_nothing() {
    exact(&["--set", "embedded", "--kills", "6", "--seed", "11"]);
}

#[test]
fn ingests_and_aggregators_on_postgres_and_nats_lose_and_double_nothing_and_outlive_an_absence_of_either() {
    exact(&["--set", "postgres-nats", "--kills", "12", "--absence", "6s", "--seed", "12"]);
}

#[test]
fn parts_on_three_nats_nodes_of_which_one_dies_and_comes_back_lose_and_double_nothing() {
    exact(&["--set", "nats-cluster", "--kills", "12", "--seed", "13"]);
}
