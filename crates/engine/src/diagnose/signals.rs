//! What a pair shows in its newest window, symptom by symptom: what localisation works on.
//!
//! A verdict on a pair waits for the pair's own alarm. Many pairs that are each a little off say something
//! long before that, so this shows what is only building up, too.

use caelum_model::{UnixMs, diagnosis::Label, rollup::Measure};

use super::{
    Pair,
    cause::{Cause, PathShown, Scene},
    symptom::Symptom,
};

/// Windows without a failure or a loss that a pair still counts as failing or losing: they come in ones.
const COUNTS_WINDOWS: u32 = 4;

/// A set of symptoms, one bit each.
pub(crate) type Symptoms = u16;

/// One symptom in one window. Single precision: many windows of many pairs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signal {
    /// Robust deviations from the usual.
    pub z: f32,
    /// How far it has built up; at 1 a lone pair raises the alarm.
    pub weight: f32,
    /// The window's number: a median, or percent of failures.
    pub value: f32,
    /// What is usual.
    pub usual: f32,
}

/// What a pair by itself concludes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwnVerdict {
    /// What it is bound by.
    pub label: Label,
    /// First window of it.
    pub since_ms: UnixMs,
    /// How sure.
    pub confidence: f32,
    pub(crate) symptom: Symptom,
}

/// Everything that a pair shows in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Signals {
    /// Start of the window.
    pub window_start_ms: UnixMs,
    /// What the pair concludes, if its alarm stands.
    pub verdict: Option<OwnVerdict>,
    /// The commonest error class of the window.
    pub class: Option<Box<str>>,
    /// Symptoms that could be told.
    pub(crate) observed: Symptoms,
    /// Those that are off, and not by one window's chance alone.
    pub(crate) abnormal: Symptoms,
    /// What each abnormal symptom may be a consequence of.
    pub(crate) explained_by: [Symptoms; Symptom::ALL.len()],
    /// Whether handshakes and answers are slower with the connects: more than zero for a longer round trip,
    /// less for connects alone, zero where nothing can be said.
    pub(crate) with_network: i8,
    /// Stages that are slow because of what the pair is bound by, one bit a measure.
    pub(crate) consequences: u16,
    pub(crate) signals: [Signal; Symptom::ALL.len()],
}

impl Signals {
    /// One symptom's numbers.
    pub(crate) fn of(&self, symptom: Symptom) -> &Signal {
        &self.signals[symptom.place()]
    }

    /// Whether nothing is off.
    pub fn is_calm(&self) -> bool {
        self.abnormal == 0 && self.verdict.is_none()
    }
}

impl Pair {
    /// What its newest window shows. None before the first, and for a window without a measurement.
    pub fn signals(&self) -> Option<Signals> {
        let window = self.recent.last().filter(|window| window.observation.count > 0)?;
        let mut shown = Signals {
            window_start_ms: window.observation.window_start_ms,
            verdict: None,
            class: window.observation.class.as_deref().map(Box::from),
            observed: 0,
            abnormal: 0,
            explained_by: [0; Symptom::ALL.len()],
            with_network: 0,
            consequences: 0,
            signals: [Signal::default(); Symptom::ALL.len()],
        };
        for symptom in Symptom::ALL {
            let Some(z) = window.z[symptom.place()] else { continue };
            let evidence = self.own_evidence(window, symptom);
            let cusum = &self.cusums[symptom.place()];
            shown.observed |= symptom.bit();
            let is_recent = symptom.is_count() && cusum.was_off_within(&self.config, COUNTS_WINDOWS);
            if cusum.is_abnormal(&self.config) || is_recent {
                shown.abnormal |= symptom.bit();
            }
            shown.signals[symptom.place()] = Signal {
                z: z as f32,
                weight: cusum.weight(symptom.alarm(&self.config)) as f32,
                value: evidence.value as f32,
                usual: evidence.usual as f32,
            };
        }
        if let Some(diagnosis) = &self.diagnosis {
            let cause = window.verdict.map(|(cause, _)| cause);
            shown.verdict = cause.map(|cause| OwnVerdict {
                label: diagnosis.label,
                since_ms: diagnosis.since_ms,
                confidence: diagnosis.confidence as f32,
                symptom: cause.symptom(),
            });
            for measure in &diagnosis.consequences {
                shown.consequences |= bit_of(*measure);
            }
        }
        if shown.abnormal != 0 {
            self.explain(&mut shown);
        }
        Some(shown)
    }

    fn explain(&self, shown: &mut Signals) {
        let abnormal: Vec<Symptom> =
            Symptom::ALL.into_iter().filter(|symptom| shown.abnormal & symptom.bit() != 0).collect();
        let scene = Scene { established: abnormal.clone(), abnormal: abnormal.clone(), ..self.scene() };
        shown.with_network = scene.network_votes().signum() as i8;
        for symptom in &abnormal {
            let cause = match symptom {
                Symptom::Dns => Cause::Dns,
                Symptom::Connect => Cause::Path(PathShown::Connect),
                Symptom::Rtt => Cause::Path(PathShown::Train),
                Symptom::Tls => Cause::Tls,
                Symptom::Server => Cause::Server,
                Symptom::Throughput => Cause::Throughput,
                Symptom::Loss => Cause::Loss,
                Symptom::Failures(stage) => Cause::Failing(*stage),
            };
            for other in abnormal.iter().filter(|other| *other != symptom) {
                if scene.explains(cause, *other) {
                    shown.explained_by[other.place()] |= symptom.bit();
                }
            }
        }
    }
}

/// A measure's bit in [`Signals::consequences`].
pub(crate) fn bit_of(measure: Measure) -> u16 {
    1 << (measure as u8)
}
