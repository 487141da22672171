//! Which machines are there: beacons said and heard.
//!
//! # Purpose
//!
//! Machines of one network find each other without being told. Each says who it is, in one small datagram to
//! everybody; whoever hears it knows where to dial. A node that has just started asks, and is answered at
//! once. [`Discovery`] says what to send and judges what arrives; its report of a machine ([`Heard`]) is what
//! the dashboard shows, and, where it is proven, what membership begins with.
//!
//! # Rules
//!
//! 1. At start three beacons (0, 100–200 and 600–800 ms), the first of which asks (`solicit`); then one each
//!    [`Config::interval_ms`] ± 10 %. At the end a goodbye. Configured peers are asked each time, because
//!    nobody but us knows that they should speak to us.
//! 2. Who asks is answered at its own address after 0–50 ms, with many peers up to 500 ms; once a second for
//!    each asker and [`ANSWERS_RATE`] times a second for strangers altogether.
//! 3. A beacon under the cluster's key proves who wrote it, not when. A machine is *fresh* when it has sent,
//!    under the key, a challenge of ours that is at most five seconds old. From then on its numbers may
//!    only grow, with a window of 64 for those that overtake each other.
//! 4. Nothing but a proven beacon changes or removes what is known of a fresh machine. A later run of its
//!    program has to prove itself first; earlier ones are recordings.
//! 5. The clocks of two machines are never compared.
//! 6. A machine that was silent for [`Config::timeout_ms`] is gone, whether or not anything else is heard. If
//!    this process itself stood still it asks before it believes that.
//! 7. Memory is bounded: [`MACHINES_MAX`] machines, strangers at most half of them; and so is work: see
//!    [`limits`].
//!
//! # States
//!
//! ```text
//!              any beacon                 our challenge answered
//!   (unknown) ───────────> heard, unproven ─────────────────────> fresh ──┐ beacon with a new
//!       ^                        │                                  │  ^──┘ number, or a later
//!       │    silent, goodbye     │       silent, proven goodbye     │       run that answers
//!       └────────────────────────┴──────────────────────────────────┘
//! ```
//!
//! # What it does not do
//!
//! It opens no socket and dials nobody. It proves that a machine runs, not that the datagram took no detour:
//! whoever stands in between can pass a beacon on from an address of its own, so that only a link's
//! certificate says who is at an address. Membership datagrams share the port; see [`crate::packet`].

mod answers;
mod codec;
mod guard;
mod hearing;
mod limits;
mod speaking;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr};

use caelum_model::{
    UnixMs,
    cluster::{ClusterKey, MachineKind, Service},
    id::NodeId,
};

use self::{
    answers::Answers,
    guard::Challenges,
    hearing::{Departed, Record},
    limits::{Bucket, Chance, Sources},
};
use crate::now::Now;

/// Most machines that are known at once.
pub const MACHINES_MAX: usize = 4_096;
/// Most of them that have proven nothing.
pub const STRANGERS_MAX: usize = MACHINES_MAX / 2;
/// Answers a second to machines that have proven nothing.
pub const ANSWERS_RATE: i64 = 50;
/// Beacons a second, from all together, that prove nothing.
const STRANGERS_RATE: i64 = 500;

/// Who speaks, and how often.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node_id: NodeId,
    /// Name of its host.
    pub hostname: String,
    /// This run of its program: see [`instance_of`].
    pub instance: String,
    /// Its address, for showing.
    pub primary_ip: String,
    /// TCP port of its links.
    pub websocket_port: u16,
    /// Its cluster; may be empty.
    pub cluster_id: String,
    /// Name of its cluster; may be empty.
    pub cluster_name: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// Version of its program.
    pub version: String,
    /// What it offers.
    pub services: Vec<Service>,
    /// Time between beacons, ms.
    pub interval_ms: i64,
    /// Silence after which a machine is gone, ms.
    pub timeout_ms: i64,
    /// Keys of the cluster, newest last; none before it has joined one.
    pub keys: Vec<ClusterKey>,
    /// Peers that multicast does not reach.
    pub unicast: Vec<SocketAddr>,
    /// Whether to speak the second dialect, too. It is always understood.
    pub second_dialect: bool,
    /// Chance.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The sockets are open.
    Start,
    /// The time of [`Discovery::next_wakeup_ms`] has come.
    Wake,
    /// A datagram that is not membership's.
    Datagram {
        /// Its source.
        from: SocketAddr,
        /// All of it.
        bytes: &'a [u8],
    },
    /// Somebody wants to know who is there now.
    Solicit {
        /// Whom to ask; nobody means everyone.
        to: Vec<SocketAddr>,
    },
    /// The keys of the cluster changed.
    Keys(Vec<ClusterKey>),
    /// This node joined a cluster, or left it.
    Cluster {
        /// Its id.
        cluster_id: String,
        /// Its name.
        cluster_name: String,
    },
    /// What this node offers changed.
    Services(Vec<Service>),
    /// What this node runs changed.
    Roles(Vec<String>),
    /// The address that this node shows changed.
    PrimaryIp(String),
    /// The peers that multicast does not reach changed, or have other addresses.
    Unicast(Vec<SocketAddr>),
    /// This node leaves.
    Stop,
}

/// What is to be done, or known.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// To whom.
        to: To,
        /// What.
        bytes: Vec<u8>,
    },
    /// A machine was heard.
    Heard(Box<Heard>),
    /// A machine is no longer known.
    Gone {
        /// Who.
        machine_id: String,
        /// Why.
        why: Gone,
        /// What it had proven. With [`Gone::Goodbye`]: whether the goodbye itself is proven.
        proof: Proof,
    },
    /// A datagram was not accepted.
    Refused {
        /// Its source.
        from: SocketAddr,
        /// Why.
        reason: Refusal,
    },
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum To {
    /// Everybody, on the port of the first dialect.
    Everyone,
    /// Everybody, on the first port of the second dialect.
    EveryoneSecond,
    /// One address.
    One(SocketAddr),
}

/// Why a machine is no longer known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gone {
    /// It said so.
    Goodbye,
    /// It was silent for too long.
    Silent,
    /// A stranger that made room for a machine of the cluster.
    Crowded,
}

/// What a machine has proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proof {
    /// Nothing.
    None,
    /// That it knows the cluster's key and runs now.
    Fresh,
}

/// A machine, as it was heard last.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The id it gives itself; of the second dialect the cluster's id.
    pub machine_id: String,
    /// The name it gives itself; of the second dialect the cluster's name.
    pub hostname: String,
    /// The address it says it has. Shown, never dialled.
    pub primary_ip: String,
    /// Where the datagram came from. Dialled, with `websocket_port`.
    pub from: SocketAddr,
    /// Its cluster; may be empty.
    pub cluster_id: String,
    /// Name of its cluster; may be empty.
    pub cluster_name: String,
    /// TCP port of its links; never 0.
    pub websocket_port: u16,
    /// What it offers; empty where that did not fit.
    pub services: Vec<Service>,
    /// Which program it runs.
    pub kind: MachineKind,
    /// What it can do; second dialect only.
    pub capabilities: Option<Vec<String>>,
    /// What it is; second dialect only.
    pub role: Option<String>,
    /// What it runs.
    pub roles: Vec<String>,
    /// Version of its program; empty where it is not ours.
    pub version: String,
    /// Run of its program; empty where it is not ours. See [`run_of`].
    pub instance: String,
    /// What it has proven.
    pub proof: Proof,
    /// Whether it was unknown before.
    pub is_new: bool,
    /// Whether it was known with another instance.
    pub is_restart: bool,
    /// Whether this beacon is the one that proves this instance.
    pub is_newly_proven: bool,
    /// When, on our clock that only moves forward.
    pub heard_ms: i64,
    /// When, on our wall clock.
    pub heard_wall_ms: UnixMs,
}

/// Why a datagram was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// It is too large.
    Oversized,
    /// It is no JSON object of known fields within their bounds.
    Malformed,
    /// It is JSON, and no message that we know.
    UnknownType,
    /// It claims a key of ours, and its seal is wrong.
    BadAuth,
    /// It speaks for a machine that has proven more.
    Unproven,
    /// It was heard before, or is of a run that has ended.
    Replayed,
    /// Another machine has our id.
    DuplicateId,
    /// Too much arrives.
    TooMany,
    /// There is no room for another machine.
    Full,
}

impl Refusal {
    /// A word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::BadAuth => "bad_auth",
            Self::Unproven => "unproven",
            Self::Replayed => "replayed",
            Self::DuplicateId => "duplicate_id",
            Self::TooMany => "too_many",
            Self::Full => "full",
        }
    }
}

/// The text form of a run in beacons: of one length, so that the order of texts is that of runs.
pub fn instance_of(run: u64) -> String {
    format!("{run:016x}")
}

/// The run that an instance stands for, where it is one of ours.
pub fn run_of(instance: &str) -> Option<u64> {
    u64::from_str_radix(instance, 16).ok().filter(|run| instance_of(*run) == instance)
}

/// What one node says and hears.
#[derive(Debug)]
pub struct Discovery {
    config: Config,
    chance: Chance,
    seq: u64,
    started_ms: Option<i64>,
    /// When the regular beacon is due.
    announce_ms: Option<i64>,
    /// Beacons out of turn, soonest first.
    burst: Vec<(i64, speaking::Call)>,
    challenges: Challenges,
    sources: Sources,
    strangers: Bucket,
    answers: Answers,
    machines: BTreeMap<String, Record>,
    /// Where proven machines speak from.
    proven: BTreeMap<SocketAddr, String>,
    /// Machines that said a proven goodbye, against beacons that it overtook.
    departed: BTreeMap<String, Departed>,
    /// No machine has to be forgotten before this.
    sweep_ms: Option<i64>,
}

impl Discovery {
    /// Says and knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            chance: Chance(config.seed),
            config,
            seq: 0,
            started_ms: None,
            announce_ms: None,
            burst: Vec::new(),
            challenges: Challenges::default(),
            sources: Sources::new(),
            strangers: Bucket::full(STRANGERS_RATE, STRANGERS_RATE, 0),
            answers: Answers::new(),
            machines: BTreeMap::new(),
            proven: BTreeMap::new(),
            departed: BTreeMap::new(),
            sweep_ms: None,
        }
    }

    /// Every machine that is known, by id.
    pub fn machines(&self) -> impl Iterator<Item = &Heard> {
        self.machines.values().map(|record| &record.heard)
    }

    /// One machine.
    pub fn machine(&self, machine_id: &str) -> Option<&Heard> {
        self.machines.get(machine_id).map(|record| &record.heard)
    }

    /// Whether this run of a machine is proven.
    pub fn is_fresh(&self, machine_id: &str, instance: &str) -> bool {
        self.machine(machine_id)
            .is_some_and(|heard| heard.proof == Proof::Fresh && heard.instance == instance)
    }

    /// The key that beacons are sealed with.
    pub fn key(&self) -> Option<&ClusterKey> {
        self.config.keys.last()
    }

    /// When to wake it.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        let burst = self.burst.first().map(|(due_ms, _)| *due_ms);
        [burst, self.announce_ms, self.answers.next_due_ms(), self.sweep_ms].into_iter().flatten().min()
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Vec<Output>) {
        match input {
            Input::Start => self.start(now, out),
            Input::Wake => self.wake(now, out),
            Input::Datagram { from, bytes } => {
                if let Err(reason) = self.receive(now, from, bytes, out) {
                    out.push(Output::Refused { from, reason });
                }
                self.answer_due(now, out);
            }
            Input::Solicit { to } => self.solicit(now, &to, out),
            Input::Keys(keys) => self.change_keys(now, keys),
            Input::Cluster { cluster_id, cluster_name } => {
                (self.config.cluster_id, self.config.cluster_name) = (cluster_id, cluster_name);
                self.announce_soon(now);
            }
            Input::Services(services) => {
                self.config.services = services;
                self.announce_soon(now);
            }
            Input::Roles(roles) => {
                self.config.roles = roles;
                self.announce_soon(now);
            }
            Input::PrimaryIp(primary_ip) => {
                self.config.primary_ip = primary_ip;
                self.announce_soon(now);
            }
            Input::Unicast(unicast) => {
                self.config.unicast = unicast;
                self.announce_soon(now);
            }
            Input::Stop => self.stop(now, out),
        }
    }

    /// Takes over other keys. What was proven under a key that is no longer one is proven no more.
    fn change_keys(&mut self, now: Now, keys: Vec<ClusterKey>) {
        if keys == self.config.keys {
            return;
        }
        self.config.keys = keys;
        self.challenges.clear();
        for record in self.machines.values_mut() {
            let is_key = self.config.keys.iter().any(|key| Some(key.generation) == record.generation);
            if record.heard.proof == Proof::Fresh && !is_key {
                record.heard.proof = Proof::None;
                record.generation = None;
                self.proven.remove(&record.heard.from);
            }
        }
        // All nodes learn of a new key at about the same time, and not all ask at once.
        let delay_ms = self.chance.below(300);
        self.call(now, delay_ms);
    }
}
