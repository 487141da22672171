//! Who a node is to SWIM: its id, where it is heard, which run of its program, and which turn of that run.

use std::net::SocketAddr;

use caelum_model::id::NodeId;
use serde::{Deserialize, Serialize};

/// A place at the table. The dead keep their seat; whoever was declared dead by mistake takes the next turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The node.
    pub node_id: NodeId,
    /// Where it is heard.
    pub addr: SocketAddr,
    /// The run of its program.
    pub run: u64,
    /// How often it had to contradict its own death in this run.
    pub turn: u16,
}

impl foca::Identity for Seat {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { turn: self.turn.wrapping_add(1), ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node_id.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.run, self.turn) > (adversary.run, adversary.turn)
    }
}
