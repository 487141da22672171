//! A node's own metrics, reported to its servers over the link, or kept until one is there.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use caelum_drivers::{clock::Clock, host::HostSampler};
use caelum_engine::backlog::Backlog;
use caelum_model::{
    envelope::{Heartbeat, MachineInfo},
    host::{HostIdentity, HostSample},
    node::NodePoint,
};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Command, Handle};

/// Bytes in a GiB, the unit of the first programs.
const GIB: f64 = 1_073_741_824.0;

/// What the reporter stands on.
pub struct Reporter {
    /// The cluster.
    pub cluster: Handle,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether a server is linked.
    pub is_served: watch::Receiver<bool>,
    /// How this node describes itself; the metrics in it are kept up to date.
    pub me: MachineInfo,
    /// Samples this machine.
    pub host: HostSampler,
    /// Time between samples.
    pub interval: Duration,
}

impl Reporter {
    /// Reports until told to stop. The first report is made at once.
    pub async fn run(mut self, stop: CancellationToken) {
        let host = Arc::new(Mutex::new(self.host));
        let origin = Instant::now();
        let mut backlog = Backlog::default();
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                changed = self.is_served.changed() => match changed {
                    // A server is there: what was kept is handed over without waiting for the next sample.
                    Ok(()) if *self.is_served.borrow_and_update() => {}
                    Ok(()) => {
                        backlog.broke();
                        continue;
                    }
                    Err(_) => return,
                },
            }
            let (sampler, now_ms) = (Arc::clone(&host), self.clock.now_ms());
            let sampled = tokio::task::spawn_blocking(move || {
                sampler.lock().expect("no code panics while it holds this lock").sample(now_ms)
            });
            let Ok(sample) = sampled.await else {
                tracing::error!(code = "reporter.panicked", "this machine could not be sampled");
                continue;
            };
            let elapsed_ms = i64::try_from(origin.elapsed().as_millis()).unwrap_or(i64::MAX);
            let is_served = *self.is_served.borrow();
            let heartbeat = if is_served {
                Heartbeat {
                    backlog: backlog.hand_over(elapsed_ms),
                    dropped: backlog.dropped(),
                    sample: Some(sample),
                    ..Heartbeat::default()
                }
            } else {
                backlog.keep(elapsed_ms, NodePoint::of(&sample, 0));
                continue;
            };
            self.cluster.tell(Command::Heartbeat(Box::new(heartbeat))).await;
        }
    }
}

/// How a machine describes itself in the words of the first programs.
pub fn describe(me: &mut MachineInfo, identity: &HostIdentity, sample: Option<&HostSample>) {
    me.hostname.clone_from(&identity.hostname);
    me.platform_info = serde_json::json!({
        "system": identity.os.split_whitespace().next().unwrap_or_default(), "release": identity.kernel, "version": identity.os,
        "machine": identity.arch, "processor": identity.cpu,
    });
    me.network_info = serde_json::json!({
        "hostname": identity.hostname, "ip_addresses": identity.addresses,
    });
    me.resources.cpu_cores = identity.cpu_cores;
    let Some(sample) = sample else { return };
    let disk = sample.disks.iter().max_by_key(|disk| disk.space.total_bytes);
    me.resources.cpu_usage_percent = sample.cpu_percent;
    me.resources.memory_total_gb = sample.memory.total_bytes as f64 / GIB;
    me.resources.memory_available_gb =
        sample.memory.total_bytes.saturating_sub(sample.memory.used_bytes) as f64 / GIB;
    me.resources.memory_usage_percent = sample.memory.percent().unwrap_or(0.0);
    if let Some(disk) = disk {
        let free = disk.space.total_bytes.saturating_sub(disk.space.used_bytes);
        me.resources.disk_total_gb = disk.space.total_bytes as f64 / GIB;
        me.resources.disk_available_gb = free as f64 / GIB;
        me.resources.disk_usage_percent = disk.space.percent().unwrap_or(0.0);
    }
}
