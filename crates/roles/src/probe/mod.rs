//! The probe: measures targets on their schedules and sends what it saw, by way of a spool on disk.
//!
//! A measurement becomes an event, the spool gives it its number and keeps it, and the sender empties the
//! spool over real HTTP. Nothing is sent that is not on the disk first, so that a number never stands for two
//! events. Reading order: [`schedule`], [`sender`].

mod schedule;
mod sender;

use std::{sync::Arc, time::Duration};

use caelum_drivers::{
    clock::Clock,
    poster::EventPoster,
    probe::{Measurement, Prober},
    spool::Spool,
    traces::Tracer,
};
use caelum_model::{
    UnixMs,
    event::{Family, InterfaceType},
    id::ClientId,
    target::Target,
    wire::{EventJson, NetworkContextJson, SCHEMA_1_1},
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
    pub prober: Arc<Prober>,
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
}

impl Probe {
    /// Measures and sends until told to stop. What was measured by then is in the spool.
    pub async fn run(self, stop: CancellationToken) {
        let (events, measured) = mpsc::channel(EVENTS_WAITING_MAX);
        let scheduler = schedule::Scheduler {
            client_id: self.client_id.clone(),
            prober: self.prober,
            targets: self.targets,
            clock: Arc::clone(&self.clock),
            network: self.network,
            events,
            tracer: self.tracer,
        };
        let sender = sender::Sender {
            client_id: self.client_id,
            spool: Some(self.spool),
            poster: self.poster,
            clock: self.clock,
            backoff_max: self.backoff_max,
            measured,
        };
        tokio::join!(scheduler.run(stop.clone()), sender.run(stop));
    }
}

/// The event of a measurement, without its number.
fn to_event(
    client_id: &ClientId,
    measurement: Measurement,
    ts_ms: UnixMs,
    (interface_type, vpn_enabled): (InterfaceType, bool),
) -> EventJson<'static> {
    let interface_type = match interface_type {
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
            interface_type: Some(interface_type.to_owned()),
            vpn_enabled,
            user_label: None,
        },
        timings: measurement.timings.into(),
        throughput_kbps: measurement.throughput_kbps,
        error_stage: measurement.error_stage.map(|stage| stage.as_str().to_owned()),
        error_detail: measurement.error_detail,
        resolver: measurement.resolver,
        remote_ip: measurement.remote_ip,
        address_family: match measurement.family {
            Family::Any => None,
            family => Some(family.as_str().to_owned()),
        },
        rtt: measurement.rtt,
        ..EventJson::default()
    }
}
