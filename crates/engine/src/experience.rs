//! What people would notice: web, streaming, gaming and real-time calls, from what was measured.
//!
//! Each number states its assumptions; one with a missing input is none, never zero. Voice quality and the
//! overall score are in [`crate::score`].

use crate::sketch::Histogram;

/// Loading times up to this are as good as it gets, ms.
pub const WEB_BEST_MS: f64 = 100.0;
/// Loading times from this on are as bad as it gets, ms.
pub const WEB_WORST_MS: f64 = 10_000.0;

/// Apdex of whole measurements, 0 to 1: those within T satisfy, those within 4 T count half, failures nothing.
pub fn apdex(total: &Histogram, failures: u64, satisfying_ms: f64) -> Option<f64> {
    let all = total.count() + failures;
    if all == 0 {
        return None;
    }
    let satisfied = total.count_at_most(satisfying_ms);
    let tolerated = total.count_at_most(4.0 * satisfying_ms).saturating_sub(satisfied);
    Some((satisfied as f64 + tolerated as f64 / 2.0) / all as f64)
}

/// Mean opinion score of a wait, 1 to 5, on the logarithmic curve of ITU-T G.1030: 5 at [`WEB_BEST_MS`] and
/// less, 1 at [`WEB_WORST_MS`] and more.
pub fn web_opinion(wait_ms: f64) -> f64 {
    let span = WEB_BEST_MS.ln() - WEB_WORST_MS.ln();
    (5.0 + 4.0 * (wait_ms.max(f64::MIN_POSITIVE).ln() - WEB_BEST_MS.ln()) / span).clamp(1.0, 5.0)
}

/// What the points of streaming, gaming and real-time calls are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Share of packets that are lost, 0 to 1; unknown adds nothing.
    pub loss: Option<f64>,
    /// Median round trip of the idle line, ms.
    pub idle_ms: Option<f64>,
    /// How much longer it is while the line is loaded, ms.
    pub increase_ms: Option<f64>,
    /// Jitter, ms.
    pub jitter_ms: Option<f64>,
    /// Download, Mbit/s.
    pub down_mbps: Option<f64>,
}

/// How good a line is for a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Not usable.
    Bad,
    /// Hardly usable.
    Poor,
    /// It does.
    Average,
    /// Nothing to complain about.
    Good,
    /// As good as it gets.
    Great,
}

impl Class {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Poor => "poor",
            Self::Average => "average",
            Self::Good => "good",
            Self::Great => "great",
        }
    }

    fn of(points: i32, limits: [i32; 4]) -> Self {
        match limits.iter().filter(|limit| points >= **limit).count() {
            0 => Self::Bad,
            1 => Self::Poor,
            2 => Self::Average,
            3 => Self::Good,
            _ => Self::Great,
        }
    }
}

/// Points of a use with their class (aggregated internet measurement, as Cloudflare publishes it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    /// The sum.
    pub points: i32,
    /// What it means.
    pub class: Class,
}

/// Points of a value: those of the first limit that it is below, else the last.
fn step<const N: usize>(value: f64, limits: [f64; N], points: [i32; N], above: i32) -> i32 {
    limits.iter().position(|limit| value < *limit).map_or(above, |index| points[index])
}

fn loss_points(line: &Line) -> i32 {
    line.loss.map_or(0, |loss| step(loss, [0.01, 0.05, 0.25, 0.5], [10, 5, 0, -10], -20))
}

fn delay_points(ms: f64) -> i32 {
    step(ms, [10.0, 20.0, 50.0, 100.0, 500.0], [20, 10, 5, 0, -10], -20)
}

fn jitter_points(ms: f64) -> i32 {
    step(ms, [10.0, 20.0, 100.0, 500.0], [10, 5, 0, -10], -20)
}

fn download_points(mbps: f64) -> i32 {
    step(mbps, [1.0, 10.0, 50.0, 100.0], [0, 5, 10, 20], 30)
}

/// Watching films: loss, round trip, how it grows under load, download.
pub fn streaming(line: &Line) -> Option<Points> {
    let points = loss_points(line)
        + delay_points(line.idle_ms?)
        + delay_points(line.increase_ms?)
        + download_points(line.down_mbps?);
    Some(Points { points, class: Class::of(points, [15, 20, 40, 60]) })
}

/// Playing with others: loss, round trip, how it grows under load.
pub fn gaming(line: &Line) -> Option<Points> {
    let points = loss_points(line) + delay_points(line.idle_ms?) + delay_points(line.increase_ms?);
    Some(Points { points, class: Class::of(points, [5, 15, 25, 30]) })
}

/// Talking with pictures: loss, round trip, jitter, how the round trip grows under load.
pub fn real_time(line: &Line) -> Option<Points> {
    let points = loss_points(line)
        + delay_points(line.idle_ms?)
        + jitter_points(line.jitter_ms?)
        + delay_points(line.increase_ms?);
    Some(Points { points, class: Class::of(points, [5, 15, 25, 40]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(*value).expect("measurable");
        }
        histogram
    }

    #[test]
    fn apdex_counts_tolerable_as_half_and_failures_as_nothing() {
        assert_eq!(apdex(&Histogram::default(), 0, 500.0), None);
        assert_eq!(apdex(&of(&[100.0, 1_000.0, 5_000.0]), 1, 500.0), Some(0.375));
        assert_eq!(apdex(&of(&[100.0, 1_000.0]), 0, 1_000.0), Some(1.0));
    }

    #[test]
    fn the_opinion_of_a_wait_falls_by_the_same_with_each_factor() {
        assert_eq!((web_opinion(0.0), web_opinion(100.0), web_opinion(20_000.0)), (5.0, 5.0, 1.0));
        assert!((web_opinion(1_000.0) - 3.0).abs() < 1e-9, "half way, by the logarithm");
        let steps = [web_opinion(200.0) - web_opinion(400.0), web_opinion(2_000.0) - web_opinion(4_000.0)];
        assert!((steps[0] - steps[1]).abs() < 1e-9);
    }

    const FIBRE: Line = Line {
        loss: Some(0.0),
        idle_ms: Some(5.0),
        increase_ms: Some(3.0),
        jitter_ms: Some(0.5),
        down_mbps: Some(500.0),
    };

    #[test]
    fn points_are_those_of_the_published_steps() {
        assert_eq!(streaming(&FIBRE), Some(Points { points: 80, class: Class::Great }));
        assert_eq!(gaming(&FIBRE), Some(Points { points: 50, class: Class::Great }));
        assert_eq!(real_time(&FIBRE), Some(Points { points: 60, class: Class::Great }));
        let far = Line {
            loss: Some(0.02),
            idle_ms: Some(60.0),
            increase_ms: Some(80.0),
            jitter_ms: Some(15.0),
            down_mbps: Some(20.0),
        };
        assert_eq!(streaming(&far), Some(Points { points: 15, class: Class::Poor }));
        assert_eq!(gaming(&far), Some(Points { points: 5, class: Class::Poor }));
        assert_eq!(real_time(&far), Some(Points { points: 10, class: Class::Poor }));
        for (loss, points) in [(0.009, 10), (0.01, 5), (0.05, 0), (0.25, -10), (0.5, -20)] {
            assert_eq!(loss_points(&Line { loss: Some(loss), ..FIBRE }), points, "loss {loss}");
        }
        for (ms, points) in [(9.9, 20), (10.0, 10), (20.0, 5), (50.0, 0), (100.0, -10), (500.0, -20)] {
            assert_eq!(delay_points(ms), points, "{ms} ms");
        }
        for (ms, points) in [(9.9, 10), (10.0, 5), (20.0, 0), (100.0, -10), (500.0, -20)] {
            assert_eq!(jitter_points(ms), points, "{ms} ms of jitter");
        }
        for (mbps, points) in [(0.5, 0), (1.0, 5), (10.0, 10), (50.0, 20), (100.0, 30)] {
            assert_eq!(download_points(mbps), points, "{mbps} Mbit/s");
        }
    }

    #[test]
    fn unknown_loss_adds_nothing_and_another_missing_input_means_no_score() {
        let silent = Line { loss: None, ..FIBRE };
        assert_eq!(streaming(&silent).map(|points| points.points), Some(70));
        assert_eq!(streaming(&Line { down_mbps: None, ..FIBRE }), None);
        assert_eq!(gaming(&Line { increase_ms: None, ..FIBRE }), None);
        assert!(gaming(&Line { jitter_ms: None, down_mbps: None, ..FIBRE }).is_some());
        assert_eq!(real_time(&Line { jitter_ms: None, ..FIBRE }), None);
    }
}
