//! One machine: what is it doing, and why?

use askama::Template;
use caelum_model::node::{Level, Metric, NodePoint};

use super::{
    alerting,
    block::Block,
    charts::{self, MachineChart},
    format::{self, Quantity, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    picture::{Machine, Picture},
    words,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "machine-charts,issues,cores,disks,interfaces,sensors,identity";

#[derive(Template)]
#[template(path = "pages/machine.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    charts: Block,
    issues: Block,
    cores: Block,
    disks: Block,
    interfaces: Block,
    sensors: Block,
    identity: Block,
    /// What people said about it, as a form.
    setting: Setting,
}

struct Setting {
    action: String,
    group: String,
    tags: String,
    is_draining: bool,
    muted: Option<Moment>,
    may_operate: bool,
}

impl Setting {
    fn of(picture: &Picture, machine: &Machine, may_operate: bool) -> Self {
        let (scene, setting) = (&picture.scene, &machine.setting);
        let muted = setting.muted_until_ms.filter(|until| *until > scene.now_ms);
        Self {
            action: format!("{}/setting", frame::machine_link(&machine.node.name)),
            group: setting.group.clone().unwrap_or_default(),
            tags: setting.tags.join(" "),
            is_draining: setting.draining,
            muted: muted.map(|until| Moment::new(&scene.zone, until, scene.now_ms)),
            may_operate,
        }
    }
}

/// The page.
pub fn page(
    picture: &Picture,
    machine: &Machine,
    points: &[NodePoint],
    reader: Reader,
) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let path = frame::machine_link(&machine.node.name);
    Page {
        setting: Setting::of(picture, machine, may_operate),
        frame: Frame::new(
            picture,
            reader,
            Place::Machines,
            &machine.node.name,
            heading(picture, machine),
            &path,
            TOPICS,
        ),
        theme,
        charts: machine_charts(picture, machine, points),
        issues: issues(picture, machine, may_operate),
        cores: cores(machine),
        disks: disks(picture, machine),
        interfaces: interfaces(machine),
        sensors: sensors(machine),
        identity: identity(picture, machine),
    }
}

fn heading(picture: &Picture, machine: &Machine) -> Block {
    let identity = &machine.node.identity;
    let mut facts = Vec::new();
    facts.extend(identity.addresses.first().cloned());
    if !identity.os.is_empty() {
        facts.push(format!("{}, {}", identity.os, identity.arch));
    }
    if let Some(sample) = &machine.node.sample {
        facts.push(format!(
            "{}, {}",
            counted(identity.cpu_cores as usize, "core", "cores"),
            format::memory(sample.memory.total_bytes as f64)
        ));
        facts.push(format!("up {}", format::duration(sample.uptime_seconds as i64 * 1000)));
    }
    if machine.node.is_heard() {
        facts.push(format!("heartbeat {} ago", format::duration(machine.age_ms)));
    }
    if machine.setting.draining {
        facts.push("draining".to_owned());
    }
    facts.extend(machine.setting.group.clone());
    facts.extend(machine.setting.tags.iter().take(8).cloned());
    let back = ("Machines", picture.scene.span.link("/machines"));
    frame::detail_heading(&words::machine(machine), back, &facts)
}

struct Drawn {
    title: &'static str,
    name: &'static str,
    keys: Vec<(&'static str, &'static str)>,
    now: String,
    of: String,
    plot: Block,
}

#[derive(Template)]
#[template(path = "blocks/machine_charts.html")]
struct Charts {
    window: String,
    charts: Vec<Drawn>,
    stale: Option<String>,
}

/// The six charts.
pub fn machine_charts(picture: &Picture, machine: &Machine, points: &[NodePoint]) -> Block {
    let scene = &picture.scene;
    let (from, to) = scene.span.shown();
    let charts = charts::machine(picture, machine, points)
        .into_iter()
        .map(|MachineChart { title, keys, of, plot }| Drawn {
            title,
            name: plot.name,
            keys,
            now: plot.now(),
            of,
            plot: Block::render(plot.name, title, &plot.svg(&scene.zone)),
        })
        .collect();
    let stale = machine.age_ms > 30_000;
    let template = Charts {
        window: format!(
            "{} to {}",
            scene.zone.moment(from, scene.now_ms),
            scene.zone.moment(to, scene.now_ms)
        ),
        charts,
        stale: stale.then(|| format!("{} old", format::duration(machine.age_ms))),
    };
    Block::render("machine-charts", "Charts", &template)
}

struct IssueRow {
    status: Status,
    text: String,
    limit: String,
    /// The alert that it has become.
    alert: String,
    answer: Block,
}

#[derive(Template)]
#[template(path = "blocks/issues.html")]
struct Issues {
    rows: Vec<IssueRow>,
    has_alert: bool,
}

fn issues(picture: &Picture, machine: &Machine, may_operate: bool) -> Block {
    let thresholds = machine.thresholds(&picture.scene);
    let mut open = picture.open_alerts();
    open.retain(|alert| alert.node_id == machine.node.node_id);
    let alert_of = |metric| {
        let found = open.iter().find(|alert| alert.metric == metric);
        found.map_or_else(String::new, |alert| format!("alert {}", words::alert(alert, picture.scene.now_ms)))
    };
    let answer_of = |metric| {
        let found = open.iter().find(|alert| alert.metric == metric);
        found.map_or_else(Block::none, |alert| alerting::answer(alert, "machine", may_operate))
    };
    let ending = open.iter().filter(|alert| machine.issues.iter().all(|issue| issue.metric != alert.metric));
    let ending: Vec<IssueRow> = ending
        .map(|alert| IssueRow {
            status: Status::Info,
            text: words::nonbreaking(&alert.message),
            limit: "no longer, and soon over".to_owned(),
            alert: alert_of(alert.metric),
            answer: answer_of(alert.metric),
        })
        .collect();
    let rows = machine
        .issues
        .iter()
        .map(|issue| IssueRow {
            alert: alert_of(issue.metric),
            answer: answer_of(issue.metric),
            status: issue.severity.into(),
            text: words::issue(machine, issue),
            limit: match (issue.metric, issue.severity) {
                (Metric::Heartbeat, _) => {
                    format!(
                        "offline after {}",
                        format::duration(thresholds.heartbeat_timeout_s as i64 * 1000)
                    )
                }
                (Metric::Load, level) => format!("{} from {}", word(level), format::number(issue.threshold)),
                (Metric::Cpu | Metric::Memory | Metric::Disk, level) => {
                    format!("{} from {}", word(level), format::percent(issue.threshold))
                }
            },
        })
        .chain(ending)
        .collect();
    Block::render("issues", "Thresholds", &Issues { rows, has_alert: !open.is_empty() })
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Healthy => "healthy",
        Level::Warning => "warning",
        Level::Critical => "critical",
        Level::Offline => "offline",
    }
}

#[derive(Template)]
#[template(path = "blocks/cores.html")]
struct Cores {
    cores: Vec<(usize, String, String)>,
    processes: String,
}

fn cores(machine: &Machine) -> Block {
    let sample = machine.node.sample.as_ref();
    let each = sample.map(|sample| sample.cpu_core_percent.as_slice()).unwrap_or_default();
    let cores = each
        .iter()
        .take(256)
        .enumerate()
        .map(|(index, percent)| (index, format::whole(*percent), format!("{:.1}", percent.clamp(0.0, 100.0))))
        .collect();
    let processes =
        sample.map_or_else(|| format::ABSENT.to_owned(), |sample| format::count(sample.process_count));
    Block::render("cores", "Processors", &Cores { cores, processes })
}

struct DiskRow {
    mount: String,
    device: String,
    used: String,
    percent: String,
    value: String,
    level: &'static str,
    rates: String,
}

#[derive(Template)]
#[template(path = "blocks/disks.html")]
struct Disks {
    rows: Vec<DiskRow>,
}

fn disks(picture: &Picture, machine: &Machine) -> Block {
    let limit = machine.thresholds(&picture.scene).disk;
    let known = machine.node.sample.as_ref().map(|sample| sample.disks.as_slice()).unwrap_or_default();
    let rows = known
        .iter()
        .take(32)
        .map(|disk| {
            let percent = disk.space.percent();
            DiskRow {
                mount: disk.mount.clone(),
                device: format!("{} {}", disk.device, disk.file_system),
                used: format!(
                    "{} of {}",
                    format::bytes(disk.space.used_bytes as f64),
                    format::bytes(disk.space.total_bytes as f64)
                ),
                percent: percent
                    .map_or_else(|| format::ABSENT.to_owned(), |value| format::percent(value).to_string()),
                value: format!("{:.1}", percent.unwrap_or(0.0)),
                level: match percent {
                    Some(value) if value >= limit.critical => "crit",
                    Some(value) if value >= limit.warning => "warn",
                    _ => "",
                },
                rates: format!(
                    "{} read, {} written",
                    format::bytes_per_s(disk.read_bytes_per_s),
                    format::bytes_per_s(disk.written_bytes_per_s)
                ),
            }
        })
        .collect();
    Block::render("disks", "Disks", &Disks { rows })
}

struct InterfaceRow {
    name: String,
    received: Quantity,
    sent: Quantity,
    errors: u64,
}

#[derive(Template)]
#[template(path = "blocks/interfaces.html")]
struct Interfaces {
    rows: Vec<InterfaceRow>,
}

fn interfaces(machine: &Machine) -> Block {
    let known = machine.node.sample.as_ref().map(|sample| sample.interfaces.as_slice()).unwrap_or_default();
    let rows = known
        .iter()
        .take(32)
        .map(|interface| InterfaceRow {
            name: interface.name.clone(),
            received: format::bytes_per_s(interface.received_bytes_per_s),
            sent: format::bytes_per_s(interface.sent_bytes_per_s),
            errors: interface.receive_errors + interface.send_errors,
        })
        .collect();
    Block::render("interfaces", "Interfaces", &Interfaces { rows })
}

#[derive(Template)]
#[template(path = "blocks/sensors.html")]
struct Sensors {
    rows: Vec<(String, String, &'static str)>,
}

fn sensors(machine: &Machine) -> Block {
    let known = machine.node.sample.as_ref().map(|sample| sample.temperatures.as_slice()).unwrap_or_default();
    let rows = known
        .iter()
        .take(32)
        .map(|sensor| {
            let hot = sensor.critical_celsius.is_some_and(|limit| sensor.celsius >= limit);
            (sensor.label.clone(), format!("{:.0}", sensor.celsius), if hot { "crit" } else { "" })
        })
        .collect();
    Block::render("sensors", "Sensors", &Sensors { rows })
}

#[derive(Template)]
#[template(path = "blocks/identity.html")]
struct Identity {
    node_id: String,
    version: String,
    joined: Moment,
    cpu: String,
    kernel: String,
    roles: Vec<String>,
    /// Where the page of its probe is, if it is one.
    probe: Option<String>,
    addresses: Vec<String>,
    trust: String,
    buffered: String,
}

fn identity(picture: &Picture, machine: &Machine) -> Block {
    let node = &machine.node;
    let scene = &picture.scene;
    let template = Identity {
        node_id: node.node_id.to_string(),
        version: node.version.clone(),
        joined: Moment::new(&scene.zone, node.joined_at_ms, scene.now_ms),
        cpu: node.identity.cpu.clone(),
        kernel: node.identity.kernel.clone(),
        roles: node.roles.clone(),
        probe: picture
            .probes()
            .contains(&node.node_id.as_str())
            .then(|| picture.scene.span.link(&frame::probe_link(node.node_id.as_str()))),
        addresses: node.identity.addresses.iter().take(8).cloned().collect(),
        trust: words::trust(&node.links),
        buffered: words::buffered(&node.links),
    };
    Block::render("identity", "Identity", &template)
}

/// Renders one block of this page by its live name; the charts travel as points instead.
pub fn block(name: &str, picture: &Picture, machine: &Machine, may_operate: bool) -> Option<Block> {
    Some(match name {
        "verdict" => heading(picture, machine),
        "issues" => issues(picture, machine, may_operate),
        "cores" => cores(machine),
        "disks" => disks(picture, machine),
        "interfaces" => interfaces(machine),
        "sensors" => sensors(machine),
        "identity" => identity(picture, machine),
        _ => return None,
    })
}
