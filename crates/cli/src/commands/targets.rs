//! `caelum targets`: what is measured.

use anyhow::{Result, bail};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    arguments::Targets,
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
                output::print(&output::table(&["ID", "URL", "NAME", "INTERVAL", "FROM"], &rows))?;
            }
        }
        Targets::Add { url, name, interval_s, throughput_url, families, client } => {
            let mut body = Map::from_iter([("url".to_owned(), json!(url))]);
            body.extend(name.map(|name| ("name".to_owned(), json!(name))));
            body.extend(interval_s.map(|interval| ("interval_s".to_owned(), json!(interval))));
            body.extend(throughput_url.map(|url| ("throughput_url".to_owned(), json!(url))));
            body.extend(families.map(|families| ("families".to_owned(), json!(families))));
            let answer =
                Client::new(&client)?.ask(Method::POST, "/api/targets", Some(&Value::Object(body))).await?;
            let text = match client.json {
                true => format!("{answer:#}\n"),
                false => format!("{url} is measured from now on\n"),
            };
            output::print(&text)?;
        }
        Targets::Remove { target, client } => {
            let server = Client::new(&client)?;
            let answer = server.ask(Method::GET, "/api/targets?limit=500", None).await?;
            let is_meant =
                |known: &&Value| known["target_id"] == target.as_str() || known["url"] == target.as_str();
            let Some(id) = targets(&answer).find(is_meant).and_then(|known| known["target_id"].as_str())
            else {
                bail!("there is no target {target}; `caelum targets list` shows them");
            };
            server.ask(Method::DELETE, &format!("/api/targets/{}", segment(id)), None).await?;
            output::print(&format!("{target} is measured no longer\n"))?;
        }
    }
    Ok(Exit::Fine)
}

fn targets(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["targets"].as_array().into_iter().flatten()
}

fn row(target: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    vec![
        text(&target["target_id"]),
        text(&target["url"]),
        text(&target["name"]),
        target["interval_s"].as_u64().map_or_else(|| "-".to_owned(), |interval| format!("{interval} s")),
        text(&target["origin"]),
    ]
}
