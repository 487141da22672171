//! Machines that were heard and have not joined: who is out there, and what can be done about each.
//!
//! It decides nothing: how far a machine has come is what the roster says.

use askama::Template;
use caelum_model::cluster::{Machine, MachineKind, MachineState};

use super::{block::Block, format, frame, mark::Status, picture::Picture, words};

/// Machines that are listed at most; a network with more is looked at through the API.
const ROWS_MAX: usize = 200;

/// What can be done about a machine.
enum Act {
    /// It runs Caelum and belongs to nobody: it can be made a node with the code that it shows.
    Adopt { href: String },
    /// It can be dialled at this address.
    Connect { host: String, port: u16 },
    /// Nothing.
    None,
}

struct Row {
    id: String,
    name: String,
    address: String,
    kind: &'static str,
    cluster: String,
    heard: String,
    status: Status,
    word: &'static str,
    reason: String,
    act: Act,
}

#[derive(Template)]
#[template(path = "blocks/discovered.html")]
struct Discovered {
    rows: Vec<Row>,
    all: usize,
    more: usize,
    is_discovering: bool,
    may_operate: bool,
}

/// Draws the list.
pub fn block(picture: &Picture, may_operate: bool) -> Block {
    let mut machines: Vec<&Machine> = strangers(picture).collect();
    machines.sort_by(|a, b| (&a.hostname, &a.machine_id).cmp(&(&b.hostname, &b.machine_id)));
    let all = machines.len();
    let rows: Vec<Row> =
        machines.into_iter().take(ROWS_MAX).map(|machine| row(picture, machine, may_operate)).collect();
    let template = Discovered {
        more: all - rows.len(),
        rows,
        all,
        is_discovering: picture.scene.is_discovering,
        may_operate,
    };
    Block::render("discovered", "Discovered", &template)
}

/// Machines that were heard and are no nodes.
pub fn strangers(picture: &Picture) -> impl Iterator<Item = &Machine> {
    picture.scene.roster.machines.iter().filter(|machine| machine.state != MachineState::Joined)
}

/// Whether a machine waits for somebody to type its code.
pub fn is_adoptable(machine: &Machine) -> bool {
    machine.kind == MachineKind::Caelum
        && machine.cluster_id.is_empty()
        && matches!(machine.state, MachineState::Discovered | MachineState::Rejected)
}

/// The name it gives itself, else its id.
pub fn name_of(machine: &Machine) -> &str {
    if machine.hostname.is_empty() { &machine.machine_id } else { &machine.hostname }
}

fn row(picture: &Picture, machine: &Machine, may_operate: bool) -> Row {
    let (status, word) = words::found(machine);
    let heard_ms = (machine.last_seen * 1000.0) as i64;
    let is_there = matches!(machine.state, MachineState::Discovered | MachineState::Rejected);
    let act = if !may_operate || !is_there {
        Act::None
    } else if is_adoptable(machine) {
        let path = format!("/machines?adopt={}", frame::encode(&machine.machine_id));
        Act::Adopt { href: picture.scene.span.link(&path) }
    } else if machine.websocket_port != 0 {
        Act::Connect { host: machine.sender_ip.clone(), port: machine.websocket_port }
    } else {
        Act::None
    };
    Row {
        id: machine.machine_id.clone(),
        name: name_of(machine).to_owned(),
        address: machine.sender_ip.clone(),
        kind: match machine.kind {
            MachineKind::Caelum => "Caelum",
            MachineKind::CaelumAnalytics => "Caelum Analytics",
            MachineKind::CaelumCluster => "Caelum cluster",
        },
        cluster: if machine.cluster_name.is_empty() { &machine.cluster_id } else { &machine.cluster_name }
            .clone(),
        heard: format::duration(picture.scene.now_ms.saturating_sub(heard_ms)),
        status,
        word,
        reason: machine.reason.clone().unwrap_or_default(),
        act,
    }
}
