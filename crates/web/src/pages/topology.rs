//! Topology: how far apart are nodes, and which link is bad?
//!
//! The page and its sky. The links as a table and one link closer are drawn by [`super::links`], all of it from
//! the same values that the API answers; a script only makes them live.

use askama::Template;
use caelum_model::{
    cluster::{Liveness, Member},
    id::NodeId,
};
use serde::Deserialize;

use super::{
    assets,
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Place, Reader, Theme},
    links,
    mark::Status,
    picture::Picture,
    sky::{self, Ring, Sky},
    words,
};
use crate::topology::{self, EdgeJson, PlaceJson, TopologyJson};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "topology,links,link";

/// Nodes whose names are written beside them, at most.
const LABELS_MAX: usize = 60;
/// Links whose loss is written on them, at most.
const LOSSES_MAX: usize = 20;

/// What the address says.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Choice {
    /// The chosen link: ids of its ends with a comma between.
    pub link: Option<String>,
    /// What links are ordered by; `-` before it turns the order round. The worst come first unless given.
    pub sort: Option<String>,
}

impl Choice {
    pub(super) fn path(&self, link: Option<&str>, sort: Option<&str>) -> String {
        let query: Vec<String> = [("link", link), ("sort", sort)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
            .map(|(name, value)| format!("{name}={}", frame::encode(value)))
            .collect();
        if query.is_empty() { "/topology".to_owned() } else { format!("/topology?{}", query.join("&")) }
    }

    pub(super) fn is(&self, edge: &EdgeJson) -> bool {
        let Some((a, b)) = self.link.as_deref().and_then(|link| link.split_once(',')) else { return false };
        (a == edge.from && b == edge.to) || (b == edge.from && a == edge.to)
    }
}

#[derive(Template)]
#[template(path = "pages/topology.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    topology: Block,
    links: Block,
    link: Block,
    is_crowd: bool,
}

/// The page.
pub fn page(picture: &Picture, reader: Reader, choice: &Choice) -> impl Template + use<> {
    let theme = reader.theme;
    let known = known(picture);
    let verdict = frame::heading(&words::topology(picture, &known));
    let path = choice.path(choice.link.as_deref(), choice.sort.as_deref());
    Page {
        frame: Frame::new(picture, reader, Place::Topology, "Topology", verdict, &path, TOPICS),
        theme,
        is_crowd: known.nodes.len() > sky::CROWD_FROM,
        topology: topology(picture, &known, choice),
        links: links::table(picture, &known, choice),
        link: links::panel(picture, &known, choice),
    }
}

fn known(picture: &Picture) -> TopologyJson {
    let scene = &picture.scene;
    let nodes = picture.machines.iter().map(|machine| &machine.node);
    let own = NodeId::parse(&scene.node_id);
    match own {
        Ok(own) => topology::of(nodes, &scene.roster, &own, scene.now_ms, &scene.thresholds),
        // A scene without a node of its own has nothing to look from.
        Err(_) => TopologyJson { nodes: Vec::new(), edges: Vec::new(), clusters: Vec::new() },
    }
}

struct Star {
    x: String,
    y: String,
    href: String,
    name: String,
    /// The name on the drawing; empty where there is no room.
    label: String,
    label_x: String,
    anchor: &'static str,
    note: String,
    status: Status,
    own: bool,
}

struct Ray {
    x: [String; 2],
    y: [String; 2],
    middle: [String; 2],
    class: &'static str,
    href: String,
    title: String,
    /// `3.8 % lost` where it is written on the drawing.
    loss: String,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "blocks/topology.html")]
struct Drawing {
    summary: String,
    is_crowd: bool,
    from: String,
    rings: Vec<(String, String, String)>,
    unknown: Option<String>,
    rays: Vec<Ray>,
    paths: Vec<(&'static str, String)>,
    stars: Vec<Star>,
    sprite: String,
}

fn short(value: f64) -> String {
    format!("{value:.0}")
}

fn topology(picture: &Picture, known: &TopologyJson, choice: &Choice) -> Block {
    let scene = &picture.scene;
    let Sky { rings, unknown, spots, lines } = sky::lay_out(known, &scene.node_id);
    let is_crowd = known.nodes.len() > sky::CROWD_FROM || lines.len() > 2 * sky::CROWD_FROM;
    let has_labels = known.nodes.len() <= LABELS_MAX;
    let mut losses = 0;
    let rays = lines.iter().filter(|_| !is_crowd).map(|line| {
        let edge = &known.edges[line.edge];
        let is_lossy = edge.status == "lossy";
        losses += usize::from(is_lossy);
        Ray {
            x: [short(line.from.x), short(line.to.x)],
            y: [short(line.from.y), short(line.to.y)],
            middle: [short((line.from.x + line.to.x) / 2.0), short((line.from.y + line.to.y) / 2.0 - 4.0)],
            class: line.class,
            href: scene.span.link(&choice.path(Some(&key(edge)), choice.sort.as_deref())),
            title: format!("{} – {}: {}", known.name(&edge.from), known.name(&edge.to), measured(edge)),
            loss: if is_lossy && losses <= LOSSES_MAX { lost(edge) } else { String::new() },
            chosen: choice.is(edge),
        }
    });
    let rays = rays.collect();
    let stars = known
        .nodes
        .iter()
        .zip(&spots)
        .map(|(place, spot)| {
            let own = place.id == scene.node_id;
            let left = spot.x < sky::WIDTH / 2.0 - 1.0;
            let (status, word) = standing(picture, place);
            let edge = known.edges.iter().find(|edge| {
                (edge.from == scene.node_id && edge.to == place.id)
                    || (edge.to == scene.node_id && edge.from == place.id)
            });
            let distance = match (own, edge.and_then(|edge| edge.rtt_ms)) {
                (true, _) => "you look from here".to_owned(),
                (false, Some(rtt)) => format::milliseconds(rtt).to_string(),
                (false, None) => "distance not known".to_owned(),
            };
            Star {
                x: short(spot.x),
                y: short(spot.y),
                href: star_link(picture, place, choice),
                name: place.label.clone(),
                label: if has_labels { place.label.chars().take(28).collect() } else { String::new() },
                label_x: short(if own {
                    spot.x
                } else if left {
                    spot.x - 14.0
                } else {
                    spot.x + 14.0
                }),
                anchor: if own {
                    "middle"
                } else if left {
                    "end"
                } else {
                    "start"
                },
                note: match status {
                    Status::Ok => distance,
                    _ => format!("{word}, {distance}"),
                },
                status,
                own,
            }
        })
        .collect();
    let drawing = Drawing {
        summary: format!(
            "{} around {}, {}",
            counted(known.nodes.len().saturating_sub(1), "node", "nodes"),
            known.name(&scene.node_id),
            counted(known.edges.len(), "link", "links")
        ),
        is_crowd,
        from: known.name(&scene.node_id).to_owned(),
        rings: rings
            .into_iter()
            .map(|Ring { radius, rtt_ms }| {
                let top = short(sky::HEIGHT / 2.0 - radius - 4.0);
                (short(radius), top, format::milliseconds(rtt_ms).to_string())
            })
            .collect(),
        unknown: unknown.map(short),
        rays,
        paths: if is_crowd { sky::paths(&lines) } else { Vec::new() },
        stars,
        sprite: assets::href("icons.svg"),
    };
    Block::render("topology", "Sky", &drawing)
}

/// A machine with a record has a page; of another there is only its link.
fn star_link(picture: &Picture, place: &PlaceJson, choice: &Choice) -> String {
    let span = &picture.scene.span;
    let is_recorded = picture.machines.iter().any(|machine| machine.node.node_id.as_str() == place.id);
    if is_recorded {
        return span.link(&frame::machine_link(&place.label));
    }
    let link = format!("{},{}", picture.scene.node_id, place.id);
    span.link(&choice.path(Some(&link), choice.sort.as_deref()))
}

/// How a node stands: whether it is there first, then how it fares.
fn standing(picture: &Picture, place: &PlaceJson) -> (Status, String) {
    let member = member(picture, &place.id);
    let because = |word: &str, member: &Member| {
        if member.because.is_empty() { word.to_owned() } else { format!("{word}: {}", member.because) }
    };
    match member {
        Some(member) if member.liveness == Liveness::Dead => (Status::Off, because("gone", member)),
        Some(member) if member.liveness == Liveness::Left => (Status::Off, "left".to_owned()),
        Some(member) if member.liveness == Liveness::Suspect => {
            (Status::Warn, because("may be gone", member))
        }
        None if place.status == Liveness::Dead.as_str() => (Status::Off, "not seen".to_owned()),
        _ => match place.health.map(Status::from) {
            Some(status) if status.needs_attention() => (status, status.word().to_lowercase()),
            _ => (Status::Ok, String::new()),
        },
    }
}

pub(super) fn member<'a>(picture: &'a Picture, id: &str) -> Option<&'a Member> {
    picture.scene.roster.members.iter().find(|member| member.node_id.as_str() == id)
}

pub(super) fn key(edge: &EdgeJson) -> String {
    format!("{},{}", edge.from, edge.to)
}

fn lost(edge: &EdgeJson) -> String {
    format!("{} lost", format::percent(edge.loss_pct.unwrap_or(0.0)))
}

fn measured(edge: &EdgeJson) -> String {
    let rtt = edge
        .rtt_ms
        .map_or_else(|| "not measured yet".to_owned(), |rtt| format::milliseconds(rtt).to_string());
    if edge.status == "lossy" { format!("{rtt}, {}", lost(edge)) } else { rtt }
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, choice: &Choice) -> Option<Block> {
    let known = known(picture);
    Some(match name {
        "verdict" => frame::heading(&words::topology(picture, &known)),
        "topology" => topology(picture, &known, choice),
        "links" => links::table(picture, &known, choice),
        "link" => links::panel(picture, &known, choice),
        _ => return None,
    })
}
