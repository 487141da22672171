//! The arguments of `caelum alerts`.

use clap::{Args, Subcommand};

use super::Client;

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
