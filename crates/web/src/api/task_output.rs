//! What tasks wrote: page by page, or followed while they write.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{self, Path, Query},
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use caelum_model::{
    task::{OutputChunk, Task, TaskState},
    wire::ErrorJson,
};
use caelum_roles::bus::Change;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::{sync::broadcast, time::Instant};

use super::tasks::find;
use crate::{auth::Person, error::ApiError, state::State};

/// Longest that an answer waits for more, where that is asked for.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Time between looks without news: another server may have taken the output.
const LOOK: Duration = Duration::from_millis(500);
/// Chunks that are read at once.
const CHUNKS: usize = 256;

/// Which output.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
    /// The attempt's fencing number; the newest attempt's unless given.
    pub(crate) fence: Option<u64>,
    /// Only chunks after this one.
    pub(crate) after: Option<u64>,
    /// At most so many chunks.
    pub(crate) limit: Option<usize>,
    /// Waits for more where there is none yet, at most 20 s. As `text/event-stream` it goes on to the task's end.
    #[serde(default)]
    pub(crate) follow: Option<bool>,
}

/// A stretch of output.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OutputJson {
    output: Vec<OutputChunk>,
    /// The attempt's fencing number.
    fence: u64,
    /// What to ask for `after` next; null where there was nothing yet.
    next_after: Option<u64>,
    /// How the task stands.
    status: TaskState,
    /// Whether nothing more will come.
    is_complete: bool,
}

/// What a task wrote. As `text/event-stream` each chunk is an event; a reader that was cut off goes on with
/// `Last-Event-ID`.
#[utoipa::path(get, path = "/api/tasks/{id}/output", tag = "tasks",
    params(("id" = String, Path), OutputQuery), security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = OutputJson), (status = 404, body = ErrorJson)))]
pub async fn output(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let task = find(&state, &id).await?;
    if text(header::ACCEPT).is_some_and(|accepted| accepted.contains("text/event-stream")) {
        let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(parse_place);
        let start = last.unwrap_or((query.fence.unwrap_or(task.fence), query.after));
        let events = follow(state, task, start);
        return Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response());
    }
    let limit = query.limit.unwrap_or(CHUNKS).clamp(1, CHUNKS);
    let mut news = state.bus.subscribe();
    let until = Instant::now() + WAIT_MAX;
    let mut task = task;
    loop {
        let fence = query.fence.unwrap_or(task.fence);
        let output = state.store.task_output(&task.task_id, fence, query.after, limit).await?;
        let is_over = task.status.is_final() || fence < task.fence;
        let is_wanted = query.follow == Some(true) && output.is_empty() && !is_over;
        if !is_wanted || Instant::now() >= until {
            let is_complete = is_over && output.len() < limit;
            let next_after = output.last().map(|chunk| chunk.seq).or(query.after);
            let json = OutputJson { output, fence, next_after, status: task.status, is_complete };
            return Ok(Json(json).into_response());
        }
        wait(&mut news, &state).await;
        task = find(&state, &id).await?;
    }
}

/// Waits for news of tasks, or for a little while.
async fn wait(news: &mut broadcast::Receiver<Change>, state: &State) {
    let end = Instant::now() + LOOK;
    loop {
        let change = tokio::select! {
            () = tokio::time::sleep_until(end) => return,
            () = state.stop.cancelled() => return,
            change = news.recv() => change,
        };
        // News that was missed may have been of this kind.
        if !matches!(change, Ok(change) if !matches!(change, Change::TaskOutput | Change::TasksChanged)) {
            return;
        }
    }
}

/// `FENCE:SEQ`.
fn parse_place(text: &str) -> Option<(u64, Option<u64>)> {
    let (fence, seq) = text.split_once(':')?;
    Some((fence.parse().ok()?, Some(seq.parse().ok()?)))
}

struct Following {
    state: Arc<State>,
    task: Task,
    news: broadcast::Receiver<Change>,
    fence: u64,
    after: Option<u64>,
    ready: std::collections::VecDeque<OutputChunk>,
    is_over: bool,
}

fn follow(
    state: Arc<State>,
    task: Task,
    (fence, after): (u64, Option<u64>),
) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
    let news = state.bus.subscribe();
    let ready = std::collections::VecDeque::new();
    let start = Following { state, task, news, fence, after, ready, is_over: false };
    stream::unfold(start, async |mut following| {
        let event = following.next().await?;
        Some((Ok(event), following))
    })
}

impl Following {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.after = Some(chunk.seq);
                let id = format!("{}:{}", chunk.fence, chunk.seq);
                return Event::default().event("output").id(id).json_data(&chunk).ok();
            }
            if self.is_over || self.state.stop.is_cancelled() {
                return None;
            }
            // How it stands is read first: what was written before its end is then there.
            let store = &self.state.store;
            let task = store.task(&self.task.task_id).await;
            let chunks = store.task_output(&self.task.task_id, self.fence, self.after, CHUNKS).await;
            let (Ok(task), Ok(chunks)) = (task, chunks) else {
                wait(&mut self.news, &self.state).await;
                continue;
            };
            // It may have been forgotten meanwhile.
            self.task = task?;
            self.ready.extend(chunks);
            if !self.ready.is_empty() {
                continue;
            }
            let newer = self.task.attempts.iter().map(|attempt| attempt.fence).find(|f| *f > self.fence);
            if let Some(newer) = newer {
                (self.fence, self.after) = (newer, None);
                let attempt = self.task.attempts.iter().find(|attempt| attempt.fence == newer)?;
                return Event::default().event("attempt").json_data(attempt).ok();
            }
            if self.task.status.is_final() {
                self.is_over = true;
                return Event::default().event("end").json_data(&self.task).ok();
            }
            wait(&mut self.news, &self.state).await;
        }
    }
}
