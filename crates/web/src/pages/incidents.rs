//! Incidents: what is wrong now, and what was?

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Path, Query, State as Shared},
    http::HeaderMap,
    response::Response,
    routing::get,
};
use caelum_model::{
    diagnosis::Label,
    incident::{EntityKind, Incident},
};

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    incident::{self, Seen},
    mark::Status,
    picture::Picture,
    range::TimeQuery,
    routes::{Desk, draw, reader},
    words::{self, Verdict},
};
use crate::{
    api::incidents::{self as api, IncidentsQuery},
    auth::Person,
    error::ApiError,
    state::State,
};

/// Blocks of the list, by their names in live updates.
pub const TOPICS: &str = "incidents,past";
/// Rows on the overview.
const ROWS_MAX: usize = 8;
/// Rows of a page of those that are over.
const PAST_ROWS: usize = 50;

/// The pages about incidents.
pub fn router() -> Router<Arc<State>> {
    Router::new().route("/incidents", get(show_list)).route("/incidents/{id}", get(show_one))
}

async fn show_list(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    (Query(time), Query(filter)): (Query<TimeQuery>, Query<IncidentsQuery>),
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let listing = Listing::read(&state, &filter).await?;
        Ok(page(&picture, &listing, reader(&person, &headers), &filter))
    };
    draw(page.await, headers)
}

async fn show_one(
    person: Person,
    Shared(state): Shared<Arc<State>>,
    Extension(desk): Extension<Arc<Desk>>,
    Path(id): Path<String>,
    Query(time): Query<TimeQuery>,
    headers: HeaderMap,
) -> Response {
    let page = async {
        let picture = desk.picture(&state, &time).await?;
        let seen = Seen::read(&state, &id).await?.ok_or(ApiError::NotFound("incident"))?;
        Ok(incident::page(&picture, &seen, reader(&person, &headers)))
    };
    draw(page.await, headers)
}

/// What the list shows beside the picture.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Those that are open.
    pub open: Vec<Incident>,
    /// A page of those that are over, newest first.
    pub past: Vec<Incident>,
    /// Where the next page begins.
    pub next: Option<String>,
}

impl Listing {
    /// Reads what the filter asks for.
    pub async fn read(state: &State, filter: &IncidentsQuery) -> Result<Self, ApiError> {
        let asked = filter.read()?;
        let mut listing = Self::default();
        if asked.is_open != Some(false) {
            let mut query = asked.clone();
            (query.is_open, query.after, query.limit) = (Some(true), None, crate::api::LIMIT_MAX);
            listing.open = state.store.incidents(query).await?;
        }
        if asked.is_open != Some(true) {
            let mut query = asked;
            (query.is_open, query.limit) = (Some(false), PAST_ROWS);
            (listing.past, listing.next) = api::page(state, query).await?;
        }
        Ok(listing)
    }
}

/// An incident as a row.
struct Row {
    key: String,
    status: Status,
    word: &'static str,
    label: &'static str,
    since: Moment,
    lasted: String,
    pairs: String,
    confidence: String,
    is_flapping: bool,
    headline: String,
    sentence: String,
    href: String,
    places: [words::Place; 4],
}

fn row(picture: &Picture, incident: &Incident) -> Row {
    let scene = &picture.scene;
    let until_ms = incident.closed_window_ms.unwrap_or(scene.now_ms);
    Row {
        key: incident.id.clone(),
        status: words::severity(incident),
        word: words::severity_word(incident),
        label: incident.label.as_str(),
        since: Moment::new(&scene.zone, incident.opened_window_ms, scene.now_ms),
        lasted: format::duration(until_ms - incident.opened_window_ms),
        pairs: format!(
            "{} of {}",
            format::count(incident.pairs_touched.into()),
            counted(incident.pairs_observed as usize, "pair", "pairs")
        ),
        confidence: format::percent(incident.confidence * 100.0).to_string(),
        is_flapping: incident.is_flapping,
        headline: words::headline(incident),
        sentence: words::nonbreaking(&incident.sentence),
        href: scene.span.link(&frame::incident_link(&incident.id)),
        places: words::incident_places(incident).map(|(place, ..)| place),
    }
}

#[derive(Template)]
#[template(path = "blocks/incidents.html")]
struct Rows {
    rows: Vec<Row>,
    more: usize,
    /// Leads to the whole list, from elsewhere.
    list: Option<String>,
    title: &'static str,
    name: &'static str,
    empty: &'static str,
    next: Option<String>,
}

/// Open incidents on the overview.
pub fn open_block(picture: &Picture) -> Block {
    let open: Vec<&Incident> = picture.open_incidents().collect();
    let template = Rows {
        rows: open.iter().take(ROWS_MAX).map(|incident| row(picture, incident)).collect(),
        more: open.len().saturating_sub(ROWS_MAX),
        list: Some(picture.scene.span.link("/incidents")),
        title: "Open incidents",
        name: "incidents",
        empty: "No incident is open.",
        next: None,
    };
    Block::render("incidents", "Open incidents", &template)
}

fn open(picture: &Picture, listing: &Listing) -> Block {
    let mut open: Vec<&Incident> = listing.open.iter().collect();
    open.sort_by_key(|incident| (std::cmp::Reverse(incident.severity), incident.opened_window_ms));
    let template = Rows {
        rows: open.into_iter().map(|incident| row(picture, incident)).collect(),
        more: 0,
        list: None,
        title: "Open",
        name: "incidents",
        empty: "None that matches is open.",
        next: None,
    };
    Block::render("incidents", "Open", &template)
}

fn past(picture: &Picture, listing: &Listing, filter: &IncidentsQuery) -> Block {
    let next = listing.next.as_ref().map(|cursor| {
        let filter = IncidentsQuery { cursor: Some(cursor.clone()), ..filter.clone() };
        picture.scene.span.link(&path(&filter))
    });
    let template = Rows {
        rows: listing.past.iter().map(|incident| row(picture, incident)).collect(),
        more: 0,
        list: None,
        title: "Over",
        name: "past",
        empty: "None that matches is over.",
        next,
    };
    Block::render("past", "Over", &template)
}

/// The list's address with a filter.
fn path(filter: &IncidentsQuery) -> String {
    let numbers = [("from", filter.from), ("to", filter.to)]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let query: Vec<String> = [
        ("status", &filter.status),
        ("label", &filter.label),
        ("entity_type", &filter.entity_type),
        ("cursor", &filter.cursor),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value.as_deref().filter(|value| !value.is_empty())?)))
    .map(|(name, value)| format!("{name}={}", frame::encode(value)))
    .chain(numbers)
    .collect();
    if query.is_empty() { "/incidents".to_owned() } else { format!("/incidents?{}", query.join("&")) }
}

/// A choice of a filter.
struct Option_ {
    value: &'static str,
    name: &'static str,
    selected: bool,
}

fn options(known: &[(&'static str, &'static str)], chosen: Option<&str>) -> Vec<Option_> {
    known
        .iter()
        .map(|(value, name)| Option_ { value, name, selected: chosen.unwrap_or_default() == *value })
        .collect()
}

#[derive(Template)]
#[template(path = "pages/incidents.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    open: Block,
    past: Block,
    states: Vec<Option_>,
    labels: Vec<Option_>,
    kinds: Vec<Option_>,
    is_filtered: bool,
    show_open: bool,
    show_past: bool,
}

/// The list.
fn page(
    picture: &Picture,
    listing: &Listing,
    reader: Reader,
    filter: &IncidentsQuery,
) -> impl Template + use<> {
    let theme = reader.theme;
    let status = filter.status.as_deref().filter(|status| !status.is_empty());
    let mut labels = vec![("", "Any label")];
    labels.extend(Label::ALL.map(|label| (label.as_str(), label.as_str())));
    let mut kinds = vec![("", "Anywhere")];
    kinds.extend(EntityKind::ALL.map(|kind| (kind.as_str(), kind_name(kind))));
    let heading = frame::heading(&verdict(picture));
    Page {
        frame: Frame::new(picture, reader, Place::Incidents, "Incidents", heading, &path(filter), TOPICS),
        theme,
        open: open(picture, listing),
        past: past(picture, listing, filter),
        states: options(&[("", "Open and over"), ("open", "Open"), ("closed", "Over")], status),
        labels: options(&labels, filter.label.as_deref()),
        kinds: options(&kinds, filter.entity_type.as_deref()),
        is_filtered: path(filter) != "/incidents",
        show_open: status != Some("closed") && filter.cursor.is_none(),
        show_past: status != Some("open"),
    }
}

/// What an incident is blamed on, in words.
pub fn kind_name(kind: EntityKind) -> &'static str {
    match kind {
        EntityKind::Probe => "A probe's own side",
        EntityKind::Target => "A target",
        EntityKind::Resolver => "A resolver",
        EntityKind::Group => "A site or group",
        EntityKind::Pair => "One path",
    }
}

fn verdict(picture: &Picture) -> Verdict {
    let open: Vec<&Incident> = picture.open_incidents().collect();
    let lede =
        "An incident is one thing that is wrong at one place, found from what the probes measure.".to_owned();
    match open.as_slice() {
        [] => Verdict { status: Status::Ok, sentence: "No incident is open.".to_owned(), lede },
        [one] => Verdict { status: words::severity(one), sentence: words::headline(one), lede },
        [first, rest @ ..] => Verdict {
            status: words::severity(first),
            sentence: format!(
                "{}, and {} open.",
                words::in_short(first).opening(),
                counted(rest.len(), "more incident is", "more incidents are")
            ),
            lede,
        },
    }
}

/// Renders one block of the list by its live name.
pub fn block(name: &str, picture: &Picture, listing: &Listing, filter: &IncidentsQuery) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&verdict(picture)),
        "incidents" => open(picture, listing),
        "past" => past(picture, listing, filter),
        _ => return None,
    })
}
