//! A node among nodes: discovery, links and membership in one value.
//!
//! # Purpose
//!
//! What is heard by beacon, what is said on links and what SWIM finds are three views of the same machines.
//! This value joins them: it decides whom to dial, which link of two survives, who is alive, and keeps the
//! [`Roster`](caelum_model::cluster::Roster) that people and programs see. It is what the role runs and what the simulator runs a
//! thousand of.
//!
//! # Rules
//!
//! 1. A machine becomes a node by proof only: a fresh beacon under the cluster's key, or its certificate.
//! 2. Only the source of a datagram is dialled, at the port it names.
//! 3. A stranger may link only where the cluster is open, and never counts as a node.
//! 4. Whoever is revoked is dropped at once and stays out, whatever key or certificate it shows.
//! 5. Keys and revocations are taken from servers only, as their certificate says.
//! 6. Whose network has no access is neither heard nor linked with, before anything it says is looked at.
//!
//! # States
//!
//! Those of its parts; see [`crate::discovery`], [`crate::link`] and [`crate::membership`].
//!
//! # What it does not do
//!
//! It opens no socket, reads no file, and knows neither store nor pages.

mod access;
mod belief;
mod event;
mod lines;
mod linking;
mod node;
mod registration;
mod roster;
mod told;

use std::net::SocketAddr;

use caelum_model::{
    cluster::{NodePass, Service},
    envelope::{Envelope, Heartbeat, MachineInfo, MessageType, RosterDelta},
    id::NodeId,
};
use serde_json::Value;

pub use self::{
    event::{Ended, Event, Way},
    node::{Cluster, Config},
};
pub use crate::{discovery::To, link::LinkId};

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The start.
    Start,
    /// The time of [`Cluster::next_wakeup_ms`] has come.
    Wake,
    /// A datagram, of either kind.
    Datagram {
        /// Its source.
        from: SocketAddr,
        /// All of it.
        bytes: &'a [u8],
    },
    /// A link is up.
    LinkOpened {
        /// A name for it that is never used again.
        link: LinkId,
        /// What its certificate says; none for a stranger.
        pass: Option<NodePass>,
        /// The other end.
        remote: SocketAddr,
        /// Whether we dialled.
        is_dialled: bool,
    },
    /// A text frame.
    Frame {
        /// On which link.
        link: LinkId,
        /// What.
        text: &'a str,
    },
    /// A ping was answered.
    Pong {
        /// On which link.
        link: LinkId,
        /// What the ping carried.
        payload: u64,
        /// How long it took, ms.
        rtt_ms: f64,
    },
    /// A link is gone.
    LinkEnded {
        /// Which.
        link: LinkId,
        /// How.
        how: Ended,
    },
    /// A dial led to nothing.
    DialFailed {
        /// Where to.
        addr: SocketAddr,
        /// Why, for people.
        reason: String,
        /// Whether the other side was there and refused.
        was_refused: bool,
    },
    /// Somebody wants something of this node.
    Command(Command),
    /// Ask a node something; the answer comes back under the same tag.
    Ask {
        /// Whom.
        node_id: NodeId,
        /// For the answer.
        tag: u64,
        /// What.
        message_type: MessageType,
        /// With what.
        payload: Value,
        /// How long to wait, ms.
        timeout_ms: i64,
    },
    /// This node leaves.
    Stop,
}

/// What the rest of the process may want of this node.
#[derive(Debug)]
pub enum Command {
    /// Ask the network who is there: everyone, or these addresses.
    Solicit(Vec<SocketAddr>),
    /// Dial an address, whoever is there.
    Connect(SocketAddr),
    /// This node's newest metrics, for servers.
    Heartbeat(Box<Heartbeat>),
    /// This node describes itself anew.
    Me(Box<MachineInfo>),
    /// What this node offers changed.
    Services(Vec<Service>),
    /// A server's own change of keys or revocations.
    Delta(RosterDelta),
    /// The answer to [`Output::Requested`].
    Answer {
        /// On which link.
        link: LinkId,
        /// The request's `message_id`.
        correlation_id: String,
        /// What the answer is.
        message_type: MessageType,
        /// What it says.
        payload: Value,
    },
}

/// What is to be done, in order.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// To whom.
        to: To,
        /// What.
        bytes: Vec<u8>,
    },
    /// Dial.
    Dial {
        /// Where to.
        addr: SocketAddr,
        /// Who is meant, if that is known.
        node_id: Option<NodeId>,
        /// Whether a stranger without certificate is meant.
        is_stranger: bool,
    },
    /// Send a text frame.
    Frame {
        /// On which link.
        link: LinkId,
        /// What.
        text: String,
    },
    /// Send a WebSocket ping.
    Ping {
        /// On which link.
        link: LinkId,
        /// What it carries.
        payload: u64,
    },
    /// End a link in good order.
    Drop {
        /// Which.
        link: LinkId,
    },
    /// A node described itself.
    Registered {
        /// Who.
        pass: NodePass,
        /// Where from.
        remote: SocketAddr,
        /// What it says.
        info: Box<MachineInfo>,
    },
    /// A node's metrics.
    Heartbeat {
        /// Whose.
        node_id: NodeId,
        /// What they are.
        heartbeat: Box<Heartbeat>,
    },
    /// A request that is for the roles above.
    Requested {
        /// On which link.
        link: LinkId,
        /// Whose.
        pass: NodePass,
        /// What.
        envelope: Box<Envelope>,
    },
    /// An answer to [`Input::Ask`].
    Answered {
        /// The tag of the question.
        tag: u64,
        /// The answer, or why there is none.
        answer: Result<Box<Envelope>, String>,
    },
    /// A server told keys or revocations: keep them.
    Told(Box<RosterDelta>),
    /// Something to log, count and show.
    Event(Event),
    /// The roster is not what it was.
    RosterChanged,
}
