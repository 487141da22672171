//! Wall-clock times as text, ISO 8601 in UTC, for what travels. Only written: nobody's clock is compared
//! with ours, so nothing here reads them.

use caelum_model::UnixMs;

const DAY_MS: i64 = 86_400_000;

/// `2026-01-31T23:59:59.999+00:00`. Times outside the years 0 to 9999 are written as the nearest within. The
/// offset is spelled out, since the readers of the first programs do not all know `Z`.
pub fn iso(ms: UnixMs) -> String {
    const FIRST_MS: i64 = -719_528 * DAY_MS;
    const LAST_MS: i64 = 2_932_897 * DAY_MS - 1;
    let ms = ms.clamp(FIRST_MS, LAST_MS);
    let (days, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}+00:00")
}

/// Year, month and day of a day since 1970. The year is taken to begin in March, so that the leap day is
/// its last and months have a regular length; 400 years are 146 097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_moments_are_written_as_everybody_writes_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000+00:00"),
            (-1, "1969-12-31T23:59:59.999+00:00"),
            (951_782_400_000, "2000-02-29T00:00:00.000+00:00"),
            (1_709_164_800_123, "2024-02-29T00:00:00.123+00:00"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000+00:00"),
            (i64::MIN, "0000-01-01T00:00:00.000+00:00"),
            (i64::MAX, "9999-12-31T23:59:59.999+00:00"),
        ] {
            assert_eq!(iso(ms), text);
        }
    }

    #[test]
    fn each_day_of_four_centuries_follows_the_one_before() {
        let (mut before, mut text) = (civil(-1), iso(-1));
        for day in 0..146_097 {
            let (year, month, date) = civil(day);
            let follows = (year, month, date) == (before.0, before.1, before.2 + 1)
                || (date == 1 && (year, month) == (before.0, before.1 + 1))
                || (month == 1 && date == 1 && year == before.0 + 1);
            assert!(follows && before.2 >= if date == 1 { 28 } else { 1 }, "{before:?} {day}");
            let later = iso(day * DAY_MS);
            assert!(later > text);
            (before, text) = ((year, month, date), later);
        }
    }
}
