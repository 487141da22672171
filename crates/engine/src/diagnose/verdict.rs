//! A verdict on a pair: which windows it covers, how sure it is, and the numbers behind it.

use caelum_model::{
    UnixMs,
    diagnosis::{Diagnosis, Evidence},
    rollup::Measure,
};

use super::{
    Pair,
    cause::{Cause, Finding},
    pair::Scored,
    sentence,
    symptom::Symptom,
};

/// Mean deviation at which the confidence that the size gives is 63 %.
const CONFIDENCE_Z: f64 = 1.5;
/// Measurements at which the confidence that their number gives is 50 %.
const CONFIDENCE_SAMPLES: f64 = 1.0;
/// What is left of the confidence while something else is off too.
const CONFIDENCE_WITH_RIVAL: f64 = 0.8;

impl Pair {
    /// Gives the newest window its label, and the windows just before it that show the same.
    pub(super) fn label(&mut self, finding: &Finding) -> Vec<Diagnosis> {
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

    pub(super) fn own_evidence(&self, window: &Scored, symptom: Symptom) -> Evidence {
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

    /// Whether a window shows a symptom about as clearly as the fault at hand does.
    fn belongs(&self, window: &Scored, symptom: Symptom) -> bool {
        if let Symptom::Failures(stage) = symptom {
            let (failed, tried) = window.observation.failures(stage);
            return failed > 0 && failed as f64 >= self.config.errors_share_min * tried as f64;
        }
        let least = self.cusums[symptom.place()].least_of_fault(&self.config);
        window.z[symptom.place()].is_some_and(|z| z > least)
    }
}
