//! The newest windows, and incidents as they follow from them, so that a late window can change them.

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::{
    UnixMs,
    incident::{Incident, StepKind},
    rollup::MINUTE_MS,
};

use super::{Incidents, push_step};
use crate::locate::{Config, Seen, locate};

/// Windows that are kept at most: a change further back stays unsaid.
const WINDOWS_MAX: usize = 7 * 60;
/// Pairs of all kept windows together, some 300 bytes each; with more, fewer windows are kept.
const PAIR_WINDOWS_MAX: usize = 100_000;
/// Windows between two states that are kept to begin again from.
const CHECKPOINT_WINDOWS: i64 = 30;
/// Incidents that are remembered, to tell what a late window changed.
const INCIDENTS_MAX: usize = 2_000;
/// Revisions of an incident that are noted.
const REVISIONS_MAX: usize = 50;

/// What a window changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Incidents as they stand now.
    pub incidents: Vec<Incident>,
    /// Ids of those that turned out not to have been.
    pub withdrawn: Vec<String>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.incidents.is_empty() && self.withdrawn.is_empty()
    }

    /// Adds later changes.
    pub fn merge(&mut self, later: Self) {
        let ids: BTreeSet<&str> = later.incidents.iter().map(|incident| incident.id.as_str()).collect();
        self.incidents.retain(|incident| {
            !ids.contains(incident.id.as_str()) && !later.withdrawn.contains(&incident.id)
        });
        self.withdrawn.retain(|id| !ids.contains(id.as_str()));
        self.incidents.extend(later.incidents);
        self.withdrawn.extend(later.withdrawn);
    }
}

/// Windows and incidents of the last hours.
#[derive(Clone, Debug, Default)]
pub struct History {
    config: Config,
    state: Incidents,
    windows: BTreeMap<UnixMs, Vec<Seen>>,
    pair_windows: usize,
    /// States as they were before these windows.
    checkpoints: BTreeMap<UnixMs, Incidents>,
    /// Incidents of the kept windows.
    known: BTreeMap<String, Incident>,
    /// Newest windows of those at which incidents were revised.
    revisions: BTreeMap<String, Vec<UnixMs>>,
    /// Windows from here on have changed.
    changed_from_ms: Option<UnixMs>,
}

impl History {
    /// An empty one that goes on with incidents from before.
    pub fn new(config: Config, open: Vec<Incident>) -> Self {
        let mut history = Self { config, ..Self::default() };
        for incident in open {
            history.known.insert(incident.id.clone(), incident.clone());
            history.state.resume(incident);
        }
        history
    }

    /// The newest window.
    pub fn newest_ms(&self) -> Option<UnixMs> {
        self.windows.last_key_value().map(|(start_ms, _)| *start_ms)
    }

    /// Incidents of the kept windows, by their ids.
    pub fn known(&self) -> impl Iterator<Item = &Incident> {
        self.known.values()
    }

    /// Open incidents.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.state.open()
    }

    /// Gives an incident the name and beginning that it was told under before: what is read again may begin
    /// a window earlier or later.
    pub fn adopt(&mut self, found_id: &str, said: &Incident) {
        for state in self.checkpoints.values_mut().chain([&mut self.state]) {
            state.adopt(found_id, said);
        }
        if let Some(mut found) = self.known.remove(found_id) {
            take_name(&mut found, said);
            self.known.insert(found.id.clone(), found);
        }
    }

    /// Takes the next window. One that is not newer than the newest is a late one: see [`History::revise`].
    pub fn take(&mut self, window_start_ms: UnixMs, seen: Vec<Seen>) -> Changes {
        if self.newest_ms().is_some_and(|newest_ms| window_start_ms <= newest_ms) {
            for pair in seen {
                self.revise(window_start_ms, pair);
            }
            return Changes::default();
        }
        let mut changes = self.settle();
        self.pair_windows += seen.len();
        self.windows.insert(window_start_ms, seen);
        let incidents = self.step(window_start_ms);
        changes.merge(Changes { incidents, withdrawn: Vec::new() });
        self.forget_old();
        changes
    }

    /// Takes what one pair showed in a window that has been looked at. [`History::settle`] draws the
    /// consequences. A window from before the kept ones changes nothing any more.
    pub fn revise(&mut self, window_start_ms: UnixMs, seen: Seen) {
        let Some((oldest_ms, _)) = self.checkpoints.first_key_value() else { return };
        if window_start_ms < *oldest_ms {
            return;
        }
        let window = self.windows.entry(window_start_ms).or_default();
        match window.iter_mut().find(|pair| pair.facts.pair == seen.facts.pair) {
            Some(pair) if pair.signals == seen.signals => return,
            Some(pair) => *pair = seen,
            None => {
                window.push(seen);
                // The order within a window must not depend on who came late.
                window.sort_by(|a, b| a.facts.pair.cmp(&b.facts.pair));
                self.pair_windows += 1;
            }
        }
        let from_ms = self.changed_from_ms.map_or(window_start_ms, |from_ms| from_ms.min(window_start_ms));
        self.changed_from_ms = Some(from_ms);
    }

    /// Draws the consequences of late windows.
    pub fn settle(&mut self) -> Changes {
        let Some(from_ms) = self.changed_from_ms.take() else { return Changes::default() };
        let Some((start_ms, state)) = self.checkpoints.range(..=from_ms).next_back() else {
            return Changes::default();
        };
        let (start_ms, newest_ms) = (*start_ms, self.newest_ms().unwrap_or(from_ms));
        self.state = state.clone();
        self.checkpoints.retain(|checkpoint_ms, _| *checkpoint_ms <= start_ms);
        let (stay, before): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.known).into_iter().partition(|(_, incident)| {
                incident.steps.last().is_none_or(|step| step.window_start_ms < start_ms)
                    && incident.closed_window_ms.is_some()
            });
        let stay_ids: BTreeSet<String> = stay.keys().cloned().collect();
        self.known = stay;
        let open: Vec<Incident> = self.state.open().cloned().collect();
        for incident in open {
            self.know(incident);
        }
        let again: Vec<UnixMs> = self.windows.range(start_ms..).map(|(start_ms, _)| *start_ms).collect();
        for window_start_ms in again {
            self.step(window_start_ms);
        }
        self.compare(newest_ms, &before, &stay_ids)
    }

    /// What differs from what had been said, and the notes of it.
    fn compare(
        &mut self,
        newest_ms: UnixMs,
        before: &BTreeMap<String, Incident>,
        stay: &BTreeSet<String>,
    ) -> Changes {
        let withdrawn: Vec<String> =
            before.keys().filter(|id| !self.known.contains_key(*id)).cloned().collect();
        let mut incidents = Vec::new();
        for (id, now) in &mut self.known {
            match before.get(id) {
                Some(was) if was == now => continue,
                Some(_) => {
                    let revisions = self.revisions.entry(id.clone()).or_default();
                    revisions.push(newest_ms);
                    if revisions.len() > REVISIONS_MAX {
                        revisions.remove(0);
                    }
                    note_revisions(now, &[newest_ms]);
                }
                None if stay.contains(id) => continue,
                None => {}
            }
            incidents.push(now.clone());
        }
        Changes { incidents, withdrawn }
    }

    fn step(&mut self, window_start_ms: UnixMs) -> Vec<Incident> {
        let is_due = self.checkpoints.last_key_value().is_none_or(|(checkpoint_ms, _)| {
            window_start_ms - checkpoint_ms >= CHECKPOINT_WINDOWS * MINUTE_MS
        });
        if is_due {
            self.checkpoints.insert(window_start_ms, self.state.clone());
        }
        let Some(seen) = self.windows.get(&window_start_ms) else { return Vec::new() };
        let findings = locate(&self.config, seen, &self.state.open_places());
        let changed = self.state.step(window_start_ms, seen, findings);
        changed.into_iter().map(|incident| self.know(incident)).collect()
    }

    /// Remembers an incident, with the notes of its revisions: reading the windows again does not find them.
    fn know(&mut self, mut incident: Incident) -> Incident {
        if let Some(revisions) = self.revisions.get(&incident.id) {
            note_revisions(&mut incident, revisions);
        }
        self.known.insert(incident.id.clone(), incident.clone());
        incident
    }

    fn forget_old(&mut self) {
        let is_much =
            |history: &Self| history.windows.len() > WINDOWS_MAX || history.pair_windows > PAIR_WINDOWS_MAX;
        while is_much(self) && self.windows.len() > 1 {
            if let Some((_, window)) = self.windows.pop_first() {
                self.pair_windows -= window.len();
            }
        }
        let Some((oldest_ms, _)) = self.windows.first_key_value() else { return };
        let oldest_ms = *oldest_ms;
        // A state from before the oldest window would skip windows that are gone.
        self.checkpoints.retain(|checkpoint_ms, _| *checkpoint_ms >= oldest_ms);
        self.known.retain(|_, incident| incident.closed_window_ms.is_none_or(|ms| ms >= oldest_ms));
        while self.known.len() > INCIDENTS_MAX {
            self.known.pop_first();
        }
        self.revisions.retain(|id, _| self.known.contains_key(id));
    }
}

/// Makes an incident the one that was told before.
pub(super) fn take_name(found: &mut Incident, said: &Incident) {
    let newest_ms = said.steps.last().map_or(UnixMs::MIN, |step| step.window_start_ms);
    let later = found.steps.drain(..).filter(|step| step.window_start_ms > newest_ms);
    found.steps = said.steps.iter().cloned().chain(later).collect();
    found.id.clone_from(&said.id);
    found.opened_window_ms = said.opened_window_ms;
    found.detected_window_ms = said.detected_window_ms;
    found.revision = said.revision;
}

fn note_revisions(incident: &mut Incident, at: &[UnixMs]) {
    incident.revision += at.len() as u32;
    for window_start_ms in at {
        let text = "a window that came late changed what had been said".to_owned();
        push_step(incident, *window_start_ms, StepKind::Revised, text);
    }
    incident.steps.sort_by_key(|step| step.window_start_ms);
}
