//! Pipeline: is everything that was accepted counted, and if not, where does it wait?
//!
//! Four stations in the order that an event passes them, who counts which partition, and what was kept aside
//! ([`super::letters`]). All of it from what the API answers, read once for each drawing.

use askama::Template;
use caelum_model::UnixMs;

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Place, Reader, Theme},
    letters::{self, Choice},
    mark::Status,
    picture::Picture,
    rates::{Look, Looks, Rates},
    words,
};
use crate::{
    api::pipeline::{self as api, DeadLetterJson, DeadLettersJson, PipelineHealthJson},
    error::ApiError,
    state::State,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "stations,partitions,aggregators,letters,letter";

/// Partitions that are listed at most; more are looked at through the API.
const PARTITIONS_MAX: usize = 256;

/// What the page shows beside the picture.
pub struct Sight {
    /// How the pipeline fares.
    pub health: PipelineHealthJson,
    /// How fast it goes.
    pub rates: Rates,
    /// Events that were kept aside, as the address filters them.
    pub letters: DeadLettersJson,
    /// The one that the address chooses.
    pub letter: Option<DeadLetterJson>,
    /// The oldest event that can still be counted after all.
    pub oldest_ms: UnixMs,
}

impl Sight {
    /// Reads what there is to see.
    pub async fn read(state: &State, looks: &Looks, choice: &Choice) -> Result<Self, ApiError> {
        let health = api::collect(state).await?;
        let rates = looks.add(Look {
            at_ms: health.timestamp,
            accepted: health.ingest.accepted,
            counted: health.partitions.iter().map(|partition| partition.counted).sum(),
        });
        let letters = api::list_dead_letters(state, choice.query()).await?;
        let letter = match choice.letter() {
            Some(id) => api::list_dead_letters(state, letters::one(id)).await?.dead_letters.pop(),
            None => None,
        };
        let letter = letter.filter(|letter| Some(letter.id) == choice.letter());
        let oldest_ms = state.settings.replay_from_ms(health.timestamp);
        Ok(Self { health, rates, letters, letter, oldest_ms })
    }
}

#[derive(Template)]
#[template(path = "pages/pipeline.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    said: Option<String>,
    stations: Block,
    partitions: Block,
    aggregators: Block,
    letters: Block,
    letter: Block,
}

/// The page.
pub fn page(picture: &Picture, sight: &Sight, reader: Reader, choice: &Choice) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let verdict = heading(picture, sight);
    Page {
        frame: Frame::new(picture, reader, Place::Network, "Pipeline", verdict, &choice.path(), TOPICS),
        theme,
        tabs: tabs(picture, "/network/pipeline"),
        said: choice.said(),
        stations: stations(picture, sight),
        partitions: partitions(picture, sight),
        aggregators: aggregators(sight),
        letters: letters::list(picture, sight, choice, may_operate),
        letter: letters::panel(picture, sight, choice, may_operate),
    }
}

fn heading(picture: &Picture, sight: &Sight) -> Block {
    frame::heading(&words::pipeline(&sight.health, &picture.scene.zone))
}

#[derive(Template)]
#[template(path = "blocks/tabs.html")]
struct Tabs {
    label: &'static str,
    tabs: Vec<(&'static str, String, bool)>,
}

/// The two sides of Network: what is experienced, and whether it is counted.
pub fn tabs(picture: &Picture, here: &str) -> Block {
    let tabs = [("Experience", "/network"), ("Mesh", super::mesh::PATH), ("Pipeline", "/network/pipeline")]
        .map(|(name, path)| (name, picture.scene.span.link(path), path == here));
    Block::render("tabs", "Network", &Tabs { label: "Network", tabs: tabs.into() })
}

/// The pages of Settings.
pub fn settings_tabs(here: &str) -> Block {
    let tabs = [
        ("Probes and targets", "/settings/targets"),
        ("Alerts", "/settings/alerts"),
        ("Join tokens", "/settings/join-tokens"),
        ("Servers", "/settings/servers"),
        ("Node installer", super::installer::PATH),
        ("Backups", super::backups::PATH),
    ]
    .map(|(name, path)| (name, path.to_owned(), path == here));
    Block::render("tabs", "Settings", &Tabs { label: "Settings", tabs: tabs.into() })
}

/// One place that every event passes.
struct Station {
    name: &'static str,
    icon: &'static str,
    /// `warn`, `crit` or nothing.
    level: &'static str,
    value: String,
    unit: &'static str,
    lines: Vec<String>,
}

#[derive(Template)]
#[template(path = "blocks/stations.html")]
struct Stations {
    stations: [Station; 4],
}

/// A rate with its unit, or why there is none.
fn rate(rate: Option<f64>) -> (String, &'static str) {
    match rate {
        Some(rate) => (format::number(rate), "events/s"),
        None => (format::ABSENT.to_owned(), "rate after a second look"),
    }
}

fn stations(picture: &Picture, sight: &Sight) -> Block {
    let (health, zone) = (&sight.health, &picture.scene.zone);
    let (ingest, queue) = (&health.ingest, &health.queue);
    let events = |count: u64| counted(usize::try_from(count).unwrap_or(usize::MAX), "event", "events");
    let (value, unit) = rate(sight.rates.accepted);
    let mut lines = vec![format!("{} accepted since the start", format::count(ingest.accepted))];
    lines.push(format!("{} sent twice", format::count(ingest.duplicate)));
    for (count, word) in [(ingest.rejected, "rejected"), (ingest.turned_away, "turned away")] {
        if count > 0 {
            lines.push(format!("{} {word}", format::count(count)));
        }
    }
    let taking = Station { name: "Ingest", icon: "intake", level: "", value, unit, lines };
    let waiting = words::uncounted(health);
    let held = vec![
        match queue.records {
            0 => "Nothing is held".to_owned(),
            records => format!(
                "{} held, about {}",
                counted(usize::try_from(records).unwrap_or(usize::MAX), "record", "records"),
                events(queue.events)
            ),
        },
        format::bytes(queue.bytes as f64).to_string(),
    ];
    let keeping = match &queue.problem {
        None => Station {
            name: "Queue",
            icon: "queue",
            level: "",
            value: format::count(waiting),
            unit: if waiting == 1 { "record waits" } else { "records wait" },
            lines: held,
        },
        Some(problem) => Station {
            name: "Queue",
            icon: "queue",
            level: "crit",
            value: "Away".to_owned(),
            unit: "does not answer",
            lines: vec![problem.clone(), "Probes keep what they measure and send it again.".to_owned()],
        },
    };
    let owned: usize = health.aggregators.iter().map(|aggregator| aggregator.partitions).sum();
    let orphans = health.partitions.len().saturating_sub(owned);
    let windows: u64 = health.aggregators.iter().map(|aggregator| aggregator.windows).sum();
    let counting = if health.aggregators.is_empty() {
        Station {
            name: "Aggregators",
            icon: "sum",
            level: "crit",
            value: "None".to_owned(),
            unit: "runs",
            lines: vec!["Events are kept and not counted.".to_owned()],
        }
    } else {
        let (value, unit) = rate(sight.rates.counted);
        let mut lines = vec![
            format!(
                "{} for {}",
                counted(health.aggregators.len(), "aggregator", "aggregators"),
                counted(health.partitions.len(), "partition", "partitions")
            ),
            format!("{} open", counted(usize::try_from(windows).unwrap_or(usize::MAX), "window", "windows")),
        ];
        if orphans > 0 {
            lines.push(format!("{} without an owner", counted(orphans, "partition", "partitions")));
        }
        let level = if orphans > 0 { "warn" } else { "" };
        Station { name: "Aggregators", icon: "sum", level, value, unit, lines }
    };
    let sum = |of: fn(&api::PartitionJson) -> u64| -> u64 { health.partitions.iter().map(of).sum() };
    let (value, unit) = match health.newest_event_ms {
        Some(newest) => (format::duration(health.timestamp.saturating_sub(newest)), "old is the newest"),
        None => (format::ABSENT.to_owned(), "no event yet"),
    };
    let mut lines = vec![
        format!("{} counted", events(sum(|partition| partition.counted))),
        format!(
            "{} duplicates left out, {} too late",
            format::count(sum(|partition| partition.duplicates)),
            format::count(sum(|partition| partition.too_late))
        ),
    ];
    lines.extend(replica(health, zone));
    let rows = Station { name: "Rows", icon: "rows", level: "", value, unit, lines };
    Block::render("stations", "Stations", &Stations { stations: [taking, keeping, counting, rows] })
}

/// Where rows are read, unless that is where they are written.
fn replica(health: &PipelineHealthJson, zone: &format::Zone) -> Option<String> {
    (health.reads_from == "replica").then(|| match (health.reads_as_of_ms, health.reads_lag_ms) {
        (Some(at), _) => format!("as of {}, from a replica", zone.second(at)),
        (None, Some(lag)) => format!("from a replica, {} behind", format::milliseconds(lag as f64)),
        (None, None) => "from a replica".to_owned(),
    })
}

struct PartitionRow {
    number: u16,
    status: Status,
    word: &'static str,
    owner: String,
    host: String,
    waiting: String,
    counted: String,
    duplicates: String,
    late: String,
}

#[derive(Template)]
#[template(path = "blocks/partitions.html")]
struct Partitions {
    rows: Vec<PartitionRow>,
    all: usize,
    more: usize,
    as_of: Option<String>,
    is_queue_known: bool,
}

fn partitions(picture: &Picture, sight: &Sight) -> Block {
    let health = &sight.health;
    let all = health.partitions.len();
    let rows: Vec<PartitionRow> = health
        .partitions
        .iter()
        .take(PARTITIONS_MAX)
        .map(|partition| {
            let owner = health
                .aggregators
                .iter()
                .find(|aggregator| Some(&aggregator.owner) == partition.owner.as_ref());
            let (status, word) = words::partition(partition, owner.is_some());
            PartitionRow {
                number: partition.partition,
                status,
                word,
                host: owner.map_or_else(String::new, |owner| owner.host.clone()),
                owner: partition.owner.clone().unwrap_or_default(),
                waiting: match health.queue.is_reachable {
                    true => format::count(partition.uncounted_records),
                    false => format::ABSENT.to_owned(),
                },
                counted: format::count(partition.counted),
                duplicates: format::count(partition.duplicates),
                late: format::count(partition.too_late),
            }
        })
        .collect();
    let template = Partitions {
        more: all - rows.len(),
        rows,
        all,
        as_of: replica(health, &picture.scene.zone),
        is_queue_known: health.queue.is_reachable,
    };
    Block::render("partitions", "Partitions", &template)
}

struct AggregatorRow {
    owner: String,
    host: String,
    facts: String,
    version: String,
}

#[derive(Template)]
#[template(path = "blocks/aggregators.html")]
struct Aggregators {
    rows: Vec<AggregatorRow>,
}

fn aggregators(sight: &Sight) -> Block {
    let rows = sight
        .health
        .aggregators
        .iter()
        .take(PARTITIONS_MAX)
        .map(|aggregator| AggregatorRow {
            owner: aggregator.owner.clone(),
            host: if aggregator.host.is_empty() { aggregator.owner.clone() } else { aggregator.host.clone() },
            facts: format!(
                "{}, {} open, {} counted since it started",
                counted(aggregator.partitions, "partition", "partitions"),
                counted(usize::try_from(aggregator.windows).unwrap_or(usize::MAX), "window", "windows"),
                format::count(aggregator.counted)
            ),
            version: aggregator.version.clone(),
        })
        .collect();
    Block::render("aggregators", "Aggregators", &Aggregators { rows })
}

/// Renders one block of this page by its live name.
pub fn block(
    name: &str,
    picture: &Picture,
    sight: &Sight,
    choice: &Choice,
    may_operate: bool,
) -> Option<Block> {
    Some(match name {
        "verdict" => heading(picture, sight),
        "stations" => stations(picture, sight),
        "partitions" => partitions(picture, sight),
        "aggregators" => aggregators(sight),
        "letters" => letters::list(picture, sight, choice, may_operate),
        "letter" => letters::panel(picture, sight, choice, may_operate),
        _ => return None,
    })
}
