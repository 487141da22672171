//! `caelum top`: how the nodes fare, redrawn in place.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Context as _, Result};
use reqwest::Method;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::cluster::{list, percent, rtt, text};
use crate::{arguments::Top, client::Client, exit::Exit, output};

/// Shortest time between two looks.
const INTERVAL_MIN_MS: u64 = 500;

/// Enters a screen of its own without a cursor, and leaves it with the old one as it was.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";
/// To the first place, and what is below is gone.
const HOME: &str = "\u{1b}[H";
const CLEAR_BELOW: &str = "\u{1b}[J";
const CLEAR_LINE: &str = "\u{1b}[K";

/// The screen, given back however this ends.
struct Screen;

impl Screen {
    fn enter() -> Result<Self> {
        output::print(ENTER)?;
        Ok(Self)
    }

    fn draw(text: &str) -> Result<()> {
        let lines: String =
            text.lines().take(height()).map(|line| format!("{line}{CLEAR_LINE}\r\n")).collect();
        output::print(&format!("{HOME}{}{CLEAR_BELOW}", lines.trim_end_matches("\r\n")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone away needs nothing back.
        drop(output::print(LEAVE));
    }
}

/// Shows the nodes until somebody has seen enough.
pub async fn run(arguments: Top) -> Result<Exit> {
    let client = Client::new(&arguments.client)?;
    let is_live = !arguments.once && !arguments.client.json && io::stdout().is_terminal();
    if !is_live {
        let (nodes, topology) = look(&client).await?;
        let text = match arguments.client.json {
            true => format!("{nodes:#}\n"),
            false => table(&nodes, &topology),
        };
        output::print(&text)?;
        return Ok(Exit::Fine);
    }
    let mut asked_to_end = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    // A server that cannot be asked at all is said before the screen is taken.
    let mut seen = look(&client).await.map(|(nodes, topology)| table(&nodes, &topology))?;
    let interval = Duration::from_millis(arguments.interval.unsigned_abs().max(INTERVAL_MIN_MS));
    let _screen = Screen::enter()?;
    let mut trouble = String::new();
    loop {
        Screen::draw(&format!("{seen}\n{trouble}Ctrl-C ends this\n"))?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Fine),
            _ = asked_to_end.recv() => return Ok(Exit::Fine),
            looked = async { tokio::time::sleep(interval).await; look(&client).await } => match looked {
                Ok((nodes, topology)) => (seen, trouble) = (table(&nodes, &topology), String::new()),
                // What was seen last stays, with the reason why it is old.
                Err(error) => trouble = format!("not updated: {}\n", output::plain(&error.to_string())),
            },
        }
    }
}

async fn look(client: &Client) -> Result<(Value, Value)> {
    let nodes = client.ask(Method::GET, "/api/nodes", None).await?;
    let topology = client.ask(Method::GET, "/api/cluster/topology", None).await?;
    Ok((nodes, topology))
}

fn table(nodes: &Value, topology: &Value) -> String {
    let rows: Vec<Vec<String>> = list(nodes, "nodes").map(|node| row(node, topology)).collect();
    output::table(&["NAME", "STATUS", "CPU", "MEMORY", "DISK", "LOAD", "ROUND TRIP"], &rows)
}

fn row(node: &Value, topology: &Value) -> Vec<String> {
    let touches = |edge: &&Value| edge["from"] == node["node_id"] || edge["to"] == node["node_id"];
    // Of several links the best is the one that counts: links that are not needed may be slow.
    let best =
        list(topology, "edges").filter(touches).filter_map(|edge| edge["rtt_ms"].as_f64()).reduce(f64::min);
    vec![
        text(&node["name"]),
        text(&node["status"]),
        percent(&node["cpu_usage"]),
        percent(&node["memory_usage"]),
        percent(&node["disk_usage"]),
        node["load_average"][0].as_f64().map_or_else(|| "-".to_owned(), |load| format!("{load:.2}")),
        rtt(&best.map_or(Value::Null, Value::from)),
    ]
}

/// Lines of the terminal; a usual number where it does not say.
fn height() -> usize {
    // SAFETY: winsize is plain numbers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes a winsize into the place that it is given, which outlives the call.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match asked == 0 && size.ws_row > 0 {
        true => usize::from(size.ws_row),
        false => 24,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_shown_with_the_round_trip_of_its_best_link() {
        let node = json!({"node_id": "n1", "name": "a", "status": "healthy", "cpu_usage": 12.4});
        let topology = json!({"edges": [{"from": "n1", "to": "n2", "rtt_ms": 9.0},
            {"from": "n0", "to": "n1", "rtt_ms": 1.25}, {"from": "n0", "to": "n2", "rtt_ms": 0.1},
            {"from": "n3", "to": "n1", "rtt_ms": null}]});
        assert_eq!(row(&node, &topology), ["a", "healthy", "12 %", "-", "-", "-", "1.2 ms"]);
        assert_eq!(row(&node, &json!({"edges": []}))[6], "-");
    }
}
