//! Whoever lost its link is asked, by us and by others for us; and what members say by datagram.

use std::net::SocketAddr;

use caelum_model::{cluster::Liveness, id::NodeId};

use super::{ANSWERED, ASK_AGAIN_MS, CONFIRM_MS, Membership, Output, Question, RELINK_MS, WITNESSES};
use crate::{
    now::Now,
    packet::{self, Opened, Packet},
};

impl Membership {
    /// Its link is gone: ask it, and have others ask it.
    pub(super) fn doubt(&mut self, now: Now, node_id: &NodeId, because: &'static str, out: &mut Vec<Output>) {
        let nonce = self.nonce();
        let Some(standing) = self.nodes.get_mut(node_id) else { return };
        if standing.liveness != Liveness::Alive {
            return;
        }
        let time_ms = if standing.addr.is_some() { CONFIRM_MS } else { RELINK_MS };
        standing.question = Some(Question { nonce, ask_ms: now.ms, until_ms: now.ms + time_ms });
        self.questioned.insert(node_id.clone());
        self.believe(now, node_id, Liveness::Suspect, because, out);
        self.ask(now, node_id, out);
    }

    pub(super) fn ask(&mut self, now: Now, node_id: &NodeId, out: &mut Vec<Output>) {
        let Some(standing) = self.nodes.get_mut(node_id) else { return };
        let Some(question) = &mut standing.question else { return };
        question.ask_ms = now.ms + ASK_AGAIN_MS;
        let nonce = question.nonce;
        let Some(addr) = standing.addr else {
            question.ask_ms = question.until_ms;
            return;
        };
        self.send(addr, &Packet::Ask { nonce, reply_to: None }, out);
        let witnesses: Vec<SocketAddr> = self
            .nodes
            .iter()
            .filter(|(other, standing)| *other != node_id && standing.liveness == Liveness::Alive)
            .filter_map(|(_, standing)| standing.addr)
            .collect();
        // Others each time, without a source of chance of its own.
        let start = usize::try_from(nonce.rotate_left(17) ^ now.ms.unsigned_abs()).unwrap_or(0);
        for offset in 0..witnesses.len().min(WITNESSES) {
            let witness = witnesses[start.wrapping_add(offset) % witnesses.len()];
            self.send(witness, &Packet::AskFor { nonce, target: addr }, out);
        }
    }

    pub(super) fn receive(&mut self, now: Now, from: SocketAddr, bytes: &[u8], out: &mut Vec<Output>) {
        let opened = match packet::open(bytes, &self.config.keys) {
            Ok(opened) => opened,
            Err(reason) => return out.push(Output::Refused { from, reason }),
        };
        let Opened { node_id, run, seq, packet } = opened;
        let refuse = |reason| Output::Refused { from, reason };
        if node_id == self.config.node_id {
            return out.push(refuse(packet::Refusal::Ours));
        }
        let Some(standing) = self.nodes.get_mut(&node_id).filter(|standing| standing.run == run) else {
            return out.push(refuse(packet::Refusal::Unproven));
        };
        if !standing.window.admit(seq) {
            return out.push(refuse(packet::Refusal::Replayed));
        }
        standing.heard_ms = now.ms;
        if standing.addr.is_none() {
            standing.addr = Some(from);
            out.push(Output::Located { node_id: node_id.clone() });
        }
        match packet {
            Packet::Swim(payload) => {
                if self.swim.receive(&payload).is_err() {
                    out.push(refuse(packet::Refusal::Malformed));
                }
            }
            Packet::Ask { nonce, reply_to } => {
                self.send(reply_to.unwrap_or(from), &Packet::Here { nonce }, out);
            }
            // Only members are asked for others: nobody uses us to reach a third party.
            Packet::AskFor { nonce, target } => {
                if self.nodes.values().any(|standing| standing.addr == Some(target)) {
                    self.send(target, &Packet::Ask { nonce, reply_to: Some(from) }, out);
                }
            }
            Packet::Here { nonce } => {
                let is_answer = self
                    .nodes
                    .get(&node_id)
                    .and_then(|standing| standing.question)
                    .is_some_and(|question| question.nonce == nonce);
                if is_answer {
                    self.believe(now, &node_id, Liveness::Alive, ANSWERED, out);
                }
            }
        }
    }
}
