//! The value itself: what happened goes to the part it concerns, and what that part wants is carried on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use caelum_model::{
    cluster::{Liveness, NodePass, NodeRole, PeerView},
    envelope::{CaelumInfo, Envelope, Heartbeat, MachineInfo, MessageType, RosterDelta, RosterSeat},
    id::NodeId,
};
use serde_json::json;

use super::{Ended, Event, Input, Output};
use crate::{
    Now,
    discovery::{self, Discovery, Gone, Heard, Proof},
    link::{self, Capacity, Closing, LinkId, Peer, Session, World, book, book::Book},
    membership::{self, Membership},
    packet,
};

/// Most strangers that are remembered.
const STRANGERS_MAX: usize = 1_024;
/// Most nodes whose description is remembered.
const KNOWN_MAX: usize = 4_096;

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
    /// Nodes that are not admitted.
    pub revoked: BTreeSet<NodeId>,
    /// Chance.
    pub seed: u64,
}

pub(super) struct Line {
    pub(super) session: Session,
    pub(super) pass: Option<NodePass>,
    pub(super) remote: SocketAddr,
    pub(super) is_dialled: bool,
    pub(super) opened_ms: i64,
    is_registered: bool,
    said_goodbye: bool,
    was_refused: bool,
    name: String,
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
    book: Book,
    world: World,
    pub(super) lines: BTreeMap<LinkId, Line>,
    pub(super) known: BTreeMap<NodeId, Known>,
    pub(super) strangers: BTreeMap<String, (MachineInfo, SocketAddr, i64)>,
    pub(super) refused: BTreeMap<SocketAddr, String>,
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
            lines: BTreeMap::new(),
            known: BTreeMap::new(),
            strangers: BTreeMap::new(),
            refused: BTreeMap::new(),
            config,
        }
    }

    /// When to wake it.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        let sessions = self.lines.values().filter_map(|line| line.session.next_wakeup_ms());
        let parts =
            [self.discovery.next_wakeup_ms(), self.membership.next_wakeup_ms(), self.book.next_wakeup_ms()];
        sessions.chain(parts.into_iter().flatten()).min()
    }

    /// Nodes that are linked now.
    pub fn linked(&self) -> impl Iterator<Item = &NodeId> {
        self.lines
            .values()
            .filter(|line| line.is_registered)
            .filter_map(|line| line.pass.as_ref().map(|pass| &pass.node_id))
    }

    /// Whether a server is linked.
    pub fn is_served(&self) -> bool {
        let is_server = |line: &Line| line.pass.as_ref().is_some_and(|pass| pass.role == NodeRole::Server);
        self.lines.values().any(|line| line.is_registered && is_server(line))
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
            Input::Solicit(to) => self.discover(now, discovery::Input::Solicit { to }, out),
            Input::Connect(addr) => {
                out.push(Output::Event(Event::Dialling { addr }));
                out.push(Output::Dial { addr, node_id: None, is_stranger: false });
            }
            Input::Heartbeat(heartbeat) => self.report(now, *heartbeat, out),
            Input::Me(me) => {
                self.world.me = *me;
                self.speak_all(now, |_| true, || link::Input::Updated, out);
            }
            Input::Services(services) => {
                self.world.services.clone_from(&services);
                if let Some(caelum) = &mut self.world.me.caelum {
                    caelum.services.clone_from(&services);
                }
                self.discover(now, discovery::Input::Services(services), out);
                self.speak_all(now, |_| true, || link::Input::Updated, out);
            }
            Input::Delta(delta) => self.change(now, delta, true, out),
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
            Input::Answer { link, correlation_id, message_type, payload } => {
                self.speak(
                    now,
                    link,
                    link::Input::Answer { correlation: &correlation_id, message_type, payload },
                    out,
                );
            }
            Input::Stop => {
                self.speak_all(now, |_| true, || link::Input::Close { goodbye: true }, out);
                self.consult_members(now, membership::Input::Stop, out);
                self.discover(now, discovery::Input::Stop, out);
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
        let due: Vec<LinkId> = self
            .lines
            .iter()
            .filter(|(_, line)| line.session.next_wakeup_ms().is_some_and(|at_ms| at_ms <= now.ms))
            .map(|(link, _)| *link)
            .collect();
        for link in due {
            self.speak(now, link, link::Input::Wake, out);
        }
    }

    // --- discovery

    fn discover(&mut self, now: Now, input: discovery::Input<'_>, out: &mut Vec<Output>) {
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

    // --- membership

    fn consult_members(&mut self, now: Now, input: membership::Input<'_>, out: &mut Vec<Output>) {
        let mut wanted = Vec::new();
        self.membership.handle(now, input, &mut wanted);
        for output in wanted {
            match output {
                membership::Output::Send { to, bytes } => {
                    out.push(Output::Send { to: discovery::To::One(to), bytes });
                }
                membership::Output::Changed { node_id, liveness, because } => {
                    let name = self.name_of(&node_id);
                    out.push(Output::Event(Event::Believed { name, liveness, because }));
                    out.push(Output::RosterChanged);
                }
                membership::Output::Solicit => {
                    self.discover(now, discovery::Input::Solicit { to: Vec::new() }, out);
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

    // --- links

    fn consult_book(&mut self, now: Now, input: book::Input, out: &mut Vec<Output>) {
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

    fn open(
        &mut self,
        now: Now,
        link: LinkId,
        pass: Option<NodePass>,
        remote: SocketAddr,
        is_dialled: bool,
        out: &mut Vec<Output>,
    ) {
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
        self.lines.insert(
            link,
            Line {
                session,
                pass: pass.clone(),
                remote,
                is_dialled,
                opened_ms: now.ms,
                is_registered: false,
                said_goodbye: false,
                was_refused: false,
                name,
            },
        );
        self.speak(now, link, link::Input::Open, out);
    }

    fn ended(&mut self, now: Now, link: LinkId, how: Ended, out: &mut Vec<Output>) {
        let Some(line) = self.lines.remove(&link) else { return };
        let mut line = line;
        let mut last = Vec::new();
        line.session.handle(now, link::Input::Ended, &mut self.world, &mut last);
        for output in last {
            self.said(now, link, output, out);
        }
        let was_refused = line.was_refused;
        if line.is_registered {
            self.consult_book(now, book::Input::Closed { link, was_refused }, out);
        } else if line.is_dialled {
            self.consult_book(now, book::Input::DialFailed { addr: line.remote, was_refused }, out);
        }
        let Some(pass) = line.pass else {
            self.strangers.retain(|_, (_, remote, _)| *remote != line.remote);
            out.push(Output::RosterChanged);
            return;
        };
        if !line.is_registered || self.link_to(&pass.node_id).is_some() {
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

    fn heard_on(&mut self, now: Now, link: LinkId, out: &mut Vec<Output>) {
        let pass = self.lines.get(&link).filter(|line| line.is_registered).and_then(|line| line.pass.clone());
        if let Some(pass) = pass {
            self.consult_members(now, membership::Input::LinkHeard { node_id: pass.node_id }, out);
        }
    }

    /// The link to a node that is registered.
    fn link_to(&self, node_id: &NodeId) -> Option<LinkId> {
        let is_to = |line: &Line| line.pass.as_ref().is_some_and(|pass| pass.node_id == *node_id);
        self.lines.iter().find(|(_, line)| line.is_registered && is_to(line)).map(|(link, _)| *link)
    }

    fn speak_all<'a>(
        &mut self,
        now: Now,
        to: impl Fn(&Line) -> bool,
        input: impl Fn() -> link::Input<'a>,
        out: &mut Vec<Output>,
    ) {
        let links: Vec<LinkId> =
            self.lines.iter().filter(|(_, line)| to(line)).map(|(link, _)| *link).collect();
        for link in links {
            self.speak(now, link, input(), out);
        }
    }

    fn speak(&mut self, now: Now, link: LinkId, input: link::Input<'_>, out: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        if matches!(input, link::Input::Text(_)) {
            self.world.machines = roster_for_strangers(&self.discovery, now);
        }
        let mut wanted = Vec::new();
        line.session.handle(now, input, &mut self.world, &mut wanted);
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
                if let Some(pass) = self.lines.get(&link).and_then(|line| line.pass.clone()) {
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
                if let Some(line) = self.lines.get_mut(&link)
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

    fn registered(&mut self, now: Now, link: LinkId, info: Box<MachineInfo>, out: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        let is_first = !std::mem::replace(&mut line.is_registered, true);
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
        let seats: Vec<RosterSeat> = self
            .membership
            .nodes()
            .filter(|(_, standing)| standing.liveness == Liveness::Alive)
            .filter_map(|(node_id, standing)| {
                Some(RosterSeat { node_id: node_id.clone(), addr: standing.addr?, run: standing.run })
            })
            .collect();
        if seats.is_empty() {
            return;
        }
        let payload = json!(RosterDelta { seats, ..RosterDelta::default() });
        let tell = link::Input::Tell { message_type: MessageType::RosterDelta, targets: None, payload };
        self.speak(now, link, tell, out);
    }

    fn received(&mut self, now: Now, link: LinkId, envelope: Envelope, out: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(&link) else { return };
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

    // --- what this node says

    fn report(&mut self, now: Now, mut heartbeat: Heartbeat, out: &mut Vec<Output>) {
        heartbeat.peers = self
            .lines
            .values()
            .filter(|line| line.is_registered)
            .filter_map(|line| {
                let quality = line.session.quality();
                let node_id = line.pass.as_ref()?.node_id.clone();
                Some(PeerView { node_id, rtt_ms: quality.rtt_ms, loss_pct: quality.loss_pct })
            })
            .take(64)
            .collect();
        let payload = json!(heartbeat);
        let is_server = |line: &Line| {
            line.is_registered && line.pass.as_ref().is_some_and(|pass| pass.role == NodeRole::Server)
        };
        self.speak_all(now, is_server, || link::Input::Heartbeat(payload.clone()), out);
    }

    /// Keys or revocations changed, here or at a server.
    fn change(&mut self, now: Now, mut delta: RosterDelta, is_ours: bool, out: &mut Vec<Output>) {
        for RosterSeat { node_id, addr, run } in std::mem::take(&mut delta.seats) {
            // What is heard at first hand counts for more.
            if self.membership.standing(&node_id).is_none() && !self.config.revoked.contains(&node_id) {
                self.consult_members(now, membership::Input::Fresh { node_id, addr, run }, out);
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
            let links: Vec<LinkId> = self
                .lines
                .iter()
                .filter(|(_, line)| line.pass.as_ref().is_some_and(|pass| pass.node_id == node_id))
                .map(|(link, _)| *link)
                .collect();
            for link in links {
                if let Some(line) = self.lines.remove(&link) {
                    let reason = "this node was revoked".to_owned();
                    out.push(Output::Event(Event::Refused { addr: line.remote, reason }));
                }
                out.push(Output::Drop { link });
            }
            self.known.remove(&node_id);
        }
        if is_ours {
            let told = json!(delta);
            let is_node = |line: &Line| line.is_registered && line.pass.is_some();
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

fn display_name(info: &MachineInfo) -> String {
    let given = info.caelum.as_ref().map(|caelum| caelum.name.clone()).filter(|name| !name.is_empty());
    given.unwrap_or_else(|| {
        if info.hostname.is_empty() { info.machine_id.clone() } else { info.hostname.clone() }
    })
}

fn roster_for_strangers(discovery: &Discovery, now: Now) -> Vec<caelum_model::cluster::Machine> {
    discovery.machines().map(|heard| super::roster::machine_of(heard, now)).collect()
}
