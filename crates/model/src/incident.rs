//! An incident: one thing that is wrong at one place, from when to when, and what shows it.

use serde::{Deserialize, Serialize};

use crate::{UnixMs, diagnosis::Label, event::Family, id::ClientId, rollup::Measure};

/// What kind of thing an incident is blamed on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum EntityKind {
    /// A probe's own side: its last mile, or its machine.
    Probe,
    /// A target, seen from everywhere.
    Target,
    /// A name server, for all that use it.
    Resolver,
    /// A site, region or uplink that several probes or targets share.
    Group,
    /// The path between one probe and one target.
    Pair,
}

impl EntityKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Probe, Self::Target, Self::Resolver, Self::Group, Self::Pair];

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Target => "target",
            Self::Resolver => "resolver",
            Self::Group => "group",
            Self::Pair => "pair",
        }
    }

    /// Reads the wire spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What an incident is blamed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entity {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntityKind,
    /// Its name: one; of a pair the probe, the target and the family.
    pub ids: Vec<String>,
}

/// How much is at stake.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// To be seen, hardly felt.
    Minor,
    /// Felt by people.
    Major,
    /// Nothing works, or for many.
    Critical,
}

impl Severity {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Critical => "critical",
        }
    }
}

/// A pair that an incident touches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PairRef {
    /// The probe.
    pub client_id: ClientId,
    /// The target's URL.
    pub target: String,
    /// IP version.
    pub family: Family,
}

/// One number that speaks for an incident: before and during, as the median over its pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IncidentEvidence {
    /// What was measured, or none for a share of failures (percent).
    pub measure: Option<Measure>,
    /// Median over the pairs in the windows before.
    pub before: f64,
    /// Median over the pairs while it lasts.
    pub during: f64,
    /// Median over the pairs after its end; none while it is open.
    pub after: Option<f64>,
    /// Robust deviations from the usual, the median over the pairs.
    pub z: f64,
    /// Pairs that show it …
    pub pairs: u32,
    /// … of so many that could.
    pub pairs_observed: u32,
}

/// What happened to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// It was found.
    Opened,
    /// It grew, shrank, or its label was refined.
    Changed,
    /// A late window changed what had been said.
    Revised,
    /// It comes and goes; its notices are held.
    Flapping,
    /// It comes and goes no longer.
    Steady,
    /// It is over.
    Closed,
}

/// One line of an incident's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IncidentStep {
    /// The window that decided it.
    pub window_start_ms: UnixMs,
    /// What happened.
    pub kind: StepKind,
    /// In words.
    pub text: String,
}

/// Most steps that are kept; the first and the newest stay.
pub const STEPS_MAX: usize = 100;
/// Most pairs that are named; `pairs_touched` counts all.
pub const PAIRS_MAX: usize = 200;

/// One thing that is wrong at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Incident {
    /// The same windows give the same id.
    pub id: String,
    /// What it is bound by.
    pub label: Label,
    /// Which half of a handshake, or which error class.
    pub sublabel: Option<String>,
    /// Where.
    pub entity: Entity,
    /// Where, in words: `resolver 192.0.2.53`, `the last mile of lab-3`.
    pub place: String,
    /// First window of it.
    pub opened_window_ms: UnixMs,
    /// The window that decided that it is there.
    pub detected_window_ms: UnixMs,
    /// First clear window after it; none while it is open.
    pub closed_window_ms: Option<UnixMs>,
    /// How much is at stake.
    pub severity: Severity,
    /// 0 to 1.
    pub confidence: f64,
    /// What, where, since when, how sure, in one sentence.
    pub sentence: String,
    /// Pairs that it touches, at most [`PAIRS_MAX`].
    pub pairs: Vec<PairRef>,
    /// How many it touches.
    pub pairs_touched: u32,
    /// How many it could touch.
    pub pairs_observed: u32,
    /// Other stages that are slow because of it.
    pub consequences: Vec<Measure>,
    /// The numbers, strongest first.
    pub evidence: Vec<IncidentEvidence>,
    /// Its history, oldest first.
    pub steps: Vec<IncidentStep>,
    /// It comes and goes.
    pub is_flapping: bool,
    /// Grows when a late window changed what had been said.
    pub revision: u32,
    /// Newest window that is in it.
    pub updated_window_ms: UnixMs,
}
