//! Emptying a probe's spool: what to send next, what may be forgotten, and when to try again.
//!
//! Rules:
//! - Oldest first, one request at a time. While many are behind, every second request carries the newest
//!   instead: what is measured now is seen now, and the backlog takes twice as long.
//! - Only `ack_through` lets the spool forget. An answer without one that reaches the request's end leaves
//!   those events in the spool; they are sent again when [`RESEND_MS`] has passed without news.
//! - After a failure the wait doubles from [`WAIT_MIN_MS`] to the given maximum, with jitter between half and
//!   all of it; a wait that the server asked for is kept at least.
//! - A body that is too large is halved.
//! - A request refused whole is halved down to its bad event, which is set aside.

use caelum_model::UnixMs;

/// First wait after a failure, ms.
const WAIT_MIN_MS: i64 = 500;
/// Wait for an acknowledgement of what was accepted, ms.
const RESEND_MS: i64 = 15_000;
/// Events in a request at most.
const BATCH_MAX: usize = 500;

/// So many events behind, the newest are sent in between.
const BACKLOG: u64 = 2 * BATCH_MAX as u64;

/// The newest events, sent ahead of the backlog.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    /// The backlog ends here.
    start: u64,
    /// Accepted from there through here.
    through: u64,
}

/// Where a drain stands.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Accepted through here, perhaps not acknowledged.
    sent_through: u64,
    acked_through: u64,
    resend_at_ms: Option<UnixMs>,
    failures: u32,
    not_before_ms: UnixMs,
    batch: usize,
    wait_max_ms: i64,
    ahead: Option<Ahead>,
    /// Whether the request under way is of the newest.
    is_ahead: bool,
}

/// What to do about a request that was refused whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Send fewer at once.
    Halve,
    /// Set the only event aside.
    SetAside,
}

impl Drain {
    /// A drain of a spool that is trimmed through a number.
    pub fn new(trimmed_through: u64, wait_max_ms: i64) -> Self {
        Self {
            sent_through: trimmed_through,
            acked_through: trimmed_through,
            resend_at_ms: None,
            failures: 0,
            not_before_ms: UnixMs::MIN,
            batch: BATCH_MAX,
            wait_max_ms: wait_max_ms.max(WAIT_MIN_MS),
            ahead: None,
            is_ahead: false,
        }
    }

    /// Whether nothing is to be sent yet.
    pub fn is_waiting(&self, now_ms: UnixMs) -> bool {
        now_ms < self.not_before_ms
    }

    /// The next request: events after this number, at most so many. None while there is a wait. `newest` is the
    /// last number in the spool.
    pub fn next(&mut self, now_ms: UnixMs, newest: u64) -> Option<(u64, usize)> {
        if self.is_waiting(now_ms) {
            return None;
        }
        if self.resend_at_ms.is_some_and(|at_ms| now_ms >= at_ms) {
            self.resend_at_ms = None;
            self.sent_through = self.acked_through;
            self.ahead = None;
        }
        if self.ahead.is_none() && newest.saturating_sub(self.sent_through) > BACKLOG {
            self.ahead = Some(Ahead { start: newest, through: newest });
        }
        let was_ahead = std::mem::take(&mut self.is_ahead);
        match self.ahead {
            Some(ahead) if self.sent_through >= ahead.start => {
                // The backlog is gone: go on behind what was sent ahead of it.
                self.sent_through = self.sent_through.max(ahead.through);
                self.ahead = None;
            }
            Some(ahead) if newest > ahead.through && !was_ahead => {
                self.is_ahead = true;
                return Some((ahead.through, self.batch));
            }
            Some(ahead) => {
                let left = usize::try_from(ahead.start - self.sent_through).unwrap_or(usize::MAX);
                return Some((self.sent_through, self.batch.min(left)));
            }
            None => {}
        }
        Some((self.sent_through, self.batch))
    }

    /// Gives up sending the newest first, if that is what the request under way did: what was wrong with it is
    /// met again in its place. Answers whether it was.
    pub fn fall_back(&mut self) -> bool {
        let was_ahead = std::mem::take(&mut self.is_ahead);
        if was_ahead {
            self.ahead = None;
        }
        was_ahead
    }

    /// When to look again, if there is anything to wait for.
    pub fn next_wakeup(&self) -> Option<UnixMs> {
        match (self.failures > 0, self.resend_at_ms) {
            (true, Some(resend_at_ms)) => Some(self.not_before_ms.min(resend_at_ms)),
            (true, None) => Some(self.not_before_ms),
            (false, resend_at_ms) => resend_at_ms,
        }
    }

    /// A request through `last` was accepted. Answers how far the spool may be trimmed.
    pub fn accepted(&mut self, last: u64, ack_through: Option<u64>, now_ms: UnixMs) -> Option<u64> {
        self.failures = 0;
        self.not_before_ms = UnixMs::MIN;
        self.batch = (self.batch * 2).min(BATCH_MAX);
        match &mut self.ahead {
            Some(ahead) if self.is_ahead => ahead.through = ahead.through.max(last),
            _ => self.sent_through = self.sent_through.max(last),
        }
        // A server cannot acknowledge what was never sent.
        let ack = ack_through.map(|ack| ack.min(self.sent_through)).filter(|ack| *ack > self.acked_through);
        if let Some(ack) = ack {
            self.acked_through = ack;
        }
        if self.acked_through >= self.sent_through {
            self.resend_at_ms = None;
        } else if ack.is_some() || self.resend_at_ms.is_none() {
            self.resend_at_ms = Some(now_ms + RESEND_MS);
        }
        ack
    }

    /// A request failed and may succeed later. `chance` is between 0 and 1.
    pub fn failed(&mut self, retry_after_ms: Option<i64>, chance: f64, now_ms: UnixMs) {
        self.failures = self.failures.saturating_add(1);
        let doubled = WAIT_MIN_MS.saturating_mul(1 << self.failures.min(20)).min(self.wait_max_ms);
        let wait_ms = (doubled as f64 * (0.5 + chance.clamp(0.0, 1.0) / 2.0)) as i64;
        self.not_before_ms = now_ms + wait_ms.max(retry_after_ms.unwrap_or(0));
    }

    /// A request of so many events was refused for what is in it.
    pub fn refused(&mut self, events: usize) -> Refused {
        if events <= 1 {
            return Refused::SetAside;
        }
        self.batch = (events / 2).max(1);
        Refused::Halve
    }

    /// Everything through a number is dealt with otherwise: set aside, or gone.
    pub fn skip(&mut self, through: u64) {
        self.sent_through = self.sent_through.max(through);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_an_acknowledgement_lets_the_spool_forget() {
        let mut drain = Drain::new(0, 60_000);
        assert_eq!(drain.next(0, 20), Some((0, BATCH_MAX)));
        assert_eq!(drain.accepted(10, None, 0), None);
        assert_eq!(drain.next(1, 20), Some((10, BATCH_MAX)), "newer events are not held up");
        assert_eq!(drain.accepted(20, Some(15), 1), Some(15));
        assert_eq!(drain.accepted(20, Some(99), 2), Some(20), "never more than was sent");
        assert_eq!(drain.next_wakeup(), None);
    }

    #[test]
    fn what_stays_unacknowledged_is_sent_again() {
        let mut drain = Drain::new(0, 60_000);
        drain.accepted(10, Some(4), 0);
        assert_eq!(drain.next_wakeup(), Some(RESEND_MS));
        assert_eq!(drain.next(RESEND_MS, 10), Some((4, BATCH_MAX)));
    }

    #[test]
    fn a_request_refused_whole_is_halved_down_to_its_bad_event() {
        let mut drain = Drain::new(0, 60_000);
        assert_eq!(drain.refused(500), Refused::Halve);
        assert_eq!(drain.next(0, 500), Some((0, 250)));
        assert_eq!(drain.refused(1), Refused::SetAside);
    }

    proptest! {
        #[test]
        fn a_backlog_is_sent_whole_and_what_is_measured_meanwhile_does_not_wait_for_it(
            backlog in 0u64..20_000, arrivals in proptest::collection::vec(0u64..40, 1..120)
        ) {
            let mut drain = Drain::new(0, 60_000);
            let mut spooled = backlog;
            let mut there = crate::ranges::RangeSet::default();
            let mut waits: Vec<(u64, usize)> = Vec::new();
            for request in 0..400 {
                if let Some(arrived) = arrivals.get(request) {
                    spooled += arrived;
                    // What is there at the first request is the backlog.
                    if request > 0 && *arrived > 0 {
                        waits.push((spooled, request));
                    }
                }
                let (after, most) = drain.next(0, spooled).expect("nobody waits");
                let last = spooled.min(after + most as u64);
                for number in after + 1..=last {
                    there.insert(number);
                }
                if last > after {
                    let ack = there.contiguous_from(1);
                    let trimmed = drain.accepted(last, ack, 0);
                    prop_assert!(trimmed <= ack, "never more is forgotten than is there");
                }
                waits.retain(|(number, _)| *number > 0 && !there.contains(*number));
                prop_assert!(waits.iter().all(|(_, since)| request - since <= 3), "{waits:?} at {request}");
            }
            prop_assert!(spooled == 0 || there.contiguous_from(1) == Some(spooled));
        }

        #[test]
        fn waits_grow_to_their_maximum_and_never_past_it(failures in 1usize..40, chance in 0.0..=1.0f64) {
            let mut drain = Drain::new(0, 60_000);
            let mut now_ms = 0;
            for _ in 0..failures {
                drain.failed(None, chance, now_ms);
                let at_ms = drain.next_wakeup().expect("there is a wait");
                prop_assert!((WAIT_MIN_MS / 2..=60_000).contains(&(at_ms - now_ms)));
                prop_assert_eq!(drain.next(at_ms - 1, 9), None);
                now_ms = at_ms;
                prop_assert!(drain.next(now_ms, 9).is_some());
            }
            drain.failed(Some(90_000), chance, now_ms);
            prop_assert_eq!(drain.next_wakeup(), Some(now_ms + 90_000));
        }
    }
}
