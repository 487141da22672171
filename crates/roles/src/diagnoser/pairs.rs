//! What the diagnoser holds in memory: each pair, its windows that wait to be judged, and what is to be
//! stored. No I/O.

use std::collections::{BTreeMap, HashMap};

use caelum_engine::{
    diagnose::{Config, Observation, Pair, Signals, Verdicts},
    locate::{self, UsualLoad},
};
use caelum_model::{
    UnixMs,
    details::Condition,
    diagnosis::{Diagnosis, PairStatus},
    event::Family,
    id::ClientId,
    rollup::{MINUTE_MS, Rollup, RollupState},
};

/// Pairs that no row was written for in this time are forgotten, ms.
const UNSEEN_MS: i64 = 24 * 3_600_000;
/// Most pairs in memory, some 35 kB each; the ones unseen for the longest go first.
pub(super) const PAIRS_MAX: usize = 10_000;
/// Judged windows whose counts are remembered, to tell a revised row from one that only settled.
const JUDGED_MAX: usize = 512;

/// Identity of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PairKey {
    pub(super) client_id: ClientId,
    pub(super) target: String,
    pub(super) family: Family,
}

impl PairKey {
    fn of(rollup: &Rollup) -> Self {
        let key = &rollup.key;
        Self { client_id: key.client_id.clone(), target: key.target.clone(), family: key.family }
    }
}

/// What is to be stored of a pair: its standing, and its verdicts from a time on.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) status: PairStatus,
    pub(super) from_ms: UnixMs,
    pub(super) diagnoses: Vec<Diagnosis>,
    /// Windows that had been judged are among them.
    pub(super) is_revision: bool,
}

impl Rewrite {
    /// A verdict that differs from the stored one of its window is its next revision.
    pub(super) fn count_revisions(&mut self, before: &[Diagnosis]) {
        let before: HashMap<UnixMs, &Diagnosis> =
            before.iter().map(|diagnosis| (diagnosis.window_start_ms, diagnosis)).collect();
        for diagnosis in self.diagnoses.iter_mut().chain(&mut self.status.diagnosis) {
            if let Some(stored) = before.get(&diagnosis.window_start_ms) {
                diagnosis.revision = stored.revision;
                if diagnosis != *stored {
                    diagnosis.revision += 1;
                }
            }
        }
    }
}

/// Every pair in memory.
pub(super) struct Pairs {
    config: Config,
    pairs: HashMap<PairKey, Followed>,
    /// Newest event time of each probe.
    newest_event_ms: HashMap<ClientId, UnixMs>,
    /// Newest window that was judged before the start, by pair.
    judged_before: HashMap<PairKey, UnixMs>,
}

struct Followed {
    pair: Pair,
    /// The pair as it was before its newest window, for when that window gets another event.
    before: Option<(Pair, UnixMs)>,
    pending: BTreeMap<UnixMs, Pending>,
    /// Events in judged windows.
    judged: BTreeMap<UnixMs, u64>,
    /// Windows from here on must be read again.
    replay_from_ms: Option<UnixMs>,
    /// Windows up to here were judged before the start, and their verdicts stand.
    stands_through_ms: Option<UnixMs>,
    rewrite: Option<Waiting>,
    seen_at_ms: UnixMs,
    /// What judged windows showed, until it is taken.
    shown: Vec<Shown>,
    /// How busy the probe's machine usually is.
    usual_load: UsualLoad,
}

struct Pending {
    observation: Observation,
    is_settled: bool,
    /// The resolver asked.
    resolver: Option<Box<str>>,
    /// How the probe's own machine was.
    condition: Option<Box<Condition>>,
}

/// What a judged window of a pair showed, and what else localisation wants to know of it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) signals: Signals,
    pub(super) resolver: Option<Box<str>>,
    pub(super) own_trouble: Option<Box<str>>,
}

/// Verdicts that wait to be stored.
struct Waiting {
    from_ms: UnixMs,
    diagnoses: Vec<Diagnosis>,
    is_revision: bool,
}

impl Pairs {
    pub(super) fn new(config: Config, statuses: Vec<PairStatus>) -> Self {
        let judged_before = statuses
            .into_iter()
            .map(|status| {
                let key =
                    PairKey { client_id: status.client_id, target: status.target, family: status.family };
                (key, status.window_start_ms)
            })
            .collect();
        Self { config, pairs: HashMap::new(), newest_event_ms: HashMap::new(), judged_before }
    }

    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// A row read while loading, in order of time.
    pub(super) fn take_stored(&mut self, rollup: &Rollup, now_ms: UnixMs) {
        self.note_event_time(rollup);
        let Some(pending) = Pending::of(rollup) else { return };
        let followed = self.followed(PairKey::of(rollup), now_ms);
        followed.pending.insert(rollup.key.window_start_ms, pending);
    }

    /// A row that a commit has written. Of rows that were loaded only those with late events matter.
    pub(super) fn take(&mut self, rollup: &Rollup, now_ms: UnixMs, was_loaded: bool) {
        self.note_event_time(rollup);
        let start_ms = rollup.key.window_start_ms;
        let key = PairKey::of(rollup);
        let is_known = self.pairs.contains_key(&key);
        let followed = self.followed(key, now_ms);
        if !is_known {
            // Rows of it may be stored that were too old to be loaded, or it was forgotten.
            followed.replay_from(start_ms);
            return;
        }
        let is_judged = followed.pair.newest_ms().is_some_and(|newest_ms| start_ms <= newest_ms);
        if !is_judged {
            if let Some(pending) = Pending::of(rollup) {
                followed.pending.insert(start_ms, pending);
            }
            return;
        }
        let is_revised = if was_loaded {
            rollup.version > 1 && followed.stands_through_ms.is_some_and(|through_ms| start_ms <= through_ms)
        } else {
            followed.judged.get(&start_ms) != Some(&rollup.count_total)
        };
        if !is_revised {
            return;
        }
        let is_newest = followed.pair.newest_ms() == Some(start_ms);
        match (followed.before.take(), Pending::of(rollup)) {
            (Some((before, from_ms)), Some(pending)) if is_newest && followed.replay_from_ms.is_none() => {
                followed.pair = before;
                followed.revise(from_ms);
                followed.pending.insert(start_ms, pending);
            }
            _ => followed.replay_from(start_ms),
        }
    }

    /// Judges every window that is as good as full: settled, or its probe has gone on to a newer one.
    pub(super) fn judge_ready(&mut self) {
        for (key, followed) in &mut self.pairs {
            if followed.replay_from_ms.is_some() {
                continue;
            }
            let newest_event_ms = self.newest_event_ms.get(&key.client_id).copied().unwrap_or(UnixMs::MIN);
            while let Some(entry) = followed.pending.first_entry() {
                let is_past = entry.key() + MINUTE_MS <= newest_event_ms;
                if !is_past && !entry.get().is_settled {
                    break;
                }
                let (_, pending) = entry.remove_entry();
                followed.judge(key, pending);
            }
        }
    }

    /// Judges every window, full or not: nothing more will come.
    pub(super) fn judge_all(&mut self) {
        for newest_ms in self.newest_event_ms.values_mut() {
            *newest_ms = UnixMs::MAX;
        }
        self.judge_ready();
    }

    pub(super) fn has_replays(&self) -> bool {
        self.pairs.values().any(|followed| followed.replay_from_ms.is_some())
    }

    /// Pairs to be read again, and from which window on they changed.
    pub(super) fn take_replays(&self, limit: usize) -> Vec<(PairKey, UnixMs)> {
        self.pairs
            .iter()
            .filter_map(|(key, followed)| Some((key.clone(), followed.replay_from_ms?)))
            .take(limit)
            .collect()
    }

    /// Judges a pair anew from its stored rows, given in order of time. Verdicts on windows before the
    /// change stand, but for those that an alarm after it may have reached back to.
    pub(super) fn replay(&mut self, key: &PairKey, changed_ms: UnixMs, rows: &[Rollup]) {
        let Some(followed) = self.pairs.get_mut(key) else { return };
        let earlier =
            rows.iter().map(|row| row.key.window_start_ms).filter(|start_ms| *start_ms < changed_ms);
        let reach = self.config.retro_windows;
        let starts: Vec<UnixMs> = earlier.collect();
        let from_ms = starts[starts.len().saturating_sub(reach)..].first().copied().unwrap_or(changed_ms);
        followed.pair = Pair::new(key.client_id.clone(), key.target.clone(), key.family, self.config);
        followed.before = None;
        followed.judged.clear();
        followed.pending.clear();
        followed.replay_from_ms = None;
        followed.stands_through_ms = None;
        let newest_event_ms = self.newest_event_ms.get(&key.client_id).copied().unwrap_or(UnixMs::MIN);
        let mut diagnoses = Vec::new();
        for row in rows {
            let Some(pending) = Pending::of(row) else { continue };
            let start_ms = row.key.window_start_ms;
            if !followed.pending.is_empty() || (!pending.is_settled && start_ms + MINUTE_MS > newest_event_ms)
            {
                followed.pending.insert(start_ms, pending);
                continue;
            }
            if let Some(verdicts) = followed.step(key, pending) {
                replace(&mut diagnoses, verdicts);
            }
        }
        // What is usual was not known yet in the first of them.
        followed.shown.retain(|shown| shown.signals.window_start_ms >= from_ms);
        followed.revise(from_ms);
        if let Some(waiting) = &mut followed.rewrite {
            let from_ms = waiting.from_ms;
            waiting.diagnoses =
                diagnoses.into_iter().filter(|diagnosis| diagnosis.window_start_ms >= from_ms).collect();
        }
    }

    /// What is to be stored.
    pub(super) fn take_rewrites(&mut self) -> Vec<Rewrite> {
        self.pairs
            .values_mut()
            .filter(|followed| followed.rewrite.is_some())
            .filter_map(|followed| {
                let status = followed.pair.status()?;
                let waiting = followed.rewrite.take()?;
                Some(Rewrite {
                    status,
                    from_ms: waiting.from_ms,
                    diagnoses: waiting.diagnoses,
                    is_revision: waiting.is_revision,
                })
            })
            .collect()
    }

    /// What judged windows showed since it was asked last.
    pub(super) fn take_shown(&mut self) -> Vec<(PairKey, Vec<Shown>)> {
        self.pairs
            .iter_mut()
            .filter(|(_, followed)| !followed.shown.is_empty())
            .map(|(key, followed)| (key.clone(), std::mem::take(&mut followed.shown)))
            .collect()
    }

    /// Newest judged window of each pair that has one.
    pub(super) fn newest_judged(&self) -> impl Iterator<Item = UnixMs> {
        self.pairs.values().filter_map(|followed| followed.pair.newest_ms())
    }

    /// Forgets pairs that are not measured any more.
    pub(super) fn forget_unseen(&mut self, now_ms: UnixMs) {
        self.pairs.retain(|_, followed| now_ms - followed.seen_at_ms < UNSEEN_MS);
        if self.pairs.len() > PAIRS_MAX {
            let mut seen: Vec<UnixMs> = self.pairs.values().map(|followed| followed.seen_at_ms).collect();
            let (_, boundary_ms, _) = seen.select_nth_unstable(self.pairs.len() - PAIRS_MAX);
            let boundary_ms = *boundary_ms;
            let before = self.pairs.len();
            self.pairs.retain(|_, followed| followed.seen_at_ms >= boundary_ms);
            tracing::warn!(
                code = "diagnoser.too_many_pairs",
                forgotten = before - self.pairs.len(),
                "more pairs than fit in memory; verdicts on the ones seen last are late"
            );
        }
        self.newest_event_ms.retain(|client_id, _| self.pairs.keys().any(|key| key.client_id == *client_id));
    }

    fn note_event_time(&mut self, rollup: &Rollup) {
        let newest_ms = self.newest_event_ms.entry(rollup.key.client_id.clone()).or_insert(UnixMs::MIN);
        *newest_ms = (*newest_ms).max(rollup.last.ts_ms);
    }

    fn followed(&mut self, key: PairKey, now_ms: UnixMs) -> &mut Followed {
        let config = self.config;
        let judged_before = &self.judged_before;
        let followed = self.pairs.entry(key).or_insert_with_key(|key| Followed {
            pair: Pair::new(key.client_id.clone(), key.target.clone(), key.family, config),
            before: None,
            pending: BTreeMap::new(),
            judged: BTreeMap::new(),
            replay_from_ms: None,
            stands_through_ms: judged_before.get(key).copied(),
            rewrite: None,
            seen_at_ms: now_ms,
            shown: Vec::new(),
            usual_load: UsualLoad::default(),
        });
        followed.seen_at_ms = now_ms;
        followed
    }
}

impl Followed {
    fn replay_from(&mut self, start_ms: UnixMs) {
        self.replay_from_ms = Some(self.replay_from_ms.map_or(start_ms, |from_ms| from_ms.min(start_ms)));
    }

    /// Judges a window, and keeps what is to be stored.
    fn judge(&mut self, key: &PairKey, pending: Pending) {
        let start_ms = pending.observation.window_start_ms;
        let Some(verdicts) = self.step(key, pending) else { return };
        if self.stands_through_ms.is_some_and(|through_ms| start_ms <= through_ms) {
            return;
        }
        let waiting = self.rewrite.get_or_insert(Waiting {
            from_ms: verdicts.from_ms,
            diagnoses: Vec::new(),
            is_revision: false,
        });
        waiting.from_ms = waiting.from_ms.min(verdicts.from_ms);
        replace(&mut waiting.diagnoses, verdicts);
    }

    fn step(&mut self, key: &PairKey, pending: Pending) -> Option<Verdicts> {
        let Pending { observation, resolver, condition, .. } = pending;
        let (start_ms, count) = (observation.window_start_ms, observation.count);
        let before = self.pair.clone();
        let verdicts = self.pair.judge(observation)?;
        self.before = Some((before, verdicts.from_ms));
        let usual_load = self.usual_load;
        let own_trouble = condition.as_deref().and_then(|condition| {
            self.usual_load.note(condition);
            locate::own_trouble(condition, usual_load).map(String::into_boxed_str)
        });
        if let Some(signals) = self.pair.signals() {
            self.shown.push(Shown { signals, resolver, own_trouble });
        }
        self.judged.insert(start_ms, count);
        if self.judged.len() > JUDGED_MAX {
            self.judged.pop_first();
        }
        if let Some(shift) = &verdicts.shift {
            tracing::info!(
                code = "diagnoser.level_shifted", probe = %key.client_id, target_url = key.target,
                since_ms = shift.since_ms, changes = ?shift.changes,
                "what was off for hours counts as usual now"
            );
        }
        Some(verdicts)
    }

    /// Verdicts from a time on are judged again.
    fn revise(&mut self, from_ms: UnixMs) {
        let waiting =
            self.rewrite.get_or_insert(Waiting { from_ms, diagnoses: Vec::new(), is_revision: true });
        waiting.from_ms = waiting.from_ms.min(from_ms);
        waiting.is_revision = true;
        waiting.diagnoses.retain(|diagnosis| diagnosis.window_start_ms < from_ms);
    }
}

impl Pending {
    /// None where the row cannot be read, which is logged: the window is left out.
    fn of(rollup: &Rollup) -> Option<Self> {
        match Observation::of(rollup) {
            Ok(observation) => {
                let condition = rollup.last.details.as_ref().and_then(|details| details.condition.as_ref());
                Some(Self {
                    observation,
                    is_settled: rollup.state != RollupState::Provisional,
                    resolver: rollup.last.resolver.as_deref().map(Box::from),
                    condition: condition.cloned().map(Box::new),
                })
            }
            Err(error) => {
                tracing::error!(
                    code = "diagnoser.row_damaged", probe = %rollup.key.client_id,
                    target_url = rollup.key.target, window_start_ms = rollup.key.window_start_ms, %error,
                    "a stored distribution cannot be read; the window is not judged"
                );
                None
            }
        }
    }
}

fn replace(diagnoses: &mut Vec<Diagnosis>, verdicts: Verdicts) {
    diagnoses.retain(|diagnosis| diagnosis.window_start_ms < verdicts.from_ms);
    diagnoses.extend(verdicts.diagnoses);
}
