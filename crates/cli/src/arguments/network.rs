//! The arguments of `caelum targets`, `caelum probes` and `caelum incidents`.

use clap::{Args, Subcommand};

use super::Client;

/// `caelum targets …`
#[derive(Debug, Subcommand)]
pub enum Targets {
    /// List what is measured.
    List(Client),
    /// Measure something more.
    Add {
        /// https://host/path, http://…, tcp://host:port, dns://resolver/name, icmp://host or stamp://host:port
        url: String,
        /// Start from what fits a kind of service, as `caelum targets templates` lists
        #[arg(long, value_name = "NAME")]
        template: Option<String>,
        /// How it is measured.
        #[command(flatten)]
        wish: Box<TargetWish>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Change how something is measured.
    Change {
        /// The target's id or URL, as listed
        target: String,
        /// How it is measured from now on.
        #[command(flatten)]
        wish: Box<TargetWish>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Measure it no longer. What was measured stays.
    Remove {
        /// The target's id or URL, as listed
        target: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// List kinds of services with what fits each.
    Templates(Client),
}

/// How a target is measured: what is not given stays, or is the usual.
#[derive(Debug, Default, Args)]
pub struct TargetWish {
    /// What people call it [default: the URL]
    #[arg(long)]
    pub name: Option<String>,
    /// Time between measurements, s
    #[arg(long, value_name = "S")]
    pub interval_s: Option<u32>,
    /// Time after which a measurement is given up, ms
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u32>,
    /// Object whose download gives the throughput; an empty text for none
    #[arg(long, value_name = "URL")]
    pub throughput_url: Option<String>,
    /// IP versions
    #[arg(long, value_parser = ["any", "ipv4", "ipv6", "both"])]
    pub families: Option<String>,
    /// Word to find and select it by; may be given several times, an empty one takes all away
    #[arg(long = "tag", value_name = "WORD")]
    pub tags: Vec<String>,
    /// Site, provider or service that it shares with others; an empty text for none
    #[arg(long)]
    pub group: Option<String>,
    /// Which probes measure it, such as `tag:wifi,!lab-3`; `all` for every probe
    #[arg(long, value_name = "WORDS")]
    pub probes: Option<String>,
    /// What it is held to, such as `300ms,99.9%,28d`; `none` for nothing
    #[arg(long, value_name = "PROMISE")]
    pub objective: Option<String>,
    /// Packets of a train (icmp and stamp); 0 for the usual number
    #[arg(long, value_name = "COUNT")]
    pub packets: Option<u16>,
    /// Time between traces of the path, s; 0 for no traces
    #[arg(long, value_name = "S")]
    pub trace_every_s: Option<u32>,
    /// Time between measurements under load, s; 0 for none
    #[arg(long, value_name = "S")]
    pub load_every_s: Option<u32>,
    /// Whether it is measured at all
    #[arg(long, value_parser = ["on", "off"])]
    pub enabled: Option<String>,
}

/// `caelum probes`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Probes {
    /// What is done.
    #[command(subcommand)]
    pub command: Option<ProbesCommand>,
    /// The probe; all of them without one
    #[arg(value_name = "ID")]
    pub probe: Option<String>,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// What `caelum probes` does beside showing.
#[derive(Debug, Subcommand)]
pub enum ProbesCommand {
    /// Say where a probe stands and what it takes part in.
    Change {
        /// The probe's id, or the name of its machine
        probe: String,
        /// Site, region or uplink that it shares with others; an empty text for none
        #[arg(long)]
        group: Option<String>,
        /// Word that targets select it by; may be given several times, an empty one takes all away
        #[arg(long = "tag", value_name = "WORD")]
        tags: Vec<String>,
        /// Whether it measures the other machines, and they it
        #[arg(long, value_parser = ["on", "off"])]
        mesh: Option<String>,
        /// Whether it measures at all
        #[arg(long, value_parser = ["on", "off"])]
        enabled: Option<String>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// `caelum incidents`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Incidents {
    /// What is done; the list without one.
    #[command(subcommand)]
    pub command: Option<IncidentsCommand>,
    /// Which are listed.
    #[command(flatten)]
    pub filter: IncidentFilter,
}

/// What `caelum incidents` does.
#[derive(Debug, Subcommand)]
pub enum IncidentsCommand {
    /// List incidents, newest first.
    List(IncidentFilter),
    /// Show one: its numbers, its pairs and its history.
    Show {
        /// The incident's id, as listed
        id: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// Which incidents.
#[derive(Debug, Args)]
pub struct IncidentFilter {
    /// Only those that are open, or over
    #[arg(long, value_parser = ["open", "closed"])]
    pub status: Option<String>,
    /// Only of this label, such as DNS-bound
    #[arg(long)]
    pub label: Option<String>,
    /// Only blamed on this
    #[arg(long, value_name = "TYPE", value_parser = ["probe", "target", "resolver", "group", "pair"])]
    pub entity_type: Option<String>,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// What is judged anew.
#[derive(Debug, clap::Args)]
pub struct Diagnose {
    /// Begin: milliseconds since 1970, or how long ago, such as 2h, 90m or 1d
    #[arg(long)]
    pub from: String,
    /// End, likewise [default: now]
    #[arg(long)]
    pub to: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where the records are
    #[command(flatten)]
    pub resolved: super::Resolved,
}
