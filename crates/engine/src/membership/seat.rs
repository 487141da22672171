//! Who a node is to SWIM: its id, where it is heard, which run of its program, and which turn of that run.

use std::net::SocketAddr;

use caelum_model::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::hash::mix;

/// A place at the table. The dead keep their seat; whoever was declared dead by mistake takes the next turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Seat {
    /// Whom it is, in a form that is compared without following a pointer: SWIM looks through all seats for
    /// each rumour, of which a large cluster has tens of thousands a second while it splits or heals. First,
    /// so that most comparisons end with it.
    #[serde(skip)]
    mark: u128,
    /// The node.
    pub node_id: NodeId,
    /// Where it is heard.
    pub addr: SocketAddr,
    /// The run of its program.
    pub run: u64,
    /// How often it had to contradict its own death in this run.
    pub turn: u16,
}

/// A seat as it travels.
#[derive(Deserialize)]
struct Written {
    node_id: NodeId,
    addr: SocketAddr,
    run: u64,
    turn: u16,
}

impl From<Written> for Seat {
    fn from(Written { node_id, addr, run, turn }: Written) -> Self {
        Self { mark: mark(&node_id), node_id, addr, run, turn }
    }
}

impl Seat {
    /// The first seat of a run.
    pub fn new(node_id: NodeId, addr: SocketAddr, run: u64) -> Self {
        Self { mark: mark(&node_id), node_id, addr, run, turn: 0 }
    }

    /// The same node at another turn of the run.
    pub(super) fn at(self, turn: u16) -> Self {
        Self { turn, ..self }
    }
}

/// An id as a number. Two nodes whose ids meet by chance are not to be expected within the age of the
/// universe; and whoever could make two meet holds the cluster's key, with which it may declare anybody dead.
fn mark(node_id: &NodeId) -> u128 {
    let bytes = node_id.as_str().as_bytes();
    let (mut high, mut low) = (bytes.len() as u64, 0x9e37_79b9_7f4a_7c15_u64);
    for part in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        let word = u64::from_le_bytes(word);
        high = mix(high ^ word);
        low = mix(low.wrapping_add(word).wrapping_mul(0xd134_2543_de82_ef95));
    }
    u128::from(high) << 64 | u128::from(low)
}

impl foca::Identity for Seat {
    type Addr = u128;

    fn renew(&self) -> Option<Self> {
        Some(Self { turn: self.turn.wrapping_add(1), ..self.clone() })
    }

    fn addr(&self) -> u128 {
        self.mark
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.run, self.turn) > (adversary.run, adversary.turn)
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn seat(id: &str, turn: u16) -> Seat {
        let addr = "10.0.0.1:8181".parse().expect("an address");
        Seat { turn, ..Seat::new(NodeId::parse(id).expect("valid"), addr, 7) }
    }

    #[test]
    fn a_seat_travels_as_its_four_fields_and_is_the_same_when_it_arrives() {
        let one = seat("n-1", 3);
        let bytes = postcard::to_stdvec(&one).expect("written");
        let fields = ("n-1", one.addr, 7_u64, 3_u16);
        assert_eq!(bytes, postcard::to_stdvec(&fields).expect("written"));
        let read: Seat = postcard::from_bytes(&bytes).expect("read");
        assert_eq!((read.addr(), &read), (one.addr(), &one));
    }

    #[test]
    fn seats_of_a_node_have_one_mark_and_those_of_many_nodes_have_many() {
        assert_eq!(seat("n-1", 0).addr(), seat("n-1", 9).addr());
        let marks: std::collections::BTreeSet<u128> =
            (0..20_000).map(|number| seat(&format!("n-{number:04}"), 0).addr()).collect();
        assert_eq!(marks.len(), 20_000);
        // Neither length nor place of the same bytes is lost.
        for (one, other) in [("a", "a\u{20}"), ("aaaaaaaab", "baaaaaaaa"), ("aaaaaaaa", "aaaaaaaaaaaaaaaa")] {
            assert_ne!(seat(one, 0).addr(), seat(other, 0).addr());
        }
    }
}
