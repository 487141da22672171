//! The plots of the product: which lines, which axis, which words.

use askama::Template;
use caelum_model::{
    UnixMs,
    node::{NodePoint, Thresholds},
    rollup::Measure,
};

use super::{
    block::Block,
    format,
    history::{Pair, Slot},
    picture::{CHART_POINTS, Machine, Picture},
    plot::{Kind, Line, Look, Plot},
};

/// Renders a block around a drawn plot.
///
/// The plot is a template of its own; its HTML passes into the block's template as a [`Block`] would.
pub fn with_plot<T: Template>(
    name: &'static str,
    title: &'static str,
    picture: &Picture,
    plot: Plot,
    template: impl FnOnce(Block) -> T,
) -> Block {
    let drawn = Block::render(plot.name, title, &plot.svg(&picture.scene.zone));
    Block::render(name, title, &template(drawn))
}

fn shown(picture: &Picture) -> (UnixMs, UnixMs, Vec<&Slot>) {
    let (from, to) = picture.scene.span.shown();
    let width = picture.scene.span.range.slot_ms();
    let slots =
        picture.slots.iter().filter(|slot| slot.start_ms + width > from && slot.start_ms < to).collect();
    (from, to, slots)
}

fn regions(picture: &Picture, of: impl Fn(&Pair) -> bool) -> Vec<(UnixMs, UnixMs)> {
    let (from, to) = picture.scene.span.shown();
    let mut regions: Vec<(UnixMs, UnixMs)> = Vec::new();
    for spell in &picture.spells {
        let pair = Pair {
            client_id: spell.newest.client_id.clone(),
            target: spell.newest.target.clone(),
            family: spell.newest.family,
        };
        if spell.to_ms > from && spell.from_ms < to && of(&pair) {
            regions.push((spell.from_ms.max(from), spell.to_ms.min(to)));
        }
    }
    for incident in &picture.incidents {
        let end_ms = incident.closed_window_ms.unwrap_or(picture.scene.now_ms);
        let touches = || {
            incident.pairs.iter().any(|pair| {
                of(&Pair {
                    client_id: pair.client_id.clone(),
                    target: pair.target.clone(),
                    family: pair.family,
                })
            })
        };
        if end_ms > from && incident.opened_window_ms < to && touches() {
            regions.push((incident.opened_window_ms.max(from), end_ms.min(to)));
        }
    }
    // Overlapping stretches would be tinted twice.
    regions.sort_unstable();
    regions.dedup_by(|next, kept| {
        let joins = next.0 <= kept.1;
        if joins {
            kept.1 = kept.1.max(next.1);
        }
        joins
    });
    regions
}

/// Experience over the shown time.
pub fn experience(picture: &Picture) -> Plot {
    let (from_ms, to_ms, slots) = shown(picture);
    let values: Vec<_> = slots.iter().map(|slot| slot.experience()).collect();
    let newest = values.iter().rev().flatten().next();
    Plot {
        name: "experience-chart",
        says: match newest {
            None => "No experience score yet".to_owned(),
            Some(score) => {
                format!("Experience score over {}, {score:.0} at the end", picture.scene.span.range.words())
            }
        },
        height: 104,
        kind: Kind::Score,
        step_ms: picture.scene.span.range.slot_ms(),
        from_ms,
        to_ms,
        times_ms: slots.iter().map(|slot| slot.start_ms).collect(),
        lines: vec![Line { label: "experience", look: Look::Area, values }],
        limit: None,
        regions: regions(picture, |_| true),
    }
}

/// Percentiles of whole measurements of one pair.
pub fn percentiles(picture: &Picture, pair: &Pair) -> Plot {
    let (from_ms, to_ms, slots) = shown(picture);
    let of =
        |slot: &Slot| slot.pairs.iter().find(|(known, _)| known == pair).map(|(_, reduced)| reduced.clone());
    let reduced: Vec<_> = slots.iter().map(|slot| of(slot)).collect();
    let trains = reduced.iter().flatten().all(|slot| slot.median(Measure::Total).is_none());
    let middle = if trains { Measure::Rtt } else { Measure::Total };
    let line = |label, look, value: &dyn Fn(&super::history::Reduced) -> Option<f64>| Line {
        label,
        look,
        values: reduced.iter().map(|slot| slot.as_ref().and_then(value)).collect(),
    };
    let lines = vec![
        line("p50", Look::Line, &|slot| slot.median(middle)),
        line("p95", Look::Second, &|slot| slot.whole_p95),
        line("p90", Look::Inner, &|slot| slot.whole_p90),
        line("p99 or slowest", Look::Outer, &|slot| slot.whole_top),
    ];
    let newest = lines[0].values.iter().rev().flatten().next();
    let says = match newest {
        None => "No measurements yet".to_owned(),
        Some(ms) => format!(
            "Time of a whole measurement over {}, median {} at the end",
            picture.scene.span.range.words(),
            format::milliseconds(*ms)
        ),
    };
    Plot {
        name: "percentiles-chart",
        says,
        height: 132,
        kind: Kind::Time,
        step_ms: picture.scene.span.range.slot_ms(),
        from_ms,
        to_ms,
        times_ms: slots.iter().map(|slot| slot.start_ms).collect(),
        lines,
        limit: None,
        regions: regions(picture, |other| other == pair),
    }
}

/// One of a machine's charts with the words in its heading.
pub struct MachineChart {
    /// The heading.
    pub title: &'static str,
    /// Labels of its lines where there are several: name and the key's class.
    pub keys: Vec<(&'static str, &'static str)>,
    /// What stands after the newest value: `of 64 GiB`, `on 16 cores`.
    pub of: String,
    /// The drawing.
    pub plot: Plot,
}

/// How far apart the points of a machine's chart are, ms.
pub fn machine_step_ms(from_ms: UnixMs, to_ms: UnixMs) -> i64 {
    // Samples come every ten seconds; a point cannot stand for less.
    ((to_ms - from_ms) / CHART_POINTS as i64).max(10_000)
}

/// Start of a machine's history on the grid of its step, so that a live update finds the same points.
pub fn machine_from_ms(from_ms: UnixMs, to_ms: UnixMs) -> UnixMs {
    let step = machine_step_ms(from_ms, to_ms);
    from_ms.div_euclid(step) * step
}

/// The six charts of a machine, on one time axis.
pub fn machine(picture: &Picture, machine: &Machine, points: &[NodePoint]) -> Vec<MachineChart> {
    let (from_ms, to_ms) = picture.scene.span.shown();
    let step_ms = machine_step_ms(from_ms, to_ms);
    let thresholds: Thresholds = machine.thresholds(&picture.scene);
    let cores = machine.node.identity.cpu_cores;
    let sample = machine.node.sample.as_ref();
    let plot = |name: &'static str,
                height,
                kind: Kind,
                limit,
                lines: Vec<(&'static str, Look, Vec<Option<f64>>)>| {
        let newest = lines.first().and_then(|(_, _, values)| values.last().copied().flatten());
        let title = name.trim_start_matches("chart-");
        Plot {
            name,
            says: match newest {
                None => format!("No {title} data in this window"),
                Some(value) => format!(
                    "{title} over {}, {} at the end",
                    picture.scene.span.range.words(),
                    kind.text(value)
                ),
            },
            height,
            kind,
            step_ms,
            from_ms,
            to_ms,
            // Each point stands at the start of its stretch, so that a live update replaces it in place.
            times_ms: points.iter().map(|point| point.at_ms.div_euclid(step_ms) * step_ms).collect(),
            lines: lines.into_iter().map(|(label, look, values)| Line { label, look, values }).collect(),
            limit,
            regions: Vec::new(),
        }
    };
    let all = |value: &dyn Fn(&NodePoint) -> Option<f64>| -> Vec<Option<f64>> {
        points.iter().map(value).collect()
    };
    let percent_limit = |value: f64| Some((value, String::new()));
    let per_core = if thresholds.load_per_core { f64::from(cores.max(1)) } else { 1.0 };
    let load_limit = thresholds.load.warning * per_core;
    let hottest_limit = sample.and_then(|sample| {
        sample.temperatures.iter().filter_map(|sensor| sensor.critical_celsius).reduce(f64::min)
    });
    let swaps = points.iter().any(|point| point.swap_percent.is_some());
    let mut memory = vec![("memory", Look::Area, all(&|p| Some(p.memory_percent)))];
    if swaps {
        memory.push(("swap", Look::Baseline, all(&|p| p.swap_percent)));
    }
    vec![
        MachineChart {
            title: "CPU",
            keys: Vec::new(),
            of: String::new(),
            plot: plot(
                "chart-cpu",
                104,
                Kind::Percent,
                percent_limit(thresholds.cpu.warning),
                vec![("cpu", Look::Area, all(&|p| Some(p.cpu_percent)))],
            ),
        },
        MachineChart {
            title: "Memory",
            keys: if swaps { vec![("memory", ""), ("swap", "kb")] } else { Vec::new() },
            of: sample
                .map_or_else(String::new, |s| format!("of {}", format::memory(s.memory.total_bytes as f64))),
            plot: plot("chart-memory", 104, Kind::Percent, percent_limit(thresholds.memory.warning), memory),
        },
        MachineChart {
            title: "Load",
            keys: vec![("1\u{a0}min", ""), ("5\u{a0}min", "kb")],
            of: format!("on {}", format::counted(cores as usize, "core", "cores")),
            plot: plot(
                "chart-load",
                88,
                Kind::Number,
                Some((load_limit, String::new())),
                vec![
                    ("1 min", Look::Line, all(&|p| Some(p.load_1))),
                    ("5 min", Look::Baseline, all(&|p| Some(p.load_5))),
                ],
            ),
        },
        MachineChart {
            title: "Disk",
            keys: vec![("read", ""), ("write", "k2")],
            of: String::new(),
            plot: plot(
                "chart-disk",
                88,
                Kind::Rate,
                None,
                vec![
                    ("read", Look::Line, all(&|p| Some(p.disk_read_bytes_per_s))),
                    ("write", Look::Second, all(&|p| Some(p.disk_written_bytes_per_s))),
                ],
            ),
        },
        MachineChart {
            title: "Traffic",
            keys: vec![("in", ""), ("out", "k2")],
            of: String::new(),
            plot: plot(
                "chart-traffic",
                88,
                Kind::Rate,
                None,
                vec![
                    ("in", Look::Line, all(&|p| Some(p.received_bytes_per_s))),
                    ("out", Look::Second, all(&|p| Some(p.sent_bytes_per_s))),
                ],
            ),
        },
        MachineChart {
            title: "Temperature",
            keys: Vec::new(),
            of: String::new(),
            plot: plot(
                "chart-temperature",
                88,
                Kind::Celsius,
                hottest_limit.map(|limit| (limit, format!("limit {limit:.0}\u{a0}°C"))),
                vec![("hottest", Look::Line, all(&|p| p.temperature_celsius))],
            ),
        },
    ]
}
