//! Counting events into one-minute windows, each exactly once.
//!
//! # Purpose
//! One [`Partition`] is everything an aggregator holds about one partition of the event stream: open
//! windows, what has been seen, and what has changed since the last commit. It is a plain value. The role
//! around it reads records in order, calls [`Partition::fold`], and stores [`Partition::take_changes`]
//! together with the offset of the last record in one transaction. Because rows, seen ranges and offset
//! move together, a crash at any point repeats nothing and skips nothing.
//!
//! # Rules
//! - A window is `floor(ts_ms / 60000)` by event time. Rows are keyed by (window, probe, target, family).
//! - An event with a sequence number is counted once in its (probe, epoch), for ever: a set of ranges
//!   remembers, with memory for gaps and not for events. One without is counted once by its `event_id`
//!   within [`Config::id_horizon_minutes`] of its receipt, or the last [`Config::ids_max`] ids of the
//!   partition if that is less.
//! - An event older than [`Config::lateness_ms`] when it was received is not counted: it is kept aside as
//!   [`Dead`] and its sequence number counts as seen. The boundary itself is not late.
//! - The result depends only on the set of distinct events, not on their order, on duplicates, or on where
//!   commits and restarts fall (`tests.rs` compares with one pass over the distinct events). Only `state`,
//!   `version`, `late_merged` and `updated_at_ms` tell when things arrived.
//! - A window that is not in memory may be stored: [`Partition::fold`] changes nothing and answers with the
//!   keys it needs; the role loads them and calls [`Partition::provide`].
//! - Bounds: [`Config::windows_max`] windows in memory, [`EPOCHS_MAX`] epochs a probe,
//!   [`ranges::GAPS_MAX`](crate::ranges::GAPS_MAX) gaps an epoch, 16 error classes a row.
//!
//! # States
//! ```text
//! provisional ── watermark 2 min past the end, or probe silent for 3 min ──▶ settled
//! settled ── no sequence number of the probe is missing ──▶ complete
//! settled, complete ── a late event: version + 1 ──▶ the same, never back
//! ```
//!
//! # What it does not do
//! It reads no clock: `now_ms` comes in, and what must be reproducible uses the receive time that ingest
//! stored. It does not know offsets, owners or fences.

mod cell;
mod seen;
#[cfg(test)]
mod tests;
pub mod tier;

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
};

use caelum_model::{
    UnixMs,
    event::{Batch, ClientEvents, Event, Family},
    id::{ClientId, PartitionId},
    rollup::{MINUTE_MS, Rollup, RollupKey, RollupState, SeenRanges},
};

use crate::{hash::fnv1a, sketch::DecodeError};
use cell::Cell;
use seen::{Probe, SeenIds};

/// Most epochs kept of one probe; the one with the oldest events goes first.
pub const EPOCHS_MAX: usize = 64;

/// The numbers a partition works by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Events older than this when received are not counted, ms.
    pub lateness_ms: i64,
    /// How far the watermark must be past a window's end for it to settle, ms.
    pub grace_ms: i64,
    /// Silence after which a probe's windows settle without a newer event, ms.
    pub idle_ms: i64,
    /// How long settled windows stay in memory, ms.
    pub resident_ms: i64,
    /// How long an id without a sequence number is remembered, minutes.
    pub id_horizon_minutes: i64,
    /// Most ids without a sequence number.
    pub ids_max: usize,
    /// Most windows in memory.
    pub windows_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lateness_ms: 7 * 24 * 60 * MINUTE_MS,
            grace_ms: 2 * MINUTE_MS,
            idle_ms: 3 * MINUTE_MS,
            resident_ms: 15 * MINUTE_MS,
            id_horizon_minutes: 24 * 60,
            ids_max: 250_000,
            windows_max: 100_000,
        }
    }
}

/// What a new owner loads before it reads on.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Every row that starts at or after `resident_from_ms`, and every unsettled one.
    pub rollups: Vec<Rollup>,
    /// Rows before this time may be stored without being in `rollups`.
    pub resident_from_ms: UnixMs,
    /// What has been seen.
    pub seen: Vec<SeenRanges>,
    /// Ids without a sequence number, with the minute they were received in.
    pub ids: Vec<([u8; 16], i64)>,
}

/// An event that was not counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Dead {
    /// The probe.
    pub client_id: ClientId,
    /// The event.
    pub event: Event,
    /// Why it was not counted.
    pub reason: DeadReason,
}

/// Why an event was not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// Older than the lateness allowed.
    TooLate,
    /// No room for another window.
    TooManyWindows,
}

impl DeadReason {
    /// The reason of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::TooLate, Self::TooManyWindows].into_iter().find(|reason| reason.as_str() == word)
    }

    /// A stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLate => "too_late",
            Self::TooManyWindows => "too_many_windows",
        }
    }
}

/// An event that was kept aside and is to be counted after all.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Its number in the store.
    pub id: i64,
    /// The probe.
    pub client_id: ClientId,
    /// The event.
    pub event: Event,
}

/// Everything that changed since the last commit, to be stored at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Rows, each replacing the stored one.
    pub rollups: Vec<Rollup>,
    /// Seen ranges, each replacing the stored ones of its probe and epoch.
    pub seen: Vec<SeenRanges>,
    /// New ids without a sequence number, with the minute they were received in.
    pub new_ids: Vec<([u8; 16], i64)>,
    /// Ids received in minutes before this are forgotten.
    pub forget_ids_before_minute: Option<i64>,
    /// Events not counted.
    pub dead: Vec<Dead>,
    /// Events kept aside before that are counted now, by their numbers in the store.
    pub replayed: Vec<i64>,
    /// Longer windows that hold a changed row.
    pub stale_tiers: Vec<RollupKey>,
    /// Events counted.
    pub counted: u64,
    /// Events left out because they had been counted.
    pub duplicates: u64,
    /// Events left out because they were too old.
    pub too_late: u64,
}

impl Changes {
    /// Whether there is nothing to store but, perhaps, the offset.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Rows that must be loaded before a batch can be folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<RollupKey>);

/// Everything an aggregator holds about one partition.
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    config: Config,
    resident_from_ms: UnixMs,
    windows: usize,
    clients: HashMap<ClientId, Client>,
    ids: SeenIds,
    pending: Changes,
}

/// One probe: what has been seen of it, and its windows.
#[derive(Debug, Default)]
struct Client {
    epochs: BTreeMap<u64, Probe>,
    watermark_ms: UnixMs,
    received_at_ms: UnixMs,
    targets: HashMap<Arc<str>, BTreeMap<(UnixMs, Family), Cell>>,
}

/// The partition that a probe's events belong to: FNV-1a of its id, modulo the number of partitions, which
/// is fixed when a stream is made.
pub fn partition_of(client_id: &ClientId, partitions: u16) -> PartitionId {
    let hash = fnv1a(client_id.as_str());
    // The low bits of FNV are its weakest.
    let mixed = (hash >> 32) ^ hash;
    PartitionId((mixed % u64::from(partitions.max(1))) as u16)
}

/// Start of the window an event time falls into.
pub fn window_start(ts_ms: UnixMs) -> UnixMs {
    ts_ms.div_euclid(MINUTE_MS) * MINUTE_MS
}

impl Partition {
    /// A partition as its last owner left it. Fails if a stored distribution cannot be read: counting on
    /// would overwrite it.
    pub fn restore(
        id: PartitionId,
        config: Config,
        stored: Stored,
        now_ms: UnixMs,
    ) -> Result<Self, DecodeError> {
        let mut partition = Self {
            id,
            config,
            resident_from_ms: stored.resident_from_ms,
            windows: 0,
            clients: HashMap::new(),
            ids: SeenIds::of(stored.ids),
            pending: Changes::default(),
        };
        for seen in stored.seen {
            let client = partition.clients.entry(seen.client_id.clone()).or_default();
            client.watermark_ms = client.watermark_ms.max(seen.max_ts_ms);
            client.received_at_ms = now_ms;
            client.epochs.insert(seen.epoch, Probe::of(&seen));
        }
        for rollup in &stored.rollups {
            partition.insert(rollup)?;
        }
        Ok(partition)
    }

    /// Counts every event of a record that is not counted yet. Where rows are missing nothing has changed.
    pub fn fold(&mut self, batch: &Batch) -> Result<(), Missing> {
        let missing = self.missing(batch);
        if !missing.is_empty() {
            return Err(Missing(missing));
        }
        for client in &batch.clients {
            self.fold_client(batch.recv_ts_ms, client);
        }
        Ok(())
    }

    /// Counts events that were kept aside, whatever their age. Their numbers and ids count as seen since they
    /// were kept; what keeps each from being counted twice is that its mark in the store changes in the same
    /// commit. Where rows are missing nothing has changed.
    pub fn replay(&mut self, replays: &[Replay]) -> Result<(), Missing> {
        let mut missing: Vec<RollupKey> = replays
            .iter()
            .filter(|replay| window_start(replay.event.ts_ms) < self.resident_from_ms)
            .filter_map(|replay| self.missing_row(&replay.client_id, &replay.event))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            return Err(Missing(missing));
        }
        for replay in replays {
            let event = &replay.event;
            self.cell_of(&replay.client_id, &event.target, window_start(event.ts_ms), event.family)
                .count(event);
            self.pending.counted += 1;
            self.pending.replayed.push(replay.id);
        }
        Ok(())
    }

    /// Rows that [`Partition::fold`] asked for, as far as they are stored.
    pub fn provide(&mut self, asked: &Missing, found: &[Rollup]) -> Result<(), DecodeError> {
        for rollup in found {
            self.insert(rollup)?;
        }
        for key in &asked.0 {
            self.cell_of(&key.client_id, &key.target, key.window_start_ms, key.family);
        }
        Ok(())
    }

    /// Moves windows on that are final by now.
    pub fn settle(&mut self, now_ms: UnixMs) {
        let config = self.config;
        for client in self.clients.values_mut() {
            let idle = now_ms.saturating_sub(client.received_at_ms) >= config.idle_ms;
            let is_complete =
                !client.epochs.is_empty() && client.epochs.values().all(|probe| probe.ranges.missing() == 0);
            let watermark_ms = client.watermark_ms;
            for ((start_ms, _), cell) in client.targets.values_mut().flatten() {
                let is_past = start_ms + MINUTE_MS + config.grace_ms <= watermark_ms;
                if idle || is_past {
                    cell.settle(is_complete);
                }
            }
        }
    }

    /// What changed since this was called last. The caller stores it, or drops the whole partition.
    pub fn take_changes(&mut self, now_ms: UnixMs) -> Changes {
        let mut changes = std::mem::take(&mut self.pending);
        for (client_id, client) in &mut self.clients {
            for (epoch, probe) in &mut client.epochs {
                changes.seen.extend(probe.take_change(client_id, *epoch));
            }
            for (target, cells) in &mut client.targets {
                for ((window_start_ms, family), cell) in cells {
                    if !cell.take_dirty() {
                        continue;
                    }
                    let key = RollupKey {
                        width_ms: MINUTE_MS,
                        window_start_ms: *window_start_ms,
                        client_id: client_id.clone(),
                        target: target.to_string(),
                        family: *family,
                    };
                    changes.rollups.push(cell.to_rollup(key, self.id, now_ms));
                }
            }
        }
        changes.stale_tiers = tier::wholes_of(&changes.rollups);
        (changes.new_ids, changes.forget_ids_before_minute) = self.ids.take_changes(&self.config);
        changes
    }

    /// Forgets what is final, stored and old. Call it after a commit.
    pub fn evict(&mut self, now_ms: UnixMs) {
        let boundary = window_start(now_ms - self.config.resident_ms);
        self.resident_from_ms = self.resident_from_ms.max(boundary);
        let resident_from_ms = self.resident_from_ms;
        let mut windows = 0;
        for client in self.clients.values_mut() {
            client.targets.retain(|_, cells| {
                cells.retain(|(start_ms, _), cell| *start_ms >= resident_from_ms || cell.is_needed());
                windows += cells.len();
                !cells.is_empty()
            });
        }
        self.windows = windows;
    }

    /// Whether events that were kept aside are counted and not stored yet.
    pub fn has_replays(&self) -> bool {
        !self.pending.replayed.is_empty()
    }

    /// Windows in memory.
    pub fn windows(&self) -> usize {
        self.windows
    }

    fn missing(&self, batch: &Batch) -> Vec<RollupKey> {
        let mut missing: Vec<RollupKey> = Vec::new();
        for from in &batch.clients {
            for event in &from.events {
                let window_start_ms = window_start(event.ts_ms);
                if window_start_ms >= self.resident_from_ms || self.is_too_late(batch.recv_ts_ms, event) {
                    continue;
                }
                missing.extend(self.missing_row(&from.client_id, event));
            }
        }
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// The row that an event belongs to, if it is not in memory.
    fn missing_row(&self, client_id: &ClientId, event: &Event) -> Option<RollupKey> {
        let place = (window_start(event.ts_ms), event.family);
        let is_resident = self
            .clients
            .get(client_id)
            .and_then(|client| client.targets.get(&event.target))
            .is_some_and(|cells| cells.contains_key(&place));
        (!is_resident).then(|| RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms: place.0,
            client_id: client_id.clone(),
            target: event.target.to_string(),
            family: event.family,
        })
    }

    fn is_too_late(&self, recv_ts_ms: UnixMs, event: &Event) -> bool {
        event.ts_ms < recv_ts_ms - self.config.lateness_ms
    }

    fn fold_client(&mut self, recv_ts_ms: UnixMs, from: &ClientEvents) {
        let lateness_ms = self.config.lateness_ms;
        let windows_max = self.config.windows_max;
        let client = self.clients.entry(from.client_id.clone()).or_default();
        client.received_at_ms = client.received_at_ms.max(recv_ts_ms);
        for position in &from.refused {
            client.probe(position.epoch).see(position.seq, None);
        }
        for event in &from.events {
            let is_new = match event.seq {
                Some(position) => client.probe(position.epoch).see(position.seq, Some(event.ts_ms)),
                None => self.ids.see(*event.event_id.as_bytes(), recv_ts_ms.div_euclid(MINUTE_MS)),
            };
            if !is_new {
                self.pending.duplicates += 1;
                continue;
            }
            if event.ts_ms < recv_ts_ms - lateness_ms {
                self.pending.too_late += 1;
                if let Some(position) = event.seq {
                    client.probe(position.epoch).count_too_late();
                }
                self.pending.dead.push(Dead {
                    client_id: from.client_id.clone(),
                    event: event.clone(),
                    reason: DeadReason::TooLate,
                });
                continue;
            }
            let place = (window_start(event.ts_ms), event.family);
            let cells = match client.targets.get_mut(&event.target) {
                Some(cells) => cells,
                None => client.targets.entry(Arc::clone(&event.target)).or_default(),
            };
            let cell = match cells.entry(place) {
                Entry::Occupied(cell) => cell.into_mut(),
                Entry::Vacant(free) if self.windows < windows_max => {
                    self.windows += 1;
                    free.insert(Cell::default())
                }
                Entry::Vacant(_) => {
                    self.pending.dead.push(Dead {
                        client_id: from.client_id.clone(),
                        event: event.clone(),
                        reason: DeadReason::TooManyWindows,
                    });
                    continue;
                }
            };
            cell.count(event);
            self.pending.counted += 1;
            client.watermark_ms = client.watermark_ms.max(event.ts_ms);
            if let Some(position) = event.seq {
                client.probe(position.epoch).reach(event.ts_ms);
            }
        }
    }

    fn insert(&mut self, rollup: &Rollup) -> Result<(), DecodeError> {
        let key = &rollup.key;
        let cell = Cell::of(rollup)?;
        let client = self.clients.entry(key.client_id.clone()).or_default();
        if rollup.state == RollupState::Provisional {
            // A probe without sequence numbers has no stored watermark: its open windows stand for it.
            client.watermark_ms = client.watermark_ms.max(rollup.last.ts_ms);
        }
        client.received_at_ms = client.received_at_ms.max(rollup.updated_at_ms);
        *self.cell_of(&key.client_id, &key.target, key.window_start_ms, key.family) = cell;
        Ok(())
    }

    fn cell_of(&mut self, client_id: &ClientId, target: &str, start_ms: UnixMs, family: Family) -> &mut Cell {
        let cells =
            self.clients.entry(client_id.clone()).or_default().targets.entry(target.into()).or_default();
        let place = (start_ms, family);
        if !cells.contains_key(&place) {
            self.windows += 1;
        }
        cells.entry(place).or_default()
    }
}

impl Client {
    fn probe(&mut self, epoch: u64) -> &mut Probe {
        if !self.epochs.contains_key(&epoch) && self.epochs.len() >= EPOCHS_MAX {
            let oldest =
                self.epochs.iter().min_by_key(|(_, probe)| probe.max_ts_ms()).map(|(epoch, _)| *epoch);
            if let Some(oldest) = oldest {
                self.epochs.remove(&oldest);
            }
        }
        self.epochs.entry(epoch).or_default()
    }
}
