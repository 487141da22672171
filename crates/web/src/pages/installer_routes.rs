//! The routes of the node installer: the page, the form whose answer is a file, and taking packages back.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Form, Query, State as Shared},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use caelum_model::access::Role;
use serde::Deserialize;

use super::{
    frame,
    installer::{self, PATH, Sight},
    range::TimeQuery,
    routes::{Desk, Trouble, draw, reader, sentence},
};
use crate::{api::packages, auth::Person, error::ApiError, state::State};

/// The page and its forms.
pub fn router() -> Router<Arc<State>> {
    Router::new().route(PATH, get(show).post(build)).route("/settings/installer/revoke", post(revoke))
}

async fn show(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let sight = Sight::read(&state, person.role >= Role::Operator).await?;
        let reader = reader(&person, &headers);
        let form = installer::Form::default();
        Ok(installer::page(&picture, &sight, reader, person.role >= Role::Admin, form, None))
    };
    draw(page.await, headers)
}

async fn build(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
    Form(form): Form<installer::Form>,
) -> Response {
    let made = match form.wish() {
        Ok(new) => packages::make(&state, &person, new).await,
        Err(fault) => Err(ApiError::InvalidRequest(fault)),
    };
    let error = match made {
        Ok(built) => return packages::file(built),
        Err(error) => error,
    };
    let (status, _) = error.status();
    let is_told =
        matches!(status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE);
    if !is_told {
        return Trouble { error, headers }.into_response();
    }
    let fault = sentence(&error.message());
    let page = async {
        let picture = desk.picture(&state, &TimeQuery::default()).await?;
        let sight = Sight::read(&state, person.role >= Role::Operator).await?;
        let reader = reader(&person, &headers);
        Ok::<_, ApiError>(installer::page(
            &picture,
            &sight,
            reader,
            person.role >= Role::Admin,
            form,
            Some(fault),
        ))
    };
    match page.await {
        Ok(page) => frame::page(status, &page),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

#[derive(Deserialize)]
struct Revocation {
    package_id: String,
}

async fn revoke(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Form(form): Form<Revocation>,
) -> Response {
    match packages::take_back(&state, &person, &form.package_id).await {
        Ok(()) => Redirect::to(PATH).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}
