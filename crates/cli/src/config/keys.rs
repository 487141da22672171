//! The table of settings: the one place where a setting has a name, a range and a text.
//!
//! File key `section.name`, environment name `CAELUM_SECTION_NAME` and flag `--section-name` are three
//! spellings of one row. Defaults are not here: they are `Config::default()`.

use std::{net::SocketAddr, sync::LazyLock};

use caelum_model::{
    cluster::Ceiling,
    config::{Config, CoordinationBackend, LogFormat, LogLevel, Plaintext, ProbeTarget},
};

use super::given::Form;

/// One setting.
pub struct Key {
    /// Section of the file.
    pub section: &'static str,
    /// Name in the section, with its unit.
    pub name: &'static str,
    /// A shorter flag, without the dashes, where people type it often.
    pub short_flag: Option<&'static str>,
    /// What it means, for whoever sets it. One or two sentences.
    pub text: &'static str,
    /// Its type, its range and its place in [`Config`].
    pub field: Field,
}

impl Key {
    /// The name in the file.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The name in the environment.
    pub fn variable(&self) -> String {
        format!("CAELUM_{}_{}", self.section, self.name).to_uppercase()
    }

    /// The flag, with its dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.long_flag())
    }

    /// The flag without its dashes.
    pub fn long_flag(&self) -> String {
        format!("{}-{}", self.section, self.name).replace('_', "-")
    }

    /// Whether it can be given as a flag. A secret cannot, since every user of the machine can read other
    /// people's command lines; an address that only may hold one can.
    pub fn has_flag(&self) -> bool {
        !self.is_secret() || self.short_flag.is_some()
    }

    /// Whether its value must not be seen by others.
    pub fn is_secret(&self) -> bool {
        matches!(self.field, Field::Secret { .. })
    }
}

/// Reads a value out of the settings.
type Read<T> = fn(&Config) -> T;
/// Stores a value in the settings.
type Write<T> = fn(&mut Config, T);

/// Type, range and place of a setting.
pub enum Field {
    /// Text that is always there.
    Text { read: Read<String>, write: Write<String> },
    /// Text that may be absent.
    MaybeText { read: Read<Option<String>>, write: Write<Option<String>>, form: Form },
    /// Text that may be absent and is never shown.
    Secret { read: Read<Option<String>>, write: Write<Option<String>> },
    /// Yes or no.
    Switch { read: Read<bool>, write: Write<bool> },
    /// A whole number with its unit.
    Whole { read: Read<u64>, write: Write<u64>, range: (u64, u64), unit: &'static str },
    /// A number with its unit.
    Decimal { read: Read<f64>, write: Write<f64>, range: (f64, f64), unit: &'static str },
    /// One word of a few; stored by its position.
    Choice { read: Read<&'static str>, write: Write<usize>, options: &'static [&'static str] },
    /// Addresses with ports.
    Addresses { read: Read<Vec<SocketAddr>>, write: Write<Vec<SocketAddr>> },
    /// A list of texts.
    Words { read: Read<Vec<String>>, write: Write<Vec<String>>, form: Form },
    /// Targets to measure.
    Targets { read: Read<Vec<ProbeTarget>>, write: Write<Vec<ProbeTarget>> },
}

/// The position of a setting that is known to exist, by its name in the file.
pub fn position(path: &str) -> usize {
    find(path).expect("named in the code, and a test looks every such name up")
}

/// The position of a setting by its name in the file.
pub fn find(path: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.path() == path)
}

/// Every section, in the order of the table.
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&'static str> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

/// A row of [`KEYS`] whose value is a plain field of [`Config`].
macro_rules! key {
    ($section:literal, $name:literal, $kind:ident($($place:ident).+ $(, $extra:ident: $value:expr)*), $text:expr) => {
        key!($section, $name, None, $kind($($place).+ $(, $extra: $value)*), $text)
    };
    ($section:literal, $name:literal, $short:expr, $kind:ident($($place:ident).+ $(, $extra:ident: $value:expr)*), $text:expr) => {
        Key {
            section: $section,
            name: $name,
            short_flag: $short,
            text: $text,
            field: Field::$kind {
                read: |config| config.$($place).+.clone(),
                write: |config, value| config.$($place).+ = value,
                $($extra: $value,)*
            },
        }
    };
}

/// The long flags, in the order of [`KEYS`], for whoever needs them to live as long as the process.
pub static LONG_FLAGS: LazyLock<Vec<String>> = LazyLock::new(|| KEYS.iter().map(Key::long_flag).collect());

const DAY_S: u64 = 86_400;

/// Every setting, section by section, in the order in which they are shown.
pub static KEYS: &[Key] = &[
    key!("cluster", "name", Text(cluster.name), "Name that people see on pages and in exports."),
    key!(
        "cluster",
        "open",
        Switch(cluster.open),
        "Whether machines without a certificate of this cluster may link, as older programs do. They are shown \
         and answered, and never count as nodes."
    ),
    key!(
        "cluster",
        "access",
        Words(cluster.access, form: Form::Network),
        "Networks from which machines may link and join, such as \"10.0.0.0/8\". Empty: every network."
    ),
    key!(
        "cluster",
        "peers",
        Words(cluster.peers, form: Form::Place),
        "Machines that are dialled whether they are heard or not, as HOST:PORT: for other subnets."
    ),
    key!(
        "cluster",
        "sweep",
        Words(cluster.sweep, form: Form::Network),
        "Networks whose addresses are also tried one by one when somebody asks to discover, 1,024 addresses at \
         most. Empty: nobody is tried who was not heard."
    ),
    key!(
        "cluster",
        "enabled",
        Switch(cluster.enabled),
        "Whether this server is one of several where its records are shared: it says that it is alive, and sees \
         the others."
    ),
    Key {
        section: "cluster",
        name: "backend",
        short_flag: None,
        text: "By what servers know of each other: \"redis\" or \"file\" (a directory that all see), both at \
               cluster.address; \"postgres\" or \"sqlite\", the records themselves; \"auto\": by the address if \
               there is one, else by the records if they are on PostgreSQL.",
        field: Field::Choice {
            read: |config| config.cluster.backend.as_str(),
            write: |config, chosen| config.cluster.backend = CoordinationBackend::ALL[chosen],
            options: &["auto", "redis", "postgres", "sqlite", "file"],
        },
    },
    key!(
        "cluster",
        "address",
        Some("coordination"),
        Secret(cluster.address),
        "Where servers know of each other, if that is not the records: redis://USER:PASSWORD@HOST:6379, \
         rediss://… with TLS, or file:DIRECTORY."
    ),
    key!(
        "cluster",
        "heartbeat_interval_s",
        Whole(cluster.heartbeat_interval_s, range: (1, 300), unit: "s"),
        "Time between two signs of life of a server."
    ),
    key!(
        "cluster",
        "node_timeout_s",
        Whole(cluster.node_timeout_s, range: (3, 3_600), unit: "s"),
        "Silence after which a server counts as gone. At least twice the heartbeat interval makes sense."
    ),
    key!(
        "cluster",
        "cluster_secret",
        Secret(cluster.cluster_secret),
        "What the keys in shared records are sealed under, at least 32 characters; the same on all servers. Not \
         set: secrets/master.key, which the first server makes and a join token for servers brings along."
    ),
    key!(
        "server",
        "listen",
        Some("listen"),
        Addresses(server.listen),
        "Addresses to serve on, each for HTTP and HTTPS. Port 0 takes any free port. An IPv6 address serves \
         IPv6 only; where the host has no IPv6, the default leaves it out."
    ),
    key!(
        "server",
        "admin_name",
        Text(server.admin_name),
        "The administrator that the first start makes. Without effect once there is one."
    ),
    key!(
        "server",
        "admin_password",
        Secret(server.admin_password),
        "Password of that administrator. Without it, the first start generates one and prints it once. \
         Without effect once there is an administrator."
    ),
    key!(
        "server",
        "store",
        Some("store"),
        Secret(server.store),
        "Where the records are: sqlite:PATH, or postgres://USER@HOST/DATABASE for several machines. Not set: a \
         file in the data directory."
    ),
    key!(
        "server",
        "queue",
        Some("queue"),
        Secret(server.queue),
        "Where the event stream is: embedded:PATH, or nats://HOST:4222 for several machines. Not set: a file in \
         the data directory."
    ),
    key!(
        "server",
        "queue_max_mb",
        Whole(server.queue_max_mb, range: (64, 16 << 20), unit: "MiB"),
        "Room that events waiting to be counted may take; beyond it they are refused until some are counted. Each \
         NATS server that keeps them must offer JetStream this much. A stream that is there already keeps its own \
         bound."
    ),
    Key {
        section: "tls",
        name: "plaintext",
        short_flag: None,
        text: "What is answered without TLS: \"loopback\" answers this machine and redirects others to HTTPS, \
               \"allow\" answers everybody, for a network that something else protects.",
        field: Field::Choice {
            read: |config| config.tls.plaintext.as_str(),
            write: |config, at| config.tls.plaintext = Plaintext::ALL[at],
            options: &["loopback", "allow"],
        },
    },
    key!(
        "tls",
        "certificate",
        MaybeText(tls.certificate, form: Form::File),
        "A certificate of your own with its chain (PEM), instead of the one Caelum makes. Goes with tls.key."
    ),
    key!("tls", "key", MaybeText(tls.key, form: Form::File), "The private key of tls.certificate (PEM)."),
    key!(
        "sessions",
        "ttl_s",
        Whole(sessions.ttl_s, range: (60, 30 * DAY_S), unit: "s"),
        "Somebody who has signed in and does nothing is signed out after this time."
    ),
    key!("beacon", "enabled", Switch(beacon.enabled), "Whether this process sends and hears beacons."),
    Key {
        section: "beacon",
        name: "port",
        short_flag: None,
        text: "UDP port of beacons and membership. Several processes of a host may share it.",
        field: Field::Whole {
            read: |config| u64::from(config.beacon.port),
            write: |config, port| config.beacon.port = u16::try_from(port).unwrap_or(u16::MAX),
            range: (0, 65_535),
            unit: "",
        },
    },
    key!(
        "beacon",
        "interval_s",
        Whole(beacon.interval_s, range: (1, 3_600), unit: "s"),
        "Time between two beacons."
    ),
    key!(
        "beacon",
        "timeout_s",
        Whole(beacon.timeout_s, range: (3, DAY_S), unit: "s"),
        "Silence after which a machine counts as lost. At least two intervals."
    ),
    key!(
        "beacon",
        "multicast",
        Switch(beacon.multicast),
        "Whether beacons go to the multicast groups 239.255.43.21 and ff02::ca:e1:21."
    ),
    key!(
        "beacon",
        "broadcast",
        Switch(beacon.broadcast),
        "Whether beacons go to the broadcast address of each interface."
    ),
    key!(
        "beacon",
        "targets",
        Words(beacon.targets, form: Form::Place),
        "Machines on other networks that are sent each beacon, as HOST or HOST:PORT."
    ),
    key!(
        "beacon",
        "second_dialect",
        Switch(beacon.second_dialect),
        "Whether the camelCase dialect on UDP 8081 (else 8083, 8084, 8085) is spoken too."
    ),
    key!(
        "beacon",
        "advertise",
        MaybeText(beacon.advertise, form: Form::Name),
        "Address that others are told. Without it, the most useful of this machine."
    ),
    key!(
        "agent",
        "name",
        Some("name"),
        MaybeText(agent.name, form: Form::Name),
        "Name of this node on pages. Without it, the host name."
    ),
    key!(
        "agent",
        "sample_interval_s",
        Whole(agent.sample_interval_s, range: (1, 3600), unit: "s"),
        "Time between two samples of this machine's metrics."
    ),
    key!(
        "agent",
        "history_hours",
        Whole(agent.history_hours, range: (1, 365 * 24), unit: "h"),
        "How long samples are kept for charts. Minutes are kept for a month, hours for two years."
    ),
    key!(
        "agent",
        "server",
        Some("server"),
        MaybeText(agent.server, form: Form::Place),
        "The server that an agent reports to, as HOST:PORT or https://HOST:PORT. Without it, it is found by \
         beacon or named in the join token."
    ),
    key!("agent", "metrics", Switch(agent.metrics), "Whether an agent samples this machine and reports it."),
    Key {
        section: "agent",
        name: "ceiling",
        short_flag: Some("ceiling"),
        text: "The most that others may do to this node: \"observe\", \"tasks\" or \"shell\". No server can raise it.",
        field: Field::Choice {
            read: |config| config.agent.ceiling.as_str(),
            write: |config, chosen| config.agent.ceiling = Ceiling::ALL[chosen],
            options: &[Ceiling::ALL[0].as_str(), Ceiling::ALL[1].as_str(), Ceiling::ALL[2].as_str()],
        },
    },
    key!(
        "agent",
        "capabilities",
        Words(agent.capabilities, form: Form::Name),
        "Words that this node can be chosen by, such as \"gpu\"."
    ),
    key!(
        "agent",
        "services",
        Words(agent.services, form: Form::Service),
        "What this node offers, each as NAME:TYPE:PORT, such as \"wiki:http:8000\"."
    ),
    key!(
        "agent",
        "find_mcp",
        Switch(agent.find_mcp),
        "Whether ports 8100 to 8199 of this machine are looked at for MCP servers, which are then advertised."
    ),
    key!(
        "health",
        "cpu_warning",
        Decimal(health.cpu.warning, range: (0.0, 100.0), unit: "%"),
        "Processor use from which on a node is in warning."
    ),
    key!(
        "health",
        "cpu_critical",
        Decimal(health.cpu.critical, range: (0.0, 100.0), unit: "%"),
        "Processor use from which on a node is critical."
    ),
    key!(
        "health",
        "memory_warning",
        Decimal(health.memory.warning, range: (0.0, 100.0), unit: "%"),
        "Memory use from which on a node is in warning."
    ),
    key!(
        "health",
        "memory_critical",
        Decimal(health.memory.critical, range: (0.0, 100.0), unit: "%"),
        "Memory use from which on a node is critical."
    ),
    key!(
        "health",
        "disk_warning",
        Decimal(health.disk.warning, range: (0.0, 100.0), unit: "%"),
        "Use of the fullest file system from which on a node is in warning."
    ),
    key!(
        "health",
        "disk_critical",
        Decimal(health.disk.critical, range: (0.0, 100.0), unit: "%"),
        "Use of the fullest file system from which on a node is critical."
    ),
    key!(
        "health",
        "load_warning",
        Decimal(health.load.warning, range: (0.0, 10_000.0), unit: "processes"),
        "Load average over a minute from which on a node is in warning."
    ),
    key!(
        "health",
        "load_critical",
        Decimal(health.load.critical, range: (0.0, 10_000.0), unit: "processes"),
        "Load average over a minute from which on a node is critical."
    ),
    key!(
        "health",
        "load_per_core",
        Switch(health.load_per_core),
        "Whether the two load thresholds are meant for each logical processor."
    ),
    key!(
        "health",
        "heartbeat_timeout_s",
        Whole(health.heartbeat_timeout_s, range: (2, DAY_S), unit: "s"),
        "Silence after which a node is offline. At least two sample intervals."
    ),
    key!(
        "health",
        "alert_hold_s",
        Whole(health.alert_hold_s, range: (0, DAY_S), unit: "s"),
        "How long a threshold must be reached before there is an alert. A node that is offline has one at once."
    ),
    key!(
        "health",
        "alert_clear_s",
        Whole(health.alert_clear_s, range: (0, DAY_S), unit: "s"),
        "How long a value must be below its threshold by the margin before its alert is over."
    ),
    key!(
        "health",
        "alert_margin",
        Decimal(health.alert_margin, range: (0.0, 40.0), unit: "points"),
        "How far below a threshold a value must be for its alert to end; for load, twice as many percent of the threshold."
    ),
    key!("probe", "enabled", Switch(probe.enabled), "Whether this process measures the network."),
    key!(
        "probe",
        "client_id",
        MaybeText(probe.client_id, form: Form::Name),
        "Name of this probe in its events. Without it, the node's id. A new name is a new probe: what is \
         usual for the old one is not carried over."
    ),
    key!(
        "probe",
        "interval_s",
        Whole(probe.interval_s, range: (1, DAY_S), unit: "s"),
        "Time between two measurements of a target that does not say otherwise."
    ),
    key!(
        "probe",
        "timeout_ms",
        Whole(probe.timeout_ms, range: (100, 120_000), unit: "ms"),
        "Time after which a measurement is given up and counts as failed. Not longer than probe.interval_s."
    ),
    key!(
        "probe",
        "default_targets",
        Switch(probe.default_targets),
        "Whether the default gateway, the configured name servers and Caelum's own page are measured."
    ),
    key!(
        "probe",
        "targets",
        Targets(probe.targets),
        "More targets: {url = \"https://example.net/\", name = \"Example\", interval_s = 30, throughput_url = \
         \"https://example.net/1mb.bin\", families = \"any\"}; only url is needed, families is any, ipv4, ipv6 \
         or both. template, timeout_ms, tags, group, probes, objective, packets, trace_every_s and load_every_s are \
         told in docs/targets.md. In the environment and as a flag: addresses with commas between them."
    ),
    key!(
        "probe",
        "spool_max_mb",
        Whole(probe.spool_max_mb, range: (1, 65_536), unit: "MiB"),
        "Most disk space for measurements that could not be handed over yet."
    ),
    key!(
        "probe",
        "ingest_url",
        MaybeText(probe.ingest_url, form: Form::HttpUrl),
        "Where measurements are posted. Without it, to this process."
    ),
    key!(
        "probe",
        "metrics_listen",
        Addresses(probe.metrics_listen),
        "Where `caelum probe` answers /health and /metrics, without a login. Without it, nowhere."
    ),
    key!(
        "probe",
        "reflector",
        Switch(probe.reflector),
        "Whether the cluster's other machines may measure the way to this one and back (STAMP, RFC 8762)."
    ),
    Key {
        section: "probe",
        name: "reflector_port",
        short_flag: None,
        text: "UDP port where they do; another one, which the servers are told, where it is taken or not \
               allowed. 0 means any.",
        field: Field::Whole {
            read: |config| u64::from(config.probe.reflector_port),
            write: |config, port| config.probe.reflector_port = u16::try_from(port).unwrap_or(u16::MAX),
            range: (0, 65_535),
            unit: "",
        },
    },
    key!(
        "worker",
        "enabled",
        Switch(worker.enabled),
        "Whether this process runs tasks. What it runs is bounded by agent.ceiling: nothing under \"observe\"."
    ),
    key!(
        "worker",
        "slots",
        Whole(worker.slots, range: (0, 1_024), unit: "tasks"),
        "Tasks that run at once. 0 means as many as there are logical processors."
    ),
    key!(
        "worker",
        "grace_s",
        Whole(worker.grace_s, range: (0, DAY_S), unit: "s"),
        "How long running tasks have to end when this process is told to stop. It begins no others meanwhile."
    ),
    key!(
        "worker",
        "kill_after_ms",
        Whole(worker.kill_after_ms, range: (0, 600_000), unit: "ms"),
        "Time between asking the processes of a task to end (SIGTERM) and killing them."
    ),
    key!(
        "worker",
        "shell",
        MaybeText(worker.shell, form: Form::File),
        "The shell that runs commands and scripts. Without it, /bin/sh."
    ),
    key!(
        "ingest",
        "max_body_bytes",
        Whole(ingest.max_body_bytes, range: (64 * 1024, 256 * 1024 * 1024), unit: "bytes"),
        "Largest request to /events, after decompression."
    ),
    key!(
        "ingest",
        "rate_limit_events_per_s",
        Whole(ingest.rate_limit_events_per_s, range: (0, 10_000_000), unit: "events/s"),
        "What one probe may send for long; more is answered with 429. 0 sets no limit."
    ),
    key!(
        "ingest",
        "rate_burst_events",
        Whole(ingest.rate_burst_events, range: (1, 100_000_000), unit: "events"),
        "What one probe may send at once above that rate, after an outage for instance."
    ),
    key!(
        "ingest",
        "max_backlog_events",
        Whole(ingest.max_backlog_events, range: (1_000, 1_000_000_000), unit: "events"),
        "Events that wait to be aggregated from which on new ones are answered with 503. What was accepted is \
         never dropped."
    ),
    key!(
        "ingest",
        "rate_limit_requests_per_s",
        Whole(ingest.rate_limit_requests_per_s, range: (0, 1_000_000), unit: "requests/s"),
        "What one address may ask of /events for long, before anything else is looked at; more is answered with \
         429. 0 sets no limit, for where all requests come through a proxy."
    ),
    key!(
        "ingest",
        "metrics_listen",
        Addresses(ingest.metrics_listen),
        "Where `caelum ingest` answers /health and /metrics, without a login."
    ),
    key!(
        "aggregator",
        "lateness_days",
        Whole(aggregator.lateness_days, range: (1, 60), unit: "days"),
        "How late an event may arrive and still be counted in its window. Later ones are kept as dead letters."
    ),
    key!(
        "aggregator",
        "commit_interval_ms",
        Whole(aggregator.commit_interval_ms, range: (10, 1000), unit: "ms"),
        "Most time between two commits of windows: how fresh pages are against how much is written."
    ),
    Key {
        section: "aggregator",
        name: "partitions",
        short_flag: None,
        text: "Parts into which the event stream is split. Fixed when the data directory is made.",
        field: Field::Whole {
            read: |config| config.aggregator.partitions.into(),
            write: |config, value| {
                config.aggregator.partitions = u16::try_from(value).expect("the range ends at 256");
            },
            range: (1, 256),
            unit: "",
        },
    },
    key!(
        "aggregator",
        "rollup_days",
        Whole(aggregator.rollup_days, range: (1, 3650), unit: "days"),
        "How long one-minute windows are kept. At least aggregator.lateness_days makes sense."
    ),
    key!(
        "aggregator",
        "quarter_days",
        Whole(aggregator.quarter_days, range: (1, 3650), unit: "days"),
        "How long 15-minute windows are kept."
    ),
    key!(
        "aggregator",
        "long_days",
        Whole(aggregator.long_days, range: (1, 36_500), unit: "days"),
        "How long 6-hour and one-day windows are kept."
    ),
    key!(
        "aggregator",
        "metrics_listen",
        Addresses(aggregator.metrics_listen),
        "Where `caelum aggregator` answers /health and /metrics, without a login."
    ),
    key!(
        "diagnoser",
        "history_days",
        Whole(diagnoser.history_days, range: (1, 3650), unit: "days"),
        "How long verdicts are kept."
    ),
    key!(
        "diagnoser",
        "metrics_listen",
        Addresses(diagnoser.metrics_listen),
        "Where `caelum diagnoser` answers /health and /metrics, without a login."
    ),
    key!(
        "tasks",
        "history_days",
        Whole(tasks.history_days, range: (1, 3650), unit: "days"),
        "How long tasks are kept that are over, with what they wrote."
    ),
    key!(
        "ssh",
        "enabled",
        Switch(ssh.enabled),
        "Whether this server runs commands on other machines over SSH."
    ),
    key!(
        "ssh",
        "user",
        Text(ssh.user),
        "User to sign in as where a node or host says nothing else. Commands run with what that user may do."
    ),
    Key {
        section: "ssh",
        name: "port",
        short_flag: None,
        text: "Port of SSH servers where a node or host says nothing else.",
        field: Field::Whole {
            read: |config| config.ssh.port.into(),
            write: |config, value| config.ssh.port = u16::try_from(value).expect("the range ends at 65535"),
            range: (1, 65_535),
            unit: "",
        },
    },
    key!(
        "ssh",
        "keys",
        Words(ssh.keys, form: Form::File),
        "Files with more private keys to sign in with, without a passphrase. The cluster's own key is tried first."
    ),
    key!(
        "ssh",
        "certificates",
        Switch(ssh.certificates),
        "Whether hosts are shown a certificate of the cluster's user authority first. `caelum ssh ca` prints what \
         a host needs to trust it."
    ),
    key!(
        "ssh",
        "known_hosts",
        MaybeText(ssh.known_hosts, form: Form::File),
        "A file of known hosts as ssh writes it; its keys count beside those that people accepted."
    ),
    key!(
        "ssh",
        "host_keys",
        MaybeText(ssh.host_keys, form: Form::File),
        "Directory with the host keys of this machine's own SSH server, whose public halves it tells the servers. \
         Without it, /etc/ssh."
    ),
    key!(
        "ssh",
        "connections_per_host",
        Whole(ssh.connections_per_host, range: (1, 10), unit: ""),
        "Most connections to one host; each carries up to 8 commands at once."
    ),
    key!(
        "ssh",
        "handshakes",
        Whole(ssh.handshakes, range: (1, 1_000), unit: ""),
        "Connections that are made at once, of those that are quick."
    ),
    key!("ssh", "connect_timeout_s", Whole(ssh.connect_timeout_s, range: (1, 600), unit: "s"), "Time to connect."),
    key!(
        "ssh",
        "idle_s",
        Whole(ssh.idle_s, range: (1, DAY_S), unit: "s"),
        "Time without a command after which a connection is closed."
    ),
    key!(
        "ssh",
        "output_max_bytes",
        Whole(ssh.output_max_bytes, range: (1_024, 16 << 20), unit: "bytes"),
        "Most that a command may write to each of its two streams; of more, the beginning and the end are kept. \
         Of many hosts at once each may write less: together no more than 64 MiB are kept."
    ),
    key!(
        "packages",
        "artifacts",
        MaybeText(packages.artifacts, form: Form::File),
        "Folder with programs for other platforms, each as TRIPLE/caelum, such as \
         aarch64-unknown-linux-musl/caelum. Without it, packages are for this server's own platform."
    ),
    key!(
        "packages",
        "signing_certificates",
        MaybeText(packages.signing_certificates, form: Form::File),
        "PEM file with the Developer ID Installer certificate that packages for macOS are signed with, and those \
         that vouch for it. Without it they are not signed."
    ),
    key!(
        "packages",
        "signing_key",
        MaybeText(packages.signing_key, form: Form::File),
        "PEM file with that certificate's RSA key (PKCS#8, 2048 to 4096 bits), readable by its owner only."
    ),
    key!(
        "packages",
        "servers",
        Words(packages.servers, form: Form::Place),
        "Where machines with a package reach the cluster, HOST:PORT, best first; they are tried before the \
         addresses that the server listens on."
    ),
    key!(
        "backup",
        "every_h",
        Whole(backup.every_h, range: (0, 8_784), unit: "h"),
        "Hours between two backups that `caelum up` makes by itself. 0 makes none; `caelum backup` makes one now."
    ),
    key!(
        "backup",
        "keep_days",
        Whole(backup.keep_days, range: (1, 3650), unit: "days"),
        "Days after which a backup is removed, once there is a newer one."
    ),
    key!(
        "backup",
        "directory",
        MaybeText(backup.directory, form: Form::File),
        "Where backups are put. Without it, backups/ in the data directory; another disk is wiser. They hold secrets."
    ),
    Key {
        section: "telemetry",
        name: "log_level",
        short_flag: Some("log-level"),
        text: "How much is logged.",
        field: Field::Choice {
            read: |config| config.telemetry.log_level.as_str(),
            write: |config, at| config.telemetry.log_level = LogLevel::ALL[at],
            options: &["error", "warn", "info", "debug", "trace"],
        },
    },
    Key {
        section: "telemetry",
        name: "log_format",
        short_flag: Some("log-format"),
        text: "Form of log lines: \"auto\" is \"human\" on a terminal and \"json\" elsewhere.",
        field: Field::Choice {
            read: |config| config.telemetry.log_format.as_str(),
            write: |config, at| config.telemetry.log_format = LogFormat::ALL[at],
            options: &["auto", "human", "json"],
        },
    },
    key!(
        "telemetry",
        "otlp_url",
        MaybeText(telemetry.otlp_url, form: Form::HttpUrl),
        "Collector that traces are sent to by OTLP over HTTP, such as http://127.0.0.1:4318. Without it, nothing \
         is traced."
    ),
    key!(
        "telemetry",
        "trace_one_in",
        Whole(telemetry.trace_one_in, range: (1, 1_000_000_000), unit: "measurements"),
        "Of how many measurements of this process's probe one is traced, where traces are sent."
    ),
];
