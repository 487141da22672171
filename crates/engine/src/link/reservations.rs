//! What this machine has promised to keep free for others.
//!
//! Rules: what is promised never sums above the capacity at the time of the promise; a promise ends by itself,
//! when its owner gives it back, or with the link over which it was made. Whether the promise is worth
//! anything to the scheduler of the operating system is not decided here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Reservations at once.
const RESERVATIONS_MAX: usize = 1_024;
/// Longest reservation, s.
const DURATION_MAX_S: u64 = 86_400;
/// Longest task id kept with a reservation, bytes.
const TASK_ID_MAX: usize = 128;

/// What a machine has to give away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Capacity {
    /// Processors.
    pub cpu_cores: f64,
    /// Memory, GiB.
    pub memory_gb: f64,
    /// Graphics processors.
    pub gpu_count: u64,
}

/// What somebody wants kept free.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Processors.
    #[serde(default)]
    pub cpu_cores: Option<f64>,
    /// Memory, GiB.
    #[serde(default)]
    pub memory_gb: Option<f64>,
    /// Graphics processors.
    #[serde(default)]
    pub gpu_count: Option<u64>,
    /// For how long, s.
    #[serde(default)]
    pub duration_seconds: Option<u64>,
    /// For which task.
    #[serde(default)]
    pub task_id: Option<String>,
}

/// A promise.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// Whose it is.
    pub owner: String,
    /// The link it was made over.
    pub link: u64,
    /// What is kept.
    pub claim: Claim,
    /// When it ends, monotonic ms.
    pub expires_ms: i64,
}

/// Why nothing is promised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The claim makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// There is not enough left.
    #[error("not enough {0} left")]
    Insufficient(&'static str),
    /// Too many reservations are held already.
    #[error("too many reservations are held already")]
    TooMany,
}

/// All promises by their ids.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    held: BTreeMap<String, Reservation>,
}

impl Reservations {
    /// Promises, or says why not. Answers what was promised, with the duration filled in.
    pub fn reserve(
        &mut self,
        id: String,
        (owner, link): (&str, u64),
        claim: Claim,
        capacity: Capacity,
        now_ms: i64,
    ) -> Result<&Reservation, ReserveError> {
        self.expire(now_ms);
        let claim = check(claim)?;
        if self.held.len() >= RESERVATIONS_MAX {
            return Err(ReserveError::TooMany);
        }
        let used = self.used();
        if used.cpu_cores + claim.cpu_cores.unwrap_or(0.0) > capacity.cpu_cores {
            return Err(ReserveError::Insufficient("processors"));
        }
        if used.memory_gb + claim.memory_gb.unwrap_or(0.0) > capacity.memory_gb {
            return Err(ReserveError::Insufficient("memory"));
        }
        if used.gpu_count.saturating_add(claim.gpu_count.unwrap_or(0)) > capacity.gpu_count {
            return Err(ReserveError::Insufficient("graphics processors"));
        }
        let lasts_ms =
            claim.duration_seconds.unwrap_or(DURATION_DEFAULT_S).min(DURATION_MAX_S) as i64 * 1_000;
        let expires_ms = now_ms.saturating_add(lasts_ms);
        let reservation = Reservation { owner: owner.to_owned(), link, claim, expires_ms };
        Ok(self.held.entry(id).insert_entry(reservation).into_mut())
    }

    /// Gives one back; false where the owner has none of this id.
    pub fn release(&mut self, id: &str, owner: &str) -> bool {
        let is_owners = self.held.get(id).is_some_and(|held| held.owner == owner);
        if is_owners {
            self.held.remove(id);
        }
        is_owners
    }

    /// Gives back all that were made over a link.
    pub fn release_link(&mut self, link: u64) {
        self.held.retain(|_, held| held.link != link);
    }

    /// Forgets those whose time is over.
    pub fn expire(&mut self, now_ms: i64) {
        self.held.retain(|_, held| held.expires_ms > now_ms);
    }

    /// All that is promised, in sum.
    pub fn used(&self) -> Capacity {
        // Summed anew each time: adding and taking away would let rounding creep in.
        self.held.values().fold(Capacity::default(), |sum, held| Capacity {
            cpu_cores: sum.cpu_cores + held.claim.cpu_cores.unwrap_or(0.0),
            memory_gb: sum.memory_gb + held.claim.memory_gb.unwrap_or(0.0),
            gpu_count: sum.gpu_count.saturating_add(held.claim.gpu_count.unwrap_or(0)),
        })
    }

    /// All promises by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Reservation)> {
        self.held.iter().map(|(id, held)| (id.as_str(), held))
    }
}

/// Duration where none was asked for, s: that of the programs that came first.
const DURATION_DEFAULT_S: u64 = 3_600;

fn check(mut claim: Claim) -> Result<Claim, ReserveError> {
    let amounts = [claim.cpu_cores, claim.memory_gb, claim.gpu_count.map(|count| count as f64)];
    if amounts.iter().flatten().any(|amount| !amount.is_finite() || *amount < 0.0) {
        return Err(ReserveError::Invalid("amounts are numbers from zero up"));
    }
    if !amounts.iter().flatten().any(|amount| *amount > 0.0) {
        return Err(ReserveError::Invalid("nothing was asked for"));
    }
    let duration_s = claim.duration_seconds.unwrap_or(DURATION_DEFAULT_S);
    if !(1..=DURATION_MAX_S).contains(&duration_s) {
        return Err(ReserveError::Invalid("duration_seconds is from 1 to 86400"));
    }
    if claim.task_id.as_ref().is_some_and(|id| id.len() > TASK_ID_MAX) {
        return Err(ReserveError::Invalid("task_id is longer than 128 bytes"));
    }
    claim.duration_seconds = Some(duration_s);
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: Capacity = Capacity { cpu_cores: 8.0, memory_gb: 16.0, gpu_count: 2 };

    fn claim(cpu_cores: f64, memory_gb: f64, gpu_count: u64, duration_s: u64) -> Claim {
        Claim {
            cpu_cores: Some(cpu_cores),
            memory_gb: Some(memory_gb),
            gpu_count: Some(gpu_count),
            duration_seconds: Some(duration_s),
            task_id: None,
        }
    }

    #[test]
    fn a_reservation_ends_by_itself_by_its_owner_or_with_its_link() {
        let mut held = Reservations::default();
        held.reserve("a".into(), ("n1", 1), claim(4.0, 1.0, 0, 10), CAPACITY, 0).expect("fits");
        held.reserve("b".into(), ("n2", 2), claim(4.0, 1.0, 0, 100), CAPACITY, 0).expect("fits");
        let more = || claim(0.1, 0.0, 0, 10);
        assert_eq!(
            held.reserve("c".into(), ("n1", 1), more(), CAPACITY, 9_999),
            Err(ReserveError::Insufficient("processors"))
        );
        assert!(held.reserve("c".into(), ("n1", 1), more(), CAPACITY, 10_000).is_ok(), "the first has ended");
        assert!(!held.release("b", "n1"), "it is another's");
        assert!(held.release("b", "n2"));
        held.release_link(1);
        assert_eq!(held.used(), Capacity::default());
    }

    #[test]
    fn a_claim_without_sense_is_refused() {
        let mut held = Reservations::default();
        let mut refused = |claim| {
            matches!(held.reserve("x".into(), ("n", 1), claim, CAPACITY, 0), Err(ReserveError::Invalid(_)))
        };
        assert!(refused(Claim::default()));
        assert!(refused(claim(-1.0, 1.0, 0, 10)));
        assert!(refused(claim(f64::NAN, 1.0, 0, 10)));
        assert!(refused(claim(1.0, 1.0, 0, 86_401)));
        assert!(refused(claim(1.0, 1.0, 0, 0)));
    }

    #[test]
    fn there_are_never_more_than_their_limit() {
        let mut held = Reservations::default();
        let small = || claim(0.000_001, 0.0, 0, 10);
        for n in 0..RESERVATIONS_MAX {
            held.reserve(n.to_string(), ("n", 1), small(), CAPACITY, 0).expect("fits");
        }
        assert_eq!(held.reserve("x".into(), ("n", 1), small(), CAPACITY, 0), Err(ReserveError::TooMany));
    }

    proptest! {
        #[test]
        fn promises_never_sum_above_the_capacity(
            steps in proptest::collection::vec(
                (0_u8..4, 0.0..6.0_f64, 0.0..12.0_f64, 0_u64..3, 1_u64..20, 0_u64..3), 1..200),
        ) {
            let mut held = Reservations::default();
            let mut now_ms = 0;
            for (n, (what, cpu, memory, gpus, seconds, link)) in steps.into_iter().enumerate() {
                now_ms += 700;
                match what {
                    0 | 1 => drop(held.reserve(
                        n.to_string(), ("n", link), claim(cpu, memory, gpus, seconds), CAPACITY, now_ms)),
                    2 => drop(held.release(&(n / 2).to_string(), "n")),
                    _ => held.release_link(link),
                }
                let used = held.used();
                prop_assert!(used.cpu_cores <= CAPACITY.cpu_cores + 1e-9);
                prop_assert!(used.memory_gb <= CAPACITY.memory_gb + 1e-9);
                prop_assert!(used.gpu_count <= CAPACITY.gpu_count);
                held.expire(now_ms);
                prop_assert!(held.iter().all(|(_, one)| one.expires_ms > now_ms));
            }
        }
    }
}
