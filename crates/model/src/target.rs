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
    /// Another machine of the cluster, measured because the mesh is on. Never stored.
    Mesh,
}

/// Most tags of a target or probe.
pub const TAGS_MAX: usize = 32;
/// Most bytes of a tag or group.
pub const TAG_BYTES_MAX: usize = 64;

/// Which probes measure a target: words that are compared with a probe's name, tags and group.
///
/// `all` or nothing selects every probe; otherwise one of the words must match and none of those with `!`
/// before them may. `probe:NAME`, `tag:WORD` and `group:NAME` look in one place, a plain word in all three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Selector(pub Vec<String>);

/// What a target is held to, over a number of days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Objective {
    /// A measurement is good if it succeeds within this time in all, ms.
    pub within_ms: u32,
    /// Share of good measurements that is promised, in hundredths of a percent: 9990 is 99.9 %.
    pub promised_bp: u16,
    /// Days over which the promise and its error budget are counted.
    pub days: u16,
}

/// One target with the way it is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Target {
    /// Identity of the setting.
    pub target_id: TargetId,
    /// `https://host/path`, `http://…`, `tcp://host:port`, `dns://resolver/name`, `icmp://host` or
    /// `stamp://host:port`.
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
    /// Free words, to find and select by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Site, provider or service that it shares with others: a place that an incident can be blamed on.
    #[serde(default)]
    pub group: Option<String>,
    /// Which probes measure it.
    #[serde(default)]
    pub probes: Selector,
    /// What it is held to.
    #[serde(default)]
    pub objective: Option<Objective>,
    /// Packets of a train (icmp and stamp); none means the usual number.
    #[serde(default)]
    pub packets: Option<u16>,
    /// Time between traces of the path, s; none traces no path.
    #[serde(default)]
    pub trace_every_s: Option<u32>,
    /// Time between measurements under load (http and https with a throughput object), s; none loads nothing.
    #[serde(default)]
    pub load_every_s: Option<u32>,
}

impl Target {
    /// A target as it is when nothing but its URL is said: every 10 s, 5 s of patience, by every probe.
    pub fn usual(target_id: TargetId, url: String, created_at_ms: UnixMs) -> Self {
        Self {
            target_id,
            name: url.clone(),
            url,
            interval_s: 10,
            timeout_ms: 5_000,
            throughput_url: None,
            families: Families::Any,
            origin: TargetOrigin::Api,
            enabled: true,
            created_at_ms,
            tags: Vec::new(),
            group: None,
            probes: Selector::default(),
            objective: None,
            packets: None,
            trace_every_s: None,
            load_every_s: None,
        }
    }
}

/// A change of the way a target is measured: what is absent stays as it is, what is null is taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct TargetChange {
    /// Name people use; an empty one means the URL.
    pub name: Option<String>,
    /// Time between measurements, s.
    pub interval_s: Option<u32>,
    /// Time after which a measurement is given up, ms.
    pub timeout_ms: Option<u32>,
    /// Object whose download gives the throughput (http and https only).
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub throughput_url: Option<Option<String>>,
    /// IP versions.
    pub families: Option<Families>,
    /// Whether it is measured at all.
    pub enabled: Option<bool>,
    /// Free words, to find and select by; all of them at once.
    pub tags: Option<Vec<String>>,
    /// Site, provider or service that it shares with others.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub group: Option<Option<String>>,
    /// Which probes measure it.
    pub probes: Option<Selector>,
    /// What it is held to.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Objective>)]
    pub objective: Option<Option<Objective>>,
    /// Packets of a train (icmp and stamp).
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u16>)]
    pub packets: Option<Option<u16>>,
    /// Time between traces of the path, s.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    pub trace_every_s: Option<Option<u32>>,
    /// Time between measurements under load, s.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    pub load_every_s: Option<Option<u32>>,
}

/// Tells what is null from what is absent.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_stays_and_what_is_null_is_taken_away() {
        let change: TargetChange =
            serde_json::from_str(r#"{"group": null, "packets": 20, "tags": []}"#).expect("reads");
        assert_eq!(change.group, Some(None));
        assert_eq!(change.packets, Some(Some(20)));
        assert_eq!(change.tags, Some(Vec::new()));
        assert_eq!((change.objective, change.name), (None, None));
    }
}
