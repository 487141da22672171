//! Taking events in: from parsed JSON to durable records.
//!
//! `engine::intake` says what is allowed, the queue says what is durable; this joins them. An answer with
//! `accepted` is given only after the queue has confirmed.

pub mod body;
pub mod record;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use caelum_drivers::{
    clock::Clock,
    traces::{Timer, Tracer, chance_of_step},
};
use caelum_engine::{
    intake::{Acks, Bucket, Checker, RefusalCode, may_speak_for},
    ranges::ExactSet,
    trace::{self, Carried},
    window::partition_of,
};
use caelum_model::{
    UnixMs,
    access::ClientBinding,
    event::{Batch, ClientEvents, Event, SeqNo},
    id::{ClientId, PartitionId},
    trace::TraceContext,
    wire::{RejectedJson, SCHEMA_1_1},
};
use caelum_queue::{AppendError, NewRecord, Queue};
use caelum_store::Store;

use body::{Events, Seen};

/// Ids of events without a sequence number that this process remembers, to tell senders of duplicates.
const RECENT_IDS_MAX: usize = 65_536;
/// Senders whose rate is remembered.
const SENDERS_MAX: usize = 10_000;
/// What a probe has had counted is read again at most this often, ms.
const LEARN_AGAIN_MS: i64 = 1000;

/// The numbers ingest works by.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Partitions of the stream, fixed when it is made.
    pub partitions: u16,
    /// Events a second one token may send on average.
    pub rate_events_per_s: u32,
    /// Events one token may send at once.
    pub rate_burst_events: u32,
    /// Events waiting in the queue from which on senders are told to come back later.
    pub backlog_events_max: u64,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Events that are durable.
    pub accepted: usize,
    /// Of those, events known to have been accepted before.
    pub duplicate: usize,
    /// How far the probe may forget; none unless the request was of one probe and epoch.
    pub ack_through: Option<u64>,
    /// Events that were refused.
    pub rejected: Vec<RejectedJson>,
}

/// Why nothing of a request was taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The sender is too fast.
    #[error("more events than the token may send; wait {retry_after_ms} ms")]
    RateLimited {
        /// When to come back.
        retry_after_ms: i64,
    },
    /// Too much is waiting, or the queue is full.
    #[error("{reason}")]
    Overloaded {
        /// What is full.
        reason: String,
        /// When to come back.
        retry_after_ms: i64,
    },
    /// The queue could not confirm.
    #[error("the queue did not confirm")]
    Queue(#[source] AppendError),
}

/// Counters since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events accepted, duplicates included.
    pub accepted: AtomicU64,
    /// Events known to be duplicates on arrival.
    pub duplicate: AtomicU64,
    /// Events refused.
    pub rejected: AtomicU64,
    /// Requests turned away because of rate or load.
    pub turned_away: AtomicU64,
    /// Time that requests waited for the queue, µs.
    pub append_us: AtomicU64,
}

/// The ingest role.
pub struct Ingest {
    queue: Arc<dyn Queue>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    config: Config,
    tracer: Tracer,
    memory: Mutex<Memory>,
    /// What went through.
    pub counters: Counters,
}

#[derive(Default)]
struct Memory {
    acks: Acks,
    learned_at_ms: HashMap<ClientId, UnixMs>,
    recent_ids: HashSet<[u8; 16]>,
    older_ids: HashSet<[u8; 16]>,
    buckets: HashMap<String, Bucket>,
}

/// One probe's part of a request, on its way to a record.
#[derive(Default)]
struct Part {
    events: Vec<Event>,
    refused: Vec<SeqNo>,
    /// Numbers of both that are to be made durable, by their epochs.
    durable: BTreeMap<u64, ExactSet>,
    /// Traces that its events belong to, as they were sent.
    traces: Carried,
}

/// A trace that a request belongs to: where it came from, and its step here.
struct Step {
    parent: [u8; 8],
    context: TraceContext,
}

/// What a request asks of the queue.
#[derive(Default)]
struct Work {
    records: Vec<NewRecord>,
    steps: Vec<Step>,
}

impl Ingest {
    /// An ingest over a queue; `store` tells what is counted already.
    pub fn new(queue: Arc<dyn Queue>, store: Arc<Store>, clock: Arc<dyn Clock>, config: Config) -> Self {
        Self {
            queue,
            store,
            clock,
            config,
            tracer: Tracer::default(),
            memory: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Carries the traces of events on, and says what it did for them.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = tracer;
        self
    }

    /// What carries traces on.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Takes a request's events in. `sender` names the token, whose rate is bounded.
    pub async fn accept(
        &self,
        sender: &str,
        binding: &ClientBinding,
        events: &Events<'_>,
    ) -> Result<Outcome, IngestError> {
        let now_ms = self.clock.now_ms();
        let timer = self.tracer.is_on().then(Timer::start);
        self.admit(sender, events.len(), now_ms).inspect_err(|_| {
            self.counters.turned_away.fetch_add(1, Ordering::Relaxed);
        })?;
        let mut outcome = Outcome::default();
        let mut parts: BTreeMap<ClientId, Part> = BTreeMap::new();
        let mut checker = Checker::new(binding, now_ms);
        events.each(|index, parsed| {
            sort_out(index, parsed, binding, &mut checker, &mut parts, &mut outcome.rejected);
            if index == 0
                && let Some(part) = parts.values_mut().next()
            {
                // Nearly always a request is of one probe.
                part.events.reserve_exact(events.len() - 1);
            }
            if timer.is_some() {
                note_trace(parsed, &mut parts);
            }
        });
        drop(checker);
        let single = single_epoch(&parts);
        self.learn_unknown(parts.keys(), now_ms).await;
        let mut ids = Vec::new();
        {
            let mut memory = self.memory();
            for (client_id, part) in &mut parts {
                outcome.accepted += part.events.len();
                outcome.duplicate += memory.drop_known(client_id, part, &mut ids);
            }
        }
        let Work { records, steps } = self.work(now_ms, &mut parts);
        let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
        let mut append_us = 0;
        if !records.is_empty() {
            let started = std::time::Instant::now();
            let appended = self.queue.append(records).await;
            append_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.counters.append_us.fetch_add(append_us, Ordering::Relaxed);
            if let (Some(timer), Err(error)) = (&timer, &appended) {
                self.tell(timer, &steps, &[("append_us", append_us)], Some(&error.to_string()));
            }
            appended.map_err(|error| match error {
                AppendError::Full { .. } | AppendError::Unavailable { .. } => {
                    IngestError::Overloaded { reason: error.to_string(), retry_after_ms: 5_000 }
                }
                other => IngestError::Queue(other),
            })?;
        }
        {
            let mut memory = self.memory();
            memory.remember(ids);
            for (client_id, part) in &parts {
                memory.acks.note(client_id, &part.durable, now_ms);
            }
        }
        if let Some((client_id, epoch, highest)) = single {
            outcome.ack_through = self.ack_through(&client_id, epoch, highest, now_ms).await;
        }
        if let Some(timer) = &timer {
            let numbers = [
                ("events", outcome.accepted as u64),
                ("duplicates", outcome.duplicate as u64),
                ("bytes", bytes as u64),
                ("append_us", append_us),
            ];
            self.tell(timer, &steps, &numbers, None);
        }
        self.counters.accepted.fetch_add(outcome.accepted as u64, Ordering::Relaxed);
        self.counters.duplicate.fetch_add(outcome.duplicate as u64, Ordering::Relaxed);
        self.counters.rejected.fetch_add(outcome.rejected.len() as u64, Ordering::Relaxed);
        Ok(outcome)
    }

    /// Says of each trace what was done here.
    fn tell(&self, timer: &Timer, steps: &[Step], numbers: &[(&'static str, u64)], error: Option<&str>) {
        for step in steps {
            let attributes = numbers.iter().map(|(name, number)| (*name, (*number).into())).collect();
            let mut span = timer.end("ingest", step.context, Some(step.parent), attributes);
            span.error = error.map(str::to_owned);
            self.tracer.record(span);
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("no code panics while it holds this lock")
    }

    fn admit(&self, sender: &str, events: usize, now_ms: UnixMs) -> Result<(), IngestError> {
        let waiting = self.queue.depth().events;
        if waiting >= self.config.backlog_events_max {
            return Err(IngestError::Overloaded {
                reason: format!("{waiting} events are waiting to be counted"),
                retry_after_ms: wait_for(waiting, self.config.backlog_events_max),
            });
        }
        let (rate, burst) = (self.config.rate_events_per_s, self.config.rate_burst_events);
        let mut memory = self.memory();
        if memory.buckets.len() >= SENDERS_MAX && !memory.buckets.contains_key(sender) {
            // Full buckets say nothing that a new one would not.
            memory.buckets.clear();
        }
        memory
            .buckets
            .entry(sender.to_owned())
            .or_insert_with(|| Bucket::full(burst, now_ms))
            .take(u32::try_from(events).unwrap_or(u32::MAX), rate, burst, now_ms)
            .map_err(|retry_after_ms| IngestError::RateLimited { retry_after_ms })
    }

    /// Learns from the store what is counted of probes that this process has not met yet.
    async fn learn_unknown(&self, clients: impl Iterator<Item = &ClientId>, now_ms: UnixMs) {
        for client_id in clients {
            if !self.memory().acks.knows(client_id) {
                self.learn(client_id, now_ms).await;
            }
        }
    }

    async fn learn(&self, client_id: &ClientId, now_ms: UnixMs) {
        let partition = partition_of(client_id, self.config.partitions);
        match self.store.client_seen_ranges(partition, client_id).await {
            Ok(counted) => {
                let mut memory = self.memory();
                memory.acks.learn(client_id, &counted, now_ms);
                if memory.learned_at_ms.len() >= SENDERS_MAX {
                    memory.learned_at_ms.clear();
                }
                memory.learned_at_ms.insert(client_id.clone(), now_ms);
            }
            // Knowing less only makes the probe keep its spool longer.
            Err(error) => tracing::warn!(
                code = "ingest.seen_unreadable", %client_id, %error,
                "what is counted of the probe could not be read; it will be told to keep more than needed"
            ),
        }
    }

    /// How far the probe may forget. Where numbers seem to be missing below, the store is asked again: the
    /// aggregator may have counted what this process never saw.
    async fn ack_through(
        &self,
        client_id: &ClientId,
        epoch: u64,
        highest: u64,
        now_ms: UnixMs,
    ) -> Option<u64> {
        let (known, learned_at_ms) = {
            let memory = self.memory();
            (memory.acks.ack_through(client_id, epoch), memory.learned_at_ms.get(client_id).copied())
        };
        let is_stale = learned_at_ms.is_none_or(|at_ms| now_ms - at_ms >= LEARN_AGAIN_MS);
        if known.is_some_and(|known| known >= highest) || !is_stale {
            return known;
        }
        self.learn(client_id, now_ms).await;
        self.memory().acks.ack_through(client_id, epoch)
    }

    /// The records of a request, each with the traces of its partition's events.
    fn work(&self, now_ms: UnixMs, parts: &mut BTreeMap<ClientId, Part>) -> Work {
        let mut batches: BTreeMap<PartitionId, (Batch, Carried)> = BTreeMap::new();
        for (client_id, part) in parts {
            let events = std::mem::take(&mut part.events);
            let refused = std::mem::take(&mut part.refused);
            if events.is_empty() && refused.is_empty() {
                continue;
            }
            let (batch, traces) = batches
                .entry(partition_of(client_id, self.config.partitions))
                .or_insert_with(|| (Batch { recv_ts_ms: now_ms, clients: Vec::new() }, Carried::default()));
            part.traces.contexts().iter().for_each(|context| traces.add(*context));
            batch.clients.push(ClientEvents { client_id: client_id.clone(), events, refused });
        }
        let bytes_max = self.queue.record_bytes_max();
        let mut work = Work { records: Vec::with_capacity(batches.len()), steps: Vec::new() };
        for (partition, (batch, traces)) in batches {
            let first = work.steps.len();
            work.steps.extend(traces.contexts().iter().map(|sent| Step {
                parent: sent.span_id,
                context: sent.child(trace::step(chance_of_step())),
            }));
            let traces: Vec<TraceContext> = work.steps[first..].iter().map(|step| step.context).collect();
            for record in record::encode_within(batch, &traces, bytes_max) {
                work.records.push(NewRecord {
                    partition,
                    events: record.batch.clients.iter().map(|client| client.events.len() as u32).sum(),
                    key: record.key,
                    bytes: record.bytes,
                });
            }
        }
        work
    }
}

/// How long a sender should stay away: the longer, the further the backlog is past its bound.
fn wait_for(waiting: u64, bound: u64) -> i64 {
    let excess = waiting.saturating_sub(bound).saturating_mul(10) / bound.max(1);
    2_000 + i64::try_from(excess.min(28)).unwrap_or(28) * 1_000
}

impl Memory {
    /// Takes known duplicates out of a probe's part, and answers how many they were. What stays is what must
    /// be made durable.
    fn drop_known(&mut self, client_id: &ClientId, part: &mut Part, ids: &mut Vec<[u8; 16]>) -> usize {
        let before = part.events.len();
        let known = self.acks.known(client_id);
        let is_durable = |at: SeqNo| known.is_some_and(|known| known.is_durable(at));
        let durable = &mut part.durable;
        let mut ids_in_request: HashSet<[u8; 16]> = HashSet::new();
        part.events.retain(|event| match event.seq {
            Some(at) => !is_durable(at) && durable.entry(at.epoch).or_default().insert(at.seq),
            None => {
                let id = *event.event_id.as_bytes();
                !self.recent_ids.contains(&id) && !self.older_ids.contains(&id) && ids_in_request.insert(id)
            }
        });
        let dropped = before - part.events.len();
        part.refused.retain(|at| !is_durable(*at));
        for at in &part.refused {
            durable.entry(at.epoch).or_default().insert(at.seq);
        }
        ids.extend(ids_in_request);
        dropped
    }

    /// Remembers ids in two generations, so that memory is bounded without forgetting all at once.
    fn remember(&mut self, ids: Vec<[u8; 16]>) {
        if self.recent_ids.len() + ids.len() > RECENT_IDS_MAX {
            self.older_ids = std::mem::take(&mut self.recent_ids);
        }
        self.recent_ids.extend(ids.into_iter().take(RECENT_IDS_MAX));
    }
}

fn sort_out(
    index: usize,
    parsed: Seen<'_, '_>,
    binding: &ClientBinding,
    checker: &mut Checker<'_>,
    parts: &mut BTreeMap<ClientId, Part>,
    rejected: &mut Vec<RejectedJson>,
) {
    let json = match parsed {
        Ok(json) => json,
        Err(message) => {
            rejected.push(RejectedJson {
                index,
                event_id: None,
                code: RefusalCode::InvalidRequest.as_str().to_owned(),
                message: message.to_owned(),
            });
            return;
        }
    };
    match checker.check(json) {
        Ok((client_id, event)) => parts.entry(client_id).or_default().events.push(event),
        Err(refusal) => {
            // The refused event's number is given up, so that the probe's sequence has no gap for ever. A
            // probe that the token may not speak for has no say in that.
            if refusal.code != RefusalCode::ForbiddenClient
                && json.schema_version == SCHEMA_1_1
                && let (Some(epoch), Some(seq @ 1..)) = (json.epoch, json.seq)
                && let Ok(client_id) = ClientId::parse(&json.client_id)
                && may_speak_for(binding, &client_id)
            {
                parts.entry(client_id).or_default().refused.push(SeqNo { epoch, seq });
            }
            rejected.push(RejectedJson {
                index,
                event_id: (!json.event_id.is_empty()).then(|| json.event_id.chars().take(64).collect()),
                code: refusal.code.as_str().to_owned(),
                message: refusal.message,
            });
        }
    }
}

/// Carries on what an event says about its trace, where it is a trace of a probe that sent events.
fn note_trace(parsed: Seen<'_, '_>, parts: &mut BTreeMap<ClientId, Part>) {
    let Ok(json) = parsed else { return };
    let Some(traceparent) = &json.traceparent else { return };
    if let Ok(client_id) = ClientId::parse(&json.client_id)
        && let Some(part) = parts.get_mut(&client_id)
    {
        part.traces.note(traceparent);
    }
}

/// The probe, epoch and highest number of a request that is all of one probe and epoch.
fn single_epoch(parts: &BTreeMap<ClientId, Part>) -> Option<(ClientId, u64, u64)> {
    let (client_id, part) = parts.first_key_value().filter(|_| parts.len() == 1)?;
    let positions = || part.events.iter().filter_map(|event| event.seq).chain(part.refused.iter().copied());
    let newest = positions().max_by_key(|at| at.seq)?;
    positions().all(|at| at.epoch == newest.epoch).then(|| (client_id.clone(), newest.epoch, newest.seq))
}
