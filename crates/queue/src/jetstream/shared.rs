//! What appends, reads and the background look share: the connection, and what is known of the stream.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Subscriber,
    datetime::DateTime,
    jetstream::{
        ErrorCode,
        stream::{Info, PurgeResponse},
    },
};
use caelum_model::id::{Offset, PartitionId};
use futures_util::StreamExt as _;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    api::{self, Refusal},
    connection::Connection,
    stream,
};
use crate::{AppendError, BackendError, Depth, NatsAddress, NewRecord, PartitionStatus, QueueError, Record};

/// Between two looks at the stream.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two hints to others that there is something to read.
const HINT_INTERVAL: Duration = Duration::from_millis(20);
/// So long a stream may seem to end before an offset that was read: a new leader catches up.
const BEHIND_MAX: Duration = Duration::from_secs(3);
/// Room that is kept for a message's headers.
const HEADERS_MAX: usize = 1024;
/// Events of a record that were seen so recently that they say how many there are in others.
const RECENT_RECORDS: f64 = 1000.0;

pub(super) struct Shared {
    pub connection: Connection,
    pub stream: String,
    pub identity: String,
    pub is_closed: AtomicBool,
    /// Counts appends, here and as others tell.
    pub tell: watch::Sender<u64>,
    servers: String,
    /// There is something to read: tell others.
    hint: Notify,
    /// Tells our own hints from others'.
    hinter: String,
    state: Mutex<State>,
}

/// What is known of the stream, as of the last look.
#[derive(Default)]
struct State {
    records: u64,
    bytes: u64,
    max_bytes: u64,
    message_bytes_max: Option<usize>,
    replicas: usize,
    last: Offset,
    /// The newest offset of each partition that passed through here.
    newest: Vec<Offset>,
    /// A running mean of events in a record: events and records.
    seen: (f64, f64),
    /// Since when the stream ends before what was read.
    behind_since: Option<Instant>,
    /// Why nothing can be done before a restart.
    lost: Option<String>,
    /// Why the last look failed.
    trouble: Option<String>,
}

impl Shared {
    pub(super) fn new(connection: Connection, address: &NatsAddress, info: &Info) -> Self {
        let shared = Self {
            hinter: connection.client.new_inbox(),
            connection,
            stream: address.stream.clone(),
            identity: identity_of(info),
            is_closed: AtomicBool::new(false),
            tell: watch::Sender::new(0),
            servers: address.servers(),
            hint: Notify::new(),
            state: Mutex::default(),
        };
        shared.note(info);
        shared
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn check_open(&self, operation: &'static str) -> Result<(), QueueError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(QueueError::Closed { operation });
        }
        match self.lost() {
            Some(source) => Err(QueueError::Backend { operation, source }),
            None => Ok(()),
        }
    }

    /// Why nothing can be done before a restart, if so.
    pub(super) fn lost(&self) -> Option<BackendError> {
        self.state().lost.clone().map(Into::into)
    }

    /// Waits until there is a connection.
    pub(super) async fn until_connected(&self) {
        // An error would say that the client is gone, which cannot be while `self` holds it.
        drop(self.connection.is_up.clone().wait_for(|is_up| *is_up).await);
    }

    /// What keeps the backend from answering, as far as that is known.
    pub(super) fn why(&self, last_trouble: &str) -> String {
        if !*self.connection.is_up.borrow() {
            return format!("not connected to NATS at {}", self.servers);
        }
        let trouble = match last_trouble {
            "" => self.state().trouble.clone(),
            said => Some(said.to_owned()),
        };
        trouble.unwrap_or_else(|| format!("NATS at {} does not answer", self.servers))
    }

    pub(super) fn unavailable(&self, operation: &'static str, last_trouble: &str) -> QueueError {
        QueueError::Unavailable { operation, reason: self.why(last_trouble) }
    }

    pub(super) fn full(&self) -> AppendError {
        let state = self.state();
        AppendError::Full { depth_bytes: state.bytes, max_bytes: state.max_bytes }
    }

    pub(super) fn too_large(&self, record: &NewRecord) -> AppendError {
        AppendError::TooLarge { bytes: record.bytes.len(), max_bytes: self.record_bytes_max() }
    }

    pub(super) fn record_bytes_max(&self) -> usize {
        let of_server = self.connection.client.max_payload();
        let of_stream = self.state().message_bytes_max.unwrap_or(usize::MAX);
        of_server.min(of_stream).saturating_sub(HEADERS_MAX)
    }

    pub(super) fn depth(&self) -> Depth {
        let state = self.state();
        let events_per_record = if state.seen.1 > 0.0 { state.seen.0 / state.seen.1 } else { 1.0 };
        // Rounding is all that the cast does: the product is far below what it can hold.
        let events = (state.records as f64 * events_per_record).round() as u64;
        Depth { records: state.records, events, bytes: state.bytes }
    }

    pub(super) fn note_appended(&self, records: &[NewRecord], offsets: &[Offset]) {
        {
            let mut state = self.state();
            for (record, offset) in records.iter().zip(offsets) {
                state.saw(record.partition, *offset, record.events);
            }
        }
        self.tell.send_modify(|count| *count += 1);
        self.hint.notify_one();
    }

    pub(super) fn note_read(&self, partition: PartitionId, records: &[Record]) {
        let mut state = self.state();
        state.behind_since = None;
        for record in records {
            state.saw(partition, record.offset, record.events);
        }
    }

    fn note(&self, info: &Info) {
        let mut state = self.state();
        state.records = info.state.messages;
        state.bytes = info.state.bytes;
        state.max_bytes = u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX);
        state.message_bytes_max = usize::try_from(info.config.max_message_size).ok().filter(|most| *most > 0);
        state.replicas = info.config.num_replicas;
        state.last = Offset(info.state.last_sequence);
        state.newest.resize(info.config.subjects.len(), Offset(0));
        if identity_of(info) != self.identity && state.lost.is_none() {
            let lost = format!(
                "the stream {} was deleted and made anew: what was in it is gone, and its offsets begin again; \
                 restart Caelum once you know why",
                self.stream
            );
            tracing::error!(code = "queue.stream_replaced", stream = self.stream, "{lost}");
            state.lost = Some(lost);
        }
        if let Some(trouble) = state.trouble.take() {
            tracing::info!(
                code = "queue.stream_back",
                stream = self.stream,
                trouble,
                "the stream answers again"
            );
        }
    }

    fn note_trouble(&self, refusal: &Refusal) {
        let reason = if refusal.kind() == Some(ErrorCode::STREAM_NOT_FOUND) {
            format!("the stream {} was deleted", self.stream)
        } else {
            refusal.to_string()
        };
        let mut state = self.state();
        // A lost connection has a line of its own.
        if state.trouble.is_none() && *self.connection.is_up.borrow() {
            tracing::warn!(
                code = "queue.stream_away",
                stream = self.stream,
                reason,
                "the stream does not answer"
            );
        }
        state.trouble = Some(reason);
    }

    async fn look(&self) -> Result<Info, Refusal> {
        match api::info(&self.connection.jetstream, &self.stream).await {
            Ok(info) => {
                self.note(&info);
                Ok(info)
            }
            Err(refusal) => {
                self.note_trouble(&refusal);
                Err(refusal)
            }
        }
    }

    /// Whether several servers keep the stream.
    pub(super) fn is_replicated(&self) -> bool {
        self.state().replicas > 1
    }

    /// Whether a message that was read is kept for ever. A leader gives messages before most servers have
    /// them; if it dies then, its successor may put others in their places, and who had counted on would pass
    /// over those. So the leader of now is made to agree with the others on something, a purge of nothing,
    /// which comes after everything it has; and then it must have the same message, of the same time, in the
    /// same place. What comes before that in the log is the same then, too.
    pub(super) async fn confirm(&self, (sequence, time): (u64, DateTime)) -> Result<(), String> {
        let context = &self.connection.jetstream;
        let nothing = serde_json::json!({ "filter": format!("{}.barrier", self.stream) });
        api::ask::<PurgeResponse>(context, format!("STREAM.PURGE.{}", self.stream), &nothing)
            .await
            .map_err(|refusal| format!("what was read cannot be confirmed: {refusal}"))?;
        let failed = |error: &dyn std::fmt::Display| format!("what was read cannot be confirmed: {error}");
        let stream = context.get_stream_no_info(&self.stream).await.map_err(|error| failed(&error))?;
        let kept = stream.get_raw_message(sequence).await.map_err(|error| failed(&error))?;
        if kept.time == time {
            return Ok(());
        }
        Err("another leader keeps another record in the place of one that was read".to_owned())
    }

    /// Whether the stream reaches as far as an offset that was read from it. One that ends before it is not
    /// the same stream any more: what comes next would get offsets that are counted already.
    pub(super) async fn check_reaches(
        &self,
        after: Offset,
        operation: &'static str,
    ) -> Result<(), QueueError> {
        if self.state().last >= after {
            return Ok(());
        }
        let info = self.look().await.map_err(|refusal| self.unavailable(operation, &refusal.to_string()))?;
        self.check_open(operation)?;
        let last = info.state.last_sequence;
        let mut state = self.state();
        if Offset(last) >= after {
            state.behind_since = None;
            return Ok(());
        }
        let reason = format!(
            "the stream {} ends at {last}, before {after}, through which it was read: it is another stream, or it \
             has lost records; new ones would never be counted",
            self.stream
        );
        if state.behind_since.get_or_insert_with(Instant::now).elapsed() < BEHIND_MAX {
            return Err(QueueError::Unavailable { operation, reason });
        }
        tracing::error!(code = "queue.stream_behind", stream = self.stream, "{reason}");
        state.lost = Some(reason.clone());
        Err(QueueError::Backend { operation, source: reason.into() })
    }

    pub(super) async fn status(&self, operation: &'static str) -> Result<Vec<PartitionStatus>, QueueError> {
        let failed = |refusal: Refusal| self.unavailable(operation, &refusal.to_string());
        let jetstream = &self.connection.jetstream;
        let subject = format!("STREAM.INFO.{}", self.stream);
        let filter = serde_json::json!({ "subjects_filter": format!("{}.*", self.stream) });
        let answer: serde_json::Value = api::ask(jetstream, subject, &filter).await.map_err(failed)?;
        let counts = answer["state"]["subjects"].as_object();
        let records_of = |partition: u16| counts?.get(&stream::subject(&self.stream, partition))?.as_u64();
        let mut newest = self.state().newest.clone();
        let mut status = Vec::new();
        for (partition, newest) in (0..).zip(&mut newest) {
            let records = records_of(partition).unwrap_or(0);
            if records > 0 {
                *newest = self.last_of(partition).await.map_err(failed)?.max(*newest);
            }
            if records > 0 || *newest > Offset(0) {
                status.push(PartitionStatus { partition: PartitionId(partition), newest: *newest, records });
            }
        }
        let mut state = self.state();
        for (known, seen) in state.newest.iter_mut().zip(newest) {
            *known = seen.max(*known);
        }
        Ok(status)
    }

    /// The newest record of a partition; zero if there is none.
    async fn last_of(&self, partition: u16) -> Result<Offset, Refusal> {
        let subject = format!("STREAM.MSG.GET.{}", self.stream);
        let body = serde_json::json!({ "last_by_subj": stream::subject(&self.stream, partition) });
        match api::ask::<serde_json::Value>(&self.connection.jetstream, subject, &body).await {
            Ok(answer) => Ok(Offset(answer["message"]["seq"].as_u64().unwrap_or(0))),
            Err(refusal) if refusal.kind() == Some(ErrorCode::NO_MESSAGE_FOUND) => Ok(Offset(0)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Outside of what the stream keeps: its subjects have one part less.
    fn hint_subject(&self) -> String {
        format!("{}.hint.appended", self.stream)
    }

    /// Begins to listen for what others append.
    pub(super) async fn subscribe(&self) -> Result<Subscriber, String> {
        self.connection.client.subscribe(self.hint_subject()).await.map_err(|error| error.to_string())
    }
}

impl State {
    fn saw(&mut self, partition: PartitionId, offset: Offset, events: u32) {
        if let Some(newest) = self.newest.get_mut(usize::from(partition.0)) {
            *newest = offset.max(*newest);
        }
        self.last = self.last.max(offset);
        let (sum, count) = &mut self.seen;
        if *count >= RECENT_RECORDS {
            (*sum, *count) = (*sum / 2.0, *count / 2.0);
        }
        *sum += f64::from(events);
        *count += 1.0;
    }
}

/// Two streams of one name are told apart by when they were made.
fn identity_of(info: &Info) -> String {
    format!("nats:{}@{}", info.config.name, info.created.unix_timestamp_nanos())
}

/// Looks at the stream, for its depth and for whether it is still the same.
pub(super) async fn look(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // What is wrong was noted.
        drop(shared.look().await);
    }
}

/// Tells others that there is something to read, many appends at once. A lost hint costs them a moment.
pub(super) async fn send_hints(shared: Arc<Shared>) {
    loop {
        shared.hint.notified().await;
        let payload = shared.hinter.clone().into_bytes().into();
        if let Err(error) = shared.connection.client.publish(shared.hint_subject(), payload).await {
            tracing::debug!(stream = shared.stream, %error, "a hint was not sent");
        }
        tokio::time::sleep(HINT_INTERVAL).await;
    }
}

/// Wakes whoever waits here when others have appended.
pub(super) async fn take_hints(shared: Arc<Shared>, mut hints: Subscriber) {
    while let Some(hint) = hints.next().await {
        if hint.payload.as_ref() != shared.hinter.as_bytes() {
            shared.tell.send_modify(|count| *count += 1);
        }
    }
}
