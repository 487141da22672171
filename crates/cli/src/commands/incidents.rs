//! `caelum incidents`: what is wrong, where, and since when.

use anyhow::Result;
use caelum_engine::timestamp;
use reqwest::Method;
use serde_json::Value;

use super::{
    cluster::{list, text},
    counting::{age, now_ms},
};
use crate::{
    arguments::{IncidentFilter, Incidents, IncidentsCommand},
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Lists incidents, or shows one. An open incident is not a failure of this command.
pub async fn run(arguments: Incidents) -> Result<Exit> {
    let (client, json, answer) = match arguments.command {
        Some(IncidentsCommand::Show { id, client }) => {
            let path = format!("/api/incidents/{}", segment(&id));
            (None, client.json, Client::new(&client)?.ask(Method::GET, &path, None).await?)
        }
        Some(IncidentsCommand::List(filter)) => asked(filter).await?,
        None => asked(arguments.filter).await?,
    };
    output::print(&match (json, client) {
        (true, _) => format!("{answer:#}\n"),
        (false, Some(())) => listed(&answer, now_ms()),
        (false, None) => shown(&answer, now_ms()),
    })?;
    Ok(Exit::Fine)
}

async fn asked(filter: IncidentFilter) -> Result<(Option<()>, bool, Value)> {
    let mut path = "/api/incidents?limit=500".to_owned();
    for (name, value) in
        [("status", &filter.status), ("label", &filter.label), ("entity_type", &filter.entity_type)]
    {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    let answer = Client::new(&filter.client)?.ask(Method::GET, &path, None).await?;
    Ok((Some(()), filter.client.json, answer))
}

fn listed(answer: &Value, now_ms: i64) -> String {
    let rows: Vec<Vec<String>> = list(answer, "incidents").map(|incident| row(incident, now_ms)).collect();
    if rows.is_empty() {
        return "No incident.\n".to_owned();
    }
    output::table(&["ID", "STATE", "SEVERITY", "WHAT", "WHERE", "LASTED", "PAIRS", "SURE"], &rows)
}

fn row(incident: &Value, now_ms: i64) -> Vec<String> {
    let opened = incident["opened_window_ms"].as_i64().unwrap_or(now_ms);
    let closed = incident["closed_window_ms"].as_i64();
    vec![
        text(&incident["id"]),
        if closed.is_some() { "over" } else { "open" }.to_owned(),
        text(&incident["severity"]),
        text(&incident["label"]),
        text(&incident["place"]),
        age(closed.unwrap_or(now_ms) - opened),
        format!("{} of {}", number(&incident["pairs_touched"]), number(&incident["pairs_observed"])),
        incident["confidence"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |sure| format!("{:.0} %", sure * 100.0)),
    ]
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{}", (number * 100.0).round() / 100.0))
}

/// One incident: its sentence, its numbers, its pairs and its history.
fn shown(incident: &Value, now_ms: i64) -> String {
    let at = |value: &Value| value.as_i64().map_or_else(|| "-".to_owned(), timestamp::iso);
    let mut out = format!("{}\n\n", output::plain(&text(&incident["sentence"])));
    let state = match incident["closed_window_ms"].as_i64() {
        Some(_) => format!("over since {}", at(&incident["closed_window_ms"])),
        None => {
            let opened = incident["opened_window_ms"].as_i64().unwrap_or(now_ms);
            format!("open for {}", age(now_ms - opened))
        }
    };
    out.push_str(&format!(
        "{}, {state}, opened {}; {} of {} pairs\n",
        output::plain(&text(&incident["severity"])),
        at(&incident["opened_window_ms"]),
        number(&incident["pairs_touched"]),
        number(&incident["pairs_observed"]),
    ));
    let evidence: Vec<Vec<String>> = list(incident, "evidence")
        .map(|known| {
            let measure = known["measure"].as_str().unwrap_or("failures, %").to_owned();
            let mut row = vec![measure];
            row.extend(["before", "during", "after", "z"].map(|name| number(&known[name])));
            row.push(format!("{} of {}", number(&known["pairs"]), number(&known["pairs_observed"])));
            row
        })
        .collect();
    if !evidence.is_empty() {
        let headings = ["MEASURE", "BEFORE", "DURING", "AFTER", "DEVIATIONS", "PAIRS"];
        out.push_str(&format!("\n{}", output::table(&headings, &evidence)));
    }
    let pairs: Vec<Vec<String>> = list(incident, "pairs")
        .map(|pair| vec![text(&pair["client_id"]), text(&pair["target"]), text(&pair["family"])])
        .collect();
    if !pairs.is_empty() {
        out.push_str(&format!("\n{}", output::table(&["PROBE", "TARGET", "IP"], &pairs)));
    }
    let steps: Vec<Vec<String>> = list(incident, "steps")
        .map(|step| vec![at(&step["window_start_ms"]), text(&step["kind"]), text(&step["text"])])
        .collect();
    if !steps.is_empty() {
        out.push_str(&format!("\n{}", output::table(&["WHEN", "STEP", "WHAT"], &steps)));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn incident() -> Value {
        json!({"id": "i1", "label": "DNS-bound", "place": "resolver 192.0.2.53", "severity": "major",
            "opened_window_ms": 0, "closed_window_ms": null, "confidence": 0.97, "pairs_touched": 6,
            "pairs_observed": 6, "sentence": "DNS-bound at resolver 192.0.2.53.\u{1b}[2J",
            "evidence": [{"measure": "dns", "before": 17.0, "during": 431.5, "after": null, "z": 8.0, "pairs": 6,
                "pairs_observed": 6}, {"measure": null, "before": 0.0, "during": 3.0, "after": 0.0, "z": 4.0,
                "pairs": 1, "pairs_observed": 6}],
            "pairs": [{"client_id": "p", "target": "https://x/", "family": "ipv4"}],
            "steps": [{"window_start_ms": 0, "kind": "opened", "text": "found"}]})
    }

    #[test]
    fn an_open_incident_says_how_long_it_has_lasted_and_how_sure_it_is() {
        let row = row(&incident(), 3_600_000 * 3);
        assert_eq!(row, ["i1", "open", "major", "DNS-bound", "resolver 192.0.2.53", "3 h", "6 of 6", "97 %"]);
        assert_eq!(listed(&json!({"incidents": []}), 0), "No incident.\n");
    }

    #[test]
    fn one_incident_is_shown_with_its_numbers_and_cannot_steer_the_terminal() {
        let shown = shown(&incident(), 60_000);
        assert!(!shown.contains('\u{1b}'), "{shown}");
        for text in ["open for 1 min", "431.5", "failures, %", "https://x/", "opened", "6 of 6 pairs"] {
            assert!(shown.contains(text), "{text} in {shown}");
        }
    }
}
