//! What time it is: the wall clock, and a clock that tests set.
//!
//! Only for saying when something happened. Durations are measured with `Instant` where they arise,
//! because a wall clock may jump.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
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

/// A clock that runs faster than the machine's: minutes pass in seconds, for everybody who begins at the same
/// moment. For labs, where the windows of an hour are to be seen in a few minutes.
#[derive(Clone, Copy, Debug)]
pub struct FastClock {
    begin_ms: UnixMs,
    factor: i64,
}

/// The variable that makes a process's clock a fast one: `FACTOR@UNIX_MS`.
pub const FAST_CLOCK: &str = "CAELUM_LAB_CLOCK";

impl FastClock {
    /// Reads `FACTOR@UNIX_MS`.
    pub fn parse(text: &str) -> Option<Self> {
        let (factor, begin_ms) = text.split_once('@')?;
        let (factor, begin_ms) = (factor.parse().ok()?, begin_ms.parse().ok()?);
        (1..=1_000).contains(&factor).then_some(Self { begin_ms, factor })
    }

    /// What it shows when the machine's own clock shows a time.
    pub fn at(self, now_ms: UnixMs) -> UnixMs {
        let passed_ms = now_ms.saturating_sub(self.begin_ms);
        self.begin_ms.saturating_add(passed_ms.max(0).saturating_mul(self.factor))
    }
}

impl Clock for FastClock {
    fn now_ms(&self) -> UnixMs {
        self.at(SystemClock.now_ms())
    }
}

/// The clock of this process: the machine's own, unless a lab says otherwise in [`FAST_CLOCK`], whose value
/// the caller read.
pub fn of_this_process(lab: Option<&str>) -> Arc<dyn Clock> {
    let Some(text) = lab else { return Arc::new(SystemClock) };
    match FastClock::parse(text) {
        Some(clock) => {
            tracing::warn!(code = "clock.fast", factor = clock.factor, "time passes faster: this is a lab");
            Arc::new(clock)
        }
        None => {
            tracing::error!(code = "clock.unreadable", %text, "{FAST_CLOCK} is not FACTOR@UNIX_MS, and ignored");
            Arc::new(SystemClock)
        }
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
    fn a_fast_clock_agrees_with_all_that_began_at_its_moment() {
        let clock = FastClock::parse("10@1000").expect("reads");
        assert_eq!([clock.at(1_000), clock.at(1_500), clock.at(900)], [1_000, 6_000, 1_000]);
        for wrong in ["", "10", "0@1", "1001@1", "x@1", "2@y"] {
            assert!(FastClock::parse(wrong).is_none(), "{wrong}");
        }
    }

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
