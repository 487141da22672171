//! Links: what two nodes say to each other over one WebSocket, and which links there should be.
//!
//! # Purpose
//! [`Session`] speaks the protocol of one link, [`book::Book`] decides whom to dial and which of two links to
//! keep, [`Reservations`] keeps what was promised to others. `docs/link-protocol.md` has the words.
//!
//! # Rules
//! - Both ends send `machine_register` when a link opens, and answer the other's with `machine_update`. A link
//!   is registered as soon as either came in, so that a program which only ever does one of the two is known.
//! - A peer with a certificate is who the certificate says, or the link closes. A peer without one is a
//!   *stranger*: it may register, discover, ping and query services, and is told nothing secret.
//! - Every request gets exactly one answer. An answer is never answered, nor is an error.
//! - Every ask ends exactly once: answered, refused, timed out, or closed with the link.
//! - A ping without an answer is a lost ping and no more: a link that stalls is no evidence of death.
//!
//! # States
//! ```text
//! new --Open--> opened --register or update of the peer--> registered --Close or a broken rule--> closed
//!                  `--10 s--> closed
//! ```
//!
//! # What it does not do
//! It does not know how a link comes about or what lies in a heartbeat, and it decides nothing about whether a
//! node lives: that is membership's.

mod answer;
pub mod book;
mod bucket;
mod learn;
mod pings;
mod reservations;
mod seen;
mod session;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use caelum_model::{
    cluster::{Machine, NodePass, Service},
    envelope::{Envelope, MachineInfo, MessageType, RosterDelta},
};
use serde_json::Value;

pub use pings::Quality;
pub use reservations::{Capacity, Claim, Reservation, Reservations, ReserveError};
pub use session::Session;

/// One link of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What all sessions of a node share.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// This machine.
    pub me: MachineInfo,
    /// Machines that were heard.
    pub machines: Vec<Machine>,
    /// What this machine offers.
    pub services: Vec<Service>,
    /// On servers: keys, revocations and servers. Told to peers with a certificate only.
    pub delta: Option<RosterDelta>,
    /// What this machine has to give away.
    pub capacity: Capacity,
    /// What it has promised.
    pub reservations: Reservations,
}

/// The other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What its certificate says; a stranger has none.
    pub pass: Option<NodePass>,
    /// Its address.
    pub addr: SocketAddr,
    /// Whether we dialled it.
    pub is_dialled: bool,
}

/// What happens to a session.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The WebSocket is up.
    Open,
    /// A text frame came in.
    Text(&'a str),
    /// The answer to a WebSocket ping came in.
    Pong {
        /// The ping's payload.
        payload: u64,
        /// How long it took, ms, as whoever sent it measured.
        rtt_ms: f64,
    },
    /// The time that [`Session::next_wakeup_ms`] asked for has come.
    Wake,
    /// Ask the peer, and say how it ended under this tag.
    Ask {
        /// Handed back in [`Output::Answered`].
        tag: u64,
        /// What to ask.
        message_type: MessageType,
        /// Its payload.
        payload: Value,
        /// How long to wait for the answer, ms.
        timeout_ms: i64,
    },
    /// The answer to what was handed up as [`Output::Requested`].
    Answer {
        /// The request's `message_id`.
        correlation: &'a str,
        /// What the answer is.
        message_type: MessageType,
        /// Its payload.
        payload: Value,
    },
    /// Tell the peer, without an answer.
    Tell {
        /// What to tell.
        message_type: MessageType,
        /// For whom; none means whoever is there.
        targets: Option<Vec<String>>,
        /// Its payload.
        payload: Value,
    },
    /// Send a heartbeat with this payload.
    Heartbeat(Value),
    /// What [`World`] says of this machine, or its roster delta, has changed: tell the peer.
    Updated,
    /// End the link.
    Close {
        /// Whether this machine leaves, and says so.
        goodbye: bool,
    },
    /// The link is gone; nothing can be sent any more.
    Ended,
}

/// What should happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a text frame.
    Text(String),
    /// Send a WebSocket ping with this payload.
    Ping(u64),
    /// The peer said who it is: once, and again whenever it says so anew.
    Registered(Box<MachineInfo>),
    /// A message for whoever is above: heartbeat, goodbye, roster delta …
    Received(Envelope),
    /// A request that only whoever is above can answer, by [`Input::Answer`].
    Requested(Envelope),
    /// How an ask ended.
    Answered {
        /// The ask's tag.
        tag: u64,
        /// The answer.
        answer: Result<Envelope, AskError>,
    },
    /// A ping was answered.
    RoundTrip {
        /// How long it took, ms.
        ms: f64,
    },
    /// A ping was not answered in time.
    Lost,
    /// Something was not sent, for it is larger than a frame may be.
    Unsendable {
        /// What it was.
        message_type: MessageType,
        /// Its size, bytes.
        bytes: usize,
    },
    /// End the link. Nothing comes after it.
    Close {
        /// Why.
        reason: Closing,
    },
}

/// Why a link is ended from this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Whoever is above wanted it.
    Asked,
    /// The peer did not say who it is.
    RegistrationTimedOut,
    /// The peer refused our registration, with its reason.
    Refused(String),
    /// The peer is not who it says, or says it is another's.
    WrongIdentity {
        /// Whom it claimed to be.
        claimed: String,
    },
    /// The other end is this very machine.
    Myself,
    /// Too much that could not be understood.
    TooManyFaults,
    /// More frames than allowed.
    TooMany,
    /// Nothing came in for a long time.
    Silent,
}

impl Closing {
    /// Whether dialling again soon is of no use.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Asked | Self::RegistrationTimedOut | Self::Silent => false,
            Self::Refused(_)
            | Self::WrongIdentity { .. }
            | Self::Myself
            | Self::TooManyFaults
            | Self::TooMany => true,
        }
    }
}

impl std::fmt::Display for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked => f.write_str("it is no longer wanted"),
            Self::RegistrationTimedOut => f.write_str("the peer did not say who it is in time"),
            Self::Refused(reason) => write!(f, "the peer refused the registration: {reason}"),
            Self::WrongIdentity { claimed } => {
                write!(f, "the peer claims to be {claimed:?}, which it may not be")
            }
            Self::Myself => f.write_str("the other end is this machine itself"),
            Self::TooManyFaults => f.write_str("the peer sent too much that cannot be understood"),
            Self::TooMany => f.write_str("the peer sends more frames than allowed"),
            Self::Silent => f.write_str("nothing came in for a long time"),
        }
    }
}

/// How an ask ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The peer answered that it cannot or will not.
    #[error("the peer refused: {message} ({code})")]
    Refused {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The link ended first.
    #[error("the link ended before an answer came")]
    Closed,
    /// Too many asks are waiting for their answers.
    #[error("too many questions are waiting for their answers")]
    TooMany,
    /// The question is larger than a frame may be.
    #[error("the question is larger than a frame may be")]
    TooLarge,
}
