//! Incidents: what is wrong at one place, from when to when.
//!
//! # Purpose
//! [`Incidents`] takes the findings of one window after another and opens, follows and closes incidents.
//! [`History`] keeps the newest windows, so that a late one can change what was said.
//!
//! # Rules
//! - A finding of two windows opens an incident, five clear windows close it; of one kind at one place there
//!   is one. The alarm of a lone pair has built up over windows already, and opens at once.
//! - A window in which its pairs told nothing neither keeps an incident open nor closes it; half an hour of
//!   silence closes it, and it says so.
//! - A finding within a place that has an open incident of its kind is part of it. An incident that turns out
//!   to be part of a wider one ends as that.
//! - What comes and goes in the last 21 windows is flapping until it is steady: Nagios' weighted share of
//!   changes, with an upper and a lower bound.
//! - The same windows give the same incidents with the same ids.
//!
//! # What it does not do
//! It tells nobody, and stores nothing.

mod flap;
mod history;
mod open;
mod sentence;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::{
    UnixMs,
    incident::{Entity, Incident, StepKind},
    rollup::MINUTE_MS,
};

use crate::locate::{Class, Finding, Seen, Shown};
use flap::Flap;
pub use history::{Changes, History};
use open::Open;

/// Windows with a finding that open an incident.
const OPEN_WINDOWS: u32 = 2;
/// Clear windows that close it.
const CLOSE_WINDOWS: u32 = 5;
/// Time within which findings count together, ms: one window may miss.
const TOGETHER_MS: i64 = 2 * MINUTE_MS;
/// Silence of all its pairs that closes an incident, ms.
const SILENCE_MS: i64 = 30 * MINUTE_MS;
/// Share of a finding's pairs that must belong to a place for it to be part of that place's incident.
const PART_SHARE: f64 = 0.8;

/// Deviation that a window itself must show, in what the finding stands on, to open something.
const SEEN_Z: f64 = 0.5;

type Key = (Entity, Class);

/// Every place that something is or was lately found at.
#[derive(Clone, Debug, Default)]
pub struct Incidents {
    tracks: BTreeMap<Key, Track>,
}

#[derive(Clone, Debug, Default)]
struct Track {
    /// Findings that have not opened an incident.
    pending: Option<Pending>,
    flap: Flap,
    open: Option<Open>,
}

/// Findings that wait for another one.
#[derive(Clone, Debug)]
struct Pending {
    first_ms: UnixMs,
    newest_ms: UnixMs,
    windows: u32,
    /// What they showed; part of the incident's numbers once there is one.
    shown: Vec<Shown>,
}

impl Incidents {
    /// Takes up an incident that is known from before and still open.
    pub fn resume(&mut self, incident: Incident) {
        let class = Class::of_label(incident.label, incident.sublabel.as_deref());
        let track = self.tracks.entry((incident.entity.clone(), class)).or_default();
        track.open = Some(Open::resumed(incident, class));
    }

    /// Places with an open incident.
    pub fn open_places(&self) -> BTreeSet<Key> {
        self.tracks.iter().filter(|(_, track)| track.open.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Open incidents.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.tracks.values().filter_map(|track| track.open.as_ref()).map(Open::incident)
    }

    /// Makes an open incident the one that was told before.
    fn adopt(&mut self, found_id: &str, said: &Incident) {
        let open = self.tracks.values_mut().filter_map(|track| track.open.as_mut());
        open.filter(|open| open.incident().id == found_id).for_each(|open| open.adopt(said));
    }

    /// Takes the findings of the next window, and answers with the incidents that changed.
    pub fn step(&mut self, window_start_ms: UnixMs, seen: &[Seen], findings: Vec<Finding>) -> Vec<Incident> {
        let mut found: BTreeSet<Key> = BTreeSet::new();
        let mut changed: BTreeMap<String, Incident> = BTreeMap::new();
        for finding in findings {
            let key = (finding.entity.clone(), finding.class);
            let is_open = self.tracks.get(&key).is_some_and(|track| track.open.is_some());
            if !is_open && (!is_seen(&finding) || self.is_part_of_open(&finding, seen)) {
                continue;
            }
            found.insert(key.clone());
            let track = self.tracks.entry(key).or_default();
            if let Some(open) = &mut track.open {
                open.go_on(window_start_ms, &finding, seen);
                continue;
            }
            let Some(opened_ms) = track.opens(window_start_ms, &finding) else { continue };
            let earlier = track.pending.take().map(|pending| pending.shown).unwrap_or_default();
            let is_flapping = track.flap.is_flapping();
            track.open = Some(Open::new(opened_ms, window_start_ms, &finding, &earlier, seen, is_flapping));
            for part in self.close_parts(window_start_ms, &finding, seen) {
                changed.insert(part.id.clone(), part);
            }
        }
        for (key, track) in &mut self.tracks {
            let is_found = found.contains(key);
            let Some(open) = &mut track.open else {
                // Only what was found lately has a track; its windows as usual count as such.
                track.flap.note(is_found);
                continue;
            };
            if is_found || open.is_told_in(seen) {
                if track.flap.note(is_found) {
                    open.flap(window_start_ms, track.flap.is_flapping());
                }
                if !is_found {
                    open.clear(window_start_ms, seen);
                }
            }
            let is_over = if open.clear_windows() >= CLOSE_WINDOWS {
                open.close(window_start_ms, None);
                true
            } else if window_start_ms - open.told_ms() >= SILENCE_MS {
                open.close(window_start_ms, Some("nothing has been measured for 30 minutes"));
                true
            } else {
                false
            };
            if is_found || is_over || open.take_changed() {
                changed.insert(open.incident().id.clone(), open.incident().clone());
            }
            if is_over {
                track.open = None;
            }
        }
        self.tracks.retain(|_, track| !track.is_forgettable(window_start_ms));
        changed.into_values().collect()
    }

    /// Whether what was found lies within the place of an open incident of its kind, or of one that explains
    /// it and was still there when it began: what has built up outlasts its cause by some windows.
    fn is_part_of_open(&self, finding: &Finding, seen: &[Seen]) -> bool {
        self.tracks.iter().any(|((entity, class), track)| {
            let Some(open) = &track.open else { return false };
            // Only what built up by itself: what many pairs show now was weighed against it already.
            let is_explained = class.explains(finding.class)
                && finding.since_ms.is_some_and(|ms| ms <= open.incident().updated_window_ms + MINUTE_MS);
            (*class == finding.class || is_explained) && {
                let within = finding.pairs.iter().filter(|number| seen[**number].facts.is_of(entity)).count();
                within as f64 >= PART_SHARE * finding.pairs.len() as f64
            }
        })
    }

    /// Ends open incidents that are part of a new, wider one.
    fn close_parts(&mut self, window_start_ms: UnixMs, wider: &Finding, seen: &[Seen]) -> Vec<Incident> {
        let mut closed = Vec::new();
        for ((entity, class), track) in &mut self.tracks {
            if *class != wider.class || *entity == wider.entity {
                continue;
            }
            let Some(open) = &mut track.open else { continue };
            if open.share_within(&wider.entity, seen) >= PART_SHARE {
                open.close(window_start_ms, Some(&format!("it is part of what is wrong at {}", wider.place)));
                closed.push(open.incident().clone());
                track.open = None;
            }
        }
        closed
    }
}

impl Track {
    /// Counts a finding; answers with the first window of the incident if it opens one.
    fn opens(&mut self, window_start_ms: UnixMs, finding: &Finding) -> Option<UnixMs> {
        if let Some(since_ms) = finding.since_ms.filter(|since_ms| *since_ms < window_start_ms) {
            return Some(since_ms);
        }
        let pending =
            self.pending.take().filter(|pending| window_start_ms - pending.newest_ms <= TOGETHER_MS);
        let mut pending = pending.unwrap_or_else(|| Pending {
            first_ms: window_start_ms,
            newest_ms: window_start_ms,
            windows: 0,
            shown: Vec::new(),
        });
        pending.newest_ms = window_start_ms;
        pending.windows += 1;
        let (first_ms, is_enough) = (pending.first_ms, pending.windows >= OPEN_WINDOWS);
        if !is_enough {
            pending.shown.extend_from_slice(&finding.shown);
        }
        self.pending = Some(pending);
        is_enough.then_some(first_ms)
    }

    fn is_forgettable(&self, window_start_ms: UnixMs) -> bool {
        let is_waiting =
            self.pending.as_ref().is_some_and(|pending| window_start_ms - pending.newest_ms <= TOGETHER_MS);
        self.open.is_none() && !is_waiting && self.flap.is_quiet()
    }
}

/// Whether the window itself shows it. What has built up before outlasts its cause: that keeps an incident
/// open, and opens none.
fn is_seen(finding: &Finding) -> bool {
    finding.shown.first().is_none_or(|shown| shown.z >= SEEN_Z)
}

/// Marks a step in an incident's history; the first and the newest are kept.
fn push_step(incident: &mut Incident, window_start_ms: UnixMs, kind: StepKind, text: String) {
    use caelum_model::incident::{IncidentStep, STEPS_MAX};
    if incident.steps.len() >= STEPS_MAX {
        incident.steps.remove(1);
    }
    incident.steps.push(IncidentStep { window_start_ms, kind, text });
}
