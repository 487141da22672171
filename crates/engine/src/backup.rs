//! Which backups there are, when the next is due, and which are old enough to go. It reads no directory: names
//! come in, names go out.

use caelum_model::UnixMs;

use crate::timestamp;

/// How a backup's name begins.
const BEGIN: &str = "caelum-";
/// How it ends.
const END: &str = ".backup";

/// The name of a backup that is made now: `caelum-20261121T171500Z.backup`.
pub fn name(now_ms: UnixMs) -> String {
    let moment = timestamp::iso(now_ms.div_euclid(1_000) * 1_000);
    let digits: String =
        moment.chars().take(19).filter(|sign| sign.is_ascii_digit() || *sign == 'T').collect();
    format!("{BEGIN}{digits}Z{END}")
}

/// When the backup of a name was made; none if no backup has such a name.
pub fn made_at_ms(name: &str) -> Option<UnixMs> {
    let moment = name.strip_prefix(BEGIN)?.strip_suffix(END)?.strip_suffix('Z')?;
    let (day, time) = moment.split_once('T')?;
    if day.len() != 8 || time.len() != 6 {
        return None;
    }
    let number = |digits: &str| -> Option<i64> {
        digits.bytes().all(|sign| sign.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, date) = (number(&day[..4])?, number(&day[4..6])?, number(&day[6..])?);
    let (hour, minute, second) = (number(&time[..2])?, number(&time[2..4])?, number(&time[4..])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&date) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((days_from_civil(year, month, date) * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date
/// algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// When the next one is to be made: at once where there is none.
pub fn due_ms(names: &[String], every_ms: i64, now_ms: UnixMs) -> UnixMs {
    match names.iter().filter_map(|name| made_at_ms(name)).max() {
        // A clock that was set back must not put the next one off for longer than the step.
        Some(newest) => newest.saturating_add(every_ms).min(now_ms.saturating_add(every_ms)),
        None => now_ms,
    }
}

/// Those older than they are kept. The newest stays, however old: a server that was off for a month must not
/// begin with throwing away what there is.
pub fn outdated(names: &[String], kept_ms: i64, now_ms: UnixMs) -> Vec<String> {
    let newest = names.iter().filter_map(|name| made_at_ms(name)).max();
    let is_old = |made: UnixMs| Some(made) != newest && made < now_ms.saturating_sub(kept_ms);
    names.iter().filter(|name| made_at_ms(name).is_some_and(is_old)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    /// 2026-11-21T17:15:00Z.
    const NOW_MS: i64 = 1_795_281_300_000;

    #[test]
    fn a_name_says_when_it_was_made() {
        assert_eq!(name(NOW_MS + 999), "caelum-20261121T171500Z.backup");
        for ms in [0, NOW_MS, 951_782_400_000, 4_102_444_799_000] {
            assert_eq!(made_at_ms(&name(ms)), Some(ms), "{}", name(ms));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_backup() {
        for name in [
            "",
            "caelum.db",
            "caelum-20261121T171500Z.backup.part",
            "caelum-20261321T171500Z.backup",
            "caelum-2026112áT171500Z.backup",
            "caelum-+0261121T171500Z.backup",
            "../caelum-20261121T171500Z.backup",
        ] {
            assert_eq!(made_at_ms(name), None, "{name}");
        }
    }

    #[test]
    fn the_next_is_due_a_step_after_the_newest_and_at_once_where_there_is_none() {
        let names = [name(NOW_MS - 3 * DAY_MS), name(NOW_MS - DAY_MS / 2), "note.txt".to_owned()];
        assert_eq!(due_ms(&names, DAY_MS, NOW_MS), NOW_MS + DAY_MS / 2);
        assert_eq!(due_ms(&[], DAY_MS, NOW_MS), NOW_MS);
        let ahead = [name(NOW_MS + 400 * DAY_MS)];
        assert_eq!(due_ms(&ahead, DAY_MS, NOW_MS), NOW_MS + DAY_MS, "a clock was set back");
    }

    #[test]
    fn what_is_old_goes_and_the_newest_stays_however_old() {
        let names: Vec<_> = (0..10).map(|day| name(NOW_MS - day * DAY_MS)).collect();
        assert_eq!(outdated(&names, 7 * DAY_MS, NOW_MS), names[8..]);
        assert_eq!(outdated(&names, 7 * DAY_MS, NOW_MS + 365 * DAY_MS), names[1..]);
        assert!(outdated(&["mine.txt".to_owned()], 0, NOW_MS).is_empty());
    }
}
