//! The mesh: how do machines reach each other, in both directions?

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Query, State as Shared},
    http::HeaderMap,
    response::Response,
    routing::get,
};
use caelum_model::rollup::Measure;

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Place, Reader, Theme},
    mark::Status,
    picture::{PairNow, Picture},
    pipeline,
    range::TimeQuery,
    routes::{Desk, draw, reader},
    words::Verdict,
};
use crate::{auth::Person, error::ApiError, state::State};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "mesh";
/// Its address.
pub const PATH: &str = "/network/mesh";
/// Machines in a row or column at most; of more, the pairs are listed.
const SIDE_MAX: usize = 48;
/// Pairs that are listed then.
const LIST_MAX: usize = 500;
/// Loss from which on a cell wants to be seen, percent.
const LOSSY_PERCENT: f64 = 1.0;

/// The page.
pub fn router() -> Router<Arc<State>> {
    Router::new().route(PATH, get(show))
}

async fn show(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let picture = desk.picture(&state, &time).await;
    let page = picture.map(|picture| page(&picture, reader(&person, &headers)));
    draw(page.map_err(ApiError::from), headers)
}

#[derive(Template)]
#[template(path = "pages/mesh.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    mesh: Block,
}

/// The page.
pub fn page(picture: &Picture, reader: Reader) -> impl Template + use<> {
    let theme = reader.theme;
    let heading = frame::heading(&verdict(picture));
    Page {
        frame: Frame::new(picture, reader, Place::Network, "Mesh", heading, PATH, TOPICS),
        theme,
        tabs: pipeline::tabs(picture, PATH),
        mesh: mesh(picture),
    }
}

/// The pairs of the mesh that have something to show.
fn pairs(picture: &Picture) -> Vec<&PairNow> {
    picture.pairs.iter().filter(|pair| picture.is_mesh(pair)).collect()
}

/// Lost packets of a pair, percent: the train's whole loss, or both ways together.
fn loss(pair: &PairNow) -> Option<f64> {
    let ways = [Measure::LossOut, Measure::LossBack].map(|measure| pair.recent.median(measure));
    pair.recent.loss.or_else(|| ways.into_iter().flatten().reduce(f64::max))
}

fn verdict(picture: &Picture) -> Verdict {
    let pairs = pairs(picture);
    let silent = pairs.iter().filter(|pair| pair.recent.count == 0).count();
    let lossy: Vec<&&PairNow> =
        pairs.iter().filter(|pair| loss(pair).is_some_and(|share| share >= LOSSY_PERCENT)).collect();
    let lede = "Each machine measures up to 32 others with packet trains, both ways apart.".to_owned();
    let status = if !lossy.is_empty() { Status::Warn } else { Status::Ok };
    let sentence = match (pairs.len(), lossy.as_slice()) {
        (0, _) => "No machine measures another.".to_owned(),
        (_, [one]) => format!(
            "{} loses packets on its way to {}.",
            picture.probe_name(one.pair.client_id.as_str()),
            picture.target_name(&one.pair.target)
        ),
        (all, []) if silent == 0 => {
            format!("All {} between machines lose no packets.", counted(all, "way", "ways"))
        }
        (all, []) => {
            format!("{silent} of {} between machines have no new measurement.", counted(all, "way", "ways"))
        }
        (all, lossy) => {
            format!("{} of {} between machines lose packets.", lossy.len(), counted(all, "way", "ways"))
        }
    };
    Verdict { status, sentence, lede }
}

struct Cell {
    href: String,
    level: &'static str,
    rtt: String,
    ways: String,
    says: String,
}

struct Row {
    name: String,
    href: String,
    cells: Vec<Option<Cell>>,
}

struct Listed {
    from: String,
    to: String,
    cell: Cell,
}

#[derive(Template)]
#[template(path = "blocks/mesh.html")]
struct Mesh {
    heads: Vec<String>,
    rows: Vec<Row>,
    listed: Vec<Listed>,
    count: String,
    more: usize,
}

fn cell(picture: &Picture, pair: &PairNow) -> Cell {
    let median = |measure| pair.recent.median(measure);
    let share = |measure| {
        median(measure).map_or_else(|| format::ABSENT.to_owned(), |loss| format::percent(loss).to_string())
    };
    let rtt = median(Measure::Rtt)
        .map_or_else(|| "no answer".to_owned(), |ms| format::milliseconds(ms).to_string());
    let lost = loss(pair);
    let has_ways = median(Measure::LossOut).is_some();
    let ways = match (has_ways, lost) {
        (true, _) => format!("{} out, {} back", share(Measure::LossOut), share(Measure::LossBack)),
        (false, Some(lost)) => format!("{} lost", format::percent(lost)),
        (false, None) => String::new(),
    };
    let (status, word) = pair.status();
    let level = if pair.verdict().is_some() {
        status.level()
    } else if pair.recent.count == 0 {
        "off"
    } else if lost.is_some_and(|lost| lost >= LOSSY_PERCENT) {
        "warn"
    } else {
        ""
    };
    let id = pair.pair.client_id.as_str();
    Cell {
        says: format!(
            "{} to {}: {word}, round trip {rtt}, loss {ways}",
            picture.probe_name(id),
            picture.target_name(&pair.pair.target)
        ),
        href: picture.scene.span.link(&frame::pair_link(id, &pair.pair.target)),
        level,
        rtt,
        ways,
    }
}

fn mesh(picture: &Picture) -> Block {
    let pairs = pairs(picture);
    let mut targets: Vec<&str> = pairs.iter().map(|pair| pair.pair.target.as_str()).collect();
    targets.sort_unstable_by_key(|target| picture.target_name(target));
    targets.dedup();
    let mut probes: Vec<&str> = pairs.iter().map(|pair| pair.pair.client_id.as_str()).collect();
    probes.sort_unstable_by_key(|probe| picture.probe_name(probe));
    probes.dedup();
    let fits = targets.len() <= SIDE_MAX && probes.len() <= SIDE_MAX;
    let span = &picture.scene.span;
    let rows = probes.iter().take(if fits { SIDE_MAX } else { 0 }).map(|probe| {
        let find = |target: &&str| {
            let is_it =
                |pair: &&&PairNow| pair.pair.client_id.as_str() == *probe && pair.pair.target == **target;
            pairs.iter().find(is_it).map(|pair| cell(picture, pair))
        };
        Row {
            name: picture.probe_name(probe).to_owned(),
            href: span.link(&frame::probe_link(probe)),
            cells: targets.iter().map(find).collect(),
        }
    });
    let rows: Vec<Row> = rows.collect();
    let mut worst = pairs.clone();
    worst.sort_by(|a, b| loss(b).unwrap_or(0.0).total_cmp(&loss(a).unwrap_or(0.0)));
    let listed = worst.iter().take(if fits { 0 } else { LIST_MAX }).map(|pair| Listed {
        from: picture.probe_name(pair.pair.client_id.as_str()).to_owned(),
        to: picture.target_name(&pair.pair.target).to_owned(),
        cell: cell(picture, pair),
    });
    let template = Mesh {
        heads: targets.iter().map(|target| picture.target_name(target).to_owned()).collect(),
        rows,
        listed: listed.collect(),
        count: counted(pairs.len(), "way", "ways"),
        more: if fits { 0 } else { pairs.len().saturating_sub(LIST_MAX) },
    };
    Block::render("mesh", "Machines among themselves", &template)
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&verdict(picture)),
        "mesh" => mesh(picture),
        _ => return None,
    })
}
