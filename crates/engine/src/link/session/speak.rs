//! What goes out of a session: messages with their ids, asks that are waited for, and the end.

use caelum_model::envelope::{Envelope, FRAME_MAX};

use super::{
    super::{AskError, Closing, Output, World, answer, answer::Answer},
    ASKS_MAX, Asked, Session, State,
};
use crate::{Now, hash::mix, timestamp};

impl Session {
    pub(super) fn ask(&mut self, now: Now, asked: Asked, what: Answer, world: &World, out: &mut Vec<Output>) {
        let tag = asked.tag;
        if self.asks.len() >= ASKS_MAX {
            return out.push(Output::Answered { tag, answer: Err(AskError::TooMany) });
        }
        match self.send(now, what, None, None, world, out) {
            Some(id) => {
                self.asks.insert(id, asked);
            }
            None => out.push(Output::Answered { tag, answer: Err(AskError::TooLarge) }),
        }
    }

    pub(super) fn reply(
        &mut self,
        now: Now,
        correlation: &str,
        answer: Answer,
        world: &World,
        out: &mut Vec<Output>,
    ) {
        if self.send(now, answer, None, Some(correlation.to_owned()), world, out).is_none() {
            let refusal = answer::error("too_large", "the answer is larger than a frame may be");
            self.send(now, refusal, None, Some(correlation.to_owned()), world, out);
        }
    }

    /// Sends a message and answers its id; none where it is too large.
    pub(super) fn send(
        &mut self,
        now: Now,
        (message_type, payload): Answer,
        targets: Option<Vec<String>>,
        correlation_id: Option<String>,
        world: &World,
        out: &mut Vec<Output>,
    ) -> Option<String> {
        let message_id = self.next_id();
        let envelope = Envelope {
            message_id: message_id.clone(),
            message_type,
            source_machine: world.me.machine_id.clone(),
            target_machines: targets,
            timestamp: timestamp::iso(now.wall_ms),
            payload,
            correlation_id,
        };
        let text = serde_json::to_string(&envelope).expect("plain values with text keys");
        if text.len() > FRAME_MAX {
            out.push(Output::Unsendable { message_type, bytes: text.len() });
            return None;
        }
        out.push(Output::Text(text));
        Some(message_id)
    }

    pub(super) fn next_id(&mut self) -> String {
        self.sent += 1;
        let (high, low) =
            (mix(self.seed ^ self.sent.rotate_left(32)), mix(self.seed.wrapping_add(self.sent)));
        uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
            .into_uuid()
            .to_string()
    }

    pub(super) fn close(&mut self, reason: Closing, world: &mut World, out: &mut Vec<Output>) {
        self.end(world, out);
        out.push(Output::Close { reason });
    }

    pub(super) fn end(&mut self, world: &mut World, out: &mut Vec<Output>) {
        self.state = State::Closed;
        world.reservations.release_link(self.seed);
        for asked in std::mem::take(&mut self.asks).into_values() {
            out.push(Output::Answered { tag: asked.tag, answer: Err(AskError::Closed) });
        }
        self.owed.clear();
    }

    // --- faults ---

    pub(super) fn fault(
        &mut self,
        now: Now,
        id: Option<&str>,
        (code, message): (&str, &str),
        world: &mut World,
        out: &mut Vec<Output>,
    ) {
        if self.complaints.take(now.ms) {
            let complaint = answer::error(code, message);
            self.send(now, complaint, None, id.map(str::to_owned), world, out);
        }
        self.note_fault(now, world, out);
    }

    pub(super) fn note_fault(&mut self, now: Now, world: &mut World, out: &mut Vec<Output>) {
        if !self.faults.take(now.ms) {
            self.close(Closing::TooManyFaults, world, out);
        }
    }
}
