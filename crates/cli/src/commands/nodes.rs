//! `caelum nodes`: who is there and how they fare.

use anyhow::Result;
use reqwest::Method;
use serde_json::Value;

use crate::{arguments, client::Client, exit::Exit, output};

/// Prints the nodes.
pub async fn run(arguments: arguments::Client) -> Result<Exit> {
    let answer = Client::new(&arguments)?.ask(Method::GET, "/api/nodes?limit=500", None).await?;
    if arguments.json {
        output::print(&format!("{answer:#}\n"))?;
    } else {
        let rows: Vec<Vec<String>> = answer["nodes"].as_array().into_iter().flatten().map(row).collect();
        output::print(&output::table(&["NAME", "STATUS", "CPU", "MEMORY", "DISK", "LOAD", "SEEN"], &rows))?;
    }
    Ok(Exit::Fine)
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
}
