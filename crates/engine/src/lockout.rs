//! Slowing down whoever guesses: after a few failures each next try has to wait, twice as long each time.
//!
//! Kept for a name and for an address alike. The count is forgotten after a quiet hour or a success. Memory is
//! bounded: the entry that was quiet longest goes first.

use std::{collections::HashMap, net::IpAddr};

use caelum_model::UnixMs;

/// Failures that cost nothing.
const FREE_FAILURES: u32 = 5;
/// Longest wait, ms.
const WAIT_MAX_MS: i64 = 300_000;
/// Quiet time after which failures are forgotten, ms.
const FORGET_MS: i64 = 3_600_000;
/// Most entries.
const ENTRIES_MAX: usize = 10_000;

/// Failures by key.
#[derive(Debug, Default)]
pub struct Lockout {
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    last_ms: UnixMs,
}

impl Entry {
    fn wait_ms(&self) -> i64 {
        match self.failures.checked_sub(FREE_FAILURES) {
            None => 0,
            Some(over) => (1000i64 << over.min(20)).min(WAIT_MAX_MS),
        }
    }
}

impl Lockout {
    /// How long a try under this key still has to wait, ms; 0 means it may be made.
    pub fn wait_ms(&self, key: &str, now_ms: UnixMs) -> i64 {
        self.entries.get(key).map_or(0, |entry| (entry.last_ms + entry.wait_ms() - now_ms).max(0))
    }

    /// Notes a failure.
    pub fn fail(&mut self, key: &str, now_ms: UnixMs) {
        if !self.entries.contains_key(key) && self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| now_ms - entry.last_ms < FORGET_MS);
            if self.entries.len() >= ENTRIES_MAX
                && let Some(quiet) =
                    self.entries.iter().min_by_key(|(_, entry)| entry.last_ms).map(|(key, _)| key.clone())
            {
                self.entries.remove(&quiet);
            }
        }
        let entry = self.entries.entry(key.to_owned()).or_insert(Entry { failures: 0, last_ms: now_ms });
        if now_ms - entry.last_ms >= FORGET_MS {
            entry.failures = 0;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.last_ms = now_ms;
    }

    /// Forgets the failures under a key.
    pub fn succeed(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// What failures from an address are kept under. One sender of IPv6 has a whole network of addresses; they
/// count together.
pub fn address_key(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_try_waits_and_each_failure_doubles_the_wait_up_to_its_limit() {
        let mut lockout = Lockout::default();
        let mut waits = Vec::new();
        for n in 0..18 {
            lockout.fail("admin", n);
            waits.push(lockout.wait_ms("admin", n));
        }
        assert_eq!(waits[..8], [0, 0, 0, 0, 1000, 2000, 4000, 8000]);
        assert_eq!(waits.last(), Some(&WAIT_MAX_MS));
        assert_eq!(lockout.wait_ms("other", 0), 0);
    }

    #[test]
    fn success_and_a_quiet_hour_forget() {
        let mut lockout = Lockout::default();
        for _ in 0..9 {
            lockout.fail("admin", 0);
        }
        lockout.fail("admin", FORGET_MS);
        assert_eq!(lockout.wait_ms("admin", FORGET_MS), 0);
        for _ in 0..9 {
            lockout.fail("admin", FORGET_MS);
        }
        lockout.succeed("admin");
        assert_eq!(lockout.wait_ms("admin", FORGET_MS), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut lockout = Lockout::default();
        for n in 0..=ENTRIES_MAX {
            lockout.fail(&n.to_string(), n as i64);
        }
        assert_eq!(lockout.entries.len(), ENTRIES_MAX);
    }
}
