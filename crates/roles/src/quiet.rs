//! Until when nothing is to be said about a node: it is muted, or it is the middle of the night where its people
//! are. The rules of time zones come from this machine or, where it has none, from the program itself.

use caelum_model::{UnixMs, alert::QuietHours, node::NodeSetting};
use jiff::{Timestamp, ToSpan as _, Zoned, civil::Time, tz::TimeZone};

/// Minutes of a day.
const DAY_MIN: u16 = 24 * 60;

/// Until when the notices of a node are held back, if they are.
pub fn until(hours: &[QuietHours], setting: Option<&NodeSetting>, now_ms: UnixMs) -> Option<UnixMs> {
    let tags = setting.map_or(&[][..], |setting| &setting.tags);
    let muted = setting.and_then(|setting| setting.muted_until_ms).filter(|until| *until > now_ms);
    let for_it =
        hours.iter().filter(|quiet| quiet.tags.is_empty() || quiet.tags.iter().any(|tag| tags.contains(tag)));
    for_it.filter_map(|quiet| end(quiet, now_ms)).chain(muted).max()
}

/// Whether quiet hours can be understood, else what is wrong with them.
pub fn check(quiet: &QuietHours) -> Result<(), String> {
    if quiet.from_minute >= DAY_MIN || quiet.to_minute >= DAY_MIN {
        return Err(format!("quiet hours begin and end at a minute below {DAY_MIN}"));
    }
    if quiet.days.iter().any(|day| !(1..=7).contains(day)) {
        return Err("a day of quiet hours is 1 (Monday) to 7 (Sunday)".to_owned());
    }
    TimeZone::get(&quiet.time_zone).map(drop).map_err(|_| format!("{} is no time zone", quiet.time_zone))
}

/// When the quiet hours end that it is within, if it is.
fn end(quiet: &QuietHours, now_ms: UnixMs) -> Option<UnixMs> {
    let zone = TimeZone::get(&quiet.time_zone).ok()?;
    let now = Timestamp::from_millisecond(now_ms).ok()?;
    let today = now.to_zoned(zone);
    let yesterday = today.checked_sub(1.day()).ok()?;
    [today, yesterday].into_iter().filter_map(|day| night(quiet, &day, now)).max()
}

/// When the quiet hours end that begin on a day, if it is within them.
fn night(quiet: &QuietHours, day: &Zoned, now: Timestamp) -> Option<UnixMs> {
    let weekday = day.weekday().to_monday_one_offset().unsigned_abs();
    if !quiet.days.is_empty() && !quiet.days.contains(&weekday) {
        return None;
    }
    let begin = at(day, quiet.from_minute)?;
    let last = if quiet.to_minute > quiet.from_minute { day.clone() } else { day.tomorrow().ok()? };
    let end = at(&last, quiet.to_minute)?;
    (begin <= now && now < end).then(|| end.as_millisecond())
}

fn at(day: &Zoned, minute: u16) -> Option<Timestamp> {
    let time = Time::new(i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?, 0, 0).ok()?;
    Some(day.date().to_datetime(time).to_zoned(day.time_zone().clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use caelum_model::id::NodeId;

    use super::*;

    fn ms(text: &str) -> UnixMs {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn nights() -> QuietHours {
        QuietHours {
            days: Vec::new(),
            from_minute: 22 * 60,
            to_minute: 6 * 60,
            time_zone: "Europe/Berlin".into(),
            tags: Vec::new(),
        }
    }

    fn hushed(quiet: &QuietHours, now: &str) -> Option<UnixMs> {
        until(std::slice::from_ref(quiet), None, ms(now))
    }

    #[test]
    fn a_night_goes_over_midnight_and_ends_by_the_clock_of_its_place() {
        assert_eq!(hushed(&nights(), "2026-07-01T19:59:59Z"), None);
        assert_eq!(hushed(&nights(), "2026-07-01T20:00:00Z"), Some(ms("2026-07-02T04:00:00Z")));
        assert_eq!(hushed(&nights(), "2026-07-02T03:59:59Z"), Some(ms("2026-07-02T04:00:00Z")));
        assert_eq!(hushed(&nights(), "2026-07-02T04:00:00Z"), None);
    }

    #[test]
    fn a_night_in_which_the_clocks_change_ends_at_the_same_hour_of_the_clock() {
        // Summer time ends on 25 October 2026: that night is an hour longer.
        assert_eq!(hushed(&nights(), "2026-10-24T21:00:00Z"), Some(ms("2026-10-25T05:00:00Z")));
    }

    #[test]
    fn days_are_those_on_which_a_night_begins() {
        let friday = QuietHours { days: vec![5], ..nights() };
        assert!(hushed(&friday, "2026-07-03T21:00:00Z").is_some(), "Friday evening");
        assert!(hushed(&friday, "2026-07-04T02:00:00Z").is_some(), "the morning after");
        assert!(hushed(&friday, "2026-07-04T21:00:00Z").is_none(), "Saturday evening");
    }

    #[test]
    fn tags_and_muting_say_for_which_nodes() {
        let lab = QuietHours { tags: vec!["lab".into()], ..nights() };
        let now_ms = ms("2026-07-01T23:00:00Z");
        let mut setting = NodeSetting::usual(NodeId::parse("n-1").unwrap());
        assert_eq!(until(std::slice::from_ref(&lab), Some(&setting), now_ms), None);
        setting.tags = vec!["lab".into()];
        assert!(until(std::slice::from_ref(&lab), Some(&setting), now_ms).is_some());
        setting.muted_until_ms = Some(now_ms + 30 * 24 * 3_600_000);
        assert_eq!(until(&[lab], Some(&setting), now_ms), setting.muted_until_ms);
        assert_eq!(until(&[], Some(&setting), now_ms + 31 * 24 * 3_600_000), None);
    }

    #[test]
    fn hours_that_cannot_be_understood_are_refused() {
        assert!(check(&nights()).is_ok());
        assert!(check(&QuietHours { time_zone: "Mars/Olympus".into(), ..nights() }).is_err());
        assert!(check(&QuietHours { to_minute: 24 * 60, ..nights() }).is_err());
        assert!(check(&QuietHours { days: vec![0], ..nights() }).is_err());
    }
}
