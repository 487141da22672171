//! Words of discovery and of the cluster: what machines are heard, which nodes are linked, who may be one.
//!
//! What travels has modules of its own: [`crate::beacon`], [`crate::envelope`], [`crate::join`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{UnixMs, id::NodeId};

/// Something that a machine offers on a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Service {
    /// Name people use.
    pub name: String,
    /// What it speaks: `mcp`, `http`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// TCP port.
    pub port: u16,
    /// `running`, `starting`, `failed`.
    pub status: String,
}

/// What a node is to the cluster. Written into its certificate when it is admitted: nobody promotes itself.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Serves dashboard and API, admits nodes.
    Server,
    /// Beacon, metrics and, where allowed, work.
    Agent,
    /// Discovery and membership only.
    Beacon,
}

impl NodeRole {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Server, Self::Agent, Self::Beacon];

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Beacon => "beacon",
        }
    }

    /// The role of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// The most that a node lets anybody do to it. Set on the node itself when it is installed; no server can
/// raise it. The order is the order of trust.
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
#[serde(rename_all = "lowercase")]
pub enum Ceiling {
    /// It may be looked at.
    #[default]
    Observe,
    /// And run tasks.
    Tasks,
    /// And take commands.
    Shell,
}

impl Ceiling {
    /// Every ceiling.
    pub const ALL: [Self; 3] = [Self::Observe, Self::Tasks, Self::Shell];

    /// The wire spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Tasks => "tasks",
            Self::Shell => "shell",
        }
    }
}

/// What a node's certificate says: who it is and what it may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodePass {
    /// Its id.
    pub node_id: NodeId,
    /// Its role.
    pub role: NodeRole,
    /// When the certificate ends.
    pub expires_at_ms: UnixMs,
}

/// How a machine was found.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DiscoveryMethod {
    /// It was heard.
    UdpBeacon,
    /// An address was tried.
    NetworkScan,
    /// It was named in the settings.
    Static,
    /// It dialled us, or was asked for by address.
    Link,
}

/// Which program a machine runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MachineKind {
    /// A beacon of the first dialect without our additions.
    CaelumAnalytics,
    /// A beacon of the second dialect.
    CaelumCluster,
    /// This program.
    Caelum,
}

/// How far a machine has come.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// Heard, and no more.
    Discovered,
    /// Being dialled or admitted.
    Joining,
    /// A node of this cluster.
    Joined,
    /// It was dialled and one side refused.
    Rejected,
    /// Silent for longer than the time-out, or declared dead.
    Lost,
}

/// A machine as `GET /api/discovered-machines` answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Machine {
    /// The id it gives itself; of the second dialect the cluster's id.
    pub machine_id: String,
    /// The name it gives itself; of the second dialect the cluster's name.
    pub hostname: String,
    /// The address it says it has. Shown, never dialled.
    pub primary_ip: String,
    /// The address its datagram or link came from.
    pub sender_ip: String,
    /// Its cluster.
    pub cluster_id: String,
    /// Name of its cluster.
    pub cluster_name: String,
    /// TCP port of its links.
    pub websocket_port: u16,
    /// What it offers.
    pub services: Vec<Service>,
    /// When it was heard last, seconds since 1970 by the server's clock.
    pub last_seen: f64,
    /// How it was found.
    pub discovery_method: DiscoveryMethod,
    /// Which program it runs.
    #[serde(rename = "type")]
    pub kind: MachineKind,
    /// How far it has come.
    pub state: MachineState,
    /// Whether it proved to know the cluster's key, or holds a link with a certificate of the cluster.
    pub authenticated: bool,
    /// What it can do; second dialect only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// What it is; second dialect only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Why it was rejected, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a node believes about whether another runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// It runs.
    Alive,
    /// Something speaks against it; being looked into.
    Suspect,
    /// It is gone without having said so.
    Dead,
    /// It said goodbye.
    Left,
}

impl Liveness {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

/// Our link to a node, as measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LinkView {
    /// The other end.
    #[schema(value_type = String)]
    pub remote: SocketAddr,
    /// Whether we dialled it.
    pub is_dialled: bool,
    /// How long it has been up, ms.
    pub age_ms: i64,
    /// Round trip of the last answered ping, ms.
    pub rtt_ms: Option<f64>,
    /// Median deviation between consecutive round trips, ms.
    pub jitter_ms: Option<f64>,
    /// Share of the last pings that were not answered in time, percent.
    pub loss_pct: Option<f64>,
}

/// One node in the roster of an observer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Member {
    /// Who.
    pub node_id: NodeId,
    /// Name people use.
    pub name: String,
    /// What its certificate says it is; unknown until it was linked to.
    pub role: Option<NodeRole>,
    /// Where its beacons and membership datagrams come from, if they do.
    #[schema(value_type = Option<String>)]
    pub udp_addr: Option<SocketAddr>,
    /// Whether it runs.
    pub liveness: Liveness,
    /// Why we believe so, for people: `link closed`, `no answer to probes`, `goodbye` …
    pub because: String,
    /// Since when we believe so, ms ago by our own clock.
    pub since_ms: i64,
    /// Our link to it.
    pub link: Option<LinkView>,
    /// What it offers.
    pub services: Vec<Service>,
    /// Version of Caelum it runs.
    pub version: String,
    /// Its links as it reported them: to whom, and how good.
    pub peers: Vec<PeerView>,
}

/// A link between two other nodes, as one of them reported it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerView {
    /// To whom.
    pub node_id: NodeId,
    /// Round trip, ms.
    pub rtt_ms: Option<f64>,
    /// Loss, percent.
    pub loss_pct: Option<f64>,
}

/// What a node believes about all nodes and about every machine heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Roster {
    /// All nodes but this one, by name.
    pub members: Vec<Member>,
    /// Every machine heard, nodes included.
    pub machines: Vec<Machine>,
}

/// A generation of the key by which beacons and membership datagrams prove that they are of this cluster.
/// A revocation makes the next one.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClusterKey {
    /// Grows by one with each change.
    pub generation: u32,
    /// 32 bytes as lower-case hex: a secret.
    pub secret: String,
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterKey {{ generation: {}, secret: (hidden) }}", self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_key_is_not_shown_by_debug() {
        let key = ClusterKey { generation: 3, secret: "swordfish".to_owned() };
        assert!(!format!("{key:?}").contains("swordfish"));
    }

    #[test]
    fn spellings_are_those_of_the_wire() {
        let json = |value: &dyn erased::Json| value.json();
        assert_eq!(json(&DiscoveryMethod::UdpBeacon), "\"UDP_BEACON\"");
        assert_eq!(json(&MachineKind::CaelumAnalytics), "\"caelum-analytics\"");
        assert_eq!(json(&MachineState::Discovered), "\"discovered\"");
        assert!(Ceiling::Observe < Ceiling::Tasks && Ceiling::Tasks < Ceiling::Shell);
        assert!(NodeRole::ALL.iter().all(|role| NodeRole::parse(role.as_str()) == Some(*role)));
    }

    mod erased {
        pub(super) trait Json {
            fn json(&self) -> String;
        }
        impl<T: serde::Serialize> Json for T {
            fn json(&self) -> String {
                serde_json::to_string(self).expect("plain values")
            }
        }
    }
}
