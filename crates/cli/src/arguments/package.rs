//! Commands about packages: building one, what became of them, what can be built.

use std::path::PathBuf;

use caelum_model::{
    cluster::{Ceiling, NodeRole},
    package::{PackageKind, Platform},
};
use clap::{Args, Subcommand};

use super::{
    Client,
    words::{ceiling, node_role},
};

/// `caelum package …`
#[derive(Debug, Subcommand)]
pub enum Package {
    /// Build a package and write it to a file: installed on a machine, it makes that a node.
    ///
    /// Its invitation admits one machine, once. Until then whoever has the file can join. Example: caelum
    /// package build --kind deb --name edge-1
    Build(NewPackage),
    /// List packages, newest first, and what became of them.
    List(Client),
    /// Revoke a package that nobody joined by yet; take one off the list that is over.
    Revoke {
        /// The package's id, as listed
        id: String,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Show what can be built, and what is missing for the rest.
    Platforms(Client),
    /// Show the mailboxes that the server looks into, and what makes an account for machines there.
    Mailboxes(Client),
}

/// `caelum package build`
#[derive(Debug, Args)]
pub struct NewPackage {
    /// Name of the node [default: its host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// deb, rpm, pkg, tar.gz or oci [default: as the file's name ends, else deb]
    #[arg(long, value_parser = kind)]
    pub kind: Option<PackageKind>,
    /// What it makes: agent, beacon, server
    #[arg(long, value_parser = node_role, default_value = "agent")]
    pub role: NodeRole,
    /// linux-x86_64, linux-arm64, macos-x86_64 or macos-arm64 [default: the server's own]
    #[arg(long, value_parser = platform)]
    pub platform: Option<Platform>,
    /// The most that anybody may do to the machine: observe, tasks, shell
    #[arg(long, value_parser = ceiling, default_value = "observe")]
    pub ceiling: Ceiling,
    /// How long its invitation is valid, such as 1h, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub expires: String,
    /// Seal its invitation to the passphrase in CAELUM_JOIN_PASSPHRASE, or else on the first line of standard
    /// input; the machine then needs it to join
    #[arg(long)]
    pub sealed: bool,
    /// Where the machine leaves a sealed request if it reaches no server: postgres://, redis:// or file:, with an
    /// account that can do no more than that (`caelum package mailboxes` shows how to make one)
    #[arg(long, value_name = "ADDRESS", env = "CAELUM_PACKAGE_MAILBOX", hide_env_values = true)]
    pub mailbox: Option<String>,
    /// File to write; `-` is the standard output [default: caelum-NAME with the kind's ending]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

fn kind(text: &str) -> Result<PackageKind, String> {
    PackageKind::parse(text).ok_or_else(|| "kinds are deb, rpm, pkg, tar.gz and oci".to_owned())
}

fn platform(text: &str) -> Result<Platform, String> {
    let all = || Platform::ALL.map(Platform::as_str).join(", ");
    Platform::parse(text).ok_or_else(|| format!("platforms are {}", all()))
}
