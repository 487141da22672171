//! How a target is measured: what may be set, and what fits a kind of service.
//!
//! What it does not do: whether a URL can be measured is known to those that measure.

use caelum_model::target::{Objective, Target, TargetChange};

use crate::selector::{self, SelectorError, TagError};

/// Most bytes of a name.
pub const NAME_BYTES_MAX: usize = 128;
/// Most bytes of a URL.
const URL_BYTES_MAX: usize = 2_048;
/// Most packets of a train.
pub const PACKETS_MAX: u16 = 500;
/// Longest time over which a promise is counted, days.
pub const OBJECTIVE_DAYS_MAX: u16 = 90;

/// Why a target cannot be measured that way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No name.
    #[error("name is longer than {NAME_BYTES_MAX} bytes, or contains a control character")]
    Name,
    /// A number beyond what makes sense.
    #[error("{what} is not between {least} and {most}")]
    Range {
        /// Which.
        what: &'static str,
        /// The least allowed.
        least: u32,
        /// The most allowed.
        most: u32,
    },
    /// It only makes sense for other kinds of targets.
    #[error("{what} is for {schemes} targets, and this is {url}")]
    Scheme {
        /// What was asked for.
        what: &'static str,
        /// The kinds that have it.
        schemes: &'static str,
        /// The target.
        url: String,
    },
    /// The object of a download is not one.
    #[error("throughput_url is not an http or https URL")]
    ThroughputUrl,
    /// Load needs something to download.
    #[error("load_every_s needs a throughput_url, whose download is the load")]
    NoLoad,
    /// The selector cannot be read.
    #[error("probes: {0}")]
    Selector(#[from] SelectorError),
    /// A tag or group cannot be one.
    #[error("tags and group: {0}")]
    Tag(#[from] TagError),
    /// There is no such template.
    #[error("there is no template '{name}'; there are {known}")]
    UnknownTemplate {
        /// As asked for.
        name: String,
        /// All there are.
        known: String,
    },
}

/// The scheme of a URL.
pub fn scheme(url: &str) -> &str {
    url.split_once("://").map_or("", |(scheme, _)| scheme)
}

fn within(what: &'static str, value: u32, least: u32, most: u32) -> Result<(), TargetError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(TargetError::Range { what, least, most }) }
}

/// The target as it is after a change, or what is wrong with the change.
pub fn changed(target: &Target, change: TargetChange) -> Result<Target, TargetError> {
    let mut target = target.clone();
    if let Some(name) = change.name {
        target.name = if name.trim().is_empty() { short_name(&target.url) } else { name.trim().to_owned() };
    }
    target.interval_s = change.interval_s.unwrap_or(target.interval_s);
    target.timeout_ms = change.timeout_ms.unwrap_or(target.timeout_ms);
    target.families = change.families.unwrap_or(target.families);
    target.enabled = change.enabled.unwrap_or(target.enabled);
    target.throughput_url = change.throughput_url.unwrap_or(target.throughput_url);
    target.group = change.group.unwrap_or(target.group);
    target.objective = change.objective.unwrap_or(target.objective);
    target.packets = change.packets.unwrap_or(target.packets);
    target.trace_every_s = change.trace_every_s.unwrap_or(target.trace_every_s);
    target.load_every_s = change.load_every_s.unwrap_or(target.load_every_s);
    target.probes = change.probes.unwrap_or(target.probes);
    if let Some(mut tags) = change.tags {
        let mut seen = std::collections::HashSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        target.tags = tags;
    }
    check(&target)?;
    Ok(target)
}

/// Whether a target can be measured that way.
pub fn check(target: &Target) -> Result<(), TargetError> {
    let kind = scheme(&target.url);
    let (is_web, is_train) = (matches!(kind, "http" | "https"), matches!(kind, "icmp" | "stamp"));
    let only = |is_its: bool, what, schemes| match is_its {
        true => Ok(()),
        false => Err(TargetError::Scheme { what, schemes, url: target.url.clone() }),
    };
    if target.name.len() > NAME_BYTES_MAX || target.name.chars().any(char::is_control) {
        return Err(TargetError::Name);
    }
    within("interval_s", target.interval_s, 1, 86_400)?;
    within("timeout_ms", target.timeout_ms, 100, 120_000)?;
    selector::check(&target.probes)?;
    selector::check_tags(&target.tags)?;
    target.group.as_deref().map_or(Ok(()), selector::check_tag)?;
    if let Some(url) = &target.throughput_url {
        only(is_web, "throughput_url", "http and https")?;
        if !matches!(scheme(url), "http" | "https") || url.len() > URL_BYTES_MAX {
            return Err(TargetError::ThroughputUrl);
        }
    }
    if let Some(packets) = target.packets {
        only(is_train, "packets", "icmp and stamp")?;
        within("packets", packets.into(), 2, PACKETS_MAX.into())?;
    }
    if let Some(every_s) = target.trace_every_s {
        within("trace_every_s", every_s, 30, 86_400)?;
    }
    if let Some(every_s) = target.load_every_s {
        only(is_web, "load_every_s", "http and https")?;
        within("load_every_s", every_s, 60, 86_400)?;
        if target.throughput_url.is_none() {
            return Err(TargetError::NoLoad);
        }
    }
    if let Some(objective) = target.objective {
        within("objective.within_ms", objective.within_ms, 1, 120_000)?;
        // A promise of all leaves no budget, and nobody keeps it.
        within("objective.promised_bp", objective.promised_bp.into(), 1, 9_999)?;
        within("objective.days", objective.days.into(), 1, OBJECTIVE_DAYS_MAX.into())?;
    }
    Ok(())
}

/// What people would call a URL: its host, or the name asked for.
pub fn short_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/').chars().take(60).collect()
}

/// What fits a kind of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub what: &'static str,
    /// Kinds of URLs that it is for.
    pub schemes: &'static [&'static str],
    /// Time between measurements, s.
    pub interval_s: u32,
    /// Time after which a measurement is given up, ms.
    pub timeout_ms: u32,
    /// What it is held to.
    pub objective: Objective,
    /// Packets of a train, where it is one.
    pub packets: Option<u16>,
    /// Time between traces of the path, s.
    pub trace_every_s: Option<u32>,
}

const fn promise(within_ms: u32, promised_bp: u16) -> Objective {
    Objective { within_ms, promised_bp, days: 28 }
}

/// Every template.
pub const TEMPLATES: [Template; 9] = [
    Template {
        name: "web",
        what: "A page that people open: 99 % within a second",
        schemes: &["http", "https"],
        interval_s: 30,
        timeout_ms: 10_000,
        objective: promise(1_000, 9_900),
        packets: None,
        trace_every_s: Some(900),
    },
    Template {
        name: "api",
        what: "An interface that programs call: 99.9 % within 300 ms",
        schemes: &["http", "https"],
        interval_s: 10,
        timeout_ms: 5_000,
        objective: promise(300, 9_990),
        packets: None,
        trace_every_s: Some(900),
    },
    Template {
        name: "streaming",
        what: "A server of films or music: 99 % of first bytes within two seconds; give it a throughput_url",
        schemes: &["http", "https"],
        interval_s: 60,
        timeout_ms: 15_000,
        objective: promise(2_000, 9_900),
        packets: None,
        trace_every_s: Some(900),
    },
    Template {
        name: "dns",
        what: "A resolver: 99.9 % of answers within 100 ms",
        schemes: &["dns"],
        interval_s: 10,
        timeout_ms: 3_000,
        objective: promise(100, 9_990),
        packets: None,
        trace_every_s: None,
    },
    Template {
        name: "gateway",
        what: "The way out of the local network: 99.9 % within 20 ms",
        schemes: &["icmp", "stamp"],
        interval_s: 10,
        timeout_ms: 2_000,
        objective: promise(20, 9_990),
        packets: Some(10),
        trace_every_s: None,
    },
    Template {
        name: "voice",
        what: "A partner in telephone calls: 99 % of round trips within 150 ms, trains of 50 packets",
        schemes: &["icmp", "stamp"],
        interval_s: 10,
        timeout_ms: 3_000,
        objective: promise(150, 9_900),
        packets: Some(50),
        trace_every_s: Some(300),
    },
    Template {
        name: "gaming",
        what: "A server of games: 99 % of round trips within 50 ms, trains of 50 packets",
        schemes: &["icmp", "stamp"],
        interval_s: 10,
        timeout_ms: 2_000,
        objective: promise(50, 9_900),
        packets: Some(50),
        trace_every_s: Some(300),
    },
    Template {
        name: "vpn",
        what: "The other end of a tunnel: 99.5 % within 200 ms",
        schemes: &["icmp", "stamp", "tcp"],
        interval_s: 10,
        timeout_ms: 3_000,
        objective: promise(200, 9_950),
        packets: Some(20),
        trace_every_s: Some(300),
    },
    Template {
        name: "service",
        what: "A port that must take connections, such as SSH, mail or a database: 99.9 % within 200 ms",
        schemes: &["tcp"],
        interval_s: 15,
        timeout_ms: 5_000,
        objective: promise(200, 9_990),
        packets: None,
        trace_every_s: None,
    },
];

/// Fills what a change leaves open with what fits a kind of service.
pub fn with_template(url: &str, name: &str, change: TargetChange) -> Result<TargetChange, TargetError> {
    let template = TEMPLATES.iter().find(|template| template.name == name).ok_or_else(|| {
        let known = TEMPLATES.map(|template| template.name).join(", ");
        TargetError::UnknownTemplate { name: name.to_owned(), known }
    })?;
    let kind = scheme(url);
    if !template.schemes.contains(&kind) {
        let schemes = match template.schemes {
            ["http", ..] => "http and https",
            ["dns", ..] => "dns",
            ["icmp", "stamp", "tcp"] => "icmp, stamp and tcp",
            ["icmp", ..] => "icmp and stamp",
            _ => "tcp",
        };
        return Err(TargetError::Scheme { what: "this template", schemes, url: url.to_owned() });
    }
    let packets = template.packets.filter(|_| matches!(kind, "icmp" | "stamp"));
    Ok(TargetChange {
        interval_s: change.interval_s.or(Some(template.interval_s)),
        timeout_ms: change.timeout_ms.or(Some(template.timeout_ms)),
        objective: change.objective.or(Some(Some(template.objective))),
        packets: change.packets.or(packets.map(Some)),
        trace_every_s: change.trace_every_s.or(template.trace_every_s.map(Some)),
        ..change
    })
}

/// Why a promise cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no promise: write a time, a share and days, such as 300ms,99.9%,28d")]
pub struct PromiseError {
    /// As given.
    pub text: String,
}

/// Reads a promise as people write it: `300ms,99.9%,28d`; the days may be left out.
pub fn parse_promise(text: &str) -> Result<Objective, PromiseError> {
    let error = || PromiseError { text: text.to_owned() };
    let mut parts = text.split(',').map(str::trim);
    let (time, share) = (parts.next().ok_or_else(error)?, parts.next().ok_or_else(error)?);
    let within_ms = time.strip_suffix("ms").unwrap_or(time).trim().parse().map_err(|_| error())?;
    let share = share.strip_suffix('%').unwrap_or(share).trim();
    let days = match parts.next() {
        None => 28,
        Some(days) => days.strip_suffix('d').unwrap_or(days).trim().parse().map_err(|_| error())?,
    };
    let promised_bp = parse_percent(share).ok_or_else(error)?;
    if parts.next().is_some() {
        return Err(error());
    }
    Ok(Objective { within_ms, promised_bp, days })
}

/// Hundredths of a percent of a text such as `99.95`; none with more digits than that.
pub fn parse_percent(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 2 || whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u16 = whole.parse().ok()?;
    let part: u16 = format!("{part:0<2}").parse().ok()?;
    whole.checked_mul(100)?.checked_add(part).filter(|bp| *bp <= 10_000)
}

/// A promise as people write it.
pub fn promise_text(objective: &Objective) -> String {
    format!("{}ms,{}%,{}d", objective.within_ms, percent_text(objective.promised_bp), objective.days)
}

/// `99.9` of 9990.
pub fn percent_text(bp: u16) -> String {
    let text = format!("{}.{:02}", bp / 100, bp % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use caelum_model::{id::TargetId, target::Selector};

    use super::*;

    fn target(url: &str) -> Target {
        Target::usual(TargetId::parse("t").expect("an id"), url.to_owned(), 0)
    }

    fn refused(url: &str, change: TargetChange) -> String {
        changed(&target(url), change).expect_err("refused").to_string()
    }

    #[test]
    fn a_change_changes_what_it_names_and_nothing_else() {
        let before = Target { group: Some("berlin".into()), ..target("https://a.example/") };
        let change = TargetChange {
            group: Some(None),
            tags: Some(vec!["web".into(), "web".into()]),
            name: Some("  ".into()),
            ..TargetChange::default()
        };
        let after = changed(&before, change).expect("fine");
        assert_eq!((after.group.as_deref(), after.name.as_str()), (None, "a.example"));
        assert_eq!(after.tags, ["web"]);
        assert_eq!((after.interval_s, &after.url), (before.interval_s, &before.url));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let of = |packets| TargetChange { packets: Some(Some(packets)), ..TargetChange::default() };
        assert!(refused("https://a/", of(20)).starts_with("packets is for icmp and stamp targets"));
        assert_eq!(refused("icmp://a", of(1)), "packets is not between 2 and 500");
        let load = TargetChange { load_every_s: Some(Some(600)), ..TargetChange::default() };
        assert!(refused("https://a/", load.clone()).starts_with("load_every_s needs a throughput_url"));
        assert!(refused("tcp://a:1", load).contains("http and https"));
        let interval = TargetChange { interval_s: Some(0), ..TargetChange::default() };
        assert_eq!(refused("tcp://a:1", interval), "interval_s is not between 1 and 86400");
        let probes =
            TargetChange { probes: Some(Selector(vec!["site:x".into()])), ..TargetChange::default() };
        assert!(refused("tcp://a:1", probes).starts_with("probes: the selector's word 'site:x'"));
        let all = TargetChange { objective: Some(Some(promise(300, 10_000))), ..TargetChange::default() };
        assert!(refused("tcp://a:1", all).starts_with("objective.promised_bp"));
        let name = TargetChange { name: Some("a\u{7}".into()), ..TargetChange::default() };
        assert!(refused("tcp://a:1", name).starts_with("name"));
        let object = TargetChange { throughput_url: Some(Some("ftp://x".into())), ..TargetChange::default() };
        assert_eq!(refused("https://a/", object), "throughput_url is not an http or https URL");
    }

    #[test]
    fn every_template_fits_the_kinds_that_it_is_for() {
        for template in TEMPLATES {
            for scheme in template.schemes {
                let url = format!("{scheme}://host.example:443");
                let change = with_template(&url, template.name, TargetChange::default()).expect("fits");
                let made = changed(&target(&url), change).expect("measurable");
                assert_eq!(made.objective, Some(template.objective), "{}", template.name);
            }
        }
        let own = TargetChange { interval_s: Some(3), ..TargetChange::default() };
        let filled = with_template("https://a/", "web", own).expect("fits");
        assert_eq!(filled.interval_s, Some(3), "what is asked for is kept");
        let error = with_template("icmp://a", "web", TargetChange::default()).expect_err("no page");
        assert_eq!(error.to_string(), "this template is for http and https targets, and this is icmp://a");
        let error = with_template("icmp://a", "moon", TargetChange::default()).expect_err("unknown");
        assert!(error.to_string().contains("web, api, streaming"), "{error}");
    }

    #[test]
    fn a_promise_is_read_as_it_is_written() {
        let promise = parse_promise("300ms, 99.9%, 28d").expect("reads");
        assert_eq!(promise, Objective { within_ms: 300, promised_bp: 9_990, days: 28 });
        assert_eq!(parse_promise(&promise_text(&promise)), Ok(promise));
        assert_eq!(parse_promise("250,95").expect("reads").promised_bp, 9_500);
        for wrong in ["", "300ms", "fast,99%", "300ms,99.999%", "300ms,x%", "300ms,101%", "1,2,3,4"] {
            assert!(parse_promise(wrong).is_err(), "{wrong}");
        }
        assert_eq!((percent_text(9_990), percent_text(9_900)), ("99.9".into(), "99".into()));
    }
}
