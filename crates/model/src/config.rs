//! Settings as the parts of Caelum receive them: complete, within their ranges, with units in the names.
//!
//! A [`Config`] that exists has been checked. Where a value came from (file, environment, flag) and how it
//! is written is no concern of this module: the roof of the house reads all three and holds the one table
//! of keys with ranges and texts. A field here has the name of its key there; [`Config::default`] is what
//! holds when nobody says otherwise.
//!
//! Only settings that have an effect are here. Lengths of time are numbers with their unit in the name, as
//! they are in the file.

use std::net::SocketAddr;

use crate::{
    cluster::Ceiling,
    node::Thresholds,
    target::{Families, Objective, Selector, TargetChange},
};

/// All settings of one process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[server]`
    pub server: Server,
    /// `[tls]`
    pub tls: Tls,
    /// `[sessions]`
    pub sessions: Sessions,
    /// `[beacon]`
    pub beacon: Beacon,
    /// `[agent]`
    pub agent: Agent,
    /// `[health]`
    pub health: Thresholds,
    /// `[probe]`
    pub probe: Probe,
    /// `[worker]`
    pub worker: Worker,
    /// `[ingest]`
    pub ingest: Ingest,
    /// `[aggregator]`
    pub aggregator: Aggregator,
    /// `[diagnoser]`
    pub diagnoser: Diagnoser,
    /// `[tasks]`
    pub tasks: Tasks,
    /// `[ssh]`
    pub ssh: Ssh,
    /// `[packages]`
    pub packages: Packages,
    /// `[backup]`
    pub backup: Backup,
    /// `[telemetry]`
    pub telemetry: Telemetry,
}

/// The cluster this process belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Name people use.
    pub name: String,
    /// Whether machines without a certificate may link, as the programs did that came before.
    pub open: bool,
    /// Networks from which machines may link and join; none means every network.
    pub access: Vec<String>,
    /// Machines that are dialled whether they are heard or not: `HOST:PORT`.
    pub peers: Vec<String>,
    /// Networks that *Discover* also tries address by address; none means that it only asks by beacon.
    pub sweep: Vec<String>,
    /// Whether this server is one of several, where its records can be shared.
    pub enabled: bool,
    /// By what servers know of each other.
    pub backend: CoordinationBackend,
    /// Where that is; may hold a password.
    pub address: Option<String>,
    /// Time between two signs of life of a server, s.
    pub heartbeat_interval_s: u64,
    /// Silence after which a server counts as gone, s.
    pub node_timeout_s: u64,
    /// What the keys in shared records are sealed under, where it is not `secrets/master.key`.
    pub cluster_secret: Option<String>,
}

/// By what servers know of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoordinationBackend {
    /// By the address, or else by the records where these are shared.
    #[default]
    Auto,
    /// By Redis.
    Redis,
    /// By the records on PostgreSQL.
    Postgres,
    /// By the records in a file of this host.
    Sqlite,
    /// By a directory that all servers see.
    File,
}

impl CoordinationBackend {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Redis, Self::Postgres, Self::Sqlite, Self::File];

    /// The word of the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
            Self::File => "file",
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "caelum".to_owned(),
            open: false,
            access: Vec::new(),
            peers: Vec::new(),
            sweep: Vec::new(),
            enabled: true,
            backend: CoordinationBackend::Auto,
            address: None,
            heartbeat_interval_s: 10,
            node_timeout_s: 30,
            cluster_secret: None,
        }
    }
}

/// Discovery by datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Whether this process sends and hears beacons.
    pub enabled: bool,
    /// UDP port.
    pub port: u16,
    /// Time between two beacons, s.
    pub interval_s: u64,
    /// Silence after which a machine is lost, s.
    pub timeout_s: u64,
    /// Whether beacons go to the multicast groups.
    pub multicast: bool,
    /// Whether they go to the broadcast address of each interface.
    pub broadcast: bool,
    /// Machines on other networks that are sent each beacon: `HOST:PORT` or `HOST`.
    pub targets: Vec<String>,
    /// Whether the second dialect is spoken too.
    pub second_dialect: bool,
    /// Address that is told to others; none means the most useful of this machine.
    pub advertise: Option<String>,
}

impl Default for Beacon {
    fn default() -> Self {
        Self {
            enabled: true,
            port: crate::beacon::BEACON_PORT,
            interval_s: 15,
            timeout_s: 60,
            multicast: true,
            broadcast: true,
            targets: Vec::new(),
            second_dialect: true,
            advertise: None,
        }
    }
}

/// Where the dashboard and the API are served, and who may sign in first.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// Addresses to listen on, each for HTTP and HTTPS. An IPv6 address is listened on for IPv6 only.
    pub listen: Vec<SocketAddr>,
    /// The administrator that the first start makes.
    pub admin_name: String,
    /// That administrator's password; none means that one is generated and printed once. Without effect
    /// once the administrator exists.
    pub admin_password: Option<String>,
    /// Where the records are, as a URL that may hold a password; none means a file in the data directory.
    pub store: Option<String>,
    /// Where the event stream is, as a URL that may hold a password; none means a file in the data directory.
    pub queue: Option<String>,
    /// Room that events waiting to be counted may take, MiB. Beyond it they are refused until some are counted.
    pub queue_max_mb: u64,
}

impl Default for Server {
    fn default() -> Self {
        // Two sockets instead of one dual-stack one: each family can fail with its own message, and a host
        // without IPv6 loses nothing.
        Self {
            listen: vec![SocketAddr::from(([0; 4], 8080)), SocketAddr::from(([0u16; 8], 8080))],
            admin_name: "admin".to_owned(),
            admin_password: None,
            store: None,
            queue: None,
            queue_max_mb: 4 << 10,
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("listen", &self.listen)
            .field("admin_name", &self.admin_name)
            .field("admin_password", &self.admin_password.as_ref().map(|_| "(hidden)"))
            .field("store", &self.store.as_ref().map(|_| "(hidden)"))
            .field("queue", &self.queue.as_ref().map(|_| "(hidden)"))
            .field("queue_max_mb", &self.queue_max_mb)
            .finish()
    }
}

/// What answers plain HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// Requests from this machine; others are redirected to HTTPS.
    #[default]
    Loopback,
    /// Every request: for a network that somebody else protects.
    Allow,
}

impl Plaintext {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Loopback, Self::Allow];

    /// The spelling in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Allow => "allow",
        }
    }
}

/// Certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// What answers plain HTTP.
    pub plaintext: Plaintext,
    /// A certificate of one's own with its chain: a PEM file. Set together with `key`.
    pub certificate: Option<String>,
    /// Its private key: a PEM file.
    pub key: Option<String>,
}

/// People who have signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// A session ends this long after its last use, s.
    pub ttl_s: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { ttl_s: 3600 }
    }
}

/// Sampling of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Name people use for this node; none means its host name.
    pub name: Option<String>,
    /// Time between samples, s.
    pub sample_interval_s: u64,
    /// How long the history of samples is kept, h.
    pub history_hours: u64,
    /// The server that an agent reports to: `HOST:PORT` or an address; none means found by beacon or named
    /// in its join token.
    pub server: Option<String>,
    /// Whether an agent samples and reports metrics.
    pub metrics: bool,
    /// The most that others may do to this node.
    pub ceiling: Ceiling,
    /// Words that this node can be chosen by.
    pub capabilities: Vec<String>,
    /// What this node offers: `NAME:TYPE:PORT`.
    pub services: Vec<String>,
    /// Whether ports 8100 to 8199 are looked at for MCP servers.
    pub find_mcp: bool,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            name: None,
            sample_interval_s: 10,
            history_hours: 24,
            server: None,
            metrics: true,
            ceiling: Ceiling::Observe,
            capabilities: Vec::new(),
            services: Vec::new(),
            find_mcp: true,
        }
    }
}

/// Commands on other machines over SSH, and what this machine tells about its own SSH server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Whether this server runs commands on other machines.
    pub enabled: bool,
    /// User to sign in as where nothing else is said of a host.
    pub user: String,
    /// Port where nothing else is said of a host.
    pub port: u16,
    /// Files with more private keys to sign in with.
    pub keys: Vec<String>,
    /// Whether certificates of the cluster's user authority are shown.
    pub certificates: bool,
    /// A file of known hosts, as `ssh` has it, that counts beside the keys that people accepted.
    pub known_hosts: Option<String>,
    /// Directory with the host keys of this machine's own SSH server, which it tells the servers.
    pub host_keys: Option<String>,
    /// Connections to one host.
    pub connections_per_host: u64,
    /// Connections that are made at once.
    pub handshakes: u64,
    /// Time to connect, s.
    pub connect_timeout_s: u64,
    /// Time without a command after which a connection is closed, s.
    pub idle_s: u64,
    /// Most that a command may write to each of its streams, bytes.
    pub output_max_bytes: u64,
}

impl Default for Ssh {
    fn default() -> Self {
        Self {
            enabled: true,
            user: "root".to_owned(),
            port: 22,
            keys: Vec::new(),
            certificates: false,
            known_hosts: None,
            host_keys: None,
            connections_per_host: 3,
            handshakes: 16,
            connect_timeout_s: 30,
            idle_s: 300,
            output_max_bytes: 256 << 10,
        }
    }
}

/// Running tasks on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Whether this process runs tasks, as far as the node's ceiling allows.
    pub enabled: bool,
    /// Tasks that run at once; 0 means as many as there are logical processors.
    pub slots: u64,
    /// How long running tasks have to end when the process is told to stop, s.
    pub grace_s: u64,
    /// Time between asking a task's processes to end and killing them, ms.
    pub kill_after_ms: u64,
    /// The shell of tasks; none means /bin/sh.
    pub shell: Option<String>,
}

impl Default for Worker {
    fn default() -> Self {
        Self { enabled: true, slots: 0, grace_s: 30, kill_after_ms: 2_000, shell: None }
    }
}

/// A target as configured; what is absent is taken from [`Probe`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeTarget {
    /// What is measured.
    pub url: String,
    /// Name people use; none means the URL.
    pub name: Option<String>,
    /// Time between measurements, s.
    pub interval_s: Option<u64>,
    /// Object whose download gives the throughput.
    pub throughput_url: Option<String>,
    /// IP versions.
    pub families: Families,
    /// Kind of service whose template fills what is not said here.
    pub template: Option<String>,
    /// Time after which a measurement is given up, ms.
    pub timeout_ms: Option<u64>,
    /// Free words, to find and select by.
    pub tags: Vec<String>,
    /// Site, provider or service that it shares with others.
    pub group: Option<String>,
    /// Which probes measure it.
    pub probes: Selector,
    /// What it is held to.
    pub objective: Option<Objective>,
    /// Packets of a train.
    pub packets: Option<u16>,
    /// Time between traces of the path, s.
    pub trace_every_s: Option<u32>,
    /// Time between measurements under load, s.
    pub load_every_s: Option<u32>,
}

impl ProbeTarget {
    /// What is said of it, as a change of what is usual.
    pub fn change(&self) -> TargetChange {
        let number = |value: Option<u64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX));
        TargetChange {
            name: self.name.clone(),
            interval_s: number(self.interval_s),
            timeout_ms: number(self.timeout_ms),
            throughput_url: self.throughput_url.clone().map(Some),
            families: Some(self.families),
            enabled: None,
            tags: Some(self.tags.clone()),
            group: self.group.clone().map(Some),
            probes: Some(self.probes.clone()),
            objective: self.objective.map(Some),
            packets: self.packets.map(Some),
            trace_every_s: self.trace_every_s.map(Some),
            load_every_s: self.load_every_s.map(Some),
        }
    }
}

/// Measuring the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether this process measures.
    pub enabled: bool,
    /// Name of the probe in its events; none means the node's id.
    pub client_id: Option<String>,
    /// Time between measurements of a target, s.
    pub interval_s: u64,
    /// Time after which a measurement is given up, ms.
    pub timeout_ms: u64,
    /// Whether the gateway, the name servers and Caelum's own page are measured.
    pub default_targets: bool,
    /// More targets.
    pub targets: Vec<ProbeTarget>,
    /// Most space for events that are not acknowledged yet, MiB.
    pub spool_max_mb: u64,
    /// Where events are posted; none means this process.
    pub ingest_url: Option<String>,
    /// Where a probe that runs alone answers `/health` and `/metrics`; nowhere unless it is said.
    pub metrics_listen: Vec<SocketAddr>,
    /// Whether other machines may measure this one.
    pub reflector: bool,
    /// UDP port where they do; 0 means any.
    pub reflector_port: u16,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            enabled: true,
            client_id: None,
            interval_s: 10,
            timeout_ms: 10_000,
            default_targets: true,
            targets: Vec::new(),
            spool_max_mb: 64,
            ingest_url: None,
            metrics_listen: Vec::new(),
            reflector: true,
            reflector_port: 862,
        }
    }
}

/// Taking events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// Largest body of a request after decompression, bytes.
    pub max_body_bytes: u64,
    /// Events a second that one probe may send for long; 0 means no limit.
    pub rate_limit_events_per_s: u64,
    /// Events that one probe may send at once above that rate.
    pub rate_burst_events: u64,
    /// Events waiting to be aggregated from which on no more are taken.
    pub max_backlog_events: u64,
    /// Requests a second that one address may send for long; 0 means no limit.
    pub rate_limit_requests_per_s: u64,
    /// Where `caelum ingest` shows its metrics.
    pub metrics_listen: Vec<SocketAddr>,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            max_body_bytes: 8 * 1024 * 1024,
            rate_limit_events_per_s: 20_000,
            rate_burst_events: 100_000,
            max_backlog_events: 20_000_000,
            rate_limit_requests_per_s: 5_000,
            metrics_listen: vec![SocketAddr::from(([127, 0, 0, 1], 9090))],
        }
    }
}

/// Folding events into windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregator {
    /// How late an event may be and still be counted, days.
    pub lateness_days: u64,
    /// Most time between two commits, ms.
    pub commit_interval_ms: u64,
    /// Parts of the stream. Fixed when the data directory is made.
    pub partitions: u16,
    /// How long rows of one-minute windows are kept, days.
    pub rollup_days: u64,
    /// How long rows of 15-minute windows are kept, days.
    pub quarter_days: u64,
    /// How long rows of 6-hour and one-day windows are kept, days.
    pub long_days: u64,
    /// Where `caelum aggregator` shows its metrics.
    pub metrics_listen: Vec<SocketAddr>,
}

impl Default for Aggregator {
    fn default() -> Self {
        Self {
            lateness_days: 7,
            commit_interval_ms: 500,
            partitions: 16,
            rollup_days: 30,
            quarter_days: 365,
            long_days: 3650,
            metrics_listen: vec![SocketAddr::from(([127, 0, 0, 1], 9091))],
        }
    }
}

/// Verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnoser {
    /// How long verdicts are kept, days.
    pub history_days: u64,
    /// Where `caelum diagnoser` shows its metrics.
    pub metrics_listen: Vec<SocketAddr>,
}

impl Default for Diagnoser {
    fn default() -> Self {
        Self { history_days: 90, metrics_listen: vec![SocketAddr::from(([127, 0, 0, 1], 9092))] }
    }
}

/// Backups while everything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Hours between two; 0 makes none by itself.
    pub every_h: u64,
    /// Days after which one is removed.
    pub keep_days: u64,
    /// Where they are put; none means `backups` in the data directory.
    pub directory: Option<String>,
}

impl Default for Backup {
    fn default() -> Self {
        Self { every_h: 0, keep_days: 7, directory: None }
    }
}

/// `[tasks]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tasks {
    /// How long tasks are kept that are over, with their output, days.
    pub history_days: u64,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { history_days: 30 }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what may become one.
    Warn,
    /// And what an operator wants to know.
    #[default]
    Info,
    /// And what a developer wants to know.
    Debug,
    /// And every step.
    Trace,
}

impl LogLevel {
    /// Every level.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The spelling in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Human, Self::Json];

    /// The spelling in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// Building packages that make other machines nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packages {
    /// Folder with programs for other platforms, each as `TRIPLE/caelum`; none means that packages are built
    /// for this server's own platform only.
    pub artifacts: Option<String>,
    /// File with the certificate that packages for macOS are signed with, and those that vouch for it.
    pub signing_certificates: Option<String>,
    /// File with its key.
    pub signing_key: Option<String>,
    /// Where machines with a package reach the cluster, before the addresses that servers listen on.
    pub servers: Vec<String>,
}

/// What Caelum says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// How much is logged.
    pub log_level: LogLevel,
    /// The form of a log line.
    pub log_format: LogFormat,
    /// Collector that traces go to; none means that nothing is traced.
    pub otlp_url: Option<String>,
    /// Of how many measurements of the own probe one is traced.
    pub trace_one_in: u64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_level: LogLevel::default(),
            log_format: LogFormat::default(),
            otlp_url: None,
            trace_one_in: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown_by_debug() {
        let server = Server { admin_password: Some("swordfish".to_owned()), ..Server::default() };
        assert!(!format!("{server:?}").contains("swordfish"));
    }
}
