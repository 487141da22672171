//! `caelum alerts`: what is the matter with nodes, and saying that one looks into it or that it is over.

use anyhow::Result;
use reqwest::Method;
use serde_json::Value;

use super::{
    cluster::{list, text},
    counting::{age, now_ms},
};
use crate::{
    arguments::{self, Alerts, AlertsAction},
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Lists alerts, or answers one. An alert that stands is not a failure of this command.
pub async fn run(arguments: Alerts) -> Result<Exit> {
    match arguments.action {
        None => show("/api/nodes/alerts?limit=500&status=open", &arguments.client).await,
        Some(AlertsAction::List { status, severity, node, client }) => {
            let mut path = "/api/nodes/alerts?limit=500".to_owned();
            let status = (status != "all").then_some(status);
            for (name, value) in [("status", status), ("severity", severity), ("node_id", node)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", segment(&value)));
                }
            }
            show(&path, &client).await
        }
        Some(AlertsAction::Ack { id, client }) => answer(&id, "acknowledge", &client).await,
        Some(AlertsAction::Resolve { id, client }) => answer(&id, "resolve", &client).await,
    }
}

async fn show(path: &str, arguments: &arguments::Client) -> Result<Exit> {
    let answer = Client::new(arguments)?.ask(Method::GET, path, None).await?;
    let text = if arguments.json { format!("{answer:#}\n") } else { listed(&answer, now_ms()) };
    output::print(&text)?;
    Ok(Exit::Fine)
}

async fn answer(id: &str, what: &str, arguments: &arguments::Client) -> Result<Exit> {
    let path = format!("/api/nodes/alerts/{}/{what}", segment(id));
    let alert = Client::new(arguments)?.ask(Method::POST, &path, None).await?;
    let said = match arguments.json {
        true => format!("{alert:#}\n"),
        false => format!(
            "{}: {} is {}\n",
            output::plain(&text(&alert["node_name"])),
            output::plain(&text(&alert["message"])),
            output::plain(&text(&alert["status"]))
        ),
    };
    output::print(&said)?;
    Ok(Exit::Fine)
}

fn listed(answer: &Value, now_ms: i64) -> String {
    let rows: Vec<Vec<String>> = list(answer, "alerts").map(|alert| row(alert, now_ms)).collect();
    if rows.is_empty() {
        return "No alert.\n".to_owned();
    }
    output::table(&["ID", "STATUS", "SEVERITY", "NODE", "WHAT", "LASTED", "BY"], &rows)
}

fn row(alert: &Value, now_ms: i64) -> Vec<String> {
    let until_ms = alert["resolved_at_ms"].as_i64().unwrap_or(now_ms);
    let lasted = alert["raised_at_ms"].as_i64().map_or_else(|| "-".to_owned(), |at| age(until_ms - at));
    vec![
        text(&alert["alert_id"]),
        text(&alert["status"]),
        text(&alert["severity"]),
        text(&alert["node_name"]),
        text(&alert["message"]),
        lasted,
        text(&alert["acknowledged_by"]),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alert_says_how_long_it_has_stood_and_who_looks_into_it() {
        let alert = json!({"alert_id": "a1", "status": "acknowledged", "severity": "critical",
            "node_name": "box", "message": "CPU at 97 %", "raised_at_ms": 0, "resolved_at_ms": null,
            "acknowledged_by": "ops"});
        let row = row(&alert, 3 * 3_600_000);
        assert_eq!(row, ["a1", "acknowledged", "critical", "box", "CPU at 97 %", "3 h", "ops"]);
        assert_eq!(listed(&json!({"alerts": []}), 0), "No alert.\n");
    }
}
