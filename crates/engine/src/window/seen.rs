//! What has been counted: ranges of sequence numbers a probe and epoch, and ids of events without them.

use std::collections::{BTreeMap, HashMap};

use caelum_model::{UnixMs, id::ClientId, rollup::SeenRanges};

use super::Config;
use crate::ranges::{GAPS_MAX, RangeSet};

/// Most times of range ends kept; twice what the set of ranges can hold.
const EDGES_MAX: usize = 2 * (GAPS_MAX + 2);

/// One epoch of one probe.
#[derive(Debug, Default)]
pub(super) struct Probe {
    pub(super) ranges: RangeSet,
    /// Event times of the numbers at the ends of ranges, where known: they place gaps in time.
    edges: BTreeMap<u64, UnixMs>,
    max_ts_ms: UnixMs,
    too_late: u64,
    is_dirty: bool,
}

impl Probe {
    pub(super) fn of(seen: &SeenRanges) -> Self {
        let ends = seen.ranges.iter().zip(&seen.edges);
        let edges = ends
            .flat_map(|((first, last), (first_ms, last_ms))| [(*first, *first_ms), (*last, *last_ms)])
            .collect();
        Self {
            ranges: RangeSet::of(&seen.ranges),
            edges,
            max_ts_ms: seen.max_ts_ms,
            too_late: seen.too_late,
            is_dirty: false,
        }
    }

    /// Marks a number as seen, with the time of its event where there is one. Answers false if it was.
    pub(super) fn see(&mut self, seq: u64, ts_ms: Option<UnixMs>) -> bool {
        if let Some(first) = self.ranges.extend(seq) {
            self.is_dirty = true;
            self.edges.extend(ts_ms.map(|ts_ms| (seq, ts_ms)));
            // The end of the range has moved on by one.
            if seq - 1 > first {
                self.edges.remove(&(seq - 1));
            }
            return true;
        }
        let is_new = self.ranges.insert(seq);
        if is_new {
            self.is_dirty = true;
            if let Some(ts_ms) = ts_ms {
                self.edges.insert(seq, ts_ms);
            }
            self.forget_inner_edges(seq);
        }
        is_new
    }

    /// A number whose neighbours are both seen is not the end of a range any more.
    fn forget_inner_edges(&mut self, seq: u64) {
        for number in [seq.saturating_sub(1), seq, seq.saturating_add(1)] {
            let is_inner = number > 0
                && self.ranges.contains(number - 1)
                && self.ranges.contains(number.saturating_add(1))
                && self.ranges.contains(number);
            if is_inner {
                self.edges.remove(&number);
            }
        }
        if self.edges.len() > EDGES_MAX {
            // Gaps that were closed for want of room leave their ends behind.
            let ends: std::collections::HashSet<u64> =
                self.ranges.ranges().flat_map(|(first, last)| [first, last]).collect();
            self.edges.retain(|number, _| ends.contains(number));
        }
    }

    /// Event times at the ends of each range; where one is not known, the other stands for it.
    fn edges(&self) -> Vec<(UnixMs, UnixMs)> {
        let time = |number: u64| self.edges.get(&number).copied();
        self.ranges
            .ranges()
            .map(|(first, last)| {
                let (at_first, at_last) = (time(first), time(last));
                let known = at_first.or(at_last).unwrap_or(self.max_ts_ms);
                (at_first.unwrap_or(known), at_last.unwrap_or(known))
            })
            .collect()
    }

    pub(super) fn reach(&mut self, ts_ms: UnixMs) {
        self.is_dirty |= ts_ms > self.max_ts_ms;
        self.max_ts_ms = self.max_ts_ms.max(ts_ms);
    }

    pub(super) fn count_too_late(&mut self) {
        self.too_late += 1;
        self.is_dirty = true;
    }

    pub(super) fn max_ts_ms(&self) -> UnixMs {
        self.max_ts_ms
    }

    /// The stored form, if it changed since this was asked last.
    pub(super) fn take_change(&mut self, client_id: &ClientId, epoch: u64) -> Option<SeenRanges> {
        std::mem::take(&mut self.is_dirty).then(|| SeenRanges {
            client_id: client_id.clone(),
            epoch,
            ranges: self.ranges.ranges().collect(),
            edges: self.edges(),
            max_ts_ms: self.max_ts_ms,
            too_late: self.too_late,
        })
    }
}

/// Ids of counted events without a sequence number, by the minute they were received in.
#[derive(Debug, Default)]
pub(super) struct SeenIds {
    minute_of: HashMap<[u8; 16], i64>,
    newest_minute: i64,
    new: Vec<([u8; 16], i64)>,
}

impl SeenIds {
    pub(super) fn of(ids: Vec<([u8; 16], i64)>) -> Self {
        let newest_minute = ids.iter().map(|(_, minute)| *minute).max().unwrap_or(0);
        Self { minute_of: ids.into_iter().collect(), newest_minute, new: Vec::new() }
    }

    /// Marks an id as seen. Answers false if it was.
    pub(super) fn see(&mut self, id: [u8; 16], minute: i64) -> bool {
        self.newest_minute = self.newest_minute.max(minute);
        if self.minute_of.contains_key(&id) {
            return false;
        }
        self.minute_of.insert(id, minute);
        self.new.push((id, minute));
        true
    }

    /// New ids, and the minute before which ids are forgotten now, if any are.
    pub(super) fn take_changes(&mut self, config: &Config) -> (Vec<([u8; 16], i64)>, Option<i64>) {
        let mut keep_from = self.newest_minute - config.id_horizon_minutes;
        if self.minute_of.len() > config.ids_max {
            // The newest ids that fit decide; a single minute over the limit is forgotten whole.
            let mut minutes: Vec<i64> = self.minute_of.values().copied().collect();
            minutes.sort_unstable();
            let first_kept = minutes[minutes.len() - config.ids_max];
            keep_from = keep_from.max(first_kept + 1);
        }
        let before = self.minute_of.len();
        self.minute_of.retain(|_, minute| *minute >= keep_from);
        let forgot = self.minute_of.len() < before;
        self.new.retain(|(_, minute)| *minute >= keep_from);
        (std::mem::take(&mut self.new), forgot.then_some(keep_from))
    }
}
