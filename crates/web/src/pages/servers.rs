//! Settings, servers: which of several live, by what they know of each other, and what stands before them.

use askama::Template;
use caelum_engine::timestamp;

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    pipeline,
    words::Verdict,
};
use crate::api::fleet::{FleetStatusJson, ServerJson};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "servers,coordination,master-key";
/// Where it is.
pub const PATH: &str = "/settings/servers";

struct Row {
    id: String,
    name: String,
    status: Status,
    word: &'static str,
    is_this: bool,
    heard: String,
    facts: String,
    places: String,
}

#[derive(Template)]
#[template(path = "blocks/servers.html")]
struct List {
    rows: Vec<Row>,
    is_enabled: bool,
}

#[derive(Template)]
#[template(path = "blocks/coordination.html")]
struct Coordination {
    is_enabled: bool,
    status: Status,
    word: &'static str,
    backend: String,
    address: String,
    error: String,
    beats: String,
    cluster: String,
    certificate: String,
}

struct Waiting {
    id: String,
    name: String,
    why: String,
}

#[derive(Template)]
#[template(path = "blocks/master_key.html")]
struct MasterKey {
    is_known: bool,
    status: Status,
    word: &'static str,
    generation: u64,
    made: String,
    is_handing_over: bool,
    waiting: Vec<Waiting>,
}

#[derive(Template)]
#[template(path = "pages/servers.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    servers: Block,
    coordination: Block,
    master_key: Block,
    is_enabled: bool,
    is_handing_over: bool,
    may_operate: bool,
    may_admin: bool,
}

/// What a page about servers knows beside the fleet.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Name of the cluster.
    pub cluster_name: String,
    /// SHA-256 of this server's certificate.
    pub certificate_fingerprint: String,
    /// Whether whoever looks may replace the master key. Of the page only: no block depends on it.
    pub may_admin: bool,
}

/// The page.
pub fn page(
    picture: &Picture,
    reader: Reader,
    fleet: &FleetStatusJson,
    about: &About,
) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let verdict = frame::heading(&verdict(fleet));
    Page {
        frame: Frame::new(picture, reader, Place::Settings, "Servers", verdict, PATH, TOPICS),
        theme,
        tabs: pipeline::settings_tabs(PATH),
        servers: list(fleet),
        coordination: coordination(fleet, about),
        master_key: master_key(fleet),
        is_enabled: fleet.enabled,
        is_handing_over: fleet.master_key.as_ref().is_some_and(|key| key.handing_over),
        may_operate,
        may_admin: about.may_admin,
    }
}

/// The page in one sentence.
fn verdict(fleet: &FleetStatusJson) -> Verdict {
    if !fleet.enabled {
        return Verdict {
            status: Status::Off,
            sentence: "This server is alone.".to_owned(),
            lede: "Its records are a file of this machine. With records that several servers share, any of them \
                   may die, and pages go on at another."
                .to_owned(),
        };
    }
    let away = match fleet.error {
        Some(_) => "This server does not see the others; it serves on, and is left out by load balancers.",
        None => "Each serves every page and every agent, and knows every session.",
    };
    let (status, sentence) = match (&fleet.error, fleet.active_nodes, fleet.inactive_nodes) {
        (Some(_), ..) => (Status::Crit, "What the servers coordinate by cannot be reached.".to_owned()),
        (None, 0 | 1, 0) => (Status::Warn, "One server lives; none could take over.".to_owned()),
        (None, active, 0) => (Status::Ok, format!("All {active} servers live.")),
        (None, active, gone) => {
            let live = counted(active, "server lives", "servers live");
            (Status::Warn, format!("{live}, {gone} of {} cannot be seen.", fleet.total_nodes))
        }
    };
    Verdict { status, sentence, lede: away.to_owned() }
}

fn list(fleet: &FleetStatusJson) -> Block {
    let rows = fleet.nodes.iter().map(row).collect();
    Block::render("servers", "Servers", &List { rows, is_enabled: fleet.enabled })
}

fn row(server: &ServerJson) -> Row {
    let is_active = server.status == "active";
    let heard = match (server.is_this, server.last_heartbeat_age_ms) {
        (true, _) => "answers this page".to_owned(),
        (false, Some(age_ms)) => format!("heard {} ago", format::duration(age_ms)),
        (false, None) => "not heard since this server began".to_owned(),
    };
    let mut facts: Vec<String> = Vec::new();
    facts.extend(server.version.as_ref().map(|version| format!("Caelum {version}")));
    facts.extend(
        server
            .uptime_seconds
            .map(|seconds| format!("up for {}", format::duration(seconds.saturating_mul(1_000)))),
    );
    Row {
        id: server.node_id.to_string(),
        name: server.name.clone(),
        status: if is_active { Status::Ok } else { Status::Off },
        word: if is_active { "Active" } else { "Inactive" },
        is_this: server.is_this,
        heard,
        facts: facts.join(", "),
        places: server.servers.iter().take(3).cloned().collect::<Vec<_>>().join(" "),
    }
}

fn coordination(fleet: &FleetStatusJson, about: &About) -> Block {
    let (status, word) = match (fleet.enabled, &fleet.error) {
        (false, _) => (Status::Off, "Alone"),
        (true, None) => (Status::Ok, "Answers"),
        (true, Some(_)) => (Status::Crit, "Away"),
    };
    let name = match fleet.backend {
        Some("postgres") => "the records, on PostgreSQL",
        Some("sqlite") => "the records, in a file",
        Some("redis") => "Redis",
        Some("file") => "a shared directory",
        _ => "nothing",
    };
    let block = Coordination {
        is_enabled: fleet.enabled,
        status,
        word,
        backend: name.to_owned(),
        address: fleet.address.clone().unwrap_or_default(),
        error: fleet.error.clone().unwrap_or_default(),
        beats: format!(
            "every {} s; silent for {} s counts as gone",
            fleet.heartbeat_interval_s, fleet.node_timeout_s
        ),
        cluster: about.cluster_name.clone(),
        certificate: about.certificate_fingerprint.clone(),
    };
    Block::render("coordination", "This cluster", &block)
}

fn master_key(fleet: &FleetStatusJson) -> Block {
    let key = fleet.master_key.as_ref();
    let waiting: Vec<Waiting> = key
        .into_iter()
        .flat_map(|key| &key.servers)
        .filter_map(|server| {
            let (id, name) = (server.node_id.to_string(), server.name.clone());
            Some(Waiting { id, name, why: server.waits.clone()? })
        })
        .collect();
    let is_handing_over = key.is_some_and(|key| key.handing_over);
    let (status, word) = match (key.is_some(), is_handing_over, waiting.is_empty()) {
        (false, ..) => (Status::Off, "Not known"),
        (true, false, _) => (Status::Ok, "One key"),
        (true, true, true) => (Status::Ok, "May be finished"),
        (true, true, false) => (Status::Warn, "Being handed over"),
    };
    let made = key.and_then(|key| Some((key.changed_at_ms?, key.changed_by.as_ref()?)));
    let block = MasterKey {
        is_known: key.is_some(),
        status,
        word,
        generation: key.map_or(0, |key| key.generation),
        made: made.map_or_else(
            || "with the cluster".to_owned(),
            |(at_ms, by)| format!("{} by {by}", timestamp::iso(at_ms)),
        ),
        is_handing_over,
        waiting,
    };
    Block::render("master-key", "Master key", &block)
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, fleet: &FleetStatusJson, about: &About) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&verdict(fleet)),
        "servers" => list(fleet),
        "coordination" => coordination(fleet, about),
        "master-key" => master_key(fleet),
        _ => return None,
    })
}
