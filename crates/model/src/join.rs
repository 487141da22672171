//! How a machine becomes a node: what is handed over by people, and what travels.

use serde::{Deserialize, Serialize};

use crate::{
    UnixMs,
    cluster::{Ceiling, ClusterKey, NodeRole},
    id::NodeId,
};

/// ALPN of links: both sides show a node's certificate.
pub const ALPN_LINK: &[u8] = b"caelum-link/1";
/// ALPN of joining: the server shows its node's certificate, the client none.
pub const ALPN_JOIN: &[u8] = b"caelum-join/1";
/// The name in every node's certificate.
pub const NODE_SERVER_NAME: &str = "node.caelum.internal";
/// Path of joining.
pub const JOIN_PATH: &str = "/api/join";
/// Path under which a machine takes offers to be adopted.
pub const ADOPT_PATH: &str = "/adopt";
/// What a join token starts with, as text.
pub const TOKEN_PREFIX: &str = "caelum-join.";

/// What a join token says. As text it is [`TOKEN_PREFIX`] and the JSON of this in base64url without padding.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The cluster's id.
    #[serde(rename = "c")]
    pub cluster_id: String,
    /// Its name.
    #[serde(rename = "n")]
    pub cluster_name: String,
    /// Where servers are reached: `host:port`, best first.
    #[serde(rename = "s")]
    pub servers: Vec<String>,
    /// SHA-256 of the authority's certificate, lower-case hex.
    #[serde(rename = "f")]
    pub authority_sha256: String,
    /// Id of the token, for lists and the audit log.
    #[serde(rename = "i")]
    pub token_id: String,
    /// The secret.
    #[serde(rename = "k")]
    pub secret: String,
    /// When it ends. Shown; the server judges by its own record.
    #[serde(rename = "e")]
    pub expires_at_ms: UnixMs,
    /// Where to leave a sealed request where no server can be reached; none where that is not possible.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<MailboxPlace>,
}

/// A mailbox as an invitation names it. Both are secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxPlace {
    /// The address, with a password where there is one.
    #[serde(rename = "a")]
    pub address: String,
    /// What requests are sealed under, lower-case hex: of this token alone, and known to servers.
    #[serde(rename = "k")]
    pub key: String,
}

/// Never shows anything: both are secret.
impl std::fmt::Debug for MailboxPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MailboxPlace(…)")
    }
}

/// A join token as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Its id.
    pub token_id: String,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// What nodes it makes.
    pub role: NodeRole,
    /// How many more nodes it admits.
    pub uses_left: u32,
    /// How many it admitted at first.
    pub uses: u32,
    /// When it was made.
    pub created_at_ms: UnixMs,
    /// When it ends.
    pub expires_at_ms: UnixMs,
    /// When it was revoked.
    pub revoked_at_ms: Option<UnixMs>,
}

/// What an admitted node is known by. Kept after a revocation, so that it stays out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The node.
    pub node_id: NodeId,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), lower-case hex.
    pub key_sha256: String,
    /// What it was admitted as.
    pub role: NodeRole,
    /// By which token (`token:ID`) or person (`adopted:NAME`).
    pub admitted_by: String,
    /// When it was admitted.
    pub admitted_at_ms: UnixMs,
    /// When it was revoked.
    pub revoked_at_ms: Option<UnixMs>,
    /// The most it let anybody do when it joined. It holds its own; this is for people.
    #[serde(default)]
    pub ceiling: Ceiling,
    /// Its host name when it joined.
    #[serde(default)]
    pub hostname: String,
}

/// Body of `POST /api/join`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JoinRequest {
    /// Signing request for the node's own key, PEM. Its subject is not looked at.
    pub csr_pem: String,
    /// The id the node gave itself.
    pub node_id: NodeId,
    /// Its host name.
    pub hostname: String,
    /// What it asks to be; a token never makes more than it says.
    pub role: NodeRole,
    /// The most it lets anybody do.
    pub ceiling: Ceiling,
    /// Its version.
    pub version: String,
    /// How it is admitted.
    pub admission: Admission,
}

/// How a node is admitted.
#[derive(Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Admission {
    /// By the secret of a join token.
    Token {
        /// The token's id.
        token_id: String,
        /// Its secret.
        secret: String,
    },
    /// By a person who typed the machine's code: proof that the machine knows it too.
    Adoption {
        /// HMAC-SHA-256 under the stretched code, lower-case hex.
        proof: String,
    },
    /// By the key under which it was admitted before.
    Renewal,
}

/// Never shows a secret.
impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token { token_id, .. } => write!(f, "Token({token_id})"),
            Self::Adoption { .. } => f.write_str("Adoption"),
            Self::Renewal => f.write_str("Renewal"),
        }
    }
}

/// Body of `POST /adopt`, from a server to a machine that shows a code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptionOffer {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Where servers are reached: `host:port`, best first.
    pub servers: Vec<String>,
    /// SHA-256 of the authority's certificate, lower-case hex.
    pub authority_sha256: String,
    /// HMAC-SHA-256 under the stretched code, lower-case hex: proof that somebody typed it at the server.
    pub proof: String,
}

/// Never shows the proof.
impl std::fmt::Debug for AdoptionOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AdoptionOffer({} by {:?})", self.cluster_id, self.servers)
    }
}

/// Answer of `POST /api/join`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JoinAnswer {
    /// The node's certificate and its issuers, PEM.
    pub certificate_pem: String,
    /// The authority's certificate, PEM.
    pub authority_pem: String,
    /// The cluster.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Keys of beacons, newest last.
    pub keys: Vec<ClusterKey>,
    /// Where servers are reached.
    pub servers: Vec<String>,
    /// Nodes that are not admitted.
    pub revoked: Vec<String>,
    /// What a server needs to serve like the others. Only for a machine that joined as one, by a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<ServerGrant>,
}

/// What makes a machine a server of the cluster: with it, it needs nothing but its data directory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServerGrant {
    /// The key under which the cluster's authority and keys are sealed in the records.
    pub master_key: String,
    /// Where the records are, with a password where there is one.
    pub store: String,
    /// Where the event stream is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Where servers coordinate, if that is not the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordination: Option<String>,
}

/// Never shows anything: all of it is secret, or may hold a secret.
impl std::fmt::Debug for ServerGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerGrant(…)")
    }
}
