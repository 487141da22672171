//! Reading a partition: one short-lived consumer that gives records in order, from an offset on.
//!
//! The consumer is the server's memory of how far it has given; it is only a means to read on cheaply.
//! Whenever it is asked from another offset, gives anything but its next record, or fails, it is dropped and
//! another is made from the offset that the caller names. So nothing is skipped and what counts is never
//! kept on the server.
//!
//! A leader that is killed may have given records that it had not acknowledged yet. Their senders send them
//! again, and the next leader may put them in other places. So a new consumer begins a little before the
//! offset asked for ([`Given`]): what took the place of a record that was given is given now, with the offset
//! that the caller has, and what was given already is not given again.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use async_nats::datetime::DateTime;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::stream::RawMessageErrorKind;
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

/// So many records of a partition are remembered. More than can be under way at once.
const GIVEN_MAX: usize = 64;

/// The last records that were given, with the digest of their names.
#[derive(Default)]
pub(super) struct Given(VecDeque<(Offset, u64)>);

impl Given {
    /// Where to begin so that the last records are seen again.
    fn overlap(&self, after: Offset) -> Offset {
        match (self.0.front(), self.0.back()) {
            (Some((oldest, _)), Some((newest, _))) if *newest == after => Offset(oldest.0 - 1),
            _ => after,
        }
    }

    fn has(&self, name: u64) -> bool {
        self.0.iter().any(|(_, given)| *given == name)
    }

    fn add(&mut self, offset: Offset, name: u64) {
        if self.0.back().is_some_and(|(newest, _)| offset < *newest) {
            // Somebody reads from the beginning again.
            self.0.clear();
        }
        if self.0.len() >= GIVEN_MAX {
            self.0.pop_front();
        }
        self.0.push_back((offset, name));
    }
}

/// A consumer, and how far it has given.
pub(super) struct Reader {
    consumer: async_nats::jetstream::consumer::Consumer<pull::Config>,
    after: Offset,
    /// After here, what was not given yet is given.
    begin: Offset,
    /// Its own count of what it has given.
    count: u64,
}

impl Reader {
    /// A consumer of a partition from an offset on.
    pub(super) async fn make(
        shared: &Shared,
        partition: PartitionId,
        after: Offset,
        given: &mut Given,
    ) -> Result<Self, String> {
        let begin = given.overlap(after);
        if begin == after {
            given.0.clear();
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: begin.0.saturating_add(1) },
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
        Ok(Self { consumer, after, begin, count: 0 })
    }

    /// Where it would read on.
    pub(super) fn after(&self) -> Offset {
        self.after
    }

    /// What is there, at most `limit` records and some [`READ_BYTES_MAX`] bytes. Does not wait for more.
    /// After an error the reader is of no use any more.
    pub(super) async fn read(
        &mut self,
        shared: &Shared,
        limit: usize,
        given: &mut Given,
    ) -> Result<Vec<Record>, String> {
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
            let fetched = self.fetch(wanted, &mut records, &mut bytes, given).await?;
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
        given: &mut Given,
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
            if info.consumer_sequence != self.count + 1 {
                let lost = format!("record {} after {}", info.consumer_sequence, self.count);
                return Err(format!("a consumer gave its {lost}"));
            }
            self.count += 1;
            fetched += 1;
            let offset = Offset(info.stream_sequence);
            let named = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID));
            let name = digest(named.map_or("", |name| name.as_str()), offset);
            // A replica that is behind starts a consumer at its own end, which may be before what was asked.
            if offset <= self.begin {
                continue;
            }
            self.after = self.after.max(offset);
            if given.has(name) {
                continue;
            }
            given.add(self.after, name);
            let offset = self.after;
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

/// Reads a partition of a stream that several servers keep: record by record from the stream's leader. A
/// consumer would live on any of the servers, and one that was away and catches up may pass over records that
/// the others have. Answers with the place and the time of the last record, for [`Shared::confirm`].
pub(super) async fn read_from_leader(
    shared: &Shared,
    partition: PartitionId,
    after: Offset,
    limit: usize,
) -> Result<(Vec<Record>, Option<(u64, DateTime)>), String> {
    let failed = |error: &dyn std::fmt::Display| format!("no records can be read: {error}");
    let context = &shared.connection.jetstream;
    let stream = context.get_stream_no_info(&shared.stream).await.map_err(|error| failed(&error))?;
    let subject = stream::subject(&shared.stream, partition.0);
    let (mut records, mut last, mut bytes, mut next) = (Vec::new(), None, 0, after.0.saturating_add(1));
    while records.len() < limit && bytes < READ_BYTES_MAX {
        let message = match stream.get_first_raw_message_by_subject(&subject, next).await {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
            Err(error) => return Err(failed(&error)),
        };
        if message.sequence < next {
            return Err(failed(&format!("asked from {next}, the server gave {}", message.sequence)));
        }
        next = message.sequence + 1;
        last = Some((message.sequence, message.time));
        bytes += message.payload.len();
        let events = message.headers.get(EVENTS_HEADER).and_then(|events| events.as_str().parse().ok());
        records.push(Record {
            offset: Offset(message.sequence),
            events: events.unwrap_or(0),
            bytes: message.payload,
        });
    }
    Ok((records, last))
}

/// Records without a name are known by their place.
fn digest(name: &str, offset: Offset) -> u64 {
    let mut hasher = DefaultHasher::new();
    match name {
        "" => offset.0.hash(&mut hasher),
        name => name.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_last_is_known_and_is_where_the_next_consumer_begins() {
        let mut given = Given::default();
        assert_eq!(given.overlap(Offset(7)), Offset(7));
        (1..=100).for_each(|n| given.add(Offset(n), n * 10));
        assert_eq!(given.overlap(Offset(100)), Offset(100 - GIVEN_MAX as u64));
        assert_eq!(given.overlap(Offset(50)), Offset(50), "the caller is elsewhere");
        assert!(given.has(1000) && !given.has(10));
        given.add(Offset(3), 1);
        assert!(!given.has(1000), "who reads from elsewhere begins anew");
    }
}
