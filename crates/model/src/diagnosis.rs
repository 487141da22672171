//! A verdict on what a probe sees of a target.

use serde::{Deserialize, Serialize};

use crate::{UnixMs, event::Family, id::ClientId, rollup::Measure};

/// What a slow or failing measurement is bound by, spelled as users know it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
pub enum Label {
    /// Name resolution.
    #[serde(rename = "DNS-bound")]
    Dns,
    /// TCP connect or TLS handshake; the sub-label says which.
    #[serde(rename = "Handshake-bound")]
    Handshake,
    /// The server's own work before the first byte.
    #[serde(rename = "Server-bound")]
    Server,
    /// Transfer rate.
    #[serde(rename = "Throughput-bound")]
    Throughput,
    /// Lost packets.
    #[serde(rename = "Loss-bound")]
    Loss,
    /// The network's round trip.
    #[serde(rename = "Path-bound")]
    Path,
    /// Nothing answers.
    #[serde(rename = "Unreachable")]
    Unreachable,
}

impl Label {
    /// Every label.
    pub const ALL: [Self; 7] = [
        Self::Dns,
        Self::Handshake,
        Self::Server,
        Self::Throughput,
        Self::Loss,
        Self::Path,
        Self::Unreachable,
    ];

    /// The spelling users know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "DNS-bound",
            Self::Handshake => "Handshake-bound",
            Self::Server => "Server-bound",
            Self::Throughput => "Throughput-bound",
            Self::Loss => "Loss-bound",
            Self::Path => "Path-bound",
            Self::Unreachable => "Unreachable",
        }
    }

    /// Reads the spelling users know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.as_str() == text)
    }
}

/// One number that speaks for the verdict, with what is usual for the pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// What was measured, or none for a share of failures (percent).
    pub measure: Option<Measure>,
    /// The window's value (median, or percent of failures), in the measure's unit.
    pub value: f64,
    /// What is usual for the pair.
    pub usual: f64,
    /// Robust deviations from the usual.
    pub z: f64,
}

/// The verdict on one (probe, target, family) in one window. Windows without a verdict have none stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Diagnosis {
    /// The probe.
    pub client_id: ClientId,
    /// The target's URL.
    pub target: String,
    /// IP version.
    pub family: Family,
    /// Start of the window.
    pub window_start_ms: UnixMs,
    /// First window of the same verdict.
    pub since_ms: UnixMs,
    /// What it is bound by.
    pub label: Label,
    /// Which half of a handshake, or which error class.
    pub sublabel: Option<String>,
    /// 0 to 1.
    pub confidence: f64,
    /// What, where, since when, how sure, in one sentence.
    pub sentence: String,
    /// The numbers behind it, strongest first.
    pub evidence: Vec<Evidence>,
    /// Other stages that are slow because of it.
    pub consequences: Vec<Measure>,
    /// Grows when a late event changed the verdict on this window.
    pub revision: u32,
}

/// How a pair stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Too few windows to know what is usual.
    Learning,
    /// As usual.
    Usual,
    /// Off its usual, not (yet) long enough for a verdict.
    Suspect,
    /// Under a verdict.
    Diagnosed,
}

/// What is usual for a pair and how it stands, as of its newest judged window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PairStatus {
    /// The probe.
    pub client_id: ClientId,
    /// The target's URL.
    pub target: String,
    /// IP version.
    pub family: Family,
    /// How it stands.
    pub standing: Standing,
    /// Newest judged window.
    pub window_start_ms: UnixMs,
    /// Usual medians by measure, where known.
    pub usual: Vec<(Measure, f64)>,
    /// The verdict, if there is one.
    pub diagnosis: Option<Diagnosis>,
}
