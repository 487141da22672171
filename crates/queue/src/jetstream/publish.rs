//! Appending: every record is published with its name, and all acknowledgements are waited for.
//!
//! Records of one append are sent one after the other without waiting between them. What was not
//! acknowledged is sent again under the same name until the time is over, so that an election or a lost
//! connection costs time and no duplicates.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use caelum_model::id::Offset;

use super::{EVENTS_HEADER, Shared, api, stream};
use crate::{AppendError, NewRecord};

/// Pause before what was not acknowledged is sent again; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What came of one record.
enum Fate {
    Kept(Offset),
    /// Not acknowledged for a reason that may pass.
    Again(String),
}

/// Publishes until everything is acknowledged. It has no end of its own while the server is away.
pub(super) async fn publish(
    shared: &Shared,
    records: &[NewRecord],
    last_trouble: &mut String,
) -> Result<Vec<Offset>, AppendError> {
    let names: Vec<String> = records.iter().map(|record| name_of(shared, record)).collect();
    let mut offsets: Vec<Option<Offset>> = vec![None; records.len()];
    let mut pause = RETRY_MIN;
    loop {
        shared.until_connected().await;
        let mut sent = Vec::new();
        for (index, record) in records.iter().enumerate().filter(|(index, _)| offsets[*index].is_none()) {
            let subject = stream::subject(&shared.stream, record.partition.0);
            let message = message(record, &names[index]);
            sent.push((index, shared.connection.jetstream.send_publish(subject, message).await));
        }
        for (index, ack) in sent {
            let fate = match ack {
                Ok(ack) => match ack.await {
                    // A server that knows the name and not yet the place says zero.
                    Ok(ack) if ack.sequence == 0 => Fate::Again("the record is still on its way".to_owned()),
                    Ok(ack) => Fate::Kept(Offset(ack.sequence)),
                    Err(error) => judge(shared, error, &records[index])?,
                },
                Err(error) => judge(shared, error, &records[index])?,
            };
            match fate {
                Fate::Kept(offset) => offsets[index] = Some(offset),
                Fate::Again(reason) => *last_trouble = reason,
            }
        }
        if let Some(offsets) = offsets.iter().copied().collect::<Option<Vec<Offset>>>() {
            return Ok(offsets);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Unique within the stream, which all partitions share.
fn name_of(shared: &Shared, record: &NewRecord) -> String {
    let partition = record.partition.0;
    match record.key.as_str() {
        "" => format!("{partition}.{}", shared.connection.client.new_inbox()),
        key => format!("{partition}.{key}"),
    }
}

fn message(record: &NewRecord, name: &str) -> PublishMessage {
    let mut headers = HeaderMap::new();
    headers.insert(EVENTS_HEADER, record.events.to_string());
    PublishMessage::build().payload(record.bytes.clone()).headers(headers).message_id(name)
}

/// What an error means: trouble that may pass, or an end of trying.
fn judge(shared: &Shared, error: PublishError, record: &NewRecord) -> Result<Fate, AppendError> {
    match error.kind() {
        PublishErrorKind::StreamNotFound => {
            return Ok(Fate::Again("no server keeps the stream just now".to_owned()));
        }
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
            return Ok(Fate::Again("NATS does not acknowledge".to_owned()));
        }
        PublishErrorKind::MaxPayloadExceeded => return Err(shared.too_large(record)),
        _ => {}
    }
    let said = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    let Some(said) = said else { return Ok(Fate::Again(error.to_string())) };
    match said.error_code() {
        ErrorCode::STREAM_STORE_FAILED if said.to_string().contains("maximum bytes") => Err(shared.full()),
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            Err(shared.too_large(record))
        }
        _ if api::is_passing(said) => Ok(Fate::Again(format!("JetStream says: {said}"))),
        _ => Err(AppendError::Backend { source: error.into() }),
    }
}
