//! A wall-clock time as text. Written for others to read; nothing here is ever read back.

use caelum_model::UnixMs;

const DAY_MS: i64 = 86_400_000;
/// Year 0001 and the end of year 9999: four digits hold no other.
const RANGE_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// ISO 8601 in UTC with milliseconds. The offset is spelled out, since the readers of the first programs do
/// not all know `Z`.
pub(super) fn iso(at_ms: UnixMs) -> String {
    let at_ms = at_ms.clamp(*RANGE_MS.start(), *RANGE_MS.end());
    let (year, month, day) = civil(at_ms.div_euclid(DAY_MS));
    let in_day_ms = at_ms.rem_euclid(DAY_MS);
    let (hour, minute) = (in_day_ms / 3_600_000, in_day_ms / 60_000 % 60);
    let (second, ms) = (in_day_ms / 1_000 % 60, in_day_ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}+00:00")
}

/// Year, month and day of a day since 1970. Years begin in March here, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097;
    let since_march_0000 = days + 719_468;
    let (era, day_of_era) = (since_march_0000.div_euclid(ERA_DAYS), since_march_0000.rem_euclid(ERA_DAYS));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / (ERA_DAYS - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000+00:00");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000+00:00");
        assert_eq!(iso(1_800_000_000_123), "2027-01-15T08:00:00.123+00:00");
        assert_eq!(iso(-1), "1969-12-31T23:59:59.999+00:00");
        assert_eq!(iso(4_107_542_399_000), "2100-02-28T23:59:59.000+00:00");
        assert_eq!(iso(4_107_542_400_000), "2100-03-01T00:00:00.000+00:00");
    }

    #[test]
    fn times_out_of_range_are_written_as_the_nearest_that_can_be() {
        assert_eq!(iso(i64::MAX), "9999-12-31T23:59:59.999+00:00");
        assert_eq!(iso(i64::MIN), "0001-01-01T00:00:00.000+00:00");
    }
}
