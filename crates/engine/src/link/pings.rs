//! How good a link is: the last pings, what they took and how many were lost.

use std::collections::VecDeque;

/// Time between pings, and how long one is waited for, ms.
const EVERY_MS: i64 = 5_000;
/// Pings that count.
const KEPT: usize = 20;

/// A link as measured by its last pings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Round trip of the last answered ping, ms.
    pub rtt_ms: Option<f64>,
    /// Median deviation between consecutive round trips, ms.
    pub jitter_ms: Option<f64>,
    /// Share of pings that were not answered in time, percent.
    pub loss_pct: Option<f64>,
}

/// What became of a ping that was due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The last one was not answered.
    Lost,
    /// Send one with this payload.
    Send(u64),
}

/// Pings under way and past.
#[derive(Clone, Debug)]
pub(super) struct Pings {
    count: u64,
    /// Whether the last one is still waited for.
    is_waiting: bool,
    next_ms: i64,
    /// Round trips of the last pings; none where one was lost.
    past: VecDeque<Option<f64>>,
}

impl Pings {
    /// The first ping goes out at a time.
    pub(super) fn new(first_ms: i64) -> Self {
        Self { count: 0, is_waiting: false, next_ms: first_ms, past: VecDeque::with_capacity(KEPT) }
    }

    /// When something is due next.
    pub(super) fn next_ms(&self) -> i64 {
        self.next_ms
    }

    /// What is due now.
    pub(super) fn due(&mut self, now_ms: i64, mut does: impl FnMut(Due)) {
        if now_ms < self.next_ms {
            return;
        }
        if self.is_waiting {
            self.note(None);
            does(Due::Lost);
        }
        self.count += 1;
        self.is_waiting = true;
        self.next_ms = next_ms(now_ms);
        does(Due::Send(self.count));
    }

    /// We ourselves did not run: what was not answered meanwhile says nothing about the link.
    pub(super) fn forgive(&mut self) {
        self.is_waiting = false;
    }

    /// An answer; false where it is none to the ping under way.
    pub(super) fn answered(&mut self, payload: u64, rtt_ms: f64) -> bool {
        let is_ours = self.is_waiting && payload == self.count && rtt_ms.is_finite() && rtt_ms >= 0.0;
        if is_ours {
            self.is_waiting = false;
            self.note(Some(rtt_ms));
        }
        is_ours
    }

    fn note(&mut self, rtt_ms: Option<f64>) {
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(rtt_ms);
    }

    /// The link as its last pings show it.
    pub(super) fn quality(&self) -> Quality {
        let answered: Vec<f64> = self.past.iter().flatten().copied().collect();
        let mut steps: Vec<f64> = answered.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
        steps.sort_by(f64::total_cmp);
        let lost = self.past.len() - answered.len();
        Quality {
            rtt_ms: answered.last().copied(),
            jitter_ms: median(&steps),
            loss_pct: (!self.past.is_empty()).then(|| lost as f64 * 100.0 / self.past.len() as f64),
        }
    }
}

/// All links of a node ping at the same moments, so that it is woken for them once. Other nodes have started at
/// other times and have other moments.
fn next_ms(now_ms: i64) -> i64 {
    let next_ms = (now_ms / EVERY_MS + 1) * EVERY_MS;
    if next_ms - now_ms < EVERY_MS / 2 { next_ms + EVERY_MS } else { next_ms }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(pings: &mut Pings, now_ms: i64) -> Vec<Due> {
        let mut what = Vec::new();
        pings.due(now_ms, |due| what.push(due));
        what
    }

    #[test]
    fn quality_is_that_of_the_last_twenty_pings() {
        let mut pings = Pings::new(0);
        assert_eq!(pings.quality(), Quality::default());
        for n in 0..30_u32 {
            due(&mut pings, i64::from(n) * EVERY_MS);
            if n % 4 != 0 {
                assert!(pings.answered(u64::from(n) + 1, 10.0 + f64::from(n % 2)));
            }
        }
        let quality = pings.quality();
        assert_eq!(quality.rtt_ms, Some(11.0));
        assert_eq!(quality.loss_pct, Some(25.0));
        assert_eq!(quality.jitter_ms, Some(1.0).filter(|_| pings.past.len() == KEPT));
    }

    #[test]
    fn an_answer_that_is_late_or_to_nothing_does_not_count() {
        let mut pings = Pings::new(0);
        assert_eq!(due(&mut pings, 0), [Due::Send(1)]);
        assert_eq!(due(&mut pings, EVERY_MS - 1), []);
        assert_eq!(due(&mut pings, EVERY_MS), [Due::Lost, Due::Send(2)]);
        assert!(!pings.answered(1, 6_000.0));
        assert!(!pings.answered(2, f64::NAN));
        assert!(pings.answered(2, 1.0));
        assert!(!pings.answered(2, 1.0), "only once");
    }

    #[test]
    fn all_links_of_a_node_ping_at_the_same_moments_and_never_in_a_hurry() {
        for start_ms in 0..EVERY_MS {
            let mut pings = Pings::new(start_ms);
            due(&mut pings, start_ms);
            let first_ms = pings.next_ms() - start_ms;
            assert!(pings.next_ms() % EVERY_MS == 0 && (EVERY_MS / 2..2 * EVERY_MS).contains(&first_ms));
        }
    }

    #[test]
    fn our_own_sleep_loses_no_ping() {
        let mut pings = Pings::new(0);
        due(&mut pings, 0);
        pings.forgive();
        assert_eq!(due(&mut pings, 90_000), [Due::Send(2)]);
        assert_eq!(pings.quality().loss_pct, None);
    }
}
