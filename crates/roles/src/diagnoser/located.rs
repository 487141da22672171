//! From judged windows of pairs to incidents: which window is ready to be looked at as a whole, and what is
//! to be stored and told. No I/O.

use std::collections::{BTreeMap, HashMap};

use caelum_engine::{
    incident::{Changes, History},
    locate::{Config, Seen},
};
use caelum_model::{
    UnixMs,
    incident::{Incident, IncidentStep, StepKind},
    rollup::MINUTE_MS,
};

use super::{
    pairs::{PAIRS_MAX, PairKey, Pairs, Shown},
    places::Places,
};

/// Time after the end of a window after which it is looked at, whoever is missing, ms.
const PATIENCE_MS: i64 = 90_000;
/// Windows without anything after which nobody waits for a pair, ms.
const IDLE_MS: i64 = 3 * MINUTE_MS;

/// Incidents, and the windows that wait for the rest of their pairs.
pub(super) struct Located {
    history: History,
    places: Places,
    waiting: BTreeMap<UnixMs, Vec<Seen>>,
    changes: Changes,
    /// What was told of each incident that is or was lately open: whether it was open, and its revision.
    told: HashMap<String, (bool, u32)>,
    /// Windows that were looked at as a whole since the start.
    pub(super) windows: u64,
}

impl Located {
    /// Goes on with incidents that opened before what is read again.
    pub(super) fn new(places: Places, open_before: Vec<Incident>) -> Self {
        Self {
            history: History::new(Config::default(), open_before),
            places,
            waiting: BTreeMap::new(),
            changes: Changes::default(),
            told: HashMap::new(),
            windows: 0,
        }
    }

    pub(super) fn replace_places(&mut self, places: Places) {
        self.places = places;
    }

    /// Newest window that was looked at.
    pub(super) fn newest_ms(&self) -> Option<UnixMs> {
        self.history.newest_ms()
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &Incident> {
        self.history.open()
    }

    /// Every incident of the windows that are kept.
    pub(super) fn known(&self) -> Vec<Incident> {
        self.history.known().cloned().collect()
    }

    /// Takes what judged windows showed.
    pub(super) fn take(&mut self, shown: Vec<(PairKey, Vec<Shown>)>) {
        self.places.bound(2 * PAIRS_MAX);
        for (key, windows) in shown {
            for Shown { signals, resolver, own_trouble } in windows {
                let start_ms = signals.window_start_ms;
                let seen = Seen { facts: self.places.facts(&key, resolver), own_trouble, signals };
                if self.history.newest_ms().is_some_and(|newest_ms| start_ms <= newest_ms) {
                    self.history.revise(start_ms, seen);
                    continue;
                }
                let window = self.waiting.entry(start_ms).or_default();
                match window.iter_mut().find(|other| other.facts.is_same_pair(&seen.facts)) {
                    Some(other) => *other = seen,
                    None => window.push(seen),
                }
            }
        }
    }

    /// Looks at every window that all of its pairs have been judged for, or whose time is over.
    pub(super) fn look(&mut self, pairs: &Pairs, now_ms: UnixMs) {
        let newest: Vec<UnixMs> = pairs.newest_judged().collect();
        self.look_at(|start_ms| {
            let is_late = start_ms + MINUTE_MS + PATIENCE_MS <= now_ms;
            is_late
                || !newest.iter().any(|newest_ms| *newest_ms < start_ms && start_ms - newest_ms <= IDLE_MS)
        });
    }

    /// Looks at every window that starts before a time.
    pub(super) fn look_before(&mut self, before_ms: UnixMs) {
        self.look_at(|start_ms| start_ms < before_ms);
    }

    fn look_at(&mut self, is_ready: impl Fn(UnixMs) -> bool) {
        while let Some(entry) = self.waiting.first_entry() {
            if !is_ready(*entry.key()) {
                break;
            }
            let (start_ms, mut seen) = entry.remove_entry();
            // The order of pairs must not depend on who was judged first.
            seen.sort_by(|a, b| a.facts.cmp_pair(&b.facts));
            self.changes.merge(self.history.take(start_ms, seen));
            self.windows += 1;
        }
        self.changes.merge(self.history.settle());
    }

    /// Compares what was found while reading the last hours again with what had been said: what was said
    /// through a window stands, and goes on under its name.
    pub(super) fn reconcile(&mut self, said: &[Incident], through_ms: Option<UnixMs>) {
        let mut incidents = Vec::new();
        let mut found_again: Vec<&str> = Vec::new();
        for found in self.known() {
            let same = said.iter().find(|said| said.id == found.id).or_else(|| {
                said.iter().find(|said| {
                    said.label == found.label
                        && said.entity == found.entity
                        && !found_again.contains(&said.id.as_str())
                        && overlap(said, &found)
                })
            });
            if let Some(same) = same {
                found_again.push(&same.id);
                self.history.adopt(&found.id, same);
            }
            let is_new = found
                .steps
                .last()
                .is_none_or(|step| through_ms.is_none_or(|through_ms| step.window_start_ms > through_ms));
            let is_longer = same.is_none_or(|same| {
                same.closed_window_ms.is_none()
                    && (found.closed_window_ms.is_some() || found.updated_window_ms > same.updated_window_ms)
            });
            if (same.is_none() && is_new) || (same.is_some() && is_longer) {
                let id = same.map_or(&found.id, |same| &same.id);
                incidents.extend(self.history.known().find(|known| known.id == *id).cloned());
            }
        }
        for gone in said
            .iter()
            .filter(|said| said.closed_window_ms.is_none() && !found_again.contains(&said.id.as_str()))
        {
            let mut closed = gone.clone();
            closed.closed_window_ms = Some(gone.updated_window_ms + MINUTE_MS);
            let text = "closed: it was not found again when the windows were read anew".to_owned();
            let window_start_ms = gone.updated_window_ms;
            closed.steps.push(IncidentStep { window_start_ms, kind: StepKind::Closed, text });
            incidents.push(closed);
        }
        self.told.extend(
            said.iter().map(|said| (said.id.clone(), (said.closed_window_ms.is_none(), said.revision))),
        );
        self.changes = Changes { incidents, withdrawn: Vec::new() };
    }

    /// What is to be stored.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Tells what was stored, in the log.
    pub(super) fn tell(&mut self, changes: &Changes) {
        for incident in &changes.incidents {
            self.tell_of(incident);
        }
        for id in &changes.withdrawn {
            if self.told.remove(id).is_some() {
                tracing::info!(
                    code = "incident.withdrawn",
                    incident = id,
                    "a window that came late took an incident back"
                );
            }
        }
        let known: std::collections::BTreeSet<&str> =
            self.history.known().map(|incident| incident.id.as_str()).collect();
        self.told.retain(|id, _| known.contains(id.as_str()));
    }

    fn tell_of(&mut self, incident: &Incident) {
        let is_open = incident.closed_window_ms.is_none();
        let before = self.told.insert(incident.id.clone(), (is_open, incident.revision));
        if incident.is_flapping {
            // Its steps say so; notices are held until it is steady.
            return;
        }
        let (id, severity, sentence) = (&incident.id, incident.severity.as_str(), &incident.sentence);
        match before {
            None if is_open => {
                tracing::warn!(code = "incident.opened", incident = id, severity, "{sentence}")
            }
            None => tracing::info!(code = "incident.found", incident = id, severity, "{sentence}"),
            Some((true, _)) if !is_open => {
                tracing::info!(code = "incident.closed", incident = id, severity, "{sentence}");
            }
            Some((false, _)) if is_open => {
                tracing::warn!(code = "incident.reopened", incident = id, severity, "{sentence}");
            }
            Some((_, revision)) if revision != incident.revision => {
                tracing::info!(code = "incident.revised", incident = id, severity, "{sentence}");
            }
            Some(_) => {}
        }
    }
}

fn overlap(a: &Incident, b: &Incident) -> bool {
    let end = |incident: &Incident| incident.closed_window_ms.unwrap_or(i64::MAX);
    a.opened_window_ms < end(b) && b.opened_window_ms < end(a)
}
