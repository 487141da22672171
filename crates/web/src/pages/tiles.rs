//! Machines as tiles: three meters each, ordered by name and never by status, so that things stay where
//! they were seen.

use askama::Template;
use caelum_model::node::Metric;

use super::{
    block::Block,
    format, frame,
    mark::{self, Status, StatusCount},
    picture::{Machine, Picture},
    words,
};

/// Tiles shown at most; the table has the rest.
const TILES_MAX: usize = 60;

struct Tile {
    name: String,
    href: String,
    status: Status,
    meters: Option<[Meter; 3]>,
    load: Option<String>,
    note: String,
}

/// A value in percent with its level.
pub struct Meter {
    /// What it is.
    pub name: &'static str,
    /// The value, absent when the machine has no such thing.
    pub text: String,
    /// Length of the bar.
    pub value: String,
    /// `warn`, `crit` or nothing.
    pub level: &'static str,
}

#[derive(Template)]
#[template(path = "blocks/tiles.html")]
struct Tiles {
    tiles: Vec<Tile>,
    legend: Vec<StatusCount>,
    count: usize,
    all: String,
}

/// The meters of processor, memory and the fullest disk, from the newest sample.
pub fn meters(machine: &Machine) -> Option<[Meter; 3]> {
    let sample = machine.node.sample.as_ref()?;
    let level = |metric| {
        let issue = machine.issues.iter().find(|issue| issue.metric == metric);
        issue.map_or("", |issue| Status::from(issue.severity).level())
    };
    let meter = |name, metric, value: Option<f64>| Meter {
        name,
        text: value.map_or_else(|| format::ABSENT.to_owned(), format::whole),
        value: value.map_or_else(|| "0".to_owned(), |value| format!("{:.1}", value.clamp(0.0, 100.0))),
        level: level(metric),
    };
    Some([
        meter("cpu", Metric::Cpu, Some(sample.cpu_percent)),
        meter("mem", Metric::Memory, sample.memory.percent()),
        meter("disk", Metric::Disk, sample.disk_percent()),
    ])
}

/// Draws the block.
pub fn block(picture: &Picture) -> Block {
    let span = &picture.scene.span;
    let tiles = picture
        .machines
        .iter()
        .take(TILES_MAX)
        .map(|machine| Tile {
            name: machine.node.name.clone(),
            href: span.link(&frame::machine_link(&machine.node.name)),
            status: machine.status,
            meters: meters(machine).filter(|_| machine.status != Status::Off),
            // A load has no meter of its own, and a red tile without a reason would be a riddle.
            load: machine
                .issues
                .iter()
                .find(|issue| issue.metric == Metric::Load)
                .map(|issue| words::issue(machine, issue)),
            note: match machine.status {
                Status::Off => format!("Silent for {}", format::duration(machine.age_ms)),
                _ => "No sample yet".to_owned(),
            },
        })
        .collect();
    let legend = [
        (Status::Ok, "healthy"),
        (Status::Warn, "warning"),
        (Status::Crit, "critical"),
        (Status::Off, "offline"),
    ]
    .into_iter()
    .map(|(status, word)| (status, picture.machines.iter().filter(|m| m.status == status).count(), word))
    .filter(|(_, count, _)| *count > 0)
    .map(|(status, count, word)| mark::status_count(status, count, word))
    .collect();
    let template = Tiles { tiles, legend, count: picture.machines.len(), all: span.link("/machines") };
    Block::render("tiles", "Machines", &template)
}
