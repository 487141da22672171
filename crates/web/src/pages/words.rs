//! Sentences: the verdict that heads each page, and what a diagnosis says in few words.
//!
//! Short, present tense, subject first; *usual*, never *baseline*; numbers with units. The worst thing
//! first, then the second. Everything here is computed from the picture; nothing is decorative.

use caelum_model::{
    alert::{Alert, AlertStatus},
    diagnosis::{Diagnosis, Label, Standing},
    node::{Issue, Level, Metric},
    rollup::Measure,
};

use super::{
    format::{self, counted},
    mark::Status,
    picture::{Machine, PairNow, Picture},
};

mod cluster;
mod incident;
mod pipeline;

pub use cluster::{buffered, found, topology, trust};
pub use incident::{
    evidence, headline, in_short, incident_places, measure_name, number, severity, severity_word, step,
};
pub use pipeline::{letter_state, partition, pipeline, probe, reason, token_state, tokens, uncounted};

/// The heading of a page with its line of context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How bad it is: decides the icon before the sentence.
    pub status: Status,
    /// The heading.
    pub sentence: String,
    /// The line below.
    pub lede: String,
}

/// A value of a measure with its unit.
pub fn measured(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Throughput | Measure::Upload => format::kilobits_per_s(value).to_string(),
        Measure::Loss | Measure::LossOut | Measure::LossBack => format::percent(value).to_string(),
        Measure::Rpm => format!("{}\u{a0}RPM", format::number(value)),
        Measure::Dns
        | Measure::Tcp
        | Measure::Tls
        | Measure::Ttfb
        | Measure::Total
        | Measure::Rtt
        | Measure::Jitter
        | Measure::DelayOut
        | Measure::DelayBack
        | Measure::Loaded => format::milliseconds(value).to_string(),
    }
}

/// What a diagnosis says of a target, as a sentence.
pub fn diagnosis(diagnosis: &Diagnosis, target: &str) -> String {
    let strongest = diagnosis.evidence.first();
    let compared = |measure: Measure| {
        let evidence =
            diagnosis.evidence.iter().find(|evidence| evidence.measure == Some(measure)).or(strongest)?;
        let of = evidence.measure.unwrap_or(measure);
        Some(format!("{} instead of {}", measured(of, evidence.value), measured(of, evidence.usual)))
    };
    let sublabel = diagnosis.sublabel.as_deref().unwrap_or_default().to_ascii_lowercase();
    let sentence = match diagnosis.label {
        Label::Dns => compared(Measure::Dns).map(|text| format!("Look-ups of {target} take {text}")),
        Label::Handshake if sublabel.contains("tls") => {
            compared(Measure::Tls).map(|text| format!("Encryption with {target} takes {text}"))
        }
        Label::Handshake => compared(Measure::Tcp).map(|text| format!("Connecting to {target} takes {text}")),
        Label::Server => compared(Measure::Ttfb).map(|text| format!("{target} answers after {text}")),
        Label::Throughput => {
            compared(Measure::Throughput).map(|text| format!("Downloads from {target} run at {text}"))
        }
        Label::Loss => compared(Measure::Loss).map(|text| format!("Packets to {target} are lost: {text}")),
        Label::Path => compared(Measure::Rtt).map(|text| format!("The way to {target} takes {text}")),
        Label::Unreachable => Some(match diagnosis.sublabel.as_deref().filter(|text| !text.is_empty()) {
            Some(class) => format!("{target} does not answer: {class}"),
            None => format!("{target} does not answer"),
        }),
    };
    sentence.unwrap_or_else(|| format!("{target} is {}", diagnosis.label.as_str())) + "."
}

/// Half a sentence that may open one. A name keeps its own spelling there, other words get a capital.
#[derive(Clone, Debug)]
pub struct Clause {
    text: String,
    starts_with_name: bool,
}

impl Clause {
    pub fn opening(&self) -> String {
        if self.starts_with_name { self.text.clone() } else { capital(&self.text) }
    }
}

/// The same, as half a sentence for joining.
fn complaint(diagnosis: &Diagnosis, target: &str) -> Clause {
    let text = match diagnosis.label {
        Label::Dns => format!("name look-ups for {target} are slow"),
        Label::Handshake => format!("connecting to {target} is slow"),
        Label::Server => format!("{target} answers slowly"),
        Label::Throughput => format!("downloads from {target} are slow"),
        Label::Loss => format!("packets to {target} are lost"),
        Label::Path => format!("the way to {target} is slow"),
        Label::Unreachable => format!("{target} does not answer"),
    };
    Clause { starts_with_name: matches!(diagnosis.label, Label::Server | Label::Unreachable), text }
}

/// What ails a machine, as half a sentence.
fn ailment(machine: &Machine) -> Option<Clause> {
    let issue = machine.issues.first()?;
    let name = &machine.node.name;
    let text = match issue.metric {
        Metric::Heartbeat => format!("{name} {}", absence(machine, issue)),
        Metric::Cpu | Metric::Load => format!("{name} is busy"),
        Metric::Memory => format!("{name} is short of memory"),
        Metric::Disk => format!("{name} is filling up"),
    };
    Some(Clause { text, starts_with_name: true })
}

/// Why membership believes that a machine is gone, where that is what is the matter.
pub fn gone(issue: &Issue) -> Option<&str> {
    issue.message.strip_prefix("gone: ")
}

/// `has been silent for 3 min`, or `is gone: link closed`.
fn absence(machine: &Machine, issue: &Issue) -> String {
    match gone(issue) {
        Some(why) => format!("is gone: {why}"),
        None => format!("has been silent for {}", format::duration(machine.age_ms)),
    }
}

/// The first letter large.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Two complaints as one sentence; more are counted.
fn joined(complaints: &[Clause]) -> String {
    match complaints {
        [] => String::new(),
        [first] => format!("{}.", first.opening()),
        [first, second] => format!("{}, and {}.", first.opening(), second.text),
        [first, second, rest @ ..] => {
            let more = counted(rest.len(), "more thing needs a look", "more things need a look");
            format!("{}, {}, and {more}.", first.opening(), second.text)
        }
    }
}

/// `This machine is healthy`, `All 13 machines are healthy`, `9 of 13 machines are healthy`.
fn machines_sentence(picture: &Picture) -> String {
    let all = picture.machines.len();
    let healthy = picture.machines.iter().filter(|machine| machine.status == Status::Ok).count();
    match (all, healthy) {
        (0, _) => "No machine has reported yet".to_owned(),
        (1, 1) => format!("{} is healthy", picture.machines[0].node.name),
        (1, _) => format!("{} needs a look", picture.machines[0].node.name),
        _ if all == healthy => format!("All {} are healthy", counted(all, "machine", "machines")),
        _ => format!("{healthy} of {} are healthy", counted(all, "machine", "machines")),
    }
}

/// How the targets are, for the case that no verdict stands.
fn targets_sentence(picture: &Picture) -> String {
    let all = picture.pairs.len();
    let learning = picture
        .pairs
        .iter()
        .filter(|pair| pair.recent.count > 0)
        .filter(|pair| pair.status.as_ref().is_none_or(|status| status.standing == Standing::Learning))
        .count();
    let unsettled = picture.pairs.iter().filter(|pair| pair.status().0 == Status::Info).count();
    let silent = picture.pairs.iter().filter(|pair| pair.recent.count == 0).count();
    if all == 0 && picture.targets.is_empty() {
        "nothing is measured yet".to_owned()
    } else if all == 0 {
        "the first measurements are on their way".to_owned()
    } else if silent == all {
        "no measurement has arrived for five minutes".to_owned()
    } else if learning > 0 {
        format!("Caelum is learning what is usual for {learning} of {}", counted(all, "pair", "pairs"))
    } else if unsettled > 0 {
        format!(
            "{unsettled} of {} differ from their usual, not long enough to say why",
            counted(all, "pair", "pairs")
        )
    } else if silent > 0 {
        format!("{silent} of {} have no new measurement", counted(all, "pair", "pairs"))
    } else {
        "every target is as fast as usual".to_owned()
    }
}

/// Heads the overview: the worst of network and machines, else that all is well.
pub fn overview(picture: &Picture) -> Verdict {
    let verdicts = picture.verdicts();
    let mut complaints: Vec<Clause> = picture.open_incidents().map(in_short).collect();
    let unexplained = picture.unexplained();
    complaints.extend(unexplained.iter().map(|(_, d)| complaint(d, picture.target_name(&d.target))));
    complaints.extend(picture.machines.iter().filter_map(ailment));
    let status = verdicts
        .iter()
        .map(|(pair, _)| pair.status().0)
        .chain(picture.open_incidents().map(severity))
        .chain(
            picture.machines.iter().map(|machine| machine.status).filter(|status| status.needs_attention()),
        )
        .max_by_key(|status| match status {
            Status::Crit => 2,
            Status::Off => 1,
            _ => 0,
        })
        .unwrap_or(Status::Ok);
    if complaints.is_empty() {
        let sentence = format!("{}, and {}.", machines_sentence(picture), targets_sentence(picture));
        return Verdict { status, sentence, lede: measuring(picture) };
    }
    let lede = format!("{}. {}", machines_sentence(picture), affected(picture, verdicts.len()));
    Verdict { status, sentence: joined(&complaints), lede }
}

/// `3 of 8 pairs of probe and target are affected.`
fn affected(picture: &Picture, verdicts: usize) -> String {
    if verdicts == 0 {
        return format!("On the network, {}.", targets_sentence(picture));
    }
    let all = picture.pairs.len();
    format!(
        "{verdicts} of {} of probe and target {} affected.",
        counted(all, "pair", "pairs"),
        if verdicts == 1 { "is" } else { "are" }
    )
}

/// `6 targets are measured by 1 probe.`
fn measuring(picture: &Picture) -> String {
    let probes = picture.probes().len();
    let targets = picture.targets.iter().filter(|target| target.enabled).count();
    if targets == 0 {
        return "No target is set up. A target is what your people use: a page, a service, a resolver."
            .to_owned();
    }
    if probes == 0 {
        return format!(
            "{} set up, no probe has reported yet.",
            counted(targets, "target is", "targets are")
        );
    }
    format!(
        "{} measured by {}.",
        counted(targets, "target is", "targets are"),
        counted(probes, "probe", "probes")
    )
}

/// Heads the list of machines.
pub fn machines(picture: &Picture) -> Verdict {
    let ailments: Vec<String> =
        picture.machines.iter().filter_map(ailment).map(|clause| clause.text).take(4).collect();
    let worst = picture.machines.iter().map(|machine| machine.status).filter(|s| s.needs_attention()).max();
    let lede = if ailments.is_empty() {
        "No threshold is reached anywhere.".to_owned()
    } else {
        format!("{}.", ailments.join(", "))
    };
    Verdict {
        status: worst.unwrap_or(Status::Ok),
        sentence: format!("{}.", machines_sentence(picture)),
        lede,
    }
}

/// Heads one machine's page.
pub fn machine(machine: &Machine) -> Verdict {
    let name = &machine.node.name;
    let sentence = match machine.issues.first() {
        None if machine.node.sample.is_none() => format!("{name} has not sent a sample yet."),
        None => format!("{name} is healthy."),
        Some(issue) if issue.severity == Level::Offline => format!("{name} {}.", absence(machine, issue)),
        Some(_) => {
            let reasons: Vec<_> = machine.issues.iter().take(2).map(|found| issue(machine, found)).collect();
            let half = ailment(machine).map_or_else(|| name.clone(), |clause| clause.text);
            format!("{half}: {}.", reasons.join(", "))
        }
    };
    Verdict { status: machine.status, sentence, lede: String::new() }
}

/// What crosses a threshold, as people read it.
pub fn issue(machine: &Machine, issue: &Issue) -> String {
    match issue.metric {
        Metric::Heartbeat => gone(issue).map_or_else(
            || format!("silent for {}", format::duration(machine.age_ms)),
            |why| format!("gone: {why}"),
        ),
        Metric::Cpu | Metric::Memory | Metric::Disk | Metric::Load => nonbreaking(&issue.message),
    }
}

/// How long an alert has stood, and who looks into it.
pub fn alert(alert: &Alert, now_ms: i64) -> String {
    let lasted = format!("for {}", format::duration(now_ms - alert.raised_at_ms));
    match &alert.acknowledged_by {
        Some(who) if alert.status == AlertStatus::Acknowledged => format!("{lasted}, {who} looks into it"),
        _ => lasted,
    }
}

/// Units stay with their numbers in text that was made elsewhere.
pub fn nonbreaking(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    let mut before = ' ';
    while let Some(letter) = letters.next() {
        let unit_follows = letters.peek().is_some_and(|next| next.is_alphabetic() || *next == '%');
        out.push(if letter == ' ' && before.is_ascii_digit() && unit_follows { '\u{a0}' } else { letter });
        before = letter;
    }
    out
}

/// Heads the network page.
pub fn network(picture: &Picture) -> Verdict {
    let verdicts = picture.verdicts();
    let Some((worst, first)) = verdicts.first() else {
        return Verdict {
            status: Status::Ok,
            sentence: capital(&format!("{}.", targets_sentence(picture))),
            lede: measuring(picture),
        };
    };
    let sentence = diagnosis(first, picture.target_name(&first.target));
    let lede = match verdicts.get(1) {
        None => affected(picture, 1),
        Some((_, second)) => {
            let more = complaint(second, picture.target_name(&second.target)).opening();
            format!("{more}. {}", affected(picture, verdicts.len()))
        }
    };
    Verdict { status: worst.status().0, sentence, lede }
}

/// One of the four places in which a request can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: &'static str,
    /// `crit`, `warn`, `clear` or `unknown`.
    pub at: &'static str,
    /// The icon.
    pub icon: &'static str,
    /// The icon in words.
    pub says: &'static str,
}

/// The chain of places for a verdict, always last mile, resolver, path, server. A place is clear only when
/// something shows it: another target of the same probe for the last mile, the evidence for the others.
pub fn places(picture: &Picture, pair: &PairNow, verdict: &Diagnosis) -> [Place; 4] {
    let same_probe = || picture.pairs.iter().filter(|other| other.pair.client_id == pair.pair.client_id);
    let others_fine = same_probe().any(|other| other.status().0 == Status::Ok);
    let all_bad = same_probe().count() > 2 && same_probe().all(|other| other.verdict().is_some());
    let tls = verdict.sublabel.as_deref().unwrap_or_default().to_ascii_lowercase().contains("tls");
    let guilty = match verdict.label {
        Label::Dns => 1,
        _ if all_bad => 0,
        Label::Server => 3,
        Label::Handshake if tls => 3,
        Label::Handshake | Label::Throughput | Label::Loss | Label::Path => 2,
        // Nothing answers: it may be the way or the server, and one probe cannot tell which.
        Label::Unreachable => 4,
    };
    let answers = verdict.label != Label::Unreachable;
    let clear = [
        others_fine,
        verdict.label != Label::Dns && pair.recent.median(Measure::Dns).is_some(),
        answers && matches!(verdict.label, Label::Server | Label::Dns),
        answers && matches!(verdict.label, Label::Dns | Label::Path | Label::Loss),
    ];
    let status = pair.status().0;
    let mut index = 0;
    ["Last mile", "Resolver", "Path", "Server"].map(|name| {
        let place = if index == guilty {
            Place { name, at: status.level(), icon: status.icon_name(), says: "at fault" }
        } else if clear[index] {
            Place { name, at: "clear", icon: "s-ok", says: "clear" }
        } else {
            Place { name, at: "unknown", icon: "s-queue", says: "not known" }
        };
        index += 1;
        place
    })
}
