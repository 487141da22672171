//! Reading a partition: one short-lived consumer that gives records in order, from an offset on.
//!
//! The consumer is the server's memory of how far it has given; it is only a means to read on cheaply.
//! Whenever it is asked from another offset, gives anything but its next record, or fails, it is dropped and
//! another is made from the offset that the caller names. So nothing is skipped and what counts is never
//! kept on the server.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use bytes::Bytes;
use caelum_model::id::{Offset, PartitionId};
use futures_util::StreamExt as _;

use super::{EVENTS_HEADER, Shared, stream};
use crate::Record;

/// Most bytes in one read.
const READ_BYTES_MAX: usize = 8 << 20;
/// Most records in one fetch.
const FETCH_MAX: usize = 256;
/// Longest silence within a fetch.
const FETCH_WAIT: Duration = Duration::from_millis(1500);
/// A consumer that nobody asks is forgotten by the server after so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// A consumer, and how far it has given.
pub(super) struct Reader {
    consumer: async_nats::jetstream::consumer::Consumer<pull::Config>,
    after: Offset,
    /// Its own count of what it has given.
    given: u64,
}

impl Reader {
    /// A consumer of a partition from an offset on.
    pub(super) async fn make(shared: &Shared, partition: PartitionId, after: Offset) -> Result<Self, String> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.0.saturating_add(1) },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: stream::subject(&shared.stream, partition.0),
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = shared
            .connection
            .jetstream
            .create_consumer_on_stream(config, &shared.stream)
            .await
            .map_err(|error| format!("no consumer can be made: {error}"))?;
        Ok(Self { consumer, after, given: 0 })
    }

    /// Where it would read on.
    pub(super) fn after(&self) -> Offset {
        self.after
    }

    /// What is there, at most `limit` records and some [`READ_BYTES_MAX`] bytes. Does not wait for more.
    /// After an error the reader is of no use any more.
    pub(super) async fn read(&mut self, shared: &Shared, limit: usize) -> Result<Vec<Record>, String> {
        let largest = shared.connection.client.max_payload().max(1);
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        while records.len() < limit && bytes < READ_BYTES_MAX {
            // However large they are, so many fit.
            let fits = (READ_BYTES_MAX - bytes) / largest;
            let wanted = (limit - records.len()).min(FETCH_MAX).min(fits.max(1));
            if fits == 0 && !records.is_empty() {
                break;
            }
            let fetched = self.fetch(wanted, &mut records, &mut bytes).await?;
            if fetched < wanted {
                break;
            }
        }
        Ok(records)
    }

    async fn fetch(
        &mut self,
        wanted: usize,
        records: &mut Vec<Record>,
        bytes: &mut usize,
    ) -> Result<usize, String> {
        let failed = |error: &dyn std::fmt::Display| format!("no records can be fetched: {error}");
        let request = self.consumer.fetch().max_messages(wanted);
        let mut messages = request.messages().await.map_err(|error| failed(&error))?;
        let mut fetched = 0;
        // Nobody answers for a consumer that is gone.
        let silence = |_| failed(&"JetStream does not answer");
        while let Some(message) = tokio::time::timeout(FETCH_WAIT, messages.next()).await.map_err(silence)? {
            let message = message.map_err(|error| failed(&error))?;
            let info = message.info().map_err(|error| failed(&error))?;
            if info.consumer_sequence != self.given + 1 {
                let lost = format!("record {} after {}", info.consumer_sequence, self.given);
                return Err(format!("a consumer gave its {lost}"));
            }
            self.given += 1;
            fetched += 1;
            let offset = Offset(info.stream_sequence);
            // A replica that is behind starts a consumer at its own end, which may be before what was asked.
            if offset <= self.after {
                continue;
            }
            self.after = offset;
            *bytes += message.payload.len();
            let events = message.headers.as_ref().and_then(|headers| headers.get(EVENTS_HEADER));
            records.push(Record {
                offset,
                events: events.and_then(|events| events.as_str().parse().ok()).unwrap_or(0),
                bytes: Bytes::clone(&message.payload),
            });
        }
        Ok(fetched)
    }
}
