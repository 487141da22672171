//! One link's protocol: see the rules in the module's text. What goes out is put together in [`speak`].

mod speak;

use std::collections::BTreeMap;

use caelum_model::{
    cluster::NodeRole,
    envelope::{Envelope, FRAME_MAX, MachineInfo, MessageType},
};
use serde_json::{Value, json};

use super::{
    AskError, Closing, Input, Output, Peer, Quality, World, answer,
    bucket::Bucket,
    learn,
    pings::{Due, Pings},
    seen::Seen,
};
use crate::{Now, hash::mix, timestamp};

/// Time in which the peer has to say who it is, ms.
const REGISTRATION_MAX_MS: i64 = 10_000;
/// Silence after which a link is given up, ms.
const SILENCE_MAX_MS: i64 = 60_000;
/// A wake-up this late means that we did not run meanwhile, ms.
const OVERSLEPT_MS: i64 = 3_000;
/// Asks that wait for their answers.
const ASKS_MAX: usize = 256;
/// Requests of the peer that wait for whoever is above, and for how long, ms.
const OWED_MAX: usize = 64;
const OWED_MAX_MS: i64 = 30_000;
/// Longest time an ask may wait, ms.
const ASK_MAX_MS: i64 = 120_000;
/// Largest frame of a stranger, bytes.
const STRANGER_FRAME_MAX: usize = 64 << 10;
/// Longest id of a message or a machine, bytes.
const ID_MAX: usize = 128;
/// Faults after which a peer is given up; one is forgiven each minute.
const FAULTS_MAX: f64 = 20.0;

/// One link.
#[derive(Clone, Debug)]
pub struct Session {
    peer: Peer,
    seed: u64,
    sent: u64,
    peer_id: Option<String>,
    register_id: String,
    state: State,
    opened_ms: i64,
    heard_ms: i64,
    frames: Bucket,
    faults: Bucket,
    complaints: Bucket,
    seen: Seen,
    asks: BTreeMap<String, Asked>,
    owed: BTreeMap<String, i64>,
    pings: Pings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Open,
    Closed,
}

#[derive(Clone, Debug)]
struct Asked {
    tag: u64,
    until_ms: i64,
}

impl Session {
    /// A session over a link that is about to open. The seed makes its message ids: no two sessions of all
    /// nodes should have the same.
    pub fn new(now: Now, peer: Peer, seed: u64) -> Self {
        let (per_s, burst) = if peer.pass.is_some() { (200.0, 400.0) } else { (20.0, 40.0) };
        Self {
            peer,
            seed,
            sent: 0,
            peer_id: None,
            register_id: String::new(),
            state: State::New,
            opened_ms: now.ms,
            heard_ms: now.ms,
            frames: Bucket::new(per_s, burst, now.ms),
            faults: Bucket::new(1.0 / 60.0, FAULTS_MAX, now.ms),
            complaints: Bucket::new(1.0, 5.0, now.ms),
            seen: Seen::default(),
            asks: BTreeMap::new(),
            owed: BTreeMap::new(),
            // Not all links of a node ping at the same moment.
            pings: Pings::new(now.ms + (mix(seed) % 1_000) as i64),
        }
    }

    /// Takes what happened and says what should.
    pub fn handle(&mut self, now: Now, input: Input<'_>, world: &mut World, out: &mut Vec<Output>) {
        match (self.state, &input) {
            (State::Open, _) | (State::New, Input::Close { .. } | Input::Ended) => {}
            (State::New, Input::Open) => self.open(now, world, out),
            (State::New | State::Closed, Input::Ask { tag, .. }) => {
                out.push(Output::Answered { tag: *tag, answer: Err(AskError::Closed) });
                return;
            }
            (State::New | State::Closed, _) => return,
        }
        if matches!(input, Input::Text(_) | Input::Pong { .. }) {
            self.heard_ms = now.ms;
        }
        self.run_out(now, world, out);
        if self.state == State::Closed {
            return;
        }
        match input {
            Input::Open | Input::Wake => {}
            Input::Text(text) => self.read(now, text, world, out),
            Input::Pong { payload, rtt_ms } => {
                if self.pings.answered(payload, rtt_ms) {
                    out.push(Output::RoundTrip { ms: rtt_ms });
                }
            }
            Input::Ask { tag, message_type, payload, timeout_ms } => {
                let until_ms = now.ms + timeout_ms.clamp(1, ASK_MAX_MS);
                self.ask(now, Asked { tag, until_ms }, (message_type, payload), world, out);
            }
            Input::Answer { correlation, message_type, payload } => {
                if self.owed.remove(correlation).is_some() {
                    self.reply(now, correlation, (message_type, payload), world, out);
                }
            }
            Input::Tell { message_type, targets, payload } => {
                self.send(now, (message_type, payload), targets, None, world, out);
            }
            Input::Heartbeat(payload) => {
                self.send(now, (MessageType::MachineHeartbeat, payload), None, None, world, out);
            }
            Input::Updated => {
                let update = answer::myself(world, self.peer.pass.is_some());
                self.send(now, update, None, None, world, out);
            }
            Input::Close { goodbye } => {
                if goodbye {
                    self.send(now, (MessageType::MachineGoodbye, json!({})), None, None, world, out);
                }
                self.close(Closing::Asked, world, out);
            }
            Input::Ended => self.end(world, out),
        }
    }

    /// When [`Input::Wake`] is due; none once the link is closed.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        if self.state != State::Open {
            return None;
        }
        let registration = self.peer_id.is_none().then_some(self.opened_ms + REGISTRATION_MAX_MS);
        let asks = self.asks.values().map(|asked| asked.until_ms);
        let owed = self.owed.values().copied();
        let always = [self.pings.next_ms(), self.heard_ms + SILENCE_MAX_MS];
        always.into_iter().chain(registration).chain(asks).chain(owed).min()
    }

    /// How good the link is.
    pub fn quality(&self) -> Quality {
        self.pings.quality()
    }

    /// Who the other end said it is, once it did.
    pub fn peer_id(&self) -> Option<&str> {
        self.peer_id.as_deref()
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    // --- time ---

    fn open(&mut self, now: Now, world: &World, out: &mut Vec<Output>) {
        self.state = State::Open;
        (self.opened_ms, self.heard_ms) = (now.ms, now.ms);
        let (_, payload) = answer::myself(world, self.peer.pass.is_some());
        let register = (MessageType::MachineRegister, payload);
        self.register_id = self.send(now, register, None, None, world, out).unwrap_or_default();
    }

    /// Does what time alone brings about.
    fn run_out(&mut self, now: Now, world: &mut World, out: &mut Vec<Output>) {
        let Some(due_ms) = self.next_wakeup_ms() else { return };
        if now.ms < due_ms {
            return;
        }
        if now.ms - due_ms > OVERSLEPT_MS {
            // Frozen or starved: what did not come in meanwhile may wait to be read.
            self.heard_ms = now.ms;
            self.pings.forgive();
            if self.peer_id.is_none() {
                self.opened_ms = now.ms;
            }
        }
        let late: Vec<String> = due(&self.asks, |asked| asked.until_ms, now.ms);
        for asked in late.iter().filter_map(|id| self.asks.remove(id)) {
            out.push(Output::Answered { tag: asked.tag, answer: Err(AskError::TimedOut) });
        }
        for id in due(&self.owed, |until_ms| *until_ms, now.ms) {
            self.owed.remove(&id);
            self.reply(now, &id, answer::error("timeout", "no answer was found in time"), world, out);
        }
        if self.peer_id.is_none() && now.ms >= self.opened_ms + REGISTRATION_MAX_MS {
            return self.close(Closing::RegistrationTimedOut, world, out);
        }
        if now.ms >= self.heard_ms + SILENCE_MAX_MS {
            return self.close(Closing::Silent, world, out);
        }
        self.pings.due(now.ms, |due| {
            out.push(match due {
                Due::Lost => Output::Lost,
                Due::Send(payload) => Output::Ping(payload),
            });
        });
    }

    // --- what comes in ---

    fn read(&mut self, now: Now, text: &str, world: &mut World, out: &mut Vec<Output>) {
        if !self.frames.take(now.ms) {
            return self.close(Closing::TooMany, world, out);
        }
        let limit = if self.peer.pass.is_some() { FRAME_MAX } else { STRANGER_FRAME_MAX };
        if text.len() > limit {
            return self.fault(now, None, ("too_large", "the frame is too large"), world, out);
        }
        match serde_json::from_str::<Envelope>(text) {
            Ok(envelope) => self.take(now, envelope, world, out),
            Err(cause) => {
                let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
                if value.get("message_type").and_then(Value::as_str) == Some("error") {
                    // Errors are never answered, however they are written.
                    return self.note_fault(now, world, out);
                }
                let id = value.get("message_id").and_then(Value::as_str).filter(|id| id.len() <= ID_MAX);
                let cause = cause.to_string();
                self.fault(now, id, ("invalid_message", &cause), world, out);
            }
        }
    }

    fn take(&mut self, now: Now, envelope: Envelope, world: &mut World, out: &mut Vec<Output>) {
        let ids = [Some(&envelope.message_id), envelope.correlation_id.as_ref()];
        if envelope.message_id.is_empty() || ids.into_iter().flatten().any(|id| id.len() > ID_MAX) {
            return self.fault(now, None, ("invalid_message", "the ids are empty or too long"), world, out);
        }
        let certified = self.peer.pass.as_ref().map(|pass| pass.node_id.as_str());
        if certified.or(self.peer_id.as_deref()).is_some_and(|known| known != envelope.source_machine) {
            return self.close(wrong(&envelope.source_machine), world, out);
        }
        let is_for_us =
            envelope.target_machines.as_ref().is_none_or(|ids| ids.contains(&world.me.machine_id));
        if !is_for_us || !self.seen.is_new(&envelope.message_id) {
            return;
        }
        match envelope.message_type {
            MessageType::MachineRegister => {
                if self.learn(now, &envelope, world, out) {
                    let me = answer::myself(world, self.peer.pass.is_some());
                    self.reply(now, &envelope.message_id, me, world, out);
                }
            }
            MessageType::MachineUpdate => self.update(now, envelope, world, out),
            MessageType::MachineDiscover => {
                let known = answer::machines(world, self.peer.pass.is_some());
                self.reply(now, &envelope.message_id, known, world, out);
            }
            MessageType::ServiceQuery => {
                let found = answer::service(world, &envelope.payload);
                self.reply(now, &envelope.message_id, found, world, out);
            }
            MessageType::Ping => {
                let pong = (MessageType::Pong, json!({"timestamp": timestamp::iso(now.wall_ms)}));
                self.reply(now, &envelope.message_id, pong, world, out);
            }
            MessageType::TaskDistribute | MessageType::ResourceRequest | MessageType::CertificateRequest => {
                self.grant(now, envelope, world, out);
            }
            MessageType::ResourceReleased => self.release(&envelope, world),
            MessageType::TaskAssign
            | MessageType::TaskFailed
            | MessageType::ResourceReserved
            | MessageType::ServiceResponse
            | MessageType::Pong
            | MessageType::Error
            | MessageType::CertificateIssued => self.answered(envelope, world, out),
            MessageType::MachineHeartbeat
            | MessageType::MachineGoodbye
            | MessageType::ServiceAnnounce
            | MessageType::StatusBroadcast
            | MessageType::ResourceAvailable
            | MessageType::TaskProgress
            | MessageType::TaskComplete
            | MessageType::TaskOutput => self.hand_up(envelope, out),
            MessageType::TaskLease
            | MessageType::TaskCancel
            | MessageType::RosterDelta
            | MessageType::ProbeConfig => {
                if self.is_from_server() {
                    self.hand_up(envelope, out);
                } else {
                    self.note_fault(now, world, out);
                }
            }
        }
    }

    /// Takes in who the peer says it is. False where it was refused, with everything done about it.
    fn learn(&mut self, now: Now, envelope: &Envelope, world: &mut World, out: &mut Vec<Output>) -> bool {
        let info = match learn::parse(&envelope.payload) {
            Ok(info) => info,
            Err(cause) => {
                let (id, cause) = (Some(envelope.message_id.as_str()), cause.as_str());
                self.fault(now, id, ("invalid_request", cause), world, out);
                return false;
            }
        };
        if info.machine_id == world.me.machine_id {
            self.close(Closing::Myself, world, out);
            return false;
        }
        if info.machine_id != envelope.source_machine || self.is_another(&info, world) {
            let refusal = answer::error("forbidden", "this identity is another's");
            self.reply(now, &envelope.message_id, refusal, world, out);
            self.close(wrong(&info.machine_id), world, out);
            return false;
        }
        self.peer_id = Some(info.machine_id.clone());
        out.push(Output::Registered(Box::new(info)));
        true
    }

    /// Whether a stranger claims the id of a machine that proved its own.
    fn is_another(&self, info: &MachineInfo, world: &World) -> bool {
        let is_theirs = |machine: &caelum_model::cluster::Machine| {
            machine.authenticated && machine.machine_id == info.machine_id
        };
        self.peer.pass.is_none() && world.machines.iter().any(is_theirs)
    }

    fn update(&mut self, now: Now, envelope: Envelope, world: &mut World, out: &mut Vec<Output>) {
        if learn::is_there(&envelope.payload) && !self.learn(now, &envelope, world, out) {
            return;
        }
        let asked = envelope.correlation_id.as_ref().and_then(|id| self.asks.remove(id));
        if envelope.payload.get(learn::ROSTER).is_some() && self.is_from_server() && self.peer_id.is_some() {
            out.push(Output::Received(envelope.clone()));
        }
        if let Some(Asked { tag, .. }) = asked {
            out.push(Output::Answered { tag, answer: Ok(envelope) });
        }
    }

    /// Requests that a stranger may not make.
    fn grant(&mut self, now: Now, envelope: Envelope, world: &mut World, out: &mut Vec<Output>) {
        let id = envelope.message_id.clone();
        let answer = if self.peer.pass.is_none() || self.peer_id.is_none() {
            answer::error("forbidden", "this needs a registered node with a certificate of the cluster")
        } else {
            match envelope.message_type {
                MessageType::ResourceRequest => {
                    let owner = (envelope.source_machine.as_str(), self.seed);
                    let reservation = self.next_id();
                    answer::resources(world, reservation, owner, &envelope.payload, now.ms)
                }
                MessageType::CertificateRequest if self.owed.len() < OWED_MAX => {
                    self.owed.insert(id, now.ms + OWED_MAX_MS);
                    out.push(Output::Requested(envelope));
                    return;
                }
                MessageType::CertificateRequest => {
                    answer::error("overloaded", "too many requests are waiting")
                }
                _ => answer::task(&envelope.payload),
            }
        };
        self.reply(now, &id, answer, world, out);
    }

    fn release(&mut self, envelope: &Envelope, world: &mut World) {
        if let Some(id) = envelope.payload.get("reservation_id").and_then(Value::as_str)
            && self.peer.pass.is_some()
        {
            // An id that is unknown is no fault: the reservation may have ended by itself.
            world.reservations.release(id, &envelope.source_machine);
        }
    }

    fn answered(&mut self, envelope: Envelope, world: &mut World, out: &mut Vec<Output>) {
        let Some(id) = &envelope.correlation_id else { return self.hand_up(envelope, out) };
        let is_error = envelope.message_type == MessageType::Error;
        let text = |name: &str| {
            envelope.payload.get(name).and_then(Value::as_str).map(|text| text.chars().take(200).collect())
        };
        let refusal = || AskError::Refused {
            code: text("code").unwrap_or_else(|| "error".to_owned()),
            message: text("error").or_else(|| text("message")).unwrap_or_default(),
        };
        if is_error && *id == self.register_id && self.peer_id.is_none() {
            let reason = refusal().to_string();
            return self.close(Closing::Refused(reason), world, out);
        }
        if let Some(Asked { tag, .. }) = self.asks.remove(id) {
            let answer = if is_error { Err(refusal()) } else { Ok(envelope) };
            out.push(Output::Answered { tag, answer });
        }
    }

    fn hand_up(&self, envelope: Envelope, out: &mut Vec<Output>) {
        let is_open_to_strangers =
            matches!(envelope.message_type, MessageType::MachineHeartbeat | MessageType::MachineGoodbye);
        if self.peer_id.is_some() && (self.peer.pass.is_some() || is_open_to_strangers) {
            out.push(Output::Received(envelope));
        }
    }

    fn is_from_server(&self) -> bool {
        self.peer.pass.as_ref().is_some_and(|pass| pass.role == NodeRole::Server)
    }
}

fn wrong(claimed: &str) -> Closing {
    Closing::WrongIdentity { claimed: claimed.chars().take(ID_MAX).collect() }
}

/// Keys whose time has come.
fn due<T>(all: &BTreeMap<String, T>, until_ms: impl Fn(&T) -> i64, now_ms: i64) -> Vec<String> {
    all.iter().filter(|(_, one)| until_ms(one) <= now_ms).map(|(key, _)| key.clone()).collect()
}
