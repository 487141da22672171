//! Rollups: what one probe saw of one target in one window, as counters and distributions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    UnixMs,
    details::{Details, Hop},
    event::{ErrorStage, Family},
    id::{ClientId, PartitionId},
};

/// Length of the windows that events are folded into, ms.
pub const MINUTE_MS: i64 = 60_000;

/// What a distribution is of. The number is the stored form and never changes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Measure {
    /// Name resolution, ms.
    Dns = 0,
    /// TCP connect, ms.
    Tcp = 1,
    /// TLS handshake, ms.
    Tls = 2,
    /// Request to first byte, ms.
    Ttfb = 3,
    /// Sum of the stages, ms.
    Total = 4,
    /// Goodput, kbit/s.
    Throughput = 5,
    /// Round trip of a packet train, ms.
    Rtt = 6,
    /// Jitter of a packet train, ms.
    Jitter = 7,
    /// Loss of a packet train, percent.
    Loss = 8,
    /// Responsiveness under load, round trips per minute.
    Rpm = 9,
    /// One-way delay from the probe to the target, ms; as good as their clocks agree.
    DelayOut = 10,
    /// One-way delay from the target to the probe, ms; as good as their clocks agree.
    DelayBack = 11,
    /// Loss on the way to the target, percent.
    LossOut = 12,
    /// Loss on the way back, percent.
    LossBack = 13,
    /// Goodput of an upload, kbit/s.
    Upload = 14,
    /// Round trip while the line is loaded, ms.
    Loaded = 15,
}

impl Measure {
    /// Every measure, in stored order.
    pub const ALL: [Self; 16] = [
        Self::Dns,
        Self::Tcp,
        Self::Tls,
        Self::Ttfb,
        Self::Total,
        Self::Throughput,
        Self::Rtt,
        Self::Jitter,
        Self::Loss,
        Self::Rpm,
        Self::DelayOut,
        Self::DelayBack,
        Self::LossOut,
        Self::LossBack,
        Self::Upload,
        Self::Loaded,
    ];

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ttfb => "ttfb",
            Self::Total => "total",
            Self::Throughput => "throughput",
            Self::Rtt => "rtt",
            Self::Jitter => "jitter",
            Self::Loss => "loss",
            Self::Rpm => "rpm",
            Self::DelayOut => "delay_out",
            Self::DelayBack => "delay_back",
            Self::LossOut => "loss_out",
            Self::LossBack => "loss_back",
            Self::Upload => "upload",
            Self::Loaded => "loaded",
        }
    }

    /// The unit of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Dns
            | Self::Tcp
            | Self::Tls
            | Self::Ttfb
            | Self::Total
            | Self::Rtt
            | Self::Jitter
            | Self::DelayOut
            | Self::DelayBack
            | Self::Loaded => "ms",
            Self::Throughput | Self::Upload => "kbit/s",
            Self::Loss | Self::LossOut | Self::LossBack => "%",
            Self::Rpm => "rpm",
        }
    }

    /// Reads the wire spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.as_str() == text)
    }

    /// The measure stored under a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Identity of a rollup row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RollupKey {
    /// Window length, ms.
    pub width_ms: i64,
    /// Start of the window, a multiple of its length.
    pub window_start_ms: UnixMs,
    /// The probe.
    pub client_id: ClientId,
    /// The target's URL.
    pub target: String,
    /// IP version.
    pub family: Family,
}

/// How final a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RollupState {
    /// The window is still filling.
    Provisional,
    /// The probe's watermark is past the window and its grace period.
    Settled,
    /// Settled, and no event of the probe up to here is missing.
    Complete,
}

impl RollupState {
    /// The stored spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisional => "provisional",
            Self::Settled => "settled",
            Self::Complete => "complete",
        }
    }

    /// Reads the stored spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Provisional, Self::Settled, Self::Complete].into_iter().find(|state| state.as_str() == text)
    }
}

/// What the newest event of a window said beside its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LastSeen {
    /// When that event was measured.
    pub ts_ms: UnixMs,
    /// The resolver asked.
    pub resolver: Option<String>,
    /// The address reached.
    pub remote_ip: Option<String>,
    /// Stage and detail of its failure, if it failed.
    pub error: Option<(ErrorStage, String)>,
    /// What else is known: certificate, condition of the probe's machine. Its path is empty.
    #[serde(default)]
    pub details: Option<Box<Details>>,
    /// The newest path that was traced in the window.
    #[serde(default)]
    pub path: Option<TracedPath>,
}

/// Hops towards a target at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TracedPath {
    /// When it was traced.
    pub ts_ms: UnixMs,
    /// Hops, by time to live.
    pub hops: Vec<Hop>,
}

/// Counters and distributions of one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollup {
    /// Identity.
    pub key: RollupKey,
    /// The partition that owns the row.
    pub partition: PartitionId,
    /// Distinct events.
    pub count_total: u64,
    /// Events without a failed stage.
    pub count_success: u64,
    /// Events with a failed stage.
    pub count_error: u64,
    /// Failures by stage.
    pub errors_by_stage: BTreeMap<ErrorStage, u64>,
    /// Failures by class, a short stable word such as `NXDOMAIN`; at most 16 classes and `other`.
    pub errors_by_class: BTreeMap<String, u64>,
    /// One encoded histogram a measure (`engine::sketch`), absent where nothing was measured.
    pub distributions: BTreeMap<Measure, Vec<u8>>,
    /// Events merged after the window had settled.
    pub late_merged: u64,
    /// What the newest event said.
    pub last: LastSeen,
    /// How final the row is.
    pub state: RollupState,
    /// Grows with each change after the row had settled.
    pub version: u32,
    /// When the row was last written, by the server's clock.
    pub updated_at_ms: UnixMs,
}

/// Events with sequence numbers that an aggregator has counted for one probe and epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRanges {
    /// The probe.
    pub client_id: ClientId,
    /// Spool generation.
    pub epoch: u64,
    /// Closed ranges, ascending, never touching.
    pub ranges: Vec<(u64, u64)>,
    /// Event times at the first and last number of each range, as far as known, so that a gap has a place in
    /// time; empty where an older version wrote the row.
    #[serde(default)]
    pub edges: Vec<(UnixMs, UnixMs)>,
    /// Newest event time of the probe in this epoch: its watermark.
    pub max_ts_ms: UnixMs,
    /// Events that were too old to be counted.
    pub too_late: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_keeps_its_number_and_its_name() {
        for measure in Measure::ALL {
            assert_eq!(Measure::from_number(measure as u8), Some(measure));
            assert_eq!(Measure::parse(measure.as_str()), Some(measure));
        }
        assert_eq!(Measure::from_number(16), None);
    }
}
