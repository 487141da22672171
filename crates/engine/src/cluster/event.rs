//! What happens among machines, each with its code: logged, counted and shown in the live log by one word.

use std::net::{IpAddr, SocketAddr};

use caelum_model::cluster::Liveness;

/// How a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The other side closed it in good order.
    Goodbye,
    /// The other side let go of it without a word, as a killed process does.
    Cut,
    /// The other side's host did not answer any more.
    TimedOut,
    /// Anything else.
    Failed,
    /// We ended it.
    Ours,
}

impl Ended {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Cut => "link closed",
            Self::TimedOut => "host does not answer",
            Self::Failed => "link failed",
            Self::Ours => "link ended by us",
        }
    }
}

/// How somebody spoke to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// By a beacon or another datagram.
    Beacon,
    /// By a link.
    Link,
}

impl Way {
    /// For people and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Beacon => "beacon",
            Self::Link => "link",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A machine was heard for the first time, or again after it was lost.
    Discovered {
        /// Its name.
        hostname: String,
        /// Where from.
        from: SocketAddr,
        /// Whether it proved to be of this cluster.
        is_proven: bool,
    },
    /// A machine is silent for longer than the time-out.
    Silent {
        /// Its name.
        hostname: String,
    },
    /// A dial is made.
    Dialling {
        /// Where to.
        addr: SocketAddr,
    },
    /// A link is up and both sides know each other.
    Linked {
        /// The other side's name.
        name: String,
        /// Where it is.
        addr: SocketAddr,
        /// Whether we dialled.
        is_dialled: bool,
    },
    /// A dial led to nothing.
    DialFailed {
        /// Where to.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// A link is gone.
    Unlinked {
        /// The other side's name.
        name: String,
        /// How.
        how: Ended,
    },
    /// A link was refused or ended by us.
    Refused {
        /// The other side.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The belief about a node changed.
    Believed {
        /// Its name.
        name: String,
        /// What is believed.
        liveness: Liveness,
        /// Why.
        because: &'static str,
    },
    /// Somebody whose network has no access spoke to us. Told once in a while for each address.
    ShutOut {
        /// Where from.
        from: IpAddr,
        /// What was refused.
        what: Way,
    },
    /// A datagram was not accepted.
    DatagramRefused {
        /// Its source.
        from: SocketAddr,
        /// Why.
        reason: &'static str,
    },
}

impl Event {
    /// The code; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Discovered { .. } => "discovery.machine_discovered",
            Self::Silent { .. } => "discovery.machine_silent",
            Self::Dialling { .. } => "link.dialling",
            Self::Linked { .. } => "link.up",
            Self::DialFailed { .. } => "link.dial_failed",
            Self::Unlinked { .. } => "link.down",
            Self::Refused { .. } => "link.refused",
            Self::Believed { liveness: Liveness::Alive, .. } => "membership.node_alive",
            Self::Believed { liveness: Liveness::Suspect, .. } => "membership.node_suspect",
            Self::Believed { liveness: Liveness::Dead, .. } => "membership.node_dead",
            Self::Believed { liveness: Liveness::Left, .. } => "membership.node_left",
            Self::ShutOut { .. } => "access.refused",
            Self::DatagramRefused { .. } => "discovery.datagram_refused",
        }
    }

    /// Whether it is worth a line in the log of an operator; the rest is for developers.
    pub fn is_news(&self) -> bool {
        match self {
            Self::Discovered { .. } | Self::Silent { .. } | Self::Linked { .. } | Self::DialFailed { .. } => {
                true
            }
            Self::Unlinked { how, .. } => !matches!(how, Ended::Ours),
            Self::Believed { liveness, .. } => *liveness != Liveness::Suspect,
            Self::Refused { .. } | Self::ShutOut { .. } => true,
            Self::Dialling { .. } | Self::DatagramRefused { .. } => false,
        }
    }
}

/// The sentence of the log.
impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Discovered { hostname, from, .. } => {
                write!(f, "UDP discovered new Caelum machine: {hostname} ({})", from.ip())
            }
            Self::Silent { hostname } => {
                write!(f, "{hostname} has not been heard for longer than the time-out")
            }
            Self::Dialling { addr } => write!(f, "connecting to {addr}"),
            Self::Linked { name, addr, is_dialled: true } => write!(f, "connected to {name} ({addr})"),
            Self::Linked { name, addr, is_dialled: false } => write!(f, "{name} ({addr}) connected to us"),
            Self::DialFailed { addr, reason } => write!(f, "could not connect to {addr}: {reason}"),
            Self::Unlinked { name, how } => write!(f, "the link to {name} is gone: {}", how.as_str()),
            Self::Refused { addr, reason } => write!(f, "refused a link from {addr}: {reason}"),
            Self::Believed { name, liveness, because } => {
                write!(f, "{name} is {}: {because}", liveness.as_str())
            }
            Self::ShutOut { from, what } => {
                write!(f, "refused a {} from {from}: its network is not in cluster.access", what.as_str())
            }
            Self::DatagramRefused { from, reason } => write!(f, "refused a datagram from {from}: {reason}"),
        }
    }
}
