//! Where commands can be run: nodes of the cluster and hosts without an agent, with what is known of each.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, RwLock},
};

use caelum_drivers::ssh::{Dial, HostKey, KnownHostsFile};
use caelum_engine::{
    health,
    ssh::choice::{self, Candidate, ChoiceError},
};
use caelum_model::{
    UnixMs,
    cluster::{Ceiling, Roster},
    id::NodeId,
    node::{Node, NodeSetting, Thresholds},
    ssh::{KnownHost, SshHost},
};
use caelum_store::{Store, StoreError};
use tokio::sync::watch;

/// One place.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The node or host.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Name that its machine gives itself.
    pub hostname: String,
    /// Where it is dialled; none where no address of it is known.
    pub host: Option<String>,
    /// Port of its SSH server.
    pub port: u16,
    /// User to sign in as.
    pub user: String,
    /// The most it lets anybody do; none where it has no agent to say so.
    pub ceiling: Option<Ceiling>,
    /// How it fares, in a word; `ssh` for one without an agent.
    pub level: &'static str,
    /// Words it is tagged with.
    pub tags: Vec<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// What it runs.
    pub roles: Vec<String>,
    /// What it is listed under.
    pub group: Option<String>,
    /// Keys that its agent told.
    pub attested: Vec<String>,
    /// Keys that people accepted, or that the file has.
    pub accepted: Vec<String>,
}

impl Spot {
    /// `user@host:port`, as the pool's statistics have it.
    pub fn connection(&self) -> Option<String> {
        let host = self.host.as_ref()?;
        Some(caelum_engine::ssh::Place::of(&self.user, host, self.port).0.to_string())
    }

    /// Why nothing is run there, whoever asks.
    pub fn refusal(&self) -> Option<String> {
        match self.ceiling {
            Some(ceiling) if ceiling < Ceiling::Shell => Some(format!(
                "its ceiling is {}: it lets nobody run commands, and only its own configuration can change that",
                ceiling.as_str()
            )),
            _ if self.host.is_none() => Some("no address of it is known".to_owned()),
            _ => None,
        }
    }

    pub(super) fn dial(&self) -> Option<Dial> {
        let known = self.attested.iter().chain(&self.accepted).filter_map(|key| HostKey::parse(key).ok());
        Some(Dial {
            user: self.user.clone(),
            host: self.host.clone()?,
            port: self.port,
            known: known.collect(),
        })
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            id: self.node_id.as_str(),
            names: [&self.name, &self.hostname],
            tags: &self.tags,
            capabilities: &self.capabilities,
            level: self.level,
            roles: &self.roles,
            group: self.group.as_deref(),
        }
    }
}

/// The places that words stand for.
pub fn choose(words: &[String], mut spots: Vec<Spot>) -> Result<Vec<Spot>, ChoiceError> {
    let chosen = {
        let candidates: Vec<Candidate<'_>> = spots.iter().map(Spot::candidate).collect();
        choice::choose(words, &candidates)?
    };
    let mut at = 0;
    let mut chosen = chosen.into_iter().peekable();
    spots.retain(|_| {
        let is_chosen = chosen.next_if_eq(&at).is_some();
        at += 1;
        is_chosen
    });
    Ok(spots)
}

/// Finds places.
pub struct Spots {
    /// Where records are kept.
    pub store: Arc<Store>,
    /// What this node believes about the others.
    pub roster: watch::Receiver<Arc<Roster>>,
    /// Thresholds where none were set at run time.
    pub thresholds: Thresholds,
    /// User where nothing else is said.
    pub user: String,
    /// Port where nothing else is said.
    pub port: u16,
    /// A file of known hosts beside the store.
    pub known_hosts: Option<PathBuf>,
    /// What the store said last, so that a line of commands does not ask anew each time.
    pub last: RwLock<Option<(UnixMs, Arc<Vec<Spot>>)>>,
}

/// How long what was found holds for single commands, ms.
const FRESH_MS: i64 = 250;

impl Spots {
    /// Every place, by name; what was found a moment ago may be answered again.
    pub async fn all(&self, now_ms: UnixMs) -> Result<Arc<Vec<Spot>>, StoreError> {
        if let Some((at_ms, spots)) = &*self.last.read().expect("no code panics while it holds this lock")
            && (0..FRESH_MS).contains(&(now_ms - at_ms))
        {
            return Ok(Arc::clone(spots));
        }
        let spots = Arc::new(Box::pin(self.look(now_ms)).await?);
        *self.last.write().expect("no code panics while it holds this lock") =
            Some((now_ms, Arc::clone(&spots)));
        Ok(spots)
    }

    /// Forgets what was found: something was changed.
    pub fn refresh(&self) {
        *self.last.write().expect("no code panics while it holds this lock") = None;
    }

    async fn look(&self, now_ms: UnixMs) -> Result<Vec<Spot>, StoreError> {
        let (nodes, settings, hosts, known, thresholds) = tokio::try_join!(
            self.store.nodes(),
            self.store.node_settings(),
            self.store.ssh_hosts(),
            self.store.known_hosts(),
            self.store.thresholds()
        )?;
        let thresholds = thresholds.unwrap_or(self.thresholds);
        let roster = Arc::clone(&self.roster.borrow());
        let mut settings: HashMap<NodeId, NodeSetting> =
            settings.into_iter().map(|setting| (setting.node_id.clone(), setting)).collect();
        let mut spots: Vec<Spot> = nodes
            .into_iter()
            .map(|node| {
                let setting = settings
                    .remove(&node.node_id)
                    .unwrap_or_else(|| NodeSetting::usual(node.node_id.clone()));
                let own = setting.thresholds.as_ref().unwrap_or(&thresholds);
                let level = health::of_node(&node, &roster, now_ms, own).level.as_str();
                self.of_node(node, setting, level)
            })
            .collect();
        spots.extend(hosts.into_iter().map(|host| self.of_host(host)));
        self.add_known(&mut spots, known);
        spots.sort_by(|a, b| (&a.name, &a.node_id).cmp(&(&b.name, &b.node_id)));
        Ok(spots)
    }

    fn of_node(&self, node: Node, setting: NodeSetting, level: &'static str) -> Spot {
        let host = [&node.links.address]
            .into_iter()
            .chain(&node.identity.addresses)
            .find(|address| !address.is_empty())
            .cloned();
        Spot {
            ceiling: node.is_heard().then_some(node.links.ceiling),
            node_id: node.node_id,
            name: node.name,
            hostname: node.identity.hostname,
            host,
            port: setting.ssh_port.unwrap_or(self.port),
            user: setting.ssh_user.unwrap_or_else(|| self.user.clone()),
            level,
            tags: setting.tags,
            capabilities: node.links.capabilities,
            roles: node.roles,
            group: setting.group,
            attested: node.identity.ssh_host_keys,
            accepted: Vec::new(),
        }
    }

    fn of_host(&self, host: SshHost) -> Spot {
        Spot {
            node_id: host.node_id,
            hostname: host.name.clone(),
            name: host.name,
            host: Some(host.address),
            port: host.port,
            user: host.user.unwrap_or_else(|| self.user.clone()),
            ceiling: None,
            level: "ssh",
            tags: host.tags,
            capabilities: Vec::new(),
            roles: vec!["ssh".to_owned()],
            group: None,
            attested: Vec::new(),
            accepted: Vec::new(),
        }
    }

    fn add_known(&self, spots: &mut [Spot], known: Vec<KnownHost>) {
        let mut keys: HashMap<(String, u16), Vec<String>> = HashMap::new();
        for one in known {
            keys.entry((one.host, one.port)).or_default().push(one.key);
        }
        let file = self.known_hosts.clone().map(KnownHostsFile);
        for spot in spots {
            let Some(host) = spot.host.clone() else { continue };
            spot.accepted = keys.get(&(host.clone(), spot.port)).cloned().unwrap_or_default();
            let Some(file) = &file else { continue };
            match file.keys_of(&host, spot.port) {
                Ok(found) => spot.accepted.extend(found.iter().map(HostKey::to_line)),
                Err(error) => {
                    tracing::warn!(code = "ssh.known_hosts", %error, "the file of known hosts cannot be read");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(name: &str, ceiling: Option<Ceiling>) -> Spot {
        Spot {
            node_id: NodeId::parse(name).expect("valid"),
            name: name.to_owned(),
            hostname: String::new(),
            host: Some("192.0.2.7".to_owned()),
            port: 22,
            user: "root".to_owned(),
            ceiling,
            level: "healthy",
            tags: vec!["web".to_owned()],
            capabilities: Vec::new(),
            roles: Vec::new(),
            group: None,
            attested: Vec::new(),
            accepted: Vec::new(),
        }
    }

    #[test]
    fn a_node_says_by_its_ceiling_whether_anything_runs_there_and_a_host_without_an_agent_does_not() {
        for (ceiling, is_refused) in [
            (Some(Ceiling::Observe), true),
            (Some(Ceiling::Tasks), true),
            (Some(Ceiling::Shell), false),
            (None, false),
        ] {
            assert_eq!(spot("a", ceiling).refusal().is_some(), is_refused, "{ceiling:?}");
        }
        assert!(Spot { host: None, ..spot("a", None) }.refusal().is_some());
    }

    #[test]
    fn what_is_chosen_stays_in_its_order() {
        let spots = vec![spot("a", None), spot("b", None), spot("c", None)];
        let names = |spots: Vec<Spot>| spots.into_iter().map(|spot| spot.name).collect::<Vec<_>>();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(choose(&words(&["c", "a"]), spots.clone()).expect("both are there")), ["a", "c"]);
        assert_eq!(names(choose(&words(&["tag=web"]), spots).expect("reads")), ["a", "b", "c"]);
    }
}
