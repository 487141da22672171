//! What is set for a probe: where it stands, and which targets are its.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{UnixMs, id::ClientId, target::Target};

/// What people said about a probe. A probe nobody said anything about measures what every probe measures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProbeSetting {
    /// The probe.
    pub client_id: ClientId,
    /// Site, region or uplink that it shares with others: a place that an incident can be blamed on.
    pub group: Option<String>,
    /// Free words that targets select by.
    pub tags: Vec<String>,
    /// Whether it measures the other machines, and they it.
    pub mesh: bool,
    /// Whether it measures at all.
    pub enabled: bool,
    /// When it was changed last.
    pub updated_at_ms: UnixMs,
}

impl ProbeSetting {
    /// What holds for a probe that nothing is set for.
    pub fn usual(client_id: ClientId) -> Self {
        Self { client_id, group: None, tags: Vec::new(), mesh: true, enabled: true, updated_at_ms: 0 }
    }
}

/// What a probe is told to do: the answer to `GET /api/orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProbeOrders {
    /// Its name in events.
    pub client_id: ClientId,
    /// What it measures, the other machines among it.
    pub targets: Vec<Target>,
    /// Who may ask its reflector: addresses of the other machines.
    #[schema(value_type = Vec<String>)]
    pub reflects_for: Vec<IpAddr>,
    /// Another revision says something else; asked with it, the server answers when there is another.
    pub revision: String,
}
