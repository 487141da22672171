//! `caelum fleet`: several servers, whether they live, and what stands before them.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};
use caelum_drivers::tls;
use caelum_engine::timestamp;
use caelum_roles::master_key::make_master_key;
use reqwest::Method;
use serde_json::{Value, json};

use super::cluster::{list, text};
use crate::{
    arguments::{self, BalancerKind, BalancerTls, Fleet},
    client::Client,
    exit::Exit,
    output,
};

/// Asks a server about its fleet.
pub async fn run(command: Fleet) -> Result<Exit> {
    match command {
        Fleet::Status(client) => {
            let status = ask(&client, "/api/fleet/cluster/status").await?;
            show(&client, &status, &said(&status))?;
            Ok(Exit::Fine)
        }
        Fleet::Nodes(client) => {
            let nodes = ask(&client, "/api/fleet/cluster/nodes").await?;
            show(&client, &nodes, &table(&nodes))?;
            Ok(Exit::Fine)
        }
        Fleet::Health(client) => {
            let check = ask(&client, "/api/fleet/cluster/health-check").await?;
            show(&client, &check, &measured(&check))?;
            Ok(if check["overall"] == "unhealthy" { Exit::Failed } else { Exit::Fine })
        }
        Fleet::Key(client) => {
            let key = ask(&client, "/api/fleet/master-key").await?;
            show(&client, &key, &of_key(&key))?;
            Ok(Exit::Fine)
        }
        Fleet::RotateKey { finish: true, force, client, .. } => {
            let asked = json!({ "force": force });
            let server = Client::new(&client)?;
            let done = server.ask(Method::POST, "/api/fleet/master-key/finish", Some(&asked)).await?;
            let mut words = format!("the old master key opens nothing any more; {} holds\n", number(&done));
            for shut_out in done["shut_out"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                words.push_str(&format!("shut out: {}\n", output::plain(shut_out)));
            }
            show(&client, &done, &words)?;
            Ok(Exit::Fine)
        }
        Fleet::RotateKey { key_file, finish: false, force, client } => {
            let server = Client::new(&client)?;
            // Before anything is asked: a key that nobody kept would be lost.
            let given = key_file.as_deref().map(key_of).transpose()?;
            let asked = json!({ "master_key": given, "force": force });
            let done = server.ask(Method::POST, "/api/fleet/master-key/rotate", Some(&asked)).await?;
            show(&client, &done, &rotated(&done, key_file.as_deref()))?;
            Ok(Exit::Fine)
        }
        Fleet::LoadBalancer { kind, tls, port, client } => {
            let kind = match kind {
                BalancerKind::Haproxy => "haproxy",
                BalancerKind::Nginx => "nginx",
            };
            let tls = match tls {
                BalancerTls::Passthrough => "passthrough",
                BalancerTls::Terminate => "terminate",
            };
            let asked = json!({ "kind": kind, "tls": tls, "port": port });
            let server = Client::new(&client)?;
            let written = server.text(Method::POST, "/api/fleet/load-balancer", Some(&asked)).await?;
            let shown =
                if client.json { format!("{:#}\n", json!({ "configuration": written })) } else { written };
            output::print(&shown)?;
            Ok(Exit::Fine)
        }
    }
}

/// The key in a file; where there is none, one is made there.
fn key_of(file: &Path) -> Result<String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = make_master_key();
            tls::write_secret(file, made.as_bytes()).with_context(|| format!("write {}", file.display()))?;
            Ok(made)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

fn number(done: &Value) -> String {
    format!("number {}", done["generation"])
}

fn rotated(done: &Value, file: Option<&Path>) -> String {
    let mut words = format!(
        "everything secret in the records is sealed under a new master key, {}; each server takes it up by itself\n",
        number(done)
    );
    if let Some(file) = file {
        words.push_str(&format!(
            "it is in {}: set it where servers find theirs in cluster.cluster_secret or a credential, and restart \
             these\n",
            file.display()
        ));
    }
    if let Some(lost) = done["not_opened"].as_u64().filter(|lost| *lost > 0) {
        words.push_str(&format!("{lost} secrets of notices did not open with the old key: set them again\n"));
    }
    words.push_str(
        "see `caelum fleet key`; when no server waits, end the hand-over with `caelum fleet rotate-key --finish`, and \
         keep a copy of secrets/master.key with your backups\n",
    );
    words
}

fn of_key(key: &Value) -> String {
    let mut words = format!("master key {}", number(key));
    if let (Some(at_ms), Some(by)) = (key["changed_at_ms"].as_i64(), key["changed_by"].as_str()) {
        words.push_str(&format!(", made {} by {}", timestamp::iso(at_ms), output::plain(by)));
    }
    words.push_str(match key["handing_over"] == true {
        true => "; the key before it is still good for taking it up\n\n",
        false => "; no other opens anything\n\n",
    });
    let holders = list(key, "servers").map(|server| {
        let number = server["generation"].as_u64().map_or("unknown".to_owned(), |number| number.to_string());
        let waits = server["waits"].as_str().unwrap_or_default();
        let (place, waits) = (text(&server["place"]), output::plain(waits));
        vec![text(&server["node_id"]), text(&server["name"]), text(&server["status"]), number, place, waits]
    });
    let rows: Vec<Vec<String>> = holders.collect();
    words + &output::table(&["ID", "NAME", "STATUS", "KEY", "FROM", "WAITS BECAUSE IT"], &rows)
}

async fn ask(client: &arguments::Client, path: &str) -> Result<Value> {
    Client::new(client)?.ask(Method::GET, path, None).await
}

fn show(client: &arguments::Client, answer: &Value, words: &str) -> Result<()> {
    output::print(&if client.json { format!("{answer:#}\n") } else { words.to_owned() })
}

fn said(status: &Value) -> String {
    if status["enabled"] != true {
        return format!("{}\n", text(&status["message"]));
    }
    let mut words = format!(
        "{} of {} servers live; they coordinate by {} at {}\n",
        status["active_nodes"],
        status["total_nodes"],
        text(&status["backend"]),
        output::plain(&text(&status["address"])),
    );
    if let Some(error) = status["error"].as_str() {
        words.push_str(&format!("This server does not see the others: {}\n", output::plain(error)));
    }
    let waiting = list(&status["master_key"], "servers").filter(|server| server["waits"].is_string());
    for server in waiting {
        let (name, waits) = (text(&server["name"]), text(&server["waits"]));
        words.push_str(&output::plain(&format!("Master key: {name} {waits}")));
        words.push('\n');
    }
    words.push('\n');
    words + &table(status)
}

fn table(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(answer, "nodes")
        .map(|node| {
            let places: Vec<&str> =
                node["servers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let heard = match node["last_heartbeat_age_ms"].as_i64() {
                Some(age_ms) => format!("{} s ago", age_ms / 1_000),
                None => "never".to_owned(),
            };
            let own = if node["is_this"] == true { " (this one)" } else { "" };
            vec![
                text(&node["node_id"]),
                format!("{}{own}", text(&node["name"])),
                text(&node["status"]),
                heard,
                text(&node["version"]),
                places.join(" "),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "This server is alone.\n".to_owned();
    }
    output::table(&["ID", "NAME", "STATUS", "HEARD", "VERSION", "REACHED AT"], &rows)
}

fn measured(check: &Value) -> String {
    let line = |name: &str, part: &Value| match (part["latency_ms"].as_f64(), part["error"].as_str()) {
        (Some(ms), _) => format!("{name:<9} {ms:.1} ms  {}\n", output::plain(&text(&part["host"]))),
        (None, Some(error)) => format!("{name:<9} {}\n", output::plain(error)),
        (None, None) => format!("{name:<9} not measured\n"),
    };
    let mut words = format!("{}\n\n", text(&check["overall"]));
    words.push_str(&line("backend", &check["backend"]));
    let mut records = check["records"].clone();
    records["host"] = json!("");
    words.push_str(&line("records", &records));
    for detail in check["failover"]["details"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        words.push_str(&format!("{:<9} {}\n", "", output::plain(detail)));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_told_with_who_lives_and_what_is_wrong() {
        let status = json!({
            "enabled": true, "backend": "redis", "address": "redis://db:6379", "error": "away",
            "active_nodes": 1, "total_nodes": 2,
            "nodes": [
                { "node_id": "n-a", "name": "one", "status": "active", "servers": ["a:1"], "version": "1",
                  "last_heartbeat_age_ms": 2_500, "is_this": true },
                { "node_id": "n-b", "name": "two", "status": "inactive", "servers": [], "version": null,
                  "last_heartbeat_age_ms": null, "is_this": false },
            ],
        });
        let words = said(&status);
        for expected in
            ["1 of 2 servers live", "redis://db:6379", "away", "one (this one)", "2 s ago", "never"]
        {
            assert!(words.contains(expected), "{words}");
        }
        assert_eq!(said(&json!({ "enabled": false, "message": "alone" })), "alone\n");
    }

    #[test]
    fn a_key_is_told_by_its_number_with_who_waits_for_what() {
        let words = of_key(&json!({
            "generation": 2, "changed_at_ms": 0, "changed_by": "ada", "handing_over": true,
            "servers": [
                { "node_id": "n-a", "name": "one", "status": "active", "generation": 2, "place": "file",
                  "waits": null },
                { "node_id": "n-b", "name": "two", "status": "inactive", "generation": null, "place": null,
                  "waits": "is away" },
            ],
        }));
        for expected in ["number 2", "1970-01-01", "by ada", "still good", "unknown", "is away"] {
            assert!(words.contains(expected), "{words}");
        }
        let words = rotated(&json!({ "generation": 3, "not_opened": 1 }), Some(Path::new("new.key")));
        for expected in ["number 3", "new.key", "set them again", "rotate-key --finish"] {
            assert!(words.contains(expected), "{words}");
        }
    }

    #[test]
    fn a_key_is_made_in_a_file_that_only_its_owner_reads_and_found_there_again() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("new.key");
        let made = key_of(&file).expect("made");
        assert_eq!(key_of(&file).expect("found"), made);
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o077, 0);
        assert!(key_of(folder.path()).is_err(), "a folder is no key");
    }

    #[test]
    fn a_check_says_what_was_measured_and_what_could_not_be() {
        let words = measured(&json!({
            "overall": "degraded",
            "backend": { "latency_ms": 1.25, "host": "redis://db", "error": null },
            "records": { "latency_ms": null, "error": "no answer in 2 s" },
            "failover": { "details": ["no other server could take over"] },
        }));
        for expected in ["degraded", "1.2 ms", "no answer in 2 s", "take over"] {
            assert!(words.contains(expected), "{words}");
        }
    }
}
