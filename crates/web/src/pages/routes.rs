//! The routes of the dashboard: who looks at what, read the picture, draw the page.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Form, OriginalUri, Path, Query, State as Shared},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use caelum_model::{access::Role, node::NodePoint};
use caelum_store::{Store, StoreError};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    alerting_routes, assets, charts, counting,
    format::Zone,
    frame::{self, Reader, Theme},
    gate::{self, Login, Notice},
    history::History,
    incidents, installer_routes, live, machine, machines, mesh, network, overview,
    picture::{Machine, Picture, Scene},
    range::{Span, TimeQuery},
    rates::Looks,
    run, setting_routes,
    sparks::Sparks,
    target, tasks, topology, visits,
};
use crate::{
    auth::{self, Person, SignInError},
    error::ApiError,
    serve::Transport,
    state::State,
};

/// Live streams at once; each holds a connection and a little memory.
const STREAMS_MAX: usize = 64;

/// What all pages share.
pub struct Desk {
    /// Summaries that have been made.
    pub history: History,
    /// Small charts of machines.
    pub sparks: Sparks,
    /// The zone of clock times.
    pub zone: Zone,
    /// Places for live streams.
    pub streams: Arc<Semaphore>,
    /// Counters of the pipeline as readers saw them.
    pub looks: Looks,
}

impl Desk {
    /// The scene of a request.
    pub fn scene(&self, state: &State, time: &TimeQuery) -> Scene {
        let now_ms = state.now_ms();
        Scene {
            now_ms,
            zone: self.zone.clone(),
            span: Span::of(time, now_ms),
            thresholds: state.thresholds(),
            roster: state.roster(),
            is_discovering: state.is_discovering,
            sweep: state.sweep.len(),
            node_id: state.node_id.to_string(),
            cluster_name: state.cluster_name.clone(),
            version: state.version.to_owned(),
        }
    }

    /// The picture of a request.
    pub async fn picture(&self, state: &State, time: &TimeQuery) -> Result<Picture, StoreError> {
        Picture::read(&state.store, &self.history, &self.sparks, self.scene(state, time)).await
    }
}

/// All routes of the dashboard.
pub fn router() -> Router<Arc<State>> {
    let desk = Arc::new(Desk {
        history: History::default(),
        sparks: Sparks::default(),
        zone: Zone::system(),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        looks: Looks::default(),
    });
    Router::new()
        .route("/", get(show_overview))
        .route("/machines", get(show_machines))
        .route("/machines/{name}", get(show_machine))
        .merge(visits::router())
        .merge(counting::router())
        .merge(incidents::router())
        .merge(tasks::router())
        .merge(run::router())
        .merge(target::router())
        .merge(mesh::router())
        .route("/topology", get(show_topology))
        .route("/network", get(show_network))
        .route("/settings", get(async || Redirect::to("/settings/targets")))
        .merge(setting_routes::router())
        .merge(alerting_routes::router())
        .merge(installer_routes::router())
        .merge(super::backups::router())
        .route("/login", get(show_login).post(sign_in))
        .route("/logout", post(sign_out))
        .route("/theme", post(choose_theme))
        .route("/favicon.ico", get(async || Redirect::permanent(&assets::href("favicon.svg"))))
        .route("/assets/{stamp}/{*name}", get(assets::serve))
        .route("/api/live", get(live::stream))
        .layer(Extension(desk))
}

/// Why a page could not be shown.
pub(super) struct Trouble {
    pub(super) error: ApiError,
    pub(super) headers: HeaderMap,
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (status, code) = self.error.status();
        let (title, text) = match status {
            StatusCode::NOT_FOUND => {
                ("There is no such page.", "The address may be old, or the thing was removed.".to_owned())
            }
            StatusCode::FORBIDDEN => ("This is not allowed.", format!("{}.", self.error.message())),
            _ => ("The page could not be read.", format!("{}. Try again in a moment.", self.error.message())),
        };
        // Counts and logs as the API does; only the body is for people.
        drop(self.error.into_response());
        notice(status, &self.headers, title, &text, code)
    }
}

pub(super) fn notice(
    status: StatusCode,
    headers: &HeaderMap,
    title: &str,
    text: &str,
    detail: &str,
) -> Response {
    let notice = Notice {
        theme: Theme::of(headers),
        cluster_name: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        title: title.to_owned(),
        text: text.to_owned(),
        detail: detail.to_owned(),
    };
    frame::page(status, &notice)
}

/// What a path that leads nowhere answers: people get a page, programs the API's error.
pub async fn not_found(method: Method, OriginalUri(uri): OriginalUri, headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if method == Method::GET && accepts.contains("text/html") && !uri.path().starts_with("/api/") {
        return Trouble { error: ApiError::NotFound("page"), headers }.into_response();
    }
    ApiError::NotFound("path").into_response()
}

pub(super) fn reader(person: &Person, headers: &HeaderMap) -> Reader {
    Reader {
        name: person.name.clone(),
        may_operate: person.role >= Role::Operator,
        theme: Theme::of(headers),
    }
}

pub(super) fn draw(result: Result<impl Template, ApiError>, headers: HeaderMap) -> Response {
    match result {
        Ok(template) => frame::page(StatusCode::OK, &template),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

async fn show_overview(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let picture = desk.picture(&state, &time).await;
    draw(
        picture.map(|picture| overview::page(&picture, reader(&person, &headers))).map_err(ApiError::from),
        headers,
    )
}

async fn show_machines(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    Query(filter): Query<machines::Filter>,
    headers: HeaderMap,
) -> Response {
    let picture = desk.picture(&state, &time).await;
    let page = picture.map(|picture| machines::page(&picture, reader(&person, &headers), &filter));
    draw(page.map_err(ApiError::from), headers)
}

async fn show_topology(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    Query(choice): Query<topology::Choice>,
    headers: HeaderMap,
) -> Response {
    let picture = desk.picture(&state, &time).await;
    let page = picture.map(|picture| topology::page(&picture, reader(&person, &headers), &choice));
    draw(page.map_err(ApiError::from), headers)
}

/// The machine of this name, else of this id.
pub fn find<'a>(picture: &'a Picture, name: &str) -> Option<&'a Machine> {
    let by = |is: &dyn Fn(&Machine) -> bool| picture.machines.iter().find(|machine| is(machine));
    by(&|machine| machine.node.name == name).or_else(|| by(&|machine| machine.node.node_id.as_str() == name))
}

/// History of a machine on the grid that its charts stand on.
pub async fn machine_points(
    store: &Store,
    machine: &Machine,
    span: &Span,
) -> Result<Vec<NodePoint>, StoreError> {
    let (from_ms, to_ms) = span.shown();
    let step = charts::machine_step_ms(from_ms, to_ms);
    let from_ms = charts::machine_from_ms(from_ms, to_ms);
    let count = (to_ms - from_ms) / step + 1;
    store.node_points(&machine.node.node_id, from_ms, from_ms + count * step, count as usize).await
}

async fn show_machine(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Path(name): Path<String>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let machine = find(&picture, &name).ok_or(ApiError::NotFound("machine"))?;
        let points = machine_points(&state.store, machine, &picture.scene.span).await?;
        Ok(machine::page(&picture, machine, &points, reader(&person, &headers)))
    };
    draw(page.await, headers)
}

async fn show_network(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    Query(choice): Query<network::Choice>,
    headers: HeaderMap,
) -> Response {
    let picture = desk.picture(&state, &time).await;
    let page = picture.map(|picture| network::page(&picture, reader(&person, &headers), &choice));
    draw(page.map_err(ApiError::from), headers)
}

/// An error's fragment as a sentence.
pub(super) fn sentence(fragment: &str) -> String {
    let mut letters = fragment.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Next {
    next: String,
}

async fn login_page(state: &State, headers: &HeaderMap) -> Login {
    let node = state.store.node(state.node_id.as_str()).await.ok().flatten();
    Login {
        theme: Theme::of(headers),
        cluster_name: state.cluster_name.clone(),
        node_name: node.map_or_else(|| state.node_id.to_string(), |node| node.name),
        version: state.version.to_owned(),
        fingerprint: gate::short_fingerprint(&state.certificate_fingerprint),
        ..Login::default()
    }
}

async fn show_login(
    person: Option<Person>,
    Shared(state): Shared<Arc<State>>,
    Query(query): Query<Next>,
    headers: HeaderMap,
) -> Response {
    let next = gate::safe_next(&query.next).to_owned();
    if person.is_some_and(|person| person.has_session) {
        return Redirect::to(&next).into_response();
    }
    frame::page(StatusCode::OK, &Login { next, ..login_page(&state, &headers).await })
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
    #[serde(default)]
    next: String,
}

async fn sign_in(
    Shared(state): Shared<Arc<State>>,
    Extension(transport): Extension<Transport>,
    headers: HeaderMap,
    Form(credentials): Form<Credentials>,
) -> Response {
    let next = gate::safe_next(&credentials.next).to_owned();
    let (status, fault, wait_s) =
        match auth::sign_in(&state, &credentials.name, &credentials.password, &transport).await {
            Ok(cookie) => return ([(header::SET_COOKIE, cookie)], Redirect::to(&next)).into_response(),
            Err(SignInError::Wrong) => {
                (StatusCode::UNAUTHORIZED, Some("Name or password is wrong.".to_owned()), 0)
            }
            Err(SignInError::Wait { seconds }) => (StatusCode::TOO_MANY_REQUESTS, None, seconds),
            Err(SignInError::Failed(error)) => return Trouble { error, headers }.into_response(),
        };
    let name = credentials.name.chars().take(64).collect();
    let page = Login { name, next, fault, wait_s, ..login_page(&state, &headers).await };
    let mut response = frame::page(status, &page);
    if wait_s > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
    }
    response
}

async fn sign_out(
    Shared(state): Shared<Arc<State>>,
    Extension(transport): Extension<Transport>,
    headers: HeaderMap,
) -> Response {
    match auth::sign_out(&state, &headers, &transport).await {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

#[derive(Deserialize)]
struct ThemeChoice {
    theme: String,
}

/// Remembers a theme for a year and leads back to where the reader was.
async fn choose_theme(headers: HeaderMap, Form(choice): Form<ThemeChoice>) -> Response {
    let theme = Theme::parse(&choice.theme);
    let cookie = format!("{}={}; Path=/; SameSite=Lax; Max-Age=31536000", Theme::COOKIE, theme.as_str());
    let back = headers
        .get(header::REFERER)
        .and_then(|value| value.to_str().ok())
        .and_then(|url| url.split_once("://"))
        .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]))
        .map_or("/", gate::safe_next)
        .to_owned();
    ([(header::SET_COOKIE, cookie)], Redirect::to(&back)).into_response()
}
