//! Every node as a place for work, as it stands now.
//!
//! It reads and joins; who is chosen is `engine::placement`'s word. Tasks are not counted here: whoever has
//! them fills them in.

use std::collections::HashMap;

use caelum_engine::{health, placement::Candidate, task::order::SSH_POOL};
use caelum_model::{
    UnixMs,
    cluster::{NodeRole, Roster},
    id::NodeId,
    node::{Level, Node, NodeSetting, Thresholds},
};
use caelum_store::{Store, StoreError};

/// Every node that was ever heard, with no tasks and no bound to them.
pub async fn candidates(
    store: &Store,
    roster: &Roster,
    thresholds: &Thresholds,
    now_ms: UnixMs,
) -> Result<Vec<Candidate>, StoreError> {
    let mut settings: HashMap<NodeId, NodeSetting> =
        store.node_settings().await?.into_iter().map(|setting| (setting.node_id.clone(), setting)).collect();
    let nodes = store.nodes().await?;
    let judged = nodes.iter().map(|node| {
        let setting =
            settings.remove(&node.node_id).unwrap_or_else(|| NodeSetting::usual(node.node_id.clone()));
        candidate(node, &setting, roster, thresholds, now_ms)
    });
    Ok(judged.collect())
}

/// One node as a place for work.
pub fn candidate(
    node: &Node,
    setting: &NodeSetting,
    roster: &Roster,
    thresholds: &Thresholds,
    now_ms: UnixMs,
) -> Candidate {
    let own = setting.thresholds.as_ref().unwrap_or(thresholds);
    let level = health::of_node(node, roster, now_ms, own).level;
    let sample = node.sample.as_ref();
    Candidate {
        node_id: node.node_id.clone(),
        cpu_percent: sample.map(|sample| sample.cpu_percent),
        memory_percent: sample.and_then(|sample| sample.memory.percent()),
        // Nothing is known for or against one that has linked and not reported yet.
        level: Some(level).filter(|level| sample.is_some() || *level != Level::Healthy),
        tasks: 0,
        room: None,
        words: words(node, setting),
        ceiling: node.links.ceiling,
        is_draining: setting.draining,
    }
}

/// Words that a node can be chosen by: its capabilities, what people tagged it with, its group, name and system.
fn words(node: &Node, setting: &NodeSetting) -> Vec<String> {
    let own = [&node.name, &node.identity.hostname, &node.identity.os, &node.identity.arch];
    let mut words: Vec<String> = node.links.capabilities.clone();
    // Commands for other machines go to servers: nobody else can take them by calling itself one.
    words.retain(|word| word != SSH_POOL || node.links.role == Some(NodeRole::Server));
    words.extend(setting.tags.iter().filter(|tag| *tag != SSH_POOL).cloned());
    words.extend(setting.group.iter().cloned());
    words.extend(own.into_iter().filter(|word| !word.is_empty()).cloned());
    words.sort_unstable();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use caelum_model::{host::HostIdentity, node::LinkFacts};

    use super::*;

    fn node() -> Node {
        Node {
            node_id: NodeId::parse("n-1").unwrap(),
            name: "box".into(),
            identity: HostIdentity { hostname: "box".into(), ..HostIdentity::default() },
            roles: Vec::new(),
            version: "1".into(),
            joined_at_ms: 0,
            seen_at_ms: 0,
            sample: None,
            links: LinkFacts { capabilities: vec!["gpu".into()], ..LinkFacts::default() },
        }
    }

    #[test]
    fn a_node_is_chosen_by_what_it_says_and_by_what_people_say_of_it() {
        let node = node();
        let setting = NodeSetting {
            tags: vec!["site=berlin".into()],
            group: Some("lab".into()),
            draining: true,
            ..NodeSetting::usual(node.node_id.clone())
        };
        let found = candidate(&node, &setting, &Roster::default(), &Thresholds::default(), 1_000);
        assert_eq!(found.words, ["box", "gpu", "lab", "site=berlin"]);
        assert!(found.is_draining);
        assert_eq!(found.level, None, "it has not reported yet");
    }

    #[test]
    fn thresholds_of_its_own_come_before_those_of_the_cluster() {
        let node = node();
        let own = Thresholds { heartbeat_timeout_s: 10, ..Thresholds::default() };
        let setting = NodeSetting { thresholds: Some(own), ..NodeSetting::usual(node.node_id.clone()) };
        let level = |setting: &NodeSetting| {
            candidate(&node, setting, &Roster::default(), &Thresholds::default(), 11_000).level
        };
        assert_eq!(level(&setting), Some(Level::Offline));
        assert_eq!(level(&NodeSetting::usual(node.node_id.clone())), None);
    }
}
