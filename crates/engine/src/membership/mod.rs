//! Which nodes run: SWIM, with the links as a second witness.
//!
//! # Purpose
//!
//! Each node holds a belief about every other: alive, suspect, dead or left. SWIM (Das, Gupta, Motivala 2002;
//! here the `foca` crate) spreads beliefs and finds the silent. It is slow by design, so that a process that
//! stood still for seconds is not declared dead. What makes detection quick is the link: a killed process
//! lets go of its sockets at once, and the kernel notices a host that vanished, while a process that merely
//! stands still loses neither.
//!
//! # Rules
//!
//! 1. Only a machine that proved to be of this cluster, by a fresh beacon or by its certificate on a link,
//!    becomes a member. A datagram counts only from a member's proven instance, once.
//! 2. A link that closes without goodbye makes a suspect. It is asked at once, directly and through others;
//!    if nobody hears it within [`CONFIRM_MS`] it is dead, and all are told. An answer clears it.
//! 3. Whoever was itself late to look (a stalled process) asks again before it declares anybody dead.
//! 4. A node that others declare dead though it runs takes a new seat and is back: the dead never are
//!    contradicted, they are succeeded.
//! 5. A fresh beacon or a new link of somebody believed dead makes both ask each other, so that the halves
//!    of a split merge without an operator.
//! 6. A node without UDP (behind a router, say) is judged by its link alone, with [`RELINK_MS`] to dial again.
//!
//! # States
//!
//! ```text
//!          fresh beacon, link
//!   (unknown) ───────────────> alive <──────────── answer, link
//!                               │  │                    │
//!                     link lost │  │ SWIM: no ack       │
//!                               v  v                    │
//!                              suspect ─────────────────┘
//!                               │ nobody hears it
//!            goodbye            v
//!   alive ───────────> left    dead ── new instance or seat ──> alive
//! ```
//!
//! # What it does not do
//!
//! It opens nothing, dials nobody and keeps nothing on disk. Who may be a member is decided before.

mod asking;
mod seat;
mod swim;
#[cfg(test)]
mod tests;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use caelum_model::{cluster::Liveness, id::NodeId};

use self::swim::Swim;
use crate::{
    now::Now,
    packet::{self, Packet, Window},
};

pub use self::{
    seat::Seat,
    words::{Config, Input, Output},
};

/// Why a suspect is believed alive again.
pub(crate) const ANSWERED: &str = "answered";
/// Time in which a suspect may be heard, after its link was lost, ms.
pub const CONFIRM_MS: i64 = 600;
/// A suspect is asked again after this long, ms.
const ASK_AGAIN_MS: i64 = 200;
/// Time in which a node without UDP may dial again after its link was lost, ms.
pub const RELINK_MS: i64 = 2_000;
/// Being woken so much too late means that this process stood still, ms.
const STALLED_MS: i64 = 300;
/// Nodes that are asked to ask for us.
const WITNESSES: usize = 3;
/// Most members.
const MEMBERS_MAX: usize = 4_096;
/// All are asked again at most this often while somebody who was held for dead is heard, ms; …
const SOLICIT_MS: i64 = 2_000;
/// … and this often while others tell of such, ms.
const SOLICIT_TOLD_MS: i64 = 10_000;
/// Silence of a link from which on SWIM is believed rather than the link, ms.
const LINK_TRUSTED_MS: i64 = 15_000;

/// What is believed about one node.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Where it is heard by UDP, if it is.
    pub addr: Option<SocketAddr>,
    /// Its run.
    pub run: u64,
    /// The belief.
    pub liveness: Liveness,
    /// Why.
    pub because: &'static str,
    /// Since when.
    pub since_ms: i64,
    /// Whether there is a link.
    pub is_linked: bool,
    heard_ms: i64,
    window: Window,
    question: Option<Question>,
}

/// From whom it is known that somebody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// A beacon or a link of its own.
    FirstHand,
    /// Another member; this one tells it on.
    Rumour,
    /// A server, which tells everybody.
    Server,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    nonce: u64,
    ask_ms: i64,
    until_ms: i64,
}

/// The beliefs of one node.
pub struct Membership {
    config: Config,
    swim: Swim,
    nodes: BTreeMap<NodeId, Standing>,
    /// Kept so that a wake-up need not look at every node.
    questioned: BTreeSet<NodeId>,
    nonces: u64,
    seq: u64,
    solicited_ms: Option<i64>,
}

impl Membership {
    /// Knows nobody yet.
    pub fn new(config: Config) -> Self {
        let seat = Seat::new(config.node_id.clone(), config.addr, config.run);
        Self {
            swim: Swim::new(seat, config.seed),
            nonces: config.seed | 1,
            config,
            nodes: BTreeMap::new(),
            questioned: BTreeSet::new(),
            seq: 0,
            solicited_ms: None,
        }
    }

    /// What is believed about everybody.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Standing)> {
        self.nodes.iter()
    }

    /// What is believed about one node.
    pub fn standing(&self, node_id: &NodeId) -> Option<&Standing> {
        self.nodes.get(node_id)
    }

    /// When to wake it.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        let questions = self
            .questioned
            .iter()
            .filter_map(|node_id| self.nodes.get(node_id)?.question)
            .map(|question| question.ask_ms.min(question.until_ms));
        questions.chain(self.swim.next_wakeup_ms()).min()
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Vec<Output>) {
        match input {
            Input::Wake => self.wake(now, out),
            Input::Datagram { from, bytes } => self.receive(now, from, bytes, out),
            Input::Fresh { node_id, addr, run } => {
                self.fresh(now, &node_id, Some(addr), (run, 0), Word::FirstHand, out);
            }
            Input::Introduced { node_id, addr, run, turn } => {
                self.told(now, Seat::new(node_id, addr, run).at(turn), out);
            }
            Input::LinkUp { node_id, run } => {
                self.fresh(now, &node_id, None, (run, 0), Word::FirstHand, out);
                if let Some(standing) = self.nodes.get_mut(&node_id) {
                    standing.is_linked = true;
                    standing.heard_ms = now.ms;
                }
                self.believe(now, &node_id, Liveness::Alive, "linked", out);
            }
            Input::LinkHeard { node_id } => {
                if let Some(standing) = self.nodes.get_mut(&node_id) {
                    standing.heard_ms = now.ms;
                    if standing.liveness == Liveness::Dead && standing.is_linked {
                        self.believe(now, &node_id, Liveness::Alive, "heard on its link", out);
                        self.swim.rejoin(&node_id);
                    }
                }
            }
            Input::LinkDown { node_id, is_goodbye, because } => {
                if let Some(standing) = self.nodes.get_mut(&node_id) {
                    standing.is_linked = false;
                }
                if is_goodbye {
                    self.leave(now, &node_id, out);
                } else {
                    self.doubt(now, &node_id, because, out);
                }
            }
            Input::Goodbye { node_id } => self.leave(now, &node_id, out),
            Input::Revoked { node_id } => {
                self.swim.declare_down(&node_id);
                self.nodes.remove(&node_id);
                self.questioned.remove(&node_id);
            }
            Input::Keys(keys) => self.config.keys = keys,
            Input::Stop => self.swim.leave(),
        }
        self.settle(now, out);
    }

    /// A server says that somebody is there. What is heard at first hand counts for more, but for whoever is
    /// held for gone: it may have come back and sit elsewhere now, or not know that it is held for dead.
    fn told(&mut self, now: Now, seat: Seat, out: &mut Vec<Output>) {
        let Some(standing) = self.nodes.get(&seat.node_id) else {
            return self.fresh(now, &seat.node_id, Some(seat.addr), (seat.run, seat.turn), Word::Server, out);
        };
        let is_back = match standing.liveness {
            Liveness::Alive | Liveness::Suspect => return,
            Liveness::Dead => self.swim.is_successor(&seat),
            Liveness::Left => seat.run > standing.run,
        };
        if is_back {
            self.fresh(now, &seat.node_id, Some(seat.addr), (seat.run, seat.turn), Word::Server, out);
        } else if standing.liveness == Liveness::Dead {
            self.swim.rejoin_some(now.ms, &seat.node_id);
        }
    }

    /// How often a node was declared dead in its present run and came back.
    pub(crate) fn turn(&self, node_id: &NodeId) -> u16 {
        let run = self.nodes.get(node_id).map(|standing| standing.run);
        self.swim.active(node_id).filter(|(active, _)| Some(*active) == run).map_or(0, |(_, turn)| turn)
    }

    /// Somebody is there, as proven as can be.
    fn fresh(
        &mut self,
        now: Now,
        node_id: &NodeId,
        addr: Option<SocketAddr>,
        (run, turn): (u64, u16),
        word: Word,
        out: &mut Vec<Output>,
    ) {
        if *node_id == self.config.node_id
            || self.nodes.len() >= MEMBERS_MAX && !self.nodes.contains_key(node_id)
        {
            return;
        }
        let standing = self.nodes.entry(node_id.clone()).or_insert_with(|| Standing {
            addr: None,
            run,
            liveness: Liveness::Left,
            because: "",
            since_ms: now.ms,
            is_linked: false,
            heard_ms: now.ms,
            window: Window::default(),
            question: None,
        });
        if run < standing.run {
            // A late proof of a run that is over.
            return;
        }
        if run > standing.run {
            standing.run = run;
            standing.window = Window::default();
        }
        standing.heard_ms = now.ms;
        let is_located = addr.is_some() && standing.addr.is_none();
        standing.addr = addr.or(standing.addr);
        let was_gone = matches!(standing.liveness, Liveness::Dead);
        let was_unknown = standing.because.is_empty();
        if let Some(addr) = standing.addr {
            self.swim.meet(now.ms, Seat::new(node_id.clone(), addr, run).at(turn), word);
        }
        self.believe(now, node_id, Liveness::Alive, "heard", out);
        if is_located && !was_unknown {
            out.push(Output::Located { node_id: node_id.clone() });
        }
        let every_ms = if word == Word::FirstHand { SOLICIT_MS } else { SOLICIT_TOLD_MS };
        if was_gone && !was_unknown && self.solicited_ms.is_none_or(|at| now.ms - at >= every_ms) {
            self.solicited_ms = Some(now.ms);
            out.push(Output::Solicit);
        }
    }

    fn leave(&mut self, now: Now, node_id: &NodeId, out: &mut Vec<Output>) {
        self.swim.declare_down(node_id);
        self.believe(now, node_id, Liveness::Left, "goodbye", out);
    }

    fn wake(&mut self, now: Now, out: &mut Vec<Output>) {
        let due: Vec<(NodeId, Question)> = self
            .questioned
            .iter()
            .filter_map(|node_id| Some((node_id.clone(), self.nodes.get(node_id)?.question?)))
            .filter(|(_, question)| question.ask_ms.min(question.until_ms) <= now.ms)
            .collect();
        for (node_id, question) in due {
            if now.ms - question.ask_ms.min(question.until_ms) > STALLED_MS {
                // It was us who stood still: whatever was answered meanwhile has not been read yet.
                if let Some(standing) = self.nodes.get_mut(&node_id)
                    && let Some(question) = &mut standing.question
                {
                    question.until_ms = now.ms + CONFIRM_MS;
                }
                self.ask(now, &node_id, out);
            } else if question.until_ms <= now.ms {
                self.swim.declare_down(&node_id);
                let because = self.nodes.get(&node_id).map_or("", |standing| standing.because);
                self.believe(now, &node_id, Liveness::Dead, because, out);
            } else {
                self.ask(now, &node_id, out);
            }
        }
        self.swim.wake(now.ms);
    }

    /// Carries out what SWIM wants and takes over what it found.
    fn settle(&mut self, now: Now, out: &mut Vec<Output>) {
        loop {
            let found = self.swim.take(now.ms);
            if found.is_empty() {
                break;
            }
            for (to, payload) in found.sends {
                self.send(to, &Packet::Swim(payload), out);
            }
            for seat in found.up {
                self.rumour_of_life(now, &seat, out);
            }
            for seat in found.down {
                self.rumour_of_death(now, &seat, out);
            }
        }
    }

    /// Others say that it is gone. A goodbye says more, a later run is another life, and whoever has a link
    /// to it on which something was heard lately asks before it believes.
    fn rumour_of_death(&mut self, now: Now, seat: &Seat, out: &mut Vec<Output>) {
        let Some(standing) = self.nodes.get(&seat.node_id) else { return };
        if standing.liveness == Liveness::Left || standing.run > seat.run {
            return;
        }
        let is_heard = standing.is_linked && now.ms - standing.heard_ms < LINK_TRUSTED_MS;
        match (is_heard, standing.liveness) {
            (true, Liveness::Alive) => self.doubt(now, &seat.node_id, "others say that it is gone", out),
            (true, _) => {}
            (false, _) => self.believe(now, &seat.node_id, Liveness::Dead, "no answer to probes", out),
        }
    }

    /// Another member told of it. Its run is not proven to us: only its datagrams are, once it is heard.
    fn rumour_of_life(&mut self, now: Now, seat: &Seat, out: &mut Vec<Output>) {
        if seat.node_id == self.config.node_id {
            return;
        }
        let is_alive = |standing: &Standing| standing.liveness == Liveness::Alive;
        if seat.turn > 0 && self.nodes.get(&seat.node_id).is_some_and(is_alive) {
            out.push(Output::Located { node_id: seat.node_id.clone() });
        }
        self.fresh(now, &seat.node_id, Some(seat.addr), (seat.run, seat.turn), Word::Rumour, out);
    }

    fn believe(
        &mut self,
        now: Now,
        node_id: &NodeId,
        liveness: Liveness,
        because: &'static str,
        out: &mut Vec<Output>,
    ) {
        let Some(standing) = self.nodes.get_mut(node_id) else { return };
        if liveness != Liveness::Suspect && standing.question.take().is_some() {
            self.questioned.remove(node_id);
        }
        let is_news = standing.liveness != liveness || standing.because.is_empty();
        if is_news {
            standing.liveness = liveness;
            standing.because = because;
            standing.since_ms = now.ms;
            out.push(Output::Changed { node_id: node_id.clone(), liveness, because });
        }
    }

    fn send(&mut self, to: SocketAddr, packet: &Packet, out: &mut Vec<Output>) {
        self.seq += 1;
        if let Some(bytes) =
            packet::seal(packet, &self.config.node_id, self.config.run, self.seq, self.config.keys.last())
        {
            out.push(Output::Send { to, bytes });
        }
    }

    fn nonce(&mut self) -> u64 {
        self.nonces = crate::hash::mix(self.nonces.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.nonces
    }
}
