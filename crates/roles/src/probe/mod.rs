//! The probe: measures targets on their schedules and sends what it saw, by way of a spool on disk.
//!
//! A measurement becomes an event, the spool gives it its number and keeps it, and the sender empties the
//! spool over real HTTP. Nothing is sent that is not on the disk first, so that a number never stands for two
//! events. How the machine itself fared travels with each event. Reading order: [`schedule`], [`sender`],
//! [`condition`].

mod condition;
mod schedule;
mod sender;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caelum_drivers::{
    clock::Clock,
    condition::Looker,
    poster::EventPoster,
    probe::{Measure, Measurement},
    spool::Spool,
    traces::Tracer,
};
use caelum_model::{
    UnixMs,
    details::{Details, Hop},
    event::{Family, InterfaceType},
    id::ClientId,
    target::Target,
    wire::{EventJson, HopJson, NetworkContextJson, SCHEMA_1_1},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Measurements waiting for the spool.
const EVENTS_WAITING_MAX: usize = 1024;

/// What a probe stands on.
pub struct Probe {
    /// Its name in events.
    pub client_id: ClientId,
    /// What measures.
    pub prober: Arc<dyn Measure>,
    /// What to measure; changes take effect at once.
    pub targets: watch::Receiver<Arc<Vec<Target>>>,
    /// Where events wait.
    pub spool: Spool,
    /// Where events go; may be exchanged, as a certificate is renewed or servers change.
    pub poster: watch::Receiver<EventPoster>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How this machine is connected.
    pub network: fn() -> (InterfaceType, bool),
    /// Longest wait between tries to send.
    pub backoff_max: Duration,
    /// Where traces of measurements begin.
    pub tracer: Tracer,
    /// What it did, for whoever asks.
    pub counters: Arc<Counters>,
}

/// What a probe did since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Measurements made.
    pub measured: AtomicU64,
    /// Of those, failed ones.
    pub failed: AtomicU64,
    /// Measurements that did not begin in time because the one before still ran.
    pub skipped: AtomicU64,
    /// Events that the ingest acknowledged.
    pub acknowledged: AtomicU64,
    /// Events in the spool.
    pub spooled: AtomicU64,
    /// Tries to send that failed since the last that did not.
    pub failing: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl Probe {
    /// Measures and sends until told to stop. What was measured by then is in the spool.
    pub async fn run(self, stop: CancellationToken) {
        let (events, measured) = mpsc::channel(EVENTS_WAITING_MAX);
        let (looker, surroundings) = condition::watch(Looker::default(), self.network);
        let scheduler = schedule::Scheduler {
            client_id: self.client_id.clone(),
            prober: self.prober,
            targets: self.targets,
            clock: Arc::clone(&self.clock),
            surroundings,
            events,
            tracer: self.tracer,
            counters: Arc::clone(&self.counters),
        };
        let sender = sender::Sender {
            client_id: self.client_id,
            spool: Some(self.spool),
            poster: self.poster,
            clock: self.clock,
            backoff_max: self.backoff_max,
            measured,
            counters: self.counters,
        };
        tokio::join!(looker.run(stop.clone()), scheduler.run(stop.clone()), sender.run(stop));
    }
}

/// The event of a measurement, without its number.
fn to_event(
    client_id: &ClientId,
    measurement: Measurement,
    ts_ms: UnixMs,
    surroundings: &condition::Surroundings,
) -> EventJson<'static> {
    let Measurement { mut details, .. } = measurement;
    let path = to_path(&std::mem::take(&mut details.path));
    details.condition = surroundings.condition.clone();
    let vpn_enabled = surroundings.vpn_enabled;
    let interface_type = match surroundings.interface_type {
        InterfaceType::Wifi => "wifi",
        InterfaceType::Ethernet => "ethernet",
        InterfaceType::Cellular => "cellular",
        InterfaceType::Unknown => "unknown",
    };
    EventJson {
        event_id: Uuid::now_v7().to_string().into(),
        client_id: client_id.as_str().to_owned().into(),
        ts_ms,
        schema_version: SCHEMA_1_1.into(),
        target: measurement.target.into(),
        network_context: NetworkContextJson {
            interface_type: Some(interface_type.into()),
            vpn_enabled,
            user_label: None,
        },
        timings: measurement.timings.into(),
        throughput_kbps: measurement.throughput_kbps,
        error_stage: measurement.error_stage.map(|stage| stage.as_str().into()),
        error_detail: measurement.error_detail.map(Cow::Owned),
        resolver: measurement.resolver.map(Cow::Owned),
        remote_ip: measurement.remote_ip.map(Cow::Owned),
        address_family: match measurement.family {
            Family::Any => None,
            family => Some(family.as_str().into()),
        },
        rtt: measurement.rtt,
        rpm: measurement.rpm,
        path,
        details: (details != Details::default()).then(|| Box::new(details)),
        ..EventJson::default()
    }
}

/// A path as it travels; none where none was traced.
fn to_path(hops: &[Hop]) -> Option<Vec<HopJson>> {
    let hops = hops.iter().map(|hop| HopJson {
        ttl: hop.ttl,
        ip: hop.ip.clone(),
        rtt_ms: hop.rtt_us.map(|us| f64::from(us) / 1_000.0),
    });
    let hops: Vec<HopJson> = hops.collect();
    (!hops.is_empty()).then_some(hops)
}

#[cfg(test)]
mod tests;
