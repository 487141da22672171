//! The arguments of `caelum db` and `caelum dead-letters`.

use clap::{Args, Subcommand};

use super::{Client, Resolved};

/// `caelum dead-letters …`
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List events that were kept aside, newest first.
    List {
        /// Only of this probe
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        /// Only for this reason, such as too_late
        #[arg(long, value_name = "WORD")]
        reason: Option<String>,
        /// Only in this state
        #[arg(long, value_parser = ["kept", "requested", "replayed"])]
        state: Option<String>,
        /// At most so many, 1 to 500
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Show one of them with its event.
    Show {
        /// Its number, as listed
        id: i64,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Count them after all: by number, or all that are kept of a probe or for a reason. Nothing counts twice.
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["ids", "client_id", "reason"]))]
    Replay {
        /// Their numbers, as listed
        #[arg(value_name = "ID")]
        ids: Vec<i64>,
        /// All of this probe
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        /// All for this reason, such as too_late
        #[arg(long, value_name = "WORD")]
        reason: Option<String>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// `caelum db …`
#[derive(Debug, Subcommand)]
pub enum Db {
    /// Bring the schema up to date. Several may do it at once; a newer schema is refused.
    Migrate(Looked),
    /// Show where the records are, who answers, the schema, and what takes how much room.
    Status(Looked),
    /// Go on with another event stream, from its beginning: after the queue was moved or lost. What is counted
    /// stays counted; events that are in the new stream and were counted before are known by their numbers.
    NewStream(Resolved),
    /// Look for damage and for settings that lose data; fails where there is any.
    Check(Looked),
}

/// Which records are looked at, and how that is shown.
#[derive(Debug, Args)]
pub struct Looked {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// What `caelum up` would use; `--store` names other records.
    #[command(flatten)]
    pub resolved: Resolved,
}
