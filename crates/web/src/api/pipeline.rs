//! The event pipeline itself: what comes in, what waits, who counts it, and what was kept aside.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json,
    extract::{self, Query, rejection::JsonRejection},
    http::StatusCode,
};
use caelum_engine::window::DeadReason;
use caelum_model::{UnixMs, access::Role, id::ClientId, wire::ErrorJson};
use caelum_store::{DeadLetter, DeadLetterQuery, DeadLetterState};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Most dead letters in one request.
const IDS_MAX: usize = 10_000;

/// A partition of the event stream.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PartitionJson {
    pub(crate) partition: u16,
    /// The aggregator that counts it; none while nobody does.
    pub(crate) owner: Option<String>,
    /// Grows with each change of owner.
    pub(crate) fence: u64,
    /// Everything through here is in the rows.
    pub(crate) committed: u64,
    /// The newest record, where the queue knows it.
    pub(crate) newest: Option<u64>,
    /// Records that wait to be counted or trimmed.
    pub(crate) waiting_records: u64,
    /// Records among them that are not counted yet, at most.
    pub(crate) uncounted_records: u64,
    /// Distinct events counted since the records were made.
    pub(crate) counted: u64,
    pub(crate) duplicates: u64,
    pub(crate) too_late: u64,
}

impl PartitionJson {
    fn unowned(partition: u16) -> Self {
        Self {
            partition,
            owner: None,
            fence: 0,
            committed: 0,
            newest: None,
            waiting_records: 0,
            uncounted_records: 0,
            counted: 0,
            duplicates: 0,
            too_late: 0,
        }
    }
}

/// An aggregator.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AggregatorJson {
    pub(crate) owner: String,
    /// The machine it runs on.
    pub(crate) host: String,
    pub(crate) version: String,
    /// Partitions it owns.
    pub(crate) partitions: usize,
    /// Windows in its memory.
    pub(crate) windows: u64,
    /// Events counted since it started.
    pub(crate) counted: u64,
}

/// What waits in the queue.
#[derive(Serialize, utoipa::ToSchema)]
pub struct QueueJson {
    /// Whether it answers.
    pub(crate) is_reachable: bool,
    /// Why not.
    pub(crate) problem: Option<String>,
    pub(crate) records: u64,
    /// Events in them; an estimate where the queue does not count them.
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// What this process took in since it started.
#[derive(Serialize, utoipa::ToSchema)]
pub struct IntakeJson {
    pub(crate) accepted: u64,
    pub(crate) duplicate: u64,
    pub(crate) rejected: u64,
    pub(crate) turned_away: u64,
}

/// How many events are kept aside.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadLetterCountJson {
    pub(crate) reason: String,
    /// `kept`, `requested` or `replayed`.
    pub(crate) state: String,
    pub(crate) count: u64,
}

/// The pipeline.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PipelineHealthJson {
    /// `healthy`, or `degraded` where something is away, unowned or piling up.
    pub(crate) status: String,
    /// What is wrong, in words; empty while healthy.
    pub(crate) problems: Vec<String>,
    pub(crate) ingest: IntakeJson,
    pub(crate) queue: QueueJson,
    pub(crate) aggregators: Vec<AggregatorJson>,
    pub(crate) partitions: Vec<PartitionJson>,
    pub(crate) dead_letters: Vec<DeadLetterCountJson>,
    /// The newest event that is counted, by the clock of its probe.
    pub(crate) newest_event_ms: Option<UnixMs>,
    /// Where answers about the past come from: `primary` or `replica`.
    pub(crate) reads_from: String,
    /// How far those are behind, ms.
    pub(crate) reads_lag_ms: Option<i64>,
    /// The newest change that a replica has; none where the primary answers.
    pub(crate) reads_as_of_ms: Option<UnixMs>,
    pub(crate) timestamp: UnixMs,
}

/// What each aggregator says of itself.
#[derive(Default, Deserialize)]
#[serde(default)]
struct BeatDocument {
    host: String,
    version: String,
    windows: u64,
    counted: u64,
}

/// Records of one partition from which on it counts as piling up.
const PILE_RECORDS: u64 = 10_000;

/// How the pipeline fares.
#[utoipa::path(get, path = "/api/pipeline", tag = "network", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = PipelineHealthJson)))]
pub async fn pipeline(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<PipelineHealthJson>, ApiError> {
    Ok(Json(collect(&state).await?))
}

/// The same for pages.
pub(crate) async fn collect(state: &State) -> Result<PipelineHealthJson, ApiError> {
    let status = state.queue.status().await;
    let problem = status.as_ref().err().map(ToString::to_string);
    let waiting: BTreeMap<u16, (u64, u64)> = status
        .unwrap_or_default()
        .into_iter()
        .map(|status| (status.partition.0, (status.newest.0, status.records)))
        .collect();
    let mut partitions: BTreeMap<u16, PartitionJson> = state
        .store
        .partitions()
        .await?
        .into_iter()
        .map(|status| {
            let partition = PartitionJson {
                partition: status.partition.0,
                owner: Some(status.owner).filter(|owner| !owner.is_empty()),
                fence: status.fence,
                committed: status.offset.0,
                newest: None,
                waiting_records: 0,
                uncounted_records: 0,
                counted: status.counted,
                duplicates: status.duplicates,
                too_late: status.too_late,
            };
            (partition.partition, partition)
        })
        .collect();
    for (partition, (newest, records)) in waiting {
        // One that nobody has owned so far is known from what waits in it.
        let known = partitions.entry(partition).or_insert_with(|| PartitionJson::unowned(partition));
        known.newest = Some(newest).filter(|newest| *newest > 0);
        known.waiting_records = records;
        let behind = known.newest.map_or(records, |newest| newest.saturating_sub(known.committed));
        known.uncounted_records = records.min(behind);
    }
    let partitions: Vec<PartitionJson> = partitions.into_values().collect();
    let aggregators: Vec<AggregatorJson> = state
        .store
        .aggregators()
        .await?
        .into_iter()
        .map(|beat| {
            let said: BeatDocument = serde_json::from_str(&beat.document).unwrap_or_default();
            AggregatorJson {
                partitions: partitions.iter().filter(|own| own.owner.as_deref() == Some(&beat.owner)).count(),
                owner: beat.owner,
                host: said.host,
                version: said.version,
                windows: said.windows,
                counted: said.counted,
            }
        })
        .collect();
    let dead_letters = state
        .store
        .dead_letter_counts()
        .await?
        .into_iter()
        .map(|count| DeadLetterCountJson {
            reason: count.reason,
            state: count.state.as_str().to_owned(),
            count: count.count,
        })
        .collect();
    let newest_event_ms = state.store.probes().await?.iter().map(|probe| probe.last_event_ms).max();
    let problems = problems(problem.as_deref(), &partitions, &aggregators);
    let (depth, counters, reads) = (state.queue.depth(), &state.gate.ingest.counters, state.store.reads());
    Ok(PipelineHealthJson {
        status: if problems.is_empty() { "healthy" } else { "degraded" }.to_owned(),
        problems,
        ingest: IntakeJson {
            accepted: counters.accepted.load(Ordering::Relaxed),
            duplicate: counters.duplicate.load(Ordering::Relaxed),
            rejected: counters.rejected.load(Ordering::Relaxed),
            turned_away: counters.turned_away.load(Ordering::Relaxed),
        },
        queue: QueueJson {
            is_reachable: problem.is_none(),
            problem,
            records: depth.records,
            events: depth.events,
            bytes: depth.bytes,
        },
        aggregators,
        partitions,
        dead_letters,
        newest_event_ms,
        reads_from: place_word(reads.place).to_owned(),
        reads_lag_ms: reads.lag_ms,
        reads_as_of_ms: reads.as_of_ms,
        timestamp: state.now_ms(),
    })
}

fn problems(
    queue: Option<&str>,
    partitions: &[PartitionJson],
    aggregators: &[AggregatorJson],
) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(problem) = queue {
        problems.push(format!("the queue does not answer: {problem}"));
    }
    if aggregators.is_empty() {
        problems.push("no aggregator runs: events are kept and not counted".to_owned());
    }
    let is_orphan = |partition: &&PartitionJson| match &partition.owner {
        Some(owner) => !aggregators.iter().any(|aggregator| aggregator.owner == *owner),
        None => true,
    };
    let orphans = partitions.iter().filter(is_orphan).count();
    if orphans > 0 && !aggregators.is_empty() {
        problems.push(format!("{orphans} partition(s) have no owner at the moment"));
    }
    let piling: Vec<String> = partitions
        .iter()
        .filter(|partition| partition.waiting_records >= PILE_RECORDS)
        .map(|partition| partition.partition.to_string())
        .collect();
    if !piling.is_empty() {
        problems.push(format!("records pile up in partition {}", piling.join(", ")));
    }
    problems
}

/// Which dead letters.
#[derive(Deserialize, utoipa::IntoParams)]
pub struct DeadLettersQuery {
    /// Only of this probe.
    pub(crate) client_id: Option<String>,
    /// Only for this reason, such as `too_late`.
    pub(crate) reason: Option<String>,
    /// Only in this state: kept, requested, replayed.
    pub(crate) state: Option<String>,
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// Where a list before ended.
    pub(crate) cursor: Option<i64>,
}

/// An event that was kept aside.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadLetterJson {
    pub(crate) id: i64,
    pub(crate) client_id: ClientId,
    pub(crate) partition: u16,
    /// When it was measured.
    pub(crate) ts_ms: UnixMs,
    /// When it was kept aside.
    pub(crate) kept_at_ms: UnixMs,
    pub(crate) reason: String,
    /// `kept`; `requested`: it is to be counted after all; `replayed`: it is counted.
    pub(crate) state: String,
    /// The event.
    pub(crate) event: serde_json::Value,
}

impl From<DeadLetter> for DeadLetterJson {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            client_id: letter.client_id,
            partition: letter.partition.0,
            ts_ms: letter.ts_ms,
            kept_at_ms: letter.kept_at_ms,
            reason: letter.reason,
            state: letter.state.as_str().to_owned(),
            event: serde_json::from_str(&letter.document).unwrap_or(serde_json::Value::Null),
        }
    }
}

/// Events that were kept aside.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadLettersJson {
    pub(crate) dead_letters: Vec<DeadLetterJson>,
    pub(crate) next_cursor: Option<i64>,
}

/// Events that were kept aside instead of being counted, newest first.
#[utoipa::path(get, path = "/api/dead-letters", tag = "network", params(DeadLettersQuery),
    security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = DeadLettersJson)))]
pub async fn dead_letters(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Json<DeadLettersJson>, ApiError> {
    Ok(Json(list_dead_letters(&state, query).await?))
}

/// The same for pages.
pub(crate) async fn list_dead_letters(
    state: &State,
    query: DeadLettersQuery,
) -> Result<DeadLettersJson, ApiError> {
    let limit = super::limit(query.limit);
    let letters = state
        .store
        .dead_letters(DeadLetterQuery {
            before_id: query.cursor,
            client_id: query.client_id,
            reason: query.reason,
            state: query.state.as_deref().map(DeadLetterState::parse),
            limit,
        })
        .await?;
    let next_cursor = letters.last().filter(|_| letters.len() == limit).map(|letter| letter.id);
    Ok(DeadLettersJson { dead_letters: letters.into_iter().map(Into::into).collect(), next_cursor })
}

/// Which dead letters to count after all: by their ids, or all that match.
#[derive(Default, Deserialize, utoipa::ToSchema)]
pub struct ReplayJson {
    /// These.
    #[serde(default)]
    pub(crate) ids: Vec<i64>,
    /// Or all of this probe that are kept.
    pub(crate) client_id: Option<String>,
    /// Or all that are kept for this reason.
    pub(crate) reason: Option<String>,
}

/// What became of it.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ReplayedJson {
    /// Asked for now; they are counted within seconds.
    pub(crate) requested: usize,
    /// Not asked for: counted or asked for before, unknown, too old for the minutes that are kept, or not an
    /// event.
    pub(crate) skipped: usize,
}

/// Asks that events kept aside be counted after all. Asking twice counts nothing twice.
#[utoipa::path(post, path = "/api/dead-letters/replay", tag = "network", request_body = ReplayJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 202, body = ReplayedJson), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn replay(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<ReplayJson>, JsonRejection>,
) -> Result<(StatusCode, Json<ReplayedJson>), ApiError> {
    person.require(Role::Operator)?;
    let Json(wanted) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    Ok((StatusCode::ACCEPTED, Json(ask_for_replay(&state, &person, wanted).await?)))
}

/// The same for pages.
pub(crate) async fn ask_for_replay(
    state: &State,
    person: &Person,
    wanted: ReplayJson,
) -> Result<ReplayedJson, ApiError> {
    if wanted.ids.len() > IDS_MAX {
        return Err(ApiError::InvalidRequest(format!("at most {IDS_MAX} ids at once")));
    }
    if wanted.ids.is_empty() && wanted.client_id.is_none() && wanted.reason.is_none() {
        return Err(ApiError::InvalidRequest("say which: ids, client_id or reason".into()));
    }
    let by_id = !wanted.ids.is_empty();
    let letters = state
        .store
        .dead_letters(DeadLetterQuery {
            before_id: wanted.ids.iter().max().map(|newest| newest.saturating_add(1)),
            client_id: wanted.client_id.clone(),
            reason: wanted.reason.clone(),
            state: Some(DeadLetterState::Kept),
            limit: if by_id { usize::try_from(i32::MAX).unwrap_or(IDS_MAX) } else { IDS_MAX },
        })
        .await?;
    let chosen: std::collections::BTreeSet<i64> = wanted.ids.iter().copied().collect();
    let oldest_ms = state.settings.replay_from_ms(state.now_ms());
    let mut ids = Vec::new();
    let mut seen = 0;
    for letter in &letters {
        if by_id && !chosen.contains(&letter.id) {
            continue;
        }
        seen += 1;
        if DeadReason::parse(&letter.reason).is_some() && letter.ts_ms >= oldest_ms {
            ids.push(letter.id);
        }
    }
    let asked = if by_id { chosen.len() } else { seen };
    let requested = state.store.request_replay(ids).await?;
    let subject = format!("{requested} event(s)");
    auth::record(state, &person.name, "dead_letters.replay", &subject, "requested").await;
    Ok(ReplayedJson { requested, skipped: asked.saturating_sub(requested) })
}

fn place_word(place: caelum_store::Place) -> &'static str {
    match place {
        caelum_store::Place::Primary => "primary",
        caelum_store::Place::Replica => "replica",
    }
}
