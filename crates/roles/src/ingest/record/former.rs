//! The layout of records of the versions before events had details.

use std::sync::Arc;

use caelum_model::{
    UnixMs,
    event::{self, ErrorStage, Family, InterfaceType, Rtt, SeqNo, Timings},
    id::ClientId,
};
use serde::Deserialize;
use uuid::Uuid;

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Event {
    event_id: Uuid,
    ts_ms: UnixMs,
    seq: Option<SeqNo>,
    target: Arc<str>,
    family: Family,
    interface_type: InterfaceType,
    vpn_enabled: bool,
    timings: Timings,
    throughput_kbps: Option<f64>,
    error_stage: Option<ErrorStage>,
    error_detail: Option<Arc<str>>,
    resolver: Option<Arc<str>>,
    remote_ip: Option<Arc<str>>,
    rtt: Option<Rtt>,
    rpm: Option<f64>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct ClientEvents {
    client_id: ClientId,
    events: Vec<Event>,
    refused: Vec<SeqNo>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Batch {
    recv_ts_ms: UnixMs,
    clients: Vec<ClientEvents>,
}

impl From<Batch> for event::Batch {
    fn from(batch: Batch) -> Self {
        let clients = batch
            .clients
            .into_iter()
            .map(|client| event::ClientEvents {
                client_id: client.client_id,
                events: client.events.into_iter().map(event::Event::from).collect(),
                refused: client.refused,
            })
            .collect();
        Self { recv_ts_ms: batch.recv_ts_ms, clients }
    }
}

impl From<Event> for event::Event {
    fn from(event: Event) -> Self {
        Self {
            event_id: event.event_id,
            ts_ms: event.ts_ms,
            seq: event.seq,
            target: event.target,
            family: event.family,
            interface_type: event.interface_type,
            vpn_enabled: event.vpn_enabled,
            timings: event.timings,
            throughput_kbps: event.throughput_kbps,
            error_stage: event.error_stage,
            error_detail: event.error_detail,
            resolver: event.resolver,
            remote_ip: event.remote_ip,
            rtt: event.rtt,
            rpm: event.rpm,
            details: None,
        }
    }
}

#[cfg(test)]
impl From<event::Batch> for Batch {
    fn from(batch: event::Batch) -> Self {
        let event = |event: event::Event| Event {
            event_id: event.event_id,
            ts_ms: event.ts_ms,
            seq: event.seq,
            target: event.target,
            family: event.family,
            interface_type: event.interface_type,
            vpn_enabled: event.vpn_enabled,
            timings: event.timings,
            throughput_kbps: event.throughput_kbps,
            error_stage: event.error_stage,
            error_detail: event.error_detail,
            resolver: event.resolver,
            remote_ip: event.remote_ip,
            rtt: event.rtt,
            rpm: event.rpm,
        };
        let clients = batch
            .clients
            .into_iter()
            .map(|client| ClientEvents {
                client_id: client.client_id,
                events: client.events.into_iter().map(event).collect(),
                refused: client.refused,
            })
            .collect();
        Self { recv_ts_ms: batch.recv_ts_ms, clients }
    }
}
