//! The routes of the page about alerts and of what is said about a machine: forms that work without scripts.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Form, Path, Query, State as Shared},
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use caelum_model::alert::NoticeSettings;
use serde::Deserialize;

use super::{
    alerting::{self, Beside, PATH},
    alerting_forms::{ChannelForm, QuietForm, ThresholdForm, words},
    frame,
    range::TimeQuery,
    routes::{Desk, Trouble, draw, reader, sentence},
};
use crate::{
    api::{
        alerts::{self, Answer},
        node_writes::{self, NodeChangeJson},
        nodes, notice_settings,
    },
    auth::Person,
    error::ApiError,
    state::State,
};

/// The page and its forms.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .route(PATH, get(show))
        .route("/settings/alerts/thresholds", post(set_thresholds))
        .route("/settings/alerts/channels", post(add_channel))
        .route("/settings/alerts/channels/remove", post(remove_channel))
        .route("/settings/alerts/channels/test", post(test_channel))
        .route("/settings/alerts/quiet", post(add_quiet))
        .route("/settings/alerts/quiet/remove", post(remove_quiet))
        .route("/settings/alerts/{id}/acknowledge", post(acknowledge))
        .route("/settings/alerts/{id}/resolve", post(resolve))
        .route("/machines/{name}/setting", post(change_machine))
}

/// What every handler here stands on.
struct Visit {
    state: Arc<State>,
    desk: Arc<Desk>,
    person: Person,
    headers: HeaderMap,
}

impl Visit {
    /// The page again, with what became of a form.
    async fn again(self, change: impl FnOnce(&mut Beside)) -> Response {
        let page = async {
            let picture = self.desk.picture(&self.state, &TimeQuery::default()).await?;
            let mut beside = Beside::fresh(shown(&self.state).await?);
            change(&mut beside);
            let reader = reader(&self.person, &self.headers);
            Ok::<_, ApiError>(alerting::page(&picture, &self.state.thresholds(), reader, beside))
        };
        draw(page.await, self.headers)
    }

    /// Back to the page, or the page with what is wrong.
    async fn done(self, outcome: Result<(), ApiError>, change: impl FnOnce(&mut Beside)) -> Response {
        match outcome {
            Ok(()) => Redirect::to(PATH).into_response(),
            Err(ApiError::InvalidRequest(fault)) => {
                let said = sentence(&fault);
                self.again(|beside| {
                    change(beside);
                    beside.said = Some((false, said));
                })
                .await
            }
            Err(error) => Trouble { error, headers: self.headers }.into_response(),
        }
    }

    /// Changes who is told, and when not.
    async fn set(
        &self,
        change: impl FnOnce(&mut NoticeSettings) -> Result<(), String>,
    ) -> Result<(), ApiError> {
        let mut settings = known(&self.state).await?;
        change(&mut settings).map_err(ApiError::InvalidRequest)?;
        notice_settings::put(&self.state, &self.person, settings).await.map(drop)
    }
}

async fn known(state: &State) -> Result<NoticeSettings, ApiError> {
    Ok(state.store.notice_settings().await?.unwrap_or_default())
}

/// The same without its secrets.
async fn shown(state: &State) -> Result<NoticeSettings, ApiError> {
    let settings = known(state).await?;
    state.secrets.follow_for(&settings).await;
    Ok(notice_settings::shown(state, settings))
}

type Stand = (Shared<Arc<State>>, Extension<Arc<Desk>>);

fn visit((Shared(state), Extension(desk)): Stand, person: Person, headers: HeaderMap) -> Visit {
    Visit { state, desk, person, headers }
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
        let beside = Beside::fresh(shown(&state).await?);
        Ok(alerting::page(&picture, &state.thresholds(), reader(&person, &headers), beside))
    };
    draw(page.await, headers)
}

async fn set_thresholds(
    person: Person,
    stand: Stand,
    headers: HeaderMap,
    Form(form): Form<ThresholdForm>,
) -> Response {
    let visit = visit(stand, person, headers);
    let outcome = match form.thresholds() {
        Ok(thresholds) => nodes::set_thresholds(&visit.state, &visit.person, thresholds).await,
        Err(fault) => Err(ApiError::InvalidRequest(fault)),
    };
    visit.done(outcome, |_| {}).await
}

async fn add_channel(
    person: Person,
    stand: Stand,
    headers: HeaderMap,
    Form(form): Form<ChannelForm>,
) -> Response {
    let visit = visit(stand, person, headers);
    let set = visit.set(|settings| {
        settings.channels.push(form.channel()?);
        Ok(())
    });
    let outcome = set.await;
    visit.done(outcome, |beside| beside.channel = ChannelForm { password: String::new(), ..form }).await
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn remove_channel(
    person: Person,
    stand: Stand,
    headers: HeaderMap,
    Form(named): Form<Named>,
) -> Response {
    let visit = visit(stand, person, headers);
    let set = visit.set(|settings| {
        settings.channels.retain(|channel| channel.name != named.name);
        Ok(())
    });
    let outcome = set.await;
    visit.done(outcome, |_| {}).await
}

async fn test_channel(
    person: Person,
    stand: Stand,
    headers: HeaderMap,
    Form(named): Form<Named>,
) -> Response {
    let visit = visit(stand, person, headers);
    let said = match notice_settings::try_channel(&visit.state, &visit.person, &named.name).await {
        Ok(None) => (true, format!("The test went to {}.", named.name)),
        Ok(Some(error)) => (false, sentence(&error)),
        Err(error) => return Trouble { error, headers: visit.headers }.into_response(),
    };
    visit.again(|beside| beside.said = Some(said)).await
}

async fn add_quiet(
    person: Person,
    stand: Stand,
    headers: HeaderMap,
    Form(form): Form<QuietForm>,
) -> Response {
    let visit = visit(stand, person, headers);
    let set = visit.set(|settings| {
        settings.quiet_hours.push(form.hours()?);
        Ok(())
    });
    let outcome = set.await;
    visit.done(outcome, |beside| beside.quiet = form).await
}

#[derive(Deserialize)]
struct Numbered {
    index: usize,
}

async fn remove_quiet(
    person: Person,
    stand: Stand,
    headers: HeaderMap,
    Form(numbered): Form<Numbered>,
) -> Response {
    let visit = visit(stand, person, headers);
    let set = visit.set(|settings| {
        if numbered.index < settings.quiet_hours.len() {
            settings.quiet_hours.remove(numbered.index);
        }
        Ok(())
    });
    let outcome = set.await;
    visit.done(outcome, |_| {}).await
}

/// Where an alert was answered: on its machine's page, the overview, or the page of alerts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answered {
    /// `machine`, `overview`, or nothing.
    from: String,
}

async fn acknowledge(
    person: Person,
    stand: Stand,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(answered): Form<Answered>,
) -> Response {
    said(visit(stand, person, headers), &id, Answer::Acknowledge, &answered).await
}

async fn resolve(
    person: Person,
    stand: Stand,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(answered): Form<Answered>,
) -> Response {
    said(visit(stand, person, headers), &id, Answer::Resolve, &answered).await
}

async fn said(visit: Visit, id: &str, answer: Answer, answered: &Answered) -> Response {
    let outcome = alerts::answer(&visit.state, &visit.person, id, answer).await.map(drop);
    // Back to where it was answered, which is never another site: only names go into the address.
    match (outcome, answered.from.as_str()) {
        (Ok(()), "overview") => Redirect::to("/").into_response(),
        (Ok(()), "machine") => {
            let alert = visit.state.store.alert(id).await.ok().flatten();
            let link = alert.map(|alert| frame::machine_link(&alert.node_name));
            Redirect::to(link.as_deref().unwrap_or(PATH)).into_response()
        }
        (outcome, _) => visit.done(outcome, |_| {}).await,
    }
}

/// What was typed into the form of a machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct MachineForm {
    group: String,
    tags: String,
    draining: String,
    muted: String,
}

async fn change_machine(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Form(form): Form<MachineForm>,
) -> Response {
    let muted_until_ms = match form.muted.as_str() {
        "keep" => None,
        minutes => Some(minutes.parse::<u32>().ok().filter(|minutes| *minutes > 0))
            .map(|minutes| minutes.map(|minutes| state.now_ms() + i64::from(minutes) * 60_000)),
    };
    let change = NodeChangeJson {
        group: Some(Some(form.group.trim().to_owned()).filter(|group| !group.is_empty())),
        tags: Some(words(&form.tags)),
        draining: Some(form.draining == "on"),
        muted_until_ms,
        ..NodeChangeJson::default()
    };
    match node_writes::change(&state, &person, &name, change).await {
        Ok((node, _)) => Redirect::to(&frame::machine_link(&node.name)).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}
