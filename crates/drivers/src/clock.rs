//! What time it is: the wall clock, and a clock that tests set.
//!
//! Only for saying when something happened. Durations are measured with `Instant` where they arise,
//! because a wall clock may jump.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use caelum_model::UnixMs;

/// A source of wall-clock time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970, UTC.
    fn now_ms(&self) -> UnixMs;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> UnixMs {
        to_unix_ms(SystemTime::now())
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ms: AtomicI64,
}

impl ManualClock {
    /// A clock that shows the given time.
    pub fn new(now_ms: UnixMs) -> Self {
        Self { now_ms: AtomicI64::new(now_ms) }
    }

    /// Shows another time, earlier or later.
    pub fn set(&self, now_ms: UnixMs) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> UnixMs {
        self.now_ms.load(Ordering::SeqCst)
    }
}

/// Whether something outside keeps this machine's clock right, and how far it may be off then.
#[cfg(target_os = "linux")]
pub fn synchronisation() -> (bool, Duration) {
    // SAFETY: a `timex` of zeros asks for nothing to be changed, and the pointer is to one.
    let (state, answer) = unsafe {
        let mut asked: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut asked), asked)
    };
    let error = Duration::from_micros(u64::try_from(answer.maxerror).unwrap_or(u64::MAX));
    let is_synchronised = state >= 0 && state != libc::TIME_ERROR && answer.status & libc::STA_UNSYNC == 0;
    (is_synchronised, if state < 0 { UNKNOWN_ERROR } else { error })
}

/// Not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn synchronisation() -> (bool, Duration) {
    (false, UNKNOWN_ERROR)
}

/// What a clock is taken to be off by that nobody vouches for.
const UNKNOWN_ERROR: Duration = Duration::from_secs(16);

/// Milliseconds since 1970; a clock that was never set may lie before it.
fn to_unix_ms(time: SystemTime) -> UnixMs {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ms(since),
        Err(before) => -ms(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(1_000);
        assert_eq!(clock.now_ms(), 1_000);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now_ms(), 3_000);
        clock.set(5);
        assert_eq!(clock.now_ms(), 5);
    }

    #[test]
    fn times_before_1970_are_negative_and_the_system_clock_is_after_2020() {
        assert_eq!(to_unix_ms(UNIX_EPOCH - Duration::from_millis(7)), -7);
        assert!(SystemClock.now_ms() > 1_577_836_800_000);
    }
}
