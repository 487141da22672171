//! Times as cron writes them, on the calendar alone.
//!
//! # Purpose
//! [`Cron`] reads five fields (minute, hour, day of the month, month, day of the week) or a word such as
//! `@hourly`, and [`Cron::after`] answers the next time on a calendar without a place in the world.
//!
//! # Rules
//! - A field is `*`, a number, a span `a-b`, any of them with a step `/n`, or a list of those with commas.
//!   Months and days of the week also go by their English names; 0 and 7 are Sunday.
//! - Where both the day of the month and the day of the week are set, either is enough, as everywhere.
//! - A time that never comes (30 February) is refused when it is read.
//!
//! # What it does not do
//! It knows no time zones: which moment a time is, and what summer time makes of it, is said where the rules of
//! time zones are known.

/// Years that are looked through for the next time: a leap day on a certain day of the week comes within 40.
const YEARS_MAX: i32 = 41;

/// A minute of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute {
    /// Year.
    pub year: i32,
    /// Month, from 1.
    pub month: u32,
    /// Day, from 1.
    pub day: u32,
    /// Hour.
    pub hour: u32,
    /// Minute.
    pub minute: u32,
}

/// Times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    is_any_day: bool,
    is_any_weekday: bool,
    is_any_hour: bool,
}

/// Why a text says no times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields, nor a known word.
    #[error(
        "is neither five fields (minute hour day month weekday) nor @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Fields,
    /// A field is not understood.
    #[error("the field `{field}` for the {what} is not a number, span, step or list within {least}-{most}")]
    Field {
        /// The text.
        field: String,
        /// Of what.
        what: &'static str,
        /// Least number.
        least: u32,
        /// Largest number.
        most: u32,
    },
    /// There is no such day.
    #[error("never comes")]
    Never,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Cron {
    /// Reads times.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let text = text.trim().to_ascii_lowercase();
        let text = match text.as_str() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other if other.len() > 256 => return Err(CronError::Fields),
            other => other,
        };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else { return Err(CronError::Fields) };
        let mut weekday_set = set(weekdays, "day of the week", 0, 7, &WEEKDAYS, 0)?;
        if weekday_set & (1 << 7) != 0 {
            weekday_set |= 1;
        }
        let cron = Self {
            minutes: set(minutes, "minute", 0, 59, &[], 0)?,
            hours: set(hours, "hour", 0, 23, &[], 0)?,
            days: set(days, "day of the month", 1, 31, &[], 0)?,
            months: set(months, "month", 1, 12, &MONTHS, 1)?,
            weekdays: weekday_set & 0x7f,
            is_any_day: days.starts_with('*'),
            is_any_weekday: weekdays.starts_with('*'),
            is_any_hour: hours.starts_with('*'),
        };
        // Every leap year and every day of the week are within reach of any start.
        let start = Minute { year: 2000, month: 1, day: 1, hour: 0, minute: 0 };
        cron.after(start).map(|_| cron).ok_or(CronError::Never)
    }

    /// Whether it goes by hours passing rather than by the clock on the wall: then a repeated hour counts twice.
    pub fn is_every_hour(&self) -> bool {
        self.is_any_hour
    }

    /// The first time after a minute; none within decades.
    pub fn after(&self, minute: Minute) -> Option<Minute> {
        let Minute { year, month, day, hour, minute } = minute;
        // On the same day first, then on the days after it.
        if self.has_day(year, month, day)
            && let Some((hour, minute)) = self.time_after(hour, minute)
        {
            return Some(Minute { year, month, day, hour, minute });
        }
        let (first_hour, first_minute) = (self.hours.trailing_zeros(), self.minutes.trailing_zeros());
        let (mut y, mut m, mut d) = (year, month, day);
        while y - year < YEARS_MAX {
            d += 1;
            if d > days_in(y, m) || self.months & (1 << m) == 0 {
                d = 1;
                m += 1;
                if m > 12 {
                    m = 1;
                    y += 1;
                }
            }
            if self.has_day(y, m, d) {
                return Some(Minute { year: y, month: m, day: d, hour: first_hour, minute: first_minute });
            }
            // The loop counts up first.
            if self.months & (1 << m) == 0 {
                d = days_in(y, m);
            }
        }
        None
    }

    fn time_after(&self, hour: u32, minute: u32) -> Option<(u32, u32)> {
        if self.hours & (1 << hour) != 0
            && let Some(minute) = above(self.minutes, minute)
        {
            return Some((hour, minute));
        }
        Some((above(self.hours, hour)?, self.minutes.trailing_zeros()))
    }

    fn has_day(&self, year: i32, month: u32, day: u32) -> bool {
        if self.months & (1 << month) == 0 || day > days_in(year, month) {
            return false;
        }
        let is_day = self.days & (1 << day) != 0;
        let is_weekday = self.weekdays & (1 << weekday(year, month, day)) != 0;
        match (self.is_any_day, self.is_any_weekday) {
            (false, false) => is_day || is_weekday,
            _ => is_day && is_weekday,
        }
    }
}

/// The smallest number of a set above another.
fn above(set: u64, number: u32) -> Option<u32> {
    let rest = set & !((2u64 << number) - 1);
    (rest != 0).then(|| rest.trailing_zeros())
}

fn set(
    field: &str,
    what: &'static str,
    least: u32,
    most: u32,
    names: &[&str],
    first_name: u32,
) -> Result<u64, CronError> {
    let wrong = || CronError::Field { field: field.chars().take(64).collect(), what, least, most };
    let number = |text: &str| -> Option<u32> {
        if let Some(at) = names.iter().position(|name| *name == text) {
            return Some(first_name + u32::try_from(at).ok()?);
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if is_number { text.parse().ok()? } else { return None };
        (least..=most).contains(&number).then_some(number)
    };
    let mut all = 0u64;
    for part in field.split(',') {
        let (span, step) = match part.split_once('/') {
            Some((span, step)) => {
                (span, step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(wrong)?)
            }
            None => (part, 1),
        };
        let (from, to) = match span {
            "*" => (least, most),
            span => match span.split_once('-') {
                Some((from, to)) => (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?),
                // `5/10` goes on to the end.
                None => {
                    let from = number(span).ok_or_else(wrong)?;
                    (from, if part.contains('/') { most } else { from })
                }
            },
        };
        if from > to {
            return Err(wrong());
        }
        let mut at = from;
        while at <= to {
            all |= 1 << at;
            at = at.saturating_add(step);
        }
    }
    Ok(all)
}

fn days_in(year: i32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// 0 is Sunday (Sakamoto's method).
fn weekday(year: i32, month: u32, day: u32) -> u32 {
    const SHIFTS: [i32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
    let year = if month < 3 { year - 1 } else { year };
    let shift = SHIFTS[(month.clamp(1, 12) - 1) as usize];
    let sum = year + year / 4 - year / 100 + year / 400 + shift + day.cast_signed();
    sum.rem_euclid(7).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Minute {
        let numbers: Vec<u32> = text.split(['-', ' ', ':']).map(|number| number.parse().unwrap()).collect();
        let [year, month, day, hour, minute] = numbers[..] else { panic!("five numbers: {text}") };
        Minute { year: year.cast_signed(), month, day, hour, minute }
    }

    fn follows(cron: &str, after: &str, expected: &str) {
        assert_eq!(Cron::parse(cron).unwrap().after(at(after)), Some(at(expected)), "{cron} after {after}");
    }

    #[test]
    fn the_next_time_is_found_on_the_same_day_and_on_later_ones() {
        follows("*/15 * * * *", "2026-11-21 14:05", "2026-11-21 14:15");
        follows("*/15 * * * *", "2026-11-21 23:45", "2026-11-22 00:00");
        follows("30 2 * * *", "2026-12-31 02:30", "2027-01-01 02:30");
        follows("0 9-17/4 * * mon-fri", "2026-11-20 17:00", "2026-11-23 09:00");
        follows("@monthly", "2026-11-21 14:05", "2026-12-01 00:00");
        follows("5/20 8 * * *", "2026-11-21 08:05", "2026-11-21 08:25");
        follows("0 0 29 2 *", "2026-01-31 00:00", "2028-02-29 00:00");
        follows("0 0 * jan 7", "2026-11-21 00:00", "2027-01-03 00:00");
    }

    #[test]
    fn a_day_of_the_month_or_one_of_the_week_is_enough_where_both_are_set() {
        follows("0 0 13 * fri", "2026-11-01 00:00", "2026-11-06 00:00");
        follows("0 0 13 * fri", "2026-12-11 00:00", "2026-12-13 00:00");
    }

    #[test]
    fn what_is_not_understood_is_refused_and_so_is_what_never_comes() {
        for wrong in
            ["", "* * * *", "60 * * * *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "+1 * * * *", "@often"]
        {
            assert!(Cron::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Cron::parse("0 0 30 2 *"), Err(CronError::Never));
        assert_eq!(Cron::parse("0 0 31 4,6,9,11 *"), Err(CronError::Never));
    }

    #[test]
    fn every_minute_of_a_year_follows_the_one_before() {
        let cron = Cron::parse("* * * * *").unwrap();
        let (mut minute, mut count) = (at("2027-12-31 23:59"), 0);
        while minute.year < 2029 {
            let next = cron.after(minute).unwrap();
            assert!(next > minute);
            minute = next;
            count += 1;
        }
        assert_eq!(count, 366 * 1_440 + 1);
    }
}
