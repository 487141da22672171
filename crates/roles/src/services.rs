//! What this node offers: what its settings name, and the MCP servers that are found on it.

use std::time::Duration;

use caelum_drivers::mcp;
use caelum_model::cluster::Service;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Command, Handle};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Looks for services and tells the cluster what changed.
pub struct Services {
    /// The cluster.
    pub cluster: Handle,
    /// Named in the settings.
    pub configured: Vec<Service>,
    /// Whether ports are looked at.
    pub find_mcp: bool,
}

impl Services {
    /// Looks until told to stop; at once for the first time.
    pub async fn run(self, stop: CancellationToken) {
        let mut told = self.configured.clone();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if !self.find_mcp {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = mcp::find(mcp::PORTS) => found,
            };
            let mut services = self.configured.clone();
            services.extend(
                found
                    .into_iter()
                    .filter(|found| !self.configured.iter().any(|known| known.port == found.port)),
            );
            if services != told {
                for service in services.iter().filter(|service| !told.contains(service)) {
                    tracing::info!(
                        code = "services.found",
                        name = service.name,
                        kind = service.kind,
                        port = service.port,
                        "this machine offers a service"
                    );
                }
                told.clone_from(&services);
                self.cluster.tell(Command::Services(services)).await;
            }
        }
    }
}

/// A service as the settings name it, `NAME:TYPE:PORT`.
pub fn parse(text: &str) -> Option<Service> {
    let mut parts = text.split(':');
    let (name, kind, port) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    Some(Service { name: name.to_owned(), kind: kind.to_owned(), port, status: "running".to_owned() })
}
