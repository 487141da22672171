//! `caelum fleet`, as it may be typed.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::Client;

/// `caelum fleet …`
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Show the servers, and by what they know of each other.
    Status(Client),
    /// List the servers, those that are away included.
    Nodes(Client),
    /// Measure whether servers reach what they share, and whether one could take over. Fails where not.
    Health(Client),
    /// Show the number of the master key, which server holds it, and what is missing before its predecessor can go.
    Key(Client),
    /// Replace the master key while the servers run, or end the hand-over from the old one.
    ///
    /// Everything secret in the records is sealed under a new key; each server takes it up by itself, those that
    /// are away when they are started. When all have it, --finish removes what the old key opens.
    RotateKey {
        /// Take the new key from this file; where there is none, one is made there, readable by its owner only.
        /// Needed where servers find their key in cluster.cluster_secret or a credential of systemd
        #[arg(long, value_name = "FILE", conflicts_with = "finish")]
        key_file: Option<PathBuf>,
        /// End the hand-over: from then on the old key opens nothing
        #[arg(long)]
        finish: bool,
        /// Go on although servers are shut out by that: those that have not taken up the new key, or cannot
        #[arg(long)]
        force: bool,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Print the configuration of a load balancer before the servers that live now.
    LoadBalancer {
        /// Which program
        kind: BalancerKind,
        /// Where TLS ends
        #[arg(long, value_name = "WHERE", default_value = "passthrough")]
        tls: BalancerTls,
        /// Port that it listens on
        #[arg(long, value_name = "PORT", default_value_t = 443)]
        port: u16,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// A load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BalancerKind {
    /// HAProxy
    Haproxy,
    /// nginx
    Nginx,
}

/// Where TLS ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BalancerTls {
    /// At the servers
    Passthrough,
    /// At the balancer, with a certificate of its own
    Terminate,
}
