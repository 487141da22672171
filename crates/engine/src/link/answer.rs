//! Answers that a session gives by itself, from what the node knows.

use caelum_model::{
    cluster::{Machine, MachineState},
    envelope::{FRAME_MAX, MessageType},
};
use serde_json::{Value, json};

use super::{Claim, ReserveError, World, learn};

/// Room left in a frame for everything but the list of machines, bytes.
const FRAME_REST: usize = 64 << 10;

/// A type and a payload.
pub(super) type Answer = (MessageType, Value);

/// A refusal.
pub(super) fn error(code: &str, message: impl Into<String>) -> Answer {
    (MessageType::Error, json!({"code": code, "error": message.into()}))
}

/// Who we are.
pub(super) fn myself(world: &World, is_certified: bool) -> Answer {
    let roster = world.delta.as_ref().filter(|_| is_certified);
    (MessageType::MachineUpdate, Value::Object(learn::payload(&world.me, roster)))
}

/// Who we are and whom we have heard, as many as a frame holds.
pub(super) fn machines(world: &World, is_certified: bool) -> Answer {
    let roster = world.delta.as_ref().filter(|_| is_certified);
    let mut payload = learn::payload(&world.me, roster);
    let mut room = FRAME_MAX - FRAME_REST;
    let mut listed = Vec::new();
    for machine in &world.machines {
        let value = serde_json::to_value(machine).expect("plain values with text keys");
        let size = value.to_string().len() + 1;
        if size > room {
            break;
        }
        room -= size;
        listed.push(value);
    }
    let left_out = world.machines.len() - listed.len();
    payload.insert("discovered_machines".to_owned(), Value::Array(listed));
    if left_out > 0 {
        payload.insert("left_out".to_owned(), json!(left_out));
    }
    (MessageType::MachineUpdate, Value::Object(payload))
}

/// Who offers a service: this machine first, then machines that proved who they are, then others.
pub(super) fn service(world: &World, payload: &Value) -> Answer {
    let Some(name) = payload.get("service_name").and_then(Value::as_str) else {
        return error("invalid_request", "service_query needs service_name");
    };
    let mine = || {
        let service = world.services.iter().find(|service| service.name == name)?;
        Some((
            service,
            world.me.machine_id.as_str(),
            world.me.hostname.as_str(),
            world.me.primary_ip.as_str(),
        ))
    };
    let is_there = |machine: &&Machine| {
        matches!(machine.state, MachineState::Discovered | MachineState::Joining | MachineState::Joined)
    };
    let theirs = |is_proven: bool| {
        world.machines.iter().filter(is_there).filter(|machine| machine.authenticated == is_proven).find_map(
            |machine| {
                let service = machine.services.iter().find(|service| service.name == name)?;
                let (id, host) = (machine.machine_id.as_str(), machine.hostname.as_str());
                // The address that it was heard from; what it says of itself may lead anywhere.
                Some((service, id, host, machine.sender_ip.as_str()))
            },
        )
    };
    let location =
        mine().or_else(|| theirs(true)).or_else(|| theirs(false)).map(|(service, id, host, ip)| {
            let host_part = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            json!({
                "service_name": service.name, "service_type": service.kind, "port": service.port,
                "status": service.status, "machine_id": id, "hostname": host, "ip_address": ip,
                "endpoint": format!("http://{host_part}:{}", service.port),
            })
        });
    (MessageType::ServiceResponse, json!({"service_name": name, "location": location}))
}

/// A promise of resources, or why there is none.
pub(super) fn resources(
    world: &mut World,
    id: String,
    owner: (&str, u64),
    payload: &Value,
    now_ms: i64,
) -> Answer {
    let claim = payload.get("resource_request").unwrap_or(payload);
    let claim: Claim = match serde_json::from_value(claim.clone()) {
        Ok(claim) => claim,
        Err(cause) => return error("invalid_request", format!("the request cannot be read: {cause}")),
    };
    match world.reservations.reserve(id.clone(), owner, claim, world.capacity, now_ms) {
        Ok(held) => {
            let resources = serde_json::to_value(&held.claim).expect("finite numbers and text");
            let payload =
                json!({"reservation_id": id, "machine_id": world.me.machine_id, "resources": resources});
            (MessageType::ResourceReserved, payload)
        }
        Err(cause @ ReserveError::Invalid(_)) => error("invalid_request", cause.to_string()),
        Err(cause @ (ReserveError::Insufficient(_) | ReserveError::TooMany)) => {
            error("insufficient", cause.to_string())
        }
    }
}

/// Tasks over links are not taken (yet): whoever asks is told so at once.
pub(super) fn task(payload: &Value) -> Answer {
    let id = payload.get("task").unwrap_or(payload).get("task_id").and_then(Value::as_str);
    (MessageType::TaskFailed, json!({"task_id": id, "status": "failed", "error": "this node takes no tasks"}))
}
