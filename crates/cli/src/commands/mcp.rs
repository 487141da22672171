//! `caelum mcp`: the tools of a server's `/mcp` over standard input and output, as assistants start programs.
//!
//! It understands no tool. Each line is a message; it goes to the server by HTTP with the token that this
//! process was given, and the answer comes back as a line. What cannot be sent is answered here, so that
//! whoever asked is not left waiting.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    task::JoinSet,
};

use crate::{arguments, client::Client, exit::Exit, output};

/// Longest message, bytes: what the server takes.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Calls under way at once; further lines wait to be read.
const CALLS_MAX: usize = 8;
/// What JSON-RPC 2.0 leaves to implementations begins here.
const CANNOT_ASK: i64 = -32_000;
/// JSON-RPC 2.0: what came is no JSON.
const NO_JSON: i64 = -32_700;

/// Passes messages on until there are no more.
pub async fn run(arguments: arguments::Client) -> Result<Exit> {
    let bridge = Bridge { client: Client::new(&arguments)?.for_long_calls(), version: Mutex::default() };
    let bridge = Arc::new(bridge);
    let mut lines = BufReader::new(tokio::io::stdin());
    let mut calls: JoinSet<Result<()>> = JoinSet::new();
    loop {
        while calls.len() >= CALLS_MAX {
            calls.join_next().await.context("wait for a call")?.context("a call broke off")??;
        }
        let mut line = Vec::new();
        let limit = MESSAGE_BYTES_MAX as u64 + 1;
        let read =
            (&mut lines).take(limit).read_until(b'\n', &mut line).await.context("read standard input")?;
        if read == 0 {
            break;
        }
        if line.len() > MESSAGE_BYTES_MAX {
            anyhow::bail!("a message is longer than {MESSAGE_BYTES_MAX} bytes");
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Value>(&line) {
            Err(error) => say(&failed(&Value::Null, NO_JSON, &format!("the line is no JSON: {error}")))?,
            // The version that it settles on is needed by whatever comes next.
            Ok(message) if message["method"] == "initialize" => bridge.pass(message).await?,
            Ok(message) => {
                let bridge = Arc::clone(&bridge);
                calls.spawn(async move { bridge.pass(message).await });
            }
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended.context("a call broke off")??;
    }
    Ok(Exit::Fine)
}

struct Bridge {
    client: Client,
    /// What was agreed on at the beginning.
    version: Mutex<Option<String>>,
}

impl Bridge {
    async fn pass(&self, message: Value) -> Result<()> {
        let answer = match self.client.message("/mcp", &message, &self.headers(&message)).await {
            Ok(answer) => answer,
            // A notification has no number, and nobody waits for what becomes of it.
            Err(error) if message["id"].is_null() => {
                output::complain(&format!("{error:#}"));
                return Ok(());
            }
            Err(error) => Some(failed(&message["id"], CANNOT_ASK, &format!("{error:#}"))),
        };
        let Some(answer) = answer else { return Ok(()) };
        if let Some(version) = answer["result"]["protocolVersion"].as_str() {
            *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version.to_owned());
        }
        say(&answer)
    }

    /// What streamable HTTP wants to see outside the message (MCP 2025-06-18 and 2026-07-28).
    fn headers(&self, message: &Value) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        let own = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
        let agreed = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(version) = own.map(str::to_owned).or(agreed) {
            headers.push(("mcp-protocol-version", version));
        }
        if let Some(method) = message["method"].as_str() {
            headers.push(("mcp-method", method.to_owned()));
        }
        if let Some(name) = message["params"]["name"].as_str().or(message["params"]["uri"].as_str()) {
            headers.push(("mcp-name", name.to_owned()));
        }
        headers
    }
}

fn failed(id: &Value, code: i64, why: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": why } })
}

/// One answer is one line.
fn say(answer: &Value) -> Result<()> {
    output::print(&format!("{answer}\n"))
}
