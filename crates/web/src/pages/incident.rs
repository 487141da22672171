//! One incident: what is wrong, where, how sure are we, and what shows it?

use std::collections::{BTreeSet, HashMap, HashSet};

use askama::Template;
use caelum_model::{
    event::Family,
    incident::{Incident, PAIRS_MAX, PairRef, STEPS_MAX},
};

use super::{
    block::Block,
    charts,
    course::Course,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    tries,
    words::{self, Verdict},
};
use crate::{error::ApiError, state::State};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "places,course,numbers,touched,why,tries,steps";
/// Lines of the table that says what the chart shows.
const TABLE_ROWS: usize = 60;
/// Columns of the grid of pairs; with more targets they are listed instead.
const COLUMNS_MAX: usize = 24;
/// Rows of that grid.
const ROWS_MAX: usize = 40;

/// An incident with what is read beside it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The incident.
    pub incident: Incident,
    /// Its leading measure over time.
    pub course: Course,
}

impl Seen {
    /// Reads an incident; none where there is none of this id.
    pub async fn read(state: &State, id: &str) -> Result<Option<Self>, ApiError> {
        let Some(incident) = state.store.incident(id).await? else { return Ok(None) };
        let course = Course::read(&state.store, &incident, state.now_ms()).await?;
        Ok(Some(Self { incident, course }))
    }
}

#[derive(Template)]
#[template(path = "pages/incident.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    places: Block,
    course: Block,
    numbers: Block,
    touched: Block,
    why: Block,
    tries: Block,
    steps: Block,
    network: String,
}

/// The page.
pub fn page(picture: &Picture, seen: &Seen, reader: Reader) -> impl Template + use<> {
    let theme = reader.theme;
    let incident = &seen.incident;
    let path = frame::incident_link(&incident.id);
    let title = format!("{} at {}", incident.label.as_str(), incident.place);
    let heading = heading(picture, incident);
    Page {
        frame: Frame::new(picture, reader, Place::Incidents, &title, heading, &path, TOPICS),
        theme,
        places: places(incident),
        course: course(picture, seen),
        numbers: numbers(incident),
        touched: touched(picture, incident),
        why: why(incident),
        tries: tries::block(incident),
        steps: steps(picture, incident),
        network: picture.scene.span.link("/network"),
    }
}

fn heading(picture: &Picture, incident: &Incident) -> Block {
    let scene = &picture.scene;
    let verdict = Verdict {
        status: words::severity(incident),
        sentence: words::nonbreaking(&incident.sentence),
        lede: String::new(),
    };
    let since = scene.zone.moment(incident.opened_window_ms, scene.now_ms);
    let mut facts = vec![match incident.closed_window_ms {
        None => format!("open {}, since {since}", format::duration(scene.now_ms - incident.opened_window_ms)),
        Some(at) => format!(
            "{since} to {}, {}",
            scene.zone.moment(at, scene.now_ms),
            format::duration(at - incident.opened_window_ms)
        ),
    }];
    facts.push(format!(
        "{} of {}",
        format::count(incident.pairs_touched.into()),
        counted(incident.pairs_observed as usize, "pair", "pairs")
    ));
    facts.push(format!("{} confident", format::percent(incident.confidence * 100.0)));
    if incident.is_flapping {
        facts.push("comes and goes".to_owned());
    }
    if incident.revision > 0 {
        facts.push(format!("revised {}", counted(incident.revision as usize, "time", "times")));
    }
    let crumb = ("Incidents", scene.span.link("/incidents"));
    frame::detail_heading_as(&verdict, words::severity_word(incident), crumb, &facts)
}

#[derive(Template)]
#[template(path = "blocks/places.html")]
struct Places {
    places: [(words::Place, String, String); 4],
}

fn places(incident: &Incident) -> Block {
    Block::render("places", "Where the fault is", &Places { places: words::incident_places(incident) })
}

struct CourseRow {
    at: Moment,
    touched: String,
    others: String,
    is_inside: bool,
}

#[derive(Template)]
#[template(path = "blocks/course.html")]
struct Drawn {
    title: &'static str,
    plot: Block,
    now: String,
    has_others: bool,
    has_before: bool,
    rows: Vec<CourseRow>,
    note: String,
}

fn course(picture: &Picture, seen: &Seen) -> Block {
    let (scene, course, incident) = (&picture.scene, &seen.course, &seen.incident);
    let plot = course.plot(incident, scene.now_ms);
    let text = |value: Option<f64>| {
        value.map_or_else(|| format::ABSENT.to_owned(), |value| words::number(course.measure, value))
    };
    let thin = course.moments.len().div_ceil(TABLE_ROWS).max(1);
    let until_ms = incident.closed_window_ms.unwrap_or(scene.now_ms);
    let rows = course
        .moments
        .iter()
        .step_by(thin)
        .map(|moment| CourseRow {
            at: Moment::new(&scene.zone, moment.at_ms, scene.now_ms),
            touched: text(moment.touched),
            others: text(moment.others),
            is_inside: (incident.opened_window_ms..until_ms).contains(&moment.at_ms),
        })
        .collect();
    let mut note = format!("medians over pairs, {} each", format::duration(course.step_ms));
    if course.is_cut {
        note.push_str("; it lasts longer than what is drawn");
    }
    let now = course.moments.last().and_then(|moment| moment.touched);
    let now = text(now);
    charts::with_plot("course", "The course", picture, plot, |plot| Drawn {
        title: words::measure_name(course.measure),
        plot,
        now,
        has_others: course.has_others(),
        has_before: course.before.is_some(),
        rows,
        note,
    })
}

struct NumberRow {
    name: &'static str,
    before: String,
    during: String,
    after: String,
    z: String,
    pairs: String,
}

#[derive(Template)]
#[template(path = "blocks/numbers.html")]
struct Numbers {
    rows: Vec<NumberRow>,
    is_over: bool,
}

fn numbers(incident: &Incident) -> Block {
    let rows = incident
        .evidence
        .iter()
        .map(|known| NumberRow {
            name: words::measure_name(known.measure),
            before: words::number(known.measure, known.before),
            during: words::number(known.measure, known.during),
            after: known
                .after
                .map_or_else(|| format::ABSENT.to_owned(), |after| words::number(known.measure, after)),
            z: format!("{:+.1}", known.z),
            pairs: format!("{} of {}", known.pairs, known.pairs_observed),
        })
        .collect();
    Block::render(
        "numbers",
        "Before and after",
        &Numbers { rows, is_over: incident.closed_window_ms.is_some() },
    )
}

struct Cell {
    href: String,
    is_touched: bool,
    says: String,
}

struct GridRow {
    name: String,
    href: String,
    cells: Vec<Option<Cell>>,
}

struct Listed {
    href: String,
    probe: String,
    target: String,
}

#[derive(Template)]
#[template(path = "blocks/touched.html")]
struct Touched {
    count: String,
    heads: Vec<String>,
    rows: Vec<GridRow>,
    listed: Vec<Listed>,
    spared: usize,
    unnamed: u32,
}

/// The pairs that it touches, among the others of the same probes and targets.
fn touched(picture: &Picture, incident: &Incident) -> Block {
    let span = &picture.scene.span;
    let name = |target: &str, family: Family| match family {
        Family::Any => picture.target_name(target).to_owned(),
        Family::V4 => format!("{} IPv4", picture.target_name(target)),
        Family::V6 => format!("{} IPv6", picture.target_name(target)),
    };
    let touched: HashSet<&PairRef> = incident.pairs.iter().collect();
    let probes: BTreeSet<&str> = incident.pairs.iter().map(|pair| pair.client_id.as_str()).collect();
    let targets: HashSet<&str> = incident.pairs.iter().map(|pair| pair.target.as_str()).collect();
    let known: HashMap<PairRef, &str> = picture
        .pairs
        .iter()
        .map(|now| {
            let pair = &now.pair;
            let reference = PairRef {
                client_id: pair.client_id.clone(),
                target: pair.target.clone(),
                family: pair.family,
            };
            (reference, now.status().1)
        })
        .collect();
    let near: Vec<&PairRef> = known
        .keys()
        .filter(|pair| probes.contains(pair.client_id.as_str()) || targets.contains(pair.target.as_str()))
        .collect();
    let columns: BTreeSet<(&str, Family)> = near
        .iter()
        .copied()
        .chain(touched.iter().copied())
        .map(|pair| (pair.target.as_str(), pair.family))
        .collect();
    let lines: BTreeSet<&str> =
        near.iter().copied().chain(touched.iter().copied()).map(|pair| pair.client_id.as_str()).collect();
    let fits = columns.len() <= COLUMNS_MAX && lines.len() <= ROWS_MAX;
    let rows = lines.iter().take(if fits { ROWS_MAX } else { 0 }).map(|probe| {
        let cells = columns.iter().map(|(target, family)| {
            let is_it = |pair: &&PairRef| {
                pair.client_id.as_str() == *probe && pair.target == *target && pair.family == *family
            };
            let own = touched.iter().copied().find(is_it);
            let pair = own.or_else(|| near.iter().copied().find(is_it))?;
            let now = known.get(pair).copied().unwrap_or("no data now");
            let is_touched = own.is_some();
            let word = if is_touched { "touched" } else { "not touched" };
            Some(Cell {
                href: span.link(&frame::pair_link(probe, target)),
                is_touched,
                says: format!("{} to {}: {word}, {now}", picture.probe_name(probe), name(target, *family)),
            })
        });
        GridRow {
            name: picture.probe_name(probe).to_owned(),
            href: span.link(&frame::probe_link(probe)),
            cells: cells.collect(),
        }
    });
    let rows: Vec<GridRow> = rows.collect();
    let listed = incident.pairs.iter().take(if fits { 0 } else { PAIRS_MAX }).map(|pair| Listed {
        href: span.link(&frame::pair_link(pair.client_id.as_str(), &pair.target)),
        probe: picture.probe_name(pair.client_id.as_str()).to_owned(),
        target: name(&pair.target, pair.family),
    });
    let template = Touched {
        count: format!("{} of {}", incident.pairs_touched, incident.pairs_observed),
        heads: columns.iter().map(|(target, family)| name(target, *family)).collect(),
        rows,
        listed: listed.collect(),
        spared: near.iter().filter(|pair| !touched.contains(**pair)).count(),
        unnamed: incident
            .pairs_touched
            .saturating_sub(u32::try_from(incident.pairs.len()).unwrap_or(u32::MAX)),
    };
    Block::render("touched", "Pairs", &template)
}

struct Reason {
    level: &'static str,
    icon: &'static str,
    says: &'static str,
    text: String,
    points: String,
}

#[derive(Template)]
#[template(path = "blocks/why.html")]
struct Why {
    confidence: String,
    share: String,
    reasons: Vec<Reason>,
}

/// What speaks for it, and what is not known.
fn why(incident: &Incident) -> Block {
    let for_it =
        |text: String, points: String| Reason { level: "ok", icon: "s-ok", says: "supports", text, points };
    let mut reasons: Vec<Reason> = incident
        .evidence
        .iter()
        .map(|known| {
            let pairs =
                format!("{} of {}", known.pairs, counted(known.pairs_observed as usize, "pair", "pairs"));
            for_it(format!("{}, for {pairs}.", words::evidence(known)), format!("{:+.1}\u{a0}σ", known.z))
        })
        .collect();
    let spared = incident.pairs_observed.saturating_sub(incident.pairs_touched);
    let coverage = 100.0 * f64::from(incident.pairs_touched) / f64::from(incident.pairs_observed.max(1));
    reasons.push(match spared {
        0 => for_it(
            format!(
                "All {} that {} could touch show it.",
                counted(incident.pairs_observed as usize, "pair", "pairs"),
                incident.place
            ),
            "100\u{a0}%".to_owned(),
        ),
        _ => Reason {
            level: "warn",
            icon: "s-warn",
            says: "speaks against",
            text: format!(
                "{} that {} could touch {} not show it.",
                counted(spared as usize, "pair", "pairs"),
                incident.place,
                if spared == 1 { "does" } else { "do" }
            ),
            points: format::percent(coverage).to_string(),
        },
    });
    if !incident.consequences.is_empty() {
        let names: Vec<&str> =
            incident.consequences.iter().map(|measure| words::measure_name(Some(*measure))).collect();
        reasons.push(Reason {
            level: "info",
            icon: "s-info",
            says: "follows from it",
            text: format!("Slow because of it, and not blamed by itself: {}.", names.join(", ")),
            points: String::new(),
        });
    }
    reasons.push(Reason {
        level: "stale",
        icon: "s-queue",
        says: "how it is counted",
        text: "Confidence is made of two things: how many of the pairs that this place could touch show it, \
               and how far their numbers are from their own usual, in robust deviations (σ)."
            .to_owned(),
        points: String::new(),
    });
    let percent = incident.confidence.clamp(0.0, 1.0) * 100.0;
    let template =
        Why { confidence: format::percent(percent).to_string(), share: format!("{percent:.0}"), reasons };
    Block::render("why", "Why we think so", &template)
}

struct StepRow {
    at: Moment,
    status: Status,
    word: &'static str,
    text: String,
}

#[derive(Template)]
#[template(path = "blocks/steps.html")]
struct Steps {
    rows: Vec<StepRow>,
}

fn steps(picture: &Picture, incident: &Incident) -> Block {
    let scene = &picture.scene;
    let rows = incident
        .steps
        .iter()
        .rev()
        .take(STEPS_MAX)
        .map(|step| {
            let (status, word) = words::step(step.kind);
            StepRow {
                at: Moment::new(&scene.zone, step.window_start_ms, scene.now_ms),
                status,
                word,
                text: words::nonbreaking(&step.text),
            }
        })
        .collect();
    Block::render("steps", "Timeline", &Steps { rows })
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, seen: &Seen) -> Option<Block> {
    let incident = &seen.incident;
    Some(match name {
        "verdict" => heading(picture, incident),
        "places" => places(incident),
        "course" => course(picture, seen),
        "numbers" => numbers(incident),
        "touched" => touched(picture, incident),
        "why" => why(incident),
        "tries" => tries::block(incident),
        "steps" => steps(picture, incident),
        _ => return None,
    })
}
