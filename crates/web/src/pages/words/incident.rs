//! What is said of incidents: in few words, in the chain of places, and why it is believed.

use caelum_model::{
    diagnosis::Label,
    incident::{EntityKind, Incident, IncidentEvidence, Severity, StepKind},
    rollup::Measure,
};

use super::{Clause, Place, measured};
use crate::pages::{format, mark::Status};

/// How bad it is, as a status. One that is over is only worth knowing.
pub fn severity(incident: &Incident) -> Status {
    match (incident.closed_window_ms, incident.severity) {
        (Some(_), _) => Status::Ok,
        (None, Severity::Minor | Severity::Major) => Status::Warn,
        (None, Severity::Critical) => Status::Crit,
    }
}

/// The word beside it.
pub fn severity_word(incident: &Incident) -> &'static str {
    match (incident.closed_window_ms, incident.severity) {
        (Some(_), _) => "Over",
        (None, Severity::Minor) => "Minor",
        (None, Severity::Major) => "Major",
        (None, Severity::Critical) => "Critical",
    }
}

/// The incident as half a sentence: what, and where.
pub fn in_short(incident: &Incident) -> Clause {
    let place = &incident.place;
    let text = match incident.label {
        Label::Dns => format!("name look-ups are slow at {place}"),
        Label::Handshake => format!("connecting is slow at {place}"),
        Label::Server => format!("answers come late from {place}"),
        Label::Throughput => format!("downloads are slow at {place}"),
        Label::Loss => format!("packets are lost at {place}"),
        Label::Path => format!("round trips are slow at {place}"),
        Label::Unreachable => format!("nothing answers at {place}"),
    };
    Clause { text, starts_with_name: false }
}

/// The same as a heading of a row.
pub fn headline(incident: &Incident) -> String {
    format!("{}.", in_short(incident).opening())
}

/// What a measure is called in a table.
pub fn measure_name(measure: Option<Measure>) -> &'static str {
    match measure {
        None => "Failed measurements",
        Some(Measure::Dns) => "Name look-up",
        Some(Measure::Tcp) => "TCP connect",
        Some(Measure::Tls) => "TLS handshake",
        Some(Measure::Ttfb) => "First byte",
        Some(Measure::Total) => "Whole measurement",
        Some(Measure::Throughput) => "Download",
        Some(Measure::Upload) => "Upload",
        Some(Measure::Rtt) => "Round trip",
        Some(Measure::Jitter) => "Jitter",
        Some(Measure::Loss) => "Lost packets",
        Some(Measure::Rpm) => "Responsiveness",
        Some(Measure::DelayOut) => "Delay on the way out",
        Some(Measure::DelayBack) => "Delay on the way back",
        Some(Measure::LossOut) => "Lost on the way out",
        Some(Measure::LossBack) => "Lost on the way back",
        Some(Measure::Loaded) => "Round trip under load",
    }
}

/// A number of an incident with its unit; failures are a share.
pub fn number(measure: Option<Measure>, value: f64) -> String {
    measure.map_or_else(|| format::percent(value).to_string(), |measure| measured(measure, value))
}

/// `Name look-up takes 431 ms instead of 17 ms.`
pub fn evidence(evidence: &IncidentEvidence) -> String {
    let (name, during, before) = (
        measure_name(evidence.measure),
        number(evidence.measure, evidence.during),
        number(evidence.measure, evidence.before),
    );
    format!("{name}: {during} instead of {before}")
}

/// Which of the four places a measure speaks of.
fn place_of(measure: Option<Measure>) -> Option<usize> {
    Some(match measure? {
        Measure::Dns => 1,
        Measure::Tls | Measure::Ttfb => 3,
        Measure::Total => return None,
        _ => 2,
    })
}

/// Which of the four places an incident is blamed on; none where it cannot be told.
fn guilty(incident: &Incident) -> Option<usize> {
    let tls = incident.sublabel.as_deref().unwrap_or_default().to_ascii_lowercase().contains("tls");
    Some(match (incident.entity.kind, incident.label) {
        (EntityKind::Probe, _) => 0,
        (EntityKind::Resolver, _) | (_, Label::Dns) => 1,
        (EntityKind::Target, _) | (_, Label::Server) => 3,
        (_, Label::Handshake) if tls => 3,
        // Nothing answers between one probe and one target: it may be the way or the server.
        (EntityKind::Pair, Label::Unreachable) => return None,
        (EntityKind::Group | EntityKind::Pair, _) => 2,
    })
}

/// The chain of places for an incident, always last mile, resolver, path, server, and what is said of each.
pub fn incident_places(incident: &Incident) -> [(Place, String, String); 4] {
    let guilty = guilty(incident);
    let status = severity(incident);
    let strongest = incident.evidence.first();
    let mut index = 0;
    ["Last mile", "Resolver", "Path", "Server"].map(|name| {
        let at = index;
        index += 1;
        // The number of this place itself, where one is known.
        let own = incident.evidence.iter().find(|known| place_of(known.measure) == Some(at));
        if guilty == Some(at) {
            let is_over = incident.closed_window_ms.is_some();
            let told = own.or(strongest);
            let say = told.map_or_else(String::new, |told| number(told.measure, told.during));
            let usual = told.map_or_else(String::new, |told| {
                format!("{}. Usually {}.", measure_name(told.measure), number(told.measure, told.before))
            });
            let (level, icon) =
                if is_over { ("was", "s-info") } else { (status.level(), status.icon_name()) };
            let word = if is_over { "Was at fault" } else { "At fault" };
            let says = if is_over { "was at fault" } else { "at fault" };
            return (Place { name, at: level, icon, says }, join(word, &say), usual);
        }
        let caused = incident.consequences.iter().find(|measure| place_of(Some(**measure)) == Some(at));
        if let Some(measure) = caused {
            let why = format!("{} is slow because of it.", measure_name(Some(*measure)));
            let place = Place { name, at: "caused", icon: "s-info", says: "slow because of it" };
            return (place, "Not to blame".to_owned(), why);
        }
        let unknown = guilty.is_none() || incident.label == Label::Unreachable;
        match unknown {
            true => {
                let place = Place { name, at: "unknown", icon: "s-queue", says: "not known" };
                (place, "Not known".to_owned(), "Nothing answers that could tell.".to_owned())
            }
            false => {
                let place = Place { name, at: "clear", icon: "s-ok", says: "clear" };
                (place, "Clear".to_owned(), "No number of it left its usual.".to_owned())
            }
        }
    })
}

fn join(word: &str, value: &str) -> String {
    if value.is_empty() { word.to_owned() } else { format!("{word}, {value}") }
}

/// How a step of its history looks, and its word.
pub fn step(kind: StepKind) -> (Status, &'static str) {
    match kind {
        StepKind::Opened => (Status::Warn, "opened"),
        StepKind::Changed => (Status::Info, "changed"),
        StepKind::Revised => (Status::Info, "revised"),
        StepKind::Flapping => (Status::Warn, "comes and goes"),
        StepKind::Steady => (Status::Info, "steady again"),
        StepKind::Closed => (Status::Ok, "over"),
    }
}
