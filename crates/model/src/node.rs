//! A machine that has joined, its health levels and the thresholds they come from.

use serde::{Deserialize, Serialize};

use crate::{
    UnixMs,
    cluster::{Ceiling, NodeRole, Service},
    host::{HostIdentity, HostSample},
    id::NodeId,
};

/// How a node fares. The order is the order of worry.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing crosses a threshold.
    Healthy,
    /// A metric reached its warning threshold.
    Warning,
    /// A metric reached its critical threshold.
    Critical,
    /// No sample for longer than the heartbeat time-out.
    Offline,
}

impl Level {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Offline => "offline",
        }
    }
}

/// Where a metric becomes a warning and where critical; a value equal to the threshold has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Threshold {
    /// From here on: warning.
    pub warning: f64,
    /// From here on: critical.
    pub critical: f64,
}

/// All thresholds of a node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Thresholds {
    /// Processor use, percent.
    pub cpu: Threshold,
    /// Memory use, percent.
    pub memory: Threshold,
    /// Use of the fullest file system, percent.
    pub disk: Threshold,
    /// 1-minute load average.
    pub load: Threshold,
    /// Whether `load` is meant per logical processor.
    pub load_per_core: bool,
    /// Silence after which a node is offline, s.
    pub heartbeat_timeout_s: u64,
    /// How long a threshold must be reached before there is an alert, s.
    #[serde(default = "alert_hold_s")]
    pub alert_hold_s: u64,
    /// How long a value must be below its threshold by the margin before its alert is over, s.
    #[serde(default = "alert_clear_s")]
    pub alert_clear_s: u64,
    /// How far below, points of a percentage; for load, percent of the threshold, twice as many.
    #[serde(default = "alert_margin")]
    pub alert_margin: f64,
}

fn alert_hold_s() -> u64 {
    30
}

fn alert_clear_s() -> u64 {
    60
}

fn alert_margin() -> f64 {
    5.0
}

impl Default for Thresholds {
    /// The defaults of the cluster set-up guide (seed 003).
    fn default() -> Self {
        Self {
            cpu: Threshold { warning: 80.0, critical: 95.0 },
            memory: Threshold { warning: 85.0, critical: 95.0 },
            disk: Threshold { warning: 80.0, critical: 90.0 },
            load: Threshold { warning: 4.0, critical: 8.0 },
            load_per_core: false,
            heartbeat_timeout_s: 120,
            alert_hold_s: alert_hold_s(),
            alert_clear_s: alert_clear_s(),
            alert_margin: alert_margin(),
        }
    }
}

/// Which metric an issue is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Processor use.
    Cpu,
    /// Memory use.
    Memory,
    /// Use of the fullest file system.
    Disk,
    /// Load average.
    Load,
    /// Time since the last sample.
    Heartbeat,
}

impl Metric {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Load => "load",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// One threshold that is crossed now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Issue {
    /// Which metric.
    pub metric: Metric,
    /// How bad.
    pub severity: Level,
    /// A sentence fragment for people.
    pub message: String,
    /// The value now.
    pub value: f64,
    /// The threshold it reached.
    pub threshold: f64,
}

/// The record kept of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Identity.
    pub node_id: NodeId,
    /// Name people use; the host name unless configured.
    pub name: String,
    /// Facts about the host.
    pub identity: HostIdentity,
    /// Roles it runs.
    pub roles: Vec<String>,
    /// Version of Caelum it runs.
    pub version: String,
    /// When it was first recorded.
    pub joined_at_ms: UnixMs,
    /// When the last sample arrived, by the server's clock.
    pub seen_at_ms: UnixMs,
    /// The last sample, if there was one.
    pub sample: Option<HostSample>,
    /// What only nodes that linked have told.
    #[serde(default)]
    pub links: LinkFacts,
}

impl Node {
    /// Whether it has ever said anything; one that was registered by hand has not at first.
    pub fn is_heard(&self) -> bool {
        self.sample.is_some() || !self.version.is_empty()
    }
}

/// What a node told when it linked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkFacts {
    /// What its certificate says it is.
    pub role: Option<NodeRole>,
    /// The most it lets anybody do.
    pub ceiling: Ceiling,
    /// The address its link comes from.
    pub address: String,
    /// TCP port of its links.
    pub websocket_port: u16,
    /// What it offers.
    pub services: Vec<Service>,
    /// Words it can be chosen by.
    pub capabilities: Vec<String>,
    /// Samples that it could only hand over later, in all.
    pub buffered_points: u64,
    /// Samples that did not fit into its buffer and are gone.
    pub dropped_points: u64,
}

/// What people said about a node. One nobody said anything about has what [`NodeSetting::usual`] says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeSetting {
    /// The node.
    pub node_id: NodeId,
    /// Site, rack or team that it is listed under.
    pub group: Option<String>,
    /// Free words that it can be chosen by: `web`, `site=berlin`.
    pub tags: Vec<String>,
    /// Whether it is to finish what it has and take no more work.
    pub draining: bool,
    /// Thresholds of its own, instead of the cluster's.
    pub thresholds: Option<Thresholds>,
    /// Until when nothing is said about it.
    pub muted_until_ms: Option<UnixMs>,
    /// Port of its SSH server, where it is not the one of the settings.
    #[serde(default)]
    pub ssh_port: Option<u16>,
    /// User to sign in as over SSH, where it is not the one of the settings.
    #[serde(default)]
    pub ssh_user: Option<String>,
    /// When it was changed last.
    pub updated_at_ms: UnixMs,
}

impl NodeSetting {
    /// What holds for a node that nothing is set for.
    pub fn usual(node_id: NodeId) -> Self {
        Self {
            node_id,
            group: None,
            tags: Vec::new(),
            draining: false,
            thresholds: None,
            muted_until_ms: None,
            ssh_port: None,
            ssh_user: None,
            updated_at_ms: 0,
        }
    }
}

/// One point of a node's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodePoint {
    /// When, by the server's clock.
    pub at_ms: UnixMs,
    /// Processor use, percent.
    pub cpu_percent: f64,
    /// Memory use, percent.
    pub memory_percent: f64,
    /// Swap use, percent; absent without swap.
    pub swap_percent: Option<f64>,
    /// Fullest file system, percent; absent without disks.
    pub disk_percent: Option<f64>,
    /// 1-minute load average.
    pub load_1: f64,
    /// 5-minute load average.
    pub load_5: f64,
    /// 15-minute load average.
    pub load_15: f64,
    /// Bytes read from disks per second.
    pub disk_read_bytes_per_s: f64,
    /// Bytes written to disks per second.
    pub disk_written_bytes_per_s: f64,
    /// Bytes received per second on all interfaces.
    pub received_bytes_per_s: f64,
    /// Bytes sent per second on all interfaces.
    pub sent_bytes_per_s: f64,
    /// The hottest sensor, degrees Celsius; absent without sensors.
    pub temperature_celsius: Option<f64>,
    /// Processes.
    pub process_count: u64,
}

impl NodePoint {
    /// The point of a full sample, stamped with the time it arrived.
    pub fn of(sample: &HostSample, at_ms: UnixMs) -> Self {
        Self {
            at_ms,
            cpu_percent: sample.cpu_percent,
            memory_percent: sample.memory.percent().unwrap_or(0.0),
            swap_percent: sample.swap.percent(),
            disk_percent: sample.disk_percent(),
            load_1: sample.load_average[0],
            load_5: sample.load_average[1],
            load_15: sample.load_average[2],
            disk_read_bytes_per_s: sample.disks.iter().map(|disk| disk.read_bytes_per_s).sum(),
            disk_written_bytes_per_s: sample.disks.iter().map(|disk| disk.written_bytes_per_s).sum(),
            received_bytes_per_s: sample.interfaces.iter().map(|i| i.received_bytes_per_s).sum(),
            sent_bytes_per_s: sample.interfaces.iter().map(|i| i.sent_bytes_per_s).sum(),
            temperature_celsius: sample.temperatures.iter().map(|t| t.celsius).reduce(f64::max),
            process_count: sample.process_count,
        }
    }
}
