//! What travels over a link: one JSON object a text frame.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{cluster::Service, host::HostSample, node::NodePoint};

/// Largest frame that is sent or accepted, bytes.
pub const FRAME_MAX: usize = 1 << 20;
/// Path of the WebSocket.
pub const LINK_PATH: &str = "/cluster";
/// Path where a node posts events under its certificate.
pub const EVENTS_PATH: &str = "/events";
/// Path where a node asks under its certificate what it is to measure.
pub const ORDERS_PATH: &str = "/api/orders";

/// Every message type: those of the programs that came first, then ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// Who I am; answered by `machine_update`.
    MachineRegister,
    /// I still run; carries metrics.
    MachineHeartbeat,
    /// Whom do you know? Answered by `machine_update`.
    MachineDiscover,
    /// Who I am now.
    MachineUpdate,
    /// Please run this; answered by `task_assign`, `task_failed` or `error`.
    TaskDistribute,
    /// I run it.
    TaskAssign,
    /// How far it is.
    TaskProgress,
    /// It is done.
    TaskComplete,
    /// It failed or was refused.
    TaskFailed,
    /// Please keep this much free for me; answered by `resource_reserved` or `error`.
    ResourceRequest,
    /// This much is free.
    ResourceAvailable,
    /// It is kept.
    ResourceReserved,
    /// It is no longer needed.
    ResourceReleased,
    /// I offer this.
    ServiceAnnounce,
    /// Who offers this? Answered by `service_response`.
    ServiceQuery,
    /// I do, or nobody that I know.
    ServiceResponse,
    /// News for everyone.
    StatusBroadcast,
    /// Are you there? Answered by `pong`.
    Ping,
    /// I am.
    Pong,
    /// What you asked cannot be done.
    Error,
    /// I am leaving (ours).
    MachineGoodbye,
    /// A lease of a task (ours).
    TaskLease,
    /// Stop a task (ours).
    TaskCancel,
    /// Output of a task (ours).
    TaskOutput,
    /// Keys and revocations, from a server (ours).
    RosterDelta,
    /// What to measure, from a server (ours).
    ProbeConfig,
    /// A signing request for a fresh certificate (ours); answered by `certificate_issued` or `error`.
    CertificateRequest,
    /// The fresh certificate (ours).
    CertificateIssued,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Unique.
    pub message_id: String,
    /// What it is.
    pub message_type: MessageType,
    /// Who says it.
    pub source_machine: String,
    /// For whom; none means everyone.
    #[serde(default)]
    pub target_machines: Option<Vec<String>>,
    /// When, by the sender's clock, ISO 8601. Never compared.
    #[serde(default)]
    pub timestamp: String,
    /// What it says.
    #[serde(default)]
    pub payload: Value,
    /// The `message_id` that this answers.
    #[serde(default)]
    pub correlation_id: Option<String>,
}

/// What a machine says about itself on a link. Everything but the id may be missing in what others send.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineInfo {
    /// Its id.
    pub machine_id: String,
    /// Its host name.
    pub hostname: String,
    /// The address it says it has.
    pub primary_ip: String,
    /// Its interfaces, as the first programs list them.
    pub network_info: Value,
    /// What it has and uses.
    pub resources: Resources,
    /// `online`, `offline`, `busy` or `maintenance`.
    pub status: String,
    /// What it offers, as the first programs list it.
    pub running_services: Vec<RunningService>,
    /// Ports free for services.
    pub available_ports: Vec<u16>,
    /// When it last reported, ISO 8601.
    pub last_heartbeat: String,
    /// Version of its program.
    pub caelum_version: String,
    /// Its operating system.
    pub platform_info: Value,
    /// Its cluster.
    pub cluster_id: String,
    /// Name of its cluster.
    pub cluster_name: String,
    /// `node`, `coordinator` or `hybrid`.
    pub machine_role: String,
    /// Ours: what the first dialect has no word for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caelum: Option<CaelumInfo>,
}

/// What only Caelum says about itself on a link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaelumInfo {
    /// Name people use.
    pub name: String,
    /// This run of the program, as in its beacons.
    pub instance: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// The most it lets anybody do: `observe`, `tasks`, `shell`.
    pub ceiling: String,
    /// TCP port of its links.
    pub websocket_port: u16,
    /// UDP port of its beacons and membership.
    pub beacon_port: u16,
    /// What it offers.
    pub services: Vec<Service>,
    /// Words it can be chosen by.
    pub capabilities: Vec<String>,
    /// Facts about the host (`HostIdentity`).
    pub identity: Option<crate::host::HostIdentity>,
}

/// What a machine has and uses, in the first programs' units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Logical processors.
    pub cpu_cores: u32,
    /// Processor use, percent.
    pub cpu_usage_percent: f64,
    /// Memory, GiB.
    pub memory_total_gb: f64,
    /// Memory free for new work, GiB.
    pub memory_available_gb: f64,
    /// Memory use, percent.
    pub memory_usage_percent: f64,
    /// Disk, GiB.
    pub disk_total_gb: f64,
    /// Free disk, GiB.
    pub disk_available_gb: f64,
    /// Disk use, percent.
    pub disk_usage_percent: f64,
    /// Graphics processors; null where none is known.
    pub gpu_info: Value,
}

/// A service in the first programs' form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunningService {
    /// TCP port.
    pub port: u16,
    /// Its name.
    pub service_name: String,
    /// What it speaks.
    pub service_type: String,
    /// What it is for.
    pub purpose: String,
    /// `running` …
    pub status: String,
}

/// Payload of `machine_heartbeat` between Caelums. A stranger's may be anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// The newest sample.
    pub sample: Option<HostSample>,
    /// How long ago it was taken, ms, by the sender's clock.
    pub sample_age_ms: i64,
    /// What could not be sent while no server was there, oldest first. `at_ms` of a point is its age, ms.
    pub backlog: Vec<NodePoint>,
    /// Points that did not fit into the buffer and are gone.
    pub dropped: u64,
    /// The sender's links.
    pub peers: Vec<crate::cluster::PeerView>,
}

/// Payload of `roster_delta`, from servers only. Also a member of a server's `machine_update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RosterDelta {
    /// Keys of the cluster, newest last.
    pub keys: Vec<crate::cluster::ClusterKey>,
    /// Nodes that are no longer admitted.
    pub revoked: Vec<String>,
    /// Where servers are reached: `host:port`.
    pub servers: Vec<String>,
    /// Nodes that run, for one that has just linked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seats: Vec<RosterSeat>,
}

/// Where a node is heard by UDP, and which run of its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterSeat {
    /// Who.
    pub node_id: crate::id::NodeId,
    /// Where its datagrams come from.
    pub addr: std::net::SocketAddr,
    /// Its run.
    pub run: u64,
    /// How often it was declared dead in this run, and came back.
    #[serde(default, skip_serializing_if = "is_first")]
    pub turn: u16,
}

fn is_first(turn: &u16) -> bool {
    *turn == 0
}
