//! What a backup holds, as it says itself.

use serde::{Deserialize, Serialize};

use crate::UnixMs;

/// The only layout of a backup that there is so far.
pub const FORMAT: u32 = 1;

/// What stands first in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Manifest {
    /// Layout, [`FORMAT`].
    pub format: u32,
    /// Version of the program that made it.
    pub version: String,
    /// When it was begun.
    pub made_at_ms: UnixMs,
    /// The server whose it is.
    pub node_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// What is in it.
    pub files: Vec<BackedUp>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BackedUp {
    /// Its place in the data directory.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// A backup in the directory of backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Backup {
    /// Its file's name.
    pub name: String,
    /// When it was made.
    pub made_at_ms: UnixMs,
    /// How long its file is.
    pub bytes: u64,
}
