//! A link whose other end has said who it is: what is remembered of it, and whom it is introduced to.

use std::net::SocketAddr;

use caelum_model::{
    cluster::{Liveness, NodeRole},
    envelope::{CaelumInfo, MachineInfo, MessageType, RosterDelta, RosterSeat},
    id::NodeId,
};
use serde_json::{Value, json};

use super::{
    Event, Output,
    lines::Line,
    node::{Cluster, KNOWN_MAX, Known, STRANGERS_MAX},
};
use crate::{
    Now, discovery,
    link::{self, LinkId, book},
    membership::{self, Standing},
};

/// How long a server waits for more newcomers before it tells of one, ms.
const INTRODUCE_MS: i64 = 1_000;

impl Cluster {
    pub(super) fn registered(
        &mut self,
        now: Now,
        link: LinkId,
        info: Box<MachineInfo>,
        out: &mut Vec<Output>,
    ) {
        let Some(is_first) = self.lines.register(link) else { return };
        let Some(line) = self.lines.get_mut(link) else { return };
        line.name = display_name(&info);
        let (pass, remote, name, is_dialled) =
            (line.pass.clone(), line.remote, line.name.clone(), line.is_dialled);
        if is_first {
            out.push(Output::Event(Event::Linked { name, addr: remote, is_dialled }));
            let node_id = pass.as_ref().map(|pass| pass.node_id.clone());
            self.consult_book(now, book::Input::Opened { link, node_id, is_dialled, addr: remote }, out);
        }
        out.push(Output::RosterChanged);
        let Some(pass) = pass else {
            if self.strangers.len() < STRANGERS_MAX || self.strangers.contains_key(&info.machine_id) {
                self.strangers.insert(info.machine_id.clone(), (*info, remote, now.ms));
            }
            return;
        };
        let node_id = pass.node_id.clone();
        let run = info.caelum.as_ref().map_or(0, |caelum| discovery::run_of(&caelum.instance).unwrap_or(0));
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&node_id) {
            let peers = self.known.remove(&node_id).map(|known| known.peers).unwrap_or_default();
            self.known.insert(node_id.clone(), Known { role: pass.role, info: (*info).clone(), peers });
        }
        if is_first {
            self.consult_members(now, membership::Input::LinkUp { node_id: node_id.clone(), run }, out);
        }
        // Where it may be dialled later, should it not be heard by beacon. Behind a router this leads nowhere,
        // and the book tries seldom.
        if let Some(CaelumInfo { websocket_port, .. }) =
            info.caelum.as_ref().filter(|c| c.websocket_port != 0)
        {
            let addr = SocketAddr::new(remote.ip(), *websocket_port);
            let is_server = pass.role == NodeRole::Server;
            self.consult_book(now, book::Input::Known { node_id, addr, is_server }, out);
        }
        if is_first && self.config.role == NodeRole::Server {
            self.introduce(now, link, out);
        }
        out.push(Output::Registered { pass, remote, info });
    }

    /// Whoever comes late hears of everybody at once: rumour would take long to tell it of all.
    fn introduce(&mut self, now: Now, link: LinkId, out: &mut Vec<Output>) {
        let payload = self.seats(self.membership.nodes());
        if let Some(payload) = payload {
            self.speak(now, link, told(payload), out);
        }
    }

    /// A server notes who came, to tell its links of all who come within a moment at once.
    pub(super) fn note_newcomer(&mut self, now: Now, node_id: &NodeId) {
        if self.config.role == NodeRole::Server && self.newcomers.len() < KNOWN_MAX {
            self.newcomers.insert(node_id.clone());
            self.introduce_ms.get_or_insert(now.ms + INTRODUCE_MS);
        }
    }

    /// Tells every node that is linked of those who came. Whoever was itself introduced before they came would
    /// otherwise hear of them by rumour, which has to be repeated much to miss nobody of a thousand.
    pub(super) fn introduce_newcomers(&mut self, now: Now, out: &mut Vec<Output>) {
        self.introduce_ms = None;
        let newcomers = std::mem::take(&mut self.newcomers);
        let standings = newcomers.iter().filter_map(|id| Some((id, self.membership.standing(id)?)));
        if let Some(payload) = self.seats(standings) {
            let is_node = |line: &Line| line.is_registered() && line.pass.is_some();
            self.speak_all(now, is_node, || told(payload.clone()), out);
        }
    }

    /// Those who live and can be reached, as a message; none where there are none.
    fn seats<'a>(&self, nodes: impl Iterator<Item = (&'a NodeId, &'a Standing)>) -> Option<Value> {
        let seats: Vec<RosterSeat> = nodes
            .filter(|(_, standing)| standing.liveness == Liveness::Alive)
            .filter_map(|(node_id, standing)| {
                let (addr, turn) = (standing.addr?, self.membership.turn(node_id));
                Some(RosterSeat { node_id: node_id.clone(), addr, run: standing.run, turn })
            })
            .collect();
        (!seats.is_empty()).then(|| json!(RosterDelta { seats, ..RosterDelta::default() }))
    }
}

fn told(payload: Value) -> link::Input<'static> {
    link::Input::Tell { message_type: MessageType::RosterDelta, targets: None, payload }
}

pub(super) fn display_name(info: &MachineInfo) -> String {
    let given = info.caelum.as_ref().map(|caelum| caelum.name.clone()).filter(|name| !name.is_empty());
    given.unwrap_or_else(|| {
        if info.hostname.is_empty() { info.machine_id.clone() } else { info.hostname.clone() }
    })
}
