//! Nodes with their places and links with their quality: what the topology page and the API both draw.
//!
//! Pure: records and the roster in, nodes and edges out. A link that both ends report is one edge; what this
//! server measured itself goes before what others say.

use std::collections::BTreeMap;

use caelum_model::{
    UnixMs,
    cluster::{Liveness, NodeRole, Roster},
    id::NodeId,
    node::{Level, Node, Thresholds},
};
use serde::Serialize;

use crate::api::nodes;

/// Nodes, links and clusters.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TopologyJson {
    /// Nodes, servers first, then by name.
    pub nodes: Vec<PlaceJson>,
    /// Links.
    pub edges: Vec<EdgeJson>,
    /// Clusters that were heard, this one included.
    pub clusters: Vec<HeardClusterJson>,
}

/// A node and where it is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PlaceJson {
    /// Its id.
    pub id: String,
    /// Its name.
    pub label: String,
    /// `server`, `agent` or `beacon`; `machine` for one that has not joined.
    #[serde(rename = "type")]
    pub kind: String,
    /// `alive`, `suspect`, `dead`, `left`; `discovered` for one that has not joined.
    pub status: String,
    /// How it fares.
    pub health: Option<Level>,
    /// Its metrics.
    pub metrics: PlaceMetricsJson,
    /// Where to draw it: both from 0 to 1.
    pub position: PositionJson,
    /// Its address.
    pub address: String,
}

/// A node's metrics, percent; null where not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PlaceMetricsJson {
    /// Processor use.
    pub cpu: Option<f64>,
    /// Memory use.
    pub memory: Option<f64>,
    /// Use of the fullest file system.
    pub disk: Option<f64>,
}

/// A place in a square of side 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PositionJson {
    /// From the left.
    pub x: f64,
    /// From the top.
    pub y: f64,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct EdgeJson {
    /// One end.
    pub from: String,
    /// The other.
    pub to: String,
    /// Always `link`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `up`, or `lossy` from one percent of lost pings on.
    pub status: &'static str,
    /// Round trip, ms.
    pub rtt_ms: Option<f64>,
    /// Lost pings, percent.
    pub loss_pct: Option<f64>,
}

/// A cluster that was heard.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct HeardClusterJson {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Machines of it that were heard.
    pub machines: usize,
}

impl TopologyJson {
    /// The name of a node, else its id.
    pub fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.nodes.iter().find(|place| place.id == id).map_or(id, |place| &place.label)
    }
}

/// Loss from which on a link is called lossy, percent.
const LOSSY_PCT: f64 = 1.0;

/// The topology as of now.
pub fn of<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    roster: &Roster,
    own: &NodeId,
    now_ms: UnixMs,
    thresholds: &Thresholds,
) -> TopologyJson {
    let mut places: Vec<PlaceJson> =
        nodes.into_iter().map(|node| place(node, roster, own, now_ms, thresholds)).collect();
    // Members that never reported have no record yet; machines that have not joined are shown apart.
    for member in &roster.members {
        if !places.iter().any(|place| place.id == member.node_id.as_str()) {
            places.push(PlaceJson {
                id: member.node_id.to_string(),
                label: member.name.clone(),
                kind: member.role.map_or("agent", NodeRole::as_str).to_owned(),
                status: member.liveness.as_str().to_owned(),
                health: None,
                metrics: PlaceMetricsJson::default(),
                position: PositionJson { x: 0.5, y: 0.5 },
                address: member.udp_addr.map(|addr| addr.ip().to_string()).unwrap_or_default(),
            });
        }
    }
    places.sort_by(|a, b| (a.kind != "server", &a.label, &a.id).cmp(&(b.kind != "server", &b.label, &b.id)));
    arrange(&mut places);
    let mut clusters: BTreeMap<&str, HeardClusterJson> = BTreeMap::new();
    for machine in roster.machines.iter().filter(|machine| !machine.cluster_id.is_empty()) {
        clusters
            .entry(&machine.cluster_id)
            .or_insert_with(|| HeardClusterJson {
                id: machine.cluster_id.clone(),
                name: machine.cluster_name.clone(),
                machines: 0,
            })
            .machines += 1;
    }
    TopologyJson { nodes: places, edges: edges(roster, own), clusters: clusters.into_values().collect() }
}

fn place(node: &Node, roster: &Roster, own: &NodeId, now_ms: UnixMs, thresholds: &Thresholds) -> PlaceJson {
    let member = roster.members.iter().find(|member| member.node_id == node.node_id);
    let is_own = node.node_id == *own;
    let role = if is_own { Some(NodeRole::Server) } else { member.and_then(|m| m.role).or(node.links.role) };
    let liveness = match (is_own, member) {
        (true, _) => Liveness::Alive,
        (false, Some(member)) => member.liveness,
        (false, None) => Liveness::Dead,
    };
    let sample = node.sample.as_ref();
    let address = if node.links.address.is_empty() {
        node.identity.addresses.first().cloned().unwrap_or_default()
    } else {
        node.links.address.clone()
    };
    PlaceJson {
        id: node.node_id.to_string(),
        label: node.name.clone(),
        kind: role.map_or("agent", NodeRole::as_str).to_owned(),
        status: liveness.as_str().to_owned(),
        health: Some(nodes::judge_as(node, None, roster, now_ms, thresholds).level),
        metrics: PlaceMetricsJson {
            cpu: sample.map(|sample| sample.cpu_percent),
            memory: sample.and_then(|sample| sample.memory.percent()),
            disk: sample.and_then(|sample| sample.disk_percent()),
        },
        position: PositionJson { x: 0.5, y: 0.5 },
        address,
    }
}

/// Servers in the middle, the others around them on as many rings as they need, so that a cluster looks the
/// same every time.
fn arrange(places: &mut [PlaceJson]) {
    let servers = places.iter().filter(|place| place.kind == "server").count();
    let (inner, outer) = places.split_at_mut(servers);
    let inner_radius = if inner.len() > 1 { 0.1 } else { 0.0 };
    put_on_ring(inner, inner_radius);
    let rings = outer.len().div_ceil(RING_MAX).max(1);
    let total = outer.len();
    for (ring, places) in outer.chunks_mut(total.div_ceil(rings).max(1)).enumerate() {
        let share = if rings == 1 { 1.0 } else { ring as f64 / (rings - 1) as f64 };
        put_on_ring(places, if rings == 1 { 0.36 } else { 0.24 + 0.2 * share });
    }
}

/// Most nodes on a ring.
const RING_MAX: usize = 24;

fn put_on_ring(places: &mut [PlaceJson], radius: f64) {
    let count = places.len().max(1) as f64;
    for (index, place) in places.iter_mut().enumerate() {
        let angle = std::f64::consts::TAU * index as f64 / count - std::f64::consts::FRAC_PI_2;
        place.position = PositionJson {
            x: (0.5 + radius * angle.cos()).clamp(0.0, 1.0),
            y: (0.5 + radius * angle.sin()).clamp(0.0, 1.0),
        };
    }
}

fn edges(roster: &Roster, own: &NodeId) -> Vec<EdgeJson> {
    let mut edges: BTreeMap<(String, String), EdgeJson> = BTreeMap::new();
    let mut add = |a: &NodeId, b: &NodeId, rtt_ms: Option<f64>, loss_pct: Option<f64>| {
        let (from, to) = if a <= b { (a, b) } else { (b, a) };
        let status = if loss_pct.is_some_and(|loss| loss >= LOSSY_PCT) { "lossy" } else { "up" };
        edges.entry((from.to_string(), to.to_string())).or_insert_with(|| EdgeJson {
            from: from.to_string(),
            to: to.to_string(),
            kind: "link",
            status,
            rtt_ms,
            loss_pct,
        });
    };
    for member in &roster.members {
        if let Some(link) = &member.link {
            add(own, &member.node_id, link.rtt_ms, link.loss_pct);
        }
    }
    // What a node says of its links holds while it runs.
    for member in roster.members.iter().filter(|member| member.liveness == Liveness::Alive) {
        for peer in member.peers.iter().filter(|peer| peer.node_id != *own) {
            add(&member.node_id, &peer.node_id, peer.rtt_ms, peer.loss_pct);
        }
    }
    edges.into_values().collect()
}

#[cfg(test)]
mod tests {
    use caelum_model::{
        cluster::{LinkView, Member, PeerView},
        host::HostIdentity,
        node::LinkFacts,
    };

    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).expect("valid")
    }

    fn node(text: &str) -> Node {
        Node {
            node_id: id(text),
            name: text.to_owned(),
            identity: HostIdentity::default(),
            roles: Vec::new(),
            version: String::new(),
            joined_at_ms: 0,
            seen_at_ms: 0,
            sample: None,
            links: LinkFacts::default(),
        }
    }

    fn member(text: &str, is_linked: bool, peers: &[&str]) -> Member {
        Member {
            node_id: id(text),
            name: text.to_owned(),
            role: Some(NodeRole::Agent),
            udp_addr: None,
            liveness: Liveness::Alive,
            because: String::new(),
            since_ms: 0,
            link: is_linked.then(|| LinkView {
                remote: ([10, 0, 0, 1], 1).into(),
                is_dialled: true,
                age_ms: 1,
                rtt_ms: Some(1.5),
                jitter_ms: None,
                loss_pct: Some(0.0),
            }),
            services: Vec::new(),
            version: String::new(),
            peers: peers
                .iter()
                .map(|peer| PeerView { node_id: id(peer), rtt_ms: Some(9.0), loss_pct: Some(5.0) })
                .collect(),
        }
    }

    #[test]
    fn a_link_that_both_ends_report_is_one_edge_and_our_own_measure_counts() {
        let roster = Roster {
            members: vec![member("a", true, &["me", "b"]), member("b", false, &["a"])],
            machines: Vec::new(),
        };
        let nodes = [node("me"), node("a")];
        let topology = of(&nodes, &roster, &id("me"), 0, &Thresholds::default());
        let edges: Vec<_> =
            topology.edges.iter().map(|e| (e.from.as_str(), e.to.as_str(), e.status, e.rtt_ms)).collect();
        assert_eq!(edges, [("a", "b", "lossy", Some(9.0)), ("a", "me", "up", Some(1.5))]);
        let names: Vec<_> = topology.nodes.iter().map(|n| (n.label.as_str(), n.kind.as_str())).collect();
        assert_eq!(names, [("me", "server"), ("a", "agent"), ("b", "agent")]);
    }

    #[test]
    fn a_thousand_nodes_have_a_place_of_their_own_in_the_square() {
        let members: Vec<Member> = (0..1_000).map(|n| member(&format!("n{n:04}"), false, &[])).collect();
        let roster = Roster { members, machines: Vec::new() };
        let topology = of(&[node("me")], &roster, &id("me"), 0, &Thresholds::default());
        let mut seen = std::collections::BTreeSet::new();
        for place in &topology.nodes {
            let PositionJson { x, y } = place.position;
            assert!((0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y));
            seen.insert(((x * 1e6) as i64, (y * 1e6) as i64));
        }
        assert_eq!(seen.len(), 1_001);
    }
}
