//! Commands about other machines over SSH: running something there, connections, hosts and their keys.

use clap::{Args, Subcommand};

use super::{Client, tasks::seconds};

/// What `caelum ssh` does.
#[derive(Debug, Subcommand)]
pub enum SshCommand {
    /// Run a command on one node or host, and end as it ends.
    Exec(SshExec),
    /// Run a command on many at once; equal output is shown once, what went wrong first.
    Broadcast(SshBroadcast),
    /// Show the connections that are kept.
    Pool {
        /// Close those that have nothing to do, and let hosts that did not answer be tried again
        #[arg(long)]
        clean: bool,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// List hosts without an agent.
    Hosts {
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Add a host without an agent.
    Add(SshAdd),
    /// Remove a host without an agent.
    Remove {
        /// Its name or id
        host: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// List the keys that hosts may show, and who vouches for them.
    KnownHosts {
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Accept a host's key; without key or fingerprint, show the one that it has now.
    Accept(SshAccept),
    /// Forget the keys that were accepted of a host.
    Forget {
        /// Address or name of the host, or a node's name
        host: String,
        /// Its port
        #[arg(long)]
        port: Option<u16>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Print the line that lets the cluster in, for `authorized_keys`.
    Key {
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Print the line of the cluster's user authority, for the file that `TrustedUserCAKeys` names.
    Ca {
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// `caelum ssh exec`
#[derive(Debug, Args)]
pub struct SshExec {
    /// The node or host, by name or id
    pub node: String,
    /// How long it may take: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "30s")]
    pub timeout: u64,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
    /// The command with its arguments; one argument alone is a line for the shell
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `caelum ssh broadcast`
#[derive(Debug, Args)]
pub struct SshBroadcast {
    /// Where: all, a name, tag=WORD, level=LEVEL, capability=WORD, role=ROLE, group=NAME; may be given again
    #[arg(long, value_name = "WHERE", default_value = "all")]
    pub on: Vec<String>,
    /// How long it may take on each: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "30s")]
    pub timeout: u64,
    /// Show which hosts are meant, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
    /// The command with its arguments; one argument alone is a line for the shell
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `caelum ssh add`
#[derive(Debug, Args)]
pub struct SshAdd {
    /// Name people use
    pub name: String,
    /// Where it is, if the name does not say so
    #[arg(long)]
    pub address: Option<String>,
    /// Port of its SSH server
    #[arg(long)]
    pub port: Option<u16>,
    /// User to sign in as
    #[arg(long)]
    pub user: Option<String>,
    /// A word it can be chosen by; may be given again
    #[arg(long, value_name = "WORD")]
    pub tag: Vec<String>,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum ssh accept`
#[derive(Debug, Args)]
pub struct SshAccept {
    /// Address or name of the host, or a node's name
    pub host: String,
    /// Its port
    #[arg(long)]
    pub port: Option<u16>,
    /// SHA-256 of the key, as `ssh-keygen -lf` says it on the host
    #[arg(long, value_name = "SHA256:…", conflicts_with = "key")]
    pub fingerprint: Option<String>,
    /// The key itself: 'ssh-ed25519 AAAA…'
    #[arg(long)]
    pub key: Option<String>,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}
