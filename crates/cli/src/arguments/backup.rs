//! Commands about backups: make, list, check, put back.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Place, Resolved};

/// `caelum backup`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Backup {
    /// What is done; a backup is made without one.
    #[command(subcommand)]
    pub command: Option<BackupCommand>,
    /// What is backed up.
    #[command(flatten)]
    pub made: MadeBackup,
}

/// What `caelum backup` does beside making one.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// List the backups that are there, newest first.
    List(MadeBackup),
    /// Restore a backup aside, look at all of it, and say what is in it. Nothing is changed.
    Check {
        /// The backup
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is backed up, and how that is shown.
#[derive(Debug, Args)]
pub struct MadeBackup {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// What `caelum up` would use.
    #[command(flatten)]
    pub resolved: Resolved,
}

/// `caelum restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// Set aside what is in the data directory already
    #[arg(long)]
    pub replace: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where it is put: the data directory must be named.
    #[command(flatten)]
    pub place: Place,
}
