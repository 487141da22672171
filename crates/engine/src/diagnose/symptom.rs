//! What can be off about a window, each made to answer to one cause.

use caelum_model::{event::ErrorStage, rollup::Measure};

use super::{
    Config,
    observation::{Readings, reading},
};

/// One thing that can be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Symptom {
    /// Look-ups take longer.
    Dns,
    /// TCP connects take longer.
    Connect,
    /// Packet trains take longer.
    Rtt,
    /// The TLS handshake takes longer than the round trips in it.
    Tls,
    /// The first byte takes longer than the round trip in it.
    Server,
    /// Transfers are slower.
    Throughput,
    /// Packet trains lose packets.
    Loss,
    /// Measurements fail at a stage.
    Failures(ErrorStage),
}

impl Symptom {
    /// Every symptom; [`Symptom::place`] is its place here.
    pub(crate) const ALL: [Self; 12] = [
        Self::Dns,
        Self::Connect,
        Self::Rtt,
        Self::Tls,
        Self::Server,
        Self::Throughput,
        Self::Loss,
        Self::Failures(ErrorStage::Dns),
        Self::Failures(ErrorStage::Tcp),
        Self::Failures(ErrorStage::Tls),
        Self::Failures(ErrorStage::Http),
        Self::Failures(ErrorStage::Throughput),
    ];
    /// Those that compare medians with what is usual.
    pub(super) const DEVIATIONS: [Self; 7] =
        [Self::Dns, Self::Connect, Self::Rtt, Self::Tls, Self::Server, Self::Throughput, Self::Loss];

    pub(crate) fn place(self) -> usize {
        match self {
            Self::Dns => 0,
            Self::Connect => 1,
            Self::Rtt => 2,
            Self::Tls => 3,
            Self::Server => 4,
            Self::Throughput => 5,
            Self::Loss => 6,
            Self::Failures(stage) => 7 + stage as usize,
        }
    }

    /// Its bit in a set.
    pub(crate) fn bit(self) -> u16 {
        1 << self.place()
    }

    /// Whether it is counted, not timed: what is counted comes now and then, also in a fault.
    pub(super) fn is_count(self) -> bool {
        matches!(self, Self::Loss | Self::Failures(_))
    }

    /// Where a lone pair raises the alarm.
    pub(super) fn alarm(self, config: &Config) -> f64 {
        if matches!(self, Self::Failures(_)) { config.errors_alarm } else { config.alarm }
    }

    /// The measure that shows it, or none for failures.
    pub(crate) fn measure(self) -> Option<Measure> {
        match self {
            Self::Dns => Some(Measure::Dns),
            Self::Connect => Some(Measure::Tcp),
            Self::Rtt => Some(Measure::Rtt),
            Self::Tls => Some(Measure::Tls),
            Self::Server => Some(Measure::Ttfb),
            Self::Throughput => Some(Measure::Throughput),
            Self::Loss => Some(Measure::Loss),
            Self::Failures(_) => None,
        }
    }

    /// The smallest deviation that it is measured in.
    pub(super) fn floor(self, config: &Config, usual_tcp_ms: f64) -> f64 {
        match self {
            Self::Dns => config.dns_floor,
            Self::Connect | Self::Rtt => config.network_floor,
            Self::Tls | Self::Server => config.excess_floor_ms + config.excess_floor_share * usual_tcp_ms,
            Self::Throughput => config.throughput_floor,
            Self::Loss => config.loss_floor_points,
            Self::Failures(_) => 1.0,
        }
    }

    /// The number that is compared with the usual, higher for worse, and the measurements behind it. Times
    /// that grow by factors are compared by their logarithm. TLS and the server are what remains without the
    /// round trip, for probes that measure it.
    pub(super) fn feature(
        self,
        config: &Config,
        readings: &Readings,
        measures_tcp: bool,
    ) -> Option<(f64, u32)> {
        let own = reading(readings, self.measure()?)?;
        let value = f64::from(own.value);
        match self {
            Self::Dns | Self::Connect | Self::Rtt => Some(((value + config.log_offset_ms).ln(), own.samples)),
            Self::Tls | Self::Server if measures_tcp => {
                let tcp = reading(readings, Measure::Tcp)?;
                Some((value - f64::from(tcp.value), own.samples.min(tcp.samples)))
            }
            Self::Tls | Self::Server | Self::Loss => Some((value, own.samples)),
            Self::Throughput => Some((-value.max(1.0).ln(), own.samples)),
            Self::Failures(_) => None,
        }
    }
}
