//! One pair over time.

use std::collections::VecDeque;

use caelum_model::{
    UnixMs,
    diagnosis::{Diagnosis, PairStatus, Standing},
    event::Family,
    id::ClientId,
    rollup::Measure,
};

use super::{
    Config, Observation,
    cause::{Cause, Finding, Scene},
    cusum::Cusum,
    observation::Readings,
    reference::{Reference, push_bounded},
    symptom::Symptom,
};

/// A verdict goes on if it stood this many windows ago.
const CONTINUES_WINDOWS: usize = 3;
/// Clean windows after which a deviation does not count as lasting.
const RETURNED_WINDOWS: u32 = 3;
/// A window with its deviations and its verdict.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scored {
    pub(super) observation: Observation,
    /// Deviations by [`Symptom::place`], not clipped.
    pub(super) z: [Option<f64>; Symptom::ALL.len()],
    pub(super) verdict: Option<(Cause, UnixMs)>,
}

/// What judging a window changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdicts {
    /// Verdicts on windows from here on are replaced …
    pub from_ms: UnixMs,
    /// … by these, ascending, at most one a window.
    pub diagnoses: Vec<Diagnosis>,
    /// What counts as usual has been changed.
    pub shift: Option<LevelShift>,
}

/// A deviation lasted so long that it is what is usual now.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelShift {
    /// The window that decided it.
    pub window_start_ms: UnixMs,
    /// When the deviation began.
    pub since_ms: UnixMs,
    /// What was off: usual value before and after.
    pub changes: Vec<(Measure, f64, f64)>,
}

/// Everything known about one (probe, target, family).
#[derive(Clone, Debug)]
pub struct Pair {
    pub(super) client_id: ClientId,
    pub(super) target: String,
    pub(super) family: Family,
    pub(super) config: Config,
    pub(super) reference: Reference,
    /// Windows that were left out of the reference in the present deviation.
    deviating: VecDeque<Readings>,
    deviating_since_ms: Option<UnixMs>,
    clean: u32,
    pub(super) cusums: [Cusum; Symptom::ALL.len()],
    /// Newest windows, oldest first.
    pub(super) recent: Vec<Scored>,
    pub(super) diagnosis: Option<Diagnosis>,
}

impl Pair {
    /// A pair of which nothing is known.
    pub fn new(client_id: ClientId, target: String, family: Family, config: Config) -> Self {
        Self {
            client_id,
            target,
            family,
            config,
            reference: Reference::default(),
            deviating: VecDeque::new(),
            deviating_since_ms: None,
            clean: 0,
            cusums: [Cusum::default(); Symptom::ALL.len()],
            recent: Vec::new(),
            diagnosis: None,
        }
    }

    /// Judges windows in order of time, as if one by one, and answers with every verdict on them.
    pub fn replay(&mut self, windows: impl IntoIterator<Item = Observation>) -> Vec<Diagnosis> {
        let mut diagnoses: Vec<Diagnosis> = Vec::new();
        for verdicts in windows.into_iter().filter_map(|window| self.judge(window)) {
            diagnoses.retain(|diagnosis| diagnosis.window_start_ms < verdicts.from_ms);
            diagnoses.extend(verdicts.diagnoses);
        }
        diagnoses
    }

    /// Judges the next window. None, and nothing changes, if it is not newer than the last one.
    pub fn judge(&mut self, observation: Observation) -> Option<Verdicts> {
        let start_ms = observation.window_start_ms;
        if let Some(newest_ms) = self.newest_ms() {
            if start_ms <= newest_ms {
                return None;
            }
            if start_ms - newest_ms > self.config.gap_ms {
                self.forget_present();
            }
        }
        let z = self.deviations(&observation);
        self.step(&observation, &z);
        if self.recent.len() > self.config.retro_windows {
            self.recent.remove(0);
        }
        self.recent.push(Scored { observation, z, verdict: None });
        let mut verdicts = Verdicts { from_ms: start_ms, diagnoses: Vec::new(), shift: None };
        if let Some(finding) = self.scene().find() {
            self.attribute(&finding);
            verdicts.diagnoses = self.label(&finding);
            verdicts.from_ms = verdicts.diagnoses.first().map_or(start_ms, |first| first.window_start_ms);
        }
        self.diagnosis = verdicts.diagnoses.last().cloned();
        verdicts.shift = self.learn();
        Some(verdicts)
    }

    /// Start of the last window judged.
    pub fn newest_ms(&self) -> Option<UnixMs> {
        self.recent.last().map(|window| window.observation.window_start_ms)
    }

    /// How it stands. None before the first window.
    pub fn status(&self) -> Option<PairStatus> {
        Some(PairStatus {
            client_id: self.client_id.clone(),
            target: self.target.clone(),
            family: self.family,
            standing: self.standing(),
            window_start_ms: self.newest_ms()?,
            usual: self.reference.usual_values(),
            diagnosis: self.diagnosis.clone(),
        })
    }

    fn standing(&self) -> Standing {
        if self.diagnosis.is_some() {
            Standing::Diagnosed
        } else if self.cusums.iter().any(|cusum| cusum.is_abnormal(&self.config) || cusum.is_alarmed()) {
            Standing::Suspect
        } else if self.reference.len() < self.config.reference_windows_min {
            Standing::Learning
        } else {
            Standing::Usual
        }
    }

    fn deviations(&self, observation: &Observation) -> [Option<f64>; Symptom::ALL.len()] {
        Symptom::ALL.map(|symptom| match symptom {
            Symptom::Failures(stage) => {
                let (failed, tried) = observation.failures(stage);
                let usual = self.config.errors_usual;
                (tried > 0).then(|| {
                    let share = failed as f64 / tried as f64;
                    (share - usual) / (usual * (1.0 - usual) / tried as f64).sqrt()
                })
            }
            _ => self.reference.deviation(&self.config, symptom, &observation.readings),
        })
    }

    fn step(&mut self, observation: &Observation, z: &[Option<f64>; Symptom::ALL.len()]) {
        for symptom in Symptom::ALL {
            let cusum = &mut self.cusums[symptom.place()];
            match (symptom, z[symptom.place()]) {
                (Symptom::Failures(stage), Some(_)) => {
                    let (failed, tried) = observation.failures(stage);
                    cusum.fail(&self.config, failed, tried);
                }
                // An earlier stage failed every time: that says nothing about this one.
                (Symptom::Failures(_), None) => {}
                (_, z) => cusum.deviate(&self.config, z),
            }
        }
    }

    pub(super) fn scene(&self) -> Scene<'_> {
        let those = |is: &dyn Fn(&Cusum) -> bool| {
            Symptom::ALL.into_iter().filter(|symptom| is(&self.cusums[symptom.place()])).collect()
        };
        Scene {
            config: &self.config,
            reference: &self.reference,
            windows: &self.recent,
            abnormal: those(&|cusum| cusum.is_abnormal(&self.config)),
            alarmed: those(&Cusum::is_alarmed),
            established: those(&|cusum| cusum.is_established(self.config.alarm)),
            before: self.standing_verdict().map(|(cause, _)| cause),
        }
    }

    /// The verdict that the newest window may continue.
    pub(super) fn standing_verdict(&self) -> Option<(Cause, UnixMs)> {
        self.recent.iter().rev().skip(1).take(CONTINUES_WINDOWS).find_map(|window| window.verdict)
    }

    /// What had built up in consequences belongs to their cause: they must not outlast it.
    fn attribute(&mut self, finding: &Finding) {
        for symptom in &finding.explained {
            self.cusums[symptom.place()].hand_over();
        }
        self.cusums[finding.cause.symptom().place()].raise(&self.config);
    }

    /// Learns from the newest window, if it is clean.
    fn learn(&mut self) -> Option<LevelShift> {
        let config = self.config;
        let newest = self.recent.last()?;
        let (start_ms, readings) = (newest.observation.window_start_ms, newest.observation.readings);
        // Leaving out every window that is a little high would make what is usual ever lower and narrower,
        // and lose sight of a slow swing. Few of them do no harm to a median.
        let off: Vec<Symptom> = Symptom::DEVIATIONS
            .into_iter()
            .filter(|symptom| {
                let cusum = &self.cusums[symptom.place()];
                let is_wild = newest.z[symptom.place()].is_some_and(|z| z >= config.z_max);
                cusum.is_abnormal(&config) && (cusum.is_established(config.alarm) || is_wild)
            })
            .collect();
        if !off.is_empty() {
            self.clean = 0;
            push_bounded(&config, &mut self.deviating, &readings);
            let since_ms = *self.deviating_since_ms.get_or_insert(start_ms);
            let is_lasting = start_ms - since_ms >= config.relearn_ms
                && self.deviating.len() >= config.reference_windows_min;
            return is_lasting.then(|| self.relearn(start_ms, since_ms, &off));
        }
        let is_alarmed = Symptom::DEVIATIONS.iter().any(|symptom| self.cusums[symptom.place()].is_alarmed());
        if is_alarmed || newest.observation.failed_share() >= config.errors_share_dominant {
            return None;
        }
        self.reference.learn(&config, &readings);
        self.clean += 1;
        if self.clean >= RETURNED_WINDOWS {
            self.deviating.clear();
            self.deviating_since_ms = None;
        }
        None
    }

    fn relearn(&mut self, window_start_ms: UnixMs, since_ms: UnixMs, off: &[Symptom]) -> LevelShift {
        let before = std::mem::take(&mut self.reference);
        self.reference = Reference::of(&self.config, std::mem::take(&mut self.deviating));
        self.deviating_since_ms = None;
        for symptom in Symptom::DEVIATIONS {
            self.cusums[symptom.place()] = Cusum::default();
        }
        let changes = off
            .iter()
            .filter_map(|symptom| {
                let measure = symptom.measure()?;
                let from = before.usual_value(measure)?;
                Some((measure, from, self.reference.usual_value(measure)?))
            })
            .collect();
        LevelShift { window_start_ms, since_ms, changes }
    }

    /// After a long silence the present is unknown; what is usual still holds.
    fn forget_present(&mut self) {
        self.cusums = [Cusum::default(); Symptom::ALL.len()];
        self.recent.clear();
        self.deviating.clear();
        self.deviating_since_ms = None;
    }
}
