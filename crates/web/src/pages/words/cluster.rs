//! Sentences about the cluster: who is there, who is gone, which links are bad, and what is said of machines
//! that have not joined.

use caelum_model::{
    cluster::{Ceiling, Liveness, Machine, MachineState, Member, NodeRole},
    node::LinkFacts,
};

use super::{Verdict, capital};
use crate::{
    pages::{
        format::{self, counted},
        mark::Status,
        picture::Picture,
    },
    topology::{EdgeJson, TopologyJson},
};

/// What a node is and lets others do, where that is not the usual: an agent that is looked at.
pub fn trust(links: &LinkFacts) -> String {
    let role = links.role.filter(|role| *role != NodeRole::Agent).map(NodeRole::as_str);
    let ceiling = (links.ceiling > Ceiling::Observe).then(|| links.ceiling.as_str());
    match (role, ceiling) {
        (Some(role), Some(ceiling)) => format!("{role}, lets servers go as far as {ceiling}"),
        (Some(role), None) => role.to_owned(),
        (None, Some(ceiling)) => format!("lets servers go as far as {ceiling}"),
        (None, None) => String::new(),
    }
}

/// What a node kept while nobody took it, and what did not fit.
pub fn buffered(links: &LinkFacts) -> String {
    let kept = counted(links.buffered_points as usize, "sample was", "samples were");
    let lost = counted(links.dropped_points as usize, "more did", "more did");
    match (links.buffered_points, links.dropped_points) {
        (0, 0) => String::new(),
        (_, 0) => format!("{kept} buffered while no server was reachable."),
        (_, _) => format!("{kept} buffered while no server was reachable; {lost} not fit and are missing."),
    }
}

/// How far a machine that has not joined has come, with the word for it.
pub fn found(machine: &Machine) -> (Status, &'static str) {
    match machine.state {
        MachineState::Discovered => (Status::Info, "Discovered"),
        MachineState::Joining => (Status::Queue, "Joining"),
        MachineState::Joined => (Status::Ok, "Joined"),
        MachineState::Rejected => (Status::Warn, "Rejected"),
        MachineState::Lost => (Status::Off, "Lost"),
    }
}

/// Heads the topology: whoever is gone, then whoever is doubted, then links that lose, else how far apart
/// everything is.
pub fn topology(picture: &Picture, known: &TopologyJson) -> Verdict {
    let members = &picture.scene.roster.members;
    let all = known.nodes.len();
    let of = |liveness| members.iter().filter(move |member| member.liveness == liveness);
    let linked = format!(
        "{} and {}. Distance from the centre is round-trip time.",
        counted(all, "node", "nodes"),
        counted(known.edges.len(), "link", "links")
    );
    let verdict =
        |status, sentence: String| Verdict { status, sentence: format!("{sentence}."), lede: linked.clone() };
    let mut dead: Vec<&Member> = of(Liveness::Dead).collect();
    // The newest is what somebody came for.
    dead.sort_by_key(|member| member.since_ms);
    if let [first, rest @ ..] = dead.as_slice() {
        return verdict(
            Status::Crit,
            format!("{} is gone: {}{}", first.name, why(first), others(rest.len())),
        );
    }
    let doubted: Vec<&Member> = of(Liveness::Suspect).collect();
    if let [first, rest @ ..] = doubted.as_slice() {
        let sentence = format!("{} may be gone: {}{}", first.name, why(first), others(rest.len()));
        return verdict(Status::Warn, sentence);
    }
    // Known from what they reported once, and neither linked nor heard by now.
    let is_member = |id: &str| members.iter().any(|member| member.node_id.as_str() == id);
    let mut unseen =
        known.nodes.iter().filter(|node| node.status == Liveness::Dead.as_str() && !is_member(&node.id));
    if let Some(first) = unseen.next() {
        let sentence = format!("{} is not seen by this node{}", first.label, others(unseen.count()));
        return verdict(Status::Off, sentence);
    }
    let lossy = known.edges.iter().filter(|edge| edge.status == "lossy");
    let worst = lossy.max_by(|a, b| a.loss_pct.unwrap_or(0.0).total_cmp(&b.loss_pct.unwrap_or(0.0)));
    if let Some(edge) = worst {
        let loss = format::percent(edge.loss_pct.unwrap_or(0.0));
        return verdict(Status::Warn, format!("The link {} loses {loss} of its packets", ends(known, edge)));
    }
    if all <= 1 {
        let sentence = "This is the only node so far.".to_owned();
        let lede = "Machines that are heard on the network stand on the page Machines.".to_owned();
        return Verdict { status: Status::Ok, sentence, lede };
    }
    let slowest =
        known.edges.iter().filter_map(|edge| Some((edge, edge.rtt_ms?))).max_by(|a, b| a.1.total_cmp(&b.1));
    let seen = match of(Liveness::Left).next() {
        None => format!("all {} see each other", counted(all, "node", "nodes")),
        Some(left) => format!("{} has left, and the others see each other", left.name),
    };
    let sentence = match slowest {
        Some((edge, rtt)) => format!(
            "{}; the slowest link is {} at {}",
            if seen.starts_with("all") { capital(&seen) } else { seen },
            ends(known, edge),
            format::milliseconds(rtt)
        ),
        None => format!("{} are known, and no link has been measured yet", counted(all, "node", "nodes")),
    };
    verdict(Status::Ok, sentence)
}

/// `link closed, 3 min ago`.
fn why(member: &Member) -> String {
    let since = format::duration(member.since_ms);
    if member.because.is_empty() {
        format!("{since} ago")
    } else {
        format!("{}, {since} ago", member.because)
    }
}

fn others(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!("; {} too", counted(count, "other", "others")),
    }
}

fn ends(known: &TopologyJson, edge: &EdgeJson) -> String {
    format!("{} – {}", known.name(&edge.from), known.name(&edge.to))
}
