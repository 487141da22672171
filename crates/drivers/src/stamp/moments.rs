//! Moments of one train, or of one reflector: wall-clock times that never jump while it lasts.
//!
//! The wall clock is read once and then counted on with the monotonic one. Who lasts longer than a train
//! begins anew where [`Moments::is_old`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use caelum_engine::stamp::{ErrorEstimate, NtpTime};

use crate::clock;

/// Longest time for which a datagram is believed to have waited in the kernel. More than that is a clock
/// that was set meanwhile.
const WAITED_MAX: Duration = Duration::from_secs(1);

/// How long the wall clock is counted on; a clock that is being corrected drifts little in this time.
const FRESH: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    began: Instant,
    /// Since 1970.
    began_at: Duration,
    error: ErrorEstimate,
}

impl Moments {
    pub(crate) fn begin() -> Self {
        let (is_synchronised, error) = clock::synchronisation();
        let error_ns = u64::try_from(error.as_nanos()).unwrap_or(u64::MAX);
        Self { began: Instant::now(), began_at: wall(), error: ErrorEstimate::new(is_synchronised, error_ns) }
    }

    /// Whether the wall clock should be read again.
    pub(crate) fn is_old(&self) -> bool {
        self.began.elapsed() >= FRESH
    }

    /// How good the clock is.
    pub(crate) fn error(&self) -> ErrorEstimate {
        self.error
    }

    pub(crate) fn now(&self) -> NtpTime {
        self.after(self.began.elapsed())
    }

    /// The moment that the kernel noted by the wall clock; now, where it noted none or a wrong one.
    pub(crate) fn of(&self, noted: Option<Duration>) -> NtpTime {
        let elapsed = self.began.elapsed();
        let waited = noted.and_then(|noted| wall().checked_sub(noted)).filter(|waited| *waited <= WAITED_MAX);
        self.after(elapsed.saturating_sub(waited.unwrap_or_default()))
    }

    fn after(&self, elapsed: Duration) -> NtpTime {
        let ns = (self.began_at + elapsed).as_nanos();
        NtpTime::from_unix_ns(i64::try_from(ns).unwrap_or(i64::MAX))
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
