//! `caelum tasks`, `caelum logs` and `caelum schedules`: work that was asked for, what it wrote, and when it is
//! asked for again.

use std::{fs, io::Read as _};

use anyhow::{Context as _, Result, bail};
use caelum_engine::timestamp;
use caelum_model::task::{TaskKind, TaskState};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    cluster::{list, text},
    counting::{age, now_ms},
    run::{Output, PATIENCE, wishes},
};
use crate::{
    arguments::{Logs, OneSchedule, OneTask, Schedules, SchedulesCommand, TaskFilter, Tasks, TasksCommand},
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Lists tasks, shows or changes one, or asks for new ones.
pub async fn run(arguments: Tasks) -> Result<Exit> {
    match arguments.command {
        None => listed(arguments.filter).await,
        Some(TasksCommand::List(filter)) => listed(filter).await,
        Some(TasksCommand::Show(one)) => {
            let answer = ask(&one, Method::GET, "").await?;
            say(one.client.json, &answer, || shown(&answer, now_ms()))
        }
        Some(TasksCommand::Cancel(one)) => {
            let answer = ask(&one, Method::POST, "/cancel").await?;
            say(one.client.json, &answer, || format!("{} is {}\n", one.id, called_off(&answer)))
        }
        Some(TasksCommand::Retry(one)) => {
            let answer = ask(&one, Method::POST, "/retry").await?;
            say(one.client.json, &answer, || format!("{} is {}\n", one.id, text(&answer["status"])))
        }
        Some(TasksCommand::New { file, client }) => {
            let mut text = String::new();
            if file.as_os_str() == "-" {
                std::io::stdin().read_to_string(&mut text).context("read the standard input")?;
            } else {
                text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            }
            let asked: Value =
                serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
            let asked = match asked {
                Value::Array(tasks) => json!({ "tasks": tasks }),
                one => one,
            };
            let answer = Client::new(&client)?.ask(Method::POST, "/api/tasks", Some(&asked)).await?;
            say(client.json, &answer, || {
                let ids: Vec<&str> = match answer["tasks"].as_array() {
                    Some(tasks) => tasks.iter().filter_map(|task| task["task_id"].as_str()).collect(),
                    None => answer["task_id"].as_str().into_iter().collect(),
                };
                format!("{}\n", ids.join("\n"))
            })
        }
    }
}

fn say(json: bool, answer: &Value, words: impl FnOnce() -> String) -> Result<Exit> {
    output::print(&if json { format!("{answer:#}\n") } else { words() })?;
    Ok(Exit::Fine)
}

async fn ask(one: &OneTask, method: Method, what: &str) -> Result<Value> {
    let path = format!("/api/tasks/{}{what}", segment(&one.id));
    Client::new(&one.client)?.ask(method, &path, None).await
}

fn called_off(task: &Value) -> &str {
    let is_final = task["status"].as_str().and_then(TaskState::parse).is_some_and(TaskState::is_final);
    if is_final { task["status"].as_str().unwrap_or_default() } else { "being called off" }
}

async fn listed(filter: TaskFilter) -> Result<Exit> {
    let mut path = format!("/api/tasks?limit={}", filter.limit);
    for (name, value) in [
        ("status", &filter.status),
        ("task_type", &filter.kind),
        ("node", &filter.node),
        ("text", &filter.text),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    let answer = Client::new(&filter.client)?.ask(Method::GET, &path, None).await?;
    say(filter.client.json, &answer, || {
        let now_ms = now_ms();
        let rows: Vec<Vec<String>> = list(&answer, "tasks").map(|task| row(task, now_ms)).collect();
        if rows.is_empty() {
            return "No task.\n".to_owned();
        }
        output::table(&["ID", "STATE", "KIND", "WHAT", "NODE", "ATTEMPT", "ASKED FOR"], &rows)
    })
}

fn row(task: &Value, now_ms: i64) -> Vec<String> {
    let attempts = task["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let last = attempts.last().map_or(&Value::Null, |attempt| &attempt["node_id"]);
    let node = if last.is_null() { &task["assigned_node"] } else { last };
    let tries = task["max_retries"].as_u64().unwrap_or_default() + 1;
    let created_at = task["created_at"].as_i64().unwrap_or(now_ms);
    vec![
        text(&task["task_id"]),
        text(&task["status"]).replace('_', " "),
        text(if task["preset"].is_string() { &task["preset"] } else { &task["task_type"] }),
        short(&what(task)),
        text(node),
        format!("{} of {tries}", attempts.last().map_or(0, |one| one["n"].as_u64().unwrap_or_default())),
        age(now_ms - created_at),
    ]
}

/// The line that says best what a task does.
fn what(task: &Value) -> String {
    let data = &task["task_data"];
    let field = match task["task_type"].as_str().and_then(TaskKind::parse) {
        Some(TaskKind::Shell | TaskKind::Ssh) => "command",
        Some(TaskKind::Script) => "script",
        Some(TaskKind::Http | TaskKind::Fetch | TaskKind::Probe) | None => "url",
    };
    data[field].as_str().unwrap_or_default().to_owned()
}

fn short(line: &str) -> String {
    const LONGEST: usize = 48;
    let first = line.trim().lines().next().unwrap_or_default();
    match first.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &first[..at]),
        None => first.to_owned(),
    }
}

fn shown(task: &Value, now_ms: i64) -> String {
    let moment = |value: &Value| match value.as_i64() {
        Some(ms) => format!("{} ({} ago)", timestamp::iso(ms), age(now_ms - ms)),
        None => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> = [
        ("Task", text(&task["task_id"])),
        ("State", text(&task["status"]).replace('_', " ")),
        ("Kind", text(&task["task_type"])),
        ("What", short(&what(task))),
        ("Priority", task["priority"].to_string()),
        ("Time limit", format!("{} s", task["timeout_seconds"])),
        ("Asked for by", text(&task["created_by"])),
        ("Asked for", moment(&task["created_at"])),
        ("Began", moment(&task["started_at"])),
        ("Ended", moment(&task["completed_at"])),
        ("Error", text(&task["error"])),
    ]
    .into_iter()
    .map(|(name, value)| vec![name.to_owned(), value])
    .collect();
    let mut out = output::table(&["", ""], &rows).trim_start().to_owned();
    let attempts: Vec<Vec<String>> = list(task, "attempts")
        .map(|one| {
            vec![
                one["n"].to_string(),
                text(&one["node_id"]),
                moment(&one["started_at"]),
                text(&one["outcome"]).replace('_', " "),
                one["exit_code"].as_i64().map_or_else(String::new, |code| code.to_string()),
                text(&one["error"]),
            ]
        })
        .collect();
    if !attempts.is_empty() {
        out.push('\n');
        out.push_str(&output::table(&["ATTEMPT", "NODE", "BEGAN", "OUTCOME", "EXIT", "ERROR"], &attempts));
    }
    out
}

/// Prints what a task wrote.
pub async fn logs(arguments: Logs) -> Result<Exit> {
    let client = Client::new(&arguments.client)?.with_patience(PATIENCE);
    let mut output = Output::of(&arguments.id);
    loop {
        let piece = output.read(&client, arguments.follow).await?;
        for chunk in &piece.chunks {
            let words = if arguments.client.json { format!("{chunk}\n") } else { raw(chunk) };
            output::print(&words)?;
        }
        if piece.is_over || (!arguments.follow && piece.chunks.is_empty()) {
            return Ok(Exit::Fine);
        }
    }
}

fn raw(chunk: &Value) -> String {
    chunk["text"].as_str().unwrap_or_default().to_owned()
}

/// Lists and changes schedules.
pub async fn schedules(schedules: Schedules) -> Result<Exit> {
    match schedules.command.unwrap_or(SchedulesCommand::List(schedules.client)) {
        SchedulesCommand::List(arguments) => {
            let answer = Client::new(&arguments)?.ask(Method::GET, "/api/schedules", None).await?;
            say(arguments.json, &answer, || {
                let rows: Vec<Vec<String>> = list(&answer, "schedules").map(schedule_row).collect();
                if rows.is_empty() {
                    return "No schedule.\n".to_owned();
                }
                output::table(&["NAME", "WHEN", "ZONE", "ON", "WHAT", "NEXT", "LAST"], &rows)
            })
        }
        SchedulesCommand::Add { name, cron, time_zone, skip_missed, on, timeout, client, command } => {
            let server = Client::new(&client)?;
            let (node, words) = wishes(&server, &on).await?;
            let mut order = json!({
                "task_type": "shell",
                "task_data": { "command": super::run::line(&command) },
                "requirements": words,
            });
            if let Some(node) = node {
                order["assigned_node"] = json!(node);
            }
            if let Some(timeout) = timeout {
                order["timeout_seconds"] = json!(timeout);
            }
            let missed = if skip_missed { "skip" } else { "run_once" };
            let body = json!({
                "name": name, "cron": cron, "time_zone": time_zone, "missed": missed, "task": order,
            });
            let answer = server.ask(Method::POST, "/api/schedules", Some(&body)).await?;
            say(client.json, &answer, || match answer["next_at"].as_i64() {
                Some(ms) => format!("{name} runs next at {}\n", timestamp::iso(ms)),
                None => format!("{name} never comes due\n"),
            })
        }
        SchedulesCommand::Remove(one) => change(one, Method::DELETE, None, "is removed").await,
        SchedulesCommand::Pause(one) => {
            change(one, Method::PATCH, Some(json!({ "enabled": false })), "is paused").await
        }
        SchedulesCommand::Resume(one) => {
            change(one, Method::PATCH, Some(json!({ "enabled": true })), "is on again").await
        }
    }
}

fn schedule_row(schedule: &Value) -> Vec<String> {
    let moment = |value: &Value| value.as_i64().map_or_else(|| "-".to_owned(), timestamp::iso);
    vec![
        text(&schedule["name"]),
        text(&schedule["cron"]),
        text(&schedule["time_zone"]),
        if schedule["enabled"] == false { "no" } else { "yes" }.to_owned(),
        short(&what(&schedule["order"])),
        moment(&schedule["next_at"]),
        moment(&schedule["last_at"]),
    ]
}

async fn change(one: OneSchedule, method: Method, body: Option<Value>, words: &str) -> Result<Exit> {
    let server = Client::new(&one.client)?;
    let known = server.ask(Method::GET, "/api/schedules", None).await?;
    let is_meant = |known: &&Value| known["schedule_id"] == one.schedule || known["name"] == one.schedule;
    let id = list(&known, "schedules").find(is_meant).and_then(|known| known["schedule_id"].as_str());
    let Some(id) = id else {
        bail!("there is no schedule {}; `caelum schedules list` shows them", one.schedule)
    };
    let answer = server.ask(method, &format!("/api/schedules/{}", segment(id)), body.as_ref()).await?;
    say(one.client.json, &answer, || format!("{} {words}\n", one.schedule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_a_task_does_and_how_far_it_is() {
        let task = json!({
            "task_id": "t-1", "task_type": "shell", "status": "timed_out", "max_retries": 2,
            "task_data": { "command": "sleep 5\necho done" }, "created_at": 1_000,
            "attempts": [{ "n": 2, "node_id": "n-1" }],
        });
        let row = row(&task, 61_000);
        assert_eq!(row[..6], ["t-1", "timed out", "shell", "sleep 5", "n-1", "2 of 3"]);
        assert!(shown(&task, 61_000).contains("timed out"));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(short(&"ü".repeat(60)).chars().count(), 49);
        assert_eq!(short("  one\ntwo"), "one");
        assert_eq!(short(""), "");
    }
}
