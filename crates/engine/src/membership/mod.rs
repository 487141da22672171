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
        let seat = Seat { node_id: config.node_id.clone(), addr: config.addr, run: config.run, turn: 0 };
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
            Input::Fresh { node_id, addr, run } => self.fresh(now, &node_id, Some(addr), run, out),
            Input::LinkUp { node_id, run } => {
                self.fresh(now, &node_id, None, run, out);
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

    /// Somebody is there, as proven as can be.
    fn fresh(
        &mut self,
        now: Now,
        node_id: &NodeId,
        addr: Option<SocketAddr>,
        run: u64,
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
        if let Some(addr) = addr {
            standing.addr = Some(addr);
        }
        let was_gone = matches!(standing.liveness, Liveness::Dead);
        let was_unknown = standing.because.is_empty();
        if let Some(addr) = standing.addr {
            self.swim.meet(Seat { node_id: node_id.clone(), addr, run, turn: 0 });
        }
        self.believe(now, node_id, Liveness::Alive, "heard", out);
        if was_gone && !was_unknown && self.solicited_ms.is_none_or(|at| now.ms - at >= 2_000) {
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
                self.introduced(now, &seat, out);
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
    fn introduced(&mut self, now: Now, seat: &Seat, out: &mut Vec<Output>) {
        if seat.node_id == self.config.node_id {
            return;
        }
        self.fresh(now, &seat.node_id, Some(seat.addr), seat.run, out);
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
