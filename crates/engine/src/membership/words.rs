//! What goes in and what comes out.

use std::net::SocketAddr;

use caelum_model::{
    cluster::{ClusterKey, Liveness},
    id::NodeId,
};

use crate::packet;

/// Who takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node_id: NodeId,
    /// Where its datagrams come from.
    pub addr: SocketAddr,
    /// This run of the program; later runs have larger numbers.
    pub run: u64,
    /// Keys of the cluster, newest last.
    pub keys: Vec<ClusterKey>,
    /// Chance.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The time of [`Membership::next_wakeup_ms`] has come.
    Wake,
    /// A membership datagram.
    Datagram {
        /// Its source.
        from: SocketAddr,
        /// All of it.
        bytes: &'a [u8],
    },
    /// A beacon proved that this node of the cluster runs and hears us.
    Fresh {
        /// Who.
        node_id: NodeId,
        /// Where from.
        addr: SocketAddr,
        /// Its run.
        run: u64,
    },
    /// A server told that this node of the cluster runs. It tells all its links, so nobody tells it on.
    Introduced {
        /// Who.
        node_id: NodeId,
        /// Where it is heard.
        addr: SocketAddr,
        /// Its run.
        run: u64,
        /// Its turn in that run.
        turn: u16,
    },
    /// A link to a node of the cluster is up.
    LinkUp {
        /// To whom.
        node_id: NodeId,
        /// Its run.
        run: u64,
    },
    /// Something came over the link to a node.
    LinkHeard {
        /// From whom.
        node_id: NodeId,
    },
    /// The last link to a node is gone.
    LinkDown {
        /// To whom.
        node_id: NodeId,
        /// Whether it said goodbye.
        is_goodbye: bool,
        /// How it ended, for people.
        because: &'static str,
    },
    /// A node said goodbye in a beacon that is proven.
    Goodbye {
        /// Who.
        node_id: NodeId,
    },
    /// A node is no longer admitted.
    Revoked {
        /// Who.
        node_id: NodeId,
    },
    /// The keys of the cluster changed.
    Keys(Vec<ClusterKey>),
    /// This node leaves.
    Stop,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// To whom.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// The belief about a node changed.
    Changed {
        /// About whom.
        node_id: NodeId,
        /// What is believed now.
        liveness: Liveness,
        /// Why.
        because: &'static str,
    },
    /// A node that lives can be reached by datagrams, and could not before; or it has taken a new seat.
    Located {
        /// Who.
        node_id: NodeId,
    },
    /// Ask everyone who is there: a split may be healing.
    Solicit,
    /// A datagram was not accepted.
    Refused {
        /// Its source.
        from: SocketAddr,
        /// Why.
        reason: packet::Refusal,
    },
}
