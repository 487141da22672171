//! What nodes tell each other: metrics, goodbyes, keys and revocations.

use caelum_model::{
    cluster::{NodeRole, PeerView},
    envelope::{Envelope, Heartbeat, MessageType, RosterDelta, RosterSeat},
    id::NodeId,
};
use serde_json::json;

use super::{Event, Output, lines::Line, node::Cluster};
use crate::{
    Now, discovery,
    link::{self, LinkId, book},
    membership,
};

impl Cluster {
    pub(super) fn received(&mut self, now: Now, link: LinkId, envelope: Envelope, out: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(link) else { return };
        let Some(pass) = line.pass.clone() else { return };
        match envelope.message_type {
            MessageType::MachineHeartbeat => {
                let Ok(heartbeat) = serde_json::from_value::<Heartbeat>(envelope.payload) else { return };
                if let Some(known) = self.known.get_mut(&pass.node_id) {
                    known.peers = heartbeat.peers.iter().take(64).cloned().collect();
                }
                out.push(Output::Heartbeat { node_id: pass.node_id, heartbeat: Box::new(heartbeat) });
            }
            MessageType::MachineGoodbye => line.said_goodbye = true,
            MessageType::RosterDelta | MessageType::MachineUpdate if pass.role == NodeRole::Server => {
                let mut payload = envelope.payload;
                let delta = if envelope.message_type == MessageType::MachineUpdate {
                    payload["roster"].take()
                } else {
                    payload
                };
                if let Ok(delta) = serde_json::from_value::<RosterDelta>(delta) {
                    self.change(now, delta, false, out);
                }
            }
            _ => {}
        }
    }

    pub(super) fn report(&mut self, now: Now, mut heartbeat: Heartbeat, out: &mut Vec<Output>) {
        heartbeat.peers = self
            .lines
            .values()
            .filter(|line| line.is_registered())
            .filter_map(|line| {
                let quality = line.session.quality();
                let node_id = line.pass.as_ref()?.node_id.clone();
                Some(PeerView { node_id, rtt_ms: quality.rtt_ms, loss_pct: quality.loss_pct })
            })
            .take(64)
            .collect();
        let payload = json!(heartbeat);
        let is_server = |line: &Line| {
            line.is_registered() && line.pass.as_ref().is_some_and(|pass| pass.role == NodeRole::Server)
        };
        self.speak_all(now, is_server, || link::Input::Heartbeat(payload.clone()), out);
    }

    /// Keys or revocations changed, here or at a server.
    pub(super) fn change(&mut self, now: Now, mut delta: RosterDelta, is_ours: bool, out: &mut Vec<Output>) {
        for RosterSeat { node_id, addr, run, turn } in std::mem::take(&mut delta.seats) {
            if !self.config.revoked.contains(&node_id) {
                let introduced = membership::Input::Introduced { node_id, addr, run, turn };
                self.consult_members(now, introduced, out);
            }
        }
        if !delta.keys.is_empty() {
            self.discover(now, discovery::Input::Keys(delta.keys.clone()), out);
            self.consult_members(now, membership::Input::Keys(delta.keys.clone()), out);
        }
        for node_id in delta.revoked.iter().filter_map(|id| NodeId::parse(id).ok()) {
            if node_id == self.config.node_id || !self.config.revoked.insert(node_id.clone()) {
                continue;
            }
            self.consult_book(now, book::Input::Revoked(node_id.clone()), out);
            self.consult_members(now, membership::Input::Revoked { node_id: node_id.clone() }, out);
            let links: Vec<LinkId> = self.lines.to(&node_id).map(|(link, _)| link).collect();
            for link in links {
                if let Some(line) = self.lines.remove(link) {
                    let reason = "this node was revoked".to_owned();
                    out.push(Output::Event(Event::Refused { addr: line.remote, reason }));
                }
                out.push(Output::Drop { link });
            }
            self.known.remove(&node_id);
        }
        if is_ours {
            let told = json!(delta);
            let is_node = |line: &Line| line.is_registered() && line.pass.is_some();
            let tell = || link::Input::Tell {
                message_type: MessageType::RosterDelta,
                targets: None,
                payload: told.clone(),
            };
            self.speak_all(now, is_node, tell, out);
            self.world.delta = Some(delta);
        } else {
            out.push(Output::Told(Box::new(delta)));
        }
        out.push(Output::RosterChanged);
    }
}
