//! What a probe of ours knows beside its timings: the answer and its certificate, both ways of a packet
//! train, the hops between, and how the probe's own machine was.
//!
//! Everything is a whole number, so that two details can be compared and sorted: of two events at one moment
//! the window keeps the one that sorts last, whoever came first.

use serde::{Deserialize, Serialize};

use crate::{UnixMs, event::Family};

/// Most hops of a path that are kept.
pub const HOPS_MAX: usize = 64;

/// Beside the timings.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Details {
    /// The resolver answered from its cache, as far as can be told: a second question took much less time or
    /// the time to live had been running.
    pub dns_cached: Option<bool>,
    /// The answer of an HTTP server.
    pub web: Option<WebFacts>,
    /// Both directions of a STAMP train apart.
    pub one_way: Option<OneWay>,
    /// The line while it is loaded.
    pub loaded: Option<Loaded>,
    /// How the probe's machine was.
    pub condition: Option<Condition>,
    /// Hops towards the target, by time to live; empty where no path was traced.
    pub path: Vec<Hop>,
}

impl Details {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The answer of an HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct WebFacts {
    /// Status of the last answer.
    pub status: Option<u16>,
    /// `HTTP/1.1` and the like.
    pub http_version: Option<String>,
    /// Redirects followed or seen.
    pub redirects: u8,
    /// `1.2` or `1.3`; the handshakes take two round trips and one.
    pub tls_version: Option<String>,
    /// The certificate that the server showed.
    pub certificate: Option<CertificateFacts>,
    /// Outcome of connecting by both families at once (RFC 8305), where both were to be had.
    pub race: Option<Race>,
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct CertificateFacts {
    /// First moment of its validity.
    pub starts_at_ms: UnixMs,
    /// Last moment of its validity.
    pub expires_at_ms: UnixMs,
    /// Whom it was issued to.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
}

/// A race of both families to one name (RFC 8305).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Race {
    /// Connect time over IPv4, µs; none where it failed.
    pub ipv4_us: Option<u32>,
    /// Connect time over IPv6, µs; none where it failed.
    pub ipv6_us: Option<u32>,
    /// Who a browser would have used.
    pub winner: Family,
}

/// Both directions of a STAMP train (RFC 8762).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct OneWay {
    /// Packets sent.
    pub sent: u32,
    /// Packets that the reflector received.
    pub reached: u32,
    /// Packets that came back.
    pub returned: u32,
    /// Median delay to the reflector, µs, by both clocks: below zero where they disagree.
    pub out_us: i64,
    /// Median delay back, µs, by both clocks.
    pub back_us: i64,
    /// 95th percentile of delay variation on the way out (RFC 5481), µs: no clock need agree.
    pub out_variation_us: u32,
    /// 95th percentile of delay variation on the way back, µs.
    pub back_variation_us: u32,
    /// Whether both ends say that their clocks are synchronised.
    pub is_synchronised: bool,
}

/// The line under load.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Loaded {
    /// Median round trip before the load, µs.
    pub idle_us: u32,
    /// Median round trip while downloading, µs.
    pub down_us: Option<u32>,
    /// Median round trip while uploading, µs.
    pub up_us: Option<u32>,
    /// Goodput of the upload, kbit/s.
    pub upload_kbps: Option<u64>,
}

/// How the probe's machine was when it measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Condition {
    /// Busy share of all cores since the last look, percent.
    pub cpu_percent: Option<u8>,
    /// Round trip to the machine's own gateway, µs.
    pub gateway_us: Option<u32>,
    /// The gateway did not answer.
    pub is_gateway_lost: bool,
    /// The interface of the default route.
    pub interface: Option<String>,
    /// The interface has no carrier or is down.
    pub is_interface_down: bool,
}

/// One hop of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Hop {
    /// Time to live at which it answered.
    pub ttl: u8,
    /// Its address; none where it kept silent.
    pub ip: Option<String>,
    /// Round trip, µs.
    pub rtt_us: Option<u32>,
}
