//! Of everything that is off in a window, the one cause.
//!
//! Symptoms that another explains are its consequences: a network with a longer round trip makes every
//! handshake and answer longer by it, one that loses packets makes everything longer by its repeats. What is
//! left is ranked: failures of most measurements, then loss, then the stage that costs the most time, then
//! throughput, then failures of a few.

use caelum_model::{diagnosis::Label, event::ErrorStage, rollup::Measure};

use super::{Config, pair::Scored, reference::Reference, reference::median, symptom::Symptom};

/// Newest windows that the size of a change is taken from.
const RECENT: usize = 5;
/// Handshakes and answers have become slower with the network if they did so by this share of its change.
const WITH_THE_NETWORK: f64 = 0.5;
/// Round trips in a TLS handshake (two in 1.2, one in 1.3) that a longer path makes longer beside the one
/// that is left out of the symptom, and one for a repeat.
const TLS_ROUND_TRIPS: f64 = 2.0;
/// The same for the request: a repeat.
const SERVER_ROUND_TRIPS: f64 = 1.0;
/// Round trips of a look-up.
const DNS_ROUND_TRIPS: f64 = 2.0;
/// Deviations that chance may add to what a cause explains.
const EXPLAINED_DEVIATIONS: f64 = 2.0;

/// What a window is bound by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Dns,
    Connect,
    Tls,
    Server,
    Throughput,
    Loss,
    /// The round trip, with the symptom that shows it best.
    Path(PathShown),
    Failing(ErrorStage),
}

/// What shows a longer round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathShown {
    Connect,
    Train,
}

impl Cause {
    pub(super) fn label(self) -> Label {
        match self {
            Self::Dns | Self::Failing(ErrorStage::Dns) => Label::Dns,
            Self::Connect | Self::Tls | Self::Failing(ErrorStage::Tls) => Label::Handshake,
            Self::Server | Self::Failing(ErrorStage::Http) => Label::Server,
            Self::Throughput | Self::Failing(ErrorStage::Throughput) => Label::Throughput,
            Self::Loss => Label::Loss,
            Self::Path(_) => Label::Path,
            Self::Failing(ErrorStage::Tcp) => Label::Unreachable,
        }
    }

    /// The symptom that it is seen by.
    pub(super) fn symptom(self) -> Symptom {
        match self {
            Self::Dns => Symptom::Dns,
            Self::Connect | Self::Path(PathShown::Connect) => Symptom::Connect,
            Self::Path(PathShown::Train) => Symptom::Rtt,
            Self::Tls => Symptom::Tls,
            Self::Server => Symptom::Server,
            Self::Throughput => Symptom::Throughput,
            Self::Loss => Symptom::Loss,
            Self::Failing(stage) => Symptom::Failures(stage),
        }
    }

    /// Whether two causes are the same verdict.
    pub(super) fn is_same(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Path(_), Self::Path(_)))
    }
}

/// Everything a decision is made from.
pub(super) struct Scene<'a> {
    pub(super) config: &'a Config,
    pub(super) reference: &'a Reference,
    /// Windows, oldest first, the one to decide on last.
    pub(super) windows: &'a [Scored],
    /// Symptoms that are off in the last window.
    pub(super) abnormal: Vec<Symptom>,
    /// Symptoms that have built up to the alarm.
    pub(super) alarmed: Vec<Symptom>,
    /// Symptoms that are at least half way there: what is less may be chance, and explains nothing whose
    /// size cannot be compared with its own.
    pub(super) established: Vec<Symptom>,
    /// The cause found before, if it was just before.
    pub(super) before: Option<Cause>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) cause: Cause,
    /// Symptoms that are off because of it.
    pub(super) explained: Vec<Symptom>,
    /// Stages that are slower because of it.
    pub(super) consequences: Vec<Measure>,
    /// Something else is off that it does not explain.
    pub(super) has_rival: bool,
}

impl Scene<'_> {
    /// The cause of the last window, if an alarm stands and what raised it is off in that window.
    pub(super) fn find(&self) -> Option<Finding> {
        if !self.abnormal.iter().any(|symptom| self.alarmed.contains(symptom)) {
            return None;
        }
        let causes = self.causes();
        let unexplained: Vec<Cause> = causes
            .iter()
            .copied()
            .filter(|cause| {
                !causes.iter().any(|other| other != cause && self.explains(*other, cause.symptom()))
            })
            .collect();
        let eligible = || {
            unexplained.iter().copied().filter(|cause| {
                self.alarmed
                    .iter()
                    .filter(|symptom| self.abnormal.contains(symptom))
                    .any(|symptom| cause.symptom() == *symptom || self.explains(*cause, *symptom))
            })
        };
        let first =
            eligible().max_by(|a, b| self.rank(*a).partial_cmp(&self.rank(*b)).expect("costs are finite"))?;
        let before = self.before.filter(|_| !self.is_dominant(first));
        let cause = before.and_then(|before| eligible().find(|cause| cause.is_same(before))).unwrap_or(first);
        let explained: Vec<Symptom> = self
            .abnormal
            .iter()
            .copied()
            .filter(|symptom| *symptom != cause.symptom() && self.explains(cause, *symptom))
            .collect();
        let has_rival = unexplained.iter().any(|other| !other.is_same(cause));
        Some(Finding { cause, consequences: self.consequences(cause, &explained), explained, has_rival })
    }

    /// One cause a symptom, but a longer round trip is one cause however many symptoms show it.
    fn causes(&self) -> Vec<Cause> {
        let is_path = self.is_off(Symptom::Rtt) || self.moves_with_the_network();
        let mut causes: Vec<Cause> = Vec::new();
        for symptom in &self.abnormal {
            let cause = match symptom {
                Symptom::Dns => Cause::Dns,
                Symptom::Connect if is_path => Cause::Path(PathShown::Connect),
                Symptom::Connect => Cause::Connect,
                Symptom::Rtt if self.is_off(Symptom::Connect) => continue,
                Symptom::Rtt => Cause::Path(PathShown::Train),
                Symptom::Tls => Cause::Tls,
                Symptom::Server => Cause::Server,
                Symptom::Throughput => Cause::Throughput,
                Symptom::Loss => Cause::Loss,
                Symptom::Failures(stage) => Cause::Failing(*stage),
            };
            causes.push(cause);
        }
        causes
    }

    /// Whether what follows the TCP connect has become slower by about as much as the connect: then it is
    /// the round trip, not the way connections are taken.
    fn moves_with_the_network(&self) -> bool {
        self.network_votes() > 0
    }

    /// How many stages speak for a longer round trip, less those that speak against it.
    pub(super) fn network_votes(&self) -> i32 {
        if !self.is_off(Symptom::Connect) {
            return 0;
        }
        let Some(connect_ms) = self.change(Measure::Tcp, Symptom::Connect) else { return 0 };
        [Measure::Tls, Measure::Ttfb, Measure::Rtt]
            .into_iter()
            .filter_map(|measure| self.change(measure, Symptom::Connect))
            .map(|change_ms| if change_ms >= WITH_THE_NETWORK * connect_ms { 1 } else { -1 })
            .sum()
    }

    pub(super) fn explains(&self, cause: Cause, symptom: Symptom) -> bool {
        if self.is_dominant(cause) {
            return symptom != cause.symptom();
        }
        let is_established = self.established.contains(&cause.symptom());
        match (cause, symptom) {
            (Cause::Path(_), Symptom::Connect | Symptom::Rtt) => true,
            (Cause::Path(_), Symptom::Throughput) => is_established,
            (Cause::Path(_), Symptom::Tls) => self.is_within_round_trips(cause, symptom, TLS_ROUND_TRIPS),
            (Cause::Path(_), Symptom::Server) => {
                self.is_within_round_trips(cause, symptom, SERVER_ROUND_TRIPS)
            }
            (Cause::Path(_), Symptom::Dns) => {
                let change_ms = self.change(Measure::Dns, Symptom::Dns).unwrap_or(0.0);
                change_ms <= DNS_ROUND_TRIPS * self.round_trip_change(cause)
            }
            (Cause::Path(_), Symptom::Loss | Symptom::Failures(_)) => false,
            (Cause::Loss, Symptom::Dns | Symptom::Loss) => false,
            (Cause::Loss, Symptom::Failures(stage)) => {
                is_established && stage != ErrorStage::Dns && !self.is_dominant(Cause::Failing(stage))
            }
            (Cause::Loss, _) => is_established,
            (Cause::Server, Symptom::Throughput) => is_established,
            // A stage that is slow also runs into its time limit.
            (Cause::Dns, Symptom::Failures(stage)) => is_established && stage == ErrorStage::Dns,
            (Cause::Connect, Symptom::Failures(stage)) => is_established && stage == ErrorStage::Tcp,
            (Cause::Tls, Symptom::Failures(stage)) => is_established && stage == ErrorStage::Tls,
            (Cause::Server, Symptom::Failures(stage)) => is_established && stage == ErrorStage::Http,
            (Cause::Throughput, Symptom::Failures(stage)) => {
                is_established && stage == ErrorStage::Throughput
            }
            (
                Cause::Dns
                | Cause::Connect
                | Cause::Tls
                | Cause::Server
                | Cause::Throughput
                | Cause::Failing(_),
                _,
            ) => false,
        }
    }

    fn is_within_round_trips(&self, cause: Cause, symptom: Symptom, round_trips: f64) -> bool {
        let (Some(excess_ms), Some(usual)) = (self.excess(symptom), self.reference.usual(symptom)) else {
            return true;
        };
        excess_ms <= round_trips * self.round_trip_change(cause) + EXPLAINED_DEVIATIONS * usual.deviation
    }

    /// Failures of most measurements: there is little else to see then.
    fn is_dominant(&self, cause: Cause) -> bool {
        let Cause::Failing(stage) = cause else { return false };
        self.windows.last().is_some_and(|window| {
            let (failed, _) = window.observation.failures(stage);
            failed as f64 >= self.config.errors_share_dominant * window.observation.count as f64
        })
    }

    /// What to look at first: a tier, and within the tier of the stages the time it costs.
    fn rank(&self, cause: Cause) -> (u8, f64) {
        match cause {
            Cause::Failing(stage) => {
                let tier = if self.is_dominant(cause) { 4 } else { 0 };
                // Of stages that fail alike the earliest.
                (tier, -(stage as u8 as f64))
            }
            Cause::Loss => (3, 0.0),
            Cause::Dns => (2, self.change(Measure::Dns, Symptom::Dns).unwrap_or(0.0)),
            Cause::Connect => (2, self.change(Measure::Tcp, Symptom::Connect).unwrap_or(0.0)),
            Cause::Tls => (2, self.excess(Symptom::Tls).unwrap_or(0.0)),
            Cause::Server => (2, self.excess(Symptom::Server).unwrap_or(0.0)),
            Cause::Path(_) => {
                let readings = self.windows.last().map(|window| &window.observation);
                let stages = [Measure::Tcp, Measure::Tls, Measure::Ttfb]
                    .into_iter()
                    .filter(|measure| readings.is_some_and(|window| window.reading(*measure).is_some()));
                (2, self.round_trip_change(cause) * stages.count().max(1) as f64)
            }
            Cause::Throughput => (1, 0.0),
        }
    }

    fn consequences(&self, cause: Cause, explained: &[Symptom]) -> Vec<Measure> {
        let mut slower: Vec<Measure> = explained.iter().filter_map(|symptom| symptom.measure()).collect();
        if let Cause::Path(_) = cause {
            let least_ms = WITH_THE_NETWORK * self.round_trip_change(cause);
            slower.extend([Measure::Tls, Measure::Ttfb].into_iter().filter(|measure| {
                self.change(*measure, cause.symptom()).is_some_and(|change_ms| change_ms >= least_ms)
            }));
        }
        // TCP connect and packet train both show the round trip itself.
        slower.retain(|measure| {
            !matches!(cause, Cause::Path(_)) || !matches!(measure, Measure::Tcp | Measure::Rtt)
        });
        slower.sort_unstable();
        slower.dedup();
        slower
    }

    fn is_off(&self, symptom: Symptom) -> bool {
        self.abnormal.contains(&symptom)
    }

    fn round_trip_change(&self, cause: Cause) -> f64 {
        let measure = match cause.symptom() {
            Symptom::Rtt => Measure::Rtt,
            _ => Measure::Tcp,
        };
        self.change(measure, cause.symptom()).unwrap_or(0.0)
    }

    /// By how much a measure lies above its usual in the newest windows that show a symptom.
    fn change(&self, measure: Measure, shown_by: Symptom) -> Option<f64> {
        let usual = self.reference.usual_value(measure)?;
        let mut changes: Vec<f64> = self
            .showing(shown_by)
            .filter_map(|window| window.observation.reading(measure))
            .map(|reading| f64::from(reading.value) - usual)
            .collect();
        (!changes.is_empty()).then(|| median(&mut changes))
    }

    /// By how much a symptom lies above its usual in the newest windows that show it, in its own unit.
    fn excess(&self, symptom: Symptom) -> Option<f64> {
        let usual = self.reference.usual(symptom)?;
        let mut changes: Vec<f64> = self
            .showing(symptom)
            .filter_map(|window| Some(window.z[symptom.place()]? * usual.deviation))
            .collect();
        (!changes.is_empty()).then(|| median(&mut changes))
    }

    fn showing(&self, symptom: Symptom) -> impl Iterator<Item = &Scored> {
        let slack = self.config.slack;
        self.windows
            .iter()
            .rev()
            .filter(move |window| window.z[symptom.place()].is_some_and(|z| z > slack))
            .take(RECENT)
    }
}
