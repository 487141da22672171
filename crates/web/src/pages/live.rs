//! Live updates: one stream of server-sent events a page.
//!
//! # Purpose
//! Keep an open page true: send a block's finished HTML, or a chart's new points, when what it shows changed.
//!
//! # Rules
//! - A named event is the block of that name (`data-live`), its data the HTML of the whole block. The event
//!   `points` carries `{from, to, reset, charts: {name: {t, v, now}}}`; the event `clock` carries
//!   `{now, newest}` every five seconds; `bye` says that the stream ends and may be opened again at once.
//! - The store is read only after a change was published that a shown block cares about, at most once a
//!   second, and less often where that takes long: a page takes a twentieth of a core at most. And every fifteen
//!   seconds, since ages and silences change by themselves.
//! - A block is sent only if its HTML differs from what this stream sent before. A stream begins by sending
//!   every block, so that nothing is missed between a page and its stream, nor after a reconnect, to whichever
//!   server: ids go on from the last one that the page saw, and mean the same on each.
//! - Everything is bounded: streams ([`super::routes::Desk::streams`]), their life (ten minutes, then the
//!   right to look is checked again by the reconnect), and what waits in them (one round of blocks).
//!
//! # States
//! ```text
//! connect -> send all -> wait -(change, second over)-> read, send what differs -> wait …
//!                          \-(five seconds)-> clock        \-(ten minutes)-> bye, end
//! ```
//!
//! # What it does not do
//! It keeps no log of past events: a reader who was away gets whole blocks, not a replay.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension,
    extract::{Query, State as Shared},
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use caelum_model::access::Role;
use caelum_roles::bus::Change;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    alerting,
    block::Block,
    charts, counting, horizon,
    incident::{self, Seen},
    incidents::{self, Listing},
    installer, letters, machine, machines, mesh, network, overview,
    picture::Picture,
    pipeline::{self, Sight},
    plot::{Plot, Points},
    probe,
    range::TimeQuery,
    routes::{self, Desk},
    servers, settings, target, task, tasks, tokens,
    topics::concerns,
    topology,
};
use crate::{
    api::{
        enrol::JoinTokenJson,
        fleet::{self, FleetStatusJson},
        incidents::IncidentsQuery,
        network::OneProbeJson,
        tasks::TasksQuery,
    },
    auth::Person,
    error::ApiError,
    state::State,
};

/// Shortest time between two rounds of blocks.
const ROUND: Duration = Duration::from_secs(1);
/// A round is followed by so many times what it took, up to [`LOOK_ANYWAY`].
const REST: u32 = 20;
/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Time after which everything is looked at without a change.
const LOOK_ANYWAY: Duration = Duration::from_secs(15);
/// How long a stream lives.
const LIFE: Duration = Duration::from_secs(600);
/// Topics a stream may ask for.
const TOPICS_MAX: usize = 32;

/// Which page is open, as far as its address does not say it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Page {
    Overview,
    Machines,
    Topology,
    Network,
    Incidents,
    Incident,
    Target,
    Mesh,
    Pipeline,
    Probe,
    Settings,
    /// `/settings/alerts`
    Alerts,
    Tokens,
    Servers,
    /// A page of which nothing but the frame is live.
    Still,
    Installer,
    Tasks,
    Task,
    NewTask,
    Run,
}

/// What a stream is asked for.
#[derive(Clone, Debug, Deserialize)]
pub struct Wish {
    topics: String,
    page: Page,
    machine: Option<String>,
    incident: Option<String>,
    task: Option<String>,
    aim: Option<String>,
    last: Option<String>,
}

/// The rest of the page's address, by page.
#[derive(Clone, Debug)]
struct View {
    wish: Wish,
    time: TimeQuery,
    filter: machines::Filter,
    choice: network::Choice,
    links: topology::Choice,
    letters: letters::Choice,
    incidents: IncidentsQuery,
    tasks: TasksQuery,
    may_operate: bool,
    may_admin: bool,
}

/// What a page shows beside the picture.
enum Beside {
    Nothing,
    Pipeline(Box<Sight>),
    Probe(Option<OneProbeJson>),
    Tokens(Option<Vec<JoinTokenJson>>),
    Servers(Box<FleetStatusJson>),
    Installer(Box<installer::Sight>),
    Incidents(Listing),
    Incident(Option<Box<Seen>>),
    Target(Option<Box<target::Sight>>),
    Tasks(Box<tasks::Listing>),
    Task(Option<Box<task::Sight>>),
}

/// Everything that the address of a stream may say.
type Asked = (
    Query<Wish>,
    Query<TimeQuery>,
    Query<machines::Filter>,
    Query<network::Choice>,
    Query<topology::Choice>,
    Query<letters::Choice>,
    Query<IncidentsQuery>,
    Query<TasksQuery>,
);

/// Opens a stream.
pub async fn stream(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    (
        Query(wish),
        Query(time),
        Query(filter),
        Query(choice),
        Query(links),
        Query(letters),
        Query(incidents),
        Query(tasks),
    ): Asked,
    headers: HeaderMap,
) -> Response {
    let Ok(place) = Arc::clone(&desk.streams).try_acquire_owned() else {
        let reason = "too many pages are open live; this one stays as it is".to_owned();
        return ApiError::Overloaded { reason, retry_after_ms: 15_000 }.into_response();
    };
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()).or(wish.last.as_deref());
    let next_id = resumed.and_then(|id| id.parse::<u64>().ok()).map_or(1, |id| id.wrapping_add(1));
    let topics = wish
        .topics
        .split(',')
        .filter(|topic| !topic.is_empty())
        .take(TOPICS_MAX)
        .map(str::to_owned)
        .collect();
    let node_id = HeaderValue::try_from(state.node_id.as_str());
    let feed = Feed {
        changes: state.bus.subscribe(),
        view: View {
            wish,
            time,
            filter,
            choice,
            links,
            letters,
            incidents,
            tasks,
            may_operate: person.role >= Role::Operator,
            may_admin: person.role >= Role::Admin,
        },
        state,
        desk,
        topics,
        stale: Change::ALL.into_iter().collect(),
        sent: HashMap::new(),
        charts: HashMap::new(),
        queue: VecDeque::new(),
        next_id,
        newest_ms: 0,
        not_before: Instant::now(),
        heartbeat: ticks(HEARTBEAT),
        look_anyway: ticks(LOOK_ANYWAY),
        ends: Instant::now() + LIFE,
        is_over: false,
        _place: place,
    };
    let events = stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    let mut response = Sse::new(events).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    // Behind a load balancer, this says whose stream it is.
    if let Ok(node_id) = node_id {
        response.headers_mut().insert("x-caelum-node", node_id);
    }
    response
}

/// Ticks that begin after one period: the first round of blocks comes by itself.
fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct Feed {
    state: Arc<State>,
    desk: Arc<Desk>,
    changes: broadcast::Receiver<Change>,
    view: View,
    topics: Vec<String>,
    /// Changes that no round has looked at yet.
    stale: HashSet<Change>,
    /// Hash of the HTML sent last, by topic.
    sent: HashMap<String, u64>,
    /// Newest moment sent, by chart, ms.
    charts: HashMap<&'static str, i64>,
    queue: VecDeque<Event>,
    next_id: u64,
    newest_ms: i64,
    not_before: Instant,
    heartbeat: Interval,
    look_anyway: Interval,
    ends: Instant,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

#[derive(Serialize)]
struct Clock {
    now: i64,
    newest: i64,
}

#[derive(Serialize)]
struct PointsMessage {
    from: f64,
    to: f64,
    reset: bool,
    charts: HashMap<&'static str, Points>,
}

impl Feed {
    /// The next event; none when the stream is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let round_is_due = !self.stale.is_empty();
            let stop = self.state.stop.clone();
            tokio::select! {
                change = self.changes.recv() => self.note(change),
                () = sleep_until(self.not_before), if round_is_due => self.round().await,
                _ = self.heartbeat.tick() => {
                    // What other processes count is not told here; it is looked at while somebody watches.
                    if matches!(self.view.wish.page, Page::Pipeline) {
                        self.stale.insert(Change::RollupsChanged);
                    }
                    self.beat();
                }
                _ = self.look_anyway.tick() => self.stale.extend(Change::ALL),
                () = sleep_until(self.ends) => self.end(),
                () = stop.cancelled() => self.end(),
            }
        }
    }

    /// Says goodbye: the page may open another stream at once, and finds out whether anybody is there.
    fn end(&mut self) {
        self.is_over = true;
        self.push("bye", String::from("{}"));
    }

    fn note(&mut self, change: Result<Change, broadcast::error::RecvError>) {
        match change {
            Ok(change) => {
                self.stale.insert(change);
            }
            // Whoever fell behind treats the gap as "everything may have changed".
            Err(broadcast::error::RecvError::Lagged(_)) => self.stale.extend(Change::ALL),
            // The process is shutting down.
            Err(broadcast::error::RecvError::Closed) => self.is_over = true,
        }
    }

    fn push(&mut self, name: &str, data: String) {
        let event = Event::default().event(name).id(self.next_id.to_string()).data(data);
        self.next_id = self.next_id.wrapping_add(1);
        self.queue.push_back(event);
    }

    fn beat(&mut self) {
        let clock = Clock { now: self.state.now_ms(), newest: self.newest_ms };
        let data = serde_json::to_string(&clock).expect("two numbers");
        self.push("clock", data);
    }

    /// Looks at what changed and queues the blocks that differ.
    async fn round(&mut self) {
        let began = Instant::now();
        self.not_before = began + ROUND;
        let stale = std::mem::take(&mut self.stale);
        let concerned: Vec<String> = self
            .topics
            .iter()
            .filter(|topic| stale.iter().any(|change| concerns(*change, topic)))
            .cloned()
            .collect();
        if concerned.is_empty() {
            return;
        }
        let (picture, beside) = match self.look().await {
            Ok(seen) => seen,
            Err(error) => {
                // Silence makes the page stale, which says it better than half a page would.
                tracing::warn!(code = "web.live_read_failed", ?error, "a live page could not be read");
                self.stale = stale;
                self.not_before = Instant::now() + HEARTBEAT;
                return;
            }
        };
        self.newest_ms = picture.newest_ms().unwrap_or(0);
        for topic in &concerned {
            let Some(block) = self.block(topic, &picture, &beside) else { continue };
            let mut hasher = DefaultHasher::new();
            block.html().hash(&mut hasher);
            let hash = hasher.finish();
            if self.sent.insert(topic.clone(), hash) != Some(hash) {
                self.push(topic, block.html().to_owned());
            }
        }
        self.points(&concerned, &picture, &beside).await;
        self.beat();
        self.not_before = began + (began.elapsed() * REST).clamp(ROUND, LOOK_ANYWAY);
    }

    /// Reads the picture and what the page shows beside it.
    async fn look(&self) -> Result<(Picture, Beside), ApiError> {
        let (state, view) = (&self.state, &self.view);
        let picture = self.desk.picture(state, &view.time).await?;
        let beside = match view.wish.page {
            Page::Pipeline => {
                Beside::Pipeline(Box::new(Sight::read(state, &self.desk.looks, &view.letters).await?))
            }
            Page::Probe => {
                let id = view.choice.probe.as_deref().unwrap_or_default();
                match counting::known_probe(state, &picture, id).await {
                    Ok(known) => Beside::Probe(known),
                    // One that is forgotten while its page is open shows what is left of it.
                    Err(ApiError::NotFound(_)) => Beside::Probe(None),
                    Err(error) => return Err(error),
                }
            }
            Page::Tokens => Beside::Tokens(counting::known_tokens(state, view.may_operate).await?),
            Page::Servers => Beside::Servers(Box::new(fleet::read(state).await?)),
            Page::Installer => {
                Beside::Installer(Box::new(installer::Sight::read(state, view.may_operate).await?))
            }
            Page::Target => {
                let id = view.wish.aim.as_deref().unwrap_or_default();
                match target::Sight::read(state, id).await {
                    Ok(sight) => Beside::Target(Some(Box::new(sight))),
                    Err(ApiError::NotFound(_)) => Beside::Target(None),
                    Err(error) => return Err(error),
                }
            }
            Page::Incidents => Beside::Incidents(Listing::read(state, &view.incidents).await?),
            Page::Incident => {
                let id = view.wish.incident.as_deref().unwrap_or_default();
                Beside::Incident(Seen::read(state, id).await?.map(Box::new))
            }
            Page::Tasks => Beside::Tasks(Box::new(tasks::Listing::read(state, &view.tasks).await?)),
            Page::Task => match task::Sight::read(state, view.wish.task.as_deref().unwrap_or_default()).await
            {
                Ok(sight) => Beside::Task(Some(Box::new(sight))),
                Err(ApiError::NotFound(_)) => Beside::Task(None),
                Err(error) => return Err(error),
            },
            _ => Beside::Nothing,
        };
        Ok((picture, beside))
    }

    fn block(&self, topic: &str, picture: &Picture, beside: &Beside) -> Option<Block> {
        let view = &self.view;
        if topic == "horizon" {
            return Some(horizon::block(picture));
        }
        match beside {
            Beside::Nothing => {}
            Beside::Pipeline(sight) => {
                return pipeline::block(topic, picture, sight, &view.letters, view.may_operate);
            }
            Beside::Probe(known) => {
                return probe::block(topic, picture, view.choice.probe.as_deref()?, known.as_ref());
            }
            Beside::Tokens(known) => {
                return tokens::block(topic, picture, known.as_deref(), view.may_operate);
            }
            Beside::Servers(fleet) => return servers::block(topic, fleet, &counting::about(&self.state)),
            Beside::Installer(sight) => {
                return installer::block(topic, picture, sight, view.may_operate, view.may_admin);
            }
            Beside::Incidents(listing) => return incidents::block(topic, picture, listing, &view.incidents),
            Beside::Incident(seen) => return incident::block(topic, picture, seen.as_deref()?),
            Beside::Tasks(listing) => return tasks::block(topic, picture, listing, &view.tasks),
            Beside::Task(sight) => return task::block(topic, picture, sight.as_deref()?),
            Beside::Target(sight) => return target::block(topic, picture, sight.as_deref()?, &view.choice),
        }
        match (view.wish.page, &view.wish.machine) {
            (Page::Overview, _) => overview::block(topic, picture, view.may_operate),
            (Page::Machines, Some(name)) => {
                machine::block(topic, picture, routes::find(picture, name)?, view.may_operate)
            }
            (Page::Machines, None) => machines::block(topic, picture, &view.filter, view.may_operate),
            (Page::Topology, _) => topology::block(topic, picture, &view.links),
            (Page::Network, _) => network::block(topic, picture, &view.choice),
            (Page::Settings, _) => settings::block(topic, picture, view.may_operate),
            (Page::Alerts, _) => alerting::block(topic, picture, view.may_operate),
            (Page::Mesh, _) => mesh::block(topic, picture),
            (Page::Pipeline | Page::Probe | Page::Tokens | Page::Incidents | Page::Incident, _) => None,
            (
                Page::Target
                | Page::Tasks
                | Page::Task
                | Page::NewTask
                | Page::Still
                | Page::Run
                | Page::Servers
                | Page::Installer,
                _,
            ) => None,
        }
    }

    /// Queues the new points of the charts among the topics. A chosen window in the past gets none.
    async fn points(&mut self, concerned: &[String], picture: &Picture, beside: &Beside) {
        let span = picture.scene.span;
        if span.window.is_some() && !matches!(beside, Beside::Incident(_)) {
            return;
        }
        let has = |topic: &str| concerned.iter().any(|other| other == topic);
        let mut plots: Vec<Plot> = Vec::new();
        match (self.view.wish.page, &self.view.wish.machine) {
            (Page::Overview, _) if has("experience") => plots.push(charts::experience(picture)),
            (Page::Target, _) if has("percentiles") => {
                if let Beside::Target(Some(sight)) = beside {
                    let choice = target::chosen(picture, sight, &self.view.choice);
                    plots.extend(network::percentile_plot(picture, &choice));
                }
            }
            (Page::Incident, _) if has("course") => {
                if let Beside::Incident(Some(seen)) = beside {
                    plots.push(seen.course.plot(&seen.incident, picture.scene.now_ms));
                }
            }
            (Page::Network, _) if has("percentiles") => {
                plots.extend(network::percentile_plot(picture, &self.view.choice))
            }
            (Page::Machines, Some(name)) if has("machine-charts") => {
                let Some(machine) = routes::find(picture, name) else { return };
                match routes::machine_points(&self.state.store, machine, &span).await {
                    Ok(points) => plots.extend(
                        charts::machine(picture, machine, &points).into_iter().map(|chart| chart.plot),
                    ),
                    Err(error) => {
                        tracing::warn!(code = "web.live_read_failed", %error, "a chart could not be read");
                        return;
                    }
                }
            }
            _ => {}
        }
        let Some(first) = plots.first() else { return };
        let (from, to) = (first.from_ms as f64 / 1000.0, first.to_ms as f64 / 1000.0);
        let reset = plots.iter().all(|plot| !self.charts.contains_key(plot.name));
        let mut messages = HashMap::new();
        for plot in &plots {
            // The newest stretch was still filling when it was sent, and the one before may have been too.
            let since = self.charts.get(plot.name).map_or(i64::MIN, |newest| newest - plot.step_ms);
            messages.insert(plot.name, plot.points_since(since));
            if let Some(newest) = plot.newest_ms() {
                self.charts.insert(plot.name, newest);
            }
        }
        let message = PointsMessage { from, to, reset, charts: messages };
        let data = serde_json::to_string(&message).expect("points are numbers and short texts");
        self.push("points", data);
    }
}
