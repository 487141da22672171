//! The command line, as it may be typed. Understanding only; what is done about it is in `commands`.

use std::path::PathBuf;

use caelum_model::{
    access::Scope,
    cluster::{Ceiling, NodeRole},
};
use caelum_store::MailboxAddress;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

mod backup;
mod fleet;
mod network;
mod package;
mod server;
mod service;
mod ssh;
mod tasks;

pub use backup::{Backup, BackupCommand, MadeBackup, Restore};
pub use fleet::{BalancerKind, BalancerTls, Fleet};
pub use network::{
    Diagnose, IncidentFilter, Incidents, IncidentsCommand, Probes, ProbesCommand, TargetWish, Targets,
};

pub use package::{NewPackage, Package};
pub use server::Server;
pub use ssh::{SshAccept, SshAdd, SshBroadcast, SshCommand, SshExec};

pub use service::{Installation, Service, Supervisor};

pub use tasks::{
    Logs, OneSchedule, OneTask, Run, Schedules, SchedulesCommand, TaskFilter, Tasks, TasksCommand,
};

use crate::config::keys::{Field, KEYS, LONG_FLAGS, position};

/// Shows how a machine fares and how good its network is.
#[derive(Debug, Parser)]
#[command(name = "caelum", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: metrics, probe, pipeline, verdicts, dashboard.
    Up(Up),
    /// Serve as one of several, on records and a stream that all of them share.
    Server(Box<Server>),
    /// Take events in, as one of several, for records and a stream that others share.
    Ingest(Up),
    /// Count events, as one of several, from a stream and into records that others share.
    Aggregator(Up),
    /// Measure targets for a server elsewhere, without being a node; or `probe once URL`: now, and show it.
    Probe(Box<Probe>),
    /// Judge what was counted, in a process of its own, from records that others write.
    Diagnoser(Up),
    /// Prove on this machine what Caelum promises, with processes of its own that are hurt.
    #[command(subcommand)]
    Lab(Lab),
    /// Be a node of a cluster: found, linked, its metrics reported.
    Agent(Agent),
    /// Be found and linked, and nothing more: for machines that only have to be known.
    Beacon(Agent),
    /// Look at the settings.
    #[command(subcommand)]
    Config(Config),
    /// Make, list and revoke tokens for programs (on this machine, no login).
    #[command(subcommand)]
    Token(Token),
    /// Build packages that make other machines nodes; list and revoke them.
    #[command(subcommand)]
    Package(Package),
    /// Let the system start Caelum: install, start, stop, watch.
    #[command(subcommand)]
    Service(Service),
    /// Look after people who may sign in (on this machine, no login).
    #[command(subcommand)]
    User(User),
    /// Make this machine a node of a cluster.
    Join(Join),
    /// Show the nodes and how they fare; admit machines and shut nodes out.
    Nodes(Nodes),
    /// Show, add and remove what is measured.
    #[command(subcommand)]
    Targets(Targets),
    /// Show whether everything that was accepted is counted, and what waits.
    Pipeline(Client),
    /// Look at events that were kept aside instead of being counted, and count them after all.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Show the probes, or how complete is what one of them sent.
    Probes(Probes),
    /// Show what is wrong, where and since when.
    Incidents(Incidents),
    /// Show what is the matter with nodes, and answer it.
    Alerts(Alerts),
    /// Judge stored windows anew, and print what that says; nothing is stored.
    Diagnose(Diagnose),
    /// Run a command on nodes, show what it writes, and end as it ends.
    Run(Run),
    /// Run commands on other machines over SSH; show connections, hosts and their keys.
    #[command(subcommand)]
    Ssh(SshCommand),
    /// Show tasks; ask for new ones, call off, do again.
    Tasks(Tasks),
    /// Show what a task wrote.
    Logs(Logs),
    /// Show, add and remove what is run at times.
    Schedules(Schedules),
    /// Show the servers and whether they live; make a load balancer's configuration.
    #[command(subcommand)]
    Fleet(Fleet),
    /// Ask the network which machines are there, and show what is heard.
    Discover(Discover),
    /// List the machines that were heard.
    Machines(Client),
    /// Show all that is known of one node.
    Node(Node),
    /// Show the nodes and how good the links between them are.
    Topology(Client),
    /// Show how the nodes fare, again and again.
    Top(Top),
    /// Dial a machine that was not heard.
    Connect(Connect),
    /// Look for what is wrong on this machine and its network, and say what to do.
    Doctor(Doctor),
    /// Give an assistant the cluster's tools (Model Context Protocol) over standard input and output.
    Mcp(Client),
    /// Look after the records where they are: schema, size, what is wrong.
    #[command(subcommand)]
    Db(Db),
    /// Back up this server while it runs: records, queue, settings, secrets; or look at backups.
    Backup(Backup),
    /// Put a backup into a data directory.
    Restore(Restore),
    /// Print the version.
    Version,
}

/// Where the settings and the data are.
#[derive(Clone, Debug, Default, Args)]
pub struct Place {
    /// Configuration file [default: caelum.toml in the data directory, else /etc/caelum/caelum.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory [default: $XDG_STATE_HOME/caelum, as root /var/lib/caelum, else ~/.local/state/caelum]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `caelum up`
#[derive(Debug, Args)]
pub struct Up {
    /// Where settings and data are.
    #[command(flatten)]
    pub place: Place,
    /// Settings given as flags.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `caelum probe`
///
/// What is not given here is taken from the settings: `[probe]` and `[[probe.targets]]`.
#[derive(Debug, Default, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Probe {
    /// What to do instead of measuring again and again.
    #[command(subcommand)]
    pub action: Option<ProbeAction>,
    /// Where settings and data are.
    #[command(flatten)]
    pub place: Place,
    /// Server that takes the events, https://HOST:8080 [default: probe.ingest_url]
    #[arg(long, env = "CAELUM_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Token with the scope ingest, made for this probe
    #[arg(long, env = "CAELUM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Authorities to trust beside this machine's own, PEM; a server of Caelum's has its own
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The probe's name, as in its token [default: probe.client_id, agent.name, else the host's name]
    #[arg(long, value_name = "ID")]
    pub name: Option<String>,
    /// Measure this; may be given more than once
    #[arg(long = "target", value_name = "URL", value_parser = target_url)]
    pub targets: Vec<String>,
}

/// What can be done with a probe.
#[derive(Debug, Subcommand)]
pub enum ProbeAction {
    /// Measure now and show where the time goes. Fails where a measurement does.
    ///
    /// Kinds of targets: https://host/path, http://…, tcp://host:port, dns://resolver/name, dns+tls://…,
    /// icmp://host, stamp://host. Example: caelum probe once example.net --count 5 --trace
    Once(ProbeOnce),
}

/// `caelum probe once`
#[derive(Debug, Args)]
pub struct ProbeOnce {
    /// What to measure; without a scheme, https
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
    /// How often
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
    /// Time between two, such as 1s
    #[arg(long, value_name = "TIME", value_parser = duration_ms, default_value = "1s")]
    pub interval: i64,
    /// Time after which a stage is given up, ms
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=120_000))]
    pub timeout: u64,
    /// IP versions
    #[arg(long, value_parser = ["any", "ipv4", "ipv6", "both"])]
    pub families: Option<String>,
    /// Ask this resolver instead of the machine's own
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = resolver)]
    pub resolver: Option<std::net::SocketAddr>,
    /// Download this for the throughput (http and https)
    #[arg(long, value_name = "URL")]
    pub throughput: Option<String>,
    /// Look how quick the line is while it is loaded with that download; takes some hundred megabytes
    #[arg(long, requires = "throughput")]
    pub load: bool,
    /// Packets of a train (icmp and stamp)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=250))]
    pub packets: Option<u16>,
    /// Show the machines on the way
    #[arg(long)]
    pub trace: bool,
    /// Authorities to trust beside this machine's own, PEM
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `caelum lab …`
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Send events, kill processes all the while, and compare what was counted with what was acknowledged.
    ///
    /// Starts its own processes on loopback and ends them; nothing else is touched. Two hundred kills take a
    /// few minutes. Example: caelum lab torture --set postgres-nats --kills 200
    Torture(Torture),
}

/// `caelum lab torture`
#[derive(Debug, Args)]
pub struct Torture {
    /// What runs: `caelum up` alone (embedded), or ingests and aggregators on PostgreSQL and NATS
    /// (postgres-nats), or on three NATS nodes (nats-cluster)
    #[arg(long, value_parser = lab_set, default_value = "embedded")]
    pub set: caelum_lab::torture::Set,
    /// Processes to kill
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub kills: usize,
    /// Then let each backend of its own be away once for so long, such as 60s
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    pub absence: Option<i64>,
    /// Repeat the run of this number [default: the time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Probes that send
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub probes: u16,
    /// Of a hundred batches, how many are sent twice
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub duplicates: u8,
    /// Of a hundred events, how many are hours old
    #[arg(long, value_name = "PERCENT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub late: u8,
    /// Processes that take events in
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub ingests: u8,
    /// Processes that count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub aggregators: u8,
    /// Records of your own to use instead, as postgres://USER@HOST/DATABASE; they are not hurt
    #[arg(long, value_name = "URL", requires = "queue")]
    pub store: Option<String>,
    /// Event stream of your own to use instead, as nats://HOST:4222; it is not hurt
    #[arg(long, value_name = "URL", requires = "store")]
    pub queue: Option<String>,
    /// Make the files here and leave them [default: a temporary folder, kept only when something differs]
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn lab_set(text: &str) -> Result<caelum_lab::torture::Set, String> {
    use caelum_lab::torture::Set;
    Set::ALL
        .into_iter()
        .find(|set| set.name() == text)
        .ok_or_else(|| format!("is none of {}", Set::ALL.map(Set::name).join(", ")))
}

/// `caelum agent` and `caelum beacon`
#[derive(Debug, Args)]
pub struct Agent {
    /// Where settings and data are.
    #[command(flatten)]
    pub place: Place,
    /// Join by this token first; without it, the machine waits to be adopted
    #[arg(long, env = "CAELUM_JOIN", hide_env_values = true, value_name = "TOKEN")]
    pub join: Option<String>,
    /// Join by the token in this file at the first start, and remove the file then; it need not be there
    #[arg(long, env = "CAELUM_JOIN_FILE", value_name = "FILE", conflicts_with = "join")]
    pub join_file: Option<PathBuf>,
    /// TCP port of its links, on every address [default: 8080]
    #[arg(long, value_name = "PORT", conflicts_with = "server-listen")]
    pub port: Option<u16>,
    /// Settings given as flags.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `caelum config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Report everything that is wrong with the settings.
    Check(Resolved),
    /// Print what holds.
    Print {
        /// Say where each value comes from.
        #[arg(long)]
        origin: bool,
        /// What is resolved.
        #[command(flatten)]
        resolved: Resolved,
    },
    /// Print a file with every setting and its default.
    Example,
    /// Print the reference of all settings (docs/configuration.md).
    Reference,
}

/// What `caelum up` would resolve.
#[derive(Debug, Args)]
pub struct Resolved {
    /// Where settings and data are.
    #[command(flatten)]
    pub place: Place,
    /// Settings given as flags.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `caelum token …`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it, alone on the last line. It is not shown again.
    New {
        /// What it allows: ingest, read, operate, admin
        #[arg(long, required = true, value_delimiter = ',', value_parser = scope)]
        scope: Vec<Scope>,
        /// The probe that an ingest token speaks for, or * for any
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        /// What people call it [default: after its scopes]
        #[arg(long)]
        name: Option<String>,
        /// When it stops working, such as 12h or 30d [default: never]
        #[arg(long, value_name = "TIME", value_parser = duration_ms)]
        expires: Option<i64>,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
    /// Make a token that admits machines as nodes (`caelum join`). It is not shown again.
    Join {
        /// How many machines it admits
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// How long it is valid, such as 90s, 12h or 30d
        #[arg(long, value_name = "TIME", value_parser = duration_ms, default_value = "24h")]
        expires: i64,
        /// The most it makes of a machine: agent, beacon, server
        #[arg(long, value_parser = node_role, default_value = "agent")]
        role: NodeRole,
        /// Where machines reach the server; may be given more than once [default: where it listens]
        #[arg(long, value_name = "HOST:PORT")]
        server: Vec<String>,
        /// Where machines leave a sealed request if they reach no server: postgres://, redis:// or file:, with an
        /// account that can do no more than that (`caelum package mailboxes` shows how to make one)
        #[arg(long, value_name = "ADDRESS", env = "CAELUM_TOKEN_MAILBOX", hide_env_values = true)]
        mailbox: Option<MailboxAddress>,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
    /// List tokens, newest first; their secrets are not known.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
    /// Make a token useless.
    Revoke {
        /// The token's id, as listed
        id: String,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
}

/// `caelum join`
#[derive(Debug, Args)]
pub struct Join {
    /// The token that `caelum token join` printed on a server, or - to read it from standard input
    pub token: String,
    /// The token is sealed: open it with the passphrase in CAELUM_JOIN_PASSPHRASE, or else on the first line of
    /// standard input
    #[arg(long)]
    pub sealed: bool,
    /// Data directory of the node [default: as for `caelum up`]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The most that anybody may do to this machine, whatever servers say: observe, tasks, shell
    #[arg(long, value_parser = ceiling, default_value = "observe")]
    pub ceiling: Ceiling,
    /// What it is to be: agent, beacon, server
    #[arg(long, value_parser = node_role, default_value = "agent")]
    pub role: NodeRole,
}

/// `caelum nodes …`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Nodes {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub action: Option<NodesAction>,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum alerts`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Alerts {
    /// What to do instead of listing those that stand.
    #[command(subcommand)]
    pub action: Option<AlertsAction>,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// What can be done with alerts.
#[derive(Debug, Subcommand)]
pub enum AlertsAction {
    /// List alerts, newest first.
    List {
        /// Only of this status
        #[arg(long, default_value = "open", value_parser = ["open", "active", "acknowledged", "resolved", "all"])]
        status: String,
        /// Only of this severity
        #[arg(long, value_parser = ["warning", "critical", "offline"])]
        severity: Option<String>,
        /// Only of this node, by id or name
        #[arg(long)]
        node: Option<String>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Say that you look into an alert.
    Ack {
        /// Its id
        id: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Say that an alert is over.
    Resolve {
        /// Its id
        id: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub enum NodesAction {
    /// Make a machine a node that was found and shows a code.
    Approve {
        /// The machine's id
        machine: String,
        /// The code that it shows
        #[arg(long)]
        code: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Let a node finish what it has and give it no more work.
    Drain {
        /// The node's id or name
        node: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Give a node work again.
    Undrain {
        /// The node's id or name
        node: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Say by which words a node can be chosen; without any, take all away.
    Tag {
        /// The node's id or name
        node: String,
        /// All of its words, such as `web` or `site=berlin`
        tags: Vec<String>,
        /// Site, rack or team that it is listed under; an empty text for none
        #[arg(long)]
        group: Option<String>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Say nothing about a node for a while; its alerts are shown all the same.
    Mute {
        /// The node's id or name
        node: String,
        /// For how many minutes; 0 ends it
        #[arg(long, default_value_t = 60)]
        minutes: u32,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Shut a node out, at once and for good.
    Revoke {
        /// The node's id, or its name where only one has it
        node: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// `caelum user …`
#[derive(Debug, Subcommand)]
pub enum User {
    /// Set a new password and end the user's sessions. Prints a generated one, alone on the last line.
    Password {
        /// Who
        name: String,
        /// Read the password from the first line of standard input instead
        #[arg(long)]
        stdin: bool,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
}

/// `caelum dead-letters …`
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List events that were kept aside, newest first.
    List {
        /// Only of this probe
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        /// Only for this reason, such as too_late
        #[arg(long, value_name = "WORD")]
        reason: Option<String>,
        /// Only in this state
        #[arg(long, value_parser = ["kept", "requested", "replayed"])]
        state: Option<String>,
        /// At most so many, 1 to 500
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Show one of them with its event.
    Show {
        /// Its number, as listed
        id: i64,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Count them after all: by number, or all that are kept of a probe or for a reason. Nothing counts twice.
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["ids", "client_id", "reason"]))]
    Replay {
        /// Their numbers, as listed
        #[arg(value_name = "ID")]
        ids: Vec<i64>,
        /// All of this probe
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        /// All for this reason, such as too_late
        #[arg(long, value_name = "WORD")]
        reason: Option<String>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// `caelum discover`
#[derive(Debug, Args)]
pub struct Discover {
    /// How long to listen, such as 3s; 30s at most
    #[arg(long, value_name = "TIME", value_parser = duration_ms, default_value = "3s")]
    pub wait: i64,
    /// Try every address of the networks in cluster.sweep too
    #[arg(long)]
    pub sweep: bool,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum node`
#[derive(Debug, Args)]
pub struct Node {
    /// The node's name or id
    pub node: String,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum top`
#[derive(Debug, Args)]
pub struct Top {
    /// Show it once; so it is also where the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = duration_ms, default_value = "2s")]
    pub interval: i64,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum connect`
#[derive(Debug, Args)]
pub struct Connect {
    /// The machine, HOST or HOST:PORT or [IPV6]:PORT [port: 8080]
    #[arg(value_name = "HOST[:PORT]", value_parser = endpoint)]
    pub machine: (String, Option<u16>),
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum db …`
#[derive(Debug, Subcommand)]
pub enum Db {
    /// Bring the schema up to date. Several may do it at once; a newer schema is refused.
    Migrate(Looked),
    /// Show where the records are, who answers, the schema, and what takes how much room.
    Status(Looked),
    /// Go on with another event stream, from its beginning: after the queue was moved or lost. What is counted
    /// stays counted; events that are in the new stream and were counted before are known by their numbers.
    NewStream(Resolved),
    /// Look for damage and for settings that lose data; fails where there is any.
    Check(Looked),
}

/// Which records are looked at, and how that is shown.
#[derive(Debug, Args)]
pub struct Looked {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// What `caelum up` would use; `--store` names other records.
    #[command(flatten)]
    pub resolved: Resolved,
}

/// `caelum doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// What `caelum up` would use.
    #[command(flatten)]
    pub resolved: Resolved,
}

/// Which server is asked, and how.
#[derive(Clone, Debug, Args)]
pub struct Client {
    /// Address of the server [default: the one that runs on this machine]
    #[arg(long, env = "CAELUM_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Token with the scope that is needed
    #[arg(long, env = "CAELUM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Data directory of a server on this machine: where its address and its authority are read
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print the server's JSON
    #[arg(long)]
    pub json: bool,
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| "scopes are ingest, read, operate and admin".to_owned())
}

fn node_role(text: &str) -> Result<NodeRole, String> {
    NodeRole::parse(text).ok_or_else(|| "roles are agent, beacon and server".to_owned())
}

fn ceiling(text: &str) -> Result<Ceiling, String> {
    let known = Ceiling::ALL.into_iter().find(|ceiling| ceiling.as_str() == text);
    known.ok_or_else(|| "ceilings are observe, tasks and shell".to_owned())
}

fn target_url(text: &str) -> Result<String, String> {
    caelum_drivers::probe::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// An address, with or without a port.
fn resolver(text: &str) -> Result<std::net::SocketAddr, String> {
    const DNS_PORT: u16 = 53;
    let with_port = text.parse().ok();
    let alone = || text.parse().ok().map(|ip: std::net::IpAddr| (ip, DNS_PORT).into());
    with_port
        .or_else(alone)
        .ok_or_else(|| "write an address, such as 192.0.2.53 or [2001:db8::53]:5353".to_owned())
}

/// `host`, `host:port`, an IPv6 address, or one in brackets with a port.
fn endpoint(text: &str) -> Result<(String, Option<u16>), String> {
    let refuse = || format!("{text} is not HOST, HOST:PORT or [IPV6]:PORT");
    if let Ok(ip) = text.parse::<std::net::Ipv6Addr>() {
        return Ok((ip.to_string(), None));
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(refuse)?)),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse::<u16>).transpose().map_err(|_| refuse())?;
    match host.is_empty() || port == Some(0) {
        true => Err(refuse()),
        false => Ok((host.to_owned(), port)),
    }
}

/// `90s`, `15m`, `12h` or `30d` as milliseconds.
fn duration_ms(text: &str) -> Result<i64, String> {
    let refuse = || "write a number and its unit: 90s, 15m, 12h or 30d".to_owned();
    let unit_ms = match text.chars().last() {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err(refuse()),
    };
    let number: i64 = text[..text.len() - 1].parse().map_err(|_| refuse())?;
    number.checked_mul(unit_ms).filter(|ms| (1..=i64::from(u32::MAX) * 1_000).contains(ms)).ok_or_else(refuse)
}

/// Settings given as flags: one flag for each row of the table, made from it.
#[derive(Debug, Default)]
pub struct Overrides(pub Vec<(usize, String)>);

impl Args for Overrides {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flags = KEYS.iter().zip(LONG_FLAGS.iter()).filter(|(key, _)| key.has_flag());
        let command = flags.fold(command, |command, (key, long)| {
            let mut flag = Arg::new(long.as_str())
                .long(long.as_str())
                .value_name(value_name(&key.field))
                .action(ArgAction::Set)
                .allow_hyphen_values(true)
                .hide_short_help(key.short_flag.is_none())
                .help_heading("Settings (see `caelum config reference`)")
                .help(key.text);
            if let Some(short) = key.short_flag.filter(|short| short != long) {
                flag = flag.visible_alias(short);
            }
            command.arg(flag)
        });
        let without = |name: &'static str, conflicting: &'static str, text: &'static str| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).conflicts_with(conflicting).help(text)
        };
        command.arg(without("no-probe", "probe-enabled", "Do not measure the network")).arg(without(
            "no-worker",
            "worker-enabled",
            "Run no tasks",
        ))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut overrides = Self::default();
        overrides.update_from_arg_matches(matches)?;
        Ok(overrides)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (at, key) in KEYS.iter().enumerate().filter(|(_, key)| key.has_flag()) {
            if let Some(value) = matches.get_one::<String>(&key.long_flag()) {
                self.0.push((at, value.clone()));
            }
        }
        if matches.get_flag("no-probe") {
            self.0.push((position("probe.enabled"), "false".to_owned()));
        }
        if matches.get_flag("no-worker") {
            self.0.push((position("worker.enabled"), "false".to_owned()));
        }
        Ok(())
    }
}

fn value_name(field: &Field) -> &'static str {
    match field {
        Field::Text { .. } | Field::MaybeText { .. } | Field::Secret { .. } => "TEXT",
        Field::Switch { .. } => "true|false",
        Field::Whole { .. } | Field::Decimal { .. } => "N",
        Field::Choice { .. } => "WORD",
        Field::Addresses { .. } => "ADDRESS:PORT,…",
        Field::Words { .. } => "TEXT,…",
        Field::Targets { .. } => "URL,…",
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_setting_is_given_by_its_flag_or_its_short_name() {
        for flag in ["--listen", "--server-listen"] {
            let arguments = Arguments::try_parse_from(["caelum", "up", flag, "127.0.0.1:1", "--no-probe"]);
            let Command::Up(up) = arguments.expect("parses").command else { panic!("is another command") };
            assert_eq!(
                up.overrides.0,
                [
                    (position("server.listen"), "127.0.0.1:1".to_owned()),
                    (position("probe.enabled"), "false".to_owned())
                ]
            );
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration_ms("30d"), Ok(2_592_000_000));
        assert_eq!(duration_ms("1s"), Ok(1000));
        for wrong in ["", "30", "d", "-1h", "0s", "3 h", "9999999999999d", "1µ"] {
            assert!(duration_ms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_machine_is_named_with_or_without_its_port() {
        let named = |text: &str| endpoint(text).ok();
        assert_eq!(named("box"), Some(("box".to_owned(), None)));
        assert_eq!(named("10.0.0.1:81"), Some(("10.0.0.1".to_owned(), Some(81))));
        assert_eq!(named("fe80::1"), Some(("fe80::1".to_owned(), None)));
        assert_eq!(named("[::1]:81"), Some(("::1".to_owned(), Some(81))));
        assert_eq!(named("[::1]"), Some(("::1".to_owned(), None)));
        for wrong in ["", ":81", "a:", "a:0", "a:x", "a:70000", "[::1]81", "[]:1"] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }

    /// Every `caelum …` line in a code block of the documents is something that can be typed.
    #[test]
    fn commands_in_documents_parse() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let (mut seen, mut wrong) = (0, Vec::new());
        let mut documents = vec![PathBuf::from(root).join("README.md")];
        let mut folders = vec![PathBuf::from(root).join("docs")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the folder can be read") {
                let path = entry.expect("the folder can be read").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false if path.extension().is_some_and(|ending| ending == "md") => documents.push(path),
                    false => {}
                }
            }
        }
        for document in documents {
            let text = std::fs::read_to_string(&document).expect("the document can be read");
            let document = document.display();
            for command in commands_in(&text) {
                // What stands in double quotes is one word.
                let words = command.split('"').enumerate().flat_map(|(number, part)| match number % 2 {
                    0 => part.split_whitespace().collect(),
                    _ => vec![part],
                });
                match Arguments::try_parse_from(words) {
                    Err(error) if error.use_stderr() => wrong.push(format!("{document}: {command}: {error}")),
                    _ => seen += 1,
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(seen > 100, "only {seen} commands found");
    }

    /// What stands between backticks, or in a code block up to a pipe, a bracket or a comment.
    fn commands_in(text: &str) -> Vec<String> {
        let mut commands = Vec::new();
        let mut in_block = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            } else if in_block {
                let start = line.find("caelum ").filter(|at| {
                    line[..*at].trim_start_matches(' ').ends_with(['(', ' '])
                        || *at == 0
                        || line[..*at].trim().is_empty()
                });
                let start = start.or_else(|| line.find("-- up").map(|at| at + 3));
                if let Some(at) = start.filter(|_| !line.contains("git clone")) {
                    let rest = line[at..].split(['|', ')', '#', '&']).next().unwrap_or_default().trim();
                    let rest = rest.strip_prefix("caelum ").unwrap_or(rest);
                    commands.push(format!("caelum {rest}"));
                }
            } else {
                let spans = line.split('`').skip(1).step_by(2);
                commands.extend(
                    spans
                        .filter(|span| {
                            span.starts_with("caelum ") && !span.contains('…') && span.split(' ').count() > 1
                        })
                        .map(str::to_owned),
                );
            }
        }
        commands
    }
}
