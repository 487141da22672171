//! Network: what do users of these networks experience?

use askama::Template;
use caelum_model::{
    diagnosis::{Diagnosis, Label},
    event::Family,
    rollup::Measure,
};
use serde::Deserialize;

use super::{
    block::Block,
    charts, format,
    frame::{self, Frame, Place, Reader, Theme},
    history,
    mark::Status,
    overview::{self, Figure, Figures},
    picture::{PairNow, Picture},
    plot::Spark,
    words,
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

/// What the cells of the matrix show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shown {
    #[default]
    Experience,
    Latency,
    Loss,
    Jitter,
    Voice,
    Throughput,
    Failures,
}

impl Shown {
    const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::Experience, "experience", "Experience"),
        (Self::Latency, "latency", "Latency"),
        (Self::Failures, "failures", "Failures"),
        (Self::Loss, "loss", "Loss"),
        (Self::Jitter, "jitter", "Jitter"),
        (Self::Voice, "voice", "Voice"),
        (Self::Throughput, "throughput", "Mbit/s"),
    ];

    fn parse(text: Option<&str>) -> Self {
        Self::ALL
            .into_iter()
            .find(|(_, name, _)| Some(*name) == text)
            .map_or_else(Self::default, |(shown, ..)| shown)
    }

    /// The value of a pair and its text without a unit.
    fn value(self, pair: &PairNow) -> Option<(f64, String)> {
        let recent = &pair.recent;
        let median = |measure| recent.median(measure);
        Some(match self {
            Self::Experience => recent.experience.map(|score| (score, format!("{score:.0}")))?,
            Self::Latency => whole_ms(pair).map(|ms| (ms, format::milliseconds(ms).to_string()))?,
            Self::Loss => recent.loss.map(|loss| (loss, format::percent(loss).to_string()))?,
            Self::Jitter => median(Measure::Jitter).map(|ms| (ms, format::milliseconds(ms).to_string()))?,
            Self::Voice => recent.voice.map(|mos| (mos, format!("{mos:.2}")))?,
            Self::Throughput => {
                median(Measure::Throughput).map(|kbps| (kbps, format::number(kbps / 1000.0)))?
            }
            Self::Failures => {
                recent.error_percent().map(|share| (share, format::percent(share).to_string()))?
            }
        })
    }
}

/// The time of a whole measurement: the sum of its stages, or the round trip of a packet train.
fn whole_ms(pair: &PairNow) -> Option<f64> {
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
        figures: figures(picture),
        matrix: matrix(picture, choice),
        waterfall: waterfall(picture, choice),
        verdicts: overview::verdicts(picture),
        percentiles: percentiles(picture, choice),
        voice: voice(picture),
        resolvers: resolvers(picture),
    }
}

fn path(choice: &Choice) -> String {
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

struct Head {
    strong: String,
    rest: String,
}

struct Cell {
    href: String,
    level: &'static str,
    heat: u8,
    icon: Option<&'static str>,
    word: &'static str,
    text: String,
    small: String,
    selected: bool,
}

struct MatrixRow {
    probe: String,
    resolver: String,
    cells: Vec<Option<Cell>>,
}

struct MeasureTab {
    href: String,
    name: &'static str,
    current: bool,
}

#[derive(Template)]
#[template(path = "blocks/matrix.html")]
struct Matrix {
    heads: Vec<Head>,
    rows: Vec<MatrixRow>,
    tabs: Vec<MeasureTab>,
    pairs: String,
}

/// Who measures what, and how it stands.
fn matrix(picture: &Picture, choice: &Choice) -> Block {
    let span = &picture.scene.span;
    let shown = Shown::parse(choice.measure.as_deref());
    let selected = chosen(picture, choice).map(|pair| &pair.pair);
    let mut columns: Vec<(&str, Family)> =
        picture.pairs.iter().map(|pair| (pair.pair.target.as_str(), pair.pair.family)).collect();
    columns.sort_unstable_by_key(|(target, family)| (order(picture, target), *target, *family));
    columns.dedup();
    let both = |target: &str| columns.iter().filter(|(other, _)| *other == target).count() > 1;
    let heads = columns
        .iter()
        .map(|(target, family)| {
            let name = picture.target_name(target);
            let (strong, rest) = split_name(name);
            let version = match family {
                Family::V4 if both(target) => " IPv4",
                Family::V6 if both(target) => " IPv6",
                _ => "",
            };
            Head { strong, rest: format!("{rest}{version}") }
        })
        .collect();
    let rows = picture
        .probes()
        .into_iter()
        .map(|probe| {
            let of_probe: Vec<&PairNow> =
                picture.pairs.iter().filter(|pair| pair.pair.client_id.as_str() == probe).collect();
            let cells = columns
                .iter()
                .map(|(target, family)| {
                    let pair =
                        of_probe.iter().find(|p| p.pair.target == *target && p.pair.family == *family)?;
                    Some(cell(picture, choice, shown, pair, selected == Some(&pair.pair)))
                })
                .collect();
            let newest = of_probe
                .iter()
                .filter(|p| p.recent.last.resolver.is_some())
                .max_by_key(|p| p.recent.last.ts_ms);
            let resolver = newest.and_then(|pair| pair.recent.last.resolver.as_deref());
            MatrixRow {
                probe: picture.probe_name(probe).to_owned(),
                resolver: resolver.map_or_else(String::new, |resolver| {
                    format!("resolver {}", resolver.strip_suffix(":53").unwrap_or(resolver))
                }),
                cells,
            }
        })
        .collect();
    let tabs = Shown::ALL
        .into_iter()
        .map(|(measure, name, label)| MeasureTab {
            href: span.link(&path(&Choice {
                measure: (measure != Shown::default()).then(|| name.to_owned()),
                ..choice.clone()
            })),
            name: label,
            current: measure == shown,
        })
        .collect();
    let pairs = format::counted(picture.pairs.len(), "pair", "pairs");
    Block::render("matrix", "Probes and targets", &Matrix { heads, rows, tabs, pairs })
}

/// Targets stand in the order of their names, those no longer measured last.
fn order<'a>(picture: &'a Picture, url: &'a str) -> (bool, &'a str) {
    (!picture.targets.iter().any(|target| target.url == url), picture.target_name(url))
}

/// The first label of a host name apart from the rest, so that narrow columns break there.
fn split_name(name: &str) -> (String, String) {
    let is_address = name.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b':'));
    match name.split_once('.') {
        Some((first, rest)) if !is_address && !name.contains(' ') && rest.contains('.') => {
            (first.to_owned(), format!(".{rest}"))
        }
        _ => (name.to_owned(), String::new()),
    }
}

fn cell(picture: &Picture, choice: &Choice, shown: Shown, pair: &PairNow, selected: bool) -> Cell {
    let chosen = Choice {
        probe: Some(pair.pair.client_id.to_string()),
        target: Some(pair.pair.target.clone()),
        measure: choice.measure.clone(),
    };
    let (status, word) = pair.status();
    let verdict = pair.verdict();
    let value = shown.value(pair);
    let heat = match (shown, &value) {
        (Shown::Experience, Some((score, _))) if *score < 85.0 => 2,
        (Shown::Experience, Some((score, _))) if *score < 95.0 => 1,
        _ => 0,
    };
    let no_data = pair.recent.count == 0;
    Cell {
        href: picture.scene.span.link(&path(&chosen)),
        level: if verdict.is_some() {
            status.level()
        } else if no_data {
            "off"
        } else {
            ""
        },
        heat,
        icon: verdict.map(|_| status.icon_name()),
        word,
        text: match value {
            Some((_, text)) => text,
            None if no_data => "no data".to_owned(),
            None => format::ABSENT.to_owned(),
        },
        small: verdict.map_or_else(String::new, |verdict| stage_word(verdict.label).to_owned()),
        selected,
    }
}

/// The stage to blame, in a word that fits a cell.
fn stage_word(label: Label) -> &'static str {
    match label {
        Label::Dns => "DNS",
        Label::Handshake => "handshake",
        Label::Server => "server",
        Label::Throughput => "throughput",
        Label::Loss => "loss",
        Label::Path => "path",
        Label::Unreachable => "no answer",
    }
}

struct Stage {
    class: &'static str,
    share: String,
    title: String,
    says: String,
}

struct Fall {
    name: String,
    href: String,
    selected: bool,
    stages: Vec<Stage>,
    usual: Option<(String, String)>,
    value: String,
    unit: &'static str,
    delta: String,
    level: &'static str,
}

#[derive(Template)]
#[template(path = "blocks/waterfall.html")]
struct Waterfall {
    probe: String,
    falls: Vec<Fall>,
    ticks: Vec<(String, String)>,
}

/// The stages in the order they happen, with the name people know.
const STAGES: [(Measure, &str, &str); 4] = [
    (Measure::Dns, "st-dns", "DNS"),
    (Measure::Tcp, "st-tcp", "TCP"),
    (Measure::Tls, "st-tls", "TLS"),
    (Measure::Ttfb, "st-wait", "first byte"),
];

/// Whether a verdict blames a stage.
fn blames(verdict: &Diagnosis, stage: Measure) -> bool {
    let tls = verdict.sublabel.as_deref().unwrap_or_default().to_ascii_lowercase().contains("tls");
    match verdict.label {
        Label::Dns => stage == Measure::Dns,
        Label::Handshake => stage == if tls { Measure::Tls } else { Measure::Tcp },
        Label::Server => stage == Measure::Ttfb,
        Label::Path | Label::Loss => matches!(stage, Measure::Tcp | Measure::Rtt),
        Label::Throughput | Label::Unreachable => false,
    }
}

/// Where the time goes, for each target of the chosen probe.
fn waterfall(picture: &Picture, choice: &Choice) -> Block {
    let selected = chosen(picture, choice);
    let probe = selected.map_or_else(String::new, |pair| pair.pair.client_id.to_string());
    let mut of_probe: Vec<&PairNow> = picture
        .pairs
        .iter()
        .filter(|pair| pair.pair.client_id.as_str() == probe && whole_ms(pair).is_some())
        .collect();
    of_probe.sort_by_key(|pair| (order(picture, &pair.pair.target), pair.pair.family));
    let usual_of = |pair: &PairNow| pair.usual(Measure::Total).or_else(|| pair.usual(Measure::Rtt));
    let sum_of = |pair: &PairNow| -> f64 {
        let stages: f64 = STAGES.iter().filter_map(|(measure, ..)| pair.recent.median(*measure)).sum();
        if stages > 0.0 { stages } else { whole_ms(pair).unwrap_or(0.0) }
    };
    let longest =
        of_probe.iter().flat_map(|pair| [Some(sum_of(pair)), usual_of(pair)]).flatten().fold(0.0, f64::max);
    let scale = axis_end(longest);
    let falls = of_probe.iter().map(|pair| {
        let share = |ms: f64| format!("{:.2}", (ms / scale * 100.0).clamp(0.0, 100.0));
        let verdict = pair.verdict();
        let mut stages: Vec<Stage> = STAGES
            .iter()
            .filter_map(|(measure, class, name)| {
                Some((*measure, *class, *name, pair.recent.median(*measure)?))
            })
            .map(|(measure, class, name, ms)| stage(verdict, measure, class, name, ms, &share))
            .collect();
        if stages.is_empty() {
            let ms = whole_ms(pair).unwrap_or(0.0);
            stages.push(stage(verdict, Measure::Rtt, "st-tcp", "round trip", ms, &share));
        }
        let whole = whole_ms(pair).unwrap_or(0.0);
        let usual = usual_of(pair);
        let quantity = format::milliseconds(whole);
        let off =
            usual.map(|usual| whole - usual).filter(|delta| delta.abs() >= 1.0 && delta.abs() > whole * 0.15);
        Fall {
            name: name_with_family(picture, pair),
            href: picture.scene.span.link(&path(&Choice {
                probe: Some(probe.clone()),
                target: Some(pair.pair.target.clone()),
                measure: choice.measure.clone(),
            })),
            selected: selected.is_some_and(|chosen| chosen.pair == pair.pair),
            stages,
            usual: usual.map(|ms| (share(ms), format!("usually {}", format::milliseconds(ms)))),
            value: quantity.value,
            unit: quantity.unit,
            delta: match off {
                Some(delta) => {
                    format!("{}\u{a0}{}", if delta > 0.0 { '▴' } else { '▾' }, format::number(delta.abs()))
                }
                None if usual.is_some() => "as usual".to_owned(),
                None => "learning".to_owned(),
            },
            level: if verdict.is_some() { pair.status().0.level() } else { "" },
        }
    });
    let template = Waterfall {
        falls: falls.collect(),
        probe: picture.probe_name(&probe).to_owned(),
        ticks: ticks(scale),
    };
    Block::render("waterfall", "Where the time goes", &template)
}

fn stage(
    verdict: Option<&Diagnosis>,
    measure: Measure,
    class: &'static str,
    name: &str,
    ms: f64,
    share: &dyn Fn(f64) -> String,
) -> Stage {
    let guilty = verdict.is_some_and(|verdict| blames(verdict, measure));
    let title = format!("{name} {}", format::milliseconds(ms));
    Stage {
        class: if guilty { "st-bad" } else { class },
        share: share(ms),
        says: if guilty { title.clone() } else { String::new() },
        title,
    }
}

fn name_with_family(picture: &Picture, pair: &PairNow) -> String {
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

/// A round end of the axis, divisible by four.
fn axis_end(longest: f64) -> f64 {
    if longest <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(longest.log10().floor());
    [1.0, 1.2, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|end| *end >= longest * 1.02)
        .unwrap_or(12.0 * power)
}

fn ticks(end: f64) -> Vec<(String, String)> {
    [0.0, 0.25, 0.5, 0.75, 1.0]
        .into_iter()
        .map(|share| {
            let text = if share == 1.0 {
                format::milliseconds(end).to_string()
            } else {
                format::number(end * share)
            };
            (format!("{:.0}%", share * 100.0), text)
        })
        .collect()
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
fn percentiles(picture: &Picture, choice: &Choice) -> Block {
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
        "matrix" => matrix(picture, choice),
        "waterfall" => waterfall(picture, choice),
        "verdicts" => overview::verdicts(picture),
        "percentiles" => percentiles(picture, choice),
        "voice" => voice(picture),
        "resolvers" => resolvers(picture),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_breaks_after_its_first_label_and_an_address_does_not() {
        assert_eq!(split_name("app.example.net"), ("app".into(), ".example.net".into()));
        assert_eq!(split_name("198.51.100.80"), ("198.51.100.80".into(), String::new()));
        assert_eq!(split_name("Default gateway"), ("Default gateway".into(), String::new()));
        assert_eq!(split_name("example.net"), ("example.net".into(), String::new()));
    }

    #[test]
    fn the_axis_ends_above_the_longest_bar() {
        for longest in [0.3, 7.0, 21.0, 99.0, 496.0, 980.0, 12_345.0] {
            let end = axis_end(longest);
            assert!(end >= longest && end <= longest * 2.0, "{longest} -> {end}");
        }
    }
}
