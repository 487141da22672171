//! What is sent and who is hurt, by a seed. Values only: no clock, no chance but the seed's.

use caelum_engine::hash::{fnv1a, mix};
use caelum_model::wire::{EventJson, TimingsJson};

use crate::event::{Numbered, plain};

/// Events in one request.
const BATCH: usize = 20;
/// Minutes before now that events fall into.
const MINUTES: usize = 5;
const MINUTE_MS: i64 = 60_000;
const TARGETS: [&str; 3] = ["https://one.example/", "https://two.example/path", "tcp://three.example:443"];
/// Wounds beside the kills: one for so many of them.
const KILLS_A_WOUND: usize = 8;
/// How many kills of a hundred leave the victim away so long that others must take over.
const LONG_ABSENCES_PERCENT: u8 = 12;

/// A sequence that looks random and is the same in every run.
#[derive(Clone, Debug)]
pub struct Shuffler(u64);

impl Shuffler {
    /// A sequence of its own for each purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(seed ^ fnv1a(purpose))
    }

    /// A number below a bound, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        usize::try_from(mix(self.0) % bound as u64).unwrap_or(0)
    }

    /// Whether something happens that happens so many times in a hundred.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < usize::from(percent)
    }
}

/// An event as it is sent, with what the rows must say of it.
#[derive(Clone, Debug)]
pub struct Event {
    /// What travels.
    pub json: EventJson<'static>,
    /// Its TCP time, in whole ms, so that sums do not depend on their order.
    pub tcp_ms: u32,
    /// Whether it failed.
    pub is_error: bool,
}

/// A probe that sends. Every second one numbers its events.
#[derive(Debug)]
pub struct Sender {
    client_id: String,
    numbered: Option<Numbered>,
    shuffler: Shuffler,
}

impl Sender {
    /// The probe of this number. Its ids hold the seed and the start, so that runs on the same records do not
    /// meet.
    pub fn new(number: usize, seed: u64, start_ms: i64) -> Self {
        let client_id = format!("torture-{seed:x}-{start_ms:x}-{number}");
        let numbered = number.is_multiple_of(2).then(|| Numbered::new(&client_id, seed | 1));
        Self { shuffler: Shuffler::new(seed, &client_id), client_id, numbered }
    }

    /// Its next events.
    pub fn batch(&mut self, now_ms: i64, late_permille: u16) -> Vec<Event> {
        (0..BATCH).map(|_| self.event(now_ms, late_permille)).collect()
    }

    fn event(&mut self, now_ms: i64, late_permille: u16) -> Event {
        let shuffler = &mut self.shuffler;
        let target = TARGETS[shuffler.below(TARGETS.len())];
        let back_ms = shuffler.below(MINUTES * MINUTE_MS as usize) as i64;
        let late_ms = match shuffler.below(1000) < usize::from(late_permille) {
            true => (1 + shuffler.below(5) as i64) * 60 * MINUTE_MS,
            false => 0,
        };
        let ts_ms = now_ms - back_ms - late_ms;
        let tcp_ms = 1 + shuffler.below(2_000) as u32;
        let is_error = shuffler.chance(5);
        let timings =
            TimingsJson { dns_ms: Some(2.0), tcp_ms: Some(f64::from(tcp_ms)), ..TimingsJson::default() };
        let mut json = match &mut self.numbered {
            Some(numbered) => numbered.event(target, ts_ms, timings),
            None => plain(&self.client_id, target, ts_ms, timings),
        };
        if is_error {
            json.error_stage = Some("TLS".into());
            json.error_detail = Some("certificate expired".into());
        }
        Event { json, tcp_ms, is_error }
    }
}

/// What is done to one of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wound {
    /// Killed without warning, and started again after a while.
    Kill {
        /// How long it is away, ms.
        away_ms: u64,
    },
    /// Stopped in its tracks for a while: it keeps its sockets and answers nobody.
    Freeze {
        /// How long, ms.
        for_ms: u64,
    },
    /// Stopped in order and started again.
    Restart,
    /// Killed and left away for long: the others must say so, wait, and go on by themselves.
    Absence {
        /// How long, ms.
        for_ms: u64,
    },
}

/// A wound and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Time since the fault before, ms.
    pub after_ms: u64,
    /// Whom, by its place among the victims.
    pub victim: usize,
    /// What.
    pub wound: Wound,
}

/// Who can be hurt, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Whether it may be frozen and stopped in order, too; backends are only killed.
    pub is_ours: bool,
    /// How often it is chosen in comparison with others.
    pub weight: usize,
}

/// The faults of a run: so many kills, and now and then something milder.
pub fn faults(seed: u64, kills: usize, victims: &[Victim]) -> Vec<Fault> {
    let mut shuffler = Shuffler::new(seed, "faults");
    let mut faults = Vec::with_capacity(kills + kills / KILLS_A_WOUND);
    let weights: usize = victims.iter().map(|victim| victim.weight).sum();
    if weights == 0 {
        return faults;
    }
    for kill in 0..kills {
        let after_ms = 100 + shuffler.below(500) as u64;
        let away_ms = match shuffler.chance(LONG_ABSENCES_PERCENT) {
            true => 6_000 + shuffler.below(2_000) as u64,
            false => shuffler.below(600) as u64,
        };
        let victim = choose(&mut shuffler, victims, weights);
        faults.push(Fault { after_ms, victim, wound: Wound::Kill { away_ms } });
        if kill % KILLS_A_WOUND == KILLS_A_WOUND - 1 {
            let victim = choose(&mut shuffler, victims, weights);
            if victims[victim].is_ours {
                let wound = match shuffler.chance(50) {
                    true => Wound::Freeze { for_ms: 300 + shuffler.below(7_000) as u64 },
                    false => Wound::Restart,
                };
                faults.push(Fault { after_ms: 200, victim, wound });
            }
        }
    }
    faults
}

/// Each backend away once, one after the other.
pub fn absences(for_ms: u64, victims: &[Victim]) -> Vec<Fault> {
    let can_be_away = |victim: &Victim| !victim.is_ours && victim.weight > 0 && for_ms > 0;
    let backends = victims.iter().enumerate().filter(|(_, victim)| can_be_away(victim));
    backends.map(|(victim, _)| Fault { after_ms: 1_000, victim, wound: Wound::Absence { for_ms } }).collect()
}

fn choose(shuffler: &mut Shuffler, victims: &[Victim], weights: usize) -> usize {
    let mut at = shuffler.below(weights);
    for (place, victim) in victims.iter().enumerate() {
        if at < victim.weight {
            return place;
        }
        at -= victim.weight;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const VICTIMS: [Victim; 3] = [
        Victim { is_ours: true, weight: 3 },
        Victim { is_ours: true, weight: 3 },
        Victim { is_ours: false, weight: 1 },
    ];

    #[test]
    fn a_seed_says_everything_and_another_says_something_else() {
        assert_eq!(faults(7, 50, &VICTIMS), faults(7, 50, &VICTIMS));
        assert_ne!(faults(7, 50, &VICTIMS), faults(8, 50, &VICTIMS));
    }

    #[test]
    fn as_many_are_killed_as_was_asked_for_everybody_among_them_and_backends_are_never_frozen() {
        let faults = faults(3, 200, &VICTIMS);
        let kills = |victim: usize| {
            let is_kill =
                |fault: &&Fault| fault.victim == victim && matches!(fault.wound, Wound::Kill { .. });
            faults.iter().filter(is_kill).count()
        };
        assert_eq!(kills(0) + kills(1) + kills(2), 200);
        assert!(kills(0) > kills(2) && kills(2) > 0);
        assert!(faults.iter().any(|fault| matches!(fault.wound, Wound::Freeze { .. })));
        let is_mild = |fault: &Fault| fault.victim == 2 && !matches!(fault.wound, Wound::Kill { .. });
        assert!(!faults.iter().any(is_mild));
    }

    #[test]
    fn some_events_are_hours_late_and_numbers_grow() {
        let mut sender = Sender::new(0, 1, 0);
        let events: Vec<Event> = (0..100).flat_map(|_| sender.batch(1_000_000_000, 100)).collect();
        let late = events.iter().filter(|event| event.json.ts_ms < 1_000_000_000 - 3_600_000).count();
        assert!((100..400).contains(&late), "{late}");
        assert!(events.iter().map(|event| event.json.seq).eq((1..=2000).map(Some)));
    }
}
