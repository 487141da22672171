//! What beacons and SWIM find: who is there, who is believed, and what follows for the links.

use std::net::SocketAddr;

use caelum_model::{
    cluster::{Liveness, NodeRole},
    id::NodeId,
};

use super::{Event, Output, node::Cluster, registration::display_name};
use crate::{
    Now,
    discovery::{self, Gone, Heard, Proof},
    link::book,
    membership,
};

impl Cluster {
    pub(super) fn discover(&mut self, now: Now, input: discovery::Input<'_>, out: &mut Vec<Output>) {
        let mut wanted = Vec::new();
        self.discovery.handle(now, input, &mut wanted);
        for output in wanted {
            match output {
                discovery::Output::Send { to, bytes } => out.push(Output::Send { to, bytes }),
                discovery::Output::Heard(heard) => self.heard(now, *heard, out),
                discovery::Output::Gone { machine_id, why, proof } => {
                    self.gone(now, machine_id, why, proof, out);
                }
                discovery::Output::Refused { from, reason } => {
                    out.push(Output::Event(Event::DatagramRefused { from, reason: reason.as_str() }));
                }
            }
        }
    }

    fn gone(&mut self, now: Now, machine_id: String, why: Gone, proof: Proof, out: &mut Vec<Output>) {
        let node_id = NodeId::parse(&machine_id).ok();
        match (why, proof, node_id) {
            (Gone::Goodbye, Proof::Fresh, Some(node_id)) => {
                self.consult_members(now, membership::Input::Goodbye { node_id }, out);
            }
            (Gone::Silent, _, Some(node_id)) => {
                let hostname = self.name_of(&node_id);
                out.push(Output::Event(Event::Silent { hostname }));
            }
            // A stranger's goodbye, or one that made room: shown no longer, and no news.
            _ => {}
        }
        out.push(Output::RosterChanged);
    }

    fn heard(&mut self, now: Now, heard: Heard, out: &mut Vec<Output>) {
        let is_proven = heard.proof == Proof::Fresh;
        if heard.is_new {
            out.push(Output::Event(Event::Discovered {
                hostname: heard.hostname.clone(),
                from: heard.from,
                is_proven,
            }));
        }
        if heard.is_new || heard.is_restart {
            out.push(Output::RosterChanged);
        }
        let addr = SocketAddr::new(heard.from.ip(), heard.websocket_port);
        match NodeId::parse(&heard.machine_id) {
            Ok(node_id) if is_proven && !self.config.revoked.contains(&node_id) => {
                let run = discovery::run_of(&heard.instance).unwrap_or(0);
                let fresh = membership::Input::Fresh { node_id: node_id.clone(), addr: heard.from, run };
                self.consult_members(now, fresh, out);
                let is_server = heard.roles.iter().any(|role| role == NodeRole::Server.as_str());
                self.consult_book(now, book::Input::Known { node_id, addr, is_server }, out);
            }
            // As the programs did that came before: whoever is heard is dialled.
            Ok(_) if self.config.is_open && heard.is_new => {
                out.push(Output::Event(Event::Dialling { addr }));
                out.push(Output::Dial { addr, node_id: None, is_stranger: true });
            }
            _ => {}
        }
    }

    pub(super) fn consult_members(&mut self, now: Now, input: membership::Input<'_>, out: &mut Vec<Output>) {
        let mut wanted = Vec::new();
        self.membership.handle(now, input, &mut wanted);
        for output in wanted {
            match output {
                membership::Output::Send { to, bytes } => {
                    out.push(Output::Send { to: discovery::To::One(to), bytes });
                }
                membership::Output::Changed { node_id, liveness, because } => {
                    if liveness == Liveness::Alive && because != membership::ANSWERED {
                        self.note_newcomer(now, &node_id);
                    }
                    let name = self.name_of(&node_id);
                    out.push(Output::Event(Event::Believed { name, liveness, because }));
                    out.push(Output::RosterChanged);
                }
                // Until now nobody could be told where it is.
                membership::Output::Located { node_id } => self.note_newcomer(now, &node_id),
                membership::Output::Solicit => {
                    self.discover(now, discovery::Input::Solicit { to: Vec::new() }, out);
                    self.consult_book(now, book::Input::Healing, out);
                }
                membership::Output::Refused { from, reason } => {
                    out.push(Output::Event(Event::DatagramRefused { from, reason: reason.as_str() }));
                }
            }
        }
    }

    pub(super) fn name_of(&self, node_id: &NodeId) -> String {
        let said = self.known.get(node_id).map(|known| display_name(&known.info));
        said.filter(|name| !name.is_empty())
            .or_else(|| self.discovery.machine(node_id.as_str()).map(|heard| heard.hostname.clone()))
            .unwrap_or_else(|| node_id.to_string())
    }
}
