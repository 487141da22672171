//! The arguments of `caelum probe`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Place,
    words::{duration_ms, resolver, target_url},
};

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
