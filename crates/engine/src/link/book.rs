//! Which links there should be: whom to dial, when, and which of two links to the same node to keep.
//!
//! # Rules
//! - Of two links between the same two nodes the one *dialled by the smaller id* survives; of two that the same
//!   node dialled, the newer: the older may be half open.
//! - Up to [`PEERS_MAX`] other nodes are all dialled, servers always. Where there are more, each node dials the
//!   two that follow it in the order of ids, so that the ring stays whole.
//! - The larger id waits a moment before it dials the smaller, which makes most duplicates impossible.
//! - A dial that failed is tried again after a random time below a bound that doubles; a beacon heard meanwhile
//!   shortens the wait, and so does any sign that a split heals. Who refused us is left alone for a minute.
//!
//! Strangers are told to the book without an id: a name that nobody proved must not push out a node's link.

mod dials;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use caelum_model::id::NodeId;

use self::dials::{Chance, Wait};
use super::LinkId;
use crate::Now;

/// Links to nodes that are no servers, as far as this node has a say.
pub const PEERS_MAX: usize = 16;
/// Nodes after this one in the order of ids that it dials where there are too many for all.
const SUCCESSORS: usize = 2;
/// Nodes known at once.
const NODES_MAX: usize = 4_096;
/// Addresses without a node's id, and links of strangers.
const STATICS_MAX: usize = 256;
/// Ids of revoked nodes that are remembered.
const REVOKED_MAX: usize = 4_096;
/// A dial whose outcome was never told is forgotten after this, ms.
const DIAL_MAX_MS: i64 = 30_000;
/// How long the larger id waits before it dials the smaller, ms.
const DEFER_MS: std::ops::RangeInclusive<i64> = 150..=300;

/// What happens.
#[derive(Clone, Debug)]
pub enum Input {
    /// A node was heard, and proved that it is of this cluster.
    Known {
        /// Who.
        node_id: NodeId,
        /// Where its links are.
        addr: SocketAddr,
        /// Whether it is a server.
        is_server: bool,
    },
    /// A node is no longer to be dialled.
    Forgotten {
        /// Who.
        node_id: NodeId,
    },
    /// An address is to be dialled, whoever is there.
    Static {
        /// Where.
        addr: SocketAddr,
    },
    /// An address is no longer to be dialled.
    StaticEnded {
        /// Where.
        addr: SocketAddr,
    },
    /// A link is up and its other end registered.
    Opened {
        /// Which.
        link: LinkId,
        /// Who its certificate says; none is a stranger.
        node_id: Option<NodeId>,
        /// Whether we dialled it.
        is_dialled: bool,
        /// The other end; of a dialled link the address that was dialled.
        addr: SocketAddr,
    },
    /// A link is gone, whoever ended it.
    Closed {
        /// Which.
        link: LinkId,
        /// Whether one side refused the other.
        was_refused: bool,
    },
    /// A dial came to nothing, or its link ended before it was registered.
    DialFailed {
        /// Where.
        addr: SocketAddr,
        /// Whether one side refused the other.
        was_refused: bool,
    },
    /// A node is no longer of this cluster.
    Revoked(NodeId),
    /// Somebody who was held for dead is heard: a split may be healing.
    Healing,
    /// The time that [`Book::next_wakeup_ms`] asked for has come.
    Wake,
}

/// What should happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial.
    Dial {
        /// Where.
        addr: SocketAddr,
        /// Whom we expect there; none where it is not known.
        node_id: Option<NodeId>,
    },
    /// End a link.
    Drop {
        /// Which.
        link: LinkId,
        /// Why.
        reason: DropReason,
    },
}

/// Why a link is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The link that the smaller id dialled is kept.
    Duplicate,
    /// The same node has dialled anew.
    Replaced,
    /// The node is no longer of this cluster.
    Revoked,
    /// The cluster is large, and neither end wants this one.
    Surplus,
    /// The other end is this node.
    Myself,
    /// There is no room to remember another.
    Full,
}

/// One other node.
#[derive(Clone, Debug)]
struct Node {
    /// Where to dial it; none where it only ever dialled us.
    addr: Option<SocketAddr>,
    is_server: bool,
    link: Option<Live>,
    wait: Wait,
}

/// A link that is up.
#[derive(Clone, Debug)]
struct Live {
    link: LinkId,
    is_dialled: bool,
    since_ms: i64,
}

/// An address that is dialled whoever is there.
#[derive(Clone, Debug)]
struct Static {
    /// Who was there last.
    node_id: Option<NodeId>,
    /// The link of a stranger there.
    stranger: Option<LinkId>,
    since_ms: i64,
    wait: Wait,
}

/// All links of a node, and those that should be.
#[derive(Clone, Debug)]
pub struct Book {
    me: NodeId,
    is_server: bool,
    nodes: BTreeMap<NodeId, Node>,
    statics: BTreeMap<SocketAddr, Static>,
    /// Dials under way, with when they began.
    dialling: BTreeMap<SocketAddr, i64>,
    links: BTreeMap<LinkId, NodeId>,
    revoked: BTreeSet<NodeId>,
    chance: Chance,
    /// Kept from one change of the nodes to the next: it is asked for at every beacon.
    wanted: Wanted,
    /// Kept from one input to the next.
    next_ms: Option<i64>,
}

impl Book {
    /// The book of a node that knows nobody.
    pub fn new(me: NodeId, is_server: bool, seed: u64) -> Self {
        Self {
            me,
            is_server,
            nodes: BTreeMap::new(),
            statics: BTreeMap::new(),
            dialling: BTreeMap::new(),
            links: BTreeMap::new(),
            revoked: BTreeSet::new(),
            chance: Chance::new(seed),
            wanted: None,
            next_ms: None,
        }
    }

    /// Takes what happened and says what should.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        let are_nodes_same = match &input {
            Input::Known { node_id, addr, is_server } => self
                .nodes
                .get(node_id)
                .is_some_and(|node| (node.addr, node.is_server) == (Some(*addr), *is_server)),
            Input::Wake
            | Input::Healing
            | Input::DialFailed { .. }
            | Input::Static { .. }
            | Input::StaticEnded { .. } => true,
            Input::Opened { .. } | Input::Closed { .. } | Input::Forgotten { .. } | Input::Revoked(_) => {
                false
            }
        };
        match input {
            Input::Known { node_id, addr, is_server } => {
                let is_busy = self.is_linked_or_unwanted(&node_id);
                self.known(now.ms, node_id, addr, is_server);
                if are_nodes_same && is_busy {
                    // As nearly always: nothing follows from hearing it once more.
                    return;
                }
            }
            Input::Forgotten { node_id } => {
                if let Some(node) = self.nodes.get_mut(&node_id) {
                    node.addr = None;
                }
                self.tidy(&node_id);
            }
            Input::Static { addr } => {
                if self.statics.len() < STATICS_MAX {
                    let wait = Wait::until(now.ms);
                    let fresh = Static { node_id: None, stranger: None, since_ms: now.ms, wait };
                    self.statics.entry(addr).or_insert(fresh);
                }
            }
            Input::StaticEnded { addr } => {
                self.statics.remove(&addr);
            }
            Input::Opened { link, node_id: Some(node_id), is_dialled, addr } => {
                self.opened(now.ms, link, node_id, is_dialled.then_some(addr), out);
            }
            Input::Opened { link, node_id: None, is_dialled, addr } => {
                if is_dialled {
                    self.stranger(now.ms, link, addr);
                }
            }
            Input::Closed { link, was_refused } => self.closed(now.ms, link, was_refused),
            Input::DialFailed { addr, was_refused } => self.failed(now.ms, addr, was_refused),
            Input::Revoked(node_id) => self.revoke(node_id, out),
            Input::Healing => self.hurry(now.ms),
            Input::Wake => {}
        }
        if !are_nodes_same {
            self.wanted = (self.peers().count() > PEERS_MAX).then(|| self.neighbours(true));
        }
        self.dial(now.ms, out);
        self.next_ms = self.first_due_ms();
    }

    /// When [`Input::Wake`] is due.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        self.next_ms
    }

    fn first_due_ms(&self) -> Option<i64> {
        let nodes = self.nodes.iter().filter(|(id, node)| self.is_due(id, node));
        let nodes = nodes.map(|(_, node)| node.wait.until_ms());
        let statics = self.statics.iter().filter(|(addr, one)| self.is_static_due(addr, one));
        let statics = statics.map(|(_, one)| one.wait.until_ms());
        nodes.chain(statics).chain(self.dialling.values().map(|since_ms| since_ms + DIAL_MAX_MS)).min()
    }

    /// The link to a node.
    pub fn link_to(&self, node_id: &NodeId) -> Option<LinkId> {
        self.nodes.get(node_id)?.link.as_ref().map(|live| live.link)
    }

    // --- who is there ---

    fn known(&mut self, now_ms: i64, node_id: NodeId, addr: SocketAddr, is_server: bool) {
        if node_id == self.me || self.revoked.contains(&node_id) || !self.has_room(&node_id) {
            return;
        }
        let first_ms = now_ms + self.defer_ms(&node_id);
        let node = self.nodes.entry(node_id).or_insert_with(|| Node {
            addr: None,
            is_server,
            link: None,
            wait: Wait::until(first_ms),
        });
        if node.addr.is_some() && node.link.is_none() {
            node.wait.hurry(now_ms, &mut self.chance);
        }
        (node.addr, node.is_server) = (Some(addr), is_server);
    }

    /// Whoever could not be reached may be there again.
    fn hurry(&mut self, now_ms: i64) {
        let nodes = self.nodes.values_mut().filter(|node| node.link.is_none()).map(|node| &mut node.wait);
        let statics = self.statics.values_mut().map(|one| &mut one.wait);
        for wait in nodes.chain(statics) {
            wait.hurry(now_ms, &mut self.chance);
        }
    }

    /// Makes room for a node, at the cost of one that has no link.
    fn has_room(&mut self, node_id: &NodeId) -> bool {
        if self.nodes.contains_key(node_id) || self.nodes.len() < NODES_MAX {
            return true;
        }
        let spare = self.nodes.iter().find(|(_, node)| node.link.is_none() && !node.is_server);
        let spare = spare.map(|(id, _)| id.clone());
        spare.is_some_and(|id| self.nodes.remove(&id).is_some())
    }

    fn revoke(&mut self, node_id: NodeId, out: &mut Vec<Output>) {
        if let Some(live) = self.nodes.remove(&node_id).and_then(|node| node.link) {
            self.links.remove(&live.link);
            out.push(Output::Drop { link: live.link, reason: DropReason::Revoked });
        }
        if self.revoked.len() < REVOKED_MAX {
            self.revoked.insert(node_id);
        }
    }

    /// Forgets a node that has neither an address nor a link.
    fn tidy(&mut self, node_id: &NodeId) {
        if self.nodes.get(node_id).is_some_and(|node| node.addr.is_none() && node.link.is_none()) {
            self.nodes.remove(node_id);
        }
    }

    // --- links ---

    fn opened(
        &mut self,
        now_ms: i64,
        link: LinkId,
        node_id: NodeId,
        dialled: Option<SocketAddr>,
        out: &mut Vec<Output>,
    ) {
        if let Some(addr) = dialled {
            self.dialling.remove(&addr);
        }
        if let Some(one) = dialled.and_then(|addr| self.statics.get_mut(&addr)) {
            (one.node_id, one.since_ms) = (Some(node_id.clone()), now_ms);
        }
        let refusal = if node_id == self.me {
            Some(DropReason::Myself)
        } else if self.revoked.contains(&node_id) {
            Some(DropReason::Revoked)
        } else if !self.has_room(&node_id) {
            Some(DropReason::Full)
        } else {
            None
        };
        if let Some(reason) = refusal {
            if let Some(one) = dialled.and_then(|addr| self.statics.get_mut(&addr)) {
                one.wait.failed(now_ms, true, 0, &mut self.chance);
            }
            return out.push(Output::Drop { link, reason });
        }
        let me_is_smaller = self.me < node_id;
        let node = self.nodes.entry(node_id.clone()).or_insert_with(|| Node {
            addr: None,
            is_server: false,
            link: None,
            wait: Wait::until(now_ms),
        });
        let is_dialled = dialled.is_some();
        let live = Live { link, is_dialled, since_ms: now_ms };
        let dropped = match &node.link {
            None => None,
            Some(old) if old.link == link => return,
            Some(old) if old.is_dialled == is_dialled => Some((old.link, DropReason::Replaced)),
            Some(old) if is_dialled == me_is_smaller => Some((old.link, DropReason::Duplicate)),
            Some(_) => return out.push(Output::Drop { link, reason: DropReason::Duplicate }),
        };
        node.link = Some(live);
        self.links.insert(link, node_id);
        if let Some((old, reason)) = dropped {
            self.links.remove(&old);
            out.push(Output::Drop { link: old, reason });
        }
        self.shed(out);
    }

    fn stranger(&mut self, now_ms: i64, link: LinkId, addr: SocketAddr) {
        self.dialling.remove(&addr);
        if let Some(one) = self.statics.get_mut(&addr) {
            (one.stranger, one.since_ms) = (Some(link), now_ms);
        }
    }

    fn closed(&mut self, now_ms: i64, link: LinkId, was_refused: bool) {
        if let Some(node_id) = self.links.remove(&link) {
            let defer_ms = self.defer_ms(&node_id);
            if let Some(node) = self.nodes.get_mut(&node_id)
                && let Some(live) = node.link.take()
            {
                node.wait.lost(now_ms, live.since_ms, was_refused, defer_ms, &mut self.chance);
            }
            for one in self.statics.values_mut().filter(|one| one.node_id.as_ref() == Some(&node_id)) {
                one.wait.lost(now_ms, one.since_ms, was_refused, defer_ms, &mut self.chance);
            }
            self.tidy(&node_id);
        }
        for one in self.statics.values_mut().filter(|one| one.stranger == Some(link)) {
            one.stranger = None;
            one.wait.lost(now_ms, one.since_ms, was_refused, 0, &mut self.chance);
        }
    }

    /// In a large cluster, ends links that neither end wants: what is left costs little at rest. Servers keep
    /// what others dial.
    fn shed(&mut self, out: &mut Vec<Output>) {
        if self.is_server || self.peers().count() <= PEERS_MAX {
            return;
        }
        let is_peer =
            |(id, node): &(&NodeId, &Node)| !node.is_server && self.links.values().any(|it| it == *id);
        let linked: Vec<NodeId> = self.nodes.iter().filter(is_peer).map(|(id, _)| id.clone()).collect();
        let (after, before) = (self.neighbours(true), self.neighbours(false));
        for spare in linked.into_iter().filter(|id| !after.contains(id) && !before.contains(id)) {
            if let Some(live) = self.nodes.get_mut(&spare).and_then(|node| node.link.take()) {
                self.links.remove(&live.link);
                out.push(Output::Drop { link: live.link, reason: DropReason::Surplus });
            }
        }
    }

    // --- dials ---

    fn failed(&mut self, now_ms: i64, addr: SocketAddr, was_refused: bool) {
        self.dialling.remove(&addr);
        let me = self.me.clone();
        for (id, node) in self.nodes.iter_mut().filter(|(_, node)| node.addr == Some(addr)) {
            let defer_ms = if me > *id { self.chance.between(DEFER_MS) } else { 0 };
            node.wait.failed(now_ms, was_refused, defer_ms, &mut self.chance);
        }
        if let Some(one) = self.statics.get_mut(&addr) {
            one.wait.failed(now_ms, was_refused, 0, &mut self.chance);
        }
    }

    fn dial(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        let overdue: Vec<SocketAddr> = self
            .dialling
            .iter()
            .filter(|(_, since_ms)| now_ms - **since_ms >= DIAL_MAX_MS)
            .map(|(addr, _)| *addr)
            .collect();
        for addr in overdue {
            self.failed(now_ms, addr, false);
        }
        let due = self.nodes.iter().filter(|(id, node)| self.is_due(id, node));
        let due = due.filter(|(_, node)| node.wait.until_ms() <= now_ms);
        let nodes = due.filter_map(|(id, node)| Some((node.addr?, Some(id.clone()))));
        let statics = self.statics.iter().filter(|(addr, one)| self.is_static_due(addr, one));
        let statics = statics.filter(|(_, one)| one.wait.until_ms() <= now_ms);
        let statics = statics.map(|(addr, one)| (*addr, one.node_id.clone()));
        let dials: BTreeMap<SocketAddr, Option<NodeId>> = statics.chain(nodes).collect();
        for (addr, node_id) in dials {
            self.dialling.insert(addr, now_ms);
            out.push(Output::Dial { addr, node_id });
        }
    }

    /// Whether this node is to have a link that this end dials, as far as is known.
    fn is_wanted(&self, id: &NodeId, node: &Node) -> bool {
        node.is_server || self.wanted.as_ref().is_none_or(|some| some.contains(id))
    }

    fn is_linked_or_unwanted(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.link.is_some() || !self.is_wanted(id, node))
    }

    fn is_due(&self, id: &NodeId, node: &Node) -> bool {
        self.is_wanted(id, node)
            && node.link.is_none()
            && node.addr.is_some_and(|addr| !self.dialling.contains_key(&addr))
    }

    fn is_static_due(&self, addr: &SocketAddr, one: &Static) -> bool {
        let node = one.node_id.as_ref().and_then(|id| self.nodes.get(id));
        let is_linked = one.stranger.is_some() || node.is_some_and(|node| node.link.is_some());
        let is_revoked = one.node_id.as_ref().is_some_and(|id| self.revoked.contains(id));
        !is_linked && !is_revoked && !self.dialling.contains_key(addr)
    }

    /// Nodes that are no servers and that could be dialled.
    fn peers(&self) -> impl DoubleEndedIterator<Item = &NodeId> {
        self.nodes.iter().filter(|(_, node)| !node.is_server && node.addr.is_some()).map(|(id, _)| id)
    }

    /// The next in the order of ids, in one direction, round the end.
    fn neighbours(&self, is_after: bool) -> BTreeSet<NodeId> {
        let next: Box<dyn Iterator<Item = &NodeId>> = if is_after {
            Box::new(self.peers().filter(|id| **id > self.me).chain(self.peers().filter(|id| **id < self.me)))
        } else {
            let (below, above) =
                (self.peers().filter(|id| **id < self.me), self.peers().filter(|id| **id > self.me));
            Box::new(below.rev().chain(above.rev()))
        };
        next.take(SUCCESSORS).cloned().collect()
    }

    fn defer_ms(&mut self, node_id: &NodeId) -> i64 {
        if self.me > *node_id { self.chance.between(DEFER_MS) } else { 0 }
    }
}

/// Which nodes that are no servers are to be dialled; none means all.
type Wanted = Option<BTreeSet<NodeId>>;
