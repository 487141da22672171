//! The frame around a page: navigation, horizon, verdict, palette, theme.

use askama::Template;
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use caelum_model::target::Target;

use super::{
    block::Block,
    format::{self, Zone},
    horizon,
    mark::Status,
    picture::Picture,
    range::{Range, Span},
    words::{self, Verdict},
};

/// The theme a reader chose; the system's own is the absence of a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// As the system has it.
    #[default]
    System,
    /// Ink on paper.
    Light,
    /// Light on ink.
    Dark,
}

impl Theme {
    /// Name of the cookie.
    pub const COOKIE: &'static str = "caelum_theme";

    /// The form in the cookie and in the root's `data-theme`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// Reads that form; anything else is the system's.
    pub fn parse(text: &str) -> Self {
        [Self::Light, Self::Dark].into_iter().find(|theme| theme.as_str() == text).unwrap_or_default()
    }

    /// The theme of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(name, _)| *name == Self::COOKIE)
            .map_or_else(Self::default, |(_, value)| Self::parse(value))
    }

    /// The one that a press on the button leads to.
    pub fn next(self) -> Self {
        match self {
            Self::System => Self::Light,
            Self::Light => Self::Dark,
            Self::Dark => Self::System,
        }
    }

    /// Its icon.
    pub fn icon_name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "sun",
            Self::Dark => "moon",
        }
    }
}

/// Which entry of the navigation is the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `/`
    Overview,
    /// `/machines` and below.
    Machines,
    /// `/topology`
    Topology,
    /// `/network`
    Network,
    /// `/incidents` and below.
    Incidents,
    /// `/tasks` and below.
    Tasks,
    /// `/run`
    Run,
    /// `/settings` and below.
    Settings,
}

/// An entry of the navigation.
pub struct Entry {
    /// Where it leads.
    pub href: String,
    /// Its name.
    pub name: &'static str,
    /// Its icon.
    pub icon: &'static str,
    /// Its second key after `g`.
    pub key: &'static str,
    /// Whether it is where the reader is.
    pub current: bool,
    /// The group that starts with it.
    pub group: Option<&'static str>,
    /// How many of it want to be looked at.
    pub badge: usize,
}

impl Entry {
    /// Whether it is one of the four that a narrow screen has in its bar; the others are behind *More* there.
    pub fn is_tab(&self) -> bool {
        matches!(self.name, "Overview" | "Machines" | "Network" | "Tasks")
    }
}

/// An entry of the palette.
pub struct Choice {
    /// Where it leads.
    pub href: String,
    /// What it is.
    pub name: String,
    /// What is the matter with it.
    pub note: String,
    /// Its kind.
    pub what: &'static str,
    /// Its status, where it has one.
    pub status: Option<Status>,
    /// Its icon, where it has no status.
    pub icon: &'static str,
    /// Its second key after `g`, where it has one that the navigation does not show.
    pub key: &'static str,
}

/// A heading of the palette with its entries.
pub struct Choices {
    /// The heading.
    pub title: &'static str,
    /// The entries.
    pub entries: Vec<Choice>,
}

/// A button of the range.
pub struct RangeButton {
    /// Where it leads.
    pub href: String,
    /// The form in addresses.
    pub value: &'static str,
    /// The words on it.
    pub label: &'static str,
    /// Whether it is pressed.
    pub pressed: bool,
}

/// Who looks.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Their name.
    pub name: String,
    /// Whether they may change targets and the like.
    pub may_operate: bool,
    /// The theme they chose.
    pub theme: Theme,
}

/// Everything around a page's content.
pub struct Frame {
    /// Title of the document.
    pub title: String,
    /// Who looks.
    pub reader: Reader,
    /// The navigation.
    pub entries: Vec<Entry>,
    /// The range.
    pub ranges: Vec<RangeButton>,
    /// The strip.
    pub horizon: Block,
    /// The heading.
    pub verdict: Block,
    /// The palette's entries.
    pub palette: Vec<Choices>,
    /// The cluster's name.
    pub cluster_name: String,
    /// This node's name.
    pub node_name: String,
    /// `1 machine`.
    pub machines: String,
    /// The version that serves.
    pub version: String,
    /// Address of the live updates of this page.
    pub live: String,
    /// Now, for the age beside *Live*.
    pub now_ms: i64,
    /// How far the zone of clock times is ahead of universal time, ms.
    pub zone_ms: i64,
    /// The newest moment anything was heard.
    pub newest_ms: i64,
    /// The same in words, for pages without a script.
    pub newest: String,
}

#[derive(Template)]
#[template(path = "blocks/verdict.html")]
struct Heading<'a> {
    verdict: &'a Verdict,
    crumb: Option<(&'static str, String)>,
    facts: &'a [String],
    status: Option<(Status, &'static str)>,
}

/// The heading of a page. Healthy pages carry no icon: health is ink on paper.
pub fn heading(verdict: &Verdict) -> Block {
    Block::render("verdict", "The verdict", &Heading { verdict, crumb: None, facts: &[], status: None })
}

/// The heading of a page on the second level: with the way back, its status and facts.
pub fn detail_heading(verdict: &Verdict, crumb: (&'static str, String), facts: &[String]) -> Block {
    detail_heading_as(verdict, verdict.status.word(), crumb, facts)
}

/// The same where the status has a word of its own.
pub fn detail_heading_as(
    verdict: &Verdict,
    word: &'static str,
    crumb: (&'static str, String),
    facts: &[String],
) -> Block {
    let heading = Heading { verdict, crumb: Some(crumb), facts, status: Some((verdict.status, word)) };
    Block::render("verdict", "The verdict", &heading)
}

impl Frame {
    /// How many want to be looked at behind *More*.
    pub fn badges_beyond_tabs(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.is_tab()).map(|entry| entry.badge).sum()
    }

    /// The frame of a page. `path` is its address without the span, `topics` are the blocks it shows.
    pub fn new(
        picture: &Picture,
        reader: Reader,
        place: Place,
        title: &str,
        verdict: Block,
        path: &str,
        topics: &str,
    ) -> Self {
        let scene = &picture.scene;
        let span = &scene.span;
        let ranges = Range::ALL
            .into_iter()
            .map(|range| {
                let other = Span { range, window: None, ..*span };
                RangeButton {
                    href: other.link(path),
                    value: range.as_str(),
                    label: range.label(),
                    pressed: range == span.range,
                }
            })
            .collect();
        let own = picture.machines.iter().find(|machine| machine.node.node_id.as_str() == scene.node_id);
        let newest_ms = picture.newest_ms();
        let parameters = path.split_once('?').map_or("", |(_, query)| query);
        let mut live = format!("/api/live?topics=verdict,horizon,{topics}");
        for part in [parameters, &span.query()] {
            if !part.is_empty() {
                live.push('&');
                live.push_str(part);
            }
        }
        if let Some(name) = path.strip_prefix("/machines/") {
            live.push_str("&machine=");
            live.push_str(name);
        }
        if let Some(id) = path.strip_prefix("/probes/") {
            live.push_str("&probe=");
            live.push_str(id);
        }
        if let Some(id) = path.strip_prefix("/targets/") {
            live.push_str("&aim=");
            live.push_str(id.split_once('?').map_or(id, |(id, _)| id));
        }
        if let Some(id) = path.strip_prefix("/incidents/") {
            live.push_str("&incident=");
            live.push_str(id);
        }
        if let Some(id) = path.strip_prefix("/tasks/") {
            live.push_str("&task=");
            live.push_str(id);
        }
        let bare = path.split_once('?').map_or(path, |(bare, _)| bare);
        live.push_str(match place {
            Place::Overview => "&page=overview",
            Place::Machines => "&page=machines",
            Place::Topology => "&page=topology",
            Place::Network if bare.starts_with("/probes/") => "&page=probe",
            Place::Network if bare == "/network/pipeline" => "&page=pipeline",
            Place::Network if bare == super::mesh::PATH => "&page=mesh",
            Place::Network if bare.starts_with("/targets/") => "&page=target",
            Place::Network => "&page=network",
            Place::Incidents if bare.starts_with("/incidents/") => "&page=incident",
            Place::Incidents => "&page=incidents",
            Place::Tasks if bare == "/tasks/new" => "&page=newtask",
            Place::Tasks if bare.starts_with("/tasks/") => "&page=task",
            Place::Tasks => "&page=tasks",
            Place::Run => "&page=run",
            Place::Settings if bare == super::tokens::PATH => "&page=tokens",
            Place::Settings if bare == super::servers::PATH => "&page=servers",
            Place::Settings if bare == super::alerting::PATH => "&page=alerts",
            Place::Settings if bare == super::installer::PATH => "&page=installer",
            Place::Settings if bare == "/settings/targets" => "&page=settings",
            // Its own sentence stays; only the frame is live.
            Place::Settings => "&page=still",
        });
        Self {
            title: title.to_owned(),
            entries: entries(span, place, picture.open_incidents().count()),
            ranges,
            horizon: horizon::block(picture),
            verdict,
            palette: palette(picture),
            cluster_name: scene.cluster_name.clone(),
            node_name: own.map_or_else(|| scene.node_id.clone(), |machine| machine.node.name.clone()),
            machines: format::counted(picture.machines.len(), "machine", "machines"),
            version: scene.version.clone(),
            live,
            now_ms: scene.now_ms,
            zone_ms: scene.zone.offset_ms(scene.now_ms),
            newest_ms: newest_ms.unwrap_or(0),
            newest: newest_ms
                .map_or_else(|| "no data yet".to_owned(), |at| format!("as of {}", scene.zone.second(at))),
            reader,
        }
    }
}

fn entries(span: &Span, place: Place, open: usize) -> Vec<Entry> {
    let entry = |at, path: &str, name, icon, key, group| Entry {
        href: span.link(path),
        name,
        icon,
        key,
        current: at == place,
        group,
        badge: if at == Place::Incidents { open } else { 0 },
    };
    vec![
        entry(Place::Overview, "/", "Overview", "overview", "o", Some("Observe")),
        entry(Place::Machines, "/machines", "Machines", "machines", "m", None),
        entry(Place::Topology, "/topology", "Topology", "topology", "p", None),
        entry(Place::Network, "/network", "Network", "network", "n", None),
        entry(Place::Incidents, "/incidents", "Incidents", "incidents", "c", None),
        entry(Place::Tasks, "/tasks", "Tasks", "tasks", "t", Some("Operate")),
        entry(Place::Run, "/run", "Run", "play", "r", None),
        entry(Place::Settings, "/settings/targets", "Settings", "settings", "s", Some("Grow")),
    ]
}

/// What the palette offers: what needs attention first, then everything there is.
fn palette(picture: &Picture) -> Vec<Choices> {
    let span = &picture.scene.span;
    let plain = |href: String, name: &str, what, icon| Choice {
        href,
        name: name.to_owned(),
        note: String::new(),
        what,
        status: None,
        icon,
        key: "",
    };
    let mut urgent: Vec<Choice> = picture
        .open_incidents()
        .map(|incident| Choice {
            href: span.link(&incident_link(&incident.id)),
            name: words::headline(incident),
            note: String::new(),
            what: "Incident",
            status: Some(words::severity(incident)),
            icon: "",
            key: "",
        })
        .collect();
    urgent.extend(picture.unexplained().into_iter().map(|(pair, verdict)| Choice {
        href: span.link(&pair_link(pair.pair.client_id.as_str(), &pair.pair.target)),
        name: picture.target_name(&pair.pair.target).to_owned(),
        note: words::diagnosis(verdict, picture.target_name(&verdict.target)),
        what: "Verdict",
        status: Some(pair.status().0),
        icon: "",
        key: "",
    }));
    let machine_choice = |machine: &super::picture::Machine| Choice {
        href: span.link(&machine_link(&machine.node.name)),
        name: machine.node.name.clone(),
        note: machine.issues.first().map_or_else(String::new, |issue| words::issue(machine, issue)),
        what: "Machine",
        status: Some(machine.status),
        icon: "",
        key: "",
    };
    urgent.extend(
        picture.machines.iter().filter(|machine| machine.status.needs_attention()).map(machine_choice),
    );
    let places = vec![
        plain(span.link("/"), "Overview", "g o", "overview"),
        plain(span.link("/machines"), "Machines", "g m", "machines"),
        plain(span.link("/topology"), "Topology", "g p", "topology"),
        plain(span.link("/network"), "Network", "g n", "network"),
        plain(span.link("/incidents"), "Incidents", "g c", "incidents"),
        plain(span.link("/tasks"), "Tasks", "g t", "tasks"),
        plain(span.link("/run"), "Run a command on machines", "g r", "play"),
        Choice { key: "e", ..plain(span.link("/network/pipeline"), "Pipeline", "g e", "network") },
        plain("/settings/targets".to_owned(), "Probes and targets", "g s", "settings"),
        Choice { key: "j", ..plain("/settings/join-tokens".to_owned(), "Join tokens", "g j", "settings") },
        Choice { key: "i", ..plain(super::installer::PATH.to_owned(), "Node installer", "g i", "package") },
    ];
    let mut targets: Vec<Choice> = picture
        .pairs
        .iter()
        .map(|pair| Choice {
            href: span.link(&pair_link(pair.pair.client_id.as_str(), &pair.pair.target)),
            name: picture.target_name(&pair.pair.target).to_owned(),
            note: picture.probe_name(pair.pair.client_id.as_str()).to_owned(),
            what: "Target",
            status: Some(pair.status().0),
            icon: "",
            key: "",
        })
        .collect();
    targets.truncate(200);
    let probes = picture.probes().into_iter().take(200);
    let probes = probes.map(|id| plain(span.link(&probe_link(id)), picture.probe_name(id), "Probe", "probe"));
    let probes = probes.collect();
    urgent.truncate(8);
    [
        Choices { title: "Needs attention", entries: urgent },
        Choices { title: "Go to", entries: places },
        Choices {
            title: "Machines",
            entries: picture.machines.iter().take(200).map(machine_choice).collect(),
        },
        Choices { title: "Targets", entries: targets },
        Choices { title: "Probes", entries: probes },
        Choices {
            title: "Act",
            entries: vec![
                plain(span.link("/tasks/new"), "New task…", "Tasks", "plus"),
                plain("/settings/targets#add".to_owned(), "Add a target…", "Settings", "plus"),
                plain(span.link("/machines?ask=machine"), "Add a machine…", "Machines", "plus"),
                plain(span.link("/machines?ask=search"), "Discover network…", "Machines", "discover"),
            ],
        },
    ]
    .into_iter()
    .filter(|choices| !choices.entries.is_empty())
    .collect()
}

/// Address of a machine's page.
pub fn machine_link(name: &str) -> String {
    format!("/machines/{}", encode(name))
}

/// Address of a probe's page.
pub fn probe_link(client_id: &str) -> String {
    format!("/probes/{}", encode(client_id))
}

/// Address of an incident's page.
pub fn incident_link(id: &str) -> String {
    format!("/incidents/{}", encode(id))
}

/// Address of a target's page.
pub fn target_link(target: &Target) -> String {
    format!("/targets/{}", encode(target.target_id.as_str()))
}

/// Address of the network page with a pair chosen.
pub fn pair_link(probe: &str, target: &str) -> String {
    format!("/network?probe={}&target={}", encode(probe), encode(target))
}

/// Percent-encodes all but the unreserved characters of RFC 3986, so that the text stays one component.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A rendered page. Pages are personal and old at once, so nobody keeps them.
pub fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => {
            let mut response = (status, Html(html)).into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => {
            tracing::error!(%error, "failed to render a page");
            (StatusCode::INTERNAL_SERVER_ERROR, "The page could not be rendered.").into_response()
        }
    }
}

/// A moment with its exact form for hovering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// As shown.
    pub text: String,
    /// To the second, with the zone.
    pub exact: String,
    /// For machines.
    pub iso: String,
}

impl Moment {
    /// A moment as a clock time or a date.
    pub fn new(zone: &Zone, at_ms: i64, now_ms: i64) -> Self {
        Self { text: zone.moment(at_ms, now_ms), exact: zone.exact(at_ms), iso: Zone::iso(at_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_theme_is_read_from_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("caelum_session=x; caelum_theme=dark"));
        assert_eq!(Theme::of(&headers), Theme::Dark);
        headers.insert(header::COOKIE, HeaderValue::from_static("caelum_theme=\"><script>"));
        assert_eq!(Theme::of(&headers), Theme::System);
    }

    #[test]
    fn a_name_stays_one_component_of_an_address() {
        assert_eq!(machine_link("a/b?c#d é"), "/machines/a%2Fb%3Fc%23d%20%C3%A9");
        assert_eq!(
            pair_link("p&q", "https://x/?a=b"),
            "/network?probe=p%26q&target=https%3A%2F%2Fx%2F%3Fa%3Db"
        );
    }
}
