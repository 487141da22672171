//! Network: what do users of these networks experience?

use askama::Template;
use caelum_model::{diagnosis::Label, event::Family, rollup::Measure};
use serde::Deserialize;

use super::{
    block::Block,
    charts, format,
    frame::{self, Frame, Place, Reader, Theme},
    history,
    mark::Status,
    matrix,
    overview::{self, Figure, Figures},
    picture::{PairNow, Picture},
    pipeline,
    plot::Spark,
    waterfall, words,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "figures,matrix,waterfall,verdicts,percentiles,voice,resolvers";

/// What the address chooses.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Choice {
    /// The probe whose targets are shown in detail.
    pub probe: Option<String>,
    /// The target whose percentiles are shown.
    pub target: Option<String>,
    /// The measure in the matrix.
    pub measure: Option<String>,
}

/// The time of a whole measurement: the sum of its stages, or the round trip of a packet train.
pub fn whole_ms(pair: &PairNow) -> Option<f64> {
    pair.recent.median(Measure::Total).or_else(|| pair.recent.median(Measure::Rtt))
}

/// The pair that the address chooses, else one under a verdict, else the first.
pub fn chosen<'a>(picture: &'a Picture, choice: &Choice) -> Option<&'a PairNow> {
    let probe = choice.probe.as_deref();
    let named = picture.pairs.iter().find(|pair| {
        choice.target.as_deref() == Some(pair.pair.target.as_str())
            && probe.is_none_or(|probe| probe == pair.pair.client_id.as_str())
    });
    let of_probe = || picture.pairs.iter().find(|pair| probe == Some(pair.pair.client_id.as_str()));
    named.or_else(of_probe).or_else(|| picture.verdicts().first().map(|(pair, _)| *pair)).or_else(|| {
        // Something with stages says more at first sight than a packet train.
        picture
            .pairs
            .iter()
            .find(|pair| pair.recent.median(Measure::Ttfb).is_some())
            .or(picture.pairs.first())
    })
}

#[derive(Template)]
#[template(path = "pages/network.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    figures: Block,
    matrix: Block,
    waterfall: Block,
    verdicts: Block,
    percentiles: Block,
    voice: Block,
    resolvers: Block,
}

/// The page.
pub fn page(picture: &Picture, reader: Reader, choice: &Choice) -> impl Template + use<> {
    let theme = reader.theme;
    let verdict = frame::heading(&words::network(picture));
    Page {
        frame: Frame::new(picture, reader, Place::Network, "Network", verdict, &path(choice), TOPICS),
        theme,
        tabs: pipeline::tabs(picture, "/network"),
        figures: figures(picture),
        matrix: matrix::block(picture, choice),
        waterfall: waterfall::block(picture, choice),
        verdicts: overview::verdicts(picture),
        percentiles: percentiles(picture, choice),
        voice: voice(picture),
        resolvers: resolvers(picture),
    }
}

/// The page's address with a choice.
pub fn path(choice: &Choice) -> String {
    let query: Vec<String> =
        [("probe", &choice.probe), ("target", &choice.target), ("measure", &choice.measure)]
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", frame::encode(value.as_deref()?))))
            .collect();
    if query.is_empty() { "/network".to_owned() } else { format!("/network?{}", query.join("&")) }
}

fn figures(picture: &Picture) -> Block {
    let throughputs = picture.pairs.iter().filter_map(|pair| pair.recent.median(Measure::Throughput));
    let throughput = history::median(throughputs).map(format::kilobits_per_s);
    let (failed, all) = picture
        .pairs
        .iter()
        .fold((0, 0), |(failed, all), pair| (failed + pair.recent.errors, all + pair.recent.count));
    let figures = vec![
        overview::experience_figure(picture),
        overview::voice_figure(picture),
        overview::first_byte_figure(picture),
        overview::loss_figure(picture),
        Figure {
            title: "Failures",
            value: (all > 0).then(|| format::count(failed)),
            unit: if all > 0 { format!("of {}", format::count(all)) } else { String::new() },
            delta: None,
            note: if all > 0 {
                "measurements in 5\u{a0}min".into()
            } else {
                "nothing measured in 5\u{a0}min".into()
            },
            spark: Spark::default(),
            level: "",
        },
        Figure {
            title: "Throughput",
            unit: throughput.as_ref().map_or_else(String::new, |quantity| quantity.unit.to_owned()),
            note: if throughput.is_some() {
                "median of targets".into()
            } else {
                "needs a download to measure".into()
            },
            value: throughput.map(|quantity| quantity.value),
            delta: None,
            spark: Spark::default(),
            level: "",
        },
    ];
    Block::render("figures", "Figures", &Figures { figures, six: true })
}

/// Targets stand in the order of their names, those no longer measured last.
pub fn order<'a>(picture: &'a Picture, url: &'a str) -> (bool, &'a str) {
    (!picture.targets.iter().any(|target| target.url == url), picture.target_name(url))
}

/// A target's name, with the IP version where both are measured.
pub fn name_with_family(picture: &Picture, pair: &PairNow) -> String {
    let name = picture.target_name(&pair.pair.target);
    let others = picture.pairs.iter().any(|other| {
        other.pair.target == pair.pair.target
            && other.pair.client_id == pair.pair.client_id
            && other.pair.family != pair.pair.family
    });
    match pair.pair.family {
        Family::V4 if others => format!("{name} IPv4"),
        Family::V6 if others => format!("{name} IPv6"),
        _ => name.to_owned(),
    }
}

#[derive(Template)]
#[template(path = "blocks/percentiles.html")]
struct Percentiles {
    plot: Block,
    name: String,
    now: String,
    error: Option<String>,
}

/// Percentiles of the chosen pair over time.
pub fn percentiles(picture: &Picture, choice: &Choice) -> Block {
    let Some(pair) = chosen(picture, choice) else {
        let empty = Percentiles { plot: Block::none(), name: String::new(), now: String::new(), error: None };
        return Block::render("percentiles", "Percentiles", &empty);
    };
    let plot = charts::percentiles(picture, &pair.pair);
    let name = name_with_family(picture, pair);
    let now =
        whole_ms(pair).map_or_else(|| format::ABSENT.to_owned(), |ms| format::milliseconds(ms).to_string());
    let error = pair
        .recent
        .last
        .error
        .as_ref()
        .map(|(stage, detail)| format!("last failure at {}: {detail}", stage.as_str()));
    charts::with_plot("percentiles", "Percentiles", picture, plot, |plot| Percentiles {
        plot,
        name,
        now,
        error,
    })
}

/// The chart of the chosen pair, for live updates.
pub fn percentile_plot(picture: &Picture, choice: &Choice) -> Option<super::plot::Plot> {
    Some(charts::percentiles(picture, &chosen(picture, choice)?.pair))
}

struct VoiceRow {
    name: String,
    status: Status,
    at: String,
    mos: String,
    level: &'static str,
    rtt: String,
}

#[derive(Template)]
#[template(path = "blocks/voice.html")]
struct Voice {
    rows: Vec<VoiceRow>,
}

/// Voice quality of each pair with packet trains.
fn voice(picture: &Picture) -> Block {
    let rows = picture
        .pairs
        .iter()
        .filter_map(|pair| {
            let mos = pair.recent.voice?;
            let status = if mos >= 4.0 {
                Status::Ok
            } else if mos >= 3.1 {
                Status::Warn
            } else {
                Status::Crit
            };
            Some(VoiceRow {
                name: name_with_family(picture, pair),
                status,
                at: format!("{:.1}", (mos - 1.0) / 3.5 * 100.0),
                mos: format!("{mos:.2}"),
                level: if status == Status::Ok { "" } else { status.level() },
                rtt: pair
                    .recent
                    .median(Measure::Rtt)
                    .map_or_else(String::new, |ms| format::milliseconds(ms).to_string()),
            })
        })
        .collect();
    Block::render("voice", "Voice", &Voice { rows })
}

struct ResolverRow {
    name: String,
    status: Status,
    word: &'static str,
    value: String,
    unit: &'static str,
    pairs: String,
}

#[derive(Template)]
#[template(path = "blocks/resolvers.html")]
struct Resolvers {
    rows: Vec<ResolverRow>,
}

/// How long each resolver takes, over the pairs that asked it.
fn resolvers(picture: &Picture) -> Block {
    let mut names: Vec<&str> =
        picture.pairs.iter().filter_map(|pair| pair.recent.last.resolver.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let rows = names
        .into_iter()
        .filter_map(|name| {
            let users: Vec<&PairNow> = picture
                .pairs
                .iter()
                .filter(|pair| pair.recent.last.resolver.as_deref() == Some(name))
                .collect();
            let median = history::median(users.iter().filter_map(|pair| pair.recent.median(Measure::Dns)))?;
            let slow: Vec<&&PairNow> = users
                .iter()
                .filter(|pair| pair.verdict().is_some_and(|verdict| verdict.label == Label::Dns))
                .collect();
            let worst = slow.iter().map(|pair| pair.status().0).max();
            // Where a verdict stands, its number is the one to show.
            let slowest = slow.iter().filter_map(|pair| pair.recent.median(Measure::Dns)).reduce(f64::max);
            let known = users.iter().any(|pair| pair.usual(Measure::Dns).is_some());
            let (status, word) = match worst {
                Some(status) => (status, "Slow"),
                None if known => (Status::Ok, "As usual"),
                None => (Status::Queue, "Learning"),
            };
            let quantity = format::milliseconds(slowest.unwrap_or(median));
            Some(ResolverRow {
                name: name.strip_suffix(":53").unwrap_or(name).to_owned(),
                status,
                word,
                value: quantity.value,
                unit: quantity.unit,
                pairs: match slow.len() {
                    0 => format::counted(users.len(), "pair", "pairs"),
                    slow => format!("{slow} of {}", format::counted(users.len(), "pair", "pairs")),
                },
            })
        })
        .collect();
    Block::render("resolvers", "By resolver", &Resolvers { rows })
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, choice: &Choice) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&words::network(picture)),
        "figures" => figures(picture),
        "matrix" => matrix::block(picture, choice),
        "waterfall" => waterfall::block(picture, choice),
        "verdicts" => overview::verdicts(picture),
        "percentiles" => percentiles(picture, choice),
        "voice" => voice(picture),
        "resolvers" => resolvers(picture),
        _ => return None,
    })
}
