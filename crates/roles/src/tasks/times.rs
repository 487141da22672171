//! Which moment a time of a schedule is, in its time zone.
//!
//! # Rules
//! - A time that summer time leaves out is that much later: 02:30 on that night is 03:30.
//! - A time that comes twice is the first of the two. Schedules that go by every hour go by both.

use caelum_engine::cron::{Cron, CronError, Minute};
use caelum_model::UnixMs;
use jiff::{Timestamp, civil, tz::TimeZone};

/// Why there is no such time.
#[derive(Debug, thiserror::Error)]
pub enum TimesError {
    /// The text says no times.
    #[error("the times `{cron}`: {source}")]
    Cron {
        /// The text.
        cron: String,
        /// Why.
        source: CronError,
    },
    /// No such time zone.
    #[error("there is no time zone `{0}`; it is a name such as Europe/Berlin")]
    Zone(String),
    /// Beyond the end of time.
    #[error("the next time is out of reach")]
    Reach,
}

/// The first moment of a schedule after a moment.
pub fn next_after(cron: &str, time_zone: &str, after_ms: UnixMs) -> Result<UnixMs, TimesError> {
    let times = Cron::parse(cron).map_err(|source| TimesError::Cron { cron: cron.to_owned(), source })?;
    let zone =
        TimeZone::get(time_zone).map_err(|_| TimesError::Zone(time_zone.chars().take(64).collect()))?;
    let after = Timestamp::from_millisecond(after_ms).map_err(|_| TimesError::Reach)?;
    let mut from = minute_of(zone.to_datetime(after));
    let found = loop {
        let next = times.after(from).ok_or(TimesError::Reach)?;
        let moment = moment_of(&zone, next, false)?;
        if moment > after {
            break moment;
        }
        // The first of two passes is over.
        let second = moment_of(&zone, next, times.is_every_hour())?;
        if second > after {
            break second;
        }
        from = next;
    };
    if !times.is_every_hour() {
        return Ok(found.as_millisecond());
    }
    // What lies in the second pass of a repeated hour, if that comes before.
    let Some(change) = zone.following(after).next().map(|change| change.timestamp()) else {
        return Ok(found.as_millisecond());
    };
    if change >= found {
        return Ok(found.as_millisecond());
    }
    let Ok(before) = zone.to_datetime(change).checked_sub(jiff::Span::new().minutes(1)) else {
        return Ok(found.as_millisecond());
    };
    let again = times.after(minute_of(before)).ok_or(TimesError::Reach)?;
    let again = moment_of(&zone, again, true)?;
    Ok(if again > after && again < found { again } else { found }.as_millisecond())
}

fn moment_of(zone: &TimeZone, minute: Minute, is_second: bool) -> Result<Timestamp, TimesError> {
    let small = |number: u32| i8::try_from(number).map_err(|_| TimesError::Reach);
    let year = i16::try_from(minute.year).map_err(|_| TimesError::Reach)?;
    let (month, day) = (small(minute.month)?, small(minute.day)?);
    let at = civil::DateTime::new(year, month, day, small(minute.hour)?, small(minute.minute)?, 0, 0)
        .map_err(|_| TimesError::Reach)?;
    let at = zone.to_ambiguous_timestamp(at);
    let at = match (at.is_ambiguous(), is_second) {
        (true, true) => at.later(),
        _ => at.compatible(),
    };
    at.map_err(|_| TimesError::Reach)
}

fn minute_of(at: civil::DateTime) -> Minute {
    let number = |number: i8| u32::from(number.unsigned_abs());
    Minute {
        year: i32::from(at.year()),
        month: number(at.month()),
        day: number(at.day()),
        hour: number(at.hour()),
        minute: number(at.minute()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> UnixMs {
        text.parse::<Timestamp>().expect("a timestamp").as_millisecond()
    }

    fn follows(cron: &str, zone: &str, times: &[&str]) {
        for pair in times.windows(2) {
            let next = next_after(cron, zone, ms(pair[0])).expect("a time");
            let shown = Timestamp::from_millisecond(next).expect("in reach").to_string();
            assert_eq!(shown, pair[1], "`{cron}` in {zone} after {}", pair[0]);
        }
    }

    #[test]
    fn a_time_is_meant_where_the_schedule_says() {
        follows(
            "0 9 * * *",
            "UTC",
            &["2026-11-21T08:59:59Z", "2026-11-21T09:00:00Z", "2026-11-22T09:00:00Z"],
        );
        follows("0 9 * * *", "Asia/Tokyo", &["2026-11-21T08:59:59Z", "2026-11-22T00:00:00Z"]);
    }

    #[test]
    fn a_time_that_summer_time_leaves_out_is_an_hour_later() {
        // 29 March 2026, 02:00 becomes 03:00.
        follows(
            "30 2 * * *",
            "Europe/Berlin",
            &["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"],
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_the_first_of_the_two() {
        // 25 October 2026, 03:00 becomes 02:00.
        follows(
            "30 2 * * *",
            "Europe/Berlin",
            &["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
    }

    #[test]
    fn every_hour_is_every_hour_also_when_one_comes_twice_or_not_at_all() {
        follows(
            "0 * * * *",
            "Europe/Berlin",
            &["2026-10-24T23:00:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
        );
        follows(
            "*/30 * * * *",
            "Europe/Berlin",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
        );
        follows(
            "0 * * * *",
            "Europe/Berlin",
            &["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
        );
    }

    #[test]
    fn what_is_no_time_or_zone_is_refused() {
        assert!(next_after("often", "UTC", 0).is_err());
        assert!(next_after("@daily", "Middle/Earth", 0).is_err());
    }
}
