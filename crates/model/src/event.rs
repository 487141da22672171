//! A measurement as it is kept in the queue: checked, typed, ready to be folded into a window.
//!
//! [`Event`] is the meaning; its JSON form, lenient and full of options, is [`crate::wire::EventJson`].
//! `engine::intake` turns the one into the other.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{UnixMs, details::Details, id::ClientId};

/// The stage of a measurement that failed. Timings of the stages before it are kept.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
pub enum ErrorStage {
    /// The name could not be resolved.
    #[serde(rename = "DNS")]
    Dns,
    /// No connection was made.
    #[serde(rename = "TCP")]
    Tcp,
    /// The TLS handshake or the certificate check failed.
    #[serde(rename = "TLS")]
    Tls,
    /// No answer, or one that counts as a failure.
    #[serde(rename = "HTTP")]
    Http,
    /// The download of the throughput object failed.
    #[serde(rename = "throughput")]
    Throughput,
}

impl ErrorStage {
    /// All stages, in the order in which a measurement passes them.
    pub const ALL: [Self; 5] = [Self::Dns, Self::Tcp, Self::Tls, Self::Http, Self::Throughput];

    /// The spelling used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Http => "HTTP",
            Self::Throughput => "throughput",
        }
    }

    /// Reads the wire spelling; case does not matter, since the seeds disagree about it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str().eq_ignore_ascii_case(text))
    }
}

/// IP version of what was reached. Events of the seed do not say.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub enum Family {
    /// Not stated.
    #[default]
    #[serde(rename = "any")]
    Any,
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    /// The number under which the family is stored: 0, 4 or 6.
    pub fn number(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// The family stored under a number; anything unknown is [`Family::Any`].
    pub fn from_number(number: u8) -> Self {
        match number {
            4 => Self::V4,
            6 => Self::V6,
            _ => Self::Any,
        }
    }

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// How the probe was connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceType {
    /// Wireless LAN.
    Wifi,
    /// A cable.
    Ethernet,
    /// A mobile network.
    Cellular,
    /// Not known.
    #[default]
    Unknown,
}

/// Milliseconds each stage took by itself, never cumulative. An absent stage did not apply or was not
/// reached; absent is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Name resolution.
    pub dns_ms: Option<f64>,
    /// TCP connect: about one network round trip.
    pub tcp_ms: Option<f64>,
    /// TLS handshake, certificate check included.
    pub tls_ms: Option<f64>,
    /// Request sent to first byte of the answer.
    pub http_ttfb_ms: Option<f64>,
}

impl Timings {
    /// The sum of the stages that were measured, or none if no stage was.
    pub fn total_ms(&self) -> Option<f64> {
        let stages = [self.dns_ms, self.tcp_ms, self.tls_ms, self.http_ttfb_ms];
        stages.iter().any(Option::is_some).then(|| stages.iter().flatten().sum())
    }
}

/// A train of packets: round trips and losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rtt {
    /// Packets sent.
    pub sent: u32,
    /// Packets answered.
    pub received: u32,
    /// Fastest answer, ms.
    pub min_ms: f64,
    /// Mean, ms.
    pub avg_ms: f64,
    /// Slowest answer, ms.
    pub max_ms: f64,
    /// Interarrival jitter as in RFC 3550, ms.
    pub jitter_ms: f64,
    /// Share of packets without an answer, 0 to 100.
    pub loss_pct: f64,
}

/// Position in a probe's own sequence: the key of exact deduplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeqNo {
    /// Generation of the probe's spool; changes when the spool is lost.
    pub epoch: u64,
    /// Grows by one for each event, over restarts.
    pub seq: u64,
}

/// One measurement of one target by one probe. Its texts are shared: many events say the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Idempotency key of events without a sequence number.
    pub event_id: Uuid,
    /// When it was measured, by the probe's clock.
    pub ts_ms: UnixMs,
    /// Sequence position, if the probe numbers its events.
    pub seq: Option<SeqNo>,
    /// What was measured: a URL.
    pub target: Arc<str>,
    /// IP version reached.
    pub family: Family,
    /// How the probe was connected.
    pub interface_type: InterfaceType,
    /// Whether a VPN was up.
    pub vpn_enabled: bool,
    /// Time of each stage.
    pub timings: Timings,
    /// Goodput, kbit/s.
    pub throughput_kbps: Option<f64>,
    /// The first stage that failed; none means success.
    pub error_stage: Option<ErrorStage>,
    /// What went wrong, in a few words.
    pub error_detail: Option<Arc<str>>,
    /// The resolver asked.
    pub resolver: Option<Arc<str>>,
    /// The address reached.
    pub remote_ip: Option<Arc<str>>,
    /// Packet train, if one was sent.
    pub rtt: Option<Rtt>,
    /// Responsiveness under load, round trips per minute.
    pub rpm: Option<f64>,
    /// What else is known, where the probe is one of ours.
    #[serde(default)]
    pub details: Option<Box<Details>>,
}

/// Events of one probe inside a [`Batch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientEvents {
    /// The probe.
    pub client_id: ClientId,
    /// Accepted events, in the order received.
    pub events: Vec<Event>,
    /// Sequence positions whose events were refused: they count as seen, so that no gap stays behind them.
    pub refused: Vec<SeqNo>,
}

/// One record of the event stream: what one request brought for one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// When ingest received it, by the server's clock.
    pub recv_ts_ms: UnixMs,
    /// The probes in it.
    pub clients: Vec<ClientEvents>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_absent_only_when_every_stage_is() {
        assert_eq!(Timings::default().total_ms(), None);
        let some = Timings { tcp_ms: Some(0.0), ..Timings::default() };
        assert_eq!(some.total_ms(), Some(0.0));
    }

    #[test]
    fn each_stage_reads_its_own_spelling_in_any_case() {
        for stage in ErrorStage::ALL {
            assert_eq!(ErrorStage::parse(stage.as_str()), Some(stage));
            assert_eq!(ErrorStage::parse(&stage.as_str().to_lowercase()), Some(stage));
        }
        assert_eq!(ErrorStage::parse("parse"), None);
    }
}
