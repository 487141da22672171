//! This node's own samples: taken at a steady interval, kept as the node's record and history.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use caelum_drivers::{clock::Clock, host::HostSampler};
use caelum_model::{
    UnixMs,
    host::{HostIdentity, HostSample},
    id::NodeId,
    node::{LinkFacts, Node, NodePoint},
};
use caelum_store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Change};

/// What the sampler stands on.
pub struct Sampler {
    /// Where records are kept.
    pub store: Arc<Store>,
    /// Where news goes.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This node.
    pub node_id: NodeId,
    /// Name people use.
    pub name: String,
    /// Roles it runs.
    pub roles: Vec<String>,
    /// Version of this program.
    pub version: String,
    /// What other nodes are told of this one.
    pub links: LinkFacts,
    /// Keys that this machine's SSH server shows.
    pub ssh_host_keys: Vec<String>,
    /// Time between samples.
    pub interval: Duration,
}

impl Sampler {
    /// Samples until told to stop. The first sample is taken at once.
    pub async fn run(self, stop: CancellationToken) {
        let host = match blocking(HostSampler::new).await {
            Some(Ok(host)) => host,
            Some(Err(error)) => {
                tracing::error!(code = "sampler.unsupported", %error, "this machine cannot be sampled");
                return;
            }
            None => return,
        };
        let identity = HostIdentity { ssh_host_keys: self.ssh_host_keys.clone(), ..host.identity() };
        let host = Arc::new(Mutex::new(host));
        let mut joined_at_ms = None;
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let now_ms = self.clock.now_ms();
            if joined_at_ms.is_none() {
                joined_at_ms = self.joined_at_ms(now_ms).await;
            }
            // Not known is not now: writing would overwrite the day this node joined.
            let Some(joined_at_ms) = joined_at_ms else { continue };
            let Some(sample) = sample(&host, now_ms).await else { continue };
            let point = NodePoint::of(&sample, now_ms);
            let node = Node {
                node_id: self.node_id.clone(),
                name: self.name.clone(),
                identity: identity.clone(),
                roles: self.roles.clone(),
                version: self.version.clone(),
                joined_at_ms,
                seen_at_ms: now_ms,
                sample: Some(sample),
                links: self.links.clone(),
            };
            match self.store.put_node(node, Some(point)).await {
                Ok(()) => self.bus.publish(Change::NodeSampled),
                Err(error) => tracing::error!(
                    code = "sampler.not_stored", %error,
                    "this machine's sample could not be stored; the next one follows"
                ),
            }
        }
    }
}

impl Sampler {
    /// When this node joined: as recorded, or now if it was never recorded. None while the store cannot tell.
    async fn joined_at_ms(&self, now_ms: UnixMs) -> Option<UnixMs> {
        match self.store.node(self.node_id.as_str()).await {
            Ok(node) => Some(node.map_or(now_ms, |node| node.joined_at_ms)),
            Err(error) => {
                tracing::error!(code = "sampler.not_stored", %error, "this machine's record cannot be read; trying again");
                None
            }
        }
    }
}

async fn sample(host: &Arc<Mutex<HostSampler>>, now_ms: UnixMs) -> Option<HostSample> {
    let host = Arc::clone(host);
    blocking(move || host.lock().expect("no code panics while it holds this lock").sample(now_ms)).await
}

/// Runs what reads the system's files outside the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(code = "sampler.panicked", %error, "this machine could not be sampled");
            None
        }
    }
}
