//! The queue on NATS JetStream: one stream, one subject a partition, offsets are the stream's sequence.
//!
//! # Purpose
//! A durable stream for several servers of Caelum, on one NATS server or a cluster of them; 2.9 or newer.
//!
//! # Rules
//! - The stream is made when it is not there, compared when it is, and never changed (see `stream`).
//! - An append is answered when the stream's leader has acknowledged every record. With one replica that
//!   means the server's file, not its disk; with three it means two servers.
//! - Every record has a name (`Nats-Msg-Id`), so that sending again within two minutes keeps it once.
//! - A full stream refuses new records and keeps the old ones.
//! - Nothing blocks for ever: an append ends after [`APPEND_WAIT`], everything else after [`ASK_WAIT`].
//! - At most [`APPENDS_MAX`] appends with [`APPEND_BYTES_MAX`] bytes are under way; more wait, within the
//!   same time.
//! - A stream that was deleted and made anew is told by when it was made, and one that ends before an offset
//!   asked for by that: both would lose events without a word, so both are errors until a restart.
//! - The connection is kept for ever; appends and reads go on with it as soon as it is back.
//!
//! # What it does not do
//! A leader that is killed may have shown records that it had not acknowledged; the next may give their
//! places to others (seen on 2.9.10). A reader that goes on in the same process makes up for that (see
//! `reader`). One that is killed in the same moment and goes on from a stored offset cannot, since it does
//! not know what it was given.
//!
//! A record must fit into one message ([`Queue::record_bytes_max`], a little less than the server's
//! `max_payload`, 1 MiB by default). Splitting is for whoever makes records.

mod api;
mod connection;
mod look;
mod publish;
mod reader;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::stream::PurgeResponse;
use async_trait::async_trait;
use caelum_model::id::{Offset, PartitionId};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    AppendError, Depth, NatsAddress, NewRecord, OpenError, Options, PartitionStatus, Queue, QueueError,
    Record,
};
pub use look::{Found, look};
use reader::{Given, Reader};
use shared::Shared;

/// Most time until a queue is open or is not.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Most time of an append.
const APPEND_WAIT: Duration = Duration::from_secs(5);
/// Most time of a read, a trim or a look.
const ASK_WAIT: Duration = Duration::from_secs(5);
/// Most time for one acknowledgement or answer, so that there is a second try within the time.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Most appends under way.
const APPENDS_MAX: usize = 256;
/// Most bytes under way; an append that is larger waits until it is alone.
const APPEND_BYTES_MAX: usize = 32 << 20;
/// Says how many events are in a record.
const EVENTS_HEADER: &str = "Caelum-Events";

/// The queue on JetStream.
pub struct JetStream {
    shared: Arc<Shared>,
    appends: Semaphore,
    append_bytes: Semaphore,
    /// A slot a partition: whoever reads holds it.
    readers: Vec<tokio::sync::Mutex<(Option<Reader>, Given)>>,
    tasks: Mutex<JoinSet<()>>,
}

impl JetStream {
    /// Connects, finds or makes the stream, and begins to look after it.
    pub async fn open(address: &NatsAddress, options: Options) -> Result<Self, OpenError> {
        let connection = connection::connect(address).await?;
        let info = stream::ensure(&connection.jetstream, address, options).await?;
        let shared = Arc::new(Shared::new(connection, address, &info));
        let mut tasks = JoinSet::new();
        let hints = shared.subscribe().await.map_err(|reason| OpenError::Unusable {
            servers: address.servers(),
            reason: format!("nothing can be subscribed to: {reason}"),
        })?;
        tasks.spawn(shared::look(Arc::clone(&shared)));
        tasks.spawn(shared::send_hints(Arc::clone(&shared)));
        tasks.spawn(shared::take_hints(Arc::clone(&shared), hints));
        Ok(Self {
            shared,
            appends: Semaphore::new(APPENDS_MAX),
            append_bytes: Semaphore::new(APPEND_BYTES_MAX),
            readers: (0..options.partitions).map(|_| tokio::sync::Mutex::default()).collect(),
            tasks: Mutex::new(tasks),
        })
    }

    async fn publish(
        &self,
        records: &[NewRecord],
        last_trouble: &mut String,
    ) -> Result<Vec<Offset>, AppendError> {
        let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
        let share = u32::try_from(bytes.min(APPEND_BYTES_MAX)).expect("the bound is far below");
        let _append = self.appends.acquire().await.map_err(|_| AppendError::Closed)?;
        let _bytes = self.append_bytes.acquire_many(share).await.map_err(|_| AppendError::Closed)?;
        publish::publish(&self.shared, records, last_trouble).await
    }

    async fn read_within(
        &self,
        partition: PartitionId,
        after: Offset,
        limit: usize,
        last_trouble: &mut String,
    ) -> Result<Vec<Record>, QueueError> {
        let operation = "read the queue";
        let Some(slot) = self.readers.get(usize::from(partition.0)) else { return Ok(Vec::new()) };
        let (slot, given) = &mut *slot.lock().await;
        if self.shared.is_replicated() {
            return self.read_agreed(partition, after, limit, operation).await;
        }
        loop {
            self.shared.until_connected().await;
            let kept = slot.take().filter(|reader| reader.after() == after);
            let was_kept = kept.is_some();
            let made = match kept {
                Some(reader) => Ok(reader),
                None => Reader::make(&self.shared, partition, after, given).await,
            };
            let read = match made {
                Ok(mut reader) => {
                    let read = reader.read(&self.shared, limit, given).await;
                    // Only a reader that did all that it was asked for may be asked again.
                    if read.is_ok() {
                        *slot = Some(reader);
                    }
                    read
                }
                Err(error) => Err(error),
            };
            match read {
                Ok(records) if records.is_empty() => {
                    self.shared.check_reaches(after, operation).await?;
                    return Ok(records);
                }
                Ok(records) => {
                    self.shared.note_read(partition, &records);
                    return Ok(records);
                }
                // The server forgets consumers that are not asked for a while.
                Err(reason) if was_kept => *last_trouble = reason,
                Err(reason) => return Err(self.shared.unavailable(operation, &reason)),
            }
        }
    }

    /// Reads what the leader of a stream on several servers has, and gives it when they have agreed on it.
    async fn read_agreed(
        &self,
        partition: PartitionId,
        after: Offset,
        limit: usize,
        operation: &'static str,
    ) -> Result<Vec<Record>, QueueError> {
        self.shared.until_connected().await;
        let unavailable = |reason: String| self.shared.unavailable(operation, &reason);
        let read = reader::read_from_leader(&self.shared, partition, after, limit).await;
        let (records, last) = read.map_err(unavailable)?;
        let Some(last) = last else {
            self.shared.check_reaches(after, operation).await?;
            return Ok(records);
        };
        self.shared.confirm(last).await.map_err(unavailable)?;
        self.shared.note_read(partition, &records);
        Ok(records)
    }
}

#[async_trait]
impl Queue for JetStream {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Offset>, AppendError> {
        if self.shared.is_closed.load(Ordering::Relaxed) {
            return Err(AppendError::Closed);
        }
        if records.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(lost) = self.shared.lost() {
            return Err(AppendError::Backend { source: lost });
        }
        let most = self.record_bytes_max();
        if let Some(record) = records.iter().find(|record| record.bytes.len() > most) {
            return Err(self.shared.too_large(record));
        }
        if let Some(record) =
            records.iter().find(|record| usize::from(record.partition.0) >= self.readers.len())
        {
            let source = format!("there is no partition {}, only {}", record.partition, self.readers.len());
            return Err(AppendError::Backend { source: source.into() });
        }
        let mut last_trouble = String::new();
        let published = tokio::time::timeout(APPEND_WAIT, self.publish(&records, &mut last_trouble)).await;
        match published {
            Ok(Ok(offsets)) => {
                self.shared.note_appended(&records, &offsets);
                Ok(offsets)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AppendError::Unavailable { reason: self.shared.why(&last_trouble) }),
        }
    }

    async fn read(
        &self,
        partition: PartitionId,
        after: Offset,
        limit: usize,
    ) -> Result<Vec<Record>, QueueError> {
        let operation = "read the queue";
        self.shared.check_open(operation)?;
        let mut last_trouble = String::new();
        let read = self.read_within(partition, after, limit, &mut last_trouble);
        match tokio::time::timeout(ASK_WAIT, read).await {
            Ok(done) => done,
            Err(_) => Err(self.shared.unavailable(operation, &last_trouble)),
        }
    }

    fn newest(&self, _partition: PartitionId) -> Option<Offset> {
        None
    }

    async fn trim(&self, partition: PartitionId, through: Offset) -> Result<(), QueueError> {
        let operation = "trim the queue";
        self.shared.check_open(operation)?;
        if usize::from(partition.0) >= self.readers.len() || through == Offset(0) {
            return Ok(());
        }
        let stream = &self.shared.stream;
        let body = serde_json::json!({
            "filter": stream::subject(stream, partition.0),
            // The first that stays.
            "seq": through.0.saturating_add(1),
        });
        let purge = api::ask::<PurgeResponse>(
            &self.shared.connection.jetstream,
            format!("STREAM.PURGE.{stream}"),
            &body,
        );
        match tokio::time::timeout(ASK_WAIT, purge).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(refusal)) if refusal.is_passing() => {
                Err(self.shared.unavailable(operation, &refusal.to_string()))
            }
            Ok(Err(refusal)) => Err(QueueError::Backend { operation, source: refusal.to_string().into() }),
            Err(_) => Err(self.shared.unavailable(operation, "")),
        }
    }

    async fn status(&self) -> Result<Vec<PartitionStatus>, QueueError> {
        let operation = "count the queue's records";
        self.shared.check_open(operation)?;
        match tokio::time::timeout(ASK_WAIT, self.shared.status(operation)).await {
            Ok(status) => status,
            Err(_) => Err(self.shared.unavailable(operation, "")),
        }
    }

    fn identity(&self) -> String {
        self.shared.identity.clone()
    }

    fn record_bytes_max(&self) -> usize {
        self.shared.record_bytes_max()
    }

    fn depth(&self) -> Depth {
        self.shared.depth()
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.shared.tell.subscribe()
    }

    fn close(&self) {
        // Appends under way are waited for by those who asked for them.
        self.shared.is_closed.store(true, Ordering::Relaxed);
        self.tasks.lock().expect("no code panics while it holds this lock").abort_all();
    }
}
