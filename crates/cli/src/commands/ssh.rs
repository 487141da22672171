//! `caelum ssh`: commands on other machines over SSH, and what they stand on.

use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    cluster::{list, text},
    counting::{age, now_ms},
    run::line,
};
use crate::{
    arguments::{self, SshAccept, SshAdd, SshBroadcast, SshCommand, SshExec},
    client::{Client, segment},
    exit::{Exit, Unreachable},
    output,
};

/// Time beyond a command's own that an answer may take: connecting, and being told to end.
const MARGIN: Duration = Duration::from_secs(90);

/// Does what was asked.
pub async fn run(command: SshCommand) -> Result<Exit> {
    match command {
        SshCommand::Exec(arguments) => execute(arguments).await,
        SshCommand::Broadcast(arguments) => broadcast(arguments).await,
        SshCommand::Pool { clean: false, client } => {
            show(Method::GET, "/api/ssh/pool/stats", None, &client, pool_text).await
        }
        SshCommand::Pool { clean: true, client } => {
            let text = |answer: &Value| pool_text(&answer["stats"]);
            show(Method::POST, "/api/ssh/pool/cleanup", None, &client, text).await
        }
        SshCommand::Hosts { client } => show(Method::GET, "/api/ssh/hosts", None, &client, hosts_text).await,
        SshCommand::Add(arguments) => add(arguments).await,
        SshCommand::Remove { host, client } => {
            let path = format!("/api/ssh/hosts?id={}", segment(&host));
            let said = |answer: &Value| format!("{} is removed.\n", output::plain(&text(&answer["name"])));
            show(Method::DELETE, &path, None, &client, said).await
        }
        SshCommand::KnownHosts { client } => {
            show(Method::GET, "/api/ssh/known-hosts", None, &client, known_text).await
        }
        SshCommand::Accept(arguments) => accept(arguments).await,
        SshCommand::Forget { host, port, client } => {
            let path = format!("/api/ssh/known-hosts?{}", place(&host, port));
            let said = |answer: &Value| format!("{} forgotten.\n", text(&answer["removed"]));
            show(Method::DELETE, &path, None, &client, said).await
        }
        SshCommand::Key { client } => {
            let said = |answer: &Value| format!("{}\n", text(&answer["public_key"]));
            show(Method::GET, "/api/ssh/key", None, &client, said).await
        }
        SshCommand::Ca { client } => {
            let said = |answer: &Value| format!("{}\n", text(&answer["authority"]));
            show(Method::GET, "/api/ssh/key", None, &client, said).await
        }
    }
}

/// Asks, and shows the answer: as it is with `--json`, else in words.
async fn show(
    method: Method,
    path: &str,
    body: Option<&Value>,
    arguments: &arguments::Client,
    words: impl Fn(&Value) -> String,
) -> Result<Exit> {
    let answer = Client::new(arguments)?.with_patience(MARGIN).ask(method, path, body).await?;
    output::print(&if arguments.json { format!("{answer:#}\n") } else { words(&answer) })?;
    Ok(Exit::Fine)
}

fn place(host: &str, port: Option<u16>) -> String {
    let port = port.map_or_else(String::new, |port| format!("&port={port}"));
    format!("host={}{port}", segment(host))
}

async fn execute(arguments: SshExec) -> Result<Exit> {
    let body = json!({
        "node_id": arguments.node, "command": line(&arguments.command), "timeout": arguments.timeout,
    });
    let patience = Duration::from_secs(arguments.timeout) + MARGIN;
    let server = Client::new(&arguments.client)?.with_patience(patience);
    let result = server.ask(Method::POST, "/api/ssh/execute", Some(&body)).await?;
    if arguments.client.json {
        output::print(&format!("{result:#}\n"))?;
    } else {
        output::print(result["stdout"].as_str().unwrap_or_default())?;
        output::complain(result["stderr"].as_str().unwrap_or_default());
        if let Some(error) = result["error"].as_str() {
            let node = output::plain(&text(&result["node"]));
            output::complain(&format!("caelum: {node}: {}: {}\n", words_of(&result), output::plain(error)));
        }
    }
    match result["return_code"].as_i64().and_then(|code| i32::try_from(code).ok()) {
        Some(0) => Ok(Exit::Fine),
        // The command's own code is no class of ours.
        Some(code) => std::process::exit(code),
        None if result["outcome"] == "unreachable" => Ok(Exit::Unreachable),
        None => Ok(Exit::Failed),
    }
}

fn words_of(result: &Value) -> String {
    text(&result["outcome"]).replace('_', " ")
}

async fn broadcast(arguments: SshBroadcast) -> Result<Exit> {
    let mut on = arguments.on.clone();
    // `all` is what stands where nothing was said.
    if on.len() > 1 {
        on.retain(|word| word != "all");
    }
    if arguments.dry_run {
        let path = format!("/api/ssh/targets?on={}", segment(&on.join(" ")));
        return show(Method::GET, &path, None, &arguments.client, targets_text).await;
    }
    let body = json!({ "command": line(&arguments.command), "on": on, "timeout": arguments.timeout });
    let patience = Duration::from_secs(arguments.timeout) + 10 * MARGIN;
    let server = Client::new(&arguments.client)?.with_patience(patience);
    let is_json = arguments.client.json;
    let (mut total, mut seen, mut done) = (0, 0, None);
    let followed = server.follow(Method::POST, "/api/ssh/broadcast", Some(&body), |name, value| {
        match name {
            "begin" => total = value["total_nodes"].as_u64().unwrap_or(0),
            "result" => {
                seen += 1;
                let said = if is_json { format!("{value}\n") } else { result_line(&value, seen, total) };
                if is_json {
                    return output::print(&said);
                }
                output::complain(&said);
            }
            "done" => done = Some(value),
            _ => {}
        }
        Ok(())
    });
    followed.await?;
    let Some(done) = done else {
        let missing = total.saturating_sub(seen);
        let what = format!(
            "the server went away before {missing} of {total} hosts had ended; whether the command ran there is in \
             the audit log and on the hosts"
        );
        return Err(Unreachable(what).into());
    };
    if is_json {
        output::print(&format!("{done}\n"))?;
    } else {
        output::print(&groups_text(&done))?;
    }
    Ok(if done["failed"] == 0 { Exit::Fine } else { Exit::Failed })
}

/// One host's end, while others still run.
fn result_line(result: &Value, seen: u64, total: u64) -> String {
    let code = result["return_code"].as_i64().filter(|code| *code != 0);
    let code = code.map_or_else(String::new, |code| format!(" {code}"));
    let width = total.to_string().len();
    format!(
        "[{seen:>width$}/{total}] {}: {}{code}, {} ms\n",
        output::plain(&text(&result["node"])),
        words_of(result),
        text(&result["duration_ms"])
    )
}

/// Everything that was written, equal words once.
fn groups_text(done: &Value) -> String {
    let mut said = String::new();
    for group in list(done, "groups") {
        let names: Vec<String> = list(group, "nodes").map(|name| output::plain(&text(name))).collect();
        let code = group["return_code"].as_i64().filter(|code| *code != 0);
        let code = code.map_or_else(String::new, |code| format!(" {code}"));
        said.push_str(&format!("=== {}{code} · {} · {}\n", words_of(group), names.len(), names.join(" ")));
        if let Some(error) = group["error"].as_str() {
            said.push_str(&format!("{}\n", output::plain(error)));
        }
        for stream in ["stdout", "stderr"] {
            let words = group[stream].as_str().unwrap_or_default();
            said.push_str(words);
            if !words.is_empty() && !words.ends_with('\n') {
                said.push('\n');
            }
        }
    }
    said.push_str(&format!("{} of {} hosts well\n", text(&done["successful"]), text(&done["total_nodes"])));
    said
}

fn targets_text(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(answer, "nodes")
        .map(|node| {
            let refusal = node["refusal"].as_str().unwrap_or("-").to_owned();
            vec![text(&node["name"]), text(&node["level"]), text(&node["connection"]), refusal]
        })
        .collect();
    format!("{}{} hosts\n", output::table(&["NAME", "LEVEL", "CONNECTION", "REFUSED"], &rows), rows.len())
}

fn pool_text(stats: &Value) -> String {
    let mut said = format!(
        "{} connections, {} idle, {} being made; {} commands run, {} wait\n\
         {} made, {} times used again, {} closed, {} failed\n",
        text(&stats["active_connections"]),
        text(&stats["idle_connections"]),
        text(&stats["connecting"]),
        text(&stats["running"]),
        text(&stats["waiting"]),
        text(&stats["total_created"]),
        text(&stats["total_reused"]),
        text(&stats["total_closed"]),
        text(&stats["total_failed"]),
    );
    let pools = stats["pools"].as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = pools.map(|(place, count)| vec![place.clone(), text(count)]).collect();
    if !rows.is_empty() {
        said.push_str(&output::table(&["HOST", "CONNECTIONS"], &rows));
    }
    said
}

fn hosts_text(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(answer, "hosts")
        .map(|host| {
            let tags: Vec<String> = list(host, "tags").map(text).collect();
            let user = host["user"].as_str().unwrap_or("-").to_owned();
            vec![text(&host["name"]), text(&host["address"]), text(&host["port"]), user, tags.join(" ")]
        })
        .collect();
    if rows.is_empty() {
        return "No host without an agent; `caelum ssh add` adds one.\n".to_owned();
    }
    output::table(&["NAME", "ADDRESS", "PORT", "USER", "TAGS"], &rows)
}

fn known_text(answer: &Value) -> String {
    let now_ms = now_ms();
    let rows: Vec<Vec<String>> = list(answer, "entries")
        .map(|entry| {
            let since = entry["at_ms"].as_i64().map_or_else(|| "-".to_owned(), |at_ms| age(now_ms - at_ms));
            vec![
                text(&entry["host"]),
                text(&entry["port"]),
                text(&entry["fingerprint"]),
                text(&entry["origin"]),
                text(&entry["by"]),
                since,
            ]
        })
        .collect();
    if rows.is_empty() {
        return "No host key is known; `caelum ssh accept HOST` shows and accepts one.\n".to_owned();
    }
    output::table(&["HOST", "PORT", "FINGERPRINT", "ORIGIN", "BY", "SINCE"], &rows)
}

async fn add(arguments: SshAdd) -> Result<Exit> {
    let body = json!({
        "name": arguments.name, "address": arguments.address, "port": arguments.port,
        "user": arguments.user, "tags": arguments.tag,
    });
    let said = |host: &Value| {
        let (name, address) = (output::plain(&text(&host["name"])), output::plain(&text(&host["address"])));
        format!("{name} is added, at {address} port {}.\n", text(&host["port"]))
    };
    show(Method::POST, "/api/ssh/hosts", Some(&body), &arguments.client, said).await
}

async fn accept(arguments: SshAccept) -> Result<Exit> {
    let SshAccept { host, port, fingerprint, key, client } = arguments;
    if fingerprint.is_none() && key.is_none() {
        let path = format!("/api/ssh/host-key?{}", place(&host, port));
        let shown = Client::new(&client)?.with_patience(MARGIN).ask(Method::GET, &path, None).await?;
        if client.json {
            output::print(&format!("{shown:#}\n"))?;
            return Ok(Exit::Fine);
        }
        let fingerprint = text(&shown["offered_fingerprint"]);
        let port = port.map_or_else(String::new, |port| format!(" --port {port}"));
        output::print(&format!(
            "{host} shows the key {fingerprint}\nCompare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` \
             says there. If they are the same:\n  caelum ssh accept {host}{port} --fingerprint {fingerprint}\n"
        ))?;
        return Ok(Exit::Fine);
    }
    let body = json!({ "entries": [{ "host": host, "port": port, "key": key, "fingerprint": fingerprint }] });
    let answer = Client::new(&client)?
        .with_patience(MARGIN)
        .ask(Method::POST, "/api/ssh/known-hosts", Some(&body))
        .await?;
    let Some(entry) = list(&answer, "entries").next() else { bail!("the server accepted nothing") };
    let said = format!(
        "{} port {} may show the key {} from now on.\n",
        output::plain(&text(&entry["host"])),
        text(&entry["port"]),
        output::plain(&text(&entry["fingerprint"]))
    );
    output::print(&if client.json { format!("{answer:#}\n") } else { said })?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_ends_with_what_went_wrong_first_and_each_word_once() {
        let done = json!({ "successful": 2, "total_nodes": 3, "failed": 1, "groups": [
            { "outcome": "unreachable", "return_code": null, "error": "no answer", "stdout": "", "stderr": "",
              "nodes": ["c"] },
            { "outcome": "ok", "return_code": 0, "error": null, "stdout": "12", "stderr": "", "nodes": ["a", "b"] },
        ] });
        assert_eq!(
            groups_text(&done),
            "=== unreachable · 1 · c\nno answer\n=== ok · 2 · a b\n12\n2 of 3 hosts well\n"
        );
    }

    #[test]
    fn a_host_that_ends_is_told_with_its_place_among_the_others() {
        let result =
            json!({ "node": "web-1", "outcome": "timed_out", "return_code": null, "duration_ms": 30 });
        assert_eq!(result_line(&result, 7, 200), "[  7/200] web-1: timed out, 30 ms\n");
    }
}
