//! `caelum discover`, `machines`, `topology` and `connect`: which machines there are and how they are linked.

use std::{
    cmp::Ordering,
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use caelum_engine::timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    arguments::{self, Connect, Discover},
    client::Client,
    exit::Exit,
    output,
};

/// What a discovery may take beyond the time that it listens.
const DISCOVER_MORE: Duration = Duration::from_secs(15);

/// Asks the network who is there: what happens line by line, then the machines.
pub async fn discover(arguments: Discover) -> Result<Exit> {
    let wait_ms = arguments.wait.unsigned_abs();
    let client =
        Client::new(&arguments.client)?.with_patience(Duration::from_millis(wait_ms) + DISCOVER_MORE);
    let body = json!({ "wait_ms": wait_ms, "sweep": arguments.sweep });
    let is_told = !arguments.client.json;
    let mut done = None;
    let each = |name: &str, event: Value| match name {
        "line" if is_told => output::print(&line(&event)),
        "done" => {
            done = Some(event);
            Ok(())
        }
        _ => Ok(()),
    };
    client.follow(Method::POST, "/api/cluster/discover", Some(&body), each).await?;
    let done = done.context("hear the end of the discovery: the server ended it early")?;
    if arguments.client.json {
        output::print(&format!("{done:#}\n"))?;
    } else {
        let found = list(&done, "discovered_machines").count();
        output::print(&match found {
            0 => "\nno machine was heard; `caelum doctor` says what may be in the way\n".to_owned(),
            _ => format!("\n{}", machine_table(&done, "discovered_machines")),
        })?;
    }
    Ok(Exit::Fine)
}

/// Lists the machines that were heard.
pub async fn machines(arguments: arguments::Client) -> Result<Exit> {
    let answer = Client::new(&arguments)?.ask(Method::GET, "/api/discovered-machines", None).await?;
    let text = match arguments.json {
        true => format!("{answer:#}\n"),
        false if answer["discovery"] == "off" => {
            format!(
                "{}discovery is off on this server (beacon.enabled)\n",
                machine_table(&answer, "machines")
            )
        }
        false => machine_table(&answer, "machines"),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

/// Shows nodes and links.
pub async fn topology(arguments: arguments::Client) -> Result<Exit> {
    let answer = Client::new(&arguments)?.ask(Method::GET, "/api/cluster/topology", None).await?;
    let text = match arguments.json {
        true => format!("{answer:#}\n"),
        false => drawn(&answer),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

/// Dials a machine.
pub async fn connect(arguments: Connect) -> Result<Exit> {
    let (host, port) = arguments.machine;
    let body = match port {
        Some(port) => json!({ "host": host, "port": port }),
        None => json!({ "host": host }),
    };
    let answer =
        Client::new(&arguments.client)?.ask(Method::POST, "/api/cluster/connect", Some(&body)).await?;
    let message = output::plain(answer["message"].as_str().unwrap_or_default());
    let is_connected = answer["success"] == true;
    match (arguments.client.json, is_connected) {
        (true, _) => output::print(&format!("{answer:#}\n"))?,
        (false, true) => output::print(&format!("{message}\n"))?,
        (false, false) => bail!("{host} was not connected: {message}"),
    }
    Ok(if is_connected { Exit::Fine } else { Exit::Failed })
}

/// A line of a discovery's log: the time of day in UTC, and what happened.
fn line(event: &Value) -> String {
    let at = timestamp::iso(event["at_ms"].as_i64().unwrap_or_default());
    let time = at.get(11..23).unwrap_or_default();
    format!("{time}  {}\n", output::plain(event["text"].as_str().unwrap_or_default()))
}

fn machine_table(answer: &Value, name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let rows: Vec<Vec<String>> = list(answer, name).map(|machine| machine_row(machine, now)).collect();
    output::table(&["NAME", "ADDRESS", "KIND", "CLUSTER", "STATE", "SEEN"], &rows)
}

fn machine_row(machine: &Value, now: f64) -> Vec<String> {
    let cluster = match text(&machine["cluster_name"]) {
        name if name == "-" => text(&machine["cluster_id"]),
        name => name,
    };
    vec![
        text(&machine["hostname"]),
        text(&machine["sender_ip"]),
        text(&machine["type"]),
        cluster,
        text(&machine["state"]),
        machine["last_seen"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |seen| format!("{:.0} s ago", (now - seen).max(0.0))),
    ]
}

/// Nodes, then links, the slowest first and those that were not measured last.
fn drawn(answer: &Value) -> String {
    let nodes: Vec<Vec<String>> = list(answer, "nodes")
        .map(|node| {
            vec![
                text(&node["label"]),
                text(&node["type"]),
                text(&node["status"]),
                text(&node["health"]),
                text(&node["address"]),
            ]
        })
        .collect();
    let labels: HashMap<&str, String> =
        list(answer, "nodes").filter_map(|node| Some((node["id"].as_str()?, text(&node["label"])))).collect();
    let label = |id: &Value| labels.get(id.as_str().unwrap_or_default()).cloned().unwrap_or_else(|| text(id));
    let mut edges: Vec<&Value> = list(answer, "edges").collect();
    edges.sort_by(|a, b| slower_first(a["rtt_ms"].as_f64(), b["rtt_ms"].as_f64()));
    let links: Vec<Vec<String>> = edges
        .into_iter()
        .map(|edge| {
            vec![
                label(&edge["from"]),
                label(&edge["to"]),
                rtt(&edge["rtt_ms"]),
                loss(&edge["loss_pct"]),
                text(&edge["status"]),
            ]
        })
        .collect();
    let nodes = output::table(&["NODE", "KIND", "STATUS", "HEALTH", "ADDRESS"], &nodes);
    let links = output::table(&["FROM", "TO", "ROUND TRIP", "LOSS", "STATUS"], &links);
    format!("{nodes}\n{links}")
}

fn slower_first(a: Option<f64>, b: Option<f64>) -> Ordering {
    b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0))
}

/// The objects of a list.
pub(super) fn list<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    answer[name].as_array().into_iter().flatten()
}

/// A text, or a dash where there is none.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "-".to_owned(),
    }
}

/// A share, or a dash.
pub(super) fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.0} %"))
}

/// A round trip, or a dash.
pub(super) fn rtt(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1} ms"))
}

/// A loss, or a dash.
pub(super) fn loss(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1} %"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_a_row_and_what_is_not_known_is_a_dash() {
        let machine = json!({"hostname": "a", "sender_ip": "10.0.0.1", "type": "caelum", "cluster_name": "",
            "cluster_id": "c", "state": "joined", "last_seen": 97.6});
        assert_eq!(machine_row(&machine, 100.0), ["a", "10.0.0.1", "caelum", "c", "joined", "2 s ago"]);
        assert_eq!(machine_row(&json!({}), 100.0), ["-"; 6]);
    }

    #[test]
    fn links_are_named_by_their_ends_and_the_slowest_is_first() {
        let edge =
            |from, to, rtt: Option<f64>| json!({"from": from, "to": to, "status": "up", "rtt_ms": rtt});
        let answer = json!({
            "nodes": [{"id": "n1", "label": "one"}, {"id": "n2", "label": "two"}],
            "edges": [edge("n1", "n2", None), edge("n2", "n3", Some(0.04)), edge("n1", "n3", Some(12.0))],
        });
        let drawn = drawn(&answer);
        let (_, links) = drawn.split_once("\n\n").expect("two tables");
        let rows: Vec<Vec<&str>> =
            links.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["one", "n3", "12.0", "ms", "-", "up"]);
        assert_eq!(rows[1], ["two", "n3", "0.0", "ms", "-", "up"]);
        assert_eq!(rows[2], ["one", "two", "-", "-", "up"]);
    }

    #[test]
    fn a_line_begins_with_the_time_of_day_and_cannot_steer_the_terminal() {
        let event = json!({"at_ms": 3_723_004, "text": "heard a\u{1b}[31m"});
        assert_eq!(line(&event), "01:02:03.004  heard a\u{fffd}[31m\n");
    }
}
