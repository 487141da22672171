//! A world of nodes in virtual time: datagrams, links, crashes, freezes and splits. A run is a seed.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
};

use caelum_engine::{
    Now,
    cluster::{Cluster, Config, Ended, Event, Input, LinkId, Output, To},
    discovery,
    enrol::AccessList,
};
use caelum_model::{
    cluster::{ClusterKey, Liveness, NodePass, NodeRole},
    envelope::{CaelumInfo, MachineInfo},
    id::NodeId,
};

/// Bytes that UDP and IPv4 add to a datagram.
const UDP_HEAD: u64 = 28;
/// Bytes that WebSocket and TLS 1.3 add to a frame (RFC 6455, section 5.2; RFC 8446, section 5.2).
const FRAME_HEAD: u64 = 8 + 22;

/// What is on its way.
enum Mail {
    Datagram { from: usize, bytes: std::rc::Rc<[u8]> },
    Frame { link: LinkId, text: String },
    Pong { link: LinkId, payload: u64, rtt_ms: f64 },
    Opened { link: LinkId, from: usize, is_dialled: bool },
    Ended { link: LinkId, how: Ended },
    DialFailed { addr: SocketAddr },
}

/// What is to happen when: a letter that arrives, or without one a node that wakes.
struct Due {
    at_ms: i64,
    /// In the order in which they were posted; of one moment, wakes come first.
    number: u64,
    to: usize,
    mail: Option<Mail>,
}

impl Due {
    fn key(&self) -> (i64, u64, usize) {
        (self.at_ms, self.number, self.to)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

struct Place {
    cluster: Cluster,
    subnet: usize,
    run: u64,
    is_up: bool,
    is_frozen: bool,
    wakes_ms: i64,
}

/// The world.
pub struct World {
    places: Vec<Place>,
    ids: Vec<NodeId>,
    /// A node that did not know all when it was last looked at.
    doubtful: Cell<usize>,
    pub now_ms: i64,
    mail: BinaryHeap<Reverse<Due>>,
    count: u64,
    chance: u64,
    /// By link end: the node it belongs to, and the other end.
    ends: BTreeMap<LinkId, (usize, usize, LinkId)>,
    links: u64,
    /// Side of a split that a node is on.
    pub side: Vec<u8>,
    /// Nodes whose traffic silently vanishes.
    pub cut: BTreeSet<usize>,
    servers: usize,
    /// Bytes sent by each node since they were last counted.
    pub bytes: Vec<u64>,
    /// What was believed, when, by whom, about whom.
    pub beliefs: Vec<(i64, usize, String, Liveness)>,
    /// Datagrams lost, in a thousand.
    pub loss_permille: u64,
    /// Who was refused for its network, by whom.
    pub events: Vec<(usize, Event)>,
    /// Networks from which nodes let themselves be spoken to.
    pub access: AccessList,
    /// Bytes by kind: membership, beacons, frames, pings.
    pub kinds: [u64; 4],
}

pub fn id(number: usize) -> NodeId {
    NodeId::parse(&format!("n-{number:04}")).expect("valid")
}

/// Where a node's datagrams come from.
pub fn udp(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, (number / 250) as u8, (number % 250) as u8 + 1], 8181))
}

fn tcp(number: usize) -> SocketAddr {
    SocketAddr::new(udp(number).ip(), 8080)
}

fn number_of(addr: SocketAddr) -> Option<usize> {
    match addr {
        SocketAddr::V4(v4) => {
            let [_, _, high, low] = v4.ip().octets();
            Some(usize::from(high) * 250 + usize::from(low) - 1)
        }
        SocketAddr::V6(_) => None,
    }
}

pub fn key() -> ClusterKey {
    ClusterKey { generation: 1, secret: "5".repeat(64) }
}

impl World {
    /// `size` nodes on `subnets` networks, of which the first `servers` are servers. Each network knows the
    /// first node of the one before.
    pub fn new(size: usize, subnets: usize, servers: usize, seed: u64) -> Self {
        let mut world = Self {
            places: Vec::new(),
            ids: (0..size).map(id).collect(),
            doubtful: Cell::new(0),
            now_ms: 0,
            mail: BinaryHeap::new(),
            count: 0,
            chance: seed,
            ends: BTreeMap::new(),
            links: 0,
            side: vec![0; size],
            cut: BTreeSet::new(),
            servers,
            bytes: vec![0; size],
            beliefs: Vec::new(),
            loss_permille: 0,
            kinds: [0; 4],
            events: Vec::new(),
            access: AccessList::default(),
        };
        for number in 0..size {
            let subnet = number % subnets;
            let cluster = world.fresh(number, subnet, 1);
            world.places.push(Place {
                cluster,
                subnet,
                run: 1,
                is_up: false,
                is_frozen: false,
                wakes_ms: i64::MAX,
            });
        }
        world
    }

    fn fresh(&mut self, number: usize, subnet: usize, run: u64) -> Cluster {
        let role = if number < self.servers { NodeRole::Server } else { NodeRole::Agent };
        let info = CaelumInfo {
            name: format!("host-{number}"),
            instance: discovery::instance_of(run),
            roles: vec![role.as_str().to_owned()],
            websocket_port: 8080,
            beacon_port: 8181,
            ..CaelumInfo::default()
        };
        let seed = self.dice();
        Cluster::new(Config {
            node_id: id(number),
            role,
            run,
            udp_addr: udp(number),
            me: MachineInfo {
                machine_id: id(number).to_string(),
                hostname: format!("host-{number}"),
                primary_ip: udp(number).ip().to_string(),
                cluster_id: "c-1".to_owned(),
                caelum: Some(info),
                ..MachineInfo::default()
            },
            discovery: discovery::Config {
                node_id: id(number),
                hostname: format!("host-{number}"),
                instance: discovery::instance_of(run),
                primary_ip: udp(number).ip().to_string(),
                websocket_port: 8080,
                cluster_id: "c-1".to_owned(),
                cluster_name: "sim".to_owned(),
                roles: vec![role.as_str().to_owned()],
                version: "0.1.0".to_owned(),
                services: Vec::new(),
                interval_ms: 15_000,
                timeout_ms: 60_000,
                keys: vec![key()],
                unicast: if subnet > 0 { vec![udp(subnet - 1)] } else { Vec::new() },
                second_dialect: true,
                seed,
            },
            is_open: false,
            // Joining leaves every node with the addresses of servers.
            peers: if number < self.servers { Vec::new() } else { (0..self.servers).map(tcp).collect() },
            delta: None,
            access: self.access.clone(),
            revoked: BTreeSet::new(),
            seed,
        })
    }

    fn dice(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        caelum_engine::hash::mix(self.chance)
    }

    fn now(&self) -> Now {
        Now { ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms }
    }

    // --- what happens to nodes

    /// Starts a node, as a new run if it ran before.
    pub fn start(&mut self, number: usize) {
        let (subnet, run) = (self.places[number].subnet, self.places[number].run + 1);
        let cluster = self.fresh(number, subnet, run);
        let place = &mut self.places[number];
        (place.cluster, place.run, place.is_up, place.is_frozen) = (cluster, run, true, false);
        self.tell(number, Input::Start);
    }

    /// Kills a node: its kernel closes its sockets.
    pub fn kill(&mut self, number: usize) {
        self.places[number].is_up = false;
        let ends: Vec<LinkId> =
            self.ends.iter().filter(|(_, end)| end.0 == number).map(|(link, _)| *link).collect();
        for link in ends {
            self.hang_up(link, Ended::Cut, 1);
        }
    }

    /// A node's cable still looks plugged in, and carries nothing. Kernels give its links up after four seconds.
    pub fn silence(&mut self, number: usize) {
        self.cut.insert(number);
        let ends: Vec<LinkId> =
            self.ends.iter().filter(|(_, end)| end.0 == number).map(|(link, _)| *link).collect();
        for link in ends {
            self.hang_up(link, Ended::TimedOut, 4_000);
        }
    }

    /// Splits the world: links between the sides time out.
    pub fn split(&mut self, side_of: impl Fn(usize) -> u8) {
        self.side = (0..self.places.len()).map(side_of).collect();
        let broken: Vec<LinkId> = self
            .ends
            .iter()
            .filter(|(_, (a, b, _))| self.side[*a] != self.side[*b])
            .map(|(link, _)| *link)
            .collect();
        for link in broken {
            self.hang_up(link, Ended::TimedOut, 4_000);
        }
    }

    /// Stops or continues a process; its kernel goes on meanwhile.
    pub fn freeze(&mut self, number: usize, is_frozen: bool) {
        self.places[number].is_frozen = is_frozen;
        if !is_frozen {
            self.tell(number, Input::Wake);
        }
    }

    /// Something reaches a node from outside.
    pub fn tell(&mut self, number: usize, input: Input<'_>) {
        let mut out = Vec::new();
        let now = self.now();
        self.places[number].cluster.handle(now, input, &mut out);
        for output in out {
            self.obey(number, output);
        }
        self.arm(number);
    }

    fn arm(&mut self, number: usize) {
        let place = &mut self.places[number];
        let wakes_ms = place.cluster.next_wakeup_ms().unwrap_or(i64::MAX).max(self.now_ms);
        if wakes_ms != place.wakes_ms {
            place.wakes_ms = wakes_ms;
            if wakes_ms != i64::MAX {
                self.mail.push(Reverse(Due { at_ms: wakes_ms, number: 0, to: number, mail: None }));
            }
        }
    }

    // --- the network

    fn passes(&mut self, from: usize, to: usize) -> bool {
        self.side[from] == self.side[to] && !self.cut.contains(&from) && !self.cut.contains(&to)
    }

    fn post(&mut self, to: usize, after_ms: i64, mail: Mail) {
        self.count += 1;
        let due = Due { at_ms: self.now_ms + after_ms, number: self.count, to, mail: Some(mail) };
        self.mail.push(Reverse(due));
    }

    fn datagram(&mut self, from: usize, to: usize, bytes: &std::rc::Rc<[u8]>) {
        if !self.passes(from, to) || self.dice() % 1_000 < self.loss_permille {
            return;
        }
        let delay_ms = 1 + (self.dice() % 3) as i64;
        self.post(to, delay_ms, Mail::Datagram { from, bytes: std::rc::Rc::clone(bytes) });
    }

    fn obey(&mut self, number: usize, output: Output) {
        match output {
            Output::Send { to, bytes } => {
                self.bytes[number] += bytes.len() as u64 + UDP_HEAD;
                let k = if bytes.starts_with(&[0xca]) { 0 } else { 1 };
                self.kinds[k] += bytes.len() as u64 + UDP_HEAD;
                let bytes: std::rc::Rc<[u8]> = bytes.into();
                match to {
                    To::One(addr) => {
                        if let Some(target) = number_of(addr).filter(|target| *target < self.places.len()) {
                            self.datagram(number, target, &bytes);
                        }
                    }
                    To::Everyone | To::EveryoneSecond => {
                        // Multicast and broadcast: twice on the wire, once is enough to be heard.
                        self.bytes[number] += bytes.len() as u64 + UDP_HEAD;
                        if to == To::Everyone {
                            let subnet = self.places[number].subnet;
                            for target in 0..self.places.len() {
                                if target != number && self.places[target].subnet == subnet {
                                    self.datagram(number, target, &bytes);
                                }
                            }
                        }
                    }
                }
            }
            Output::Dial { addr, .. } => self.dial(number, addr),
            Output::Frame { link, text } => {
                self.bytes[number] += text.len() as u64 + FRAME_HEAD;
                self.kinds[2] += text.len() as u64 + FRAME_HEAD;
                if let Some((_, other, theirs)) = self.ends.get(&link).copied()
                    && self.passes(number, other)
                {
                    self.post(other, 1, Mail::Frame { link: theirs, text });
                }
            }
            Output::Ping { link, payload } => {
                self.bytes[number] += 8 + FRAME_HEAD;
                self.kinds[3] += 8 + FRAME_HEAD;
                if let Some((_, other, _)) = self.ends.get(&link).copied()
                    && self.passes(number, other)
                    && self.places[other].is_up
                    && !self.places[other].is_frozen
                {
                    self.bytes[other] += 8 + FRAME_HEAD;
                    self.post(number, 2, Mail::Pong { link, payload, rtt_ms: 2.0 });
                }
            }
            Output::Drop { link } => self.hang_up(link, Ended::Goodbye, 1),
            Output::Event(event @ Event::ShutOut { .. }) => self.events.push((number, event)),
            Output::Event(Event::Believed { name, liveness, .. }) => {
                self.beliefs.push((self.now_ms, number, name, liveness));
            }
            _ => {}
        }
    }

    fn dial(&mut self, from: usize, addr: SocketAddr) {
        let target = number_of(addr).filter(|target| *target < self.places.len() && *target != from);
        let answers = target.filter(|target| self.places[*target].is_up);
        match (target, answers) {
            (Some(to), Some(_)) if self.passes(from, to) => {
                self.links += 1;
                let (ours, theirs) = (LinkId(self.links * 2), LinkId(self.links * 2 + 1));
                self.ends.insert(ours, (from, to, theirs));
                self.ends.insert(theirs, (to, from, ours));
                self.post(from, 3, Mail::Opened { link: ours, from: to, is_dialled: true });
                self.post(to, 3, Mail::Opened { link: theirs, from, is_dialled: false });
            }
            (Some(to), _) if !self.passes(from, to) => self.post(from, 5_000, Mail::DialFailed { addr }),
            _ => self.post(from, 2, Mail::DialFailed { addr }),
        }
    }

    fn hang_up(&mut self, link: LinkId, how: Ended, after_ms: i64) {
        let Some((number, other, theirs)) = self.ends.remove(&link) else { return };
        self.ends.remove(&theirs);
        let ours = if how == Ended::Goodbye { Ended::Ours } else { how };
        self.post(number, after_ms, Mail::Ended { link, how: ours });
        self.post(other, after_ms, Mail::Ended { link: theirs, how });
    }

    /// Lets time pass.
    pub fn run(&mut self, for_ms: i64) {
        let end_ms = self.now_ms + for_ms;
        while self.mail.peek().is_some_and(|Reverse(due)| due.at_ms <= end_ms) {
            let Some(Reverse(Due { at_ms, to, mail, .. })) = self.mail.pop() else { break };
            self.now_ms = self.now_ms.max(at_ms);
            let Some(mail) = mail else {
                let place = &mut self.places[to];
                if place.wakes_ms == at_ms {
                    place.wakes_ms = i64::MAX;
                    if place.is_up && !place.is_frozen {
                        self.tell(to, Input::Wake);
                    }
                }
                continue;
            };
            if !self.places[to].is_up {
                continue;
            }
            if self.places[to].is_frozen {
                // The kernel keeps it until the process goes on.
                self.post(to, 100, mail);
                continue;
            }
            self.deliver(to, mail);
        }
        self.now_ms = end_ms;
    }

    fn deliver(&mut self, to: usize, mail: Mail) {
        match mail {
            Mail::Datagram { from, bytes } => {
                self.tell(to, Input::Datagram { from: udp(from), bytes: &bytes });
            }
            Mail::Frame { link, text } => self.tell(to, Input::Frame { link, text: &text }),
            Mail::Pong { link, payload, rtt_ms } => self.tell(to, Input::Pong { link, payload, rtt_ms }),
            Mail::Opened { link, from, is_dialled } => {
                let role = if from < self.servers { NodeRole::Server } else { NodeRole::Agent };
                let pass = NodePass { node_id: id(from), role, expires_at_ms: i64::MAX };
                let remote = if is_dialled { tcp(from) } else { SocketAddr::new(udp(from).ip(), 40_000) };
                self.tell(to, Input::LinkOpened { link, pass: Some(pass), remote, is_dialled });
            }
            Mail::Ended { link, how } => self.tell(to, Input::LinkEnded { link, how }),
            Mail::DialFailed { addr } => {
                let reason = "connection refused".to_owned();
                self.tell(to, Input::DialFailed { addr, reason, was_refused: false });
            }
        }
    }

    // --- what can be seen

    /// Whether every node that runs knows every other as alive. Looks first at the node that did not the last
    /// time: in large worlds this is asked often.
    pub fn all_know_all(&self) -> bool {
        let size = self.places.len();
        let first = self.doubtful.get();
        for one in (0..size).map(|offset| (first + offset) % size) {
            if self.places[one].is_up
                && (0..size).any(|other| self.places[other].is_up && !self.knows(one, other))
            {
                self.doubtful.set(one);
                return false;
            }
        }
        true
    }

    /// Pairs of running nodes of which one does not know the other as alive.
    pub fn missing(&self) -> usize {
        let up: Vec<usize> = (0..self.places.len()).filter(|number| self.places[*number].is_up).collect();
        up.iter().map(|one| up.iter().filter(|other| !self.knows(*one, **other)).count()).sum()
    }

    fn knows(&self, one: usize, other: usize) -> bool {
        let liveness = || self.places[one].cluster.liveness(&self.ids[other]);
        one == other || matches!(liveness(), Some(Liveness::Alive | Liveness::Suspect))
    }

    /// Whether every node that runs believes this one gone.
    pub fn all_miss(&self, number: usize) -> bool {
        (0..self.places.len())
            .filter(|one| *one != number && self.places[*one].is_up)
            .all(|one| !self.knows(one, number))
    }

    /// The time until something holds, looked at every 10 ms, in large worlds every 100 ms.
    pub fn until(&mut self, at_most_ms: i64, holds: impl Fn(&Self) -> bool) -> Option<i64> {
        let step_ms = if self.places.len() > 100 { 100 } else { 10 };
        let from_ms = self.now_ms;
        while self.now_ms - from_ms <= at_most_ms {
            if holds(self) {
                return Some(self.now_ms - from_ms);
            }
            self.run(step_ms);
        }
        None
    }

    /// How many links each pair of nodes has; only pairs with any.
    pub fn links_by_pair(&self) -> BTreeMap<(usize, usize), usize> {
        let mut pairs = BTreeMap::new();
        for (one, other, _) in self.ends.values() {
            if one < other {
                *pairs.entry((*one, *other)).or_default() += 1;
            }
        }
        pairs
    }

    /// Node's view.
    pub fn cluster(&self, number: usize) -> &Cluster {
        &self.places[number].cluster
    }
}
