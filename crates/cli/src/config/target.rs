//! Targets as the settings name them: a table each, or only an address.

use caelum_drivers::probe;
use caelum_engine::target as rules;
use caelum_model::{
    config::ProbeTarget,
    id::TargetId,
    target::{Families, Selector, Target},
};

use super::{
    given::{Given, Problem, check_text, list_of, text_of, whole_of},
    keys::Field,
    similar,
};

const TARGET_KEYS: [&str; 14] = [
    "url",
    "name",
    "interval_s",
    "throughput_url",
    "families",
    "template",
    "timeout_ms",
    "tags",
    "group",
    "probes",
    "objective",
    "packets",
    "trace_every_s",
    "load_every_s",
];

/// Reads the list of targets.
pub(super) fn targets_of(given: Given, field: &Field) -> Result<Vec<ProbeTarget>, Vec<Problem>> {
    let refuse = |found: String| Problem::whole(format!("{found}; allowed: {}", field.allowed()));
    let list = list_of(given).map_err(refuse)?;
    if list.len() > 500 {
        return Err(refuse(format!("has {} members", list.len())));
    }
    let (mut targets, mut problems) = (Vec::<ProbeTarget>::new(), Vec::new());
    for (index, (line, given)) in list.into_iter().enumerate() {
        let members = match given {
            Given::Table(members) => members,
            Given::Words(text) | Given::Text(text) => {
                vec![("url".to_owned(), line.unwrap_or_default(), Given::Text(text))]
            }
            other => {
                let what = format!("is {}; allowed: a table with url", other.kind());
                problems.push(Problem { line, below: format!("[{index}]"), what });
                continue;
            }
        };
        let mut target = ProbeTarget::default();
        for (name, line, given) in members {
            if let Err(what) = set_member(&mut target, &name, given) {
                problems.push(Problem { line: Some(line), below: format!("[{index}].{name}"), what });
            }
        }
        if target.url.is_empty() {
            if !problems.iter().any(|problem| problem.below == format!("[{index}].url")) {
                let what = "is missing; every target has one".to_owned();
                problems.push(Problem { line, below: format!("[{index}].url"), what });
            }
        } else if targets.iter().any(|other| other.url == target.url) {
            let what = format!("is {:?} for the second time", target.url);
            problems.push(Problem { line, below: format!("[{index}].url"), what });
        }
        if !target.url.is_empty()
            && let Err(what) = check_target(&target)
        {
            problems.push(Problem { line, below: format!("[{index}]"), what });
        }
        targets.push(target);
    }
    if problems.is_empty() { Ok(targets) } else { Err(problems) }
}

/// Whether what is said of a target goes together.
fn check_target(target: &ProbeTarget) -> Result<(), String> {
    let id = TargetId::parse("configured").expect("a short text");
    let usual = Target::usual(id, target.url.clone(), 0);
    let change = match &target.template {
        Some(template) => rules::with_template(&target.url, template, target.change()),
        None => Ok(target.change()),
    };
    change
        .and_then(|change| rules::changed(&usual, change))
        .map(drop)
        .map_err(|error| format!("cannot be measured that way: {error}"))
}

fn set_member(target: &mut ProbeTarget, name: &str, given: Given) -> Result<(), String> {
    let with = |allowed: &str| {
        let allowed = allowed.to_owned();
        move |found: String| format!("{found}; allowed: {allowed}")
    };
    match name {
        "url" => {
            let allowed = "https://host/path, http://host/path, tcp://host:port, dns://resolver/name, \
                           icmp://host, stamp://host:port";
            let url = text_of(given).map_err(with(allowed))?;
            probe::parse(&url).map_err(|error| format!("is {url:?}: {error}"))?;
            target.url = url;
        }
        "name" => {
            let text = text_of(given).and_then(|text| check_text(&text, 1, 128).map(|()| text));
            target.name = Some(text.map_err(with("text of 1 to 128 bytes"))?);
        }
        "interval_s" => {
            let interval = whole_of(given, (1, 86_400)).map_err(with("a whole number from 1 to 86400 s"))?;
            target.interval_s = Some(interval);
        }
        "throughput_url" => {
            let url = text_of(given).map_err(with("an http:// or https:// address"))?;
            probe::parse_web_url(&url).map_err(|error| format!("is {url:?}: {error}"))?;
            target.throughput_url = Some(url);
        }
        "families" => {
            let text = text_of(given).map_err(with("any, ipv4, ipv6 or both"))?;
            target.families = match text.as_str() {
                "any" => Families::Any,
                "ipv4" => Families::Ipv4,
                "ipv6" => Families::Ipv6,
                "both" => Families::Both,
                other => return Err(with("any, ipv4, ipv6 or both")(format!("is {other:?}"))),
            };
        }
        "template" => {
            let known = rules::TEMPLATES.map(|template| template.name).join(", ");
            let text = text_of(given).map_err(with(&known))?;
            if !rules::TEMPLATES.iter().any(|template| template.name == text) {
                return Err(with(&known)(format!("is {text:?}")));
            }
            target.template = Some(text);
        }
        "timeout_ms" => {
            let range = with("a whole number from 100 to 120000 ms");
            target.timeout_ms = Some(whole_of(given, (100, 120_000)).map_err(range)?);
        }
        "tags" => target.tags = words_of(given).map_err(with("a list of words"))?,
        "group" => target.group = Some(text_of(given).map_err(with("a word"))?),
        "probes" => {
            target.probes = Selector(words_of(given).map_err(with("a list of words, such as tag:wifi"))?);
        }
        "objective" => {
            let text = text_of(given).map_err(with("a promise such as 300ms,99.9%,28d"))?;
            target.objective = Some(rules::parse_promise(&text).map_err(|error| format!("is {error}"))?);
        }
        "packets" => {
            let count = whole_of(given, (2, u64::from(rules::PACKETS_MAX)));
            let count = count.map_err(with("a whole number from 2 to 500"))?;
            target.packets = u16::try_from(count).ok();
        }
        "trace_every_s" => {
            let every = whole_of(given, (30, 86_400)).map_err(with("a whole number from 30 to 86400 s"))?;
            target.trace_every_s = u32::try_from(every).ok();
        }
        "load_every_s" => {
            let every = whole_of(given, (60, 86_400)).map_err(with("a whole number from 60 to 86400 s"))?;
            target.load_every_s = u32::try_from(every).ok();
        }
        unknown => {
            let hint = similar::nearest(unknown, TARGET_KEYS);
            let hint = hint.map_or_else(|| TARGET_KEYS.join(", "), |near| format!("did you mean {near}?"));
            return Err(format!("is no part of a target; {hint}"));
        }
    }
    Ok(())
}

/// Words, in a list or with commas between them.
fn words_of(given: Given) -> Result<Vec<String>, String> {
    list_of(given)?.into_iter().map(|(_, word)| text_of(word)).collect()
}
