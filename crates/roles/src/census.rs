//! The records of nodes that link: who they are, how they fare, and what they could only report later.
//!
//! Times of arrival are this server's; a sample's age is the sender's own reckoning, so no two clocks are
//! compared. Points that a node kept while no server was there are stored where they belong in its history.

use std::{collections::HashMap, sync::Arc};

use caelum_drivers::clock::Clock;
use caelum_model::{
    UnixMs,
    access::AuditEntry,
    cluster::{Ceiling, NodePass},
    envelope::{Heartbeat, MachineInfo, MessageType},
    host::HostIdentity,
    id::NodeId,
    node::{LinkFacts, Node, NodePoint, NodeSetting},
};
use caelum_store::{Store, StoreError};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Change},
    cluster::{Command, Fact, Handle},
};

/// Oldest point that is still taken, ms.
const BACKLOG_AGE_MAX_MS: i64 = 30 * 24 * 3_600_000;
/// Points that are taken of one heartbeat.
const BACKLOG_MAX: usize = 1_000;
/// Nearer to each other than this, two points are one that was sent twice, ms.
const SAME_POINT_MS: i64 = 500;

/// Signs a fresh certificate for a node that shows its old one: the request as PEM in, the chain out.
pub type Renew = Box<
    dyn Fn(NodePass, String) -> futures_util::future::BoxFuture<'static, Result<String, String>>
        + Send
        + Sync,
>;

/// What the census stands on.
pub struct Census {
    /// Where records are kept.
    pub store: Arc<Store>,
    /// Where news goes.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is learnt about nodes.
    pub facts: mpsc::Receiver<Fact>,
    /// The cluster, for answers.
    pub cluster: Handle,
    /// Signs fresh certificates.
    pub renew: Renew,
}

impl Census {
    /// Keeps records until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut newest = HashMap::new();
        loop {
            let fact = tokio::select! {
                () = stop.cancelled() => return,
                fact = self.facts.recv() => fact,
            };
            match fact {
                Some(Fact::Registered { pass, remote, info }) => {
                    self.register(pass, &remote.ip().to_canonical().to_string(), &info).await;
                }
                Some(Fact::Heartbeat { node_id, heartbeat }) => {
                    self.record(node_id, *heartbeat, &mut newest).await;
                }
                Some(Fact::Requested { link, pass, envelope }) => {
                    let (message_type, payload) =
                        self.answer(pass, &envelope.message_type, &envelope.payload).await;
                    let correlation_id = envelope.message_id;
                    self.cluster.tell(Command::Answer { link, correlation_id, message_type, payload }).await;
                }
                Some(Fact::ShutOut { from, what }) => {
                    let entry = AuditEntry {
                        at_ms: self.clock.now_ms(),
                        actor: "cluster".to_owned(),
                        action: format!("access.{}", what.as_str()),
                        subject: from.to_string(),
                        outcome: "refused: its network is not in cluster.access".to_owned(),
                    };
                    if let Err(error) = self.store.audit(entry).await {
                        tracing::error!(code = "audit.write_failed", %error, "the audit log has a gap");
                    }
                }
                // Another server's word; this one keeps its own records.
                Some(Fact::Told(_)) => {}
                None => return,
            }
        }
    }

    async fn answer(&self, pass: NodePass, asked: &MessageType, payload: &Value) -> (MessageType, Value) {
        let failed = |message: String| (MessageType::Error, json!({ "code": "refused", "message": message }));
        match (asked, payload["csr_pem"].as_str()) {
            (MessageType::CertificateRequest, Some(csr)) => match (self.renew)(pass, csr.to_owned()).await {
                Ok(chain) => (MessageType::CertificateIssued, json!({ "certificate_pem": chain })),
                Err(message) => failed(message),
            },
            (MessageType::CertificateRequest, None) => failed("csr_pem is missing".to_owned()),
            _ => failed("this server does not answer such requests".to_owned()),
        }
    }

    async fn register(&self, pass: NodePass, address: &str, info: &MachineInfo) {
        let now_ms = self.clock.now_ms();
        let caelum = info.caelum.clone().unwrap_or_default();
        let identity = caelum.identity.unwrap_or_else(|| HostIdentity {
            hostname: info.hostname.clone(),
            cpu_cores: info.resources.cpu_cores,
            addresses: vec![address.to_owned()],
            ..HostIdentity::default()
        });
        let kept = match self.store.node(pass.node_id.as_str()).await {
            Ok(kept) => kept.filter(|node| node.node_id == pass.node_id),
            Err(error) => {
                tracing::error!(code = "census.not_stored", %error, "a node's record cannot be read; its next report follows");
                return;
            }
        };
        let name = if caelum.name.is_empty() { info.hostname.clone() } else { caelum.name };
        if kept.is_none()
            && let Err(error) = self.take_place(&pass.node_id, [&name, &info.hostname]).await
        {
            tracing::warn!(
                code = "census.named_stays", %error,
                "what was said about a node before it joined could not be taken over"
            );
        }
        let before = kept.as_ref().map(|node| node.links.clone()).unwrap_or_default();
        let node = Node {
            node_id: pass.node_id,
            name,
            identity,
            roles: caelum.roles,
            version: info.caelum_version.clone(),
            joined_at_ms: kept.as_ref().map_or(now_ms, |node| node.joined_at_ms),
            seen_at_ms: now_ms,
            sample: kept.and_then(|node| node.sample),
            links: LinkFacts {
                role: Some(pass.role),
                ceiling: Ceiling::ALL
                    .into_iter()
                    .find(|ceiling| ceiling.as_str() == caelum.ceiling)
                    .unwrap_or_default(),
                address: address.to_owned(),
                websocket_port: caelum.websocket_port,
                services: caelum.services,
                capabilities: caelum.capabilities,
                ..before
            },
        };
        self.put(node, Vec::new()).await;
    }

    /// A node that was named before it was heard is this one now: what was said about it is taken over, and
    /// its record goes. The capabilities that it was given become tags: its own are what it says itself.
    async fn take_place(&self, node_id: &NodeId, names: [&String; 2]) -> Result<(), StoreError> {
        let nodes = self.store.nodes().await?;
        let named = nodes.into_iter().find(|known| !known.is_heard() && names.contains(&&known.name));
        let Some(named) = named else { return Ok(()) };
        let kept = self.store.node_setting(&named.node_id).await?;
        let mut setting = kept.unwrap_or_else(|| NodeSetting::usual(node_id.clone()));
        setting.node_id = node_id.clone();
        setting.tags.extend(named.links.capabilities);
        setting.tags.sort_unstable();
        setting.tags.dedup();
        self.store.put_node_setting(setting).await?;
        self.store.remove_node(&named.node_id).await?;
        Ok(())
    }

    async fn record(&self, node_id: NodeId, heartbeat: Heartbeat, newest: &mut HashMap<NodeId, UnixMs>) {
        let now_ms = self.clock.now_ms();
        let mut node = match self.store.node(node_id.as_str()).await {
            Ok(Some(node)) if node.node_id == node_id => node,
            // It registers before it reports; a record that was removed meanwhile is not made again by that.
            Ok(_) => return,
            Err(error) => {
                tracing::error!(code = "census.not_stored", %error, "a node's record cannot be read; its next report follows");
                return;
            }
        };
        let mut points: Vec<NodePoint> = Vec::new();
        let last_ms = newest.get(&node_id).copied().unwrap_or(i64::MIN);
        for mut point in heartbeat.backlog.into_iter().take(BACKLOG_MAX) {
            // What travels in `at_ms` of a point that was kept is its age.
            let age_ms = point.at_ms.clamp(0, BACKLOG_AGE_MAX_MS);
            point.at_ms = now_ms - age_ms;
            if point.at_ms > last_ms.saturating_add(SAME_POINT_MS) {
                points.push(point);
            }
        }
        node.links.buffered_points += points.len() as u64;
        node.links.dropped_points = node.links.dropped_points.max(heartbeat.dropped);
        node.seen_at_ms = now_ms;
        if let Some(mut sample) = heartbeat.sample {
            let age_ms = heartbeat.sample_age_ms.clamp(0, BACKLOG_AGE_MAX_MS);
            sample.at_ms = now_ms - age_ms;
            points.push(NodePoint::of(&sample, sample.at_ms));
            node.sample = Some(sample);
        }
        if let Some(point) = points.last() {
            newest.insert(node_id, point.at_ms);
        }
        self.put(node, points).await;
    }

    async fn put(&self, node: Node, mut points: Vec<NodePoint>) {
        let last = points.pop();
        for point in points {
            if let Err(error) = self.store.put_node(node.clone(), Some(point)).await {
                tracing::error!(code = "census.not_stored", %error, "a kept point of a node could not be stored");
            }
        }
        match self.store.put_node(node, last).await {
            Ok(()) => self.bus.publish(Change::NodeSampled),
            Err(error) => tracing::error!(
                code = "census.not_stored", %error,
                "a node's report could not be stored; the next one follows"
            ),
        }
    }
}
