//! Answers and questions that others cause: late enough not to collide, seldom enough not to be abused.

use std::{collections::BTreeMap, net::SocketAddr};

use caelum_model::beacon::BeaconKind;

use super::{ANSWERS_RATE, Discovery, Output, To, hearing::worth, limits::Bucket};
use crate::now::Now;

/// Most answers that wait.
const WAITING_MAX: usize = 1_024;
/// Most askers that are remembered.
const ASKERS_MAX: usize = 4_096;
/// An asker is answered once in this time, ms.
const ANSWER_EVERY_MS: i64 = 1_000;
/// A machine is challenged once in this time, ms.
const ASK_EVERY_MS: i64 = 500;
/// Jitter of an answer: for each known machine, at least, and at most, ms.
const JITTER_MS: (i64, i64, i64) = (5, 50, 500);

/// Who asked, and what is to be said.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// Where it is.
    pub(super) addr: SocketAddr,
    /// Its id and instance, where it sealed its question.
    pub(super) sealed: Option<(String, String)>,
    /// Its challenge.
    pub(super) nonce: String,
    /// Whether it asked in the second dialect.
    pub(super) is_second: bool,
    /// Whether nobody else was asked at the same time.
    pub(super) is_alone: bool,
}

#[derive(Debug)]
struct Waiting {
    due_ms: i64,
    asker: Asker,
}

#[derive(Debug, Default)]
struct Recent {
    answered_ms: Option<i64>,
    nonce: String,
    asked_ms: Option<i64>,
}

impl Recent {
    fn is_over(&self, now_ms: i64) -> bool {
        let is_over = |at_ms: i64| now_ms - at_ms >= ANSWER_EVERY_MS;
        self.answered_ms.is_none_or(is_over) && self.asked_ms.is_none_or(is_over)
    }
}

/// Answers that wait, and who had one just now.
#[derive(Debug)]
pub(super) struct Answers {
    waiting: BTreeMap<SocketAddr, Waiting>,
    recent: BTreeMap<SocketAddr, Recent>,
    swept_ms: i64,
    /// What strangers may cause.
    bucket: Bucket,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            recent: BTreeMap::new(),
            swept_ms: 0,
            bucket: Bucket::full(ANSWERS_RATE, ANSWERS_RATE, 0),
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn next_due_ms(&self) -> Option<i64> {
        self.waiting.values().map(|waiting| waiting.due_ms).min()
    }

    /// What was last said to an address; none where no more can be remembered.
    fn recent(&mut self, now_ms: i64, addr: SocketAddr) -> Option<&mut Recent> {
        if self.recent.len() >= ASKERS_MAX && now_ms - self.swept_ms >= ANSWER_EVERY_MS {
            self.swept_ms = now_ms;
            self.recent.retain(|_, recent| !recent.is_over(now_ms));
        }
        if self.recent.len() >= ASKERS_MAX && !self.recent.contains_key(&addr) {
            return None;
        }
        Some(self.recent.entry(addr).or_default())
    }
}

impl Discovery {
    /// Plans an answer. An asker whose answer still waits gets one for both.
    pub(super) fn plan_answer(&mut self, now: Now, asker: Asker) {
        if self.started_ms.is_none() {
            return;
        }
        let jitter_ms = if asker.is_alone {
            0
        } else {
            let (each, least, most) = JITTER_MS;
            let known = i64::try_from(self.machines.len()).unwrap_or(i64::MAX);
            self.chance.below(known.saturating_mul(each).clamp(least, most) + 1)
        };
        let due_ms = now.ms + jitter_ms;
        let Some(recent) = self.answers.recent(now.ms, asker.addr) else { return };
        let is_answered = recent.answered_ms.is_some_and(|at_ms| now.ms - at_ms < ANSWER_EVERY_MS);
        // A sealed challenge that was not answered yet is new; without an answer there is no proof.
        let is_new = asker.sealed.is_some() && asker.nonce != recent.nonce;
        if is_answered && !is_new {
            return;
        }
        // A question that came by several paths is answered by the best of them.
        if asker.sealed.is_some()
            && let Some(other) = self.answers.waiting.values().find(|waiting| {
                waiting.asker.sealed == asker.sealed
                    && waiting.asker.nonce == asker.nonce
                    && waiting.asker.addr != asker.addr
            })
        {
            if worth(other.asker.addr) >= worth(asker.addr) {
                return;
            }
            let addr = other.asker.addr;
            self.answers.waiting.remove(&addr);
        }
        let has_room = self.answers.waiting.len() < WAITING_MAX;
        match self.answers.waiting.get_mut(&asker.addr) {
            Some(waiting) => {
                waiting.due_ms = waiting.due_ms.min(due_ms);
                if asker.sealed.is_some() {
                    waiting.asker = asker;
                }
            }
            None if has_room => {
                self.answers.waiting.insert(asker.addr, Waiting { due_ms, asker });
            }
            None => {}
        }
    }

    /// Challenges a machine that has sealed its beacon but not proven that it did so now.
    pub(super) fn challenge(&mut self, now: Now, addr: SocketAddr, out: &mut Vec<Output>) {
        if self.started_ms.is_none() {
            return;
        }
        let Some(recent) = self.answers.recent(now.ms, addr) else { return };
        if recent.asked_ms.is_some_and(|at_ms| now.ms - at_ms < ASK_EVERY_MS) {
            return;
        }
        recent.asked_ms = Some(now.ms);
        if self.answers.bucket.take(now.ms) {
            let bytes = self.compose(now, BeaconKind::Solicit, true, String::new());
            out.push(Output::Send { to: To::One(addr), bytes });
        }
    }

    /// Sends the answers whose time has come.
    pub(super) fn answer_due(&mut self, now: Now, out: &mut Vec<Output>) {
        let waiting = self.answers.waiting.iter();
        let due: Vec<SocketAddr> =
            waiting.filter(|(_, waiting)| waiting.due_ms <= now.ms).map(|(addr, _)| *addr).collect();
        for addr in due {
            let Some(waiting) = self.answers.waiting.get_mut(&addr) else { continue };
            let sealed = waiting.asker.sealed.clone();
            let is_fresh = sealed.as_ref().is_some_and(|(id, instance)| self.is_fresh(id, instance));
            if !is_fresh && !self.answers.bucket.take(now.ms) {
                let wait_ms = self.answers.bucket.wait_ms(now.ms).max(1);
                if let Some(waiting) = self.answers.waiting.get_mut(&addr) {
                    waiting.due_ms = now.ms + wait_ms;
                }
                continue;
            }
            let Some(Waiting { asker, .. }) = self.answers.waiting.remove(&addr) else { continue };
            if let Some(recent) = self.answers.recent(now.ms, addr) {
                recent.answered_ms = Some(now.ms);
                recent.nonce.clone_from(&asker.nonce);
            }
            let bytes = if asker.is_second {
                self.compose_second("beacon")
            } else {
                // Who sealed its question and has not proven itself is asked in turn.
                let is_asking = asker.sealed.is_some() && !is_fresh;
                self.compose(now, BeaconKind::Announce, is_asking, asker.nonce)
            };
            out.push(Output::Send { to: To::One(addr), bytes });
        }
    }
}
