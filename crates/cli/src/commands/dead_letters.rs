//! `caelum dead-letters`: events that were kept aside instead of being counted.

use anyhow::{Result, bail};
use caelum_engine::timestamp;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    cluster::{list, text},
    counting::{age, now_ms},
};
use crate::{
    arguments::{self, DeadLetters},
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Lists them, shows one, or has them counted after all.
pub async fn run(command: DeadLetters) -> Result<Exit> {
    match command {
        DeadLetters::List { client_id, reason, state, limit, client } => {
            let path = path(client_id.as_deref(), reason.as_deref(), state.as_deref(), limit);
            let answer = Client::new(&client)?.ask(Method::GET, &path, None).await?;
            output::print(&match client.json {
                true => format!("{answer:#}\n"),
                false => listed(&answer, now_ms()),
            })?;
        }
        DeadLetters::Show { id, client } => show(id, &client).await?,
        DeadLetters::Replay { ids, client_id, reason, client } => {
            let mut body = Map::from_iter([("ids".to_owned(), json!(ids))]);
            body.extend(client_id.map(|id| ("client_id".to_owned(), json!(id))));
            body.extend(reason.map(|reason| ("reason".to_owned(), json!(reason))));
            let answer = Client::new(&client)?
                .ask(Method::POST, "/api/dead-letters/replay", Some(&Value::Object(body)))
                .await?;
            output::print(&match client.json {
                true => format!("{answer:#}\n"),
                false => asked(&answer),
            })?;
        }
    }
    Ok(Exit::Fine)
}

fn path(client_id: Option<&str>, reason: Option<&str>, state: Option<&str>, limit: u16) -> String {
    let wanted = [("client_id", client_id), ("reason", reason), ("state", state)];
    let filters: String =
        wanted.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", segment(value?)))).collect();
    format!("/api/dead-letters?limit={limit}{filters}")
}

/// The list is newest first, and goes on below a number: below the next one, the first is the one that is meant.
async fn show(id: i64, arguments: &arguments::Client) -> Result<()> {
    let path = format!("/api/dead-letters?limit=1&cursor={}", id.saturating_add(1));
    let answer = Client::new(arguments)?.ask(Method::GET, &path, None).await?;
    let Some(letter) = list(&answer, "dead_letters").find(|letter| letter["id"] == id) else {
        bail!("there is no event {id} that was kept aside; `caelum dead-letters list` shows them");
    };
    output::print(&match arguments.json {
        true => format!("{letter:#}\n"),
        false => one(letter),
    })
}

fn listed(answer: &Value, now_ms: i64) -> String {
    let rows: Vec<Vec<String>> = list(answer, "dead_letters").map(|letter| row(letter, now_ms)).collect();
    if rows.is_empty() {
        return "no event is kept aside\n".to_owned();
    }
    let table = output::table(&["ID", "PROBE", "MEASURED", "KEPT", "REASON", "STATE"], &rows);
    match answer["next_cursor"].is_null() {
        true => table,
        false => format!("{table}there are more; --limit shows up to 500\n"),
    }
}

fn row(letter: &Value, now_ms: i64) -> Vec<String> {
    vec![
        letter["id"].as_i64().map_or_else(|| "-".to_owned(), |id| id.to_string()),
        text(&letter["client_id"]),
        letter["ts_ms"].as_i64().map_or_else(|| "-".to_owned(), timestamp::iso),
        letter["kept_at_ms"]
            .as_i64()
            .map_or_else(|| "-".to_owned(), |kept| format!("{} ago", age(now_ms - kept))),
        text(&letter["reason"]),
        text(&letter["state"]),
    ]
}

fn one(letter: &Value) -> String {
    let at = |name: &str| letter[name].as_i64().map_or_else(|| "-".to_owned(), timestamp::iso);
    // JSON escapes the characters that could steer a terminal, except those above ASCII.
    let event = format!("{:#}", letter["event"]);
    let event: Vec<String> = event.lines().map(output::plain).collect();
    format!(
        "{}\n{}\n",
        output::table(
            &["ID", &letter["id"].to_string()],
            &[
                vec!["probe".to_owned(), text(&letter["client_id"])],
                vec!["measured".to_owned(), at("ts_ms")],
                vec!["kept aside".to_owned(), at("kept_at_ms")],
                vec!["reason".to_owned(), text(&letter["reason"])],
                vec!["state".to_owned(), text(&letter["state"])],
            ]
        ),
        event.join("\n")
    )
}

fn asked(answer: &Value) -> String {
    let requested = answer["requested"].as_u64().unwrap_or_default();
    let skipped = answer["skipped"].as_u64().unwrap_or_default();
    let done = match requested {
        0 => "nothing is to be counted after all".to_owned(),
        1 => "1 event is counted within seconds".to_owned(),
        requested => format!("{requested} events are counted within seconds"),
    };
    match skipped {
        0 => format!("{done}\n"),
        _ => format!(
            "{done}; left out: {skipped} (counted or asked for before, unknown, too old for the minutes that are \
             kept, or not an event)\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_go_into_the_path_with_nothing_that_has_a_meaning_of_its_own() {
        assert_eq!(path(None, None, None, 50), "/api/dead-letters?limit=50");
        assert_eq!(
            path(Some("a&b"), Some("too_late"), Some("kept"), 5),
            "/api/dead-letters?limit=5&client_id=a%26b&reason=too_late&state=kept"
        );
    }

    #[test]
    fn an_event_kept_aside_is_a_row_and_a_list_that_goes_on_says_so() {
        let letter = json!({"id": 7, "client_id": "p-1", "ts_ms": 0, "kept_at_ms": 60_000, "reason": "too_late",
            "state": "kept", "event": {"target": "x\u{9b}"}});
        let answer = json!({"dead_letters": [letter], "next_cursor": 7});
        let shown = listed(&answer, 120_000);
        assert!(shown.contains("1 min ago") && shown.contains("there are more"), "{shown}");
        assert_eq!(listed(&json!({"dead_letters": []}), 0), "no event is kept aside\n");
        let one = one(&answer["dead_letters"][0]);
        assert!(one.contains("too_late") && !one.contains('\u{9b}'), "{one}");
    }

    #[test]
    fn what_was_left_out_is_said_with_its_reasons() {
        assert_eq!(asked(&json!({"requested": 1, "skipped": 0})), "1 event is counted within seconds\n");
        let some = asked(&json!({"requested": 0, "skipped": 2}));
        assert!(some.starts_with("nothing is to be counted after all; left out: 2"), "{some}");
    }
}
