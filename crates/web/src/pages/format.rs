//! Numbers, units, ages and times as people read them.
//!
//! The only place that puts a number beside its unit: always with a non-breaking space, thousands with a
//! comma, ages as durations up to a day. It knows nothing of pages, and what is absent is said by
//! [`ABSENT`], never by zero.

use caelum_model::UnixMs;
use jiff::{Timestamp, tz::TimeZone};

/// Stands where there is no value. The reason belongs beside it.
pub const ABSENT: &str = "–";

/// A non-breaking space, so that no line ends between a number and its unit.
const GAP: char = '\u{a0}';

/// A number with its unit, kept apart because the unit is set smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// The digits.
    pub value: String,
    /// The unit, without the space before it.
    pub unit: &'static str,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.unit.is_empty() {
            return f.write_str(&self.value);
        }
        write!(f, "{}{GAP}{}", self.value, self.unit)
    }
}

/// A whole number with commas between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 machine`, `13 machines`.
pub fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{}{GAP}{}", count(number as u64), if number == 1 { one } else { many })
}

/// About three significant digits: `0.42`, `4.2`, `42`, `4,200`.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        ABSENT.to_owned()
    } else if magnitude >= 99.95 {
        let sign = if value < 0.0 { "-" } else { "" };
        format!("{sign}{}", count(magnitude.round() as u64))
    } else if magnitude >= 9.95 || magnitude == 0.0 {
        format!("{value:.0}")
    } else if magnitude >= 0.995 {
        trimmed(format!("{value:.1}"))
    } else {
        trimmed(format!("{value:.2}"))
    }
}

fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Milliseconds, or seconds from ten thousand milliseconds up.
pub fn milliseconds(value: f64) -> Quantity {
    if value >= 9_950.0 {
        Quantity { value: number(value / 1000.0), unit: "s" }
    } else {
        Quantity { value: number(value), unit: "ms" }
    }
}

/// A share of a hundred: whole from ten up, one digit below, two below one.
pub fn percent(value: f64) -> Quantity {
    Quantity { value: number(value), unit: "%" }
}

/// A share for a narrow place, always whole.
pub fn whole(value: f64) -> String {
    format!("{:.0}", value.clamp(0.0, 999.0))
}

/// A size in decimal units, as disks are sold.
pub fn bytes(value: f64) -> Quantity {
    scaled(value, 1000.0, ["B", "kB", "MB", "GB", "TB", "PB"])
}

/// A size in binary units, as memory is sold.
pub fn memory(value: f64) -> Quantity {
    scaled(value, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A rate of bytes.
pub fn bytes_per_s(value: f64) -> Quantity {
    scaled(value, 1000.0, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"])
}

/// A rate of bits, from kbit/s.
pub fn kilobits_per_s(value: f64) -> Quantity {
    scaled(value, 1000.0, ["kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s", "Ebit/s"])
}

fn scaled(value: f64, step: f64, units: [&'static str; 6]) -> Quantity {
    let mut value = value.max(0.0);
    let mut unit = 0;
    while value >= step * 0.9995 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let value = if unit == 0 { format!("{value:.0}") } else { number(value) };
    Quantity { value, unit: units[unit] }
}

/// How long something took or lasts: `4 s`, `38 min`, `3 h 12 min`, `41 days`.
pub fn duration(ms: i64) -> String {
    let seconds = (ms / 1000).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if seconds < 60 {
        format!("{seconds}{GAP}s")
    } else if minutes < 60 {
        format!("{minutes}{GAP}min")
    } else if days < 1 {
        match minutes % 60 {
            0 => format!("{hours}{GAP}h"),
            rest => format!("{hours}{GAP}h {rest}{GAP}min"),
        }
    } else if days < 3 {
        match hours % 24 {
            0 => counted(days as usize, "day", "days"),
            rest => format!("{} {rest}{GAP}h", counted(days as usize, "day", "days")),
        }
    } else {
        counted(days as usize, "day", "days")
    }
}

/// The zone in which pages show clock times.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// The server's own zone.
    pub fn system() -> Self {
        Self(TimeZone::system())
    }

    /// Universal time, which tests know.
    #[cfg(test)]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    fn text(&self, at_ms: UnixMs, pattern: &str) -> String {
        let Ok(at) = Timestamp::from_millisecond(at_ms) else {
            return ABSENT.to_owned();
        };
        at.to_zoned(self.0.clone()).strftime(pattern).to_string()
    }

    /// `14:32`.
    pub fn minute(&self, at_ms: UnixMs) -> String {
        self.text(at_ms, "%H:%M")
    }

    /// `14:32:04`.
    pub fn second(&self, at_ms: UnixMs) -> String {
        self.text(at_ms, "%H:%M:%S")
    }

    /// `18 Nov`.
    pub fn day(&self, at_ms: UnixMs) -> String {
        self.text(at_ms, "%-d %b").replace(' ', &GAP.to_string())
    }

    /// Clock time when it was within a day, else the date.
    pub fn moment(&self, at_ms: UnixMs, now_ms: UnixMs) -> String {
        if now_ms - at_ms < 86_400_000 { self.minute(at_ms) } else { self.day(at_ms) }
    }

    /// Date and time to the second with the zone, for hovering.
    pub fn exact(&self, at_ms: UnixMs) -> String {
        self.text(at_ms, "%Y-%m-%d %H:%M:%S %Z")
    }

    /// How many milliseconds this zone is ahead of universal time at a moment.
    pub fn offset_ms(&self, at_ms: UnixMs) -> i64 {
        Timestamp::from_millisecond(at_ms).map_or(0, |at| i64::from(self.0.to_offset(at).seconds()) * 1000)
    }

    /// The machine-readable form.
    pub fn iso(at_ms: UnixMs) -> String {
        Timestamp::from_millisecond(at_ms).map_or_else(|_| String::new(), |at| at.to_string())
    }
}

/// A target as people call it: its name, or its URL without the scheme everybody knows.
pub fn short_target(url: &str) -> &str {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
    rest.strip_suffix('/').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_about_three_digits() {
        let table = [
            (0.0, "0"),
            (0.004, "0"),
            (0.42, "0.42"),
            (0.5, "0.5"),
            (0.996, "1"),
            (4.24, "4.2"),
            (5.0, "5"),
            (9.96, "10"),
            (42.4, "42"),
            (99.96, "100"),
            (1840.2, "1,840"),
            (-23.4, "-23"),
            (-1234.0, "-1,234"),
            (f64::NAN, ABSENT),
        ];
        for (value, text) in table {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn a_unit_never_stands_alone_on_a_line() {
        assert_eq!(percent(93.0).to_string(), "93\u{a0}%");
        assert_eq!(milliseconds(431.2).to_string(), "431\u{a0}ms");
        assert_eq!(milliseconds(12_300.0).to_string(), "12\u{a0}s");
        assert_eq!(counted(1, "machine", "machines"), "1\u{a0}machine");
        assert_eq!(counted(1840, "machine", "machines"), "1,840\u{a0}machines");
    }

    #[test]
    fn sizes_and_rates_take_the_unit_that_fits() {
        assert_eq!(bytes(999.0).to_string(), "999\u{a0}B");
        assert_eq!(bytes(1000.0).to_string(), "1\u{a0}kB");
        assert_eq!(bytes(999_900.0).to_string(), "1\u{a0}MB");
        assert_eq!(memory(64.0 * 1024.0 * 1024.0 * 1024.0).to_string(), "64\u{a0}GiB");
        assert_eq!(bytes_per_s(13_700_000.0).to_string(), "14\u{a0}MB/s");
        assert_eq!(kilobits_per_s(412_000.0).to_string(), "412\u{a0}Mbit/s");
    }

    #[test]
    fn an_age_is_a_duration_up_to_days() {
        let table = [
            (0, "0 s"),
            (4_900, "4 s"),
            (38 * 60_000, "38 min"),
            (192 * 60_000, "3 h 12 min"),
            (3_600_000, "1 h"),
            (86_400_000, "1 day"),
            (26 * 3_600_000, "1 day 2 h"),
            (41 * 86_400_000, "41 days"),
        ];
        for (ms, text) in table {
            assert_eq!(duration(ms).replace(GAP, " "), text);
        }
    }

    #[test]
    fn a_moment_within_a_day_is_a_clock_time() {
        let zone = Zone::utc();
        let noon = 1_763_467_200_000;
        assert_eq!(zone.moment(noon, noon + 60_000), "12:00");
        assert_eq!(zone.moment(noon, noon + 90_000_000), "18\u{a0}Nov");
        assert_eq!(zone.second(noon + 4_000), "12:00:04");
        assert_eq!(Zone::iso(noon), "2025-11-18T12:00:00Z");
    }
}
