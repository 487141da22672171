//! Tasks: what runs, what waits, what came of the rest?

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Path, Query, State as Shared},
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use caelum_model::task::{Schedule, Task, TaskKind, TaskOrder, TaskState};
use caelum_store::TaskCounts;

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    range::TimeQuery,
    routes::{Desk, Trouble, draw, reader},
    task::{self, Sight},
    task_form,
    words::Verdict,
};
use crate::{
    api::tasks::{self as api, TasksQuery},
    auth::Person,
    error::ApiError,
    state::State,
};

/// Blocks of the list, by their names in live updates.
pub const TOPICS: &str = "tasks,schedules";
/// Rows of a page.
const ROWS: usize = 60;
/// Letters of a command that a row shows.
const WHAT_MAX: usize = 90;

/// The pages about tasks.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/tasks", get(show_list).post(task_form::add))
        .route("/tasks/new", get(task_form::show))
        .route("/tasks/{id}", get(show_one))
        .route("/tasks/{id}/cancel", post(cancel))
        .route("/tasks/{id}/retry", post(retry))
}

async fn show_list(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    (Query(time), Query(filter)): (Query<TimeQuery>, Query<TasksQuery>),
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let listing = Listing::read(&state, &filter).await?;
        Ok(page(&picture, &listing, reader(&person, &headers), &filter))
    };
    draw(page.await, headers)
}

async fn show_one(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Path(id): Path<String>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let sight = Sight::read(&state, &id).await?;
        Ok(task::page(&picture, &sight, reader(&person, &headers)))
    };
    draw(page.await, headers)
}

async fn cancel(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    back_to(&id, api::cancel_one(&state, &person, &id).await, headers)
}

async fn retry(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    back_to(&id, api::retry_one(&state, &person, &id).await, headers)
}

fn back_to(id: &str, done: Result<Task, ApiError>, headers: HeaderMap) -> Response {
    match done {
        // Somebody else, or the task itself, was quicker: its page says how it stands.
        Ok(_) | Err(ApiError::Conflict(_)) => Redirect::to(&link(id)).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

/// Address of a task's page.
pub fn link(id: &str) -> String {
    format!("/tasks/{}", frame::encode(id))
}

/// What the list shows beside the picture.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    tasks: Vec<Task>,
    next: Option<String>,
    counts: TaskCounts,
    schedules: Vec<Schedule>,
}

impl Listing {
    /// Reads what the filter asks for.
    pub async fn read(state: &State, filter: &TasksQuery) -> Result<Self, ApiError> {
        let mut query = filter.read(state).await?;
        query.limit = ROWS;
        let (tasks, next) = api::page(state, query).await?;
        let (counts, schedules) = tokio::try_join!(state.store.task_counts(), state.store.schedules())?;
        Ok(Self { tasks, next, counts, schedules })
    }

    fn count(&self, states: &[TaskState]) -> u64 {
        self.counts.by_status.iter().filter(|(state, _)| states.contains(state)).map(|(_, count)| count).sum()
    }
}

/// How a task stands: its level, icon and word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub level: &'static str,
    pub icon: &'static str,
    pub word: &'static str,
}

/// How a state is shown.
pub fn standing(state: TaskState) -> Standing {
    let (level, icon, word) = match state {
        TaskState::Queued => ("queue", "s-queue", "Queued"),
        TaskState::Leased => ("queue", "s-queue", "Given out"),
        TaskState::Running => ("run", "s-run", "Running"),
        TaskState::Succeeded => ("ok", "s-ok", "Succeeded"),
        TaskState::Failed => ("crit", "s-fail", "Failed"),
        TaskState::Cancelled => ("off", "s-off", "Called off"),
        TaskState::TimedOut => ("crit", "s-fail", "Timed out"),
        TaskState::Lost => ("crit", "s-crit", "Lost"),
    };
    Standing { level, icon, word }
}

/// The line that says best what a task does.
pub fn what(order: &TaskOrder) -> String {
    let field = match order.task_type {
        TaskKind::Shell | TaskKind::Ssh => "command",
        TaskKind::Script => "script",
        TaskKind::Http | TaskKind::Fetch | TaskKind::Probe => "url",
    };
    let text = order.task_data[field].as_str().unwrap_or_default().trim();
    let first = text.lines().find(|line| !line.starts_with("#!") && !line.trim().is_empty());
    let first = first.unwrap_or(order.task_type.as_str());
    match first.char_indices().nth(WHAT_MAX) {
        Some((at, _)) => format!("{}…", &first[..at]),
        None => first.to_owned(),
    }
}

/// The kind, by the name that it was asked for by.
pub fn kind(order: &TaskOrder) -> &str {
    order.preset.as_deref().unwrap_or(order.task_type.as_str())
}

/// What people call a node.
pub fn node_name(picture: &Picture, node_id: &str) -> String {
    let known = picture.machines.iter().find(|machine| machine.node.node_id.as_str() == node_id);
    known.map_or_else(|| node_id.to_owned(), |machine| machine.node.name.clone())
}

/// How long a task has waited, runs, or took.
pub fn timing(task: &Task, now_ms: i64) -> String {
    let last = task.attempts.last();
    match (task.status, last.and_then(|last| last.started_at), last.and_then(|last| last.finished_at)) {
        (TaskState::Queued, ..) if task.blockers > 0 => {
            format!("waits for {}", counted(task.blockers as usize, "task", "tasks"))
        }
        (TaskState::Queued, ..) if task.ready_at > now_ms => {
            format!("in {}", format::duration(task.ready_at - now_ms))
        }
        (TaskState::Queued | TaskState::Leased, ..) => {
            format!("waited {}", format::duration(now_ms - task.ready_at.max(task.created_at)))
        }
        (TaskState::Running, Some(began), _) => format!("for {}", format::duration(now_ms - began)),
        (_, Some(began), Some(ended)) => format::duration((ended - began).max(0)).to_string(),
        _ => String::new(),
    }
}

struct Row {
    id: String,
    short: String,
    href: String,
    what: String,
    kind: String,
    standing: Standing,
    node: String,
    timing: String,
    at: Moment,
    tries: String,
}

fn row(picture: &Picture, task: &Task) -> Row {
    let scene = &picture.scene;
    let last = task.attempts.last();
    let node = last.map(|last| &last.node_id).or(task.order.assigned_node.as_ref());
    let id = task.task_id.to_string();
    Row {
        // Ids begin with the time: what sets them apart stands last.
        short: id.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect(),
        href: scene.span.link(&link(&id)),
        id,
        what: what(&task.order),
        kind: kind(&task.order).to_owned(),
        standing: standing(task.status),
        node: node.map_or_else(String::new, |node| node_name(picture, node.as_str())),
        timing: timing(task, scene.now_ms),
        at: Moment::new(&scene.zone, task.completed_at.unwrap_or(task.created_at), scene.now_ms),
        tries: format!("{} of {}", last.map_or(0, |last| last.n), task.order.max_retries + 1),
    }
}

#[derive(Template)]
#[template(path = "blocks/tasks.html")]
struct Rows {
    rows: Vec<Row>,
    next: Option<String>,
    is_filtered: bool,
}

fn rows(picture: &Picture, listing: &Listing, filter: &TasksQuery) -> Block {
    let template = Rows {
        rows: listing.tasks.iter().map(|task| row(picture, task)).collect(),
        next: listing.next.as_ref().map(|cursor| {
            let filter = TasksQuery { cursor: Some(cursor.clone()), ..filter.clone() };
            picture.scene.span.link(&path(&filter))
        }),
        is_filtered: path(filter) != "/tasks",
    };
    Block::render("tasks", "Tasks", &template)
}

struct ScheduleRow {
    name: String,
    what: String,
    cron: String,
    zone: String,
    is_on: bool,
    next: Option<Moment>,
    last: Option<(String, Moment)>,
}

#[derive(Template)]
#[template(path = "blocks/schedules.html")]
struct Schedules {
    rows: Vec<ScheduleRow>,
}

fn schedules(picture: &Picture, listing: &Listing) -> Block {
    let scene = &picture.scene;
    let moment = |at: i64| Moment::new(&scene.zone, at, scene.now_ms);
    let row = |schedule: &Schedule| ScheduleRow {
        name: schedule.name.clone(),
        what: what(&schedule.order),
        cron: schedule.cron.clone(),
        zone: schedule.time_zone.clone(),
        is_on: schedule.enabled,
        next: schedule.next_at.map(moment),
        last: schedule
            .last_task_id
            .as_ref()
            .zip(schedule.last_at)
            .map(|(id, at)| (scene.span.link(&link(id.as_str())), moment(at))),
    };
    let rows = listing.schedules.iter().map(row).collect();
    Block::render("schedules", "Schedules", &Schedules { rows })
}

/// The list's address with a filter.
fn path(filter: &TasksQuery) -> String {
    let query: Vec<String> = [
        ("status", &filter.status),
        ("task_type", &filter.task_type),
        ("node", &filter.node),
        ("text", &filter.text),
        ("cursor", &filter.cursor),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value.as_deref().filter(|value| !value.is_empty())?)))
    .map(|(name, value)| format!("{name}={}", frame::encode(value)))
    .collect();
    if query.is_empty() { "/tasks".to_owned() } else { format!("/tasks?{}", query.join("&")) }
}

/// A choice of states.
struct Choice {
    name: &'static str,
    href: String,
    count: Option<u64>,
    is_chosen: bool,
}

/// The states that people tell apart, as the filter has them.
const CHOICES: [(&str, &str, &[TaskState]); 4] = [
    ("Queued", "queued", &[TaskState::Queued]),
    ("Running", "leased,running", &[TaskState::Leased, TaskState::Running]),
    ("Finished", "succeeded,cancelled", &[]),
    ("Failed", "failed,timed_out,lost", &[TaskState::Failed, TaskState::TimedOut, TaskState::Lost]),
];

fn choices(picture: &Picture, listing: &Listing, filter: &TasksQuery) -> Vec<Choice> {
    let chosen = filter.status.as_deref().unwrap_or_default();
    let choice = |name, status: &str, count| {
        let filter = TasksQuery {
            status: Some(status.to_owned()).filter(|status| !status.is_empty()),
            cursor: None,
            ..filter.clone()
        };
        Choice { name, href: picture.scene.span.link(&path(&filter)), count, is_chosen: chosen == status }
    };
    let all = choice("All", "", None);
    let rest = CHOICES.map(|(name, status, counted)| {
        choice(name, status, Some(listing.count(counted)).filter(|count| *count > 0))
    });
    std::iter::once(all).chain(rest).collect()
}

#[derive(Template)]
#[template(path = "pages/tasks.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tasks: Block,
    schedules: Block,
    choices: Vec<Choice>,
    kinds: Vec<(&'static str, bool)>,
    nodes: Vec<(String, bool)>,
    status: String,
    text: String,
    new: String,
}

/// The list.
fn page(picture: &Picture, listing: &Listing, reader: Reader, filter: &TasksQuery) -> impl Template + use<> {
    let theme = reader.theme;
    let heading = frame::heading(&verdict(listing));
    let is = |chosen: &Option<String>, value: &str| chosen.as_deref() == Some(value);
    Page {
        frame: Frame::new(picture, reader, Place::Tasks, "Tasks", heading, &path(filter), TOPICS),
        theme,
        tasks: rows(picture, listing, filter),
        schedules: schedules(picture, listing),
        choices: choices(picture, listing, filter),
        kinds: TaskKind::ALL.map(|kind| (kind.as_str(), is(&filter.task_type, kind.as_str()))).to_vec(),
        nodes: picture
            .machines
            .iter()
            .map(|machine| (machine.node.name.clone(), is(&filter.node, &machine.node.name)))
            .collect(),
        status: filter.status.clone().unwrap_or_default(),
        text: filter.text.clone().unwrap_or_default(),
        new: picture.scene.span.link("/tasks/new"),
    }
}

fn verdict(listing: &Listing) -> Verdict {
    let running = listing.count(&[TaskState::Leased, TaskState::Running]);
    let queued = listing.count(&[TaskState::Queued]);
    let lost = listing.count(&[TaskState::Lost]);
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let status = if lost > 0 { Status::Warn } else { Status::Ok };
    let sentence = match (running, queued) {
        (0, 0) => "Nothing runs, and nothing waits.".to_owned(),
        (0, queued) => format!("{}; nothing runs.", counted(number(queued), "task waits", "tasks wait")),
        (running, 0) => format!("{}.", counted(number(running), "task runs", "tasks run")),
        (running, queued) => format!(
            "{}, {} more wait.",
            counted(number(running), "task runs", "tasks run"),
            format::count(queued)
        ),
    };
    let ended = listing.count(&[TaskState::Succeeded]);
    let failed = listing.count(&[TaskState::Failed, TaskState::TimedOut]);
    let mut lede = format!(
        "Of those that are remembered, {} ended well and {} did not.",
        format::count(ended),
        format::count(failed + lost)
    );
    if lost > 0 {
        let lost = counted(
            number(lost),
            "task was lost with its node and waits",
            "tasks were lost with their nodes and wait",
        );
        lede.push_str(&format!(" {lost} for somebody to decide."));
    }
    Verdict { status, sentence, lede }
}

/// Renders one block of the list by its live name.
pub fn block(name: &str, picture: &Picture, listing: &Listing, filter: &TasksQuery) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&verdict(listing)),
        "tasks" => rows(picture, listing, filter),
        "schedules" => schedules(picture, listing),
        _ => return None,
    })
}
