//! What the page of machines does when its forms are sent without a script: the same as the API, answered with
//! a page instead of JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{Form, Path, State as Shared},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::Value;

use super::routes::{Trouble, notice, sentence};
use crate::{
    api::{cluster, enrol},
    auth::Person,
    state::State,
};

/// Answers of our own API, bytes.
const ANSWER_MAX: usize = 1 << 20;
/// Where all of this leads back to.
const BACK: &str = "/machines";

/// The forms.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/machines/adopt", post(adopt))
        .route("/machines/connect", post(connect))
        .route("/machines/discover", post(discover))
        .route("/machines/invite", post(invite))
}

#[derive(Deserialize)]
struct Adoption {
    machine_id: String,
    code: String,
}

async fn adopt(
    person: Person,
    shared: Shared<Arc<State>>,
    headers: HeaderMap,
    Form(form): Form<Adoption>,
) -> Response {
    let body = Json(enrol::AdoptJson { code: form.code });
    let answer = enrol::adopt(person, shared, Path(form.machine_id), Ok(body)).await;
    shown(answer, &headers, "The machine was not adopted.", |_| None).await
}

#[derive(Deserialize)]
struct Dial {
    host: String,
    port: Option<u16>,
}

async fn connect(
    person: Person,
    shared: Shared<Arc<State>>,
    headers: HeaderMap,
    Form(form): Form<Dial>,
) -> Response {
    let body = Json(cluster::ConnectJson { host: form.host, port: form.port });
    let answer = cluster::connect(person, shared, Ok(body)).await;
    shown(answer, &headers, "No connection was made.", |json| {
        let failed = json["success"] == Value::Bool(false);
        failed.then(|| ("No connection was made.", sentence(json["message"].as_str().unwrap_or_default())))
    })
    .await
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    sweep: bool,
}

async fn discover(
    person: Person,
    shared: Shared<Arc<State>>,
    headers: HeaderMap,
    Form(form): Form<Search>,
) -> Response {
    let body = Json(cluster::DiscoverJson { wait_ms: None, sweep: form.sweep });
    let answer = cluster::discover(person, shared, HeaderMap::new(), Ok(Some(body))).await;
    shown(answer, &headers, "Nothing was searched for.", |_| None).await
}

async fn invite(person: Person, shared: Shared<Arc<State>>, headers: HeaderMap) -> Response {
    let answer = enrol::add_join_token(person, shared, Ok(Json(enrol::NewJoinTokenJson::default()))).await;
    shown(answer, &headers, "No token was made.", |json| {
        let command = json["command"].as_str().unwrap_or_default();
        let text = format!(
            "On the machine that is to join, run: {command} and then: caelum agent. The token admits one \
             machine, is valid for a day, and is not shown again."
        );
        Some(("The token is made.", text))
    })
    .await
}

/// Turns an answer of the API into a page: the error, what there is to say, or the list of machines.
async fn shown(
    answer: Result<impl IntoResponse, crate::error::ApiError>,
    headers: &HeaderMap,
    failed: &str,
    says: impl FnOnce(&Value) -> Option<(&'static str, String)>,
) -> Response {
    let response = match answer {
        Ok(answer) => answer.into_response(),
        Err(error) if error.status().0.is_server_error() || error.status().0 == StatusCode::FORBIDDEN => {
            return Trouble { error, headers: headers.clone() }.into_response();
        }
        Err(error) => error.into_response(),
    };
    let status = response.status();
    let bytes = to_bytes(response.into_body(), ANSWER_MAX).await.unwrap_or_default();
    let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if !status.is_success() {
        let error = &json["error"];
        let text = sentence(error["message"].as_str().unwrap_or("it was refused"));
        return notice(status, headers, failed, &text, error["code"].as_str().unwrap_or_default());
    }
    match says(&json) {
        Some((title, text)) => notice(StatusCode::OK, headers, title, &text, ""),
        None => Redirect::to(BACK).into_response(),
    }
}
