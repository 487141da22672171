//! `caelum pipeline` and `caelum probes`: whether everything that was accepted is counted.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use caelum_engine::timestamp;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    cluster::{list, text},
    targets::words,
};
use crate::{
    arguments::{self, Probes, ProbesCommand},
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Shows how the pipeline fares. A degraded one is not a failure of this command.
pub async fn pipeline(arguments: arguments::Client) -> Result<Exit> {
    let answer = Client::new(&arguments)?.ask(Method::GET, "/api/pipeline", None).await?;
    output::print(&match arguments.json {
        true => format!("{answer:#}\n"),
        false => shown(&answer),
    })?;
    Ok(Exit::Fine)
}

/// Lists the probes, or shows one.
pub async fn probes(arguments: Probes) -> Result<Exit> {
    if let Some(command) = arguments.command {
        return change_probe(command).await;
    }
    let client = Client::new(&arguments.client)?;
    let path = match &arguments.probe {
        None => "/api/probes".to_owned(),
        Some(probe) => format!("/api/probes/{}", segment(probe)),
    };
    let answer = client.ask(Method::GET, &path, None).await?;
    output::print(&match (arguments.client.json, &arguments.probe) {
        (true, _) => format!("{answer:#}\n"),
        (false, None) => {
            let rows: Vec<Vec<String>> =
                list(&answer, "probes").map(|probe| probe_row(probe, now_ms())).collect();
            output::table(&["PROBE", "COUNTED", "MISSING", "TOO LATE", "NEWEST"], &rows)
        }
        (false, Some(_)) => one_probe(&answer),
    })?;
    Ok(Exit::Fine)
}

/// Sets where a probe stands and what it takes part in.
async fn change_probe(command: ProbesCommand) -> Result<Exit> {
    let ProbesCommand::Change { probe, group, tags, mesh, enabled, client } = command;
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
    set("group", group.map(|group| if group.is_empty() { Value::Null } else { json!(group) }));
    set("tags", words(&tags));
    set("mesh", mesh.map(|mesh| json!(mesh == "on")));
    set("enabled", enabled.map(|enabled| json!(enabled == "on")));
    if body.is_empty() {
        bail!("nothing is to be changed: `caelum probes change --help` lists what can be");
    }
    let path = format!("/api/probes/{}", segment(&probe));
    let answer = Client::new(&client)?.ask(Method::PATCH, &path, Some(&Value::Object(body))).await?;
    output::print(&match client.json {
        true => format!("{answer:#}\n"),
        false => format!("{probe} is changed\n"),
    })?;
    Ok(Exit::Fine)
}

/// How the pipeline fares, the most important first.
fn shown(answer: &Value) -> String {
    let mut out = format!("{}\n", sentence(answer));
    for problem in list(answer, "problems").skip(1).filter_map(Value::as_str) {
        out.push_str(&format!("{}\n", capital(&output::plain(problem))));
    }
    let (ingest, queue) = (&answer["ingest"], &answer["queue"]);
    out.push_str(&format!(
        "\nthis server took in {} events, {} of them twice; {} were wrong and {} were turned away\n",
        count(&ingest["accepted"]),
        count(&ingest["duplicate"]),
        count(&ingest["rejected"]),
        count(&ingest["turned_away"]),
    ));
    out.push_str(&format!(
        "the queue holds {} records with about {} events\n",
        count(&queue["records"]),
        count(&queue["events"])
    ));
    if answer["reads_from"] == "replica" {
        let lag =
            answer["reads_lag_ms"].as_i64().map_or_else(String::new, |lag| format!(", {lag} ms behind"));
        out.push_str(&format!("answers about the past come from a replica{lag}\n"));
    }
    let partitions: Vec<Vec<String>> = list(answer, "partitions")
        .map(|partition| {
            let numbers = ["uncounted_records", "counted", "duplicates", "too_late"];
            let mut row = vec![count(&partition["partition"]), text(&partition["owner"])];
            row.extend(numbers.map(|name| count(&partition[name])));
            row
        })
        .collect();
    let headings = ["PARTITION", "OWNER", "WAITING", "COUNTED", "DUPLICATES", "TOO LATE"];
    out.push_str(&format!("\n{}", output::table(&headings, &partitions)));
    let aggregators: Vec<Vec<String>> = list(answer, "aggregators")
        .map(|aggregator| {
            let numbers = ["partitions", "windows", "counted"];
            let mut row = vec![text(&aggregator["owner"]), text(&aggregator["host"])];
            row.extend(numbers.map(|name| count(&aggregator[name])));
            row
        })
        .collect();
    let headings = ["AGGREGATOR", "HOST", "PARTITIONS", "WINDOWS", "COUNTED"];
    out.push_str(&format!("\n{}", output::table(&headings, &aggregators)));
    let letters: Vec<Vec<String>> = list(answer, "dead_letters")
        .map(|letters| vec![text(&letters["reason"]), text(&letters["state"]), count(&letters["count"])])
        .collect();
    if !letters.is_empty() {
        out.push_str(&format!("\n{}", output::table(&["KEPT ASIDE", "STATE", "EVENTS"], &letters)));
    }
    out
}

/// The state of the pipeline in one sentence: what is wrong first, else what is counted.
fn sentence(answer: &Value) -> String {
    if let Some(problem) = list(answer, "problems").find_map(Value::as_str) {
        return format!("{}.", capital(output::plain(problem).trim_end_matches('.')));
    }
    let waiting: u64 =
        list(answer, "partitions").filter_map(|partition| partition["uncounted_records"].as_u64()).sum();
    let counted: u64 = list(answer, "partitions").filter_map(|partition| partition["counted"].as_u64()).sum();
    // Unknown where no probe numbers its events.
    let newest = match (answer["newest_event_ms"].as_i64(), answer["timestamp"].as_i64()) {
        (Some(newest), Some(now)) => format!("; the newest event is {} old", age(now - newest)),
        _ => String::new(),
    };
    match waiting {
        0 if counted == 0 => "No event has come in yet.".to_owned(),
        0 => format!("Everything that was accepted is counted{newest}."),
        1 => format!("1 record waits to be counted{newest}."),
        waiting => format!("{waiting} records wait to be counted{newest}."),
    }
}

fn probe_row(probe: &Value, now_ms: i64) -> Vec<String> {
    vec![
        text(&probe["client_id"]),
        count(&probe["counted"]),
        count(&probe["missing"]),
        count(&probe["too_late"]),
        probe["last_event_ms"]
            .as_i64()
            .map_or_else(|| "-".to_owned(), |newest| format!("{} ago", age(now_ms - newest))),
    ]
}

/// How complete what a probe sent is, and where it is not.
fn one_probe(answer: &Value) -> String {
    let missing = answer["missing"].as_u64().unwrap_or_default();
    let through = answer["last_event_ms"].as_i64().map_or_else(|| "-".to_owned(), timestamp::iso);
    let name = text(&answer["client_id"]);
    let (events, are) = if missing == 1 { ("event", "is") } else { ("events", "are") };
    let state = match missing {
        0 => format!("{name} is complete through {through}: {} events", count(&answer["counted"])),
        _ => format!(
            "{name} is counted through {through}: {} events, and {missing} {events} {are} missing",
            count(&answer["counted"])
        ),
    };
    let mut out = format!("{}\n", output::plain(&state));
    let gaps: Vec<Vec<String>> = list(answer, "gaps")
        .map(|gap| {
            let at = |name: &str| gap[name].as_i64().map_or_else(|| "-".to_owned(), timestamp::iso);
            let numbers = match gap["first"] == gap["last"] {
                true => count(&gap["first"]),
                false => format!("{} to {}", count(&gap["first"]), count(&gap["last"])),
            };
            vec![count(&gap["events"]), at("from_ms"), at("to_ms"), numbers]
        })
        .collect();
    if !gaps.is_empty() {
        out.push_str(&format!("\n{}", output::table(&["MISSING", "AFTER", "BEFORE", "NUMBERS"], &gaps)));
    }
    let minutes: Vec<Vec<String>> = list(answer, "minutes")
        .filter(|minute| minute["missing"] != 0 || minute["late_merged"] != 0)
        .map(|minute| {
            let start = minute["window_start_ms"].as_i64().map_or_else(|| "-".to_owned(), timestamp::iso);
            vec![start, count(&minute["counted"]), count(&minute["missing"]), count(&minute["late_merged"])]
        })
        .collect();
    if !minutes.is_empty() {
        out.push_str(&format!("\n{}", output::table(&["MINUTE", "COUNTED", "MISSING", "LATE"], &minutes)));
    }
    out
}

/// A whole number, or a dash.
fn count(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// `4 s`, `38 min`, `3 h`, `12 days`.
pub(super) fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Now, by this machine's clock.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_the_sentence_and_what_waits_comes_after() {
        let healthy = json!({"problems": [], "partitions": [{"uncounted_records": 0, "counted": 5}],
            "newest_event_ms": 57_000, "timestamp": 60_000});
        assert_eq!(
            sentence(&healthy),
            "Everything that was accepted is counted; the newest event is 3 s old."
        );
        let behind = json!({"problems": [], "partitions": [{"uncounted_records": 7}]});
        assert_eq!(sentence(&behind), "7 records wait to be counted.");
        let degraded =
            json!({"problems": ["no aggregator runs: events are kept and not counted", "another"]});
        assert_eq!(sentence(&degraded), "No aggregator runs: events are kept and not counted.");
        assert!(shown(&degraded).contains("\nAnother\n"));
    }

    #[test]
    fn a_probe_with_gaps_says_how_much_is_missing_and_between_which_moments() {
        let probe = json!({"client_id": "p-1", "counted": 90, "missing": 30, "last_event_ms": 3_600_000,
            "gaps": [{"first": 5, "last": 34, "events": 30, "from_ms": 60_000, "to_ms": 120_000}],
            "minutes": [{"window_start_ms": 0, "counted": 9, "missing": 0, "late_merged": 0},
                {"window_start_ms": 60_000, "counted": 1, "missing": 30, "late_merged": 2}]});
        let shown = one_probe(&probe);
        assert!(shown.starts_with("p-1 is counted through 1970-01-01T01:00:00"), "{shown}");
        assert!(shown.contains("30 events are missing\n"), "{shown}");
        assert!(shown.contains("5 to 34"), "{shown}");
        assert_eq!(shown.lines().filter(|line| line.starts_with("1970")).count(), 1, "{shown}");
        let complete = json!({"client_id": "p-1", "counted": 90, "missing": 0, "last_event_ms": 0});
        assert!(one_probe(&complete).starts_with("p-1 is complete through "));
    }

    #[test]
    fn what_is_not_known_of_a_probe_is_a_dash_and_never_zero() {
        assert_eq!(probe_row(&json!({"client_id": "p"}), 0), ["p", "-", "-", "-", "-"]);
        let probe = json!({"client_id": "p", "counted": 3, "missing": 0, "too_late": 1, "last_event_ms": 0});
        assert_eq!(probe_row(&probe, 61_000), ["p", "3", "0", "1", "1 min ago"]);
    }
}
