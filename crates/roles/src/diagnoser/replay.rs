//! What a stretch of stored windows says, judged anew and stored nowhere: the same rows give the same answer.

use caelum_engine::diagnose::Config;
use caelum_model::{UnixMs, diagnosis::Diagnosis, incident::Incident, rollup::MINUTE_MS};
use caelum_store::{RollupQuery, Store, StoreError};
use serde::Serialize;

use super::{HISTORY_MS, LOAD_BEHIND_MS, PAGE, located::Located, pairs::Pairs, places::Places};

/// The longest stretch that is judged at once, ms: incidents remember seven hours of windows.
pub const STRETCH_MAX_MS: i64 = 31 * 24 * 60 * MINUTE_MS;

/// What a stretch says.
#[derive(Debug, Serialize)]
pub struct Replay {
    /// Windows that were read.
    pub rows: u64,
    /// Verdicts on pairs, by window, probe and target.
    pub diagnoses: Vec<Diagnosis>,
    /// Incidents that were not over before the stretch, oldest first.
    pub incidents: Vec<Incident>,
}

/// Judges the windows that start in [from, to), with the eight hours before it to learn what is usual.
pub async fn replay(store: &Store, from_ms: UnixMs, to_ms: UnixMs) -> Result<Replay, StoreError> {
    let mut pairs = Pairs::new(Config::default(), Vec::new());
    let mut located = Located::new(Places::load(store).await?, Vec::new());
    let mut replay = Replay { rows: 0, diagnoses: Vec::new(), incidents: Vec::new() };
    let mut incidents = std::collections::BTreeMap::new();
    let mut query = RollupQuery {
        from_ms: Some(from_ms - HISTORY_MS),
        to_ms: Some(to_ms),
        limit: PAGE,
        ..RollupQuery::default()
    };
    loop {
        let page = store.rollups(query.clone()).await?;
        let is_last = page.len() < PAGE;
        query.after = page.last().map(|rollup| rollup.key.clone());
        replay.rows += page.len() as u64;
        for rollup in &page {
            pairs.take_stored(rollup, rollup.key.window_start_ms);
        }
        if is_last {
            pairs.judge_all();
        } else {
            pairs.judge_ready();
        }
        located.take(pairs.take_shown());
        let through_ms = page.last().map_or(to_ms, |last| last.key.window_start_ms - LOAD_BEHIND_MS);
        located.look_before(if is_last { i64::MAX } else { through_ms });
        let changes = located.take_changes();
        for id in changes.withdrawn {
            incidents.remove(&id);
        }
        incidents.extend(changes.incidents.into_iter().map(|incident| (incident.id.clone(), incident)));
        for rewrite in pairs.take_rewrites() {
            replay.take(rewrite.from_ms, rewrite.diagnoses);
        }
        if is_last {
            break;
        }
    }
    let is_within = |ms: UnixMs| ms >= from_ms;
    replay.diagnoses.retain(|diagnosis| is_within(diagnosis.window_start_ms));
    replay.diagnoses.sort_by(|a, b| {
        (a.window_start_ms, &a.client_id, &a.target, a.family).cmp(&(
            b.window_start_ms,
            &b.client_id,
            &b.target,
            b.family,
        ))
    });
    replay.incidents = incidents
        .into_values()
        .filter(|incident: &Incident| incident.closed_window_ms.is_none_or(is_within))
        .collect();
    replay.incidents.sort_by(|a, b| (a.opened_window_ms, &a.id).cmp(&(b.opened_window_ms, &b.id)));
    Ok(replay)
}

impl Replay {
    /// Verdicts of one pair from a time on.
    fn take(&mut self, from_ms: UnixMs, diagnoses: Vec<Diagnosis>) {
        if let Some(first) = diagnoses.first() {
            // An alarm labels windows before it, too.
            self.diagnoses.retain(|known| {
                known.window_start_ms < from_ms
                    || known.client_id != first.client_id
                    || known.target != first.target
                    || known.family != first.family
            });
        }
        self.diagnoses.extend(diagnoses);
    }
}
