//! The form of a new task: what is typed, where it would go and why, and what is asked for.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension,
    extract::{Form, Query, State as Shared},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use caelum_model::task::{Promise, TaskAsk};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    frame::{self, Frame, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    range::TimeQuery,
    routes::{Desk, Trouble, reader, sentence},
    tasks,
    words::Verdict,
};
use crate::{api::tasks as api, auth::Person, error::ApiError, state::State};

/// Kinds that the form offers, what is typed for each, and how it is called.
const KINDS: [(&str, &str, &str); 6] = [
    ("shell", "command", "Command in the shell"),
    ("script", "script", "Script"),
    ("python", "script", "Script in Python"),
    ("http", "url", "Check of a web address"),
    ("fetch", "url", "Fetch of a file"),
    ("probe", "url", "One measurement"),
];

/// What was typed. Everything is text: what is wrong with it is said beside it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Typed {
    task_type: String,
    /// The command, the script or the address.
    what: String,
    /// Where a fetched file goes.
    path: String,
    node: String,
    requirements: String,
    timeout_s: String,
    priority: String,
    retries: String,
    once: String,
    /// `where` asks where it would go, and nothing else.
    act: String,
}

impl Typed {
    fn fresh() -> Self {
        Self { task_type: "shell".to_owned(), retries: "0".to_owned(), ..Self::default() }
    }

    fn ask(&self) -> Result<TaskAsk, String> {
        fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, String> {
            match text.trim() {
                "" => Ok(None),
                text => text.parse().map(Some).map_err(|_| format!("{what} is not a whole number: {text}")),
            }
        }
        let known = KINDS.iter().find(|(kind, ..)| *kind == self.task_type);
        let (kind, field, _) = known.ok_or_else(|| format!("there is no kind {}", self.task_type))?;
        let mut data = Map::new();
        // Browsers end lines of forms in their own way.
        data.insert((*field).to_owned(), json!(self.what.replace("\r\n", "\n").trim()));
        if *kind == "fetch" {
            data.insert("path".to_owned(), json!(self.path.trim()));
        }
        let words = self.requirements.split(|letter: char| letter == ',' || letter.is_whitespace());
        Ok(TaskAsk {
            task_type: (*kind).to_owned(),
            task_data: Value::Object(data),
            priority: number(&self.priority, "the priority")?,
            max_retries: number(&self.retries, "the number of retries")?,
            timeout_seconds: number(&self.timeout_s, "the time limit")?,
            requirements: words.filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            assigned_node: Some(self.node.clone()).filter(|node| !node.is_empty()),
            promise: if self.once == "on" { Promise::AtMostOnce } else { Promise::AtLeastOnce },
            ..TaskAsk::default()
        })
    }
}

/// Where it would go, and why; or why nowhere.
struct Advice {
    node: Option<String>,
    reasons: Vec<String>,
}

pub(super) async fn show(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    drawn(&state, &desk, &time, &person, headers, Typed::fresh(), Answer::default()).await
}

pub(super) async fn add(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
    Form(typed): Form<Typed>,
) -> Response {
    let time = TimeQuery::default();
    let ask = match typed.ask() {
        Ok(ask) => ask,
        Err(fault) => {
            let answer = Answer { fault: Some(sentence(&fault)), ..Answer::default() };
            return drawn(&state, &desk, &time, &person, headers, typed, answer).await;
        }
    };
    let outcome = if typed.act == "where" {
        api::place(&state, ask).await.map(Some)
    } else {
        match api::add_all(&state, &person, vec![ask]).await {
            Ok(added) => {
                let id = added.first().map_or_else(String::new, |task| task.task_id.to_string());
                return Redirect::to(&tasks::link(&id)).into_response();
            }
            Err(error) => Err(error),
        }
    };
    let answer = match outcome {
        Ok(placed) => Answer { placed, fault: None },
        Err(error) => {
            let (status, _) = error.status();
            if status != StatusCode::BAD_REQUEST {
                return Trouble { error, headers }.into_response();
            }
            Answer { fault: Some(sentence(&error.message())), placed: None }
        }
    };
    drawn(&state, &desk, &time, &person, headers, typed, answer).await
}

/// What the form is answered.
#[derive(Default)]
struct Answer {
    fault: Option<String>,
    placed: Option<Result<caelum_engine::placement::Place, Vec<caelum_engine::placement::Refused>>>,
}

async fn drawn(
    state: &State,
    desk: &Desk,
    time: &TimeQuery,
    person: &Person,
    headers: HeaderMap,
    typed: Typed,
    answer: Answer,
) -> Response {
    let status = if answer.fault.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    match desk.picture(state, time).await {
        Ok(picture) => frame::page(status, &page(&picture, reader(person, &headers), typed, answer)),
        Err(error) => Trouble { error: ApiError::from(error), headers }.into_response(),
    }
}

struct Kind {
    value: &'static str,
    name: &'static str,
    is_chosen: bool,
}

#[derive(Template)]
#[template(path = "pages/task_new.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    typed: Typed,
    fault: Option<String>,
    advice: Option<Advice>,
    kinds: Vec<Kind>,
    nodes: Vec<(String, bool)>,
    may_operate: bool,
}

fn page(picture: &Picture, reader: Reader, typed: Typed, answer: Answer) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let verdict = Verdict {
        status: Status::Ok,
        sentence: "New task".to_owned(),
        lede: "It runs on the node that has the most room for it, unless you name one.".to_owned(),
    };
    let advice = answer.placed.map(|placed| match placed {
        Ok(place) => {
            Advice { node: Some(tasks::node_name(picture, place.node_id.as_str())), reasons: place.reasons }
        }
        Err(refused) => Advice {
            node: None,
            reasons: refused
                .iter()
                .map(|one| format!("{}: {}", tasks::node_name(picture, one.node_id.as_str()), one.because))
                .collect(),
        },
    });
    let crumb = ("Tasks", picture.scene.span.link("/tasks"));
    let heading = frame::detail_heading_as(&verdict, "Not asked for yet", crumb, &[]);
    Page {
        frame: Frame::new(picture, reader, Place::Tasks, "New task", heading, "/tasks/new", ""),
        theme,
        fault: answer.fault,
        advice,
        kinds: KINDS
            .map(|(value, _, name)| Kind { value, name, is_chosen: value == typed.task_type })
            .into_iter()
            .collect(),
        nodes: picture
            .machines
            .iter()
            .map(|machine| (machine.node.name.clone(), machine.node.name == typed.node))
            .collect(),
        typed,
        may_operate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_asked_for() {
        let typed = Typed {
            what: "echo a\r\necho b\r\n".to_owned(),
            requirements: "gpu, web".to_owned(),
            timeout_s: "60".to_owned(),
            once: "on".to_owned(),
            ..Typed::fresh()
        };
        let ask = typed.ask().expect("reads");
        assert_eq!(ask.task_data, json!({ "command": "echo a\necho b" }));
        assert_eq!(ask.requirements, ["gpu", "web"]);
        assert_eq!((ask.timeout_seconds, ask.max_retries), (Some(60), Some(0)));
        assert_eq!((ask.promise, ask.assigned_node), (Promise::AtMostOnce, None));
        let fetch = Typed { task_type: "fetch".to_owned(), path: "/tmp/a".to_owned(), ..Typed::fresh() };
        assert_eq!(fetch.ask().expect("reads").task_data["path"], "/tmp/a");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let fault = |typed: Typed| typed.ask().expect_err("refused");
        assert!(fault(Typed { priority: "high".to_owned(), ..Typed::fresh() }).contains("priority"));
        assert!(fault(Typed { task_type: "ssh".to_owned(), ..Typed::fresh() }).contains("ssh"));
    }
}
