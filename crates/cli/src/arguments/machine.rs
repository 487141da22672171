//! The arguments of what runs on a machine that is no server: `caelum agent`, `caelum beacon`, `caelum join`.

use std::path::PathBuf;

use caelum_model::cluster::{Ceiling, NodeRole};
use clap::Args;

use super::{
    Overrides, Place,
    words::{ceiling, node_role},
};

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
