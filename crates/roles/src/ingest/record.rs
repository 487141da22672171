//! The bytes of a record in the queue: one version byte, then a zstd frame of the batch in postcard form.
//!
//! Version 1 holds [`Batch`] as it stands in `model::event`. A change of those types that changes their
//! postcard form is a new version here; the old one stays readable until no queue can hold it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use caelum_model::event::Batch;

const VERSION: u8 = 1;
/// zstd level: the fastest; higher ones buy little on events.
const LEVEL: i32 = 1;
/// Most bytes of a record after decompression; a request is bounded far below.
const BYTES_MAX: usize = 256 << 20;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a version that is not known here.
    #[error("the record has version {0:?}, and only {VERSION} is known; run the newer version of Caelum")]
    Version(Option<u8>),
    /// Damaged on its way.
    #[error("the record is damaged")]
    Frame(#[source] std::io::Error),
    /// The frame is whole and its content is not a batch.
    #[error("the record holds no batch")]
    Content(#[source] postcard::Error),
}

/// The stored form of a batch.
pub fn encode(batch: &Batch) -> Bytes {
    let plain = postcard::to_stdvec(batch).expect("a batch in memory has a postcard form");
    let mut bytes = vec![VERSION];
    let mut frame =
        zstd::bulk::compress(&plain, LEVEL).expect("compressing into a buffer of its own size cannot fail");
    bytes.append(&mut frame);
    Bytes::from(bytes)
}

/// Names a record by what it says: the same events sent again have the same name, whenever they arrive, and
/// other events another. The first number alone would not do, since a probe that was not answered may send
/// more events the next time.
pub fn key(batch: &Batch) -> String {
    let plain = postcard::to_stdvec(&batch.clients).expect("events in memory have a postcard form");
    let digest = ring::digest::digest(&ring::digest::SHA256, &plain);
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16])
}

/// Reads the stored form.
pub fn decode(bytes: &[u8]) -> Result<Batch, RecordError> {
    match bytes.split_first() {
        Some((&VERSION, frame)) => {
            let size = zstd::zstd_safe::get_frame_content_size(frame)
                .ok()
                .flatten()
                .and_then(|size| usize::try_from(size).ok())
                .unwrap_or(BYTES_MAX)
                .min(BYTES_MAX);
            let plain = zstd::bulk::decompress(frame, size).map_err(RecordError::Frame)?;
            postcard::from_bytes(&plain).map_err(RecordError::Content)
        }
        other => Err(RecordError::Version(other.map(|(version, _)| *version))),
    }
}

#[cfg(test)]
mod tests {
    use caelum_model::{
        event::{ClientEvents, SeqNo},
        id::ClientId,
    };

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
        assert_eq!(key(&batch(1, 2)), key(&batch(9, 2)));
        assert_ne!(key(&batch(1, 2)), key(&batch(1, 3)));
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
        let bytes = encode(&batch);
        assert_eq!(decode(&bytes).expect("reads back"), batch);
        assert!(matches!(decode(&[]), Err(RecordError::Version(None))));
        assert!(matches!(decode(&[9, 1, 2]), Err(RecordError::Version(Some(9)))));
        assert!(decode(&bytes[..bytes.len() - 3]).is_err());
    }
}
