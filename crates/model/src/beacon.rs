//! Beacons as they travel: one JSON object a datagram, in two dialects.
//!
//! Field names are those of the programs that spoke them first. Unknown fields are ignored, missing ones of
//! ours have defaults, so that every side of every age understands the other. The engine reads and writes
//! them; this module only names the fields.

use serde::{Deserialize, Serialize};

use crate::cluster::Service;

/// UDP port of the first dialect, of membership, and of what we listen to.
pub const BEACON_PORT: u16 = 8181;
/// UDP ports of the second dialect, in the order in which they are tried.
pub const SECOND_DIALECT_PORTS: [u16; 4] = [8081, 8083, 8084, 8085];
/// IPv4 multicast group.
pub const MULTICAST_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(239, 255, 43, 21);
/// IPv6 multicast group, link-local scope.
pub const MULTICAST_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0xca, 0xe1, 0x21);
/// Largest datagram that is sent, bytes.
pub const DATAGRAM_SENT_MAX: usize = 1_400;
/// Largest datagram that is looked at, bytes.
pub const DATAGRAM_ACCEPTED_MAX: usize = 4_096;

/// Value of `message_type` in the first dialect.
pub const MESSAGE_TYPE: &str = "CAELUM_BEACON";

/// Why a beacon was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BeaconKind {
    /// I am here.
    #[default]
    Announce,
    /// I am here; who else is?
    Solicit,
    /// I am leaving.
    Goodbye,
}

/// The first dialect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beacon {
    /// Always [`MESSAGE_TYPE`].
    pub message_type: String,
    /// The sender's id.
    pub machine_id: String,
    /// The sender's host name.
    #[serde(default)]
    pub hostname: String,
    /// The address it says it has.
    #[serde(default)]
    pub primary_ip: String,
    /// Its cluster; may be empty.
    #[serde(default)]
    pub cluster_id: String,
    /// Name of its cluster; may be empty.
    #[serde(default)]
    pub cluster_name: String,
    /// TCP port of its links.
    #[serde(default)]
    pub websocket_port: u16,
    /// What it offers; empty with `service_count` where there are too many for a datagram.
    #[serde(default)]
    pub services: Vec<Service>,
    /// When it was sent, by the sender's clock, ISO 8601. Never compared.
    #[serde(default)]
    pub timestamp: String,
    // --- ours ---
    /// One run of the sender's program. A later run has a larger one (text order).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Grows by one with each datagram of an instance, membership included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seq: u64,
    /// Why it was sent.
    #[serde(default)]
    pub kind: BeaconKind,
    /// What the sender runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Version of the sender's program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// How many services there are, where `services` was left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub service_count: u64,
    /// A challenge: whoever knows the key answers with it in `echo`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nonce: String,
    /// The challenge that this answers: proof that the datagram is no recording.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub echo: String,
    /// Generation of the cluster's key behind `auth`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub key_generation: u64,
    /// HMAC-SHA-256 under the cluster's key over the canonical JSON without this member, lower-case hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auth: String,
}

/// The second dialect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBeacon {
    /// `beacon` or `discovery`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The sender.
    pub cluster_id: String,
    /// Its name.
    #[serde(default)]
    pub cluster_name: String,
    /// TCP port of its links.
    #[serde(default = "second_dialect_port")]
    pub ws_port: u16,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What it is.
    #[serde(default)]
    pub role: String,
}

fn second_dialect_port() -> u16 {
    8080
}

// serde hands over a reference.
fn is_zero(number: &u64) -> bool {
    *number == 0
}
