//! Sentences about counting: whether everything is counted, how complete a probe is, who may join.

use caelum_model::UnixMs;

use super::{Verdict, capital};
use crate::{
    api::{
        enrol::JoinTokenJson,
        network::OneProbeJson,
        pipeline::{PartitionJson, PipelineHealthJson},
    },
    pages::{
        format::{self, Zone, counted},
        mark::Status,
    },
};

/// From here on a probe counts as silent, ms.
const SILENT_FROM_MS: i64 = 5 * 60_000;

/// Records of the queue that are not counted yet.
pub fn uncounted(health: &PipelineHealthJson) -> u64 {
    health.partitions.iter().map(|partition| partition.uncounted_records).sum()
}

/// Heads the pipeline: what is wrong, else whether everything is counted and how old the newest row is.
pub fn pipeline(health: &PipelineHealthJson, zone: &Zone) -> Verdict {
    // Unknown where no probe numbers its events.
    let newest = health.newest_event_ms.map(|newest| {
        let age = format::duration(health.timestamp.saturating_sub(newest));
        format!("the newest event in the rows is {age} old")
    });
    let counted_so_far: u64 = health.partitions.iter().map(|partition| partition.counted).sum();
    let kept: u64 =
        health.dead_letters.iter().filter(|count| count.state == "kept").map(|count| count.count).sum();
    let mut lede = match kept {
        0 => "An event is counted once, however often it is sent, or kept aside with the reason.".to_owned(),
        kept => format!(
            "{} kept aside; they can be inspected below and counted after all.",
            counted(usize::try_from(kept).unwrap_or(usize::MAX), "event is", "events are")
        ),
    };
    if let Some(as_of) = health.reads_as_of_ms {
        lede.push_str(&format!(" Rows are read from a replica, as of {}.", zone.second(as_of)));
    }
    if let [problem, rest @ ..] = health.problems.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(", and {}", rest.join(", and ")) };
        let lede = match newest {
            Some(newest) => format!("{}. {lede}", capital(&newest)),
            None => lede,
        };
        let status = if health.queue.is_reachable && !health.aggregators.is_empty() {
            Status::Warn
        } else {
            Status::Crit
        };
        return Verdict { status, sentence: format!("{}{more}.", capital(problem)), lede };
    }
    let newest = newest.map_or_else(String::new, |newest| format!("; {newest}"));
    let sentence = match usize::try_from(uncounted(health)).unwrap_or(usize::MAX) {
        0 if counted_so_far == 0 => "No event has come in yet.".to_owned(),
        0 => format!("Everything that was accepted is counted{newest}."),
        waiting => format!("{} to be counted{newest}.", counted(waiting, "record waits", "records wait")),
    };
    Verdict { status: Status::Ok, sentence, lede }
}

/// How a partition stands, with the word for it.
pub fn partition(partition: &PartitionJson, is_owned: bool) -> (Status, &'static str) {
    match (is_owned, partition.uncounted_records) {
        (false, 0) => (Status::Queue, "No owner"),
        (false, _) => (Status::Warn, "No owner"),
        (true, 0) => (Status::Ok, "Counted"),
        (true, _) => (Status::Info, "Counting"),
    }
}

/// Why an event was kept aside: the word for lists, and what it means.
pub fn reason(word: &str) -> (String, &'static str) {
    match word {
        "too_late" => ("too late".into(), "It arrived later than this server lets events change a minute."),
        "too_many_windows" => {
            ("too many windows".into(), "More minutes were open at once than there is room for.")
        }
        "record_damaged" => ("record damaged".into(), "A record of the queue could not be read."),
        other => (other.replace('_', " "), ""),
    }
}

/// What became of an event that was kept aside, with the word for it.
pub fn letter_state(word: &str) -> (Status, &'static str) {
    match word {
        "requested" => (Status::Queue, "Asked for"),
        "replayed" => (Status::Ok, "Counted after all"),
        _ => (Status::Info, "Kept aside"),
    }
}

/// Heads the page of a probe: through when it is counted, and what is missing where.
pub fn probe(name: &str, known: Option<&OneProbeJson>, zone: &Zone, now_ms: UnixMs) -> Verdict {
    let Some(known) = known else {
        return Verdict {
            status: Status::Queue,
            sentence: format!(
                "{name} does not number its events, so that nobody can say how complete they are."
            ),
            lede: "A probe that gives each event an epoch and a sequence number lets gaps be seen."
                .to_owned(),
        };
    };
    let probe = &known.probe;
    let through = zone.moment(probe.last_event_ms, now_ms);
    let silent_ms = now_ms.saturating_sub(probe.last_event_ms);
    let silent = silent_ms >= SILENT_FROM_MS;
    let when = match silent {
        true => format!("{name} has been silent for {}", format::duration(silent_ms)),
        false => format!("{name} is complete through {through}"),
    };
    let missing = usize::try_from(probe.missing).unwrap_or(usize::MAX);
    let lede = "A gap closes by itself when the probe sends what it still keeps.".to_owned();
    let Some(newest) = known.gaps.first().filter(|_| missing > 0) else {
        let status = if silent { Status::Off } else { Status::Ok };
        let sentence = match silent {
            true => format!("{when}; everything before is counted."),
            false => format!("{when}."),
        };
        return Verdict { status, sentence, lede };
    };
    let between = match (zone.moment(newest.from_ms, now_ms), zone.moment(newest.to_ms, now_ms)) {
        (from, to) if from == to => format!("at {from}"),
        (from, to) => format!("between {from} and {to}"),
    };
    let gaps = known.gaps.len();
    let place = match gaps {
        1 => between,
        gaps => format!("in {}, the newest {between}", counted(gaps, "gap", "gaps")),
    };
    let sentence = format!(
        "{}; {} missing {place}.",
        when.replace("is complete", "is counted"),
        counted(missing, "event is", "events are")
    );
    Verdict { status: if silent { Status::Off } else { Status::Warn }, sentence, lede }
}

/// Heads the page of join tokens.
pub fn tokens(tokens: Option<&[JoinTokenJson]>) -> Verdict {
    let lede =
        "A join token makes a machine a node. It works as often as it says, until it expires; its secret \
                is shown once, when it is made."
            .to_owned();
    let valid = tokens.map(|tokens| tokens.iter().filter(|token| token.state == "valid").count());
    let sentence = match valid {
        None => "Join tokens are for operators.".to_owned(),
        Some(0) => "No machine can join by token now.".to_owned(),
        Some(valid) => format!("{} machines join.", counted(valid, "join token lets", "join tokens let")),
    };
    Verdict { status: Status::Ok, sentence, lede }
}

/// How a join token stands, with the word for it.
pub fn token_state(state: &str) -> (Status, &'static str) {
    match state {
        "valid" => (Status::Ok, "Valid"),
        "used up" => (Status::Off, "Used up"),
        "expired" => (Status::Off, "Expired"),
        _ => (Status::Off, "Revoked"),
    }
}
