//! How right the incidents of a simulated world are.

use std::{collections::BTreeMap, sync::Arc};

use caelum_engine::{
    diagnose::{Config, Pair},
    incident::History,
    locate::{self, Facts, Seen},
};
use caelum_model::{
    event::Family,
    id::ClientId,
    incident::{EntityKind, Incident, PairRef},
    rollup::MINUTE_MS,
};

use super::world::{Fault, START_MS, Way, World};

/// Windows after a fault in which an incident may still be found or closed.
const CLOSE_DELAY: i64 = 5;

/// Sums over worlds.
#[derive(Clone, Debug, Default)]
pub struct Score {
    pub faults: usize,
    pub found: usize,
    /// Faults that any incident touches, and those whose first incident is exact.
    pub touched: usize,
    pub exact: usize,
    pub incidents: usize,
    pub correct: usize,
    pub wrong: usize,
    pub falses: usize,
    pub extra: usize,
    pub delays: Vec<i64>,
    /// By what a fault is, what it was found as.
    pub confusion: BTreeMap<(String, String), usize>,
    pub pair_days: f64,
    /// What went wrong, to read.
    pub notes: Vec<String>,
}

impl Score {
    pub fn precision(&self) -> f64 {
        self.correct as f64 / self.incidents.max(1) as f64
    }

    pub fn recall(&self) -> f64 {
        self.found as f64 / self.faults.max(1) as f64
    }

    pub fn exact(&self) -> f64 {
        self.exact as f64 / self.touched.max(1) as f64
    }

    /// False incidents a day and 300 pairs.
    pub fn false_rate(&self) -> f64 {
        self.falses as f64 / (self.pair_days / 300.0)
    }

    pub fn extra_rate(&self) -> f64 {
        self.extra as f64 / self.faults.max(1) as f64
    }

    /// Windows until a fault was found, at a share of the faults.
    pub fn delay(&self, share: f64) -> i64 {
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        delays
            .get(((delays.len() as f64 * share) as usize).min(delays.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }

    pub fn add(&mut self, other: Self) {
        self.faults += other.faults;
        self.found += other.found;
        self.touched += other.touched;
        self.exact += other.exact;
        self.incidents += other.incidents;
        self.correct += other.correct;
        self.wrong += other.wrong;
        self.falses += other.falses;
        self.extra += other.extra;
        self.delays.extend(other.delays);
        for (cell, count) in other.confusion {
            *self.confusion.entry(cell).or_default() += count;
        }
        self.pair_days += other.pair_days;
        self.notes.extend(other.notes);
    }
}

/// Incidents of a world, judged window by window.
pub fn incidents_of(world: &mut World) -> Vec<Incident> {
    let (probes, goals) = (world.probes.len(), world.goals.len());
    let mut pairs = Vec::new();
    let mut facts = Vec::new();
    for probe in &world.probes {
        for goal in &world.goals {
            let client_id = ClientId::parse(&probe.name).expect("a valid name");
            let resolver = (goal.way != Way::Lookup).then_some(probe.resolver.as_str());
            facts.push(Arc::new(Facts::new(
                client_id.clone(),
                goal.url.clone(),
                Family::V4,
                resolver,
                [Some(&probe.group), None],
                None,
            )));
            pairs.push(Pair::new(client_id, goal.url.clone(), Family::V4, Config::default()));
        }
    }
    let mut history = History::new(locate::Config::default(), Vec::new());
    let mut incidents: BTreeMap<String, Incident> = BTreeMap::new();
    for window in 0..world.windows {
        let mut seen = Vec::with_capacity(pairs.len());
        for probe in 0..probes {
            for goal in 0..goals {
                let Some(observation) = world.observe(window, probe, goal) else { continue };
                let pair = &mut pairs[probe * goals + goal];
                pair.judge(observation);
                if let Some(signals) = pair.signals() {
                    let facts = Arc::clone(&facts[probe * goals + goal]);
                    seen.push(Seen { facts, own_trouble: None, signals });
                }
            }
        }
        let changes = history.take(START_MS + window as i64 * MINUTE_MS, seen);
        for incident in changes.incidents {
            incidents.insert(incident.id.clone(), incident);
        }
    }
    incidents.into_values().collect()
}

/// Compares the incidents of a world with its faults.
pub fn score(seed: u64, world: &World, incidents: &[Incident]) -> Score {
    let mut score = Score {
        faults: world.faults.len(),
        incidents: incidents.len(),
        pair_days: (world.probes.len() * world.goals.len() * world.windows) as f64 / 1_440.0,
        ..Score::default()
    };
    let mut by_opening: Vec<&Incident> = incidents.iter().collect();
    by_opening.sort_by_key(|incident| (incident.detected_window_ms, incident.id.clone()));
    for incident in &by_opening {
        let near: Vec<&Fault> = world.faults.iter().filter(|fault| overlaps(fault, incident)).collect();
        let is_correct = near.iter().any(|fault| is_exact(fault, incident));
        let touching = near.iter().find(|fault| touches(world, fault, incident));
        if is_correct {
            score.correct += 1;
        } else if let Some(fault) = touching {
            score.wrong += 1;
            score.notes.push(format!("seed {seed}: WRONG {} for {}", said(incident), told(fault)));
        } else {
            score.falses += 1;
            score.notes.push(format!("seed {seed}: FALSE {}", said(incident)));
            *score.confusion.entry(("nothing".to_owned(), kind_of(incident))).or_default() += 1;
        }
    }
    for fault in &world.faults {
        let touching: Vec<&&Incident> = by_opening
            .iter()
            .filter(|incident| overlaps(fault, incident) && touches(world, fault, incident))
            // What another fault at the same time explains is none of this one's.
            .filter(|incident| {
                is_exact(fault, incident)
                    || !world
                        .faults
                        .iter()
                        .any(|other| overlaps(other, incident) && is_exact(other, incident))
            })
            .collect();
        let exact = touching.iter().find(|incident| is_exact(fault, incident));
        score.touched += usize::from(!touching.is_empty());
        score.exact += usize::from(touching.first().is_some_and(|first| is_exact(fault, first)));
        score.extra += touching.len().saturating_sub(1);
        let found_as = touching.first().map_or_else(|| "nothing".to_owned(), |first| kind_of(first));
        *score.confusion.entry((truth_of(fault), found_as)).or_default() += 1;
        match exact {
            Some(incident) => {
                score.found += 1;
                let window = (incident.detected_window_ms - START_MS) / MINUTE_MS;
                score.delays.push(window - fault.first_window() as i64 + 1);
            }
            None => {
                score.notes.push(format!("seed {seed}: MISSED {}", told(fault)));
                let beside = by_opening.iter().filter(|incident| overlaps(fault, incident));
                score.notes.extend(beside.map(|incident| format!("    beside {}", said(incident))));
            }
        }
    }
    score
}

/// One seed's worlds, scored.
pub fn run(seed: u64, probes: usize, goals: usize, windows: usize, faults: usize) -> Score {
    let mut world = World::new(seed, probes, goals, windows, faults);
    let incidents = incidents_of(&mut world);
    score(seed, &world, &incidents)
}

fn overlaps(fault: &Fault, incident: &Incident) -> bool {
    let at = |ms: i64| (ms - START_MS) / MINUTE_MS;
    let opened = at(incident.opened_window_ms);
    let closed = incident.closed_window_ms.map_or(i64::MAX, at);
    let (first, last) = (fault.first_window() as i64 - 1, fault.last_window() as i64 + CLOSE_DELAY);
    opened <= last && closed >= first
}

fn is_exact(fault: &Fault, incident: &Incident) -> bool {
    fault.what.label() == incident.label.as_str()
        && fault.kind == incident.entity.kind
        && fault.name == name_of(incident)
}

fn name_of(incident: &Incident) -> String {
    let ids = &incident.entity.ids;
    match incident.entity.kind {
        EntityKind::Pair => format!("{} {}", ids[0], ids[1]),
        _ => ids[0].clone(),
    }
}

fn touches(world: &World, fault: &Fault, incident: &Incident) -> bool {
    incident.pairs.iter().any(|pair| is_touched(world, fault, pair))
}

fn is_touched(world: &World, fault: &Fault, pair: &PairRef) -> bool {
    let probe = world.probes.iter().position(|probe| probe.name == pair.client_id.as_str());
    let goal = world.goals.iter().position(|goal| goal.url == pair.target);
    probe.zip(goal).is_some_and(|(probe, goal)| world.is_touched(fault, probe, goal))
}

fn truth_of(fault: &Fault) -> String {
    format!("{} {}", fault.what.label(), fault.kind.as_str())
}

fn kind_of(incident: &Incident) -> String {
    format!("{} {}", incident.label.as_str(), incident.entity.kind.as_str())
}

fn said(incident: &Incident) -> String {
    let at = |ms: i64| (ms - START_MS) / MINUTE_MS;
    format!(
        "{}..{:?} {}",
        at(incident.opened_window_ms),
        incident.closed_window_ms.map(at),
        incident.sentence
    )
}

fn told(fault: &Fault) -> String {
    format!(
        "{:?} at {} {} in {}..{}",
        fault.what,
        fault.kind.as_str(),
        fault.name,
        fault.first_window(),
        fault.last_window()
    )
}
