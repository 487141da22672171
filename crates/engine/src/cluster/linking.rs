//! Links that come and go, and what is said on them.

use std::net::SocketAddr;

use caelum_model::{cluster::NodePass, id::NodeId};

use super::{Ended, Event, Output, Way, lines::Line, node::Cluster, roster::machine_of};
use crate::{
    Now,
    link::{self, Closing, LinkId, Peer, Session, book},
    membership,
};

/// Kinds of messages whose answer takes the list of machines, which is too long to be made for each frame.
/// Strangers get it for all they say: whom they claim to be is looked up in it.
const ASKING: [&str; 2] = ["machine_discover", "service_query"];

impl Cluster {
    pub(super) fn consult_book(&mut self, now: Now, input: book::Input, out: &mut Vec<Output>) {
        let mut wanted = Vec::new();
        self.book.handle(now, input, &mut wanted);
        for output in wanted {
            match output {
                book::Output::Dial { addr, node_id } => {
                    out.push(Output::Event(Event::Dialling { addr }));
                    out.push(Output::Dial { addr, node_id, is_stranger: false });
                }
                book::Output::Drop { link, .. } => {
                    self.speak(now, link, link::Input::Close { goodbye: false }, out);
                }
            }
        }
    }

    pub(super) fn open(
        &mut self,
        now: Now,
        link: LinkId,
        pass: Option<NodePass>,
        remote: SocketAddr,
        is_dialled: bool,
        out: &mut Vec<Output>,
    ) {
        // Where we dial is our own settings' word.
        if !is_dialled && !self.is_admitted(now, remote.ip(), Way::Link, out) {
            out.push(Output::Drop { link });
            return;
        }
        let refusal = match &pass {
            None if !self.config.is_open => Some("it showed no certificate of this cluster"),
            Some(pass) if self.config.revoked.contains(&pass.node_id) => Some("this node was revoked"),
            Some(pass) if pass.node_id == self.config.node_id => Some("it is this node itself"),
            Some(pass) if pass.expires_at_ms <= now.wall_ms => Some("its certificate has run out"),
            _ => None,
        };
        if let Some(reason) = refusal {
            out.push(Output::Event(Event::Refused { addr: remote, reason: reason.to_owned() }));
            out.push(Output::Drop { link });
            return;
        }
        self.refused.remove(&remote);
        let peer = Peer { pass: pass.clone(), addr: remote, is_dialled };
        let session = Session::new(now, peer, self.config.seed ^ link.0);
        let name = pass.as_ref().map_or_else(|| remote.to_string(), |pass| self.name_of(&pass.node_id));
        self.lines.insert(link, Line::new(session, pass, remote, is_dialled, now.ms, name));
        self.speak(now, link, link::Input::Open, out);
    }

    pub(super) fn ended(&mut self, now: Now, link: LinkId, how: Ended, out: &mut Vec<Output>) {
        let Some(mut line) = self.lines.remove(link) else { return };
        let mut last = Vec::new();
        line.session.handle(now, link::Input::Ended, &mut self.world, &mut last);
        for output in last {
            self.said(now, link, output, out);
        }
        let was_refused = line.was_refused;
        if line.is_registered() {
            self.consult_book(now, book::Input::Closed { link, was_refused }, out);
        } else if line.is_dialled {
            self.consult_book(now, book::Input::DialFailed { addr: line.remote, was_refused }, out);
        }
        let is_registered = line.is_registered();
        let Some(pass) = line.pass else {
            self.strangers.retain(|_, (_, remote, _)| *remote != line.remote);
            out.push(Output::RosterChanged);
            return;
        };
        if !is_registered || self.link_to(&pass.node_id).is_some() {
            return;
        }
        out.push(Output::Event(Event::Unlinked { name: line.name, how }));
        let down = membership::Input::LinkDown {
            node_id: pass.node_id,
            is_goodbye: line.said_goodbye,
            because: how.as_str(),
        };
        self.consult_members(now, down, out);
        out.push(Output::RosterChanged);
    }

    pub(super) fn heard_on(&mut self, now: Now, link: LinkId, out: &mut Vec<Output>) {
        let pass =
            self.lines.get(link).filter(|line| line.is_registered()).and_then(|line| line.pass.clone());
        if let Some(pass) = pass {
            self.consult_members(now, membership::Input::LinkHeard { node_id: pass.node_id }, out);
        }
    }

    /// The link to a node that is registered.
    pub(super) fn link_to(&self, node_id: &NodeId) -> Option<LinkId> {
        self.lines.to(node_id).find(|(_, line)| line.is_registered()).map(|(link, _)| link)
    }

    pub(super) fn speak_all<'a>(
        &mut self,
        now: Now,
        to: impl Fn(&Line) -> bool,
        input: impl Fn() -> link::Input<'a>,
        out: &mut Vec<Output>,
    ) {
        let links: Vec<LinkId> =
            self.lines.iter().filter(|(_, line)| to(line)).map(|(link, _)| link).collect();
        for link in links {
            self.speak(now, link, input(), out);
        }
    }

    pub(super) fn speak(&mut self, now: Now, link: LinkId, input: link::Input<'_>, out: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(link) else { return };
        if let link::Input::Text(text) = input
            && (line.pass.is_none() || ASKING.iter().any(|kind| text.contains(kind)))
        {
            self.world.machines = self.discovery.machines().map(|heard| machine_of(heard, now)).collect();
        }
        let mut wanted = Vec::new();
        line.session.handle(now, input, &mut self.world, &mut wanted);
        self.lines.reschedule(link);
        for output in wanted {
            self.said(now, link, output, out);
        }
    }

    fn said(&mut self, now: Now, link: LinkId, output: link::Output, out: &mut Vec<Output>) {
        match output {
            link::Output::Text(text) => out.push(Output::Frame { link, text }),
            link::Output::Ping(payload) => out.push(Output::Ping { link, payload }),
            link::Output::Registered(info) => self.registered(now, link, info, out),
            link::Output::Received(envelope) => self.received(now, link, envelope, out),
            link::Output::Requested(envelope) => {
                if let Some(pass) = self.lines.get(link).and_then(|line| line.pass.clone()) {
                    out.push(Output::Requested { link, pass, envelope: Box::new(envelope) });
                }
            }
            link::Output::Answered { tag, answer } => {
                let answer = answer.map(Box::new).map_err(|error| error.to_string());
                out.push(Output::Answered { tag, answer });
            }
            link::Output::RoundTrip { .. } | link::Output::Lost => {}
            link::Output::Unsendable { .. } => {}
            link::Output::Close { reason } => {
                if let Some(line) = self.lines.get_mut(link)
                    && reason != Closing::Asked
                {
                    line.was_refused = reason.is_refusal();
                    let event = Event::Refused { addr: line.remote, reason: reason.to_string() };
                    out.push(Output::Event(event));
                }
                out.push(Output::Drop { link });
            }
        }
    }
}
