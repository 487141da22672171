//! What was acknowledged, and what the rows make of it.

use std::collections::BTreeMap;

use caelum_engine::sketch::Histogram;
use caelum_model::rollup::{MINUTE_MS, Measure, Rollup};

use super::plan::Event;

/// Differences that are told in words.
const DIFFERENCES_MAX: usize = 20;

/// Probe, target, start of the window.
type Window = (String, String, i64);

/// What a row must say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    count: u64,
    errors: u64,
    tcp_ms: u64,
}

/// Events that were acknowledged, by window. Each is added once, however often it was sent.
#[derive(Debug, Default)]
pub struct Ledger {
    windows: BTreeMap<Window, Entry>,
    events: u64,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged events that are in no row.
    pub lost: u64,
    /// Events counted more than once.
    pub doubled: u64,
    /// Rows whose count is right and whose errors, sums or distributions are not.
    pub wrong: u64,
    /// The first differences, in words.
    pub differences: Vec<String>,
}

impl Ledger {
    /// Adds events that were acknowledged just now.
    pub fn add(&mut self, events: &[Event]) {
        for event in events {
            let json = &event.json;
            let start = json.ts_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
            let window = (json.client_id.to_string(), json.target.to_string(), start);
            let entry = self.windows.entry(window).or_default();
            entry.count += 1;
            entry.errors += u64::from(event.is_error);
            entry.tcp_ms += u64::from(event.tcp_ms);
            self.events += 1;
        }
    }

    /// Distinct events acknowledged.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Compares the rows of the probes in the ledger with it; other probes' rows are somebody else's.
    pub fn compare(&self, rows: &[Rollup]) -> Verdict {
        let mut verdict = Verdict::default();
        let mut found: BTreeMap<Window, Entry> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.key.width_ms == MINUTE_MS) {
            let key = &row.key;
            let window = (key.client_id.as_str().to_owned(), key.target.clone(), key.window_start_ms);
            if !self.knows(&window.0) {
                continue;
            }
            let tcp = row.distributions.get(&Measure::Tcp).and_then(|bytes| Histogram::decode(bytes).ok());
            if tcp.as_ref().map_or(0, Histogram::count) != row.count_total {
                verdict.wrong += 1;
                note(&mut verdict, || {
                    format!("{window:?} counts {} and distributes others", row.count_total)
                });
            }
            let entry = found.entry(window).or_default();
            entry.count += row.count_total;
            entry.errors += row.count_error;
            // Whole numbers below 2^53: the sum is exact in any order.
            entry.tcp_ms += tcp.map_or(0, |tcp| tcp.sum() as u64);
        }
        for (window, wanted) in &self.windows {
            let is = found.remove(window).unwrap_or_default();
            verdict.lost += wanted.count.saturating_sub(is.count);
            verdict.doubled += is.count.saturating_sub(wanted.count);
            if is.count == wanted.count && is != *wanted {
                verdict.wrong += 1;
            }
            if is != *wanted {
                note(&mut verdict, || format!("{window:?} is {is:?} and should be {wanted:?}"));
            }
        }
        for (window, is) in found {
            verdict.doubled += is.count;
            note(&mut verdict, || format!("{window:?} is {is:?} and should not be"));
        }
        verdict
    }

    fn knows(&self, client_id: &str) -> bool {
        let first = (client_id.to_owned(), String::new(), i64::MIN);
        self.windows.range(first..).next().is_some_and(|((client, _, _), _)| client == client_id)
    }
}

fn note(verdict: &mut Verdict, text: impl FnOnce() -> String) {
    if verdict.differences.len() < DIFFERENCES_MAX {
        verdict.differences.push(text());
    }
}

#[cfg(test)]
mod tests {
    use caelum_model::{
        event::Family,
        id::{ClientId, PartitionId},
        rollup::{LastSeen, RollupKey, RollupState},
    };

    use super::*;
    use crate::torture::plan::Sender;

    /// Rows as a faultless aggregator writes them.
    fn rows(events: &[Event]) -> Vec<Rollup> {
        let mut by_window: BTreeMap<Window, Vec<&Event>> = BTreeMap::new();
        for event in events {
            let start = event.json.ts_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
            let window = (event.json.client_id.to_string(), event.json.target.to_string(), start);
            by_window.entry(window).or_default().push(event);
        }
        by_window
            .into_iter()
            .map(|((client, target, window_start_ms), events)| {
                let mut tcp = Histogram::default();
                for event in &events {
                    tcp.record(f64::from(event.tcp_ms)).expect("it can be measured");
                }
                let errors = events.iter().filter(|event| event.is_error).count() as u64;
                Rollup {
                    key: RollupKey {
                        width_ms: MINUTE_MS,
                        window_start_ms,
                        client_id: ClientId::parse(&client).expect("valid"),
                        target,
                        family: Family::V4,
                    },
                    partition: PartitionId(0),
                    count_total: events.len() as u64,
                    count_success: events.len() as u64 - errors,
                    count_error: errors,
                    errors_by_stage: BTreeMap::new(),
                    errors_by_class: BTreeMap::new(),
                    distributions: BTreeMap::from([(Measure::Tcp, tcp.encode())]),
                    late_merged: 0,
                    last: LastSeen::default(),
                    state: RollupState::Settled,
                    version: 1,
                    updated_at_ms: 0,
                }
            })
            .collect()
    }

    fn story() -> (Ledger, Vec<Event>) {
        let mut sender = Sender::new(0, 1, 0);
        let events: Vec<Event> = (0..20).flat_map(|_| sender.batch(1_000_000_000, 10)).collect();
        let mut ledger = Ledger::default();
        ledger.add(&events);
        (ledger, events)
    }

    #[test]
    fn faultless_rows_agree_and_rows_of_others_do_not_matter() {
        let (ledger, events) = story();
        let mut stranger = Sender::new(1, 9, 9);
        let all: Vec<Event> = events.iter().cloned().chain(stranger.batch(1_000_000_000, 0)).collect();
        assert_eq!(ledger.compare(&rows(&all)), Verdict::default());
    }

    #[test]
    fn a_lost_event_a_doubled_one_and_a_wrong_sum_are_told_apart() {
        let (ledger, events) = story();
        let lost = ledger.compare(&rows(&events[1..]));
        assert_eq!((lost.lost, lost.doubled, lost.wrong, lost.differences.len()), (1, 0, 0, 1));
        let mut twice = events.clone();
        twice.push(events[0].clone());
        let doubled = ledger.compare(&rows(&twice));
        assert_eq!((doubled.lost, doubled.doubled), (0, 1));
        let mut bent = events;
        bent[0].tcp_ms += 1;
        let wrong = ledger.compare(&rows(&bent));
        assert_eq!((wrong.lost, wrong.doubled, wrong.wrong), (0, 0, 1));
    }
}
