//! Settings, backups: when the last was made, which there are, and one more now.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::State as Shared,
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use caelum_model::access::Role;

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    pipeline,
    range::TimeQuery,
    routes::{Desk, draw, reader, sentence},
    words::Verdict,
};
use crate::{
    api::backups::{self as api, BackupsJson},
    auth::Person,
    error::ApiError,
    state::State,
};

/// Where it is.
pub const PATH: &str = "/settings/backups";

/// The page and its form.
pub fn router() -> Router<Arc<State>> {
    Router::new().route(PATH, get(show).post(make))
}

struct Row {
    name: String,
    made: Moment,
    size: String,
}

#[derive(Template)]
#[template(path = "pages/backups.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    rows: Vec<Row>,
    /// Where they are and how often one is made; none for whoever may not see them.
    plan: Option<Plan>,
    fault: Option<String>,
}

struct Plan {
    directory: String,
    every: String,
    kept: String,
    due: Option<Moment>,
    is_busy: bool,
}

async fn show(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
) -> Response {
    draw(page(&state, &desk, &person, &headers, None).await, headers)
}

async fn make(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
) -> Response {
    let fault = match api::make(&state, &person).await {
        Ok(_) => return Redirect::to(PATH).into_response(),
        Err(ApiError::Internal(cause)) => {
            tracing::error!(code = "backup.failed", error = cause.0, "a backup that was asked for failed");
            cause.0
        }
        Err(error) => error.message(),
    };
    draw(page(&state, &desk, &person, &headers, Some(sentence(&fault))).await, headers)
}

async fn page(
    state: &State,
    desk: &Desk,
    person: &Person,
    headers: &HeaderMap,
    fault: Option<String>,
) -> Result<impl Template + use<>, ApiError> {
    let picture = desk.picture(state, &TimeQuery::default()).await?;
    let known = match person.role >= Role::Admin {
        true => Some(api::list(state, person).await?),
        false => None,
    };
    Ok(drawn(&picture, reader(person, headers), known, fault))
}

fn drawn(
    picture: &Picture,
    reader: Reader,
    known: Option<BackupsJson>,
    fault: Option<String>,
) -> impl Template + use<> {
    let (scene, theme) = (&picture.scene, reader.theme);
    let moment = |at_ms| Moment::new(&scene.zone, at_ms, scene.now_ms);
    let heading = frame::heading(&verdict(known.as_ref(), scene.now_ms));
    let fault = fault.or_else(|| known.as_ref()?.error.as_deref().map(sentence));
    let plan = known.as_ref().map(|known| Plan {
        directory: known.directory.clone(),
        every: match known.every_h {
            0 => "only when somebody asks for it".to_owned(),
            hours => {
                format!("every {}", counted(usize::try_from(hours).unwrap_or(usize::MAX), "hour", "hours"))
            }
        },
        kept: counted(usize::try_from(known.keep_days).unwrap_or(usize::MAX), "day", "days"),
        due: known.due_ms.map(moment),
        is_busy: known.is_busy,
    });
    let backups = known.map(|known| known.backups).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
    let rows = backups
        .into_iter()
        .map(|backup| Row {
            made: moment(backup.made_at_ms),
            size: format::bytes(backup.bytes as f64).to_string(),
            name: backup.name,
        })
        .collect();
    Page {
        frame: Frame::new(picture, reader, Place::Settings, "Backups", heading, PATH, ""),
        theme,
        tabs: pipeline::settings_tabs(PATH),
        rows,
        plan,
        fault,
    }
}

fn verdict(known: Option<&BackupsJson>, now_ms: i64) -> Verdict {
    let lede = "A backup holds the records, the queue, the settings and the secrets of this server, and was \
                restored once to see that it can be."
        .to_owned();
    let (status, sentence) = match known {
        None => (Status::Ok, "Backups are for administrators.".to_owned()),
        Some(BackupsJson { error: Some(_), .. }) => (Status::Crit, "The last backup failed.".to_owned()),
        Some(known) => match known.backups.first() {
            None => (Status::Warn, "There is no backup yet.".to_owned()),
            Some(newest) => {
                let ago = format::duration(now_ms.saturating_sub(newest.made_at_ms).max(0));
                (Status::Ok, format!("The last backup was made {ago} ago."))
            }
        },
    };
    Verdict { status, sentence, lede }
}
