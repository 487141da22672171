//! Machines: which do I have, and how are they?

use askama::Template;
use caelum_model::{
    cluster::{Ceiling, NodeRole},
    node::Metric,
};
use serde::Deserialize;

use super::{
    block::Block,
    discovered, format,
    frame::{self, Frame, Place, Reader, Theme},
    mark::Status,
    picture::{Machine, Picture},
    plot::Spark,
    tiles::{self, Meter},
    words,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "machines,discovered";

/// What the address says about the list.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Filter {
    /// Only machines with this status.
    pub status: Option<String>,
    /// Only machines whose name, address or role contains this.
    pub q: Option<String>,
    /// What they are ordered by; `-` before it turns the order round.
    pub sort: Option<String>,
    /// The machine whose adoption is asked for; opens the dialog without a script.
    pub adopt: Option<String>,
    /// `machine` or `search`: what else is open from the start.
    pub ask: Option<String>,
}

#[derive(Template)]
#[template(path = "pages/machines.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    machines: Block,
    discovered: Block,
    may_operate: bool,
    is_discovering: bool,
    is_adding: bool,
    is_searching: bool,
    sweep: usize,
    /// Id and name of the machine whose adoption is asked for.
    adopting: Option<(String, String)>,
    add_href: String,
    list_href: String,
}

/// The page.
pub fn page(picture: &Picture, reader: Reader, filter: &Filter) -> impl Template + use<> {
    let theme = reader.theme;
    let verdict = frame::heading(&words::machines(picture));
    let scene = &picture.scene;
    let may_operate = reader.may_operate;
    let adopting = filter.adopt.as_deref().and_then(|id| {
        let found = discovered::strangers(picture).find(|machine| machine.machine_id == id)?;
        discovered::is_adoptable(found)
            .then(|| (found.machine_id.clone(), discovered::name_of(found).to_owned()))
    });
    let path = filter.path(filter.status.as_deref(), filter.sort.as_deref());
    Page {
        frame: Frame::new(picture, reader, Place::Machines, "Machines", verdict, &path, TOPICS),
        theme,
        machines: machines(picture, filter),
        discovered: discovered::block(picture, may_operate),
        may_operate,
        is_discovering: scene.is_discovering,
        is_adding: filter.ask.as_deref() == Some("machine"),
        is_searching: filter.ask.as_deref() == Some("search"),
        sweep: scene.sweep,
        adopting,
        add_href: scene.span.link("/machines?ask=machine"),
        list_href: scene.span.link(&path),
    }
}

impl Filter {
    /// The page's address with this status and order, and the filter text kept.
    fn path(&self, status: Option<&str>, sort: Option<&str>) -> String {
        let mut query = Vec::new();
        for (name, value) in [("status", status), ("q", self.q.as_deref()), ("sort", sort)] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                query.push(format!("{name}={}", frame::encode(value)));
            }
        }
        if query.is_empty() { "/machines".to_owned() } else { format!("/machines?{}", query.join("&")) }
    }

    fn matches(&self, machine: &Machine) -> bool {
        let wanted = self.q.as_deref().unwrap_or_default().trim().to_lowercase();
        let status_fits =
            self.status.as_deref().is_none_or(|level| level.is_empty() || machine.status.level() == level);
        let node = &machine.node;
        let mut texts = [&node.name, &node.identity.hostname]
            .into_iter()
            .chain(&node.identity.addresses)
            .chain(&node.roles);
        status_fits && (wanted.is_empty() || texts.any(|text| text.to_lowercase().contains(&wanted)))
    }
}

struct Tab {
    href: String,
    name: &'static str,
    count: usize,
    current: bool,
}

struct Column {
    name: &'static str,
    class: &'static str,
    href: String,
    /// `ascending`, `descending` or nothing.
    sorted: &'static str,
}

struct Row {
    name: String,
    href: String,
    address: String,
    status: Status,
    meters: Option<[Meter; 3]>,
    spark: Spark,
    load: String,
    load_level: &'static str,
    services: String,
    tags: Vec<String>,
    age: String,
    gone: String,
}

#[derive(Template)]
#[template(path = "blocks/machines.html")]
struct Machines {
    rows: Vec<Row>,
    tabs: Vec<Tab>,
    columns: Vec<Column>,
    all: usize,
    q: String,
    status: String,
    sort: String,
    range: String,
    clear: String,
}

/// Draws the table.
pub fn machines(picture: &Picture, filter: &Filter) -> Block {
    let span = &picture.scene.span;
    let mut shown: Vec<&Machine> =
        picture.machines.iter().filter(|machine| filter.matches(machine)).collect();
    let sort = filter.sort.as_deref().unwrap_or("name");
    let (key, down) = sort.strip_prefix('-').map_or((sort, false), |key| (key, true));
    let number = |value: Option<f64>| value.unwrap_or(-1.0);
    shown.sort_by(|a, b| {
        let of = |machine: &Machine| match key {
            "cpu" => number(machine.node.sample.as_ref().map(|s| s.cpu_percent)),
            "memory" => number(machine.node.sample.as_ref().and_then(|s| s.memory.percent())),
            "disk" => number(machine.node.sample.as_ref().and_then(|s| s.disk_percent())),
            "load" => number(machine.node.sample.as_ref().map(|s| s.load_average[0])),
            "status" => f64::from(machine.status as u8),
            _ => 0.0,
        };
        let order = of(a).total_cmp(&of(b));
        let order = if down { order.reverse() } else { order };
        let names = a.node.name.cmp(&b.node.name);
        order.then(if down && key == "name" { names.reverse() } else { names })
    });
    let tabs = [
        (None, "All"),
        (Some(Status::Ok), "Healthy"),
        (Some(Status::Warn), "Warning"),
        (Some(Status::Crit), "Critical"),
        (Some(Status::Off), "Offline"),
    ]
    .into_iter()
    .map(|(status, name)| {
        let level = status.map(Status::level);
        Tab {
            href: span.link(&filter.path(level, filter.sort.as_deref())),
            name,
            count: picture.machines.iter().filter(|m| status.is_none_or(|status| m.status == status)).count(),
            current: filter.status.as_deref().filter(|text| !text.is_empty()) == level,
        }
    })
    .collect();
    let columns = [
        ("name", "Machine", ""),
        ("status", "Status", ""),
        ("cpu", "CPU", "c-cpu"),
        ("memory", "Memory", "c-mem"),
        ("disk", "Disk", "c-disk"),
        ("load", "Load", "num c-load"),
    ]
    .into_iter()
    .map(|(column, name, class)| {
        // Numbers are first ordered with the largest on top, names from the start of the alphabet.
        let first_down = !matches!(column, "name");
        let next = match (column == key, down) {
            (true, true) => column.to_owned(),
            (true, false) => format!("-{column}"),
            (false, _) if first_down => format!("-{column}"),
            (false, _) => column.to_owned(),
        };
        Column {
            name,
            class,
            href: span.link(&filter.path(filter.status.as_deref(), Some(&next))),
            sorted: if column != key {
                ""
            } else if down {
                "descending"
            } else {
                "ascending"
            },
        }
    })
    .collect();
    let template = Machines {
        rows: shown.into_iter().map(|machine| row(picture, machine)).collect(),
        tabs,
        columns,
        all: picture.machines.len(),
        q: filter.q.clone().unwrap_or_default(),
        status: filter.status.clone().unwrap_or_default(),
        sort: filter.sort.clone().unwrap_or_default(),
        range: span.range.as_str().to_owned(),
        clear: span.link("/machines"),
    };
    Block::render("machines", "Machines", &template)
}

fn row(picture: &Picture, machine: &Machine) -> Row {
    let node = &machine.node;
    let load_level = machine.issues.iter().find(|issue| issue.metric == Metric::Load);
    let mut tags = node.roles.clone();
    tags.truncate(4);
    // What a node may be and lets others do is said where it is not the usual.
    tags.extend(
        node.links.role.filter(|role| *role == NodeRole::Beacon).map(|role| role.as_str().to_owned()),
    );
    if node.links.ceiling > Ceiling::Observe {
        tags.push(format!("up to {}", node.links.ceiling.as_str()));
    }
    let services = &node.links.services;
    let running = services.iter().filter(|service| service.status == "running").count();
    let gone = machine.issues.iter().find_map(words::gone);
    Row {
        name: node.name.clone(),
        href: picture.scene.span.link(&frame::machine_link(&node.name)),
        address: node.identity.addresses.first().cloned().unwrap_or_default(),
        status: machine.status,
        meters: tiles::meters(machine).filter(|_| machine.status != Status::Off),
        spark: Spark::draw(&machine.spark, 0.0, 100.0),
        load: node
            .sample
            .as_ref()
            .map_or_else(|| format::ABSENT.to_owned(), |s| format!("{:.2}", s.load_average[0])),
        load_level: load_level.map_or("", |issue| match Status::from(issue.severity) {
            Status::Crit => "x",
            _ => "w",
        }),
        services: if services.is_empty() {
            String::new()
        } else {
            format!("{running} of {}", services.len())
        },
        tags,
        age: format::duration(machine.age_ms),
        gone: if let Some(why) = gone {
            format!("Gone: {why}. Last heard {} ago", format::duration(machine.age_ms))
        } else if node.sample.is_some() {
            format!("Silent since {}", picture.scene.zone.moment(node.seen_at_ms, picture.scene.now_ms))
        } else {
            "No sample yet".to_owned()
        },
    }
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, filter: &Filter, may_operate: bool) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&words::machines(picture)),
        "machines" => machines(picture, filter),
        "discovered" => discovered::block(picture, may_operate),
        _ => return None,
    })
}
