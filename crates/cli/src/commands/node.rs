//! `caelum node`: everything that is known of one node.

use anyhow::Result;
use caelum_engine::timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::cluster::{list, loss, percent, rtt, text};
use crate::{
    arguments::Node,
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Shows one node.
pub async fn run(arguments: Node) -> Result<Exit> {
    let client = Client::new(&arguments.client)?;
    let mut node = client.ask(Method::GET, &format!("/api/nodes/{}", segment(&arguments.node)), None).await?;
    if arguments.client.json {
        output::print(&format!("{node:#}\n"))?;
        return Ok(Exit::Fine);
    }
    let topology = client.ask(Method::GET, "/api/cluster/topology", None).await?;
    node["links"] = links(&topology, &node["node_id"]);
    output::print(&described(&node))?;
    Ok(Exit::Fine)
}

/// The links of a node, each with the name of its other end.
fn links(topology: &Value, node_id: &Value) -> Value {
    let name = |id: &Value| {
        let place = list(topology, "nodes").find(|place| place["id"] == *id);
        place.map_or_else(|| id.clone(), |place| place["label"].clone())
    };
    let links = list(topology, "edges").filter_map(|edge| {
        let other = match (edge["from"] == *node_id, edge["to"] == *node_id) {
            (true, _) => &edge["to"],
            (_, true) => &edge["from"],
            _ => return None,
        };
        Some(json!({"to": name(other), "rtt_ms": edge["rtt_ms"], "loss_pct": edge["loss_pct"]}))
    });
    links.collect()
}

fn described(node: &Value) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let identity = &node["identity"];
    rows.push(("name", text(&node["name"])));
    rows.push(("id", text(&node["node_id"])));
    rows.push(("host", text(&node["hostname"])));
    rows.push(("addresses", words(&identity["addresses"])));
    rows.push((
        "system",
        format!("{} {} {}", text(&identity["os"]), text(&identity["kernel"]), text(&identity["arch"])),
    ));
    rows.push(("processor", format!("{}, {} cores", text(&identity["cpu"]), number(&identity["cpu_cores"]))));
    rows.push(("roles", words(&node["roles"])));
    rows.push(("version", text(&node["version"])));
    rows.push(("ceiling", text(&node["ceiling"])));
    let joined = node["joined_at_ms"].as_i64().map_or_else(|| "-".to_owned(), timestamp::iso);
    rows.push(("joined", joined));
    rows.push(("status", text(&node["status"])));
    let issues = list(node, "issues")
        .map(|issue| ("", format!("{}: {}", text(&issue["severity"]), text(&issue["message"]))));
    rows.extend(issues);
    rows.push(("liveness", text(&node["liveness"])));
    let age = node["last_heartbeat_age_ms"].as_f64();
    rows.push(("seen", age.map_or_else(|| "-".to_owned(), |age| format!("{:.0} s ago", age / 1000.0))));
    rows.push(("cpu", percent(&node["cpu_usage"])));
    rows.push(("memory", percent(&node["memory_usage"])));
    rows.push(("disk", percent(&node["disk_usage"])));
    let loads = list(node, "load_average").filter_map(Value::as_f64).map(|load| format!("{load:.2}"));
    rows.push(("load", or_dash(loads.collect(), " ")));
    rows.push(("processes", number(&node["process_count"])));
    rows.push(("up", node["uptime_seconds"].as_u64().map_or_else(|| "-".to_owned(), lasting)));
    rows.push(("buffered", format!("{} samples", number(&node["buffered_points"]))));
    let services = list(node, "services").map(|service| {
        format!(
            "{} ({}, port {}, {})",
            text(&service["name"]),
            text(&service["type"]),
            number(&service["port"]),
            text(&service["status"])
        )
    });
    several(&mut rows, "services", services.collect());
    let links = list(node, "links").map(|link| {
        format!(
            "{}: round trip {}, loss {}",
            text(&link["to"]),
            rtt(&link["rtt_ms"]),
            loss(&link["loss_pct"])
        )
    });
    several(&mut rows, "links", links.collect());
    let lines = rows.iter().map(|(name, value)| format!("{name:<10}  {}", output::plain(value)));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

/// One value a line, the name before the first.
fn several(rows: &mut Vec<(&'static str, String)>, name: &'static str, values: Vec<String>) {
    if values.is_empty() {
        rows.push((name, "-".to_owned()));
    }
    rows.extend(values.into_iter().enumerate().map(|(at, value)| (if at == 0 { name } else { "" }, value)));
}

fn words(value: &Value) -> String {
    or_dash(value.as_array().into_iter().flatten().map(text).collect(), ", ")
}

fn or_dash(words: Vec<String>, between: &str) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(between) }
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn lasting(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_shown_from_whichever_end_it_was_measured() {
        let topology = json!({
            "nodes": [{"id": "n1", "label": "one"}, {"id": "n2", "label": "two"}],
            "edges": [
                {"from": "n1", "to": "n2", "rtt_ms": 1.5, "loss_pct": 0.0},
                {"from": "n3", "to": "n1", "rtt_ms": null, "loss_pct": null},
                {"from": "n2", "to": "n3", "rtt_ms": 9.0, "loss_pct": 0.0},
            ],
        });
        let mut node = json!({"node_id": "n1", "name": "one"});
        node["links"] = links(&topology, &json!("n1"));
        let shown = described(&node);
        assert!(
            shown.contains(
                "links       two: round trip 1.5 ms, loss 0.0 %\n            n3: round trip -, loss -\n"
            ),
            "{shown}"
        );
    }

    #[test]
    fn a_node_of_which_nothing_is_known_is_all_dashes() {
        let shown = described(&json!({"node_id": "n1"}));
        assert!(shown.contains("id          n1\n"), "{shown}");
        assert!(shown.contains("load        -\n"), "{shown}");
        assert!(!shown.contains(" 0"), "{shown}");
    }

    #[test]
    fn a_time_since_the_start_is_short() {
        assert_eq!(lasting(59), "0 min");
        assert_eq!(lasting(3_700), "1 h 1 min");
        assert_eq!(lasting(90_000), "1 d 1 h");
    }
}
