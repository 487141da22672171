//! One pair over time.

use std::collections::VecDeque;

use caelum_model::{
    UnixMs,
    diagnosis::{Diagnosis, Evidence, PairStatus, Standing},
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
    sentence,
    symptom::Symptom,
};

/// A verdict goes on if it stood this many windows ago.
const CONTINUES_WINDOWS: usize = 3;
/// Clean windows after which a deviation does not count as lasting.
const RETURNED_WINDOWS: u32 = 3;
/// Mean deviation at which the confidence that the size gives is 63 %.
const CONFIDENCE_Z: f64 = 1.5;
/// Measurements at which the confidence that their number gives is 50 %.
const CONFIDENCE_SAMPLES: f64 = 1.0;
/// What is left of the confidence while something else is off too.
const CONFIDENCE_WITH_RIVAL: f64 = 0.8;

/// A window with its deviations and its verdict.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scored {
    pub(super) observation: Observation,
    /// Deviations by [`Symptom::place`], not clipped.
    pub(super) z: [Option<f64>; Symptom::ALL.len()],
    verdict: Option<(Cause, UnixMs)>,
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
    client_id: ClientId,
    target: String,
    family: Family,
    config: Config,
    reference: Reference,
    /// Windows that were left out of the reference in the present deviation.
    deviating: VecDeque<Readings>,
    deviating_since_ms: Option<UnixMs>,
    clean: u32,
    cusums: [Cusum; Symptom::ALL.len()],
    /// Newest windows, oldest first.
    recent: Vec<Scored>,
    diagnosis: Option<Diagnosis>,
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

    fn scene(&self) -> Scene<'_> {
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
    fn standing_verdict(&self) -> Option<(Cause, UnixMs)> {
        self.recent.iter().rev().skip(1).take(CONTINUES_WINDOWS).find_map(|window| window.verdict)
    }

    /// Whether a window shows a symptom about as clearly as the fault at hand does.
    fn belongs(&self, window: &Scored, symptom: Symptom) -> bool {
        if let Symptom::Failures(stage) = symptom {
            let (failed, tried) = window.observation.failures(stage);
            return failed > 0 && failed as f64 >= self.config.errors_share_min * tried as f64;
        }
        let least = self.cusums[symptom.place()].least_of_fault(&self.config);
        window.z[symptom.place()].is_some_and(|z| z > least)
    }

    /// What had built up in consequences belongs to their cause: they must not outlast it.
    fn attribute(&mut self, finding: &Finding) {
        for symptom in &finding.explained {
            self.cusums[symptom.place()].hand_over();
        }
        self.cusums[finding.cause.symptom().place()].raise(&self.config);
    }

    /// Gives the newest window its label, and the windows just before it that show the same.
    fn label(&mut self, finding: &Finding) -> Vec<Diagnosis> {
        let last = self.recent.len() - 1;
        let symptom = finding.cause.symptom();
        let mut first = last;
        let since_ms = match self.standing_verdict() {
            Some((cause, since_ms)) if cause.is_same(finding.cause) => since_ms,
            _ => {
                while first > 0
                    && self.recent[first - 1].verdict.is_none()
                    && self.belongs(&self.recent[first - 1], symptom)
                {
                    first -= 1;
                }
                self.recent[first].observation.window_start_ms
            }
        };
        for window in &mut self.recent[first..] {
            window.verdict = Some((finding.cause, since_ms));
        }
        let confidence = self.confidence(finding, since_ms);
        (first..=last).map(|place| self.diagnosis(place, finding, since_ms, confidence)).collect()
    }

    /// How sure: how far off, for how long, on how many measurements, and whether alone.
    fn confidence(&self, finding: &Finding, since_ms: UnixMs) -> f64 {
        let place = finding.cause.symptom().place();
        let (mut windows, mut z_sum, mut samples) = (0.0f64, 0.0, 0.0);
        for window in &self.recent {
            let Some((cause, since)) = window.verdict else { continue };
            if since != since_ms || !cause.is_same(finding.cause) {
                continue;
            }
            windows += 1.0;
            z_sum += window.z[place].unwrap_or(0.0).clamp(0.0, self.config.z_max);
            samples += window.observation.count as f64;
        }
        let by_size = 1.0 - (-(z_sum / windows.max(1.0)) / CONFIDENCE_Z).exp();
        let by_length = 1.0 - 0.5f64.powf(windows);
        let by_samples = samples / (samples + CONFIDENCE_SAMPLES);
        let alone = if finding.has_rival { CONFIDENCE_WITH_RIVAL } else { 1.0 };
        let confidence = by_size * by_length * by_samples * alone;
        // Two places are all it is good for, and what is shown.
        (confidence * 100.0).round() / 100.0
    }

    fn diagnosis(&self, place: usize, finding: &Finding, since_ms: UnixMs, confidence: f64) -> Diagnosis {
        let window = &self.recent[place];
        let evidence = self.evidence(window, finding);
        let consequences: Vec<Measure> = finding
            .consequences
            .iter()
            .copied()
            .filter(|measure| window.observation.reading(*measure).is_some())
            .collect();
        let sublabel = match finding.cause {
            Cause::Connect => Some("TCP connect".to_owned()),
            Cause::Tls => Some("TLS handshake".to_owned()),
            Cause::Failing(stage) => {
                Some(window.observation.class.clone().unwrap_or_else(|| stage.as_str().to_owned()))
            }
            Cause::Dns | Cause::Server | Cause::Throughput | Cause::Loss | Cause::Path(_) => None,
        };
        let sentence = sentence::Sentence {
            client_id: &self.client_id,
            target: &self.target,
            family: self.family,
            cause: finding.cause,
            window_start_ms: window.observation.window_start_ms,
            since_ms,
            own: self.own_evidence(window, finding.cause.symptom()),
            class: window.observation.class.as_deref(),
            confidence,
            consequences: &consequences,
            normal: &self.normal(window, finding, &consequences),
        };
        Diagnosis {
            client_id: self.client_id.clone(),
            target: self.target.clone(),
            family: self.family,
            window_start_ms: window.observation.window_start_ms,
            since_ms,
            label: finding.cause.label(),
            sublabel,
            confidence,
            sentence: sentence.to_string(),
            evidence,
            consequences,
            revision: 0,
        }
    }

    fn evidence(&self, window: &Scored, finding: &Finding) -> Vec<Evidence> {
        let own = finding.cause.symptom();
        let mut evidence: Vec<Evidence> = std::iter::once(own)
            .chain(finding.explained.iter().copied().filter(|symptom| {
                *symptom != own && window.z[symptom.place()].is_some_and(|z| z > self.config.slack)
            }))
            .map(|symptom| self.own_evidence(window, symptom))
            .collect();
        evidence.sort_by(|a, b| b.z.total_cmp(&a.z));
        evidence
    }

    fn own_evidence(&self, window: &Scored, symptom: Symptom) -> Evidence {
        let z = window.z[symptom.place()].unwrap_or(0.0);
        let measure = symptom.measure();
        let (value, usual) = match (symptom, measure) {
            (Symptom::Failures(stage), _) => {
                let (failed, tried) = window.observation.failures(stage);
                (failed as f64 * 100.0 / tried.max(1) as f64, self.config.errors_usual * 100.0)
            }
            (_, Some(measure)) => (
                window.observation.reading(measure).map_or(0.0, |reading| f64::from(reading.value)),
                self.reference.usual_value(measure).unwrap_or(0.0),
            ),
            (_, None) => (0.0, 0.0),
        };
        Evidence { measure, value, usual, z }
    }

    /// Stages that were measured and are as usual.
    fn normal(&self, window: &Scored, finding: &Finding, consequences: &[Measure]) -> Vec<Measure> {
        let own = finding.cause.symptom();
        [Symptom::Dns, Symptom::Connect, Symptom::Tls, Symptom::Server, Symptom::Throughput]
            .into_iter()
            .filter(|symptom| *symptom != own && !self.cusums[symptom.place()].is_abnormal(&self.config))
            .filter(|symptom| window.z[symptom.place()].is_some_and(|z| z <= self.config.z_max))
            .filter_map(|symptom| symptom.measure())
            .filter(|measure| !consequences.contains(measure))
            .collect()
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
