//! `caelum nodes`: who is there and how they fare, who is let in and who is shut out.

use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::counting::now_ms;
use crate::{
    arguments::{self, Nodes, NodesAction},
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Longest time a machine may take to join: the server gives up before.
const ADOPT_MAX: Duration = Duration::from_secs(75);

/// Lists the nodes, or admits a machine, or shuts a node out.
pub async fn run(arguments: Nodes) -> Result<Exit> {
    match arguments.action {
        None => list(&arguments.client).await,
        Some(NodesAction::Approve { machine, code, client }) => approve(&machine, &code, &client).await,
        Some(NodesAction::Revoke { node, client }) => revoke(&node, &client).await,
        Some(NodesAction::Drain { node, client }) => {
            change(&node, &json!({ "draining": true }), "takes no more work", &client).await
        }
        Some(NodesAction::Undrain { node, client }) => {
            change(&node, &json!({ "draining": false }), "takes work again", &client).await
        }
        Some(NodesAction::Tag { node, tags, group, client }) => {
            let tags: Vec<String> = tags.into_iter().filter(|tag| !tag.is_empty()).collect();
            let mut wish = json!({ "tags": tags });
            if let Some(group) = group {
                wish["group"] = if group.is_empty() { Value::Null } else { group.into() };
            }
            change(&node, &wish, "can be chosen by its new words", &client).await
        }
        Some(NodesAction::Mute { node, minutes, client }) => {
            let until_ms = (minutes > 0).then(|| now_ms() + i64::from(minutes) * 60_000);
            let what = if minutes > 0 { "is muted" } else { "is heard again" };
            change(&node, &json!({ "muted_until_ms": until_ms }), what, &client).await
        }
    }
}

async fn list(arguments: &arguments::Client) -> Result<Exit> {
    let answer = Client::new(arguments)?.ask(Method::GET, "/api/nodes?limit=500", None).await?;
    if arguments.json {
        output::print(&format!("{answer:#}\n"))?;
    } else {
        let rows: Vec<Vec<String>> = nodes(&answer).map(row).collect();
        output::print(&output::table(&["NAME", "STATUS", "CPU", "MEMORY", "DISK", "LOAD", "SEEN"], &rows))?;
    }
    Ok(Exit::Fine)
}

async fn approve(machine: &str, code: &str, arguments: &arguments::Client) -> Result<Exit> {
    let path = format!("/api/machines/{}/adopt", segment(machine));
    let body = json!({ "code": code });
    // The server answers when the machine has joined.
    let client = Client::new(arguments)?.with_patience(ADOPT_MAX);
    let answer = client.ask(Method::POST, &path, Some(&body)).await?;
    let text = match arguments.json {
        true => format!("{answer:#}\n"),
        false => format!("{machine} has joined\n"),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

async fn revoke(node: &str, arguments: &arguments::Client) -> Result<Exit> {
    let client = Client::new(arguments)?;
    let answer = client.ask(Method::GET, "/api/nodes?limit=500", None).await?;
    let id = id_of(node, &answer)?;
    let answer = client.ask(Method::DELETE, &format!("/api/nodes/{}", segment(&id)), None).await?;
    let text = match (arguments.json, answer["stored"].as_bool()) {
        (true, _) => format!("{answer:#}\n"),
        (false, Some(false)) => format!("{id} is shut out; the server could not write that down yet\n"),
        (false, _) => format!("{id} is shut out\n"),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

/// Changes what is said about a node.
async fn change(node: &str, wish: &Value, what: &str, arguments: &arguments::Client) -> Result<Exit> {
    let client = Client::new(arguments)?;
    let answer = client.ask(Method::GET, "/api/nodes?limit=500", None).await?;
    let id = id_of(node, &answer)?;
    let answer = client.ask(Method::PATCH, &format!("/api/nodes/{}", segment(&id)), Some(wish)).await?;
    let text = match arguments.json {
        true => format!("{answer:#}\n"),
        false => format!("{} {what}\n", output::plain(answer["name"].as_str().unwrap_or(&id))),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

/// The node that is meant: by its id, or by a name that only one has. One that never reported is not listed and
/// is meant by its id.
fn id_of(node: &str, answer: &Value) -> Result<String> {
    let id = |known: &Value| known["node_id"].as_str().unwrap_or_default().to_owned();
    if nodes(answer).any(|known| known["node_id"] == node) {
        return Ok(node.to_owned());
    }
    let named: Vec<String> = nodes(answer).filter(|known| known["name"] == node).map(id).collect();
    match &named[..] {
        [] => Ok(node.to_owned()),
        [one] => Ok(one.clone()),
        several => bail!("several nodes are called {node}; say which one: {}", several.join(", ")),
    }
}

fn nodes(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["nodes"].as_array().into_iter().flatten()
}

fn row(node: &Value) -> Vec<String> {
    let percent =
        |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.0} %"));
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    vec![
        text(&node["name"]),
        text(&node["status"]),
        percent(&node["cpu_usage"]),
        percent(&node["memory_usage"]),
        percent(&node["disk_usage"]),
        node["load_average"][0].as_f64().map_or_else(|| "-".to_owned(), |load| format!("{load:.2}")),
        node["last_heartbeat_age_ms"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |age| format!("{:.0} s ago", age / 1000.0)),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash_and_never_zero() {
        let node = json!({"name": "a", "status": "healthy", "cpu_usage": 12.4, "load_average": [0.5, 1, 1],
            "last_heartbeat_age_ms": 4200});
        assert_eq!(row(&node), ["a", "healthy", "12 %", "-", "-", "0.50", "4 s ago"]);
    }

    #[test]
    fn a_node_is_meant_by_its_id_or_by_a_name_that_only_one_has() {
        let answer = json!({"nodes": [{"node_id": "n-1", "name": "a"}, {"node_id": "n-2", "name": "b"},
            {"node_id": "n-3", "name": "b"}, {"node_id": "b2", "name": "n-1"}]});
        assert_eq!(id_of("n-1", &answer).expect("an id"), "n-1");
        assert_eq!(id_of("a", &answer).expect("a name"), "n-1");
        assert_eq!(id_of("n-9", &answer).expect("not listed"), "n-9");
        assert!(id_of("b", &answer).is_err());
    }
}
