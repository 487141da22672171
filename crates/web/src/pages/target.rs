//! One target: how is it from everywhere, does it keep what it is held to, and what does it answer?

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Path, Query, State as Shared},
    http::HeaderMap,
    response::Response,
    routing::get,
};
use caelum_engine::{sketch::Histogram, target as rules};
use caelum_model::{
    event::Family,
    rollup::{MINUTE_MS, Measure, Rollup, TracedPath},
    target::Target,
};
use caelum_store::RollupQuery;

use super::{
    answers,
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Place, Reader, Theme},
    mark::Status,
    network::{self, Choice},
    picture::{PairNow, Picture},
    range::TimeQuery,
    routes::{Desk, draw, reader},
    waterfall,
    words::{self, Verdict},
};
use crate::{
    api::{
        measures,
        scores::{ASSUMPTIONS, BudgetJson, PointsJson, ScoresJson},
        targets,
    },
    auth::Person,
    error::ApiError,
    state::State,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "budget,scores,waterfall,percentiles,seen,answers,oneway,hops";
/// How far back certificates and paths are looked for.
const BACK_MS: i64 = 60 * MINUTE_MS;
/// How far back the scores reach.
const SCORED_MS: i64 = 15 * MINUTE_MS;
/// Rows read for them.
const ROWS_MAX: usize = 20_000;
/// Probes that are listed at most.
const PROBES_MAX: usize = 200;

/// The page.
pub fn router() -> Router<Arc<State>> {
    Router::new().route("/targets/{id}", get(show))
}

async fn show(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Path(id): Path<String>,
    (Query(time), Query(choice)): (Query<TimeQuery>, Query<Choice>),
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let sight = Sight::read(&state, &id).await?;
        Ok(page(&picture, &sight, reader(&person, &headers), &choice))
    };
    draw(page.await, headers)
}

/// What one probe saw of the target lately.
#[derive(Clone, Debug)]
pub struct View {
    /// The probe.
    pub client_id: String,
    /// IP version.
    pub family: Family,
    /// Its newest row that says what was answered.
    pub last: Option<caelum_model::rollup::LastSeen>,
    /// The newest path.
    pub path: Option<TracedPath>,
    /// Medians of the last minutes.
    pub medians: BTreeMap<Measure, f64>,
    /// Mean losses of the last minutes, percent.
    pub losses: BTreeMap<Measure, f64>,
}

/// A target with what is read beside the picture.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The target.
    pub target: Target,
    /// How it keeps its promise.
    pub budget: Option<BudgetJson>,
    /// Over all probes.
    pub scores: ScoresJson,
    /// Each probe by itself.
    pub views: Vec<View>,
}

impl Sight {
    /// Reads what there is of a target.
    pub async fn read(state: &State, id: &str) -> Result<Self, ApiError> {
        let target = targets::find(state, id).await?;
        let budget = BudgetJson::read(state, &target).await?;
        let now_ms = state.now_ms();
        let rows = state
            .store
            .rollups(RollupQuery {
                width_ms: MINUTE_MS,
                target: Some(target.url.clone()),
                from_ms: Some((now_ms - BACK_MS).div_euclid(MINUTE_MS) * MINUTE_MS),
                limit: ROWS_MAX,
                ..RollupQuery::default()
            })
            .await?;
        Self::of(target, budget, rows, now_ms)
    }

    /// The same from rows that were read.
    pub fn of(
        target: Target,
        budget: Option<BudgetJson>,
        rows: Vec<Rollup>,
        now_ms: i64,
    ) -> Result<Self, ApiError> {
        let mut pairs: BTreeMap<(String, Family), Vec<Rollup>> = BTreeMap::new();
        for row in rows {
            pairs.entry((row.key.client_id.to_string(), row.key.family)).or_default().push(row);
        }
        let mut all: BTreeMap<Measure, Histogram> = BTreeMap::new();
        let (mut views, mut failures) = (Vec::new(), 0);
        for ((client_id, family), mut rows) in pairs {
            let newest = |has: &dyn Fn(&Rollup) -> bool| rows.iter().rev().find(|row| has(row));
            let last = newest(&|row| row.last.details.as_ref().is_some_and(|details| details.web.is_some()))
                .or(rows.last())
                .map(|row| row.last.clone());
            let path = newest(&|row| row.last.path.is_some()).and_then(|row| row.last.path.clone());
            rows.retain(|row| row.key.window_start_ms >= now_ms - SCORED_MS);
            let merged = measures::merge(&rows)?;
            failures += rows.iter().map(|row| row.count_error).sum::<u64>();
            for (measure, histogram) in &merged {
                all.entry(*measure).or_default().merge(histogram);
            }
            let of = |value: &dyn Fn(&Histogram) -> Option<f64>| {
                merged.iter().filter_map(|(measure, known)| Some((*measure, value(known)?))).collect()
            };
            views.push(View {
                client_id,
                family,
                last,
                path,
                medians: of(&|known| known.quantile(0.5)),
                losses: of(&Histogram::mean),
            });
        }
        let scores = ScoresJson::of(&all, failures, target.objective.as_ref());
        Ok(Self { target, budget, scores, views })
    }
}

#[derive(Template)]
#[template(path = "pages/target.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    budget: Block,
    scores: Block,
    waterfall: Block,
    percentiles: Block,
    seen: Block,
    answers: Block,
    oneway: Block,
    hops: Block,
    change: String,
}

/// The page.
pub fn page(picture: &Picture, sight: &Sight, reader: Reader, choice: &Choice) -> impl Template + use<> {
    let theme = reader.theme;
    let mut path = frame::target_link(&sight.target);
    if let Some(probe) = &choice.probe {
        path.push_str(&format!("?probe={}", frame::encode(probe)));
    }
    let name = picture.target_name(&sight.target.url).to_owned();
    let heading = heading(picture, sight);
    Page {
        frame: Frame::new(picture, reader, Place::Network, &name, heading, &path, TOPICS),
        theme,
        budget: budget(sight),
        scores: scores(sight),
        waterfall: waterfall::of_target(picture, &sight.target.url),
        percentiles: percentiles(picture, sight, choice),
        seen: seen(picture, sight),
        answers: answers::answers(picture, sight),
        oneway: answers::one_way(picture, sight),
        hops: answers::hops(picture, sight),
        change: format!("/settings/targets/{}", frame::encode(sight.target.target_id.as_str())),
    }
}

fn pairs<'a>(picture: &'a Picture, sight: &'a Sight) -> impl Iterator<Item = &'a PairNow> {
    picture.pairs.iter().filter(|pair| pair.pair.target == sight.target.url)
}

fn heading(picture: &Picture, sight: &Sight) -> Block {
    let target = &sight.target;
    let name = picture.target_name(&target.url);
    let worst = pairs(picture, sight).max_by_key(|pair| (pair.verdict().is_some(), pair.status().0));
    let touching =
        picture.open_incidents().find(|incident| incident.pairs.iter().any(|pair| pair.target == target.url));
    let all = pairs(picture, sight).count();
    let (status, word) = match worst {
        _ if !target.enabled => (Status::Off, "Switched off"),
        None => (Status::Queue, "Waiting"),
        Some(pair) => pair.status(),
    };
    let sentence = match (touching, worst.and_then(PairNow::verdict)) {
        (Some(incident), _) => words::headline(incident),
        (None, Some(verdict)) => words::diagnosis(verdict, name),
        (None, None) if !target.enabled => format!("{name} is switched off."),
        (None, None) if all == 0 => format!("{name} has not been measured yet."),
        (None, None) => match status {
            Status::Ok => format!("{name} is as fast as usual."),
            Status::Queue => format!("Caelum is learning what is usual for {name}."),
            Status::Off => format!("{name} has no new measurement."),
            _ => format!("{name} differs from its usual, not long enough to say why."),
        },
    };
    let verdict = Verdict { status, sentence, lede: String::new() };
    let mut facts = vec![target.url.clone()];
    facts.push(format!("every {}", format::duration(i64::from(target.interval_s) * 1000)));
    facts.push(counted(all, "pair", "pairs"));
    facts.extend(target.group.iter().map(|group| format!("group {group}")));
    facts.extend(target.tags.iter().cloned());
    frame::detail_heading_as(&verdict, word, ("Network", picture.scene.span.link("/network")), &facts)
}

#[derive(Template)]
#[template(path = "blocks/budget.html")]
struct Budget {
    known: Option<BudgetSaid>,
    settings: String,
}

struct BudgetSaid {
    promise: String,
    level: &'static str,
    left: String,
    meter: String,
    sentence: String,
    rows: Vec<(&'static str, String)>,
}

fn budget(sight: &Sight) -> Block {
    let known = sight.budget.as_ref().map(|budget| {
        let objective = &budget.objective;
        let level = match (budget.left, budget.burn_1h, budget.burn_6h) {
            (Some(left), ..) if left < 0.0 => "crit",
            (_, Some(hour), Some(six)) if hour > 6.0 && six > 6.0 => "warn",
            _ => "accent",
        };
        let burn = |rate: Option<f64>| {
            rate.map_or_else(|| format::ABSENT.to_owned(), |rate| format!("{}\u{a0}×", format::number(rate)))
        };
        let sentence = match (budget.left, budget.burn_6h) {
            (None, _) => "Nothing is measured yet.".to_owned(),
            (Some(left), _) if left < 0.0 => "The promise is broken.".to_owned(),
            (Some(left), Some(rate)) if rate > 1.0 => {
                let days = f64::from(objective.days) * left / rate;
                format!(
                    "At the pace of the last six hours it is used up in {}.",
                    format::duration((days * 86_400_000.0) as i64)
                )
            }
            _ => "At the pace of the last six hours it lasts.".to_owned(),
        };
        BudgetSaid {
            promise: format!(
                "{}\u{a0}% within {} over {}",
                rules::percent_text(objective.promised_bp),
                format::milliseconds(objective.within_ms.into()),
                counted(objective.days.into(), "day", "days")
            ),
            level,
            left: budget
                .left
                .map_or_else(|| format::ABSENT.to_owned(), |left| format!("{:.0}\u{a0}%", left * 100.0)),
            meter: format!("{:.0}", (budget.left.unwrap_or(0.0) * 100.0).clamp(0.0, 100.0)),
            sentence,
            rows: vec![
                ("Good", format!("{} of {}", format::count(budget.good), format::count(budget.all))),
                (
                    "Share",
                    budget.good_share.map_or_else(
                        || format::ABSENT.to_owned(),
                        |share| format!("{:.3}\u{a0}%", share * 100.0),
                    ),
                ),
                ("Burn, last hour", burn(budget.burn_1h)),
                ("Burn, six hours", burn(budget.burn_6h)),
            ],
        }
    });
    let settings = format!("/settings/targets/{}", frame::encode(sight.target.target_id.as_str()));
    Block::render("budget", "Error budget", &Budget { known, settings })
}

struct ScoreRow {
    name: &'static str,
    value: String,
    word: &'static str,
    note: &'static str,
}

#[derive(Template)]
#[template(path = "blocks/scores.html")]
struct Scores {
    rows: Vec<ScoreRow>,
    assumptions: &'static [&'static str],
    satisfying: String,
}

fn scores(sight: &Sight) -> Block {
    let scores = &sight.scores;
    let number = |name, value: Option<f64>, digits: usize, note| ScoreRow {
        name,
        word: "",
        note: if value.is_some() { "" } else { note },
        value: value.map_or_else(|| format::ABSENT.to_owned(), |value| format!("{value:.digits$}")),
    };
    let points = |name, points: Option<PointsJson>, note| ScoreRow {
        name,
        value: points.map_or_else(|| format::ABSENT.to_owned(), |points| points.points.to_string()),
        word: points.map_or("", |points| points.class),
        note: if points.is_some() { "" } else { note },
    };
    const LOADED: &str = "needs a round trip under load and a download";
    let rows = vec![
        number("Apdex", scores.apdex, 2, "nothing measured in 15\u{a0}min"),
        number("Web, MOS", scores.web_mos, 2, "for http and https"),
        number("Voice, MOS", scores.voice_mos, 2, "for icmp and stamp"),
        number("Responsiveness, RPM", scores.rpm, 0, "needs a measurement under load"),
        points("Streaming", scores.streaming, LOADED),
        points("Gaming", scores.gaming, "needs a round trip under load"),
        points("Real-time calls", scores.real_time, "needs jitter and a round trip under load"),
    ];
    let satisfying = format::milliseconds(scores.satisfying_ms).to_string();
    Block::render("scores", "Scores", &Scores { rows, assumptions: &ASSUMPTIONS, satisfying })
}

/// Percentiles of the chosen probe, else of the first.
fn percentiles(picture: &Picture, sight: &Sight, choice: &Choice) -> Block {
    network::percentiles(picture, &chosen(picture, sight, choice))
}

/// The choice of a pair of this target.
pub fn chosen(picture: &Picture, sight: &Sight, choice: &Choice) -> Choice {
    let first = pairs(picture, sight).find(|pair| pair.verdict().is_some()).or(pairs(picture, sight).next());
    let probe = choice.probe.clone().or_else(|| first.map(|pair| pair.pair.client_id.to_string()));
    Choice { probe, target: Some(sight.target.url.clone()), measure: None }
}

struct SeenRow {
    name: String,
    probe: String,
    href: String,
    status: Status,
    word: &'static str,
    whole: String,
    experience: String,
    mos: String,
    failed: String,
}

#[derive(Template)]
#[template(path = "blocks/seen.html")]
struct Seen {
    rows: Vec<SeenRow>,
}

/// Every probe with what it sees.
fn seen(picture: &Picture, sight: &Sight) -> Block {
    let span = &picture.scene.span;
    let absent = || format::ABSENT.to_owned();
    let rows = pairs(picture, sight)
        .take(PROBES_MAX)
        .map(|pair| {
            let (status, word) = pair.status();
            let id = pair.pair.client_id.as_str();
            let version = match pair.pair.family {
                Family::Any => "",
                Family::V4 => " IPv4",
                Family::V6 => " IPv6",
            };
            let path = format!("{}?probe={}", frame::target_link(&sight.target), frame::encode(id));
            SeenRow {
                name: format!("{}{version}", picture.probe_name(id)),
                probe: span.link(&frame::probe_link(id)),
                href: span.link(&path),
                status,
                word,
                whole: network::whole_ms(pair).map_or_else(absent, |ms| format::milliseconds(ms).to_string()),
                experience: pair.recent.experience.map_or_else(absent, |score| format!("{score:.0}")),
                mos: pair.recent.voice.map_or_else(absent, |mos| format!("{mos:.2}")),
                failed: format!(
                    "{} of {}",
                    format::count(pair.recent.errors),
                    format::count(pair.recent.count)
                ),
            }
        })
        .collect();
    Block::render("seen", "By probe", &Seen { rows })
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, sight: &Sight, choice: &Choice) -> Option<Block> {
    Some(match name {
        "verdict" => heading(picture, sight),
        "budget" => budget(sight),
        "scores" => scores(sight),
        "waterfall" => waterfall::of_target(picture, &sight.target.url),
        "percentiles" => percentiles(picture, sight, choice),
        "seen" => seen(picture, sight),
        "answers" => answers::answers(picture, sight),
        "oneway" => answers::one_way(picture, sight),
        "hops" => answers::hops(picture, sight),
        _ => return None,
    })
}
