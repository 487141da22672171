//! One probe: is everything that it measured here, and if not, what is missing?

use askama::Template;
use caelum_model::{id::ClientId, probe::ProbeSetting, rollup::MINUTE_MS};

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    network,
    picture::Picture,
    words,
};
use crate::api::network::{CompletenessJson, OneProbeJson};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "complete,gaps,measured";

/// Hours that are shown.
pub const HOURS: i64 = 2;
/// Minutes in one line of the strip.
const LINE: usize = 60;
/// Targets that are listed at most.
const TARGETS_MAX: usize = 200;

#[derive(Template)]
#[template(path = "pages/probe.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    complete: Block,
    gaps: Block,
    measured: Block,
    setting: ProbeSetting,
    tags: String,
    action: String,
    may_operate: bool,
}

/// The page of the probe of this id. `known` is absent where it does not number its events.
pub fn page(
    picture: &Picture,
    client_id: &str,
    known: Option<&OneProbeJson>,
    reader: Reader,
) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let name = picture.probe_name(client_id);
    let setting = setting(picture, client_id);
    let path = frame::probe_link(client_id);
    Page {
        frame: Frame::new(
            picture,
            reader,
            Place::Network,
            name,
            heading(picture, client_id, known),
            &path,
            TOPICS,
        ),
        theme,
        complete: complete(picture, client_id, known),
        gaps: gaps(picture, known),
        measured: measured(picture, client_id),
        tags: setting.tags.join(" "),
        setting,
        action: format!("{path}/setting"),
        may_operate,
    }
}

/// What is set for a probe, or what holds where nothing is.
fn setting(picture: &Picture, client_id: &str) -> ProbeSetting {
    picture.probe_setting(client_id).cloned().unwrap_or_else(|| {
        // Whoever has a page has an id; the page of a name that is none shows the usual.
        let id = ClientId::parse(client_id).or_else(|_| ClientId::parse("-"));
        ProbeSetting::usual(id.expect("a dash is an id"))
    })
}

fn heading(picture: &Picture, client_id: &str, known: Option<&OneProbeJson>) -> Block {
    let scene = &picture.scene;
    let name = picture.probe_name(client_id);
    let verdict = words::probe(name, known, &scene.zone, scene.now_ms);
    let mut facts = Vec::new();
    if name != client_id {
        facts.push(client_id.to_owned());
    }
    if let Some(known) = known {
        facts.push(format!("{} counted", format::count(known.probe.counted)));
        facts.push(format!("{} missing", format::count(known.probe.missing)));
        facts.push(format!("{} too late", format::count(known.probe.too_late)));
        facts.push(format!("partition {}", known.partition));
    }
    frame::detail_heading_as(
        &verdict,
        word(&verdict.status),
        ("Network", scene.span.link("/network")),
        &facts,
    )
}

/// A probe is not healthy or offline: what it sent is complete, or not.
fn word(status: &Status) -> &'static str {
    match status {
        Status::Ok => "Complete",
        Status::Off => "Silent",
        Status::Queue => "Not numbered",
        _ => "Incomplete",
    }
}

/// A minute of the strip.
struct Minute {
    href: String,
    /// `none`, `whole`, `late` or `missing`: its silhouette.
    kind: &'static str,
    at: Moment,
    says: String,
    counted: String,
    missing: String,
    late: String,
    /// The one stop of the tab key.
    is_home: bool,
}

#[derive(Template)]
#[template(path = "blocks/complete.html")]
struct Complete {
    lines: Vec<(String, Vec<Minute>)>,
    summary: String,
}

fn complete(picture: &Picture, client_id: &str, known: Option<&OneProbeJson>) -> Block {
    let scene = &picture.scene;
    let minutes = known.map_or(&[][..], |known| &known.minutes);
    let newest = minutes.len().saturating_sub(1);
    let lines = minutes
        .chunks(LINE)
        .enumerate()
        .map(|(line, chunk)| {
            let label =
                chunk.first().map_or_else(String::new, |minute| scene.zone.minute(minute.window_start_ms));
            let minutes = chunk
                .iter()
                .enumerate()
                .map(|(index, minute)| one_minute(picture, client_id, minute, line * LINE + index == newest))
                .collect();
            (label, minutes)
        })
        .collect();
    let with = |of: fn(&CompletenessJson) -> u64| minutes.iter().filter(|minute| of(minute) > 0).count();
    let summary = match (with(|minute| minute.missing), with(|minute| minute.late_merged)) {
        (0, 0) => "Nothing is missing from these minutes.".to_owned(),
        (0, late) => {
            format!("Nothing is missing; {} late events.", counted(late, "minute has", "minutes have"))
        }
        (missing, 0) => {
            format!("Events are missing from {} of {}.", counted(missing, "minute", "minutes"), minutes.len())
        }
        (missing, late) => format!(
            "Events are missing from {} of {}; {} late ones.",
            counted(missing, "minute", "minutes"),
            minutes.len(),
            counted(late, "minute has", "minutes have")
        ),
    };
    Block::render("complete", "Completeness", &Complete { lines, summary })
}

fn one_minute(picture: &Picture, client_id: &str, minute: &CompletenessJson, is_home: bool) -> Minute {
    let scene = &picture.scene;
    let (from_ms, to_ms) = (minute.window_start_ms, minute.window_start_ms + MINUTE_MS);
    let kind = match (minute.missing, minute.late_merged, minute.counted) {
        (1.., _, _) => "missing",
        (0, 1.., _) => "late",
        (0, 0, 1..) => "whole",
        (0, 0, 0) => "none",
    };
    let mut says = format!("{}: {} counted", scene.zone.minute(from_ms), format::count(minute.counted));
    if minute.missing > 0 {
        says.push_str(&format!(", {} missing", format::count(minute.missing)));
    }
    if minute.late_merged > 0 {
        says.push_str(&format!(", {} of them late", format::count(minute.late_merged)));
    }
    Minute {
        href: format!("/network?probe={}&range=6h&from={from_ms}&to={to_ms}", frame::encode(client_id)),
        kind,
        at: Moment { text: scene.zone.minute(from_ms), ..Moment::new(&scene.zone, from_ms, scene.now_ms) },
        says,
        counted: format::count(minute.counted),
        missing: format::count(minute.missing),
        late: format::count(minute.late_merged),
        is_home,
    }
}

struct GapRow {
    key: String,
    events: String,
    from: Moment,
    to: Moment,
    lasted: String,
    numbers: String,
}

#[derive(Template)]
#[template(path = "blocks/gaps.html")]
struct Gaps {
    rows: Vec<GapRow>,
    is_numbered: bool,
}

fn gaps(picture: &Picture, known: Option<&OneProbeJson>) -> Block {
    let scene = &picture.scene;
    let rows = known
        .iter()
        .flat_map(|known| &known.gaps)
        .map(|gap| GapRow {
            key: format!("{}-{}", gap.epoch, gap.first),
            events: format::count(gap.events),
            from: Moment::new(&scene.zone, gap.from_ms, scene.now_ms),
            to: Moment::new(&scene.zone, gap.to_ms, scene.now_ms),
            lasted: format::duration(gap.to_ms - gap.from_ms),
            numbers: match gap.first == gap.last {
                true => format::count(gap.first),
                false => format!("{} to {}", format::count(gap.first), format::count(gap.last)),
            },
        })
        .collect();
    Block::render("gaps", "Gaps", &Gaps { rows, is_numbered: known.is_some() })
}

struct TargetRow {
    href: String,
    name: String,
    status: Status,
    word: &'static str,
    count: String,
}

#[derive(Template)]
#[template(path = "blocks/measured.html")]
struct Measured {
    rows: Vec<TargetRow>,
    machine: Option<(String, String)>,
}

fn measured(picture: &Picture, client_id: &str) -> Block {
    let span = &picture.scene.span;
    let rows = picture
        .pairs
        .iter()
        .filter(|pair| pair.pair.client_id.as_str() == client_id)
        .take(TARGETS_MAX)
        .map(|pair| {
            let (status, word) = pair.status();
            TargetRow {
                href: span.link(&frame::pair_link(client_id, &pair.pair.target)),
                name: network::name_with_family(picture, pair),
                status,
                word,
                count: format!("{}\u{a0}in 5\u{a0}min", format::count(pair.recent.count)),
            }
        })
        .collect();
    let machine = picture.machines.iter().find(|machine| machine.node.node_id.as_str() == client_id);
    let machine = machine
        .map(|machine| (machine.node.name.clone(), span.link(&frame::machine_link(&machine.node.name))));
    Block::render("measured", "What it measures", &Measured { rows, machine })
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, client_id: &str, known: Option<&OneProbeJson>) -> Option<Block> {
    Some(match name {
        "verdict" => heading(picture, client_id, known),
        "complete" => complete(picture, client_id, known),
        "gaps" => gaps(picture, known),
        "measured" => measured(picture, client_id),
        _ => return None,
    })
}
