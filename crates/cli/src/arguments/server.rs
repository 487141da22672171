//! `caelum server`, as it may be typed.

use std::path::PathBuf;

use clap::Args;

use super::{Overrides, Place};

/// `caelum server`
///
/// Everything that `caelum up` runs, without a probe and a worker unless asked for, on records and a stream
/// that several servers share. The first server is started with --store and --queue; further ones join by a
/// token of it (`caelum token join --role server`), which brings along where these are.
#[derive(Debug, Args)]
pub struct Server {
    /// Where settings and data are.
    #[command(flatten)]
    pub place: Place,
    /// Join by this token first, unless that was done before
    #[arg(long, env = "CAELUM_JOIN", hide_env_values = true, value_name = "TOKEN")]
    pub join: Option<String>,
    /// The same, from a file
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    pub join_file: Option<PathBuf>,
    /// Settings given as flags.
    #[command(flatten)]
    pub overrides: Overrides,
}
