//! Who measures what, and how it stands: one row a probe, one column a target.

use askama::Template;
use caelum_model::{diagnosis::Label, event::Family, rollup::Measure};

use super::{
    block::Block,
    format, frame,
    network::{self, Choice},
    picture::{PairNow, Picture},
};

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
            Self::Latency => network::whole_ms(pair).map(|ms| (ms, format::milliseconds(ms).to_string()))?,
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

struct Head {
    href: Option<String>,
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
    href: String,
    resolver: String,
    group: Option<String>,
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

/// The pairs of the matrix: what machines see of each other has a page of its own.
fn shown_pairs(picture: &Picture) -> impl Iterator<Item = &PairNow> {
    picture.pairs.iter().filter(|pair| !picture.is_mesh(pair))
}

/// Who measures what, and how it stands.
pub fn block(picture: &Picture, choice: &Choice) -> Block {
    let span = &picture.scene.span;
    let shown = Shown::parse(choice.measure.as_deref());
    let selected = network::chosen(picture, choice).map(|pair| &pair.pair);
    let mut columns: Vec<(&str, Family)> =
        shown_pairs(picture).map(|pair| (pair.pair.target.as_str(), pair.pair.family)).collect();
    columns.sort_unstable_by_key(|(target, family)| (network::order(picture, target), *target, *family));
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
            let known = picture.targets.iter().find(|known| known.url == *target);
            let href = known.map(|known| span.link(&frame::target_link(known)));
            Head { href, strong, rest: format!("{rest}{version}") }
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
                href: span.link(&frame::probe_link(probe)),
                resolver: resolver.map_or_else(String::new, |resolver| {
                    format!("resolver {}", resolver.strip_suffix(":53").unwrap_or(resolver))
                }),
                group: picture.probe_setting(probe).and_then(|setting| setting.group.clone()),
                cells,
            }
        })
        .collect();
    let tabs = Shown::ALL
        .into_iter()
        .map(|(measure, name, label)| MeasureTab {
            href: span.link(&network::path(&Choice {
                measure: (measure != Shown::default()).then(|| name.to_owned()),
                ..choice.clone()
            })),
            name: label,
            current: measure == shown,
        })
        .collect();
    let pairs = format::counted(shown_pairs(picture).count(), "pair", "pairs");
    Block::render("matrix", "Probes and targets", &Matrix { heads, rows, tabs, pairs })
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
        href: picture.scene.span.link(&network::path(&chosen)),
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
}
