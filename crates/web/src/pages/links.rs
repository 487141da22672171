//! Links as a table, and one of them looked at closer.
//!
//! What both ends report is one link; jitter, age and who dialled are known of this node's own links only.

use std::cmp::Reverse;

use askama::Template;
use caelum_model::cluster::LinkView;

use super::{
    block::Block,
    format,
    mark::Status,
    picture::Picture,
    topology::{Choice, key, member},
};
use crate::topology::{EdgeJson, TopologyJson};

/// Rows of the table at most.
const ROWS_MAX: usize = 200;

/// Our own measure of a link, where one of its ends is this node.
fn own_link<'a>(picture: &'a Picture, edge: &EdgeJson) -> Option<&'a LinkView> {
    let own = &picture.scene.node_id;
    let other = if edge.from == *own {
        &edge.to
    } else if edge.to == *own {
        &edge.from
    } else {
        return None;
    };
    member(picture, other)?.link.as_ref()
}

/// How a link stands, with the word for it.
fn state(edge: &EdgeJson) -> (Status, &'static str) {
    match (edge.status, edge.rtt_ms) {
        ("lossy", _) => (Status::Warn, "Losing packets"),
        (_, None) => (Status::Queue, "Not measured yet"),
        _ => (Status::Ok, "Up"),
    }
}

struct Column {
    name: &'static str,
    class: &'static str,
    href: String,
    sorted: &'static str,
}

struct Row {
    key: String,
    href: String,
    from: String,
    to: String,
    status: Status,
    word: &'static str,
    rtt: String,
    jitter: String,
    loss: String,
    is_lossy: bool,
    up: String,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "blocks/links.html")]
struct Links {
    rows: Vec<Row>,
    columns: Vec<Column>,
    all: usize,
    more: usize,
    is_sorted: bool,
}

/// Draws the table of links.
pub fn table(picture: &Picture, known: &TopologyJson, choice: &Choice) -> Block {
    let span = &picture.scene.span;
    let wanted = choice.sort.as_deref().unwrap_or_default();
    let (by, down) = wanted.strip_prefix('-').map_or((wanted, false), |by| (by, true));
    let mut edges: Vec<(&EdgeJson, Option<&LinkView>)> =
        known.edges.iter().map(|edge| (edge, own_link(picture, edge))).collect();
    let text =
        |edge: &EdgeJson, end: &str| known.name(if end == "to" { &edge.to } else { &edge.from }).to_owned();
    let number = |edge: &EdgeJson, link: Option<&LinkView>| -> f64 {
        let value = match by {
            "rtt" => edge.rtt_ms,
            "jitter" => link.and_then(|link| link.jitter_ms),
            "up" => link.map(|link| link.age_ms as f64),
            _ => edge.loss_pct,
        };
        value.unwrap_or(-1.0)
    };
    match by {
        "from" | "to" => edges.sort_by_cached_key(|(edge, _)| text(edge, by)),
        "rtt" | "jitter" | "loss" | "up" => {
            edges.sort_by(|a, b| number(a.0, a.1).total_cmp(&number(b.0, b.1)));
        }
        // The worst first: what loses most, then what takes longest.
        _ => edges.sort_by_key(|(edge, _)| {
            let whole = |value: Option<f64>| (value.unwrap_or(-1.0) * 1_000.0) as i64;
            (
                Reverse(if edge.status == "lossy" { whole(edge.loss_pct) } else { 0 }),
                Reverse(whole(edge.rtt_ms)),
            )
        }),
    }
    if down {
        edges.reverse();
    }
    let columns = [
        ("from", "From", "c-from"),
        ("to", "To", "c-to"),
        ("loss", "State", "c-st"),
        ("rtt", "Round trip", "num c-rtt"),
        ("jitter", "Jitter", "num c-jitter"),
        ("loss", "Loss", "num c-loss"),
        ("up", "Up for", "num c-up"),
    ]
    .into_iter()
    .map(|(column, name, class)| {
        let first_down = !matches!(column, "from" | "to");
        let is_by = column == by && name != "State";
        let next = match (is_by, down) {
            (true, true) => column.to_owned(),
            (true, false) => format!("-{column}"),
            (false, _) if first_down => format!("-{column}"),
            (false, _) => column.to_owned(),
        };
        let sorted = match (is_by, down) {
            (false, _) => "",
            (true, true) => "descending",
            (true, false) => "ascending",
        };
        Column { name, class, href: span.link(&choice.path(choice.link.as_deref(), Some(&next))), sorted }
    })
    .collect();
    let absent = || format::ABSENT.to_owned();
    let rows: Vec<Row> = edges
        .into_iter()
        .take(ROWS_MAX)
        .map(|(edge, link)| {
            let (status, word) = state(edge);
            let ms = |value: Option<f64>| {
                value.map_or_else(absent, |value| format::milliseconds(value).to_string())
            };
            Row {
                key: key(edge),
                href: span.link(&choice.path(Some(&key(edge)), choice.sort.as_deref())),
                from: known.name(&edge.from).to_owned(),
                to: known.name(&edge.to).to_owned(),
                status,
                word,
                rtt: ms(edge.rtt_ms),
                jitter: ms(link.and_then(|link| link.jitter_ms)),
                loss: edge.loss_pct.map_or_else(absent, |loss| format::percent(loss).to_string()),
                is_lossy: edge.status == "lossy",
                up: link.map_or_else(absent, |link| format::duration(link.age_ms)),
                chosen: choice.is(edge),
            }
        })
        .collect();
    let all = known.edges.len();
    let template = Links { more: all - rows.len(), rows, columns, all, is_sorted: !by.is_empty() };
    Block::render("links", "Links", &template)
}

#[derive(Template)]
#[template(path = "blocks/link.html")]
struct Panel {
    /// Whether a link was asked for.
    is_asked: bool,
    chosen: Option<Chosen>,
    clear: String,
}

struct Chosen {
    from: String,
    to: String,
    status: Status,
    word: &'static str,
    facts: Vec<(&'static str, String)>,
    source: String,
}

/// Draws the chosen link, or says how to choose one.
pub fn panel(picture: &Picture, known: &TopologyJson, choice: &Choice) -> Block {
    let edge = known.edges.iter().find(|edge| choice.is(edge));
    let chosen = edge.map(|edge| {
        let (status, word) = state(edge);
        let own = own_link(picture, edge);
        let mut facts = Vec::new();
        let ms = |value: f64| format::milliseconds(value).to_string();
        facts.extend(edge.rtt_ms.map(|rtt| ("Round trip", ms(rtt))));
        if let Some(link) = own {
            facts.extend(link.jitter_ms.map(|jitter| ("Jitter", ms(jitter))));
        }
        facts.extend(edge.loss_pct.map(|loss| ("Loss", format::percent(loss).to_string())));
        if let Some(link) = own {
            facts.push(("Up for", format::duration(link.age_ms)));
            facts.push((
                "Dialled by",
                if link.is_dialled { "this node" } else { "the other node" }.to_owned(),
            ));
            facts.push(("Other end", link.remote.to_string()));
        }
        let source = match own {
            Some(_) => "Measured by this node, from the answers to its pings.".to_owned(),
            None => {
                let told = [&edge.from, &edge.to].into_iter().find(|end| member(picture, end).is_some());
                let told = told.map_or("a node", |end| known.name(end));
                format!("As {told} or the other end reports it; this node has no part in this link.")
            }
        };
        Chosen {
            from: known.name(&edge.from).to_owned(),
            to: known.name(&edge.to).to_owned(),
            status,
            word,
            facts,
            source,
        }
    });
    let template = Panel {
        is_asked: choice.link.is_some(),
        chosen,
        clear: picture.scene.span.link(&choice.path(None, choice.sort.as_deref())),
    };
    Block::render("link", "Selected link", &template)
}
