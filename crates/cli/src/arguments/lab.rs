//! The arguments of `caelum lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::words::duration_ms;

/// `caelum lab …`
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Send events, kill processes all the while, and compare what was counted with what was acknowledged.
    ///
    /// Starts its own processes on loopback and ends them; nothing else is touched. Two hundred kills take a
    /// few minutes. Example: caelum lab torture --set postgres-nats --kills 200
    Torture(Torture),
}

/// `caelum lab torture`
#[derive(Debug, Args)]
pub struct Torture {
    /// What runs: `caelum up` alone (embedded), or ingests and aggregators on PostgreSQL and NATS
    /// (postgres-nats), or on three NATS nodes (nats-cluster)
    #[arg(long, value_parser = lab_set, default_value = "embedded")]
    pub set: caelum_lab::torture::Set,
    /// Processes to kill
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub kills: usize,
    /// Then let each backend of its own be away once for so long, such as 60s
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    pub absence: Option<i64>,
    /// Repeat the run of this number [default: the time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Probes that send
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub probes: u16,
    /// Of a hundred batches, how many are sent twice
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub duplicates: u8,
    /// Of a hundred events, how many are hours old
    #[arg(long, value_name = "PERCENT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub late: u8,
    /// Processes that take events in
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub ingests: u8,
    /// Processes that count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub aggregators: u8,
    /// Records of your own to use instead, as postgres://USER@HOST/DATABASE; they are not hurt
    #[arg(long, value_name = "URL", requires = "queue")]
    pub store: Option<String>,
    /// Event stream of your own to use instead, as nats://HOST:4222; it is not hurt
    #[arg(long, value_name = "URL", requires = "store")]
    pub queue: Option<String>,
    /// Make the files here and leave them [default: a temporary folder, kept only when something differs]
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn lab_set(text: &str) -> Result<caelum_lab::torture::Set, String> {
    use caelum_lab::torture::Set;
    Set::ALL
        .into_iter()
        .find(|set| set.name() == text)
        .ok_or_else(|| format!("is none of {}", Set::ALL.map(Set::name).join(", ")))
}
