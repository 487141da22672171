//! An incident while it is open: what it touched, its numbers, and how they sum up.

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::{
    UnixMs,
    event::Family,
    id::ClientId,
    incident::{Entity, EntityKind, Incident, IncidentEvidence, PAIRS_MAX, PairRef, Severity, StepKind},
    rollup::{MINUTE_MS, Measure},
};

use super::{
    history::take_name,
    push_step,
    sentence::{Number, Sentence},
};
use crate::{
    diagnose::{Symptom, median},
    hash::fnv1a,
    locate::{Class, Finding, Seen, Shown},
};

/// Windows whose numbers are kept; later ones replace the oldest.
const NUMBERS_MAX: usize = 60;
/// Most pairs whose part in it is remembered.
const TOUCHED_MAX: usize = 20_000;
/// Mean deviation at which the confidence that the size gives is 63 %.
const CONFIDENCE_Z: f64 = 1.5;
/// Time on top of the usual at which half of an experience is lost, ms.
const HALF_LOST_MS: f64 = 400.0;
/// Loss of packets at which half of an experience is lost, percent.
const HALF_LOST_PERCENT: f64 = 4.0;
/// Share of an experience that people feel, and the one at which nothing works.
const FELT: (f64, f64) = (0.2, 0.6);
/// Pairs that make a place's trouble one of many.
const MANY_PAIRS: u32 = 5;

/// Numbers of one symptom, one a window.
#[derive(Clone, Debug, Default)]
struct Numbers {
    usual: Vec<f64>,
    during: Vec<f64>,
    after: Vec<f64>,
    z: Vec<f64>,
    pairs: u32,
    observed: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Open {
    incident: Incident,
    class: Class,
    /// Pairs that it touches, as places.
    touched: BTreeSet<Entity>,
    numbers: BTreeMap<Symptom, Numbers>,
    /// What it stands on now.
    first: Option<Symptom>,
    normal: Vec<Measure>,
    coverage: f64,
    windows: f64,
    clear: u32,
    clear_from_ms: UnixMs,
    told_ms: UnixMs,
    is_changed: bool,
}

impl Open {
    pub(super) fn new(
        opened_ms: UnixMs,
        window_start_ms: UnixMs,
        finding: &Finding,
        earlier: &[Shown],
        seen: &[Seen],
        is_flapping: bool,
    ) -> Self {
        let ids = finding.entity.ids.join("\u{1f}");
        let name = format!(
            "{}\u{1f}{ids}\u{1f}{}\u{1f}{opened_ms}",
            finding.entity.kind.as_str(),
            finding.label.as_str()
        );
        // Two hashes of 64 bits: of a text, and of the same text with something before it.
        let id = format!("{:016x}{:016x}", fnv1a(&name), fnv1a(&format!("incident {name}")));
        let mut open = Self::resumed(
            Incident {
                id,
                label: finding.label,
                sublabel: finding.sublabel.clone(),
                entity: finding.entity.clone(),
                place: finding.place.clone(),
                opened_window_ms: opened_ms,
                detected_window_ms: window_start_ms,
                closed_window_ms: None,
                severity: Severity::Minor,
                confidence: 0.0,
                sentence: String::new(),
                pairs: Vec::new(),
                pairs_touched: 0,
                pairs_observed: 0,
                consequences: Vec::new(),
                evidence: Vec::new(),
                steps: Vec::new(),
                is_flapping,
                revision: 0,
                updated_window_ms: window_start_ms,
            },
            finding.class,
        );
        open.windows = ((window_start_ms - opened_ms) / MINUTE_MS).clamp(1, 5) as f64;
        // What was pending is taken to have shown it as widely as what opens it.
        open.coverage = finding.pairs.len() as f64 / f64::from(finding.observed.max(1));
        open.note(earlier);
        open.go_on(window_start_ms, finding, seen);
        let text = open.incident.sentence.clone();
        push_step(&mut open.incident, window_start_ms, StepKind::Opened, text);
        open
    }

    /// One that is known from a record. Its numbers begin anew; those of the record stand until then.
    pub(super) fn resumed(incident: Incident, class: Class) -> Self {
        let touched = incident.pairs.iter().map(pair_of).collect();
        let told_ms = incident.updated_window_ms;
        Self {
            incident,
            class,
            touched,
            numbers: BTreeMap::new(),
            first: None,
            normal: Vec::new(),
            coverage: 0.0,
            windows: 0.0,
            clear: 0,
            clear_from_ms: told_ms,
            told_ms,
            is_changed: false,
        }
    }

    pub(super) fn adopt(&mut self, said: &Incident) {
        take_name(&mut self.incident, said);
    }

    pub(super) fn incident(&self) -> &Incident {
        &self.incident
    }

    pub(super) fn clear_windows(&self) -> u32 {
        self.clear
    }

    /// The newest window that one of its pairs was measured in.
    pub(super) fn told_ms(&self) -> UnixMs {
        self.told_ms
    }

    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Share of the pairs it touches, of those seen, that belong to a place.
    pub(super) fn share_within(&self, wider: &Entity, seen: &[Seen]) -> f64 {
        let mine = seen.iter().filter(|pair| self.touched.contains(&pair.facts.pair));
        let (all, within) = mine
            .fold((0u32, 0u32), |(all, within), pair| (all + 1, within + u32::from(pair.facts.is_of(wider))));
        if all == 0 { 0.0 } else { f64::from(within) / f64::from(all) }
    }

    /// Whether a window says anything about it.
    pub(super) fn is_told_in(&self, seen: &[Seen]) -> bool {
        seen.iter().any(|pair| {
            self.touched.contains(&pair.facts.pair)
                && self.class.symptoms().any(|symptom| pair.signals.observed & symptom.bit() != 0)
        })
    }

    /// Takes a window that shows it.
    pub(super) fn go_on(&mut self, window_start_ms: UnixMs, finding: &Finding, seen: &[Seen]) {
        let before = (self.incident.pairs_touched, self.incident.label, self.incident.place.clone());
        (self.clear, self.told_ms) = (0, window_start_ms);
        for numbers in self.numbers.values_mut() {
            numbers.after.clear();
        }
        self.windows += 1.0;
        self.coverage +=
            (finding.pairs.len() as f64 / f64::from(finding.observed.max(1)) - self.coverage) / self.windows;
        for number in &finding.pairs {
            if self.touched.len() < TOUCHED_MAX {
                self.touched.insert(seen[*number].facts.pair.clone());
            }
        }
        self.note(&finding.shown);
        self.first = finding.shown.first().map(|shown| shown.symptom);
        self.normal.clone_from(&finding.normal);
        let incident = &mut self.incident;
        incident.label = finding.label;
        incident.sublabel.clone_from(&finding.sublabel);
        incident.place.clone_from(&finding.place);
        incident.consequences.clone_from(&finding.consequences);
        incident.updated_window_ms = window_start_ms;
        incident.pairs_touched = self.touched.len() as u32;
        incident.pairs_observed = incident.pairs_observed.max(finding.observed);
        self.sum_up();
        let (touched, label, place) = before;
        if touched == 0 {
            return;
        }
        let incident = &mut self.incident;
        let text = if label != incident.label {
            Some(format!("it is {} now, not {}", incident.label.as_str(), label.as_str()))
        } else if place != incident.place {
            Some(format!("it is at {} now", incident.place))
        } else if incident.pairs_touched > touched + touched / 4 {
            Some(format!("it touches {} pairs now, not {touched}", incident.pairs_touched))
        } else {
            None
        };
        if let Some(text) = text {
            push_step(incident, window_start_ms, StepKind::Changed, text);
        }
    }

    fn note(&mut self, shown: &[Shown]) {
        for shown in shown {
            let numbers = self.numbers.entry(shown.symptom).or_default();
            push(&mut numbers.usual, shown.usual);
            push(&mut numbers.during, shown.value);
            push(&mut numbers.z, shown.z);
            numbers.pairs = numbers.pairs.max(shown.pairs);
            numbers.observed = numbers.observed.max(shown.observed);
        }
    }

    /// Takes a window that does not show it.
    pub(super) fn clear(&mut self, window_start_ms: UnixMs, seen: &[Seen]) {
        self.told_ms = window_start_ms;
        if self.clear == 0 {
            self.clear_from_ms = window_start_ms;
        }
        self.clear += 1;
        for (symptom, numbers) in &mut self.numbers {
            let mut values: Vec<f64> = seen
                .iter()
                .filter(|pair| {
                    pair.signals.observed & symptom.bit() != 0 && self.touched.contains(&pair.facts.pair)
                })
                .map(|pair| f64::from(pair.signals.of(*symptom).value))
                .collect();
            if !values.is_empty() {
                push(&mut numbers.after, median(&mut values));
            }
        }
    }

    pub(super) fn flap(&mut self, window_start_ms: UnixMs, is_flapping: bool) {
        self.incident.is_flapping = is_flapping;
        self.is_changed = true;
        let (kind, text) = if is_flapping {
            (StepKind::Flapping, "it comes and goes; further notices of it are held")
        } else {
            (StepKind::Steady, "it comes and goes no longer")
        };
        push_step(&mut self.incident, window_start_ms, kind, text.to_owned());
    }

    /// Ends it with the first clear window, or, for a reason, after the last that showed it.
    pub(super) fn close(&mut self, window_start_ms: UnixMs, reason: Option<&str>) {
        let after_last_ms = self.incident.updated_window_ms + MINUTE_MS;
        let closed_ms = if self.clear > 0 { self.clear_from_ms } else { after_last_ms };
        self.incident.closed_window_ms = Some(closed_ms);
        self.sum_up();
        let text = match reason {
            Some(reason) => format!("closed: {reason}"),
            None => format!("closed: as usual for {} minutes", self.clear),
        };
        push_step(&mut self.incident, window_start_ms, StepKind::Closed, text);
    }

    /// Numbers, severity, confidence and sentence from what is known.
    fn sum_up(&mut self) {
        let mut evidence: Vec<(bool, IncidentEvidence)> = self
            .numbers
            .iter()
            .map(|(symptom, numbers)| {
                let sum = |values: &[f64]| typical(*symptom, values);
                let after = (!numbers.after.is_empty() && self.clear > 0).then(|| sum(&numbers.after));
                let evidence = IncidentEvidence {
                    measure: symptom.measure(),
                    before: sum(&numbers.usual),
                    during: sum(&numbers.during),
                    after,
                    z: sum(&numbers.z),
                    pairs: numbers.pairs,
                    pairs_observed: numbers.observed,
                };
                (Some(*symptom) == self.first, evidence)
            })
            .collect();
        evidence.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.z.total_cmp(&a.1.z)));
        if !evidence.is_empty() {
            self.incident.evidence = evidence.into_iter().map(|(_, evidence)| evidence).collect();
            self.incident.severity = self.severity();
            self.incident.confidence = self.confidence();
            self.incident.pairs = self.touched.iter().take(PAIRS_MAX).filter_map(pair_ref).collect();
        }
        let number = self.first.and_then(|symptom| {
            let (numbers, evidence) = (self.numbers.get(&symptom)?, self.incident.evidence.first()?);
            Some(Number {
                symptom,
                usual: evidence.before,
                value: evidence.during,
                pairs: numbers.pairs,
                observed: numbers.observed,
            })
        });
        if number.is_some() || self.incident.closed_window_ms.is_some() {
            let sentence = Sentence { incident: &self.incident, number, normal: &self.normal };
            self.incident.sentence = sentence.to_string();
        }
    }

    /// How clearly it is off, over how many of the pairs that could show it, and for how long.
    fn confidence(&self) -> f64 {
        let z = self.incident.evidence.first().map_or(0.0, |evidence| evidence.z.clamp(0.0, 20.0));
        let by_size = 1.0 - (-z / CONFIDENCE_Z).exp();
        let by_length = 1.0 - 0.5f64.powf(self.windows + 1.0);
        let by_coverage = 0.5 + 0.5 * self.coverage.min(1.0);
        // One pair alone may be off by chance; many are not.
        let by_pairs = 1.0 - 0.1f64.powf(f64::from(self.incident.pairs_touched.max(1)).sqrt());
        (by_size * by_length * by_coverage * by_pairs * 100.0).round() / 100.0
    }

    /// What it costs people, and how many pairs.
    fn severity(&self) -> Severity {
        let lost = self.numbers.iter().map(|(symptom, numbers)| {
            let (during, usual) = (typical(*symptom, &numbers.during), typical(*symptom, &numbers.usual));
            match symptom {
                Symptom::Failures(_) => during / 100.0,
                Symptom::Throughput => 1.0 - (during / usual.max(1.0)).clamp(0.0, 1.0),
                Symptom::Loss => part(during - usual, HALF_LOST_PERCENT),
                _ => part(during - usual, HALF_LOST_MS),
            }
        });
        let lost = lost.fold(0.0, f64::max);
        let is_wide = self.incident.entity.kind != EntityKind::Pair
            && (self.incident.pairs_touched >= MANY_PAIRS || self.coverage >= 0.99);
        let is_down = self.class == Class::Unreachable && lost >= 0.5;
        match lost {
            lost if is_wide && (is_down || lost >= FELT.1) => Severity::Critical,
            lost if is_down || lost >= FELT.1 || (lost >= FELT.0 && is_wide) => Severity::Major,
            lost if lost >= FELT.0 => Severity::Major,
            _ => Severity::Minor,
        }
    }
}

fn part(extra: f64, half: f64) -> f64 {
    let extra = extra.max(0.0);
    extra / (extra + half)
}

/// One number for several windows. What is lost comes at times: most windows may show none of it, and only
/// the mean says how much it was. Anything else has its median, which no single window moves.
fn typical(symptom: Symptom, values: &[f64]) -> f64 {
    match symptom {
        Symptom::Loss | Symptom::Failures(_) if !values.is_empty() => {
            values.iter().sum::<f64>() / values.len() as f64
        }
        _ => median(&mut values.to_vec()),
    }
}

fn push(values: &mut Vec<f64>, value: f64) {
    if values.len() >= NUMBERS_MAX {
        values.remove(0);
    }
    values.push(value);
}

fn pair_of(pair: &PairRef) -> Entity {
    Entity {
        kind: EntityKind::Pair,
        ids: vec![pair.client_id.as_str().to_owned(), pair.target.clone(), pair.family.as_str().to_owned()],
    }
}

fn pair_ref(pair: &Entity) -> Option<PairRef> {
    let [client_id, target, family] = pair.ids.as_slice() else { return None };
    Some(PairRef {
        client_id: ClientId::parse(client_id).ok()?,
        target: target.clone(),
        family: [Family::V4, Family::V6]
            .into_iter()
            .find(|known| known.as_str() == family)
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use caelum_model::event::ErrorStage;

    use super::*;

    #[test]
    fn loss_that_comes_at_times_is_told_by_its_mean() {
        let windows = [0.0, 0.0, 0.0, 0.0, 20.0, 0.0, 0.0, 4.0];
        assert!((typical(Symptom::Loss, &windows) - 3.0).abs() < 1e-9);
        assert!((typical(Symptom::Failures(ErrorStage::Tcp), &windows) - 3.0).abs() < 1e-9);
        assert!(typical(Symptom::Connect, &windows).abs() < 1e-9);
        assert!(typical(Symptom::Loss, &[]).is_finite(), "before the first window");
    }
}
