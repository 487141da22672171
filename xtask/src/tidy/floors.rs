//! The floors of the house as data, compared with what cargo says.
//!
//! Arrows point down only, and two crates of one floor never know each other. Beside the floors stands a
//! table of outside crates that only some of ours may use: the shortest proof that, say, nobody but `web`
//! listens for HTTP is that nobody else has a server to do it with.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Finding;
use crate::command;

/// Each crate of the product with its floor, ground first.
const FLOORS: [(&str, u8); 10] = [
    ("caelum-model", 0),
    ("caelum-engine", 1),
    ("caelum-packager", 1),
    ("caelum-store", 2),
    ("caelum-queue", 2),
    ("caelum-drivers", 2),
    ("caelum-lab", 2),
    ("caelum-roles", 3),
    ("caelum-web", 4),
    ("caelum", 5),
];

/// Crates beside the house: what they may know of it, and whether tests of the house may know them.
const OUTBUILDINGS: [(&str, &[&str], bool); 2] =
    [("caelum-testkit", &["caelum-model", "caelum-engine", "caelum-lab"], true), ("xtask", &[], false)];

/// Outside crates that are a door to the outside world, and who may hold the key.
const DOORS: [(&str, &[&str], &str); 12] = [
    ("russh", &["caelum-drivers"], "SSH is a driver"),
    ("rusqlite", &["caelum-store", "caelum-queue"], "only the store and the queue keep files of records"),
    ("tokio-postgres", &["caelum-store"], "only the store speaks SQL to a server"),
    ("redis", &["caelum-store"], "coordination belongs to the store"),
    ("async-nats", &["caelum-queue"], "only the queue knows NATS"),
    ("axum", &["caelum-web"], "only web listens for HTTP"),
    ("tokio-tungstenite", &["caelum-drivers"], "links are a driver"),
    ("socket2", &["caelum-drivers"], "only drivers open sockets"),
    ("lettre", &["caelum-drivers"], "mail is a driver"),
    ("sysinfo", &["caelum-drivers"], "only drivers read the host"),
    ("clap", &["caelum"], "only the roof reads arguments"),
    ("toml", &["caelum"], "only the roof reads configuration files"),
];

/// What the pure floors may use beyond our own crates: nothing that can read a clock or do I/O.
const PURE: [(&str, &[&str]); 3] = [
    ("caelum-model", &["serde", "serde_json", "thiserror", "uuid", "utoipa"]),
    (
        "caelum-engine",
        &["serde", "serde_json", "postcard", "thiserror", "uuid", "foca", "rand", "hmac", "sha2"],
    ),
    (
        "caelum-packager",
        &["serde_json", "thiserror", "tar", "flate2", "rpm", "sha1", "sha2", "md-5", "base64"],
    ),
];

/// One dependency as cargo tells it.
struct Edge {
    from: String,
    to: String,
    is_for_tests: bool,
}

/// Compares the tables with `cargo metadata`.
pub fn check() -> Result<Vec<Finding>> {
    let text =
        command::read(&command::cargo(), &["metadata", "--no-deps", "--format-version", "1", "--locked"])?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let (crates, edges) = parse(&metadata).context("read cargo metadata: it has not the form we know")?;
    Ok(judge(&crates, &edges))
}

fn parse(metadata: &Value) -> Option<(Vec<String>, Vec<Edge>)> {
    let (mut crates, mut edges) = (Vec::new(), Vec::new());
    for package in metadata["packages"].as_array()? {
        let from = package["name"].as_str()?;
        crates.push(from.to_owned());
        for dependency in package["dependencies"].as_array()? {
            edges.push(Edge {
                from: from.to_owned(),
                to: dependency["name"].as_str()?.to_owned(),
                is_for_tests: dependency["kind"].as_str() == Some("dev"),
            });
        }
    }
    Some((crates, edges))
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor)
}

fn judge(crates: &[String], edges: &[Edge]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in crates {
        if floor(name).is_none() && !OUTBUILDINGS.iter().any(|(known, ..)| known == name) {
            findings.push(Finding::fault(name, "stands on no floor; add it to the table of floors"));
        }
    }
    for Edge { from, to, is_for_tests } in edges {
        let place = format!("{from} -> {to}");
        match (floor(from), floor(to)) {
            (Some(above), Some(below)) if below > above => {
                findings.push(Finding::fault(&place, "points up; arrows point down only"));
            }
            (Some(above), Some(below)) if below == above => {
                findings.push(Finding::fault(&place, "crates of one floor never know each other"));
            }
            _ => {}
        }
        if let Some((_, may_know, _)) = OUTBUILDINGS.iter().find(|(known, ..)| known == from)
            && floor(to).is_some()
            && !may_know.contains(&to.as_str())
        {
            findings.push(Finding::fault(
                &place,
                "what stands beside the house knows no more of it than its table says",
            ));
        }
        if let Some((_, _, for_tests)) = OUTBUILDINGS.iter().find(|(known, ..)| known == to)
            && !(*is_for_tests && *for_tests)
        {
            findings.push(Finding::fault(&place, "tools for tests are dev-dependencies only"));
        }
        if let Some((_, keepers, why)) = DOORS.iter().find(|(door, ..)| door == to)
            && !keepers.contains(&from.as_str())
            && !is_for_tests
        {
            findings.push(Finding::fault(&place, *why));
        }
        if let Some((_, allowed)) = PURE.iter().find(|(pure, _)| pure == from)
            && !is_for_tests
            && floor(to).is_none()
            && !allowed.contains(&to.as_str())
        {
            findings.push(Finding::fault(&place, "a pure floor uses only what is on its list"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(from: &str, to: &str, is_for_tests: bool) -> usize {
        judge(&[], &[Edge { from: from.to_owned(), to: to.to_owned(), is_for_tests }]).len()
    }

    #[test]
    fn an_arrow_points_down_only() {
        assert_eq!(findings("caelum-roles", "caelum-store", false), 0);
        assert_eq!(findings("caelum-store", "caelum-roles", false), 1);
        assert_eq!(findings("caelum-store", "caelum-queue", false), 1);
        assert_eq!(findings("caelum-store", "caelum-queue", true), 1);
    }

    #[test]
    fn tools_for_tests_are_used_by_tests_only() {
        assert_eq!(findings("caelum", "caelum-testkit", true), 0);
        assert_eq!(findings("caelum", "caelum-testkit", false), 1);
        assert_eq!(findings("caelum-testkit", "caelum-store", false), 1);
        assert_eq!(findings("caelum", "xtask", true), 1);
    }

    #[test]
    fn a_door_is_opened_by_its_keeper_only() {
        assert_eq!(findings("caelum-web", "axum", false), 0);
        assert_eq!(findings("caelum-roles", "axum", false), 1);
        assert_eq!(findings("caelum-drivers", "axum", true), 0);
    }

    #[test]
    fn a_pure_floor_uses_only_its_list() {
        assert_eq!(findings("caelum-engine", "serde", false), 0);
        assert_eq!(findings("caelum-engine", "tokio", false), 1);
        assert_eq!(findings("caelum-engine", "proptest", true), 0);
    }

    #[test]
    fn a_crate_without_a_floor_is_a_fault() {
        assert_eq!(judge(&["caelum-attic".to_owned()], &[]).len(), 1);
    }
}
