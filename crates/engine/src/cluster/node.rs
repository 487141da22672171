//! The value itself: what happened goes to the part it concerns, and what that part wants is carried on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use caelum_model::{
    cluster::{Liveness, NodeRole, PeerView},
    envelope::{MachineInfo, RosterDelta},
    id::NodeId,
};

use super::{Command, Event, Input, Output, Way, access::Told, lines::Lines};
use crate::{
    Now,
    discovery::{self, Discovery},
    enrol::AccessList,
    link::{self, Capacity, World, book, book::Book},
    membership::{self, Membership},
    packet,
};

/// Most strangers that are remembered.
pub(super) const STRANGERS_MAX: usize = 1_024;
/// Most nodes whose description is remembered.
pub(super) const KNOWN_MAX: usize = 4_096;

/// Who this node is and what it may do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id.
    pub node_id: NodeId,
    /// Its role.
    pub role: NodeRole,
    /// This run of the program; later runs have larger numbers.
    pub run: u64,
    /// Where its datagrams come from.
    pub udp_addr: SocketAddr,
    /// How it describes itself.
    pub me: MachineInfo,
    /// How it is discovered.
    pub discovery: discovery::Config,
    /// Whether strangers may link.
    pub is_open: bool,
    /// Places that are dialled whether they are heard or not.
    pub peers: Vec<SocketAddr>,
    /// On a server: what it tells every node that links.
    pub delta: Option<RosterDelta>,
    /// Networks from which others may speak to it.
    pub access: AccessList,
    /// Nodes that are not admitted.
    pub revoked: BTreeSet<NodeId>,
    /// Chance.
    pub seed: u64,
}

/// What a node said of itself.
pub(super) struct Known {
    pub(super) role: NodeRole,
    pub(super) info: MachineInfo,
    pub(super) peers: Vec<PeerView>,
}

/// A node among nodes.
pub struct Cluster {
    pub(super) config: Config,
    pub(super) discovery: Discovery,
    pub(super) membership: Membership,
    pub(super) book: Book,
    pub(super) world: World,
    pub(super) lines: Lines,
    pub(super) known: BTreeMap<NodeId, Known>,
    pub(super) strangers: BTreeMap<String, (MachineInfo, SocketAddr, i64)>,
    pub(super) refused: BTreeMap<SocketAddr, String>,
    /// On a server: nodes that came since it last told its links of any, and when it tells them.
    pub(super) newcomers: BTreeSet<NodeId>,
    pub(super) introduce_ms: Option<i64>,
    pub(super) shut_out: Told,
}

impl Cluster {
    /// Knows nobody yet.
    pub fn new(config: Config) -> Self {
        let keys = config.discovery.keys.clone();
        Self {
            discovery: Discovery::new(config.discovery.clone()),
            membership: Membership::new(membership::Config {
                node_id: config.node_id.clone(),
                addr: config.udp_addr,
                run: config.run,
                keys,
                seed: config.seed,
            }),
            book: Book::new(config.node_id.clone(), config.role == NodeRole::Server, config.seed ^ 1),
            world: World {
                me: config.me.clone(),
                machines: Vec::new(),
                services: config.discovery.services.clone(),
                delta: config.delta.clone(),
                capacity: Capacity {
                    cpu_cores: f64::from(config.me.resources.cpu_cores),
                    memory_gb: config.me.resources.memory_total_gb,
                    gpu_count: 0,
                },
                reservations: link::Reservations::default(),
            },
            lines: Lines::default(),
            known: BTreeMap::new(),
            strangers: BTreeMap::new(),
            refused: BTreeMap::new(),
            newcomers: BTreeSet::new(),
            introduce_ms: None,
            shut_out: Told::default(),
            config,
        }
    }

    /// When to wake it.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        let parts = [
            self.discovery.next_wakeup_ms(),
            self.membership.next_wakeup_ms(),
            self.book.next_wakeup_ms(),
            self.lines.next_wakeup_ms(),
            self.introduce_ms,
        ];
        parts.into_iter().flatten().min()
    }

    /// Nodes that are linked now.
    pub fn linked(&self) -> impl Iterator<Item = &NodeId> {
        self.lines
            .values()
            .filter(|line| line.is_registered())
            .filter_map(|line| line.pass.as_ref().map(|pass| &pass.node_id))
    }

    /// Whether a server is linked.
    pub fn is_served(&self) -> bool {
        self.lines.is_served()
    }

    /// What is believed about a node.
    pub fn liveness(&self, node_id: &NodeId) -> Option<Liveness> {
        self.membership.standing(node_id).map(|standing| standing.liveness)
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Vec<Output>) {
        match input {
            Input::Start => {
                for addr in self.config.peers.clone() {
                    self.consult_book(now, book::Input::Static { addr }, out);
                }
                self.discover(now, discovery::Input::Start, out);
            }
            Input::Wake => self.wake(now, out),
            Input::Datagram { from, bytes } => {
                if !self.is_admitted(now, from.ip(), Way::Beacon, out) {
                    return;
                }
                if packet::is_membership(bytes) {
                    self.consult_members(now, membership::Input::Datagram { from, bytes }, out);
                } else {
                    self.discover(now, discovery::Input::Datagram { from, bytes }, out);
                }
            }
            Input::LinkOpened { link, pass, remote, is_dialled } => {
                self.open(now, link, pass, remote, is_dialled, out);
            }
            Input::Frame { link, text } => {
                self.heard_on(now, link, out);
                self.speak(now, link, link::Input::Text(text), out);
            }
            Input::Pong { link, payload, rtt_ms } => {
                self.heard_on(now, link, out);
                self.speak(now, link, link::Input::Pong { payload, rtt_ms }, out);
            }
            Input::LinkEnded { link, how } => self.ended(now, link, how, out),
            Input::DialFailed { addr, reason, was_refused } => {
                if was_refused && self.refused.len() < STRANGERS_MAX {
                    self.refused.insert(addr, reason.clone());
                }
                self.consult_book(now, book::Input::DialFailed { addr, was_refused }, out);
                out.push(Output::Event(Event::DialFailed { addr, reason }));
            }
            Input::Command(command) => self.obey(now, command, out),
            Input::Ask { node_id, tag, message_type, payload, timeout_ms } => {
                let link = self.link_to(&node_id);
                match link {
                    Some(link) => {
                        let input = link::Input::Ask { tag, message_type, payload, timeout_ms };
                        self.speak(now, link, input, out);
                    }
                    None => {
                        out.push(Output::Answered { tag, answer: Err("there is no link to it".to_owned()) })
                    }
                }
            }
            Input::Stop => {
                self.speak_all(now, |_| true, || link::Input::Close { goodbye: true }, out);
                self.consult_members(now, membership::Input::Stop, out);
                self.discover(now, discovery::Input::Stop, out);
            }
        }
    }

    fn obey(&mut self, now: Now, command: Command, out: &mut Vec<Output>) {
        match command {
            Command::Solicit(to) => self.discover(now, discovery::Input::Solicit { to }, out),
            Command::Connect(addr) => {
                out.push(Output::Event(Event::Dialling { addr }));
                out.push(Output::Dial { addr, node_id: None, is_stranger: false });
            }
            Command::Heartbeat(heartbeat) => self.report(now, *heartbeat, out),
            Command::Me(me) => {
                self.world.me = *me;
                self.speak_all(now, |_| true, || link::Input::Updated, out);
            }
            Command::Services(services) => {
                self.world.services.clone_from(&services);
                if let Some(caelum) = &mut self.world.me.caelum {
                    caelum.services.clone_from(&services);
                }
                self.discover(now, discovery::Input::Services(services), out);
                self.speak_all(now, |_| true, || link::Input::Updated, out);
            }
            Command::Delta(delta) => self.change(now, delta, true, out),
            Command::Answer { link, correlation_id, message_type, payload } => {
                self.speak(
                    now,
                    link,
                    link::Input::Answer { correlation: &correlation_id, message_type, payload },
                    out,
                );
            }
        }
    }

    fn wake(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.discovery.next_wakeup_ms().is_some_and(|at_ms| at_ms <= now.ms) {
            self.discover(now, discovery::Input::Wake, out);
        }
        if self.membership.next_wakeup_ms().is_some_and(|at_ms| at_ms <= now.ms) {
            self.consult_members(now, membership::Input::Wake, out);
        }
        if self.book.next_wakeup_ms().is_some_and(|at_ms| at_ms <= now.ms) {
            self.consult_book(now, book::Input::Wake, out);
        }
        if self.introduce_ms.is_some_and(|at_ms| at_ms <= now.ms) {
            self.introduce_newcomers(now, out);
        }
        for link in self.lines.due(now.ms) {
            self.speak(now, link, link::Input::Wake, out);
        }
    }
}
