//! The time that a page is about: a range that ends now, and a window chosen in it.

use caelum_model::UnixMs;
use serde::Deserialize;

/// How far the horizon reaches back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Range {
    /// One hour.
    #[default]
    Hour,
    /// Six hours.
    SixHours,
    /// A day.
    Day,
    /// A week.
    Week,
    /// Thirty days.
    Month,
}

impl Range {
    /// All ranges, shortest first; the keys 1 to 5 choose them.
    pub const ALL: [Self; 5] = [Self::Hour, Self::SixHours, Self::Day, Self::Week, Self::Month];

    /// The form in addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::SixHours => "6h",
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "30d",
        }
    }

    /// The form on buttons.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hour => "1\u{a0}h",
            Self::SixHours => "6\u{a0}h",
            Self::Day => "24\u{a0}h",
            Self::Week => "7\u{a0}d",
            Self::Month => "30\u{a0}d",
        }
    }

    /// The form in sentences.
    pub fn words(self) -> &'static str {
        match self {
            Self::Hour => "the last hour",
            Self::SixHours => "the last 6 hours",
            Self::Day => "the last 24 hours",
            Self::Week => "the last 7 days",
            Self::Month => "the last 30 days",
        }
    }

    /// Reads the form in addresses; anything else is the default.
    pub fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|range| range.as_str() == text).unwrap_or_default()
    }

    /// Its length, ms.
    pub fn length_ms(self) -> i64 {
        const HOUR: i64 = 3_600_000;
        match self {
            Self::Hour => HOUR,
            Self::SixHours => 6 * HOUR,
            Self::Day => 24 * HOUR,
            Self::Week => 7 * 24 * HOUR,
            Self::Month => 30 * 24 * HOUR,
        }
    }

    /// Length of the stretches that history is shown in, ms: 60 to 120 of them fill the range.
    pub fn slot_ms(self) -> i64 {
        const MINUTE: i64 = 60_000;
        match self {
            Self::Hour => MINUTE,
            Self::SixHours => 5 * MINUTE,
            Self::Day => 15 * MINUTE,
            Self::Week => 120 * MINUTE,
            Self::Month => 360 * MINUTE,
        }
    }

    /// Distance between the ticks of its axis, ms.
    fn tick_ms(self) -> i64 {
        const MINUTE: i64 = 60_000;
        match self {
            Self::Hour => 10 * MINUTE,
            Self::SixHours => 60 * MINUTE,
            Self::Day => 180 * MINUTE,
            Self::Week => 24 * 60 * MINUTE,
            Self::Month => 5 * 24 * 60 * MINUTE,
        }
    }

    /// Moments of the axis ticks in [from, to], on full steps of local time.
    pub fn ticks(self, from_ms: UnixMs, to_ms: UnixMs, offset_ms: i64) -> Vec<UnixMs> {
        let step = self.tick_ms();
        let first = (from_ms + offset_ms).div_euclid(step) * step + step - offset_ms;
        std::iter::successors(Some(first), |at| Some(at + step))
            .take_while(|at| *at <= to_ms)
            .take(32)
            .collect()
    }
}

/// What an address says about time.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TimeQuery {
    /// The range, as in [`Range::as_str`].
    pub range: Option<String>,
    /// Start of the window, ms.
    pub from: Option<i64>,
    /// End of the window, ms.
    pub to: Option<i64>,
}

/// A range anchored at a moment, with the window that charts show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The range.
    pub range: Range,
    /// Start of the range.
    pub from_ms: UnixMs,
    /// End of the range: now.
    pub to_ms: UnixMs,
    /// The window, if one was chosen.
    pub window: Option<(UnixMs, UnixMs)>,
}

impl Span {
    /// The span that an address asks for, seen from now. A window outside the range, or shorter than a
    /// minute, is none.
    pub fn of(query: &TimeQuery, now_ms: UnixMs) -> Self {
        let range = Range::parse(query.range.as_deref().unwrap_or_default());
        let from_ms = now_ms - range.length_ms();
        let window = match (query.from, query.to) {
            (Some(from), Some(to)) => {
                let (from, to) = (from.max(from_ms), to.min(now_ms));
                (to - from >= 60_000).then_some((from, to))
            }
            _ => None,
        };
        Self { range, from_ms, to_ms: now_ms, window }
    }

    /// What charts show: the window, else the whole range.
    pub fn shown(&self) -> (UnixMs, UnixMs) {
        self.window.unwrap_or((self.from_ms, self.to_ms))
    }

    /// Where a moment lies in the range, 0 to 100.
    pub fn percent_at(&self, at_ms: UnixMs) -> f64 {
        ((at_ms - self.from_ms) as f64 * 100.0 / (self.to_ms - self.from_ms) as f64).clamp(0.0, 100.0)
    }

    /// The query that keeps the span in links: nothing for the default.
    pub fn query(&self) -> String {
        let mut query = String::new();
        if self.range != Range::default() {
            query.push_str("range=");
            query.push_str(self.range.as_str());
        }
        if let Some((from, to)) = self.window {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(&format!("from={from}&to={to}"));
        }
        query
    }

    /// A path with the span kept.
    pub fn link(&self, path: &str) -> String {
        let query = self.query();
        if query.is_empty() {
            return path.to_owned();
        }
        format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_763_467_200_000;

    #[test]
    fn a_window_outside_the_range_is_cut_and_a_sliver_is_none() {
        let query = |from, to| TimeQuery { range: None, from: Some(from), to: Some(to) };
        let cut = Span::of(&query(NOW - 90 * 60_000, NOW - 30 * 60_000), NOW);
        assert_eq!(cut.window, Some((NOW - 60 * 60_000, NOW - 30 * 60_000)));
        assert_eq!(Span::of(&query(NOW - 30_000, NOW), NOW).window, None);
        assert_eq!(Span::of(&query(NOW, NOW - 600_000), NOW).window, None);
    }

    #[test]
    fn links_keep_what_is_not_the_default() {
        let plain = Span::of(&TimeQuery::default(), NOW);
        assert_eq!(plain.link("/network"), "/network");
        let day = Span::of(&TimeQuery { range: Some("24h".into()), ..TimeQuery::default() }, NOW);
        assert_eq!(day.link("/network?probe=a"), "/network?probe=a&range=24h");
        assert_eq!(Range::parse("nonsense"), Range::Hour);
    }

    #[test]
    fn ticks_fall_on_full_hours_of_the_local_zone() {
        let half_hour_zone = 5 * 3_600_000 + 1_800_000;
        let ticks = Range::SixHours.ticks(NOW - 6 * 3_600_000, NOW, half_hour_zone);
        assert_eq!(ticks.len(), 6);
        assert!(ticks.iter().all(|at| (at + half_hour_zone) % 3_600_000 == 0));
    }
}
