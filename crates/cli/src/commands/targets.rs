//! `caelum targets`: what is measured.

use anyhow::{Result, bail};
use caelum_engine::{selector, target};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::cluster::{list, text};
use crate::{
    arguments::{TargetWish, Targets},
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Lists, adds or removes targets.
pub async fn run(command: Targets) -> Result<Exit> {
    match command {
        Targets::List(arguments) => {
            let answer = Client::new(&arguments)?.ask(Method::GET, "/api/targets?limit=500", None).await?;
            if arguments.json {
                output::print(&format!("{answer:#}\n"))?;
            } else {
                let rows: Vec<Vec<String>> = targets(&answer).map(row).collect();
                output::print(&output::table(
                    &["ID", "URL", "NAME", "INTERVAL", "TAGS", "PROBES", "HELD TO", "FROM"],
                    &rows,
                ))?;
            }
        }
        Targets::Add { url, template, wish, client } => {
            let mut body = wished(&wish)?;
            body.insert("url".to_owned(), json!(url));
            body.extend(template.map(|template| ("template".to_owned(), json!(template))));
            let answer =
                Client::new(&client)?.ask(Method::POST, "/api/targets", Some(&Value::Object(body))).await?;
            let text = match client.json {
                true => format!("{answer:#}\n"),
                false => format!("{url} is measured from now on\n"),
            };
            output::print(&text)?;
        }
        Targets::Change { target, wish, client } => {
            let body = wished(&wish)?;
            if body.is_empty() {
                bail!("nothing is to be changed: `caelum targets change --help` lists what can be");
            }
            let server = Client::new(&client)?;
            let id = id_of(&server, &target).await?;
            let path = format!("/api/targets/{}", segment(&id));
            let answer = server.ask(Method::PATCH, &path, Some(&Value::Object(body))).await?;
            let text = match client.json {
                true => format!("{answer:#}\n"),
                false => format!("{target} is changed\n"),
            };
            output::print(&text)?;
        }
        Targets::Templates(client) => {
            let answer = Client::new(&client)?.ask(Method::GET, "/api/targets/templates", None).await?;
            let text = match client.json {
                true => format!("{answer:#}\n"),
                false => {
                    let rows: Vec<Vec<String>> = list(&answer, "templates").map(template_row).collect();
                    output::table(&["NAME", "FOR", "EVERY", "WHAT"], &rows)
                }
            };
            output::print(&text)?;
        }
        Targets::Remove { target, client } => {
            let server = Client::new(&client)?;
            let id = id_of(&server, &target).await?;
            server.ask(Method::DELETE, &format!("/api/targets/{}", segment(&id)), None).await?;
            output::print(&format!("{target} is measured no longer\n"))?;
        }
    }
    Ok(Exit::Fine)
}

/// The id of a target that is named by its id or its URL.
async fn id_of(server: &Client, target: &str) -> Result<String> {
    let answer = server.ask(Method::GET, "/api/targets?limit=500", None).await?;
    let is_meant = |known: &&Value| known["target_id"] == target || known["url"] == target;
    let known = targets(&answer).find(is_meant).and_then(|known| known["target_id"].as_str());
    match known {
        Some(id) => Ok(id.to_owned()),
        None => bail!("there is no target {target}; `caelum targets list` shows them"),
    }
}

/// What the flags ask for, as the server reads it. An empty text or a nought takes something away.
fn wished(wish: &TargetWish) -> Result<Map<String, Value>> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
    let text_or_null = |text: &String| if text.is_empty() { Value::Null } else { json!(text) };
    let or_null = |number: u32| if number == 0 { Value::Null } else { json!(number) };
    set("name", wish.name.as_ref().map(|name| json!(name)));
    set("interval_s", wish.interval_s.map(|interval| json!(interval)));
    set("timeout_ms", wish.timeout_ms.map(|timeout| json!(timeout)));
    set("throughput_url", wish.throughput_url.as_ref().map(text_or_null));
    set("families", wish.families.as_ref().map(|families| json!(families)));
    set("tags", words(&wish.tags));
    set("group", wish.group.as_ref().map(text_or_null));
    if let Some(probes) = &wish.probes {
        set("probes", Some(json!(selector::parse(probes)?)));
    }
    set(
        "objective",
        match wish.objective.as_deref() {
            None => None,
            Some("" | "none") => Some(Value::Null),
            Some(promise) => Some(json!(target::parse_promise(promise)?)),
        },
    );
    set("packets", wish.packets.map(|packets| or_null(packets.into())));
    set("trace_every_s", wish.trace_every_s.map(or_null));
    set("load_every_s", wish.load_every_s.map(or_null));
    set("enabled", wish.enabled.as_ref().map(|enabled| json!(enabled == "on")));
    Ok(body)
}

/// Words that were given one by one; only empty ones mean none.
pub(super) fn words(given: &[String]) -> Option<Value> {
    let words: Vec<&String> = given.iter().filter(|word| !word.is_empty()).collect();
    (!given.is_empty()).then(|| json!(words))
}

fn template_row(template: &Value) -> Vec<String> {
    let schemes: Vec<&str> = list(template, "schemes").filter_map(Value::as_str).collect();
    let every = template["interval_s"].as_u64().map_or_else(|| "-".to_owned(), |every| format!("{every} s"));
    vec![text(&template["name"]), schemes.join(", "), every, text(&template["what"])]
}

fn targets(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["targets"].as_array().into_iter().flatten()
}

fn row(target: &Value) -> Vec<String> {
    let words = |name: &str| {
        let words: Vec<&str> = list(target, name).filter_map(Value::as_str).collect();
        if words.is_empty() { "-".to_owned() } else { words.join(" ") }
    };
    let objective = serde_json::from_value(target["objective"].clone()).ok();
    vec![
        text(&target["target_id"]),
        text(&target["url"]),
        text(&target["name"]),
        target["interval_s"].as_u64().map_or_else(|| "-".to_owned(), |interval| format!("{interval} s")),
        words("tags"),
        words("probes"),
        objective.as_ref().map_or_else(|| "-".to_owned(), target::promise_text),
        if target["enabled"] == false { "off".to_owned() } else { text(&target["origin"]) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_and_what_is_empty_is_taken_away() {
        assert!(wished(&TargetWish::default()).expect("reads").is_empty());
        let wish = TargetWish {
            group: Some(String::new()),
            tags: vec!["a".into(), String::new(), "b".into()],
            probes: Some("tag:wifi,!lab-3".into()),
            objective: Some("300ms,99.9%".into()),
            packets: Some(0),
            enabled: Some("off".into()),
            ..TargetWish::default()
        };
        let body = Value::Object(wished(&wish).expect("reads"));
        assert_eq!(
            body,
            json!({"group": null, "tags": ["a", "b"], "probes": ["tag:wifi", "!lab-3"], "packets": null,
                "enabled": false, "objective": {"within_ms": 300, "promised_bp": 9990, "days": 28}})
        );
        let bad = TargetWish { probes: Some("site:x".into()), ..TargetWish::default() };
        assert!(wished(&bad).is_err());
    }

    #[test]
    fn a_row_says_who_measures_it_and_what_it_is_held_to() {
        let target = json!({"target_id": "t", "url": "icmp://a", "name": "a", "interval_s": 10, "tags": ["x"],
            "probes": [], "objective": {"within_ms": 20, "promised_bp": 9900, "days": 28}, "enabled": true,
            "origin": "api"});
        assert_eq!(row(&target), ["t", "icmp://a", "a", "10 s", "x", "-", "20ms,99%,28d", "api"]);
    }
}
