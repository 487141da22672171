//! Time series: as SVG from the server for the first paint, as points for the script that draws over it.
//!
//! Geometry is drawn in a stretched view box, text is HTML on top. Gaps stay gaps: a stretch without data
//! breaks the line, on both sides of the wire.

use std::fmt::Write;

use askama::Template;
use caelum_model::UnixMs;
use serde::Serialize;

use super::format::{self, Zone};

/// What the values of a plot are, which decides axis and wording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Percent of a whole, axis 0 to 100.
    Percent,
    /// A plain number from zero.
    Number,
    /// Bytes a second from zero.
    Rate,
    /// Milliseconds from zero.
    Time,
    /// Degrees Celsius, on their real range.
    Celsius,
    /// A score up to 100, on its real range.
    Score,
}

impl Kind {
    /// A value with its unit.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Percent => format::percent(value).to_string(),
            Self::Number => format!("{value:.2}"),
            Self::Rate => format::bytes_per_s(value).to_string(),
            Self::Time => format::milliseconds(value).to_string(),
            Self::Celsius => format!("{value:.0}\u{a0}°C"),
            Self::Score => format!("{value:.0}"),
        }
    }
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// The subject, with its area: only for shares of a whole and scores.
    Area,
    /// The subject.
    Line,
    /// The second series.
    Second,
    /// What is compared with.
    Baseline,
    /// The inner edge of a fan of percentiles.
    Inner,
    /// The outer edge of a fan of percentiles.
    Outer,
}

/// One line of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is.
    pub label: &'static str,
    /// How it is drawn.
    pub look: Look,
    /// A value for each moment of the plot.
    pub values: Vec<Option<f64>>,
}

/// A plot with everything that is drawn in it.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Name in live updates.
    pub name: &'static str,
    /// What is shown, in words, with its finding.
    pub says: String,
    /// Height of the drawing, px.
    pub height: u32,
    /// What the values are.
    pub kind: Kind,
    /// Distance between moments, ms: a larger distance is a gap.
    pub step_ms: i64,
    /// Start of what is shown.
    pub from_ms: UnixMs,
    /// End of what is shown.
    pub to_ms: UnixMs,
    /// Moments, ascending.
    pub times_ms: Vec<UnixMs>,
    /// Lines, at most five.
    pub lines: Vec<Line>,
    /// A threshold, with its wording.
    pub limit: Option<(f64, String)>,
    /// Stretches in which a verdict stood.
    pub regions: Vec<(UnixMs, UnixMs)>,
}

#[derive(Template)]
#[template(path = "blocks/plot.html")]
struct Drawn<'a> {
    plot: &'a Plot,
    body: Vec<Shape>,
    y_ticks: Vec<Tick>,
    x_ticks: Vec<Tick>,
    limit: Option<Tick>,
    settings: String,
    points: String,
    empty: bool,
}

struct Shape {
    class: &'static str,
    path: String,
}

struct Tick {
    at: String,
    text: String,
    edge: &'static str,
}

/// What the script needs to draw the plot.
#[derive(Serialize)]
struct Settings<'a> {
    kind: Kind,
    height: u32,
    step: i64,
    from: f64,
    to: f64,
    min: f64,
    max: Option<f64>,
    lines: Vec<(&'a str, Look)>,
    limit: Option<f64>,
    regions: Vec<(f64, f64)>,
    /// How far the zone of clock times is ahead of universal time, s.
    offset: i64,
}

/// Points as they travel: seconds and one list a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Points {
    /// Moments, s.
    pub t: Vec<i64>,
    /// Values, by line.
    pub v: Vec<Vec<Option<f64>>>,
    /// The newest values in words.
    pub now: String,
}

impl Plot {
    /// The newest values in words, with one unit for all.
    pub fn now(&self) -> String {
        let values: Vec<f64> = self
            .lines
            .iter()
            .filter(|line| !matches!(line.look, Look::Baseline | Look::Inner | Look::Outer))
            // A second line of times is what is compared with: the subject alone is now.
            .filter(|line| self.kind != Kind::Time || line.look != Look::Second)
            .filter_map(|line| line.values.last().copied().flatten())
            .collect();
        let Some((last, before)) = values.split_last() else { return format::ABSENT.to_owned() };
        let largest = values.iter().copied().fold(0.0, f64::max);
        let mut texts: Vec<String> = before.iter().map(|value| self.tick_text(*value, largest)).collect();
        texts.push(match self.kind {
            Kind::Rate if !before.is_empty() => {
                let unit = format::bytes_per_s(largest).unit;
                format!("{}\u{a0}{unit}", self.tick_text(*last, largest))
            }
            kind => kind.text(*last),
        });
        texts.join(" / ")
    }

    /// The points from a moment on.
    pub fn points_since(&self, since_ms: UnixMs) -> Points {
        let first = self.times_ms.partition_point(|at| *at < since_ms);
        Points {
            t: self.times_ms[first..].iter().map(|at| at.div_euclid(1000)).collect(),
            v: self
                .lines
                .iter()
                .map(|line| line.values[first..].iter().map(|v| v.map(rounded)).collect())
                .collect(),
            now: self.now(),
        }
    }

    /// The newest moment that has points.
    pub fn newest_ms(&self) -> Option<UnixMs> {
        self.times_ms.last().copied()
    }

    /// Lower and upper end of the axis, and the values that get a tick.
    fn axis(&self) -> (f64, f64, Vec<f64>) {
        let values = || self.lines.iter().flat_map(|line| line.values.iter().flatten().copied());
        let highest = values().fold(f64::NEG_INFINITY, f64::max);
        let lowest = values().fold(f64::INFINITY, f64::min);
        match self.kind {
            Kind::Percent => (0.0, 100.0, vec![50.0, 100.0]),
            Kind::Score => {
                let floor = if lowest.is_finite() {
                    ((lowest - 5.0) / 20.0).floor().clamp(0.0, 3.0) * 20.0
                } else {
                    0.0
                };
                (floor, 100.0, vec![(floor + 100.0) / 2.0, 100.0])
            }
            Kind::Celsius if highest.is_finite() => {
                let top = highest.max(self.limit.as_ref().map_or(highest, |limit| limit.0));
                let (floor, top) = ((lowest / 10.0).floor() * 10.0 - 10.0, (top / 10.0).ceil() * 10.0 + 5.0);
                (floor, top, vec![((floor + top) / 20.0).round() * 10.0, (top / 10.0).floor() * 10.0])
            }
            Kind::Celsius => (0.0, 100.0, vec![50.0, 100.0]),
            Kind::Number | Kind::Rate | Kind::Time => {
                let top = nice_top(if highest.is_finite() { highest } else { 0.0 });
                (0.0, top, vec![top / 2.0, top])
            }
        }
    }

    /// Draws the plot.
    pub fn svg(&self, zone: &Zone) -> impl Template + '_ {
        let (low, high, ticks) = self.axis();
        let height = f64::from(self.height);
        let span = (self.to_ms - self.from_ms).max(1) as f64;
        let x = |at: UnixMs| (at - self.from_ms) as f64 * 1000.0 / span;
        let y = |value: f64| height - (value - low) / (high - low).max(f64::EPSILON) * height;
        let mut body = Vec::new();
        for (from, to) in &self.regions {
            let (left, right) = (x(*from).max(0.0), x(*to).min(1000.0));
            body.push(Shape { class: "reg", path: format!("M{left:.1} 0H{right:.1}V{height}H{left:.1}z") });
        }
        for value in std::iter::once(&low).chain(&ticks) {
            let class = if *value == low { "g0" } else { "g" };
            body.push(Shape { class, path: format!("M0 {0:.1}H1000", y(*value).clamp(0.5, height - 0.5)) });
        }
        let drawn = |line: &Line| -> Vec<Vec<(f64, f64)>> {
            runs(&self.times_ms, &line.values, self.step_ms)
                .into_iter()
                .map(|run| run.into_iter().map(|(at, value)| (x(at), y(value))).collect())
                .collect()
        };
        // A fan's edges come outermost last; each is filled down to the axis in its own tint, inner over outer.
        for line in self.lines.iter().rev() {
            let paths = drawn(line);
            let filled = match line.look {
                Look::Outer => Some("b1"),
                Look::Inner => Some("b2"),
                Look::Area => Some("a"),
                Look::Line | Look::Second | Look::Baseline => None,
            };
            if let Some(class) = filled {
                body.push(Shape { class, path: area_path(&paths, height) });
            }
            let class = match line.look {
                Look::Area | Look::Line => "l",
                Look::Second => "l l2 dash",
                Look::Baseline => "l lb dash",
                Look::Inner | Look::Outer => continue,
            };
            body.push(Shape { class, path: line_path(&paths) });
        }
        let at = |share: f64| format!("{:.1}%", share.clamp(0.0, 100.0));
        let y_ticks = ticks
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let last = index + 1 == ticks.len();
                let text = match self.kind {
                    Kind::Number => format::number(*value),
                    _ if last => self.kind.text(*value),
                    _ => self.tick_text(*value, ticks[ticks.len() - 1]),
                };
                Tick {
                    at: at(y(*value) / height * 100.0),
                    text,
                    edge: if y(*value) < 8.0 { "top" } else { "" },
                }
            })
            .collect();
        let limit =
            self.limit.as_ref().filter(|limit| limit.0 > low && limit.0 <= high).map(|(value, text)| {
                body.push(Shape { class: "lim", path: format!("M0 {0:.1}H1000", y(*value)) });
                Tick { at: at(y(*value) / height * 100.0), text: text.clone(), edge: "" }
            });
        let x_ticks = self.time_ticks(zone, &at);
        let settings = Settings {
            kind: self.kind,
            height: self.height,
            step: self.step_ms / 1000,
            from: self.from_ms as f64 / 1000.0,
            to: self.to_ms as f64 / 1000.0,
            min: low,
            max: matches!(self.kind, Kind::Percent | Kind::Score).then_some(high),
            lines: self.lines.iter().map(|line| (line.label, line.look)).collect(),
            limit: self.limit.as_ref().map(|limit| limit.0),
            offset: zone.offset_ms(self.to_ms) / 1000,
            regions: self.regions.iter().map(|(a, b)| (*a as f64 / 1000.0, *b as f64 / 1000.0)).collect(),
        };
        let empty = !self.lines.iter().any(|line| line.values.iter().any(Option::is_some));
        Drawn {
            plot: self,
            body: body.into_iter().filter(|shape| !shape.path.is_empty()).collect(),
            y_ticks,
            x_ticks,
            limit,
            settings: json(&settings),
            points: json(&self.points_since(UnixMs::MIN)),
            empty,
        }
    }

    /// A tick below the topmost carries no unit, in the unit of the topmost.
    fn tick_text(&self, value: f64, top: f64) -> String {
        let scale = match self.kind {
            Kind::Rate => {
                [1e12, 1e9, 1e6, 1e3].into_iter().find(|scale| top >= *scale * 0.9995).unwrap_or(1.0)
            }
            Kind::Time if top >= 9_950.0 => 1000.0,
            Kind::Percent | Kind::Number | Kind::Time | Kind::Celsius | Kind::Score => 1.0,
        };
        format::number(value / scale)
    }

    fn time_ticks(&self, zone: &Zone, at: &dyn Fn(f64) -> String) -> Vec<Tick> {
        let text = |moment: UnixMs| {
            if self.to_ms - self.from_ms > 2 * 86_400_000 { zone.day(moment) } else { zone.minute(moment) }
        };
        let middle = i64::midpoint(self.from_ms, self.to_ms);
        [(self.from_ms, "start"), (middle, ""), (self.to_ms, "end")]
            .into_iter()
            .map(|(moment, edge)| {
                let share =
                    (moment - self.from_ms) as f64 * 100.0 / (self.to_ms - self.from_ms).max(1) as f64;
                Tick { at: at(share), text: text(moment), edge }
            })
            .collect()
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plots hold numbers and short names only")
}

/// Four significant digits are more than a screen shows.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// The smallest of 1, 2, 4, 5 and 10 times a power of ten that holds a value with a little air.
fn nice_top(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let wanted = value * 1.08;
    let power = 10f64.powf(wanted.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|top| *top >= wanted)
        .unwrap_or(10.0 * power)
}

/// Stretches without a gap.
fn runs(times: &[UnixMs], values: &[Option<f64>], step_ms: i64) -> Vec<Vec<(UnixMs, f64)>> {
    let mut runs: Vec<Vec<(UnixMs, f64)>> = Vec::new();
    let mut open = false;
    let mut before = UnixMs::MIN;
    for (at, value) in times.iter().zip(values) {
        let Some(value) = value else {
            open = false;
            continue;
        };
        if open && at - before <= step_ms * 5 / 2 {
            runs.last_mut().expect("an open run is in the list").push((*at, *value));
        } else {
            runs.push(vec![(*at, *value)]);
        }
        open = true;
        before = *at;
    }
    runs
}

fn line_path(runs: &[Vec<(f64, f64)>]) -> String {
    let mut path = String::new();
    for run in runs {
        for (index, (x, y)) in run.iter().enumerate() {
            let pen = if index == 0 { 'M' } else { 'L' };
            write!(path, "{pen}{x:.1} {y:.1}").expect("writing to a string");
        }
        if run.len() == 1 {
            // A lone point has no length; half a unit makes it visible.
            path.push_str("h.5");
        }
    }
    path
}

fn area_path(runs: &[Vec<(f64, f64)>], ground: f64) -> String {
    let mut path = String::new();
    for run in runs.iter().filter(|run| run.len() > 1) {
        path.push_str(&line_path(std::slice::from_ref(run)));
        let (first, last) = (run[0].0, run[run.len() - 1].0);
        write!(path, "L{last:.1} {ground}L{first:.1} {ground}z").expect("writing to a string");
    }
    path
}

/// A sparkline: shape only, in a box of 80 by 20.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spark {
    /// The line.
    pub line: String,
    /// The line closed to the ground.
    pub area: String,
}

impl Spark {
    /// Draws values from left to right between `low` and `high`; none is a gap.
    pub fn draw(values: &[Option<f64>], low: f64, high: f64) -> Self {
        let last = values.len().saturating_sub(1).max(1) as f64;
        let mut drawn: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        for (index, value) in values.iter().enumerate() {
            match value {
                None => drawn.push(Vec::new()),
                Some(value) => {
                    let share = ((value - low) / (high - low).max(f64::EPSILON)).clamp(0.0, 1.0);
                    let point = (index as f64 * 80.0 / last, 19.5 - share * 19.0);
                    drawn.last_mut().expect("never empty").push(point);
                }
            }
        }
        drawn.retain(|run| !run.is_empty());
        Self { line: line_path(&drawn), area: area_path(&drawn, 20.0) }
    }

    /// Whether there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_breaks_the_line() {
        let times = [0, 10, 20, 60, 70];
        let values = [Some(1.0), Some(2.0), None, Some(3.0), Some(4.0)];
        let runs = runs(&times, &values, 10);
        assert_eq!(runs.len(), 2);
        let far = super::runs(&[0, 10, 100], &[Some(1.0), Some(1.0), Some(1.0)], 10);
        assert_eq!(far.len(), 2);
    }

    #[test]
    fn an_axis_of_amounts_starts_at_zero_and_ends_on_a_round_number() {
        for (value, top) in [(0.0, 1.0), (0.9, 1.0), (3.1, 4.0), (42.0, 50.0), (95.0, 200.0), (431.0, 500.0)]
        {
            assert_eq!(nice_top(value), top, "{value}");
        }
    }

    #[test]
    fn points_since_a_moment_leave_out_what_came_before() {
        let plot = Plot {
            name: "x",
            says: String::new(),
            height: 10,
            kind: Kind::Percent,
            step_ms: 1000,
            from_ms: 0,
            to_ms: 3000,
            times_ms: vec![0, 1000, 2000],
            lines: vec![Line { label: "a", look: Look::Line, values: vec![Some(1.0), None, Some(7.56789)] }],
            limit: None,
            regions: Vec::new(),
        };
        let points = plot.points_since(1000);
        assert_eq!(points.t, vec![1, 2]);
        assert_eq!(points.v, vec![vec![None, Some(7.568)]]);
        assert_eq!(points.now, "7.6\u{a0}%");
    }

    #[test]
    fn a_spark_of_one_value_is_visible_and_of_none_is_empty() {
        assert!(Spark::draw(&[], 0.0, 1.0).is_empty());
        assert!(Spark::draw(&[None, None], 0.0, 1.0).is_empty());
        assert!(!Spark::draw(&[Some(0.5)], 0.0, 1.0).is_empty());
    }
}
