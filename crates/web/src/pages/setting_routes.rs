//! The routes of what is measured and by whom: the forms of targets and probes, which work without scripts.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Form, Path, Query, State as Shared},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    frame,
    range::TimeQuery,
    routes::{Desk, Trouble, draw, reader, sentence},
    settings,
    target_form::{self, ProbeForm},
};
use crate::{
    api::{
        probes,
        target_writes::{self, NewTargetJson},
    },
    auth::Person,
    error::ApiError,
    state::State,
};

/// The pages and their forms.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/settings/targets", get(show_settings).post(add_target))
        .route("/settings/targets/remove", post(remove_target))
        .route("/settings/targets/{id}", get(show_target).post(change_target))
        .route("/probes/{id}/setting", post(change_probe))
}

async fn show_settings(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let picture = desk.picture(&state, &time).await;
    let form = target_form::Form::fresh();
    let page = picture.map(|picture| settings::page(&picture, reader(&person, &headers), form, None));
    draw(page.map_err(ApiError::from), headers)
}

async fn add_target(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
    Form(form): Form<target_form::Form>,
) -> Response {
    let added = match form.change(true) {
        Ok(change) => {
            let template = Some(form.template.clone()).filter(|template| !template.is_empty());
            let new = NewTargetJson { url: form.url.trim().to_owned(), template, change };
            target_writes::add(&state, &person, new).await.map(drop)
        }
        Err(fault) => Err(ApiError::InvalidRequest(fault)),
    };
    let error = match added {
        Ok(()) => return Redirect::to("/settings/targets").into_response(),
        Err(error) => error,
    };
    let (status, _) = error.status();
    if !status.is_client_error() || status == StatusCode::FORBIDDEN {
        return Trouble { error, headers }.into_response();
    }
    let fault = sentence(&error.message());
    match desk.picture(&state, &TimeQuery::default()).await {
        Ok(picture) => {
            frame::page(status, &settings::page(&picture, reader(&person, &headers), form, Some(fault)))
        }
        Err(error) => Trouble { error: error.into(), headers }.into_response(),
    }
}

async fn show_target(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &TimeQuery::default()).await?;
        let known = picture.targets.iter().find(|target| target.target_id.as_str() == id);
        let target = known.ok_or(ApiError::NotFound("target"))?;
        let form = target_form::Form::of(target);
        Ok(settings::target_page(&picture, target, reader(&person, &headers), form, None))
    };
    draw(page.await, headers)
}

async fn change_target(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(form): Form<target_form::Form>,
) -> Response {
    let changed = match form.change(false) {
        Ok(change) => target_writes::change(&state, &person, &id, change).await.map(drop),
        Err(fault) => Err(ApiError::InvalidRequest(fault)),
    };
    let error = match changed {
        Ok(()) => return Redirect::to("/settings/targets").into_response(),
        Err(error) => error,
    };
    let (status, _) = error.status();
    if !matches!(status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT) {
        return Trouble { error, headers }.into_response();
    }
    let fault = sentence(&error.message());
    let page = async {
        let picture = desk.picture(&state, &TimeQuery::default()).await?;
        let known = picture.targets.iter().find(|target| target.target_id.as_str() == id);
        let target = known.ok_or(ApiError::NotFound("target"))?;
        let page = settings::target_page(&picture, target, reader(&person, &headers), form, Some(fault));
        Ok::<_, ApiError>(frame::page(status, &page))
    };
    page.await.unwrap_or_else(|error| Trouble { error, headers: headers.clone() }.into_response())
}

#[derive(Deserialize)]
struct Removal {
    target_id: String,
}

async fn remove_target(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Form(removal): Form<Removal>,
) -> Response {
    match target_writes::remove(&state, &person, &removal.target_id).await {
        Ok(()) => Redirect::to("/settings/targets").into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

async fn change_probe(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(form): Form<ProbeForm>,
) -> Response {
    match probes::change(&state, &person, &id, form.change()).await {
        Ok(_) => Redirect::to(&format!("{}#setting", frame::probe_link(&id))).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}
