//! Commands about the system's service: what starts Caelum at boot and watches it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `caelum service …`
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Let the system start this program now and at each boot. Takes root.
    Install(Installation),
    /// Take that back; settings and data stay. Takes root.
    Uninstall {
        /// Remove files under this folder only, and tell nobody
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Show whether it runs.
    Status,
    /// Start it. Takes root.
    Start,
    /// Stop it. Takes root.
    Stop,
    /// Show what it logs.
    Logs {
        /// Go on as it comes
        #[arg(long, short)]
        follow: bool,
        /// Last lines
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        lines: u32,
    },
}

/// `caelum service install`
#[derive(Debug, Args)]
pub struct Installation {
    /// What is started
    #[arg(long, default_value = "up", value_parser = ["up", "agent", "beacon", "ingest", "aggregator", "diagnoser", "probe"])]
    pub role: String,
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/caelum/caelum.toml")]
    pub config: PathBuf,
    /// Data directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/caelum")]
    pub data: PathBuf,
    /// Join by the token in this file at the first start (agent and beacon)
    #[arg(long, value_name = "FILE")]
    pub join_file: Option<PathBuf>,
    /// User that it runs as; made where there is none
    #[arg(long, value_name = "NAME", default_value = "caelum")]
    pub user: String,
    /// Program [default: this one]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// What starts services here [default: launchd on macOS, else systemd]
    #[arg(long)]
    pub manager: Option<Supervisor>,
    /// Print what would be installed and install nothing
    #[arg(long)]
    pub print: bool,
    /// Write files under this folder only, and start nothing
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// What starts services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Supervisor {
    /// Linux
    Systemd,
    /// macOS
    Launchd,
}
