//! When a target is measured: each at a phase of its own, so that probes and targets spread over the interval
//! without talking to each other.

use std::time::Duration;

use caelum_model::{UnixMs, id::TargetId};

use crate::hash::fnv1a;

/// Time until the target's phase of its interval comes round. Phases are counted from 1970, so that a restart
/// does not shift them.
pub fn until_phase(target_id: &TargetId, interval: Duration, now_ms: UnixMs) -> Duration {
    let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
    let phase_ms = ((fnv1a(target_id.as_str()) >> 16) % interval_ms.cast_unsigned()).cast_signed();
    let wait_ms = phase_ms.wrapping_sub(now_ms).rem_euclid(interval_ms);
    Duration::from_millis(wait_ms.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_keeps_its_phase_over_restarts() {
        let id = TargetId::parse("t-1").expect("valid");
        let interval = Duration::from_secs(10);
        let phases: Vec<i64> = [0, 1, 9_999, 123_456_789]
            .into_iter()
            .map(|now_ms| {
                let wait = until_phase(&id, interval, now_ms);
                assert!(wait < interval);
                (now_ms + i64::try_from(wait.as_millis()).expect("short")).rem_euclid(10_000)
            })
            .collect();
        assert!(phases.windows(2).all(|pair| pair[0] == pair[1]), "{phases:?}");
    }
}
