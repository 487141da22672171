//! An incident in words: what, where, since when, how sure, what follows from it, and what is as usual.

use std::fmt;

use caelum_model::{
    event::ErrorStage,
    incident::{EntityKind, Incident},
    rollup::Measure,
};

use crate::diagnose::{
    Symptom,
    sentence::{Moment, Percent, Rate, Time, listed},
};

/// The number that an incident stands on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) symptom: Symptom,
    pub(super) usual: f64,
    pub(super) value: f64,
    pub(super) pairs: u32,
    pub(super) observed: u32,
}

pub(super) struct Sentence<'a> {
    pub(super) incident: &'a Incident,
    pub(super) number: Option<Number>,
    pub(super) normal: &'a [Measure],
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let incident = self.incident;
        write!(f, "{} at {}", incident.label.as_str(), incident.place)?;
        let seen_from_ms = incident.closed_window_ms.unwrap_or(incident.updated_window_ms);
        let opened = Moment { ms: incident.opened_window_ms, seen_from_ms };
        match incident.closed_window_ms {
            None => write!(f, " since {opened}")?,
            Some(ms) => write!(f, " from {opened} to {}", Moment { ms, seen_from_ms })?,
        }
        if let Some(number) = self.number {
            f.write_str(": ")?;
            self.write_number(f, number)?;
            let what = match incident.entity.kind {
                EntityKind::Probe => "targets",
                EntityKind::Target => "probes",
                EntityKind::Resolver => "pairs that use it",
                EntityKind::Group | EntityKind::Pair => "pairs",
            };
            if incident.entity.kind != EntityKind::Pair {
                write!(f, " for {} of {} {what}", number.pairs, number.observed)?;
            }
        }
        write!(f, " (confidence {:.2})", incident.confidence)?;
        if !incident.consequences.is_empty() {
            write!(f, "; {} slower because of it", listed(&incident.consequences))?;
        }
        if !self.normal.is_empty() {
            write!(f, "; {} normal", listed(self.normal))?;
        }
        f.write_str(".")
    }
}

impl Sentence<'_> {
    fn write_number(&self, f: &mut fmt::Formatter<'_>, number: Number) -> fmt::Result {
        let is_over = self.incident.closed_window_ms.is_some();
        let (value, usual) = (number.value, number.usual);
        let (take, run, fail) = if is_over { ("took", "ran", "failed") } else { ("take", "run", "fail") };
        let what = match number.symptom {
            Symptom::Dns => "look-ups",
            Symptom::Connect => "connects",
            Symptom::Rtt => "round trips",
            Symptom::Tls => "TLS handshakes",
            Symptom::Server => "first bytes",
            Symptom::Throughput => {
                return write!(f, "transfers {run} at {} instead of {}", Rate(value), Rate(usual));
            }
            Symptom::Loss => {
                let are = if is_over { "were" } else { "are" };
                return write!(f, "{} of packets {are} lost instead of {}", Percent(value), Percent(usual));
            }
            Symptom::Failures(stage) => {
                let what = match stage {
                    ErrorStage::Dns => "look-ups",
                    ErrorStage::Tcp => "connections",
                    ErrorStage::Tls => "TLS handshakes",
                    ErrorStage::Http => "requests",
                    ErrorStage::Throughput => "transfers",
                };
                write!(f, "{} of {what} {fail}", Percent(value))?;
                return match &self.incident.sublabel {
                    Some(class) => write!(f, " ({class})"),
                    None => Ok(()),
                };
            }
        };
        write!(f, "{what} {take} {} instead of {}", Time(value), Time(usual))
    }
}
