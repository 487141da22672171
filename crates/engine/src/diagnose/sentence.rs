//! A verdict in words: what, where, since when, how sure, what follows from it, and what is as usual.

use std::fmt;

use caelum_model::{
    UnixMs,
    diagnosis::Evidence,
    event::{ErrorStage, Family},
    id::ClientId,
    rollup::Measure,
};

use super::cause::Cause;

const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;

/// Everything that is said.
pub(super) struct Sentence<'a> {
    pub(super) client_id: &'a ClientId,
    pub(super) target: &'a str,
    pub(super) family: Family,
    pub(super) cause: Cause,
    pub(super) window_start_ms: UnixMs,
    pub(super) since_ms: UnixMs,
    pub(super) own: Evidence,
    pub(super) class: Option<&'a str>,
    pub(super) confidence: f64,
    pub(super) consequences: &'a [Measure],
    pub(super) normal: &'a [Measure],
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} between probe {} and {}", self.cause.label().as_str(), self.client_id, self.target)?;
        match self.family {
            Family::Any => {}
            Family::V4 => f.write_str(" over IPv4")?,
            Family::V6 => f.write_str(" over IPv6")?,
        }
        write!(f, " since {}: ", Moment { ms: self.since_ms, seen_from_ms: self.window_start_ms })?;
        self.write_numbers(f)?;
        write!(f, " (confidence {:.2})", self.confidence)?;
        if !self.consequences.is_empty() {
            write!(f, "; {} slower because of it", listed(self.consequences))?;
        }
        if !self.normal.is_empty() {
            write!(f, "; {} normal", listed(self.normal))?;
        }
        f.write_str(".")
    }
}

impl Sentence<'_> {
    fn write_numbers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, usual) = (self.own.value, self.own.usual);
        let what = match self.cause {
            Cause::Dns => "look-ups take",
            Cause::Connect => "connecting takes",
            Cause::Tls => "the TLS handshake takes",
            Cause::Server => "the first byte takes",
            Cause::Path(_) => "the round trip takes",
            Cause::Throughput => {
                return write!(f, "transfers run at {} instead of {}", Rate(value), Rate(usual));
            }
            Cause::Loss => {
                return write!(f, "{} of packets are lost instead of {}", Percent(value), Percent(usual));
            }
            Cause::Failing(stage) => return self.write_failures(f, stage),
        };
        write!(f, "{what} {} instead of {}", Time(value), Time(usual))
    }

    fn write_failures(&self, f: &mut fmt::Formatter<'_>, stage: ErrorStage) -> fmt::Result {
        let what = match stage {
            ErrorStage::Dns => "look-ups",
            ErrorStage::Tcp => "connections",
            ErrorStage::Tls => "TLS handshakes",
            ErrorStage::Http => "requests",
            ErrorStage::Throughput => "transfers",
        };
        write!(f, "{} of {what} fail", Percent(self.own.value))?;
        if let Some(class) = self.class {
            write!(f, " ({class})")?;
        }
        write!(f, " instead of at most {}", Percent(self.own.usual))
    }
}

/// A minute, UTC, with its day where it is another than the one it is seen from.
pub(crate) struct Moment {
    pub(crate) ms: UnixMs,
    pub(crate) seen_from_ms: UnixMs,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms.div_euclid(DAY_MS) != self.seen_from_ms.div_euclid(DAY_MS) {
            let (year, month, day) = date_of(self.ms);
            write!(f, "{year:04}-{month:02}-{day:02} ")?;
        }
        let minutes = self.ms.rem_euclid(DAY_MS) / MINUTE_MS;
        write!(f, "{:02}:{:02} UTC", minutes / 60, minutes % 60)
    }
}

/// "TCP", "TCP and TLS are", "DNS, TCP and the server are".
pub(crate) fn listed(measures: &[Measure]) -> String {
    let names: Vec<&str> = measures.iter().map(|measure| name_of(*measure)).collect();
    match names.as_slice() {
        [] => String::new(),
        [only] => format!("{only} is"),
        [first @ .., last] => format!("{} and {last} are", first.join(", ")),
    }
}

fn name_of(measure: Measure) -> &'static str {
    match measure {
        Measure::Dns => "DNS",
        Measure::Tcp => "TCP",
        Measure::Tls => "TLS",
        Measure::Ttfb => "the server",
        Measure::Total => "the total",
        Measure::Throughput => "throughput",
        Measure::Rtt => "the round trip",
        Measure::Jitter => "jitter",
        Measure::Loss => "loss",
        Measure::Rpm => "responsiveness",
        Measure::DelayOut => "the delay out",
        Measure::DelayBack => "the delay back",
        Measure::LossOut => "loss out",
        Measure::LossBack => "loss back",
        Measure::Upload => "the upload",
        Measure::Loaded => "the round trip under load",
    }
}

/// Milliseconds, as precise as is useful.
pub(crate) struct Time(pub(crate) f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms < 0.95 => write!(f, "{ms:.2} ms"),
            ms if ms < 9.95 => write!(f, "{ms:.1} ms"),
            ms if ms < 999.5 => write!(f, "{ms:.0} ms"),
            ms => write!(f, "{:.1} s", ms / 1_000.0),
        }
    }
}

/// Kilobits a second.
pub(crate) struct Rate(pub(crate) f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kbps if kbps < 999.5 => write!(f, "{kbps:.0} kbit/s"),
            kbps if kbps < 99_950.0 => write!(f, "{:.1} Mbit/s", kbps / 1_000.0),
            kbps if kbps < 999_500.0 => write!(f, "{:.0} Mbit/s", kbps / 1_000.0),
            kbps => write!(f, "{:.1} Gbit/s", kbps / 1_000_000.0),
        }
    }
}

/// Percent.
pub(crate) struct Percent(pub(crate) f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0.0 && self.0 < 9.95 && self.0.fract() != 0.0 {
            write!(f, "{:.1} %", self.0)
        } else {
            write!(f, "{:.0} %", self.0)
        }
    }
}

/// Year, month and day of a moment, UTC, in the Gregorian calendar. Counts from 1 March of year 0, so that
/// the leap day is the last of a year and months have a regular pattern.
fn date_of(ms: UnixMs) -> (i64, i64, i64) {
    const DAYS_TO_1970: i64 = 719_468;
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let days = ms.div_euclid(DAY_MS) + DAYS_TO_1970;
    let (era, day_of_era) = (days.div_euclid(DAYS_IN_400_YEARS), days.rem_euclid(DAYS_IN_400_YEARS));
    let year_of_era =
        (0..400).rev().find(|year| day_of_era >= year * 365 + year / 4 - year / 100).unwrap_or(0);
    let day_of_year = day_of_era - (year_of_era * 365 + year_of_era / 4 - year_of_era / 100);
    // From March on, months have 31, 30, 31, 30, 31 days over and over: 153 in five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (951_782_400_000, (2000, 2, 29)),
            (951_868_800_000, (2000, 3, 1)),
            (1_735_689_599_999, (2024, 12, 31)),
            (4_107_542_400_000, (2100, 3, 1)),
        ];
        for (ms, date) in cases {
            assert_eq!(date_of(ms), date, "{ms}");
        }
    }

    #[test]
    fn numbers_are_written_as_precisely_as_is_useful() {
        let times: Vec<String> =
            [0.25, 3.04, 9.96, 380.2, 999.6, 2_340.0].map(|ms| Time(ms).to_string()).into();
        assert_eq!(times, ["0.25 ms", "3.0 ms", "10 ms", "380 ms", "1.0 s", "2.3 s"]);
        let rates: Vec<String> = [812.0, 1_200.0, 940_000.0, 2.5e6].map(|kbps| Rate(kbps).to_string()).into();
        assert_eq!(rates, ["812 kbit/s", "1.2 Mbit/s", "940 Mbit/s", "2.5 Gbit/s"]);
        let shares: Vec<String> = [0.0, 3.333, 50.0, 99.6].map(|share| Percent(share).to_string()).into();
        assert_eq!(shares, ["0 %", "3.3 %", "50 %", "100 %"]);
    }
}
