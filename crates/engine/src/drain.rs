//! Emptying a probe's spool: what to send next, what may be forgotten, and when to try again.
//!
//! Rules:
//! - Oldest first, one request at a time.
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
        }
    }

    /// The next request: events after this number, at most so many. None while there is a wait.
    pub fn next(&mut self, now_ms: UnixMs) -> Option<(u64, usize)> {
        if now_ms < self.not_before_ms {
            return None;
        }
        if self.resend_at_ms.is_some_and(|at_ms| now_ms >= at_ms) {
            self.resend_at_ms = None;
            self.sent_through = self.acked_through;
        }
        Some((self.sent_through, self.batch))
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
        self.sent_through = self.sent_through.max(last);
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
        assert_eq!(drain.next(0), Some((0, BATCH_MAX)));
        assert_eq!(drain.accepted(10, None, 0), None);
        assert_eq!(drain.next(1), Some((10, BATCH_MAX)), "newer events are not held up");
        assert_eq!(drain.accepted(20, Some(15), 1), Some(15));
        assert_eq!(drain.accepted(20, Some(99), 2), Some(20), "never more than was sent");
        assert_eq!(drain.next_wakeup(), None);
    }

    #[test]
    fn what_stays_unacknowledged_is_sent_again() {
        let mut drain = Drain::new(0, 60_000);
        drain.accepted(10, Some(4), 0);
        assert_eq!(drain.next_wakeup(), Some(RESEND_MS));
        assert_eq!(drain.next(RESEND_MS), Some((4, BATCH_MAX)));
    }

    #[test]
    fn a_request_refused_whole_is_halved_down_to_its_bad_event() {
        let mut drain = Drain::new(0, 60_000);
        assert_eq!(drain.refused(500), Refused::Halve);
        assert_eq!(drain.next(0), Some((0, 250)));
        assert_eq!(drain.refused(1), Refused::SetAside);
    }

    proptest! {
        #[test]
        fn waits_grow_to_their_maximum_and_never_past_it(failures in 1usize..40, chance in 0.0..=1.0f64) {
            let mut drain = Drain::new(0, 60_000);
            let mut now_ms = 0;
            for _ in 0..failures {
                drain.failed(None, chance, now_ms);
                let at_ms = drain.next_wakeup().expect("there is a wait");
                prop_assert!((WAIT_MIN_MS / 2..=60_000).contains(&(at_ms - now_ms)));
                prop_assert_eq!(drain.next(at_ms - 1), None);
                now_ms = at_ms;
                prop_assert!(drain.next(now_ms).is_some());
            }
            drain.failed(Some(90_000), chance, now_ms);
            prop_assert_eq!(drain.next_wakeup(), Some(now_ms + 90_000));
        }
    }
}
