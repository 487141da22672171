//! The routes of the pages about counting and joining: the pipeline, one probe, join tokens, servers.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::to_bytes,
    extract::{Form, Path, Query, State as Shared},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use caelum_model::access::Role;
use serde::Deserialize;

use super::{
    frame, gate,
    letters::Choice,
    picture::Picture,
    pipeline::{self, Sight},
    probe,
    range::TimeQuery,
    routes::{Desk, Trouble, draw, reader, sentence},
    servers,
    tokens::{self, Outcome},
};
use crate::{
    api::{
        enrol::{self, JoinTokenJson, MadeJoinTokenJson},
        fleet, master_key,
        network::{self, OneProbeJson},
        pipeline::{self as api, ReplayJson},
    },
    auth::Person,
    error::ApiError,
    state::State,
};

/// Answers of our own API, bytes.
const ANSWER_MAX: usize = 1 << 20;

/// The pages and their forms.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/network/pipeline", get(show_pipeline))
        .route("/network/pipeline/replay", post(replay))
        .route("/probes/{id}", get(show_probe))
        .route(tokens::PATH, get(show_tokens).post(make_token))
        .route("/settings/join-tokens/revoke", post(revoke_token))
        .route(servers::PATH, get(show_servers))
        .route("/settings/servers/rotate-key", post(rotate_key))
        .route("/settings/servers/finish-key", post(finish_key))
}

async fn show_pipeline(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    (Query(time), Query(choice)): (Query<TimeQuery>, Query<Choice>),
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let sight = Sight::read(&state, &desk.looks, &choice).await?;
        Ok(pipeline::page(&picture, &sight, reader(&person, &headers), &choice))
    };
    draw(page.await, headers)
}

/// Which events to count after all: one, or all of a probe or for a reason.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Replay {
    id: String,
    client_id: String,
    reason: String,
    /// Where to go afterwards.
    back: String,
}

async fn replay(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Form(form): Form<Replay>,
) -> Response {
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let ids = match given(&form.id).map(|id| id.parse()) {
        None => Vec::new(),
        Some(Ok(id)) => vec![id],
        Some(Err(_)) => {
            let error = ApiError::InvalidRequest(format!("{} is not the number of an event", form.id.trim()));
            return Trouble { error, headers }.into_response();
        }
    };
    let wanted = ReplayJson { ids, client_id: given(&form.client_id), reason: given(&form.reason) };
    let asked = async {
        person.require(Role::Operator)?;
        api::ask_for_replay(&state, &person, wanted).await
    };
    match asked.await {
        Ok(done) => {
            let back = gate::safe_next(&form.back);
            let back = if back.starts_with("/network/pipeline") { back } else { "/network/pipeline" };
            let (path, query) = back.split_once('?').unwrap_or((back, ""));
            let and = if query.is_empty() { "" } else { "&" };
            let said = format!("asked={}&skipped={}", done.requested, done.skipped);
            Redirect::to(&format!("{path}?{query}{and}{said}")).into_response()
        }
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

/// What is known of a probe; none where it does not number its events, an error where nobody knows it.
pub async fn known_probe(
    state: &State,
    picture: &Picture,
    client_id: &str,
) -> Result<Option<OneProbeJson>, ApiError> {
    match network::one_probe(state, client_id, probe::HOURS).await {
        Ok(known) => Ok(Some(known)),
        Err(ApiError::NotFound(_)) if picture.probes().contains(&client_id) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn show_probe(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Path(id): Path<String>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let known = known_probe(&state, &picture, &id).await?;
        Ok(probe::page(&picture, &id, known.as_ref(), reader(&person, &headers)))
    };
    draw(page.await, headers)
}

/// The newest join tokens; none for whoever may not see them.
pub async fn known_tokens(state: &State, may_operate: bool) -> Result<Option<Vec<JoinTokenJson>>, ApiError> {
    if !may_operate {
        return Ok(None);
    }
    let now_ms = state.now_ms();
    let tokens = state.store.join_tokens(crate::api::LIMIT_MAX).await?;
    Ok(Some(tokens.into_iter().map(|token| JoinTokenJson::of(token, now_ms)).collect()))
}

async fn show_tokens(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
) -> Response {
    draw(token_page(&state, &desk, &person, &headers, tokens::Form::default(), Outcome::None).await, headers)
}

async fn show_servers(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &TimeQuery::default()).await?;
        let fleet = fleet::read(&state).await?;
        let about = servers::About { may_admin: person.role >= Role::Admin, ..about(&state) };
        Ok(servers::page(&picture, reader(&person, &headers), &fleet, &about))
    };
    draw(page.await, headers)
}

async fn rotate_key(person: Person, Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    match master_key::rotate_as(&state, &person, None, false).await {
        Ok(_) => Redirect::to(servers::PATH).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

async fn finish_key(person: Person, Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    match master_key::finish_as(&state, &person, false).await {
        Ok(_) => Redirect::to(servers::PATH).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

/// What the page of servers shows beside the fleet.
pub fn about(state: &State) -> servers::About {
    servers::About {
        cluster_name: state.cluster_name.clone(),
        certificate_fingerprint: state.certificate_fingerprint.clone(),
        may_admin: false,
    }
}

async fn token_page(
    state: &State,
    desk: &Desk,
    person: &Person,
    headers: &HeaderMap,
    form: tokens::Form,
    outcome: Outcome,
) -> Result<impl askama::Template + use<>, ApiError> {
    let picture = desk.picture(state, &TimeQuery::default()).await?;
    let reader = reader(person, headers);
    let tokens = known_tokens(state, reader.may_operate).await?;
    Ok(tokens::page(&picture, reader, tokens, person.role >= Role::Admin, form, outcome))
}

async fn make_token(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
    Form(form): Form<tokens::Form>,
) -> Response {
    let made = match form.wish() {
        Ok(new) => enrol::add_join_token(person.clone(), Shared(Arc::clone(&state)), Ok(Json(new))).await,
        Err(fault) => Err(ApiError::InvalidRequest(fault)),
    };
    let (status, outcome) = match made {
        Ok(answer) => {
            let bytes = to_bytes(answer.into_body(), ANSWER_MAX).await.unwrap_or_default();
            match serde_json::from_slice::<MadeJoinTokenJson>(&bytes) {
                Ok(made) => (StatusCode::CREATED, Outcome::Made(made)),
                Err(_) => (StatusCode::CREATED, Outcome::None),
            }
        }
        Err(error) => {
            let (status, _) = error.status();
            if !status.is_client_error() || status == StatusCode::FORBIDDEN {
                return Trouble { error, headers }.into_response();
            }
            (status, Outcome::Fault(sentence(&error.message())))
        }
    };
    let form = if matches!(outcome, Outcome::Fault(_)) { form } else { tokens::Form::default() };
    match token_page(&state, &desk, &person, &headers, form, outcome).await {
        Ok(page) => frame::page(status, &page),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

#[derive(Deserialize)]
struct Revocation {
    token_id: String,
}

async fn revoke_token(
    person: Person,
    shared: Shared<Arc<State>>,
    headers: HeaderMap,
    Form(form): Form<Revocation>,
) -> Response {
    match enrol::revoke_join_token(person, shared, Path(form.token_id)).await {
        Ok(_) => Redirect::to(tokens::PATH).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}
