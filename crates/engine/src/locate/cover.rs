//! The greedy cover.

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::{
    diagnosis::Label,
    event::ErrorStage,
    incident::{Entity, EntityKind},
    rollup::Measure,
};

use super::{CONNECT, Class, Config, Finding, HANDSHAKE, Seen, Shown, place_of};
use crate::diagnose::{Signals, Symptom, Symptoms, bit_of, median};

/// Deviation from which on a pair may be slow because of the network of a place, though it does not show it
/// clearly.
const LEANING_Z: f32 = 0.6;
/// Deviation from which on packet trains lose more than usual, if transfers are slow, too.
const LOSING_Z: f32 = 1.2;
/// Share of failures below which packets that are lost may be the reason, percent.
const AT_TIMES_PERCENT: f32 = 60.0;
/// A consequence is named if this share of the pairs shows it.
const CONSEQUENCE_SHARE: f64 = 0.4;
/// A stage is as usual if at most this share of the pairs shows otherwise.
const NORMAL_SHARE: f64 = 0.2;
/// A symptom beside the first is named if this share of the pairs shows it.
const SHOWN_SHARE: f64 = 0.3;

/// Finds the fewest places that explain what the pairs show. `open` are the places with an open incident.
pub fn locate(config: &Config, seen: &[Seen], open: &BTreeSet<(Entity, Class)>) -> Vec<Finding> {
    if seen.iter().all(|pair| pair.signals.is_calm()) {
        return Vec::new();
    }
    let mut places: BTreeMap<&Entity, Vec<usize>> = BTreeMap::new();
    for (number, pair) in seen.iter().enumerate() {
        for place in &pair.facts.places {
            places.entry(place).or_default().push(number);
        }
    }
    let mut cover = Cover {
        config,
        seen,
        open,
        places,
        left: seen.iter().map(|pair| pair.signals.abnormal).collect(),
        taken: vec![0; seen.len()],
    };
    let mut findings = Vec::new();
    for class in Class::ALL {
        while let Some(candidate) = cover.best(class) {
            let candidate = match class {
                Class::Throughput => cover.as_loss(class, candidate),
                Class::Unreachable | Class::Dns if cover.fails_at_times(&candidate) => {
                    cover.as_loss(class, candidate)
                }
                _ => Ok(candidate),
            };
            findings.push(match candidate {
                Ok(candidate) => cover.take(class, candidate),
                Err(losing) => cover.take(Class::Loss, losing),
            });
        }
    }
    findings.extend(cover.lone_pairs());
    findings
}

struct Cover<'a> {
    config: &'a Config,
    seen: &'a [Seen],
    open: &'a BTreeSet<(Entity, Class)>,
    places: BTreeMap<&'a Entity, Vec<usize>>,
    /// What is off in each pair and not explained yet.
    left: Vec<Symptoms>,
    /// What each pair showed and a finding explained: it speaks neither for nor against another.
    taken: Vec<Symptoms>,
}

struct Candidate<'a> {
    entity: &'a Entity,
    score: f64,
    rank: u8,
    abnormal: Vec<usize>,
    observed: u32,
    weight: f64,
}

impl<'a> Cover<'a> {
    fn best(&self, class: Class) -> Option<Candidate<'a>> {
        let bits = class.bits();
        if self.left.iter().all(|left| left & bits == 0) {
            return None;
        }
        let mut best: Option<Candidate<'a>> = None;
        for (entity, members) in &self.places {
            if entity.kind == EntityKind::Resolver && class != Class::Dns {
                continue;
            }
            let Some(candidate) = self.candidate(class, entity, members) else { continue };
            let is_better = best.as_ref().is_none_or(|best| {
                candidate.score > best.score || (candidate.score == best.score && candidate.rank < best.rank)
            });
            if is_better {
                best = Some(candidate);
            }
        }
        best
    }

    fn candidate(&self, class: Class, entity: &'a Entity, members: &[usize]) -> Option<Candidate<'a>> {
        let (bits, telling) = (class.bits(), class.telling_bits());
        let (mut abnormal, mut normal, mut by_count, mut weight) = (Vec::new(), 0u32, 0.0, 0.0);
        for number in members {
            let (number, signals) = (*number, &self.seen[*number].signals);
            let left = self.left[number] & bits;
            if left != 0 {
                abnormal.push(number);
                let (timed, counted) = weights(signals, left);
                weight += timed.max(counted);
                by_count += if counted > timed { 1.0 } else { 0.0 };
            } else if signals.observed & telling != 0 && self.taken[number] & bits == 0 {
                normal += 1;
            }
        }
        if !self.is_several(&abnormal) {
            return None;
        }
        let is_open = self.open.contains(&(entity.clone(), class));
        let is_count = class == Class::Loss || by_count * 2.0 > abnormal.len() as f64;
        let config = self.config;
        let (coverage, penalty, least) = match (is_open, is_count) {
            (true, _) => (config.coverage_open, config.penalty_open, config.weight_open),
            (false, true) => (config.coverage_counts, config.penalty_counts, config.weight),
            (false, false) => (config.coverage, config.penalty, config.weight),
        };
        let observed = abnormal.len() as u32 + normal;
        let score = abnormal.len() as f64 - penalty * f64::from(normal);
        let is_enough = abnormal.len() as f64 >= coverage * f64::from(observed) && score > 0.0;
        (is_enough && weight >= least).then(|| Candidate {
            entity,
            score,
            rank: rank_of(entity),
            abnormal,
            observed,
            weight,
        })
    }

    /// Whether the pairs of a candidate fail, and most of their measurements do not: what is down fails always,
    /// what loses packets now and then.
    fn fails_at_times(&self, candidate: &Candidate<'a>) -> bool {
        let worst = |number: &usize| {
            let failures = ErrorStage::ALL.map(Symptom::Failures);
            let those = failures.iter().filter(|symptom| self.left[*number] & symptom.bit() != 0);
            those.map(|symptom| self.seen[*number].signals.of(*symptom).value).fold(0.0, f32::max)
        };
        let shares: Vec<f32> = candidate.abnormal.iter().map(worst).collect();
        shares.iter().any(|share| *share > 0.0) && shares.iter().all(|share| *share < AT_TIMES_PERCENT)
    }

    /// Slow transfers, or measurements that fail at times, at a place whose packet trains lose packets are loss
    /// that has not built up yet: Err.
    fn as_loss(&mut self, class: Class, slow: Candidate<'a>) -> Result<Candidate<'a>, Candidate<'a>> {
        let loss = Symptom::Loss;
        let members = self.places.get(slow.entity).map_or(&[][..], Vec::as_slice);
        let (mut losing, mut observed) = (Vec::new(), 0u32);
        for number in members.iter().copied() {
            let signals = &self.seen[number].signals;
            if signals.observed & loss.bit() == 0 || self.taken[number] & loss.bit() != 0 {
                continue;
            }
            observed += 1;
            if signals.of(loss).z > LOSING_Z {
                losing.push(number);
            }
        }
        if losing.is_empty() || losing.len() as u32 * 2 <= observed {
            return Ok(slow);
        }
        for number in &losing {
            self.left[*number] |= loss.bit();
        }
        for number in &slow.abnormal {
            let slower = self.left[*number] & class.bits();
            self.left[*number] &= !slower;
            self.taken[*number] |= slower;
        }
        Err(Candidate { abnormal: losing, observed, ..slow })
    }

    /// Whether two probes or two targets are among the pairs.
    fn is_several(&self, pairs: &[usize]) -> bool {
        let Some(first) = pairs.first().map(|number| &self.seen[*number].facts) else { return false };
        pairs.iter().any(|number| {
            let facts = &self.seen[*number].facts;
            facts.client_id != first.client_id || facts.target != first.target
        })
    }

    /// Makes a candidate a finding, and takes away what it explains.
    fn take(&mut self, class: Class, candidate: Candidate<'a>) -> Finding {
        let mut explained: Vec<Symptoms> = Vec::with_capacity(candidate.abnormal.len());
        let shown = self.shown(class, &candidate.abnormal, candidate.observed);
        for number in self.places.get(candidate.entity).into_iter().flatten().copied() {
            let is_abnormal = self.left[number] & class.bits() != 0;
            let gone = self.explained(class, number);
            if is_abnormal {
                explained.push(gone);
            }
            self.left[number] &= !gone;
            self.taken[number] |= gone;
        }
        let (label, sublabel) = self.label(class, candidate.entity.kind, &candidate.abnormal, &shown);
        let (consequences, normal) = self.others(class, &candidate.abnormal, &explained);
        let own_trouble = (candidate.entity.kind == EntityKind::Probe)
            .then(|| self.own_trouble(candidate.entity, &candidate.abnormal))
            .flatten();
        Finding {
            entity: candidate.entity.clone(),
            place: place_of(candidate.entity, class, own_trouble),
            class,
            label,
            sublabel,
            pairs: candidate.abnormal,
            observed: candidate.observed,
            shown,
            consequences,
            normal,
            since_ms: None,
            weight: candidate.weight,
        }
    }

    /// What a class at a place of a pair explains of what is left there.
    fn explained(&self, class: Class, number: usize) -> Symptoms {
        let (signals, left, bits) = (&self.seen[number].signals, self.left[number], class.bits());
        let shown = signals.abnormal & bits;
        let leans = class.symptoms().any(|symptom| signals.of(symptom).z > LEANING_Z);
        let mut gone = left & bits;
        for symptom in Symptom::ALL {
            let bit = symptom.bit();
            if left & bit == 0 || bits & bit != 0 {
                continue;
            }
            let is_explained = if shown != 0 {
                signals.explained_by[symptom.place()] & shown != 0
            } else {
                let is_after = matches!(symptom, Symptom::Tls | Symptom::Server | Symptom::Throughput)
                    || (class == Class::Loss && matches!(symptom, Symptom::Connect | Symptom::Rtt));
                let is_blind = signals.observed & class.telling_bits() == 0;
                let fails_at_times = class == Class::Loss
                    && matches!(symptom, Symptom::Failures(_))
                    && signals.of(symptom).value < AT_TIMES_PERCENT;
                class.is_network()
                    && ((is_after && (leans || is_blind))
                        || (is_blind && (symptom == Symptom::Dns || fails_at_times)))
            };
            if is_explained {
                gone |= bit;
            }
        }
        gone
    }

    fn lone_pairs(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (number, pair) in self.seen.iter().enumerate() {
            let Some(verdict) = pair.signals.verdict else { continue };
            if self.left[number] & verdict.symptom.bit() == 0 {
                continue;
            }
            let class = Class::of(verdict.symptom);
            let entity = pair.facts.pair.clone();
            let weight = f64::from(pair.signals.of(verdict.symptom).weight);
            let is_failing = matches!(verdict.symptom, Symptom::Failures(_));
            if is_failing
                && weight < self.config.weight_lone_failures
                && !self.open.contains(&(entity.clone(), class))
            {
                continue;
            }
            let shown = self.shown(class, &[number], 1);
            let (_, sublabel) = self.label(class, EntityKind::Pair, &[number], &shown);
            let sublabel = match (verdict.label, sublabel) {
                (Label::Handshake, _) if verdict.symptom == Symptom::Connect => Some(CONNECT.to_owned()),
                (Label::Path, _) => None,
                (_, sublabel) => sublabel,
            };
            let (consequences, normal) = self.others(class, &[number], &[0]);
            findings.push(Finding {
                place: place_of(&entity, class, None),
                entity,
                class,
                label: verdict.label,
                sublabel,
                pairs: vec![number],
                observed: 1,
                shown,
                consequences,
                normal,
                since_ms: Some(verdict.since_ms),
                weight,
            });
        }
        findings
    }

    /// The numbers of a class over some pairs, strongest first.
    fn shown(&self, class: Class, pairs: &[usize], observed: u32) -> Vec<Shown> {
        let mut all: Vec<(f64, Shown)> = Vec::new();
        for symptom in class.symptoms() {
            let those: Vec<&Signals> = pairs
                .iter()
                .filter(|number| self.left[**number] & symptom.bit() != 0)
                .map(|number| &self.seen[*number].signals)
                .collect();
            if those.is_empty() {
                continue;
            }
            let mid = |of: &dyn Fn(&Signals) -> f32| {
                median(&mut those.iter().map(|signals| f64::from(of(signals))).collect::<Vec<f64>>())
            };
            let weight: f64 = those.iter().map(|signals| f64::from(signals.of(symptom).weight)).sum();
            let shown = Shown {
                symptom,
                value: mid(&|signals| signals.of(symptom).value),
                usual: mid(&|signals| signals.of(symptom).usual),
                z: mid(&|signals| signals.of(symptom).z),
                pairs: those.len() as u32,
                observed,
            };
            all.push((weight, shown));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let least = SHOWN_SHARE * pairs.len() as f64;
        let first = all.first().map(|(_, shown)| shown.symptom);
        all.into_iter()
            .map(|(_, shown)| shown)
            .filter(|shown| Some(shown.symptom) == first || f64::from(shown.pairs) >= least)
            .collect()
    }

    fn label(
        &self,
        class: Class,
        kind: EntityKind,
        pairs: &[usize],
        shown: &[Shown],
    ) -> (Label, Option<String>) {
        let failing = match shown.first().map(|shown| shown.symptom) {
            Some(Symptom::Failures(stage)) => Some(self.error_class(stage, pairs)),
            _ => None,
        };
        match class {
            Class::Unreachable => (Label::Unreachable, failing),
            Class::Loss => (Label::Loss, None),
            Class::Network => {
                let votes: i32 = pairs.iter().map(|number| self.network_vote(*number)).sum();
                if votes < 0 || (votes == 0 && kind == EntityKind::Target) {
                    (Label::Handshake, Some(CONNECT.to_owned()))
                } else {
                    (Label::Path, None)
                }
            }
            Class::Dns => (Label::Dns, failing),
            Class::Tls => (Label::Handshake, Some(failing.unwrap_or_else(|| HANDSHAKE.to_owned()))),
            Class::Server => (Label::Server, failing),
            Class::Throughput => (Label::Throughput, failing),
        }
    }

    fn network_vote(&self, number: usize) -> i32 {
        let signals = &self.seen[number].signals;
        if signals.abnormal & Symptom::Rtt.bit() != 0 { 1 } else { i32::from(signals.with_network) }
    }

    /// The commonest error among pairs; of equally common ones the first in order.
    fn error_class(&self, stage: ErrorStage, pairs: &[usize]) -> String {
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        for number in pairs {
            if let Some(class) = &self.seen[*number].signals.class {
                *classes.entry(class).or_default() += 1;
            }
        }
        let commonest = classes.into_iter().min_by_key(|(_, count)| std::cmp::Reverse(*count));
        commonest.map_or(stage.as_str(), |(class, _)| class).to_owned()
    }

    /// Stages that are slow because of a class, and those that are as usual, over some pairs.
    fn others(&self, class: Class, pairs: &[usize], explained: &[Symptoms]) -> (Vec<Measure>, Vec<Measure>) {
        let is_own = |measure: Measure| class.symptoms().any(|symptom| symptom.measure() == Some(measure));
        let mut slower: BTreeMap<Measure, usize> = BTreeMap::new();
        for (place, number) in pairs.iter().enumerate() {
            let signals = &self.seen[*number].signals;
            let gone = explained.get(place).copied().unwrap_or(0);
            let by_explanation = Symptom::ALL
                .into_iter()
                .filter(|symptom| gone & symptom.bit() != 0)
                .filter_map(Symptom::measure);
            let mut measures: Vec<Measure> = by_explanation.collect();
            measures.extend(Measure::ALL.into_iter().filter(|m| signals.consequences & bit_of(*m) != 0));
            measures.sort_unstable();
            measures.dedup();
            for measure in measures.into_iter().filter(|measure| !is_own(*measure)) {
                *slower.entry(measure).or_default() += 1;
            }
        }
        let least = (CONSEQUENCE_SHARE * pairs.len() as f64).max(1.0);
        let consequences: Vec<Measure> = slower
            .into_iter()
            .filter(|(_, count)| *count as f64 >= least)
            .map(|(measure, _)| measure)
            .collect();
        let stages = [Symptom::Dns, Symptom::Connect, Symptom::Tls, Symptom::Server, Symptom::Throughput];
        let normal = stages
            .into_iter()
            .filter(|symptom| {
                let observing = pairs.iter().filter(|n| self.seen[**n].signals.observed & symptom.bit() != 0);
                let (all, off) = observing.fold((0u32, 0u32), |(all, off), number| {
                    let is_off = self.seen[*number].signals.abnormal & symptom.bit() != 0;
                    (all + 1, off + u32::from(is_off))
                });
                all > 0 && f64::from(off) <= NORMAL_SHARE * f64::from(all)
            })
            .filter_map(Symptom::measure)
            .filter(|measure| !is_own(*measure) && !consequences.contains(measure))
            .collect();
        (consequences, normal)
    }

    /// Trouble that most of a probe's pairs report of its own machine.
    fn own_trouble(&self, entity: &Entity, pairs: &[usize]) -> Option<&'a str> {
        let own: Vec<&'a Seen> = pairs
            .iter()
            .map(|number| &self.seen[*number])
            .filter(|pair| entity.ids.first().is_some_and(|name| name == pair.facts.client_id.as_str()))
            .collect();
        let troubled = own.iter().filter(|pair| pair.own_trouble.is_some()).count();
        (troubled * 2 > own.len())
            .then(|| own.iter().rev().find_map(|pair| pair.own_trouble.as_deref()))
            .flatten()
    }
}

/// What symptoms of a pair have built up: the largest that is timed, and the largest that is counted.
fn weights(signals: &Signals, those: Symptoms) -> (f64, f64) {
    let (mut timed, mut counted) = (0.0f64, 0.0f64);
    for symptom in Symptom::ALL.into_iter().filter(|symptom| those & symptom.bit() != 0) {
        let weight = f64::from(signals.of(symptom).weight);
        match symptom {
            Symptom::Failures(_) | Symptom::Loss => counted = counted.max(weight),
            _ => timed = timed.max(weight),
        }
    }
    (timed, counted)
}

/// Of places with the same score the one that says most: a resolver, a probe, a target, a group, and one
/// without regard to the IP version.
fn rank_of(entity: &Entity) -> u8 {
    let kind = match entity.kind {
        EntityKind::Resolver => 0,
        EntityKind::Probe => 1,
        EntityKind::Target => 2,
        EntityKind::Group => 3,
        EntityKind::Pair => 4,
    };
    if entity.ids.len() > 1 { kind + 8 } else { kind }
}
