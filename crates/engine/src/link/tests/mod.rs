//! Sessions, spoken to as a peer would and joined to each other, in virtual time.

mod limits;
mod registration;
mod requests;

use caelum_model::{
    cluster::{NodePass, NodeRole},
    envelope::{CaelumInfo, Envelope, MachineInfo, MessageType},
    id::NodeId,
};
use serde_json::{Value, json};

use super::{Capacity, Closing, Input, Output, Peer, Session, World};
use crate::Now;

pub(super) fn at(ms: i64) -> Now {
    Now { ms, wall_ms: 1_800_000_000_000 + ms }
}

pub(super) fn world(id: &str) -> World {
    let caelum = CaelumInfo { instance: format!("i-{id}"), ..CaelumInfo::default() };
    World {
        me: MachineInfo {
            machine_id: id.into(),
            hostname: format!("host-{id}"),
            primary_ip: "10.0.0.1".into(),
            caelum: Some(caelum),
            ..MachineInfo::default()
        },
        capacity: Capacity { cpu_cores: 4.0, memory_gb: 8.0, gpu_count: 0 },
        ..World::default()
    }
}

pub(super) fn pass(id: &str, role: NodeRole) -> NodePass {
    NodePass { node_id: NodeId::parse(id).expect("valid"), role, expires_at_ms: i64::MAX }
}

/// A session of node `me` with a peer that the test plays.
pub(super) struct Rig {
    pub session: Session,
    pub world: World,
    pub sent: u32,
}

impl Rig {
    pub fn with(pass: Option<NodePass>) -> Self {
        let peer = Peer { pass, addr: ([127, 0, 0, 1], 9).into(), is_dialled: false };
        Self { session: Session::new(at(0), peer, 7), world: world("me"), sent: 0 }
    }

    /// A session with node `n-1`, open and registered.
    pub fn node(role: NodeRole) -> Self {
        let mut rig = Self::with(Some(pass("n-1", role)));
        rig.register();
        rig
    }

    /// A session with a stranger that calls itself `n-1`.
    pub fn stranger() -> Self {
        let mut rig = Self::with(None);
        rig.register();
        rig
    }

    fn register(&mut self) {
        self.put(0, Input::Open);
        self.say(0, "machine_register", json!({"machine_info": {"machine_id": "n-1"}}));
        assert_eq!(self.session.peer_id(), Some("n-1"));
    }

    pub fn put(&mut self, ms: i64, input: Input<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        self.session.handle(at(ms), input, &mut self.world, &mut out);
        out
    }

    pub fn text(&mut self, ms: i64, value: &Value) -> Vec<Output> {
        self.put(ms, Input::Text(&value.to_string()))
    }

    /// A message of `n-1`.
    pub fn message(&mut self, message_type: &str, payload: Value) -> Value {
        self.sent += 1;
        json!({
            "message_id": format!("m-{}", self.sent), "message_type": message_type, "source_machine": "n-1",
            "target_machines": null, "timestamp": "2026-01-01T00:00:00+00:00", "payload": payload,
            "correlation_id": null,
        })
    }

    pub fn say(&mut self, ms: i64, message_type: &str, payload: Value) -> Vec<Output> {
        let message = self.message(message_type, payload);
        self.text(ms, &message)
    }
}

pub(super) fn envelopes(out: &[Output]) -> Vec<Envelope> {
    let text = |one: &Output| match one {
        Output::Text(text) => Some(serde_json::from_str(text).expect("an envelope")),
        _ => None,
    };
    out.iter().filter_map(text).collect()
}

/// The one message that was sent.
pub(super) fn only(out: &[Output]) -> Envelope {
    let mut sent = envelopes(out);
    assert_eq!(sent.len(), 1, "{out:?}");
    sent.remove(0)
}

pub(super) fn closing(out: &[Output]) -> Option<&Closing> {
    out.iter().find_map(|one| match one {
        Output::Close { reason } => Some(reason),
        _ => None,
    })
}

pub(super) fn received(out: &[Output]) -> Vec<MessageType> {
    let kind = |one: &Output| match one {
        Output::Received(envelope) => Some(envelope.message_type),
        _ => None,
    };
    out.iter().filter_map(kind).collect()
}
