//! JSON as it travels to and from `/events`, lenient where the seeds are, before it has been checked.
//!
//! Unknown members are ignored. Each member is optional here, so that a missing one can be answered with
//! its own error code by `engine::intake` instead of a parser's message.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::event::{Rtt, Timings};

/// The schema of the original probes.
pub const SCHEMA_1_0: &str = "1.0";
/// Ours: with `epoch`, `seq` and what follows in `wire.md`.
pub const SCHEMA_1_1: &str = "1.1";

/// `network_context` of an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NetworkContextJson<'a> {
    /// `wifi`, `ethernet`, `cellular` or `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub interface_type: Option<Cow<'a, str>>,
    /// Whether a VPN was up.
    #[serde(default)]
    pub vpn_enabled: bool,
    /// Free text of the probe's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub user_label: Option<Cow<'a, str>>,
}

/// `timings` of an event; absent is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TimingsJson {
    /// Name resolution, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_ms: Option<f64>,
    /// TCP connect, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_ms: Option<f64>,
    /// TLS handshake, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ms: Option<f64>,
    /// Request to first byte, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_ttfb_ms: Option<f64>,
}

impl From<Timings> for TimingsJson {
    fn from(t: Timings) -> Self {
        Self { dns_ms: t.dns_ms, tcp_ms: t.tcp_ms, tls_ms: t.tls_ms, http_ttfb_ms: t.http_ttfb_ms }
    }
}

/// One hop of a traced path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HopJson {
    /// Time to live at which it answered.
    pub ttl: u8,
    /// Its address; absent where it kept silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Round trip, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
}

/// An event as posted to `/events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventJson<'a> {
    /// UUID, the idempotency key.
    #[serde(default, borrow)]
    #[schema(value_type = String)]
    pub event_id: Cow<'a, str>,
    /// The probe.
    #[serde(default, borrow)]
    #[schema(value_type = String)]
    pub client_id: Cow<'a, str>,
    /// When it was measured, ms since 1970 UTC.
    #[serde(default)]
    pub ts_ms: i64,
    /// `1.0` or `1.1`.
    #[serde(default, borrow)]
    #[schema(value_type = String)]
    pub schema_version: Cow<'a, str>,
    /// What was measured: a URL.
    #[serde(default, borrow)]
    #[schema(value_type = String)]
    pub target: Cow<'a, str>,
    /// How the probe was connected.
    #[serde(default)]
    pub network_context: NetworkContextJson<'a>,
    /// Time of each stage.
    #[serde(default)]
    pub timings: TimingsJson,
    /// Goodput, kbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_kbps: Option<f64>,
    /// `DNS`, `TCP`, `TLS`, `HTTP` or `throughput`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub error_stage: Option<Cow<'a, str>>,
    /// 1.1: short text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub error_detail: Option<Cow<'a, str>>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub traceparent: Option<Cow<'a, str>>,
    /// W3C trace state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tracestate: Option<Cow<'a, str>>,
    /// 1.1: spool generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// 1.1: position in the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// 1.1: the resolver asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub resolver: Option<Cow<'a, str>>,
    /// 1.1: the address reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub remote_ip: Option<Cow<'a, str>>,
    /// 1.1: `ipv4` or `ipv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address_family: Option<Cow<'a, str>>,
    /// 1.1: packet train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<Rtt>,
    /// 1.1: responsiveness under load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpm: Option<f64>,
    /// 1.1: traced path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<HopJson>>,
    /// 1.1, ours: what else is known. Its own `path` stays empty: that travels in `path`.
    #[serde(default, rename = "caelum", skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<crate::details::Details>>,
}

/// One event of a request that was refused while others were taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RejectedJson {
    /// Position in the request, from 0.
    pub index: usize,
    /// Its id as sent, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Stable error code.
    pub code: String,
    /// What is wrong with it.
    pub message: String,
}

/// Answer to an accepted request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AcceptedJson {
    /// Always `accepted`.
    pub status: String,
    /// Events that are durable now.
    pub accepted: usize,
    /// Of those, events known to have been accepted before; they count once.
    pub duplicate: usize,
    /// Highest sequence number up to which everything of the probe's epoch is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_through: Option<u64>,
    /// Id of the event, when one object was posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Events that were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<RejectedJson>,
}

/// Every error of the HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorJson {
    /// The error.
    pub error: ErrorBodyJson,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBodyJson {
    /// Stable code, for programs.
    pub code: String,
    /// One sentence, for people.
    pub message: String,
    /// More, where there is more.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
    /// Names the request in the server's log.
    pub request_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_event_parses_and_unknown_members_are_ignored() {
        let text = r#"{"event_id":"0190b7a4-7a5c-7000-8000-000000000001","client_id":"probe-1","ts_ms":1,
            "schema_version":"1.0","target":"https://example.net/","network_context":{"interface_type":"wifi",
            "vpn_enabled":true,"ssid":"x"},"timings":{"dns_ms":1.5},"throughput_kbps":9,"extra":[1,{"a":2}]}"#;
        let event: EventJson<'_> = serde_json::from_str(text).expect("parses");
        assert_eq!(event.client_id, "probe-1");
        assert_eq!(event.timings.dns_ms, Some(1.5));
        assert_eq!(event.timings.tcp_ms, None);
        assert!(matches!(event.client_id, Cow::Borrowed(_)));
    }
}
