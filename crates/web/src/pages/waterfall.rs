//! Where the time goes: the stages of each target of a probe, beside the total that is usual.

use askama::Template;
use caelum_model::{
    diagnosis::{Diagnosis, Label},
    event::Family,
    rollup::Measure,
};

use super::{
    block::Block,
    format, frame,
    network::{self, Choice},
    picture::{PairNow, Picture},
};

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

/// Probes that are drawn for one target.
const PROBES_MAX: usize = 60;

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

/// The usual time of a whole measurement: what is usual for each of its stages together, where all of them
/// are known, or the round trip of a pair that has no stages.
fn usual_whole(pair: &PairNow) -> Option<f64> {
    if let Some(total) = pair.usual(Measure::Total) {
        return Some(total);
    }
    let measured: Vec<Measure> = STAGES
        .iter()
        .map(|(measure, ..)| *measure)
        .filter(|measure| pair.recent.median(*measure).is_some())
        .collect();
    if measured.is_empty() {
        return pair.usual(Measure::Rtt);
    }
    measured.into_iter().map(|measure| pair.usual(measure)).sum()
}

/// Where the time goes, for each target of the chosen probe.
pub fn block(picture: &Picture, choice: &Choice) -> Block {
    let selected = network::chosen(picture, choice);
    let probe = selected.map_or_else(String::new, |pair| pair.pair.client_id.to_string());
    let mut of_probe: Vec<&PairNow> = picture
        .pairs
        .iter()
        .filter(|pair| pair.pair.client_id.as_str() == probe && network::whole_ms(pair).is_some())
        .collect();
    of_probe.sort_by_key(|pair| (network::order(picture, &pair.pair.target), pair.pair.family));
    let name = |pair: &PairNow| network::name_with_family(picture, pair);
    let href = |pair: &PairNow| {
        network::path(&Choice {
            probe: Some(probe.clone()),
            target: Some(pair.pair.target.clone()),
            measure: choice.measure.clone(),
        })
    };
    let is_selected = |pair: &PairNow| selected.is_some_and(|chosen| chosen.pair == pair.pair);
    draw(picture, &of_probe, picture.probe_name(&probe).to_owned(), &name, &href, &is_selected)
}

/// Where the time goes for one target, from each probe.
pub fn of_target(picture: &Picture, url: &str) -> Block {
    let mut of_target: Vec<&PairNow> = picture
        .pairs
        .iter()
        .filter(|pair| pair.pair.target == url && network::whole_ms(pair).is_some())
        .collect();
    of_target.truncate(PROBES_MAX);
    let name = |pair: &PairNow| {
        let probe = picture.probe_name(pair.pair.client_id.as_str());
        match pair.pair.family {
            Family::Any => probe.to_owned(),
            Family::V4 => format!("{probe} IPv4"),
            Family::V6 => format!("{probe} IPv6"),
        }
    };
    let href = |pair: &PairNow| frame::pair_link(pair.pair.client_id.as_str(), url);
    draw(picture, &of_target, "each probe".to_owned(), &name, &href, &|_| false)
}

/// Draws a bar for each pair.
fn draw(
    picture: &Picture,
    pairs: &[&PairNow],
    probe: String,
    name: &dyn Fn(&PairNow) -> String,
    href: &dyn Fn(&PairNow) -> String,
    is_selected: &dyn Fn(&PairNow) -> bool,
) -> Block {
    let sum_of = |pair: &PairNow| -> f64 {
        let stages: f64 = STAGES.iter().filter_map(|(measure, ..)| pair.recent.median(*measure)).sum();
        if stages > 0.0 { stages } else { network::whole_ms(pair).unwrap_or(0.0) }
    };
    let longest =
        pairs.iter().flat_map(|pair| [Some(sum_of(pair)), usual_whole(pair)]).flatten().fold(0.0, f64::max);
    let scale = axis_end(longest);
    let falls = pairs.iter().map(|pair| {
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
            let ms = network::whole_ms(pair).unwrap_or(0.0);
            stages.push(stage(verdict, Measure::Rtt, "st-tcp", "round trip", ms, &share));
        }
        let whole = network::whole_ms(pair).unwrap_or(0.0);
        let usual = usual_whole(pair);
        let quantity = format::milliseconds(whole);
        let off =
            usual.map(|usual| whole - usual).filter(|delta| delta.abs() >= 1.0 && delta.abs() > whole * 0.15);
        Fall {
            name: name(pair),
            href: picture.scene.span.link(&href(pair)),
            selected: is_selected(pair),
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
    let template = Waterfall { falls: falls.collect(), probe, ticks: ticks(scale) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_above_the_longest_bar() {
        for longest in [0.3, 7.0, 21.0, 99.0, 496.0, 980.0, 12_345.0] {
            let end = axis_end(longest);
            assert!(end >= longest && end <= longest * 2.0, "{longest} -> {end}");
        }
    }
}
