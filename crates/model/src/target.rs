//! What a probe measures.

use serde::{Deserialize, Serialize};

use crate::{UnixMs, id::TargetId};

/// Which IP versions of a target are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// The first address that the resolver gives.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Each by itself, one event each.
    Both,
}

/// Who asked for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetOrigin {
    /// Caelum itself, from what it found on this machine.
    Default,
    /// The configuration file, environment or a flag.
    Config,
    /// A person or program, over the API or the page.
    Api,
}

/// One target with the way it is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Target {
    /// Identity of the setting.
    pub target_id: TargetId,
    /// `https://host/path`, `http://…`, `tcp://host:port`, `dns://resolver/name` or `icmp://host`.
    pub url: String,
    /// Name people use.
    pub name: String,
    /// Time between measurements, s.
    pub interval_s: u32,
    /// Time after which a measurement is given up, ms.
    pub timeout_ms: u32,
    /// Object whose download gives the throughput (http and https only); none measures no throughput.
    pub throughput_url: Option<String>,
    /// IP versions.
    pub families: Families,
    /// Who asked for it.
    pub origin: TargetOrigin,
    /// Whether it is measured at all.
    pub enabled: bool,
    /// When it was added.
    pub created_at_ms: UnixMs,
}
