//! Commands on other machines over SSH: what is asked, what came of it, and the keys that hosts prove
//! themselves with. How connections are shared and who may ask is no concern of this module.

use serde::{Deserialize, Serialize};

use crate::{UnixMs, id::NodeId};

/// How a command ended on one host.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SshOutcome {
    /// It ran and ended with 0.
    Ok,
    /// It ran and ended with another code, or by a signal.
    Failed,
    /// It did not end in time. Whether it ended later is not known.
    TimedOut,
    /// The host did not answer, or the connection broke while the command ran.
    Unreachable,
    /// Nothing was run: the host's key, our key, the node's ceiling or a full queue stood against it.
    Refused,
}

impl SshOutcome {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

/// Why a host's key was not taken, and what there is to compare.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostKeyProblem {
    /// Address of the host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The key that it showed, as in a `known_hosts` file: `ssh-ed25519 AAAA…`.
    pub offered_key: String,
    /// SHA-256 of that key, as `ssh` shows it.
    pub offered_fingerprint: String,
    /// SHA-256 of each key that it should have; empty where none is known.
    pub known_fingerprints: Vec<String>,
}

impl HostKeyProblem {
    /// Whether another key was known, which a host that was merely never seen has not.
    pub fn is_changed(&self) -> bool {
        !self.known_fingerprints.is_empty()
    }
}

/// What came of a command on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SshResult {
    /// The node or host.
    pub node_id: NodeId,
    /// Its name.
    pub node: String,
    /// How it ended.
    pub outcome: SshOutcome,
    /// Whether it ran and ended with 0.
    pub success: bool,
    /// What it wrote; a line says where something was left out.
    pub stdout: String,
    /// What it wrote about errors.
    pub stderr: String,
    /// Its exit code; null where it did not end by itself.
    pub return_code: Option<i32>,
    /// Why it did not end well, in words; null where its exit code says it all.
    pub error: Option<String>,
    /// The slot it ran on: `user@host:port`; null where no host was asked.
    pub connection: Option<String>,
    /// Whether the connection was there already.
    pub is_reused: bool,
    /// From asking to the end, waiting for a connection included.
    pub duration_ms: i64,
    /// Bytes that were left out of what it wrote.
    pub cut_bytes: u64,
    /// The key that stood against it, where one did.
    pub host_key: Option<HostKeyProblem>,
}

/// Hosts on which a command ended the same way with the same words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SshGroup {
    /// How it ended there.
    pub outcome: SshOutcome,
    /// With which code.
    pub return_code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote about errors.
    pub stderr: String,
    /// Why it did not end well.
    pub error: Option<String>,
    /// Names of the hosts, in order.
    pub nodes: Vec<String>,
    /// How many there are.
    pub count: usize,
}

/// Who vouches for a host's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyOrigin {
    /// The node's own agent told it over its link.
    Attested,
    /// A person accepted it.
    Accepted,
    /// A file named in the settings has it.
    File,
}

impl KeyOrigin {
    /// The stored and wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attested => "attested",
            Self::Accepted => "accepted",
            Self::File => "file",
        }
    }

    /// The origin with this spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Attested, Self::Accepted, Self::File].into_iter().find(|origin| origin.as_str() == text)
    }
}

/// A key that a host may show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KnownHost {
    /// Address or name, as it is dialled.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The key: `ssh-ed25519 AAAA…`.
    pub key: String,
    /// Who vouches for it.
    pub origin: KeyOrigin,
    /// Who accepted it, or the node that told it.
    pub by: String,
    /// When.
    pub at_ms: UnixMs,
}

/// A machine without an agent that commands can be run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SshHost {
    /// Its id.
    pub node_id: NodeId,
    /// Name people use.
    pub name: String,
    /// Where it is: an address or a name.
    pub address: String,
    /// Port of its SSH server.
    pub port: u16,
    /// User to sign in as; null: the one of the settings.
    pub user: Option<String>,
    /// Words it can be chosen by.
    pub tags: Vec<String>,
    /// Who added it.
    pub added_by: String,
    /// When.
    pub added_at_ms: UnixMs,
}

/// Connections of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SshPoolStats {
    /// Connections made.
    pub total_created: u64,
    /// Commands that found a connection that had been used before.
    pub total_reused: u64,
    /// Connections closed, by us or by the other side.
    pub total_closed: u64,
    /// Attempts to connect that came to nothing.
    pub total_failed: u64,
    /// Connections open now.
    pub active_connections: usize,
    /// Of these, those with nothing to do.
    pub idle_connections: usize,
    /// Connections being made.
    pub connecting: usize,
    /// Commands that run now.
    pub running: usize,
    /// Commands that wait for a connection.
    pub waiting: usize,
    /// Open connections of each `user@host:port`.
    pub pools: std::collections::BTreeMap<String, usize>,
    /// How many of these there are.
    pub total_pools: usize,
}
