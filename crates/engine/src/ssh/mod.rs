//! Connections to other machines, shared by everybody who runs commands there.
//!
//! # Purpose
//! A host has few slots: `sshd` refuses the eleventh channel of a connection (`MaxSessions 10`) and drops
//! connections that are made too fast (`MaxStartups 10:30:100`). [`Slots`] says when to connect, on which
//! connection a command runs, when a connection is closed, and who is told that it will not be.
//!
//! # Rules
//! - Never more than `connections_per_host` connections to a place, being made or open, and never more than
//!   `channels_per_connection` commands on one of them.
//! - Every request is answered exactly once: by `Run` or by `Refuse`. (A command that could not begin, because
//!   the connection went away or had no channel left, goes back to the front and is answered again.)
//! - Who waits at a place is served in turn with the others who wait there, and places in turn with other
//!   places.
//! - At most `handshakes` connections are made at once, of those that are quick. One that takes longer than
//!   `slow_after_ms` costs nothing but waiting and stands aside, so that hosts that do not answer hold up
//!   nobody. A place that failed last time begins aside.
//! - A connect that timed out is not tried again at once: until the back-off is over its place refuses with
//!   what happened.
//! - A connection without commands is closed after `idle_ms`.
//!
//! # States
//! ```text
//! request:     waiting ── Run ──> running ── Done ──> gone
//!                 │  ^──── NotBegun ──┘
//!                 └─ Refuse, Withdraw ──> gone
//! connection:  connecting ── Connected ──> open ── Close, Lost ──> gone
//!                   └── ConnectFailed, time-out ──> gone
//! ```
//!
//! # What it does not do
//! It knows no keys, addresses or commands; it does not time commands; it opens nothing. Beside it stand
//! [`gather`], which bounds what a command writes, [`groups`], which puts equal results together, and
//! [`choice`], which finds the hosts that words stand for.

pub mod choice;
pub mod gather;
pub mod groups;
mod slots;
#[cfg(test)]
mod tests;

use caelum_model::{
    UnixMs,
    ssh::{HostKeyProblem, SshOutcome},
};

pub use slots::Slots;

/// Whom a command is run as and where: `user@host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub std::sync::Arc<str>);

impl Place {
    /// The place of a user at an address; an IPv6 address stands in brackets.
    pub fn of(user: &str, host: &str, port: u16) -> Self {
        let text = if host.contains(':') {
            format!("{user}@[{host}]:{port}")
        } else {
            format!("{user}@{host}:{port}")
        };
        Self(text.into())
    }
}

/// One request for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One connection, from the attempt to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Who asks, as far as taking turns goes: requests of one broadcast have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub u64);

/// What the slots allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to one place.
    pub connections_per_host: usize,
    /// Commands at once on one connection; below `MaxSessions` of sshd.
    pub channels_per_connection: usize,
    /// Connections that are made at once, over all places.
    pub handshakes: usize,
    /// Of those that take long, how many stand aside.
    pub slow_handshakes: usize,
    /// From when on one takes long, ms.
    pub slow_after_ms: i64,
    /// Connections to all places.
    pub connections: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Time to connect, ms.
    pub connect_timeout_ms: i64,
    /// Time without a command after which a connection is closed, ms.
    pub idle_ms: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_host: 3,
            channels_per_connection: 8,
            handshakes: 16,
            slow_handshakes: 256,
            slow_after_ms: 1_000,
            connections: 2_048,
            waiting: 100_000,
            connect_timeout_ms: 30_000,
            idle_ms: 300_000,
        }
    }
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The host is there and something lasting stands against it: its key, or ours.
    Refused,
    /// The host dropped the connection before it said anything, as sshd does when too many come at once.
    Dropped,
    /// Nobody answered in time.
    TimedOut,
    /// It cannot be reached, or broke off.
    Unreachable,
}

/// Why a command does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind it was.
    pub kind: FailureKind,
    /// What happened and what to do, in words.
    pub because: String,
    /// The key that stood against it, where one did.
    pub host_key: Option<HostKeyProblem>,
}

impl Failure {
    /// A failure without a key in it.
    pub fn new(kind: FailureKind, because: impl Into<String>) -> Self {
        Self { kind, because: because.into(), host_key: None }
    }

    /// The outcome that whoever asked is told.
    pub fn outcome(&self) -> SshOutcome {
        match self.kind {
            FailureKind::Refused => SshOutcome::Refused,
            FailureKind::Dropped | FailureKind::TimedOut | FailureKind::Unreachable => {
                SshOutcome::Unreachable
            }
        }
    }
}

/// Why a command could not begin on the connection it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// The server refuses another channel on it.
    Full,
    /// It is gone.
    Gone,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody wants a channel.
    Ask {
        /// Its number; each is given once.
        ticket: Ticket,
        /// Where.
        place: Place,
        /// For whom.
        owner: Owner,
        /// How long it is worth waiting.
        until_ms: UnixMs,
    },
    /// Who asked wants nothing any more, whether it waits or runs.
    Withdraw(Ticket),
    /// A command is over.
    Done(Ticket),
    /// A command could not begin where it was sent.
    NotBegun(Ticket, NotBegun),
    /// A connection is open.
    Connected(ConnectionId),
    /// A connection could not be made.
    ConnectFailed(ConnectionId, Failure),
    /// An open connection is gone.
    Lost(ConnectionId),
    /// Somebody wants connections without commands closed now, and forgiveness for places that failed.
    Clean,
    /// Time went by.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect; the answer is `Connected` or `ConnectFailed`.
    Connect(ConnectionId, Place),
    /// Run the command of this ticket on this connection.
    Run {
        /// Whose turn it is.
        ticket: Ticket,
        /// Where.
        connection: ConnectionId,
        /// Whether a command ran there before.
        is_reused: bool,
    },
    /// Tell whoever asked that it will not run.
    Refuse(Ticket, Failure),
    /// Close a connection, or give up making it.
    Close(ConnectionId),
}
