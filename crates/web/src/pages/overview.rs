//! Overview: is everything all right, and if not, what and where?

use askama::Template;
use caelum_model::diagnosis::Diagnosis;

use super::{
    alerting,
    block::Block,
    charts,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    history::Slot,
    incidents,
    mark::Status,
    picture::{self, Machine, PairNow, Picture},
    plot::Spark,
    tiles, words,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "figures,first,incidents,verdicts,tiles,experience,alerts,events";
/// Rows of a list on this page.
const ROWS_MAX: usize = 8;

#[derive(Template)]
#[template(path = "pages/overview.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    figures: Block,
    first: Block,
    incidents: Block,
    verdicts: Block,
    tiles: Block,
    experience: Block,
    alerts: Block,
    events: Block,
}

/// The page.
pub fn page(picture: &Picture, reader: Reader) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let verdict = frame::heading(&words::overview(picture));
    Page {
        frame: Frame::new(picture, reader, Place::Overview, "Overview", verdict, "/", TOPICS),
        theme,
        figures: figures(picture),
        first: first(picture),
        incidents: incidents::open_block(picture),
        verdicts: verdicts_of(picture, picture.unexplained()),
        tiles: tiles::block(picture),
        experience: experience(picture),
        alerts: alerts(picture, may_operate),
        events: events(picture),
    }
}

/// One of the numbers that lead a page.
pub struct Figure {
    /// What it is.
    pub title: &'static str,
    /// Its value, absent when there is none.
    pub value: Option<String>,
    /// Its unit.
    pub unit: String,
    /// How far it is from its usual, with the level of that.
    pub delta: Option<(String, &'static str)>,
    /// The line below: what is usual, or why there is no value.
    pub note: String,
    /// Its course over the range.
    pub spark: Spark,
    /// The level of its course.
    pub level: &'static str,
}

#[derive(Template)]
#[template(path = "blocks/figures.html")]
pub(super) struct Figures {
    pub(super) figures: Vec<Figure>,
    pub(super) six: bool,
}

fn figures(picture: &Picture) -> Block {
    let all = picture.machines.len();
    let healthy = picture.machines.iter().filter(|machine| machine.status == Status::Ok).count();
    let machines = Figure {
        title: "Machines healthy",
        value: (all > 0).then(|| healthy.to_string()),
        unit: format!("of {all}"),
        delta: None,
        note: if all == 0 { "the first sample comes in seconds".into() } else { needing(all - healthy) },
        spark: Spark::default(),
        level: "",
    };
    let figures = vec![
        machines,
        experience_figure(picture),
        voice_figure(picture),
        first_byte_figure(picture),
        loss_figure(picture),
    ];
    Block::render("figures", "Figures", &Figures { figures, six: false })
}

fn needing(count: usize) -> String {
    match count {
        0 => "no threshold is reached".to_owned(),
        _ => counted(count, "needs a look", "need a look"),
    }
}

/// Experience over all pairs.
pub fn experience_figure(picture: &Picture) -> Figure {
    let now = picture.experience();
    let usual = picture.usual_experience();
    let level = now.map_or("", |score| match picture::experience_status(score).0 {
        Status::Ok => "",
        other => other.level(),
    });
    let delta =
        now.zip(usual).map(|(now, usual)| now - usual).filter(|delta| delta.abs() >= 2.0).map(|delta| {
            let arrow = if delta < 0.0 { '▾' } else { '▴' };
            (format!("{arrow}\u{a0}{:.0}", delta.abs()), if delta < 0.0 { level } else { "" })
        });
    Figure {
        title: "Experience",
        value: now.map(|score| format!("{score:.0}")),
        unit: String::new(),
        delta,
        note: match (now, usual) {
            (None, _) => "nothing measured in 5\u{a0}min".to_owned(),
            (Some(_), None) => "0 to 100, all targets".to_owned(),
            (Some(_), Some(usual)) => format!("0 to 100, usual {usual:.0}"),
        },
        spark: course(picture, Slot::experience, 0.0, 100.0),
        level,
    }
}

/// Voice quality over pairs with packet trains.
pub fn voice_figure(picture: &Picture) -> Figure {
    let now = super::history::mean(picture.pairs.iter().filter_map(|pair| pair.recent.voice));
    let usual = picture.usual_of(Slot::voice);
    Figure {
        title: "Voice, MOS",
        value: now.map(|mos| format!("{mos:.2}")),
        unit: String::new(),
        delta: None,
        note: match (now, usual) {
            (None, _) => "needs an icmp target".to_owned(),
            (Some(_), None) => "1 to 4.5, G.711".to_owned(),
            (Some(_), Some(usual)) => format!("1 to 4.5, usual {usual:.2}"),
        },
        spark: course(picture, Slot::voice, 1.0, 4.5),
        level: "",
    }
}

/// The slowest first byte, of all pairs that have one.
pub fn first_byte_figure(picture: &Picture) -> Figure {
    let now = picture.pairs.iter().filter_map(|pair| pair.recent.ttfb_p95).reduce(f64::max);
    let of_slot =
        |slot: &Slot| slot.pairs.iter().filter_map(|(_, reduced)| reduced.ttfb_p95).reduce(f64::max);
    let usual = picture.usual_of(of_slot);
    let quantity = now.map(format::milliseconds);
    let high = picture.slots.iter().filter_map(of_slot).fold(1.0, f64::max);
    Figure {
        title: "First byte, p95",
        unit: quantity.as_ref().map_or_else(String::new, |quantity| quantity.unit.to_owned()),
        value: quantity.map(|quantity| quantity.value),
        delta: None,
        note: match (now, usual) {
            (None, _) => "needs an http or https target".to_owned(),
            (Some(_), None) => "slowest of the targets".to_owned(),
            (Some(_), Some(usual)) => format!("slowest target, usual {}", format::milliseconds(usual)),
        },
        spark: course(picture, of_slot, 0.0, high * 1.1),
        level: "",
    }
}

/// Lost packets over pairs with packet trains.
pub fn loss_figure(picture: &Picture) -> Figure {
    let now = super::history::mean(picture.pairs.iter().filter_map(|pair| pair.recent.loss));
    let of_slot =
        |slot: &Slot| super::history::mean(slot.pairs.iter().filter_map(|(_, reduced)| reduced.loss));
    let usual = picture.usual_of(of_slot);
    let quantity = now.map(format::percent);
    let high = picture.slots.iter().filter_map(of_slot).fold(1.0, f64::max);
    Figure {
        title: "Loss",
        unit: if quantity.is_some() { "%".to_owned() } else { String::new() },
        value: quantity.map(|quantity| quantity.value),
        delta: None,
        note: match (now, usual) {
            (None, _) => "needs an icmp target".to_owned(),
            (Some(_), None) => "of all packets sent".to_owned(),
            (Some(_), Some(usual)) => format!("of packets, usual {}", format::percent(usual)),
        },
        spark: course(picture, of_slot, 0.0, high),
        level: "",
    }
}

fn course(picture: &Picture, value: impl Fn(&Slot) -> Option<f64>, low: f64, high: f64) -> Spark {
    let values: Vec<_> = picture.slots.iter().map(value).collect();
    Spark::draw(&values, low, high)
}

#[derive(Template)]
#[template(path = "blocks/first.html")]
struct First {
    shown: bool,
    machine: bool,
    targets: usize,
    measured: bool,
    learned: bool,
}

/// On a first start: what works already and what comes next.
fn first(picture: &Picture) -> Block {
    let learned =
        picture.pairs.iter().any(|pair| pair.status.as_ref().is_some_and(|status| !status.usual.is_empty()));
    let template = First {
        shown: !learned && picture.slots.iter().filter(|slot| !slot.pairs.is_empty()).count() < 15,
        machine: picture.machines.iter().any(|machine| machine.node.sample.is_some()),
        targets: picture.targets.len(),
        measured: picture.pairs.iter().any(|pair| pair.recent.count > 0),
        learned,
    };
    Block::render("first", "First steps", &template)
}

/// A verdict as a row.
pub struct VerdictRow {
    status: Status,
    label: &'static str,
    since: Moment,
    lasted: String,
    confidence: String,
    sentence: String,
    detail: String,
    href: String,
    places: [words::Place; 4],
}

#[derive(Template)]
#[template(path = "blocks/verdicts.html")]
struct Verdicts {
    rows: Vec<VerdictRow>,
    /// Whether open incidents stand beside it.
    has_incidents: bool,
    more: usize,
    network: String,
}

/// Verdicts that stand, each with the place of the fault.
pub fn verdicts(picture: &Picture) -> Block {
    verdicts_of(picture, picture.verdicts())
}

/// Those of the verdicts.
fn verdicts_of(picture: &Picture, standing: Vec<(&PairNow, &Diagnosis)>) -> Block {
    let rows =
        standing.iter().take(ROWS_MAX).map(|(pair, verdict)| verdict_row(picture, pair, verdict)).collect();
    let template = Verdicts {
        rows,
        has_incidents: picture.open_incidents().next().is_some(),
        more: standing.len().saturating_sub(ROWS_MAX),
        network: picture.scene.span.link("/network"),
    };
    Block::render("verdicts", "Verdicts", &template)
}

fn verdict_row(picture: &Picture, pair: &PairNow, verdict: &Diagnosis) -> VerdictRow {
    let scene = &picture.scene;
    VerdictRow {
        status: pair.status().0,
        label: verdict.label.as_str(),
        since: Moment::new(&scene.zone, verdict.since_ms, scene.now_ms),
        lasted: format::duration(scene.now_ms - verdict.since_ms),
        confidence: format::percent(verdict.confidence * 100.0).to_string(),
        sentence: words::diagnosis(verdict, picture.target_name(&verdict.target)),
        detail: words::nonbreaking(&verdict.sentence),
        href: scene.span.link(&frame::pair_link(verdict.client_id.as_str(), &verdict.target)),
        places: words::places(picture, pair, verdict),
    }
}

struct ScoreRow {
    name: String,
    href: String,
    status: Status,
    word: &'static str,
    score: String,
    whole: String,
}

#[derive(Template)]
#[template(path = "blocks/experience.html")]
struct Experience {
    plot: Block,
    rows: Vec<ScoreRow>,
    network: String,
}

fn experience(picture: &Picture) -> Block {
    let plot = charts::experience(picture);
    let rows = picture
        .pairs
        .iter()
        .take(ROWS_MAX)
        .map(|pair| {
            let (status, word) = pair.status();
            ScoreRow {
                name: picture.target_name(&pair.pair.target).to_owned(),
                href: picture
                    .scene
                    .span
                    .link(&frame::pair_link(pair.pair.client_id.as_str(), &pair.pair.target)),
                status,
                word,
                score: pair
                    .recent
                    .experience
                    .map_or_else(|| format::ABSENT.to_owned(), |score| format!("{score:.0}")),
                whole: whole_time(pair),
            }
        })
        .collect();
    let network = picture.scene.span.link("/network");
    charts::with_plot("experience", "Experience", picture, plot, |plot| Experience { plot, rows, network })
}

fn whole_time(pair: &PairNow) -> String {
    use caelum_model::rollup::Measure;
    let median = pair.recent.median(Measure::Total).or_else(|| pair.recent.median(Measure::Rtt));
    median.map_or_else(|| format::ABSENT.to_owned(), |ms| format::milliseconds(ms).to_string())
}

struct AlertRow {
    key: &'static str,
    status: Status,
    name: String,
    href: String,
    text: String,
    note: String,
    answer: Block,
}

#[derive(Template)]
#[template(path = "blocks/alerts.html")]
struct Alerts {
    rows: Vec<AlertRow>,
}

/// Alerts that stand, then thresholds that were reached just now.
fn alerts(picture: &Picture, may_operate: bool) -> Block {
    let scene = &picture.scene;
    let open = picture.open_alerts();
    let standing = open.iter().map(|alert| AlertRow {
        key: alert.metric.as_str(),
        status: alert.severity.into(),
        name: alert.node_name.clone(),
        href: scene.span.link(&frame::machine_link(&alert.node_name)),
        text: words::nonbreaking(&alert.message),
        note: words::alert(alert, scene.now_ms),
        answer: alerting::answer(alert, "overview", may_operate),
    });
    let is_alert = |machine: &Machine, metric| {
        open.iter().any(|alert| alert.node_id == machine.node.node_id && alert.metric == metric)
    };
    let reached = picture
        .machines
        .iter()
        .filter(|machine| machine.node.is_heard())
        .flat_map(|machine| machine.issues.iter().map(move |issue| (machine, issue)))
        .filter(|(machine, issue)| !is_alert(machine, issue.metric))
        .map(|(machine, issue)| AlertRow {
            key: issue.metric.as_str(),
            status: issue.severity.into(),
            name: machine.node.name.clone(),
            href: scene.span.link(&frame::machine_link(&machine.node.name)),
            text: words::issue(machine, issue),
            note: String::new(),
            answer: Block::none(),
        });
    let rows = standing.chain(reached).take(ROWS_MAX).collect();
    Block::render("alerts", "Alerts", &Alerts { rows })
}

struct EventRow {
    at: String,
    exact: String,
    key: String,
    status: Status,
    name: String,
    text: String,
}

#[derive(Template)]
#[template(path = "blocks/events.html")]
struct Events {
    rows: Vec<EventRow>,
}

/// The latest things that happened, newest first.
fn events(picture: &Picture) -> Block {
    let scene = &picture.scene;
    let mut happened: Vec<(i64, Status, String, String)> = Vec::new();
    for spell in &picture.spells {
        let name = picture.target_name(&spell.newest.target).to_owned();
        let label = spell.newest.label.as_str();
        happened.push((spell.from_ms, Status::Warn, name.clone(), format!("is {label}")));
        if !spell.open {
            happened.push((spell.to_ms, Status::Ok, name, format!("is no longer {label}")));
        }
    }
    for incident in &picture.incidents {
        let label = incident.label.as_str();
        let place = incident.place.clone();
        happened.push((
            incident.opened_window_ms,
            Status::Warn,
            place.clone(),
            format!("is {label}: an incident"),
        ));
        if let Some(at) = incident.closed_window_ms {
            happened.push((at, Status::Ok, place, format!("is no longer {label}")));
        }
    }
    for machine in &picture.machines {
        happened.push((
            machine.node.joined_at_ms,
            Status::Info,
            machine.node.name.clone(),
            "joined".to_owned(),
        ));
        if machine.status == Status::Off {
            happened.push((
                machine.node.seen_at_ms,
                Status::Off,
                machine.node.name.clone(),
                "fell silent".to_owned(),
            ));
        }
    }
    for target in &picture.targets {
        let name = picture.target_name(&target.url).to_owned();
        happened.push((target.created_at_ms, Status::Info, name, "became a target".to_owned()));
    }
    happened.retain(|event| event.0 <= scene.now_ms && event.0 > 0);
    happened.sort_by(|a, b| (b.0, &b.2, &b.3).cmp(&(a.0, &a.2, &a.3)));
    let rows = happened
        .into_iter()
        .take(ROWS_MAX)
        .map(|(at, status, name, text)| EventRow {
            at: if scene.now_ms - at < 86_400_000 { scene.zone.second(at) } else { scene.zone.day(at) },
            exact: scene.zone.exact(at),
            key: format!("{at}-{name}-{text}"),
            status,
            name,
            text,
        })
        .collect();
    Block::render("events", "Events", &Events { rows })
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, may_operate: bool) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&words::overview(picture)),
        "figures" => figures(picture),
        "first" => first(picture),
        "incidents" => incidents::open_block(picture),
        "verdicts" => verdicts_of(picture, picture.unexplained()),
        "tiles" => tiles::block(picture),
        "experience" => experience(picture),
        "alerts" => alerts(picture, may_operate),
        "events" => events(picture),
        _ => return None,
    })
}
