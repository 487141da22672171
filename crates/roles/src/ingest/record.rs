//! The bytes of a record in the queue: one version byte, when it came, the traces that it carries on, and the
//! events as [`rows`].
//!
//! Versions 1 to 3 are read: a zstd frame of the batch in postcard form. Version 3 holds [`Batch`] as it stands in
//! `model::event` and behind it the traces; in versions 1 and 2 events say no
//! [`Details`](caelum_model::details::Details), and version 1 carries no traces. A change of those types that changes
//! their postcard form is a new version here; the old ones stay readable until no queue can hold them.

mod former;
mod rows;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use caelum_engine::trace::CARRIED_MAX;
use caelum_model::{
    UnixMs,
    event::{Batch, ClientEvents},
    trace::TraceContext,
};

pub use rows::RowsError;

/// A batch without details.
const PLAIN: u8 = 1;
/// A batch without details, and the traces that it carries on.
const TRACED: u8 = 2;
/// A batch with details, and the traces that it carries on.
const DETAILED: u8 = 3;
/// Rows of events, and the traces that they carry on.
const ROWS: u8 = 4;
/// zstd level: the fastest; higher ones buy little on events.
const LEVEL: i32 = 1;
/// Most bytes of a record after decompression; a request is bounded far below.
const BYTES_MAX: usize = 256 << 20;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a version that is not known here.
    #[error(
        "the record has version {0:?}, and only {PLAIN} to {ROWS} are known; run the newer version of Caelum"
    )]
    Version(Option<u8>),
    /// Damaged on its way.
    #[error("the record is damaged")]
    Frame(#[source] std::io::Error),
    /// The frame is whole and its content is not a batch.
    #[error("the record holds no batch")]
    Content(#[source] postcard::Error),
    /// What follows is not the rows of a batch.
    #[error("the record holds no batch")]
    Rows(#[source] RowsError),
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The events.
    pub batch: Batch,
    /// Where some of them are on their way; their steps in ingest are the last ones.
    pub traces: Vec<TraceContext>,
}

/// A record as it goes into the queue.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// What it holds.
    pub batch: Batch,
    /// Its bytes.
    pub bytes: Bytes,
    /// Names it by what it says: the same events sent again have the same name, whenever they arrive, and other
    /// events another. The first number alone would not do, since a probe that was not answered may send more
    /// events the next time.
    pub key: String,
}

impl Encoded {
    /// The stored form of a batch and of the traces that it carries on.
    pub fn of(batch: Batch, traces: &[TraceContext]) -> Self {
        let rows = rows::encode(&batch.clients);
        let head = (batch.recv_ts_ms, traces);
        let mut bytes = Vec::with_capacity(rows.len() + 32);
        bytes.push(ROWS);
        let mut bytes = postcard::to_extend(&head, bytes).expect("a time and traces have a postcard form");
        bytes.extend_from_slice(&rows);
        let digest = ring::digest::digest(&ring::digest::SHA256, &rows);
        Self { batch, bytes: Bytes::from(bytes), key: URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]) }
    }
}

/// A batch in as many records as it takes for each to have at most `bytes_max` bytes, in order. What cannot
/// be divided any more is left as large as it is. Each of them carries all of the traces on, since a trace does
/// not say which of the events it is about.
pub fn encode_within(batch: Batch, traces: &[TraceContext], bytes_max: usize) -> Vec<Encoded> {
    let mut records = Vec::new();
    let mut waiting = vec![batch];
    while let Some(batch) = waiting.pop() {
        let mut record = Encoded::of(batch, traces);
        match (record.bytes.len() > bytes_max).then(|| split_off_half(&mut record.batch)).flatten() {
            Some(rest) => waiting.extend([rest, record.batch]),
            None => records.push(record),
        }
    }
    records
}

/// Takes the second half of the probes out of a batch, or of the events of its only probe.
fn split_off_half(batch: &mut Batch) -> Option<Batch> {
    let clients = match &mut batch.clients[..] {
        [only] if only.events.len() > 1 => {
            let events = only.events.split_off(only.events.len() / 2);
            vec![ClientEvents { client_id: only.client_id.clone(), events, refused: Vec::new() }]
        }
        [] | [_] => return None,
        several => {
            let half = several.len() / 2;
            batch.clients.split_off(half)
        }
    };
    Some(Batch { recv_ts_ms: batch.recv_ts_ms, clients })
}

/// Reads the stored form of any known version.
pub fn decode(bytes: &[u8]) -> Result<Stored, RecordError> {
    match bytes.split_first() {
        Some((&PLAIN, frame)) => {
            let batch: former::Batch = postcard::from_bytes(&inflate(frame).map_err(RecordError::Frame)?)
                .map_err(RecordError::Content)?;
            Ok(Stored { batch: batch.into(), traces: Vec::new() })
        }
        Some((&TRACED, frame)) => {
            let plain = inflate(frame).map_err(RecordError::Frame)?;
            let (batch, rest): (former::Batch, _) =
                postcard::take_from_bytes(&plain).map_err(RecordError::Content)?;
            Ok(Stored { batch: batch.into(), traces: traces_of(rest)? })
        }
        Some((&DETAILED, frame)) => {
            let plain = inflate(frame).map_err(RecordError::Frame)?;
            let (batch, rest) = postcard::take_from_bytes(&plain).map_err(RecordError::Content)?;
            Ok(Stored { batch, traces: traces_of(rest)? })
        }
        Some((&ROWS, head)) => {
            let ((recv_ts_ms, mut traces), rest): ((UnixMs, Vec<TraceContext>), _) =
                postcard::take_from_bytes(head).map_err(RecordError::Content)?;
            traces.truncate(CARRIED_MAX);
            let clients = rows::decode(rest).map_err(RecordError::Rows)?;
            Ok(Stored { batch: Batch { recv_ts_ms, clients }, traces })
        }
        other => Err(RecordError::Version(other.map(|(version, _)| *version))),
    }
}

fn traces_of(bytes: &[u8]) -> Result<Vec<TraceContext>, RecordError> {
    let mut traces: Vec<TraceContext> = postcard::from_bytes(bytes).map_err(RecordError::Content)?;
    traces.truncate(CARRIED_MAX);
    Ok(traces)
}

fn inflate(frame: &[u8]) -> std::io::Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(BYTES_MAX)
        .min(BYTES_MAX);
    zstd::bulk::decompress(frame, size)
}

#[cfg(test)]
mod tests {
    use caelum_model::{
        event::{Event, Family, InterfaceType, SeqNo, Timings},
        id::ClientId,
    };
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_record_is_named_by_its_events_and_not_by_when_they_came() {
        let batch = |recv_ts_ms, seq| Batch {
            recv_ts_ms,
            clients: vec![ClientEvents {
                client_id: ClientId::parse("probe-1").expect("valid"),
                events: Vec::new(),
                refused: vec![SeqNo { epoch: 1, seq }],
            }],
        };
        let key = |recv_ts_ms, seq| Encoded::of(batch(recv_ts_ms, seq), &[]).key;
        assert_eq!(key(1, 2), key(9, 2));
        assert_ne!(key(1, 2), key(1, 3));
    }

    #[test]
    fn a_batch_that_is_too_large_for_one_record_goes_into_several_and_none_is_lost() {
        // Numbers that do not compress.
        let client = |n: u64| ClientEvents {
            client_id: ClientId::parse(&format!("probe-{n}")).expect("valid"),
            events: Vec::new(),
            refused: (1..50).map(|seq| SeqNo { epoch: (n * 50 + seq).wrapping_pow(9), seq }).collect(),
        };
        let clients: Vec<ClientEvents> = (0..10).map(client).collect();
        let batch = Batch { recv_ts_ms: 1, clients };
        let whole = Encoded::of(batch.clone(), &[]).bytes.len();
        assert_eq!(encode_within(batch.clone(), &[], whole).len(), 1);
        let records = encode_within(batch.clone(), &[], whole / 2);
        assert!(records.len() > 2 && records.iter().all(|record| record.bytes.len() <= whole / 2));
        let read = records.iter().flat_map(|record| decode(&record.bytes).expect("reads back").batch.clients);
        assert!(read.eq(batch.clients.clone()));
        assert_eq!(encode_within(batch, &[], 1).len(), 10, "what cannot be divided stays whole");
    }

    #[test]
    fn the_events_of_one_probe_are_divided_in_order_and_what_it_gave_up_is_said_once() {
        let target = |n: u64| n.wrapping_pow(9).to_string();
        let events: Vec<Event> = (1..=9).map(|n| event(n, target(n))).collect();
        let client_id = ClientId::parse("probe-1").expect("valid");
        let refused = vec![SeqNo { epoch: 1, seq: 10 }];
        let batch = Batch { recv_ts_ms: 1, clients: vec![ClientEvents { client_id, events, refused }] };
        let records = encode_within(batch, &[], 1);
        assert_eq!(records.len(), 9);
        let read: Vec<ClientEvents> = records
            .iter()
            .flat_map(|record| decode(&record.bytes).expect("reads back").batch.clients)
            .collect();
        let seqs =
            read.iter().flat_map(|client| client.events.iter().filter_map(|event| Some(event.seq?.seq)));
        assert!(seqs.eq(1..=9));
        assert_eq!(read.iter().map(|client| client.refused.len()).sum::<usize>(), 1);
    }

    pub(super) fn event(seq: u64, target: String) -> Event {
        Event {
            event_id: Uuid::from_u128(seq.into()),
            ts_ms: 0,
            seq: Some(SeqNo { epoch: 1, seq }),
            target: target.into(),
            family: Family::Any,
            interface_type: InterfaceType::default(),
            vpn_enabled: false,
            timings: Timings::default(),
            throughput_kbps: None,
            error_stage: None,
            error_detail: None,
            resolver: None,
            remote_ip: None,
            rtt: None,
            rpm: None,
            details: None,
        }
    }

    #[test]
    fn a_batch_reads_back_and_damage_is_noticed() {
        let batch = Batch {
            recv_ts_ms: 1,
            clients: vec![ClientEvents {
                client_id: ClientId::parse("probe-1").expect("valid"),
                events: Vec::new(),
                refused: vec![SeqNo { epoch: 1, seq: 2 }],
            }],
        };
        let bytes = Encoded::of(batch.clone(), &[]).bytes;
        assert_eq!(decode(&bytes).expect("reads back"), Stored { batch, traces: Vec::new() });
        assert!(matches!(decode(&[]), Err(RecordError::Version(None))));
        assert!(matches!(decode(&[9, 1, 2]), Err(RecordError::Version(Some(9)))));
        assert!(decode(&bytes[..bytes.len() - 3]).is_err());
    }

    #[test]
    fn traces_travel_behind_the_batch() {
        let batch = Batch { recv_ts_ms: 1, clients: Vec::new() };
        let traces = vec![TraceContext { trace_id: [1; 16], span_id: [2; 8], is_sampled: true }];
        let bytes = Encoded::of(batch.clone(), &traces).bytes;
        assert_eq!(
            decode(&bytes).expect("reads back"),
            Stored { batch: batch.clone(), traces: traces.clone() }
        );
        assert!(decode(&bytes[..bytes.len() - 3]).is_err());
        let [whole] = &encode_within(batch, &traces, 1 << 20)[..] else { panic!("one record") };
        assert_eq!(decode(&whole.bytes).expect("reads back").traces, traces);
    }

    #[test]
    fn records_of_former_versions_are_read() {
        let client_id = ClientId::parse("probe-1").expect("valid");
        let events = vec![event(1, "https://box.example/".to_owned()), event(2, "icmp://box".to_owned())];
        let refused = vec![SeqNo { epoch: 1, seq: 3 }];
        let batch = Batch { recv_ts_ms: 1, clients: vec![ClientEvents { client_id, events, refused }] };
        let traces = vec![TraceContext { trace_id: [1; 16], span_id: [2; 8], is_sampled: true }];
        let former = |version: u8, traces: &[u8]| {
            let mut plain = postcard::to_stdvec(&former::Batch::from(batch.clone())).expect("has a form");
            plain.extend_from_slice(traces);
            [vec![version], zstd::bulk::compress(&plain, LEVEL).expect("compresses")].concat()
        };
        let first = decode(&former(1, &[])).expect("reads the first version");
        assert_eq!(first, Stored { batch: batch.clone(), traces: Vec::new() });
        let behind = postcard::to_stdvec(&traces).expect("has a form");
        let second = decode(&former(2, &behind)).expect("reads the second version");
        assert_eq!(second, Stored { batch, traces });
    }
}
