//! Where it is wrong: the fewest places that explain what many pairs show in one window.
//!
//! # Purpose
//! [`locate`] takes what every pair shows in a window ([`Signals`]) and answers with [`Finding`]s: a class of
//! cause at a place. It is a function: the same window with the same open incidents gives the same findings.
//!
//! # Rules
//! - Classes go from what explains most to what explains least: connections that fail, loss, the network's
//!   round trip, then look-ups, TLS, servers, throughput ([`Class`]).
//! - Within a class the place with the best `abnormal − penalty · normal` over its pairs is taken first, if
//!   enough of its pairs are off; what it explains is taken away; and again ([`cover`]).
//! - Together the pairs of a place need the evidence that a lone pair needs for its alarm, and at least two
//!   probes or two targets must show it. What is left over and alarmed is the path of one pair.
//! - A place with an open incident keeps it at less: a fault that is half seen in a window is not over.
//!
//! # What it does not do
//! It remembers nothing: when an incident begins and ends is `incident`'s to say.

mod cover;
mod facts;
#[cfg(test)]
mod tests;

use caelum_model::{
    UnixMs,
    diagnosis::Label,
    event::ErrorStage,
    incident::{Entity, EntityKind},
    rollup::Measure,
};

use crate::diagnose::{Signals, Symptom, Symptoms};
pub use cover::locate;
pub use facts::{Facts, UsualLoad, own_trouble};

/// The numbers that localisation depends on. Their origin is the design where it gives a number, else the
/// scorecard; `docs/diagnosis.md` discusses them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Share of a place's pairs that must be off. Design: 62 %.
    pub coverage: f64,
    /// The same for what is counted (failures, loss) and comes now and then. Design: 45 %.
    pub coverage_counts: f64,
    /// What a pair as usual takes from a place's score. Design: 1.2.
    pub penalty: f64,
    /// The same for what is counted: 1.2 would leave nothing at 45 %.
    pub penalty_counts: f64,
    /// What the pairs of a place must have built up together, in alarms of a lone pair.
    pub weight: f64,
    /// What the failures of a lone pair must have built up: of many pairs one now and then fails three times
    /// in two minutes by chance.
    pub weight_lone_failures: f64,
    /// Share of its pairs at which a place keeps its open incident.
    pub coverage_open: f64,
    /// What a pair as usual takes from the score of a place with an open incident.
    pub penalty_open: f64,
    /// What the pairs of a place with an open incident must have built up together.
    pub weight_open: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            coverage: 0.62,
            coverage_counts: 0.45,
            penalty: 1.2,
            penalty_counts: 0.7,
            weight: 1.0,
            weight_lone_failures: 1.3,
            coverage_open: 0.35,
            penalty_open: 0.5,
            weight_open: 0.3,
        }
    }
}

/// A kind of cause, in the order in which they are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Connections fail.
    Unreachable,
    /// Packets are lost.
    Loss,
    /// Connects or the round trip take longer.
    Network,
    /// Look-ups take longer, or fail.
    Dns,
    /// TLS handshakes take longer, or fail.
    Tls,
    /// Servers take longer, or fail.
    Server,
    /// Transfers are slower, or fail.
    Throughput,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::Unreachable, Self::Loss, Self::Network, Self::Dns, Self::Tls, Self::Server, Self::Throughput];

    /// The class that a label belongs to; with its sub-label, since two kinds of handshakes have one label.
    pub fn of_label(label: Label, sublabel: Option<&str>) -> Self {
        match label {
            Label::Dns => Self::Dns,
            Label::Handshake if sublabel == Some(CONNECT) => Self::Network,
            Label::Handshake => Self::Tls,
            Label::Server => Self::Server,
            Label::Throughput => Self::Throughput,
            Label::Loss => Self::Loss,
            Label::Path => Self::Network,
            Label::Unreachable => Self::Unreachable,
        }
    }

    fn of(symptom: Symptom) -> Self {
        match symptom {
            Symptom::Failures(ErrorStage::Tcp) => Self::Unreachable,
            Symptom::Loss => Self::Loss,
            Symptom::Connect | Symptom::Rtt => Self::Network,
            Symptom::Dns | Symptom::Failures(ErrorStage::Dns) => Self::Dns,
            Symptom::Tls | Symptom::Failures(ErrorStage::Tls) => Self::Tls,
            Symptom::Server | Symptom::Failures(ErrorStage::Http) => Self::Server,
            Symptom::Throughput | Symptom::Failures(ErrorStage::Throughput) => Self::Throughput,
        }
    }

    /// The symptoms that show it.
    pub(crate) fn symptoms(self) -> impl Iterator<Item = Symptom> {
        Symptom::ALL.into_iter().filter(move |symptom| Self::of(*symptom) == self)
    }

    fn bits(self) -> Symptoms {
        match self {
            Self::Unreachable => Symptom::Failures(ErrorStage::Tcp).bit(),
            Self::Loss => Symptom::Loss.bit(),
            Self::Network => Symptom::Connect.bit() | Symptom::Rtt.bit(),
            Self::Dns => Symptom::Dns.bit() | Symptom::Failures(ErrorStage::Dns).bit(),
            Self::Tls => Symptom::Tls.bit() | Symptom::Failures(ErrorStage::Tls).bit(),
            Self::Server => Symptom::Server.bit() | Symptom::Failures(ErrorStage::Http).bit(),
            Self::Throughput => Symptom::Throughput.bit() | Symptom::Failures(ErrorStage::Throughput).bit(),
        }
    }

    /// Symptoms whose number says that a pair can tell this class at all. Every pair has a share of failures
    /// at every stage, whether it gets there or not.
    fn telling_bits(self) -> Symptoms {
        match self {
            Self::Unreachable => Symptom::Connect.bit(),
            _ => self.bits() & !Self::failure_bits(),
        }
    }

    fn failure_bits() -> Symptoms {
        ErrorStage::ALL.into_iter().map(|stage| Symptom::Failures(stage).bit()).fold(0, |all, bit| all | bit)
    }

    /// Whether it can be why another is seen at the same place.
    pub(crate) fn explains(self, other: Self) -> bool {
        match self {
            Self::Unreachable | Self::Loss | Self::Server => other > self && other != Self::Dns,
            Self::Network => other > self,
            Self::Dns | Self::Tls | Self::Throughput => false,
        }
    }

    /// Whether it makes later stages slower in ways that cannot always be measured against it.
    fn is_network(self) -> bool {
        matches!(self, Self::Unreachable | Self::Loss | Self::Network)
    }
}

/// Sub-label of connects that are slow by themselves.
pub(crate) const CONNECT: &str = "TCP connect";
/// Sub-label of TLS handshakes that are slow.
pub(crate) const HANDSHAKE: &str = "TLS handshake";

/// One pair in one window.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who it is, and what it is part of.
    pub facts: std::sync::Arc<Facts>,
    /// What is wrong with the probe's own machine, in words; none where nothing is known to be.
    pub own_trouble: Option<Box<str>>,
    /// What it shows.
    pub signals: Signals,
}

/// The numbers of one symptom over the pairs of a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub(crate) symptom: Symptom,
    /// Median over the pairs that show it.
    pub value: f64,
    /// Median of what is usual for them.
    pub usual: f64,
    /// Median of their deviations.
    pub z: f64,
    /// Pairs that show it.
    pub pairs: u32,
    /// Pairs of the place that could.
    pub observed: u32,
}

impl Shown {
    /// What was measured; none for failures.
    pub fn measure(&self) -> Option<Measure> {
        self.symptom.measure()
    }
}

/// One class of cause at one place in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Where.
    pub entity: Entity,
    /// Where, in words.
    pub place: String,
    /// What kind.
    pub class: Class,
    /// What it is bound by.
    pub label: Label,
    /// Which half of a handshake, or which error class.
    pub sublabel: Option<String>,
    /// Pairs that show it, by their number in the window.
    pub pairs: Vec<usize>,
    /// Pairs that could.
    pub observed: u32,
    /// The numbers, those that the finding stands on first.
    pub shown: Vec<Shown>,
    /// Stages that are slow because of it.
    pub consequences: Vec<Measure>,
    /// Stages that are as usual.
    pub normal: Vec<Measure>,
    /// Since when, where the alarm of a lone pair says so.
    pub since_ms: Option<UnixMs>,
    /// What its pairs have built up together, in alarms of a lone pair.
    pub weight: f64,
}

/// Words for a place.
fn place_of(entity: &Entity, class: Class, own_trouble: Option<&str>) -> String {
    let name = entity.ids.first().map_or("", String::as_str);
    let family = entity.ids.get(if entity.kind == EntityKind::Pair { 2 } else { 1 });
    let family = match family.map(String::as_str) {
        Some("ipv4") => " over IPv4",
        Some("ipv6") => " over IPv6",
        _ => "",
    };
    match entity.kind {
        EntityKind::Probe => match own_trouble {
            Some(trouble) => format!("the machine of probe {name} itself ({trouble})"),
            None if class.is_network() || class == Class::Throughput => {
                format!("the last mile of probe {name}{family}")
            }
            None => format!("probe {name}{family}"),
        },
        EntityKind::Target => format!("target {name}{family}"),
        EntityKind::Resolver => format!("resolver {name}"),
        EntityKind::Group => format!("group {name}{family}"),
        EntityKind::Pair => {
            let target = entity.ids.get(1).map_or("", String::as_str);
            format!("target {target} as probe {name} sees it{family}")
        }
    }
}
