//! The picture: everything that pages show, read once, as plain values.
//!
//! Pages are functions from a picture to HTML; they ask the store nothing. So a page is tested by painting
//! a picture by hand, and two blocks of one page can never disagree about what they saw.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use caelum_model::{
    UnixMs,
    alert::{Alert, Notice},
    cluster::Roster,
    diagnosis::{Diagnosis, Label, PairStatus, Standing},
    id::NodeId,
    incident::{Incident, PairRef},
    node::{Issue, Node, NodeSetting, Thresholds},
    probe::ProbeSetting,
    rollup::{MINUTE_MS, Measure},
    target::Target,
};
use caelum_store::{AlertQuery, IncidentQuery, NoticeQuery, RollupQuery, Store, StoreError};

use super::{
    format::Zone,
    history::{self, History, Pair, Reduced, Slot},
    mark::Status,
    range::Span,
    sparks::{Spark, Sparks},
};
use crate::api::nodes;

/// What "now" is on pages: the last five minutes.
pub const RECENT_MS: i64 = 5 * MINUTE_MS;
/// A verdict that was not renewed for this long no longer stands.
const VERDICT_HOLD_MS: i64 = 10 * MINUTE_MS;
/// Points of history a machine's chart has at most.
pub const CHART_POINTS: usize = 360;
/// Alerts read at most for what every page shows.
const ALERTS_MAX: usize = 200;
/// Notices read for what pages show.
const NOTICES_MAX: usize = 20;
/// Incidents read at most for what every page shows.
const INCIDENTS_MAX: usize = 200;
/// Verdict windows read at most.
const DIAGNOSES_MAX: usize = 20_000;

/// Where and for whom a picture is painted.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Now, by the server's clock.
    pub now_ms: UnixMs,
    /// The zone of clock times.
    pub zone: Zone,
    /// Range and window.
    pub span: Span,
    /// Thresholds of machines.
    pub thresholds: Thresholds,
    /// What this server believes about nodes, and which machines it heard.
    pub roster: Arc<Roster>,
    /// Whether this server listens for other machines.
    pub is_discovering: bool,
    /// How many addresses a search may try one by one.
    pub sweep: usize,
    /// The node that serves the page.
    pub node_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The version that serves.
    pub version: String,
}

/// A machine as it fares now.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The record.
    pub node: Node,
    /// How it fares.
    pub status: Status,
    /// What crosses a threshold, worst first.
    pub issues: Vec<Issue>,
    /// Time since its last sample, ms.
    pub age_ms: i64,
    /// Its processor use in the last hour.
    pub spark: Spark,
    /// What people said about it.
    pub setting: NodeSetting,
}

impl Machine {
    /// The thresholds that hold for it.
    pub fn thresholds(&self, scene: &Scene) -> Thresholds {
        self.setting.thresholds.unwrap_or(scene.thresholds)
    }
}

/// A pair as it stands now.
#[derive(Clone, Debug)]
pub struct PairNow {
    /// Which one.
    pub pair: Pair,
    /// The last five minutes.
    pub recent: Reduced,
    /// What is usual for it and how it stands.
    pub status: Option<PairStatus>,
}

impl PairNow {
    /// The verdict that stands on it.
    pub fn verdict(&self) -> Option<&Diagnosis> {
        self.status.as_ref().filter(|status| status.standing == Standing::Diagnosed)?.diagnosis.as_ref()
    }

    /// Its usual median of a measure.
    pub fn usual(&self, measure: Measure) -> Option<f64> {
        self.status.as_ref()?.usual.iter().find(|(known, _)| *known == measure).map(|(_, value)| *value)
    }

    /// Its status, with the word for it.
    pub fn status(&self) -> (Status, &'static str) {
        if let Some(verdict) = self.verdict() {
            return (severity(verdict, &self.recent), verdict.label.as_str());
        }
        if self.recent.count == 0 {
            return (Status::Off, "No data");
        }
        match self.status.as_ref().map(|status| status.standing) {
            Some(Standing::Suspect) => (Status::Info, "Unsettled"),
            Some(Standing::Usual | Standing::Diagnosed) => (Status::Ok, "As usual"),
            Some(Standing::Learning) | None => (Status::Queue, "Learning"),
        }
    }
}

/// How bad a verdict is: critical where nothing answers or the experience is poor, else a warning.
fn severity(verdict: &Diagnosis, recent: &Reduced) -> Status {
    let poor = recent.experience.is_some_and(|score| score < POOR_BELOW);
    if verdict.label == Label::Unreachable || poor { Status::Crit } else { Status::Warn }
}

/// Experience from here on is good.
pub const GOOD_FROM: f64 = 85.0;
/// Experience below this is poor.
pub const POOR_BELOW: f64 = 60.0;

/// The status and word of an experience score.
pub fn experience_status(score: f64) -> (Status, &'static str) {
    if score >= GOOD_FROM {
        (Status::Ok, "Good")
    } else if score >= POOR_BELOW {
        (Status::Warn, "Fair")
    } else {
        (Status::Crit, "Poor")
    }
}

/// A verdict over the time it stood.
#[derive(Clone, Debug)]
pub struct Spell {
    /// The newest of its windows.
    pub newest: Diagnosis,
    /// When it began.
    pub from_ms: UnixMs,
    /// End of the newest window.
    pub to_ms: UnixMs,
    /// Whether it still stands.
    pub open: bool,
}

/// Everything that pages show.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Where and when.
    pub scene: Scene,
    /// Machines, by name.
    pub machines: Vec<Machine>,
    /// What is measured.
    pub targets: Vec<Target>,
    /// Pairs, by probe and target.
    pub pairs: Vec<PairNow>,
    /// The range, in stretches.
    pub slots: Vec<Slot>,
    /// Verdicts of the range, oldest first.
    pub spells: Vec<Spell>,
    /// Incidents that are open or were in the range, newest first.
    pub incidents: Vec<Incident>,
    /// What is set for probes.
    pub probe_settings: Vec<ProbeSetting>,
    /// Alerts that stand, and those of the range that are over, newest first.
    pub alerts: Vec<Alert>,
    /// The newest notices, newest first.
    pub notices: Vec<Notice>,
}

impl Picture {
    /// Reads what there is to see.
    pub async fn read(
        store: &Store,
        history: &History,
        sparks: &Sparks,
        scene: Scene,
    ) -> Result<Self, StoreError> {
        let (now, span) = (scene.now_ms, scene.span);
        let mut machines = Vec::new();
        let mut settings: HashMap<NodeId, NodeSetting> = HashMap::new();
        for setting in store.node_settings().await? {
            settings.insert(setting.node_id.clone(), setting);
        }
        let drawn = sparks.at(store, now).await?;
        for node in store.nodes().await? {
            let spark = drawn.get(&node.node_id).cloned().unwrap_or_default();
            let setting = settings.remove(&node.node_id);
            machines.push(machine(node, setting, spark, &scene));
        }
        let alerts = store.alerts(AlertQuery { limit: ALERTS_MAX, ..AlertQuery::default() }).await?;
        let notices = store.notices(NoticeQuery { limit: NOTICES_MAX, ..NoticeQuery::default() }).await?;
        let targets = store.targets().await?;
        let rows = store
            .rollups(RollupQuery {
                width_ms: MINUTE_MS,
                from_ms: Some((now - RECENT_MS).div_euclid(MINUTE_MS) * MINUTE_MS),
                to_ms: Some(now + MINUTE_MS),
                limit: 5_000,
                ..RollupQuery::default()
            })
            .await?;
        let pairs = pairs_of(history::by_pair(&rows), store.pair_statuses().await?, &targets, now);
        let slots = history.slots(store, span.range, now).await?;
        let diagnoses = store.diagnoses(span.from_ms, now + MINUTE_MS, DIAGNOSES_MAX).await?;
        let spells = spells_of(diagnoses, &pairs, now);
        let incidents = store
            .incidents(IncidentQuery {
                from_ms: Some(span.from_ms),
                limit: INCIDENTS_MAX,
                ..IncidentQuery::default()
            })
            .await?;
        let probe_settings = store.probe_settings().await?;
        Ok(Self {
            scene,
            machines,
            targets,
            pairs,
            slots,
            spells,
            incidents,
            probe_settings,
            alerts,
            notices,
        })
    }

    /// A target's name where it has one, that of the machine behind it, else its URL without the scheme.
    pub fn target_name<'a>(&'a self, url: &'a str) -> &'a str {
        let named = self.targets.iter().find(|target| target.url == url && !target.name.is_empty());
        let name = named.map(|target| target.name.as_str()).or_else(|| self.machine_behind(url));
        name.unwrap_or_else(|| super::format::short_target(url))
    }

    /// The machine that a train goes to, by its address.
    fn machine_behind(&self, url: &str) -> Option<&str> {
        let address: SocketAddr = url.strip_prefix("stamp://")?.parse().ok()?;
        let has_it = |machine: &&Machine| {
            let mut own = machine.node.identity.addresses.iter();
            own.any(|own| own.parse() == Ok(address.ip()))
        };
        self.machines.iter().find(has_it).map(|machine| machine.node.name.as_str())
    }

    /// Whether a pair is there because machines measure each other, and not because somebody asked for it.
    pub fn is_mesh(&self, pair: &PairNow) -> bool {
        let url = &pair.pair.target;
        url.starts_with("stamp://") && !self.targets.iter().any(|target| target.url == *url)
    }

    /// A probe's name: that of the machine it runs on, where the machine is known, else its own.
    pub fn probe_name<'a>(&'a self, client_id: &'a str) -> &'a str {
        let machine = self.machines.iter().find(|machine| machine.node.node_id.as_str() == client_id);
        machine.map_or(client_id, |machine| &machine.node.name)
    }

    /// What is set for a probe, if anything is.
    pub fn probe_setting(&self, client_id: &str) -> Option<&ProbeSetting> {
        self.probe_settings.iter().find(|setting| setting.client_id.as_str() == client_id)
    }

    /// Alerts that stand, the worst first, then the oldest.
    pub fn open_alerts(&self) -> Vec<&Alert> {
        let mut open: Vec<&Alert> =
            self.alerts.iter().filter(|alert| alert.resolved_at_ms.is_none()).collect();
        open.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.raised_at_ms));
        open
    }

    /// Verdicts that stand now, the worst first, then the oldest.
    pub fn verdicts(&self) -> Vec<(&PairNow, &Diagnosis)> {
        let mut standing: Vec<_> =
            self.pairs.iter().filter_map(|pair| Some((pair, pair.verdict()?))).collect();
        standing.sort_by_key(|(pair, verdict)| (std::cmp::Reverse(pair.status().0), verdict.since_ms));
        standing
    }

    /// Incidents that are open, the worst first, then the oldest.
    pub fn open_incidents(&self) -> impl Iterator<Item = &Incident> {
        let mut open: Vec<&Incident> =
            self.incidents.iter().filter(|incident| incident.closed_window_ms.is_none()).collect();
        open.sort_by_key(|incident| (std::cmp::Reverse(incident.severity), incident.opened_window_ms));
        open.into_iter()
    }

    /// Verdicts that stand and that no open incident accounts for.
    pub fn unexplained(&self) -> Vec<(&PairNow, &Diagnosis)> {
        let touched: HashSet<PairRef> =
            self.open_incidents().flat_map(|incident| incident.pairs.iter().cloned()).collect();
        let mut verdicts = self.verdicts();
        verdicts.retain(|(pair, _)| {
            !touched.contains(&PairRef {
                client_id: pair.pair.client_id.clone(),
                target: pair.pair.target.clone(),
                family: pair.pair.family,
            })
        });
        verdicts
    }

    /// Mean experience now, over all pairs with data.
    pub fn experience(&self) -> Option<f64> {
        history::mean(self.pairs.iter().filter_map(|pair| pair.recent.experience))
    }

    /// The experience that is usual in the range, where there is enough of it to say.
    pub fn usual_experience(&self) -> Option<f64> {
        self.usual_of(Slot::experience)
    }

    /// What is usual in the range for a number of a stretch, where there is enough of it to say.
    pub fn usual_of(&self, value: impl Fn(&Slot) -> Option<f64>) -> Option<f64> {
        let known: Vec<f64> = self.slots.iter().filter_map(value).collect();
        (known.len() >= 10).then(|| history::median(known)).flatten()
    }

    /// The newest moment anything was heard, for the age beside *Live*.
    pub fn newest_ms(&self) -> Option<UnixMs> {
        let samples = self.machines.iter().map(|machine| machine.node.seen_at_ms);
        let events = self.pairs.iter().map(|pair| pair.recent.last.ts_ms).filter(|ts| *ts > 0);
        samples.chain(events).max().map(|newest| newest.min(self.scene.now_ms))
    }

    /// Probes that are known, by name.
    pub fn probes(&self) -> Vec<&str> {
        let mut probes: Vec<&str> = self.pairs.iter().map(|pair| pair.pair.client_id.as_str()).collect();
        probes.dedup();
        probes
    }
}

/// A machine with its health.
pub fn machine(node: Node, setting: Option<NodeSetting>, spark: Spark, scene: &Scene) -> Machine {
    let age_ms = (scene.now_ms - node.seen_at_ms).max(0);
    let setting = setting.unwrap_or_else(|| NodeSetting::usual(node.node_id.clone()));
    let health = nodes::judge_as(&node, Some(&setting), &scene.roster, scene.now_ms, &scene.thresholds);
    Machine { status: health.level.into(), issues: health.issues, age_ms, node, spark, setting }
}

/// Pairs that have recent data, stand under watch, or neither any more but are still a target.
pub fn pairs_of(
    recent: history::Stretch,
    statuses: Vec<PairStatus>,
    targets: &[Target],
    now_ms: UnixMs,
) -> Vec<PairNow> {
    let mut known: HashMap<Pair, PairStatus> = statuses
        .into_iter()
        .filter(|status| {
            targets.iter().any(|target| target.url == status.target)
                || now_ms - status.window_start_ms < 86_400_000
        })
        .map(|status| {
            let pair = Pair {
                client_id: status.client_id.clone(),
                target: status.target.clone(),
                family: status.family,
            };
            (pair, status)
        })
        .collect();
    for status in known.values_mut() {
        if now_ms - status.window_start_ms > VERDICT_HOLD_MS && status.standing == Standing::Diagnosed {
            status.standing = Standing::Learning;
        }
    }
    let mut pairs: Vec<PairNow> = recent
        .into_iter()
        .map(|(pair, recent)| PairNow { status: known.remove(&pair), pair, recent })
        .collect();
    pairs.extend(known.into_iter().map(|(pair, status)| PairNow {
        pair,
        recent: Reduced::default(),
        status: Some(status),
    }));
    pairs.sort_by(|a, b| a.pair.cmp(&b.pair));
    pairs
}

/// Verdict windows joined to spells: same pair, same label, same beginning.
pub fn spells_of(diagnoses: Vec<Diagnosis>, pairs: &[PairNow], now_ms: UnixMs) -> Vec<Spell> {
    let mut spells: Vec<Spell> = Vec::new();
    for diagnosis in diagnoses {
        let to_ms = diagnosis.window_start_ms + MINUTE_MS;
        let same = spells.iter_mut().rev().find(|spell| {
            let known = &spell.newest;
            known.since_ms == diagnosis.since_ms
                && known.label == diagnosis.label
                && known.client_id == diagnosis.client_id
                && known.target == diagnosis.target
                && known.family == diagnosis.family
        });
        match same {
            Some(spell) => {
                spell.to_ms = spell.to_ms.max(to_ms);
                spell.newest = diagnosis;
            }
            None => spells.push(Spell { from_ms: diagnosis.since_ms, to_ms, newest: diagnosis, open: false }),
        }
    }
    for spell in &mut spells {
        spell.open = pairs.iter().any(|pair| {
            pair.pair.client_id == spell.newest.client_id
                && pair.pair.target == spell.newest.target
                && pair.pair.family == spell.newest.family
                && pair.verdict().is_some_and(|verdict| {
                    verdict.label == spell.newest.label && verdict.since_ms == spell.newest.since_ms
                })
        });
        if spell.open {
            spell.to_ms = now_ms;
        }
    }
    spells
}
