//! Run: one command on many machines, and what they answered.
//!
//! The page works without a script: the form is sent, and the page comes back when all have ended. With one,
//! answers come in as they are made (`run.js`), drawn in the same words.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Form, Query, State as Shared},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use caelum_engine::ssh::groups::groups;
use caelum_model::ssh::{HostKeyProblem, SshHost, SshOutcome, SshPoolStats, SshResult};
use caelum_roles::ssh::{Spot, Ssh, choose};
use serde::Deserialize;

use super::{
    format::counted,
    frame::{self, Frame, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    range::TimeQuery,
    routes::{Desk, Trouble, reader, sentence},
    words::Verdict,
};
use crate::{
    api::ssh::{
        self as api, SshBroadcastJson,
        hosts::{self, KnownHostEntryJson, KnownHostJson, KnownHostQuery, NewSshHostJson, SshHostQuery},
    },
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Address of the page.
const PATH: &str = "/run";
/// More machines than this are asked about once more before anything runs.
const MANY: usize = 10;
/// Commands that were run lately.
const RECENT_MAX: usize = 6;
/// Lines of the audit log that are looked through for them.
const AUDIT_MAX: usize = 200;

/// The page and its forms.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .route(PATH, get(show).post(run))
        .route("/run/accept", post(accept))
        .route("/run/forget", post(forget))
        .route("/run/hosts", post(add_host))
        .route("/run/hosts/remove", post(remove_host))
        .route("/run/clean", post(clean))
}

/// What is chosen and typed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Typed {
    on: String,
    command: String,
    timeout: String,
}

/// What was sent: fields may come several times.
#[derive(Clone, Debug, Default)]
struct Sent {
    typed: Typed,
    nodes: Vec<String>,
    is_sure: bool,
}

impl Sent {
    fn read(fields: Vec<(String, String)>) -> Self {
        let mut sent = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "on" => sent.typed.on = value,
                "command" => sent.typed.command = value,
                "timeout" => sent.typed.timeout = value,
                "node" => sent.nodes.push(value),
                "sure" => sent.is_sure = value == "1",
                _ => {}
            }
        }
        sent
    }

    fn timeout_s(&self) -> Result<u64, String> {
        match self.typed.timeout.trim() {
            "" => Ok(api::TIMEOUT_DEFAULT_S),
            text => text.parse().map_err(|_| format!("the time limit is no whole number of seconds: {text}")),
        }
    }
}

/// What the page says beside what it always has.
#[derive(Default)]
struct Said {
    fault: Option<String>,
    /// How many machines it would run on, where that is to be said once more.
    is_asked: Option<usize>,
    results: Vec<SshResult>,
}

async fn show(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    (Query(time), Query(typed)): (Query<TimeQuery>, Query<Typed>),
    headers: HeaderMap,
) -> Response {
    drawn(&state, &desk, &time, &person, headers, typed, None, Said::default()).await
}

async fn run(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    headers: HeaderMap,
    Form(fields): Form<Vec<(String, String)>>,
) -> Response {
    let sent = Sent::read(fields);
    let said = match answer(&state, &person, &sent).await {
        Ok(said) => said,
        Err(error) if error.status().0 == StatusCode::BAD_REQUEST => {
            Said { fault: Some(sentence(&error.message())), ..Said::default() }
        }
        Err(error) => return Trouble { error, headers }.into_response(),
    };
    let time = TimeQuery::default();
    drawn(&state, &desk, &time, &person, headers, sent.typed, Some(sent.nodes), said).await
}

async fn answer(state: &State, person: &Person, sent: &Sent) -> Result<Said, ApiError> {
    if sent.nodes.is_empty() {
        return Err(ApiError::InvalidRequest("no machine is chosen".to_owned()));
    }
    if sent.nodes.len() > MANY && !sent.is_sure {
        return Ok(Said { is_asked: Some(sent.nodes.len()), ..Said::default() });
    }
    let wish = SshBroadcastJson {
        command: sent.typed.command.replace("\r\n", "\n").trim().to_owned(),
        node_ids: Some(sent.nodes.clone()),
        timeout: Some(sent.timeout_s().map_err(ApiError::InvalidRequest)?),
        ..SshBroadcastJson::default()
    };
    let (total, mut coming) = api::begin(state, person, &wish).await?;
    let mut results = Vec::with_capacity(total);
    while let Some(result) = coming.recv().await {
        results.push(result);
    }
    Ok(Said { results, ..Said::default() })
}

/// Where a form leads back to.
fn back(done: Result<(), ApiError>, headers: HeaderMap) -> Response {
    match done {
        Ok(()) => Redirect::to(PATH).into_response(),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

async fn accept(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Form(entry): Form<KnownHostEntryJson>,
) -> Response {
    let entry = KnownHostEntryJson {
        key: entry.key.filter(|key| !key.is_empty()),
        fingerprint: entry.fingerprint.filter(|fingerprint| !fingerprint.is_empty()),
        ..entry
    };
    back(hosts::accept_all(&state, &person, vec![entry]).await.map(drop), headers)
}

async fn forget(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Form(query): Form<KnownHostQuery>,
) -> Response {
    back(hosts::forget_keys(&state, &person, query).await.map(drop), headers)
}

/// A host as it is typed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TypedHost {
    name: String,
    address: String,
    port: String,
    user: String,
    tags: String,
}

async fn add_host(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Form(typed): Form<TypedHost>,
) -> Response {
    let port = match typed.port.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| ApiError::InvalidRequest(format!("{text} is no port"))),
    };
    let done = async {
        let wish = NewSshHostJson {
            name: typed.name.trim().to_owned(),
            address: Some(typed.address.trim().to_owned()),
            port: port?,
            user: Some(typed.user.trim().to_owned()),
            tags: api::split(&typed.tags),
        };
        hosts::add(&state, &person, wish).await.map(drop)
    };
    back(done.await, headers)
}

async fn remove_host(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Form(query): Form<SshHostQuery>,
) -> Response {
    back(hosts::remove(&state, &person, &query.id).await.map(drop), headers)
}

async fn clean(person: Person, Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    let done = async {
        person.require(caelum_model::access::Role::Operator)?;
        api::pool(&state)?.pool.clean().await;
        auth::record(&state, &person.name, "ssh.cleanup", "pool", "done").await;
        Ok(())
    };
    back(done.await, headers)
}

/// What is known of the pool and its hosts.
struct Sight {
    spots: Arc<Vec<Spot>>,
    stats: SshPoolStats,
    known: Vec<KnownHostJson>,
    hosts: Vec<SshHost>,
    recent: Vec<String>,
    public_key: String,
}

impl Sight {
    async fn read(state: &State, ssh: &Ssh, person: &Person) -> Result<Self, ApiError> {
        let audit = state.store.audit_log(i64::MAX, AUDIT_MAX).await?;
        let mut recent: Vec<String> = Vec::new();
        let own = audit.into_iter().filter(|entry| {
            entry.actor == person.name && entry.action.starts_with("ssh.") && entry.outcome == "begun"
        });
        for entry in own {
            let Some((_, command)) = entry.subject.split_once(": ") else { continue };
            if recent.len() < RECENT_MAX && !recent.iter().any(|known| known == command) {
                recent.push(command.to_owned());
            }
        }
        Ok(Self {
            spots: ssh.places().await?,
            stats: ssh.pool.stats().await,
            known: hosts::known(state, ssh).await?,
            hosts: state.store.ssh_hosts().await?,
            recent,
            public_key: ssh.keyring.public_line(),
        })
    }
}

async fn drawn(
    state: &State,
    desk: &Desk,
    time: &TimeQuery,
    person: &Person,
    headers: HeaderMap,
    typed: Typed,
    nodes: Option<Vec<String>>,
    said: Said,
) -> Response {
    let status = if said.fault.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let page = async {
        let picture = desk.picture(state, time).await?;
        let sight = match &state.ssh {
            Some(ssh) => Some(Sight::read(state, ssh, person).await?),
            None => None,
        };
        Ok::<_, ApiError>(page(&picture, reader(person, &headers), sight, typed, nodes, said))
    };
    match page.await {
        Ok(page) => frame::page(status, &page),
        Err(error) => Trouble { error, headers }.into_response(),
    }
}

/// A machine that can be chosen.
struct Aim {
    id: String,
    name: String,
    status: Status,
    word: String,
    is_chosen: bool,
    refusal: Option<String>,
    words: String,
}

struct AimGroup {
    name: String,
    aims: Vec<Aim>,
}

/// Machines that answered the same.
struct Answer {
    level: &'static str,
    icon: &'static str,
    word: &'static str,
    title: String,
    soft: String,
    meta: String,
    who: Vec<String>,
    error: Option<String>,
    stdout: String,
    stderr: String,
    problems: Vec<Problem>,
}

struct Problem {
    key: HostKeyProblem,
    is_changed: bool,
    known: String,
}

/// A command that was run lately.
struct Recent {
    href: String,
    line: String,
}

struct Tally {
    level: &'static str,
    icon: &'static str,
    count: usize,
    word: &'static str,
}

#[derive(Template)]
#[template(path = "pages/run.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    may_operate: bool,
    is_enabled: bool,
    typed: Typed,
    fault: Option<String>,
    is_asked: Option<usize>,
    groups: Vec<AimGroup>,
    chosen: usize,
    total: usize,
    stats: SshPoolStats,
    known: Vec<KnownHostJson>,
    hosts: Vec<SshHost>,
    recent: Vec<Recent>,
    public_key: String,
    answers: Vec<Answer>,
    tallies: Vec<Tally>,
    timeout_default: u64,
}

/// How an outcome looks.
fn look(outcome: SshOutcome) -> (&'static str, &'static str, &'static str) {
    match outcome {
        SshOutcome::Ok => ("ok", "s-ok", "answered"),
        SshOutcome::Failed => ("warn", "s-warn", "failed"),
        SshOutcome::TimedOut => ("warn", "s-stale", "took too long"),
        SshOutcome::Unreachable => ("off", "s-off", "unreachable"),
        SshOutcome::Refused => ("crit", "s-crit", "refused"),
    }
}

fn answers(results: &[SshResult]) -> Vec<Answer> {
    let groups = groups(results);
    groups
        .into_iter()
        .map(|group| {
            let (level, icon, word) = look(group.outcome);
            let of_group = |result: &&SshResult| {
                result.outcome == group.outcome
                    && result.error == group.error
                    && group.nodes.contains(&result.node)
            };
            let times = results.iter().filter(of_group).map(|result| result.duration_ms);
            let (least, most) = times.fold((i64::MAX, 0), |(least, most), ms| (least.min(ms), most.max(ms)));
            let problems: Vec<Problem> = results
                .iter()
                .filter(of_group)
                .filter_map(|result| result.host_key.clone())
                .map(|key| Problem {
                    is_changed: key.is_changed(),
                    known: key.known_fingerprints.join(" or "),
                    key,
                })
                .collect();
            let exit = group.return_code.map_or_else(String::new, |code| format!("exit {code}, "));
            let time = if least == most { format!("{most} ms") } else { format!("{least} to {most} ms") };
            let (title, soft) = match (group.outcome, group.nodes.as_slice()) {
                (SshOutcome::Ok, [one]) => (one.clone(), String::new()),
                (SshOutcome::Ok, many) => (format!("{} machines agree", many.len()), String::new()),
                (_, [one]) => (one.clone(), word.to_owned()),
                (_, many) => (counted(many.len(), "machine", "machines"), word.to_owned()),
            };
            Answer {
                level,
                icon,
                word,
                title,
                soft,
                meta: format!("{exit}{time}"),
                who: if group.nodes.len() > 1 { group.nodes.clone() } else { Vec::new() },
                error: group.error.clone(),
                stdout: group.stdout,
                stderr: group.stderr,
                problems,
            }
        })
        .collect()
}

fn tallies(results: &[SshResult]) -> Vec<Tally> {
    let all = [
        SshOutcome::Ok,
        SshOutcome::Failed,
        SshOutcome::TimedOut,
        SshOutcome::Unreachable,
        SshOutcome::Refused,
    ];
    all.into_iter()
        .map(|outcome| {
            let (level, icon, word) = look(outcome);
            let count = results.iter().filter(|result| result.outcome == outcome).count();
            Tally { level, icon, count, word }
        })
        .filter(|tally| tally.count > 0)
        .collect()
}

fn aim(spot: &Spot, is_chosen: bool) -> Aim {
    let (status, word) = match spot.level {
        "healthy" => (Status::Ok, "Healthy"),
        "warning" => (Status::Warn, "Warning"),
        "critical" => (Status::Crit, "Critical"),
        "offline" => (Status::Off, "Offline"),
        _ => (Status::Queue, "Without an agent"),
    };
    let mut words = vec![spot.name.clone(), spot.level.to_owned()];
    words.extend(spot.tags.iter().chain(&spot.capabilities).chain(&spot.roles).cloned());
    Aim {
        id: spot.node_id.to_string(),
        name: spot.name.clone(),
        status,
        word: word.to_owned(),
        is_chosen,
        refusal: spot.refusal(),
        words: words.join(" ").to_lowercase(),
    }
}

fn verdict(sight: Option<&Sight>, results: &[SshResult], answers: &[Answer]) -> Verdict {
    let Some(sight) = sight else {
        return Verdict {
            status: Status::Ok,
            sentence: "This server runs no commands over SSH.".to_owned(),
            lede: "Its setting ssh.enabled is false.".to_owned(),
        };
    };
    if results.is_empty() {
        let open = sight.spots.iter().filter(|spot| spot.refusal().is_none()).count();
        return Verdict {
            status: Status::Ok,
            sentence: format!("Run a command on up to {}.", counted(open, "machine", "machines")),
            lede: "Each answers once; equal answers are shown once, what went wrong first.".to_owned(),
        };
    }
    let well = results.iter().filter(|result| result.success).count();
    let ways = answers.iter().filter(|answer| answer.level == "ok").count();
    Verdict {
        status: if well == results.len() { Status::Ok } else { Status::Warn },
        sentence: format!(
            "{well} of {} answered{}.",
            counted(results.len(), "machine", "machines"),
            if ways > 1 { format!(", in {ways} different ways") } else { String::new() }
        ),
        lede: format!("{} in all.", counted(answers.len(), "answer", "answers")),
    }
}

fn page(
    picture: &Picture,
    reader: Reader,
    sight: Option<Sight>,
    typed: Typed,
    nodes: Option<Vec<String>>,
    mut said: Said,
) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let is_enabled = sight.is_some();
    let answers = answers(&said.results);
    let heading = frame::heading(&verdict(sight.as_ref(), &said.results, &answers));
    let sight = sight.unwrap_or_else(|| Sight {
        spots: Arc::default(),
        stats: SshPoolStats::default(),
        known: Vec::new(),
        hosts: Vec::new(),
        recent: Vec::new(),
        public_key: String::new(),
    });
    let chosen: Vec<String> = match nodes {
        Some(nodes) => nodes,
        None if typed.on.trim().is_empty() => Vec::new(),
        None => match choose(&api::split(&typed.on), sight.spots.as_ref().clone()) {
            Ok(spots) => spots.iter().map(|spot| spot.node_id.to_string()).collect(),
            Err(error) => {
                said.fault = Some(sentence(&error.to_string()));
                Vec::new()
            }
        },
    };
    let mut groups: Vec<AimGroup> = Vec::new();
    for spot in sight.spots.iter() {
        let name = match (&spot.group, spot.level) {
            (Some(group), _) => group.clone(),
            (None, "ssh") => "Without an agent".to_owned(),
            (None, _) => "Machines".to_owned(),
        };
        let aim = aim(spot, chosen.iter().any(|id| id == spot.node_id.as_str()));
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.aims.push(aim),
            None => groups.push(AimGroup { name, aims: vec![aim] }),
        }
    }
    Page {
        frame: Frame::new(picture, reader, Place::Run, "Run", heading, PATH, ""),
        theme,
        may_operate,
        is_enabled,
        fault: said.fault,
        is_asked: said.is_asked,
        chosen: groups.iter().flat_map(|group| &group.aims).filter(|aim| aim.is_chosen).count(),
        total: sight.spots.len(),
        groups,
        stats: sight.stats,
        known: sight.known,
        hosts: sight.hosts,
        recent: sight
            .recent
            .into_iter()
            .map(|line| {
                let href = format!("{PATH}?on={}&command={}", frame::encode(&typed.on), frame::encode(&line));
                Recent { href, line }
            })
            .collect(),
        public_key: sight.public_key,
        tallies: tallies(&said.results),
        answers,
        typed,
        timeout_default: api::TIMEOUT_DEFAULT_S,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_may_name_many_machines() {
        let pairs = [("node", "a"), ("command", "uptime"), ("node", "b"), ("sure", "1")];
        let sent = Sent::read(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!((sent.nodes.len(), sent.typed.command.as_str(), sent.is_sure), (2, "uptime", true));
        assert_eq!(sent.timeout_s(), Ok(30));
        let typed = Typed { timeout: "soon".to_owned(), ..Typed::default() };
        assert!(Sent { typed, ..Sent::default() }.timeout_s().is_err());
    }
}
