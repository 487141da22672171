//! `caelum run`: a command on nodes of the cluster, its output as it comes, and its exit code.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use caelum_model::task::TaskState;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::cluster::{list, text};
use crate::{
    arguments::Run,
    client::{Client, segment},
    exit::Exit,
    output,
};

/// Longest that an answer is waited for: a server holds a question about output for 20 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);

/// Silence after which it is said why a task is not with a node.
const SILENT: Duration = Duration::from_secs(2);

/// Runs a command, and ends as it ended.
pub async fn run(arguments: Run) -> Result<Exit> {
    let server = Client::new(&arguments.client)?.with_patience(PATIENCE);
    let places = places(&server, &arguments).await?;
    let mut tasks = Vec::new();
    for (node, words) in places {
        let answer = server.ask(Method::POST, "/api/tasks", Some(&order(&arguments, node, words))).await?;
        tasks.push(text(&answer["task_id"]));
        if arguments.client.json {
            output::print(&format!("{answer}\n"))?;
        } else if arguments.detach {
            output::print(&format!("{}\n", text(&answer["task_id"])))?;
        }
    }
    if arguments.detach {
        return Ok(Exit::Fine);
    }
    let names = if tasks.len() > 1 { names(&server).await? } else { HashMap::new() };
    let codes = follow(server, tasks, names, arguments.client.json).await?;
    let code = match codes.as_slice() {
        [one] => *one,
        many => i32::from(many.iter().any(|code| *code != 0)),
    };
    match code {
        0 => Ok(Exit::Fine),
        // The command's own code is no class of ours.
        code => std::process::exit(code),
    }
}

/// One line for the shell: a single argument is one already, several are quoted.
pub(super) fn line(command: &[String]) -> String {
    let quoted = |word: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    match command {
        [one] => one.clone(),
        words => words.iter().map(quoted).collect::<Vec<_>>().join(" "),
    }
}

fn order(arguments: &Run, node: Option<String>, words: Vec<String>) -> Value {
    let mut data = json!({ "command": line(&arguments.command) });
    if let Some(cwd) = &arguments.cwd {
        data["cwd"] = json!(cwd);
    }
    let mut order = json!({
        "task_type": "shell", "task_data": data, "requirements": words, "max_retries": arguments.retries,
        "promise": if arguments.at_most_once { "at_most_once" } else { "at_least_once" },
    });
    let given = [
        ("assigned_node", node.map(|node| json!(node))),
        ("timeout_seconds", arguments.timeout.map(|seconds| json!(seconds))),
        ("priority", arguments.priority.map(|priority| json!(priority))),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            order[name] = value;
        }
    }
    order
}

/// The node and the words that `--on` stands for.
pub(super) async fn wishes(server: &Client, on: &[String]) -> Result<(Option<String>, Vec<String>)> {
    let (mut node, mut words) = (None, Vec::new());
    for wish in on {
        match wish.as_str() {
            "any" => {}
            word if word.contains('=') => words.push(word.strip_prefix("tag=").unwrap_or(word).to_owned()),
            name if node.is_none() => node = Some(node_id(server, name).await?),
            _ => bail!("name one node only; for several, say --on tag=WORD --each"),
        }
    }
    Ok((node, words))
}

async fn nodes(server: &Client) -> Result<Value> {
    server.ask(Method::GET, "/api/nodes?limit=500", None).await
}

fn is_called(node: &Value, name: &str) -> bool {
    node["node_id"] == name || node["name"] == name || node["hostname"] == name
}

async fn node_id(server: &Client, name: &str) -> Result<String> {
    let answer = nodes(server).await?;
    match list(&answer, "nodes").find(|node| is_called(node, name)) {
        Some(node) => Ok(text(&node["node_id"])),
        None => bail!("there is no node {name}; `caelum nodes` shows them"),
    }
}

async fn names(server: &Client) -> Result<HashMap<String, String>> {
    let answer = nodes(server).await?;
    let pair = |node: &Value| (text(&node["node_id"]), text(&node["name"]));
    Ok(list(&answer, "nodes").map(pair).collect())
}

/// Where the command goes: each with the node, if it is a certain one, and the words that it must have.
async fn places(server: &Client, arguments: &Run) -> Result<Vec<(Option<String>, Vec<String>)>> {
    let (node, words) = wishes(server, &arguments.on).await?;
    if !arguments.each || node.is_some() {
        return Ok(vec![(node, words)]);
    }
    let answer = nodes(server).await?;
    let fits = |node: &Value| words.iter().all(|word| has(node, word)) && can_run(node);
    let places: Vec<_> = list(&answer, "nodes")
        .filter(|node| fits(node))
        .map(|node| (Some(text(&node["node_id"])), Vec::new()))
        .collect();
    if places.is_empty() {
        bail!(
            "no node that takes commands has {}",
            if words.is_empty() { "room" } else { "all of these words" }
        );
    }
    Ok(places)
}

/// Whether a node has a word: a tag, with or without a value, or a capability.
fn has(node: &Value, word: &str) -> bool {
    let words =
        ["tags", "capabilities"].into_iter().flat_map(|name| node[name].as_array().into_iter().flatten());
    let is_it = |value: &Value| value.as_str().is_some_and(|has| has == word);
    words.into_iter().any(is_it)
        || word.split_once('=').is_some_and(|(key, value)| node["tags"][key] == value)
}

fn can_run(node: &Value) -> bool {
    node["ceiling"] == "shell" && node["status"] != "offline" && node["status"] != "draining"
}

/// What a task wrote, read piece by piece over all its attempts.
pub(super) struct Output {
    task_id: String,
    fence: Option<u64>,
    after: Option<u64>,
}

/// A piece of it.
pub(super) struct Piece {
    /// What was written.
    pub(super) chunks: Vec<Value>,
    /// Whether nothing more will come.
    pub(super) is_over: bool,
}

impl Output {
    /// Of this task, from the beginning of its newest attempt.
    pub(super) fn of(task_id: &str) -> Self {
        Self { task_id: task_id.to_owned(), fence: None, after: None }
    }

    /// What was written since it was last read; where it is followed, the answer waits for something.
    pub(super) async fn read(&mut self, server: &Client, is_followed: bool) -> Result<Piece> {
        let mut path = format!("/api/tasks/{}/output?follow={is_followed}", segment(&self.task_id));
        for (name, value) in [("fence", self.fence), ("after", self.after)] {
            path.extend(value.map(|value| format!("&{name}={value}")));
        }
        let answer = server.ask(Method::GET, &path, None).await?;
        let is_final = answer["status"].as_str().and_then(TaskState::parse).is_none_or(TaskState::is_final);
        let is_complete = answer["is_complete"] == true;
        if is_complete && !is_final {
            // That attempt is over, and another one begins.
            (self.fence, self.after) = (None, None);
        } else {
            // Before the first attempt there is nothing to stay with.
            self.fence = answer["fence"].as_u64().filter(|fence| *fence > 0);
            self.after = answer["next_after"].as_u64();
        }
        Ok(Piece { chunks: list(&answer, "output").cloned().collect(), is_over: is_complete && is_final })
    }
}

/// Shows what tasks write until all have ended; answers their exit codes.
async fn follow(
    server: Client,
    tasks: Vec<String>,
    names: HashMap<String, String>,
    json: bool,
) -> Result<Vec<i32>> {
    let (server, names) = (Arc::new(server), Arc::new(names));
    let mut following = JoinSet::new();
    for id in tasks {
        let (server, names) = (Arc::clone(&server), Arc::clone(&names));
        following.spawn(async move { follow_one(&server, &id, &names, json).await });
    }
    let mut codes = Vec::new();
    while let Some(followed) = following.join_next().await {
        codes.push(followed.context("follow a task")??);
    }
    Ok(codes)
}

/// Says why a task is not with a node, if it is not.
async fn tell_why_it_waits(server: &Client, id: &str) -> Result<()> {
    let task = server.ask(Method::GET, &format!("/api/tasks/{}", segment(id)), None).await?;
    let reasons = list(&task, "waits_for").filter_map(Value::as_str).map(output::plain);
    let reasons: Vec<String> = reasons.map(|reason| format!("  {reason}\n")).collect();
    if !reasons.is_empty() {
        let text = format!("caelum: the task {id} is queued and waits for\n{}", reasons.concat());
        output::complain(&text);
    }
    Ok(())
}

/// Follows one task to its end. Where there are several, `names` says what nodes are called.
async fn follow_one(server: &Client, id: &str, names: &HashMap<String, String>, json: bool) -> Result<i32> {
    let (mut output, mut lines) = (Output::of(id), Lines::default());
    let mut name: Option<String> = None;
    let mut is_told = json;
    loop {
        let piece = {
            let mut reading = pin!(output.read(server, true));
            loop {
                tokio::select! {
                    piece = &mut reading => break piece?,
                    () = tokio::time::sleep(SILENT), if !is_told => {
                        is_told = true;
                        tell_why_it_waits(server, id).await?;
                    }
                }
            }
        };
        if piece.is_over || (!piece.chunks.is_empty() && name.is_none()) {
            let task = server.ask(Method::GET, &format!("/api/tasks/{}", segment(id)), None).await?;
            let last = task["attempts"].as_array().and_then(|attempts| attempts.last());
            let node = last.and_then(|attempt| attempt["node_id"].as_str()).unwrap_or_default();
            name = (!names.is_empty()).then(|| names.get(node).map_or(node, String::as_str).to_owned());
            let name = name.as_deref();
            let state = task["status"].as_str().and_then(TaskState::parse);
            if let Some(state) = state.filter(|state| piece.is_over && state.is_final()) {
                for chunk in &piece.chunks {
                    show(chunk, json, name, &mut lines)?;
                }
                lines.end(name)?;
                if state != TaskState::Succeeded && !json {
                    complain(name, &task, state);
                }
                return Ok(code_of(state, last));
            }
        }
        for chunk in &piece.chunks {
            show(chunk, json, name.as_deref(), &mut lines)?;
        }
    }
}

fn code_of(state: TaskState, last: Option<&Value>) -> i32 {
    let said =
        last.and_then(|attempt| attempt["exit_code"].as_i64()).and_then(|code| i32::try_from(code).ok());
    match (state, said) {
        (TaskState::Succeeded, _) => 0,
        (_, Some(code)) if code != 0 => code,
        _ => 1,
    }
}

fn show(chunk: &Value, json: bool, name: Option<&str>, lines: &mut Lines) -> Result<()> {
    if json {
        return output::print(&format!("{chunk}\n"));
    }
    let text = chunk["text"].as_str().unwrap_or_default();
    let is_error = chunk["is_error"] == true;
    match name {
        Some(name) => lines.show(is_error, text, name),
        None => put(is_error, text),
    }
}

fn put(is_error: bool, text: &str) -> Result<()> {
    if is_error {
        output::complain(text);
        return Ok(());
    }
    output::print(text)
}

fn complain(name: Option<&str>, task: &Value, state: TaskState) {
    let place = name.map_or_else(String::new, |name| format!("{name}: "));
    let why = task["error"].as_str().map_or_else(String::new, |why| format!(": {}", output::plain(why)));
    output::complain(&format!("caelum: {place}{}{why}\n", state.as_str().replace('_', " ")));
}

/// Lines of one task among others: shown whole, with its name in front.
#[derive(Default)]
struct Lines {
    begun: [String; 2],
}

impl Lines {
    fn show(&mut self, is_error: bool, text: &str, name: &str) -> Result<()> {
        let begun = &mut self.begun[usize::from(is_error)];
        begun.push_str(text);
        while let Some(at) = begun.find('\n') {
            let line: String = begun.drain(..=at).collect();
            put(is_error, &format!("{name}: {line}"))?;
        }
        Ok(())
    }

    fn end(&mut self, name: Option<&str>) -> Result<()> {
        for (at, begun) in self.begun.iter_mut().enumerate() {
            if let (Some(name), false) = (name, begun.is_empty()) {
                put(at == 1, &format!("{name}: {begun}\n"))?;
            }
            begun.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_line_that_the_shell_reads_as_it_was_typed() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(line(&words(&["echo a | wc"])), "echo a | wc");
        assert_eq!(line(&words(&["echo", "a b", "it's", ""])), "echo 'a b' 'it'\\''s' ''");
        assert_eq!(line(&words(&["ls", "-l", "/tmp"])), "ls -l /tmp");
    }

    #[test]
    fn the_exit_code_is_the_commands_own_where_it_has_one() {
        let attempt = |code: Option<i64>| json!({ "exit_code": code });
        assert_eq!(code_of(TaskState::Succeeded, None), 0);
        assert_eq!(code_of(TaskState::Failed, Some(&attempt(Some(3)))), 3);
        assert_eq!(code_of(TaskState::TimedOut, Some(&attempt(None))), 1);
        assert_eq!(code_of(TaskState::Lost, Some(&attempt(Some(0)))), 1);
    }

    #[test]
    fn a_node_is_chosen_by_its_tags_and_what_it_can() {
        let node = json!({ "tags": { "role": "web" }, "capabilities": ["gpu"], "ceiling": "shell" });
        assert!(has(&node, "role=web") && has(&node, "gpu") && !has(&node, "role=db"));
        let listed = json!({ "tags": ["web", "site=a"] });
        assert!(has(&listed, "web") && has(&listed, "site=a") && !has(&listed, "b"));
        assert!(can_run(&node) && !can_run(&listed));
    }
}
