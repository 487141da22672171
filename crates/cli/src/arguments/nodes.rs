//! The arguments of commands about the cluster's nodes.

use clap::{Args, Subcommand};

use super::{
    Client,
    words::{duration_ms, endpoint},
};

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
