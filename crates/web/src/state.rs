//! What every route stands on.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, RwLock},
};

use caelum_drivers::clock::Clock;
use caelum_engine::lockout::Lockout;
use caelum_model::{UnixMs, cluster::Roster, id::NodeId, node::Thresholds};
use caelum_queue::Queue;
use caelum_roles::{
    aggregator::Progress, backup::Backups, bus::Bus, cluster::Handle, diagnoser, enrol::Registrar,
    fleet::Fleet, orders::Orders, secrets::Secrets, ssh::Ssh, tasks::Desk,
};
use caelum_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::events::Gate;

/// Password checks at once: each takes 20 MB for a moment.
const PASSWORD_CHECKS_MAX: usize = 1;

/// Settings of the HTTP side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long one-minute windows are kept, days: an older event cannot be counted after all.
    pub minute_days: u64,
    /// How long a session lives without being used, s.
    pub session_ttl_s: u64,
    /// Whether plain HTTP is answered from elsewhere than this machine.
    pub allow_plaintext: bool,
}

impl Settings {
    /// The oldest event that can still be counted after all: a day younger than what is dropped.
    pub fn replay_from_ms(&self, now_ms: UnixMs) -> UnixMs {
        const DAY_MS: i64 = 24 * 3_600_000;
        let days = i64::try_from(self.minute_days.saturating_sub(1)).unwrap_or(i64::MAX / DAY_MS);
        now_ms.saturating_sub(days.saturating_mul(DAY_MS))
    }
}

/// Finds the address under which a machine that was heard is dialled: where its datagrams come from, with the
/// port that it names.
pub type FindMachine = Arc<dyn Fn(&str) -> Option<SocketAddr> + Send + Sync>;

/// What admits nodes and shuts them out.
#[derive(Clone)]
pub struct Trust {
    /// Says who is admitted.
    pub registrar: Arc<Registrar>,
    /// Finds machines that are to be adopted.
    pub find_machine: FindMachine,
}

/// What every route stands on; shared by all of them.
pub struct State {
    /// Records.
    pub store: Arc<Store>,
    /// The event stream.
    pub queue: Arc<dyn Queue>,
    /// The way in for events.
    pub gate: Arc<Gate>,
    /// What this process's aggregator is doing; none where it has none.
    pub aggregator: Option<Arc<Progress>>,
    /// What this process's diagnoser is doing; none where it has none.
    pub diagnoser: Option<Arc<diagnoser::progress::Progress>>,
    /// What probes are to measure.
    pub orders: Arc<Orders>,
    /// What gives tasks to workers.
    pub desk: Arc<Desk>,
    /// Runs commands on other machines; none where this server does not.
    pub ssh: Option<Arc<Ssh>>,
    /// News inside the process.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This node.
    pub node_id: NodeId,
    /// Id of the cluster.
    pub cluster_id: String,
    /// Name of the cluster.
    pub cluster_name: String,
    /// The other nodes.
    pub cluster: Handle,
    /// Whether this process takes part in discovery.
    pub is_discovering: bool,
    /// Addresses that are tried where somebody asks for it.
    pub sweep: Vec<SocketAddr>,
    /// Version of this program.
    pub version: &'static str,
    /// When this process started, by its own clock.
    pub started_at_ms: UnixMs,
    /// SHA-256 of the server's certificate, for people to compare.
    pub certificate_fingerprint: String,
    /// Settings of the HTTP side.
    pub settings: Settings,
    /// Told when the process is to end: what lasts, such as a live page, ends by itself then.
    pub stop: CancellationToken,
    /// What admits nodes; none where this process admits nobody.
    pub trust: Option<Trust>,
    /// The other servers; none where this one is alone.
    pub fleet: Option<Fleet>,
    /// What builds packages; none where this process builds none.
    pub packages: Option<Arc<caelum_roles::packages::Builder>>,
    /// Makes backups; none where this process makes none.
    pub backups: Option<Arc<Backups>>,
    /// Seals and opens secrets of settings.
    pub secrets: Arc<Secrets>,
    /// Thresholds in force.
    pub thresholds: RwLock<Thresholds>,
    pub(crate) lockout: Mutex<Lockout>,
    pub(crate) password_checks: Semaphore,
}

/// What a state is made of.
pub struct Parts {
    /// Records.
    pub store: Arc<Store>,
    /// The event stream.
    pub queue: Arc<dyn Queue>,
    /// The way in for events.
    pub gate: Arc<Gate>,
    /// What this process's aggregator is doing; none where it has none.
    pub aggregator: Option<Arc<Progress>>,
    /// What this process's diagnoser is doing; none where it has none.
    pub diagnoser: Option<Arc<diagnoser::progress::Progress>>,
    /// What probes are to measure.
    pub orders: Arc<Orders>,
    /// What gives tasks to workers.
    pub desk: Arc<Desk>,
    /// Runs commands on other machines; none where this server does not.
    pub ssh: Option<Arc<Ssh>>,
    /// News inside the process.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This node.
    pub node_id: NodeId,
    /// Id of the cluster.
    pub cluster_id: String,
    /// Name of the cluster.
    pub cluster_name: String,
    /// The other nodes.
    pub cluster: Handle,
    /// Whether this process takes part in discovery.
    pub is_discovering: bool,
    /// Addresses that are tried where somebody asks for it.
    pub sweep: Vec<SocketAddr>,
    /// SHA-256 of the server's certificate.
    pub certificate_fingerprint: String,
    /// Settings of the HTTP side.
    pub settings: Settings,
    /// Told when the process is to end.
    pub stop: CancellationToken,
    /// What admits nodes; none where this process admits nobody.
    pub trust: Option<Trust>,
    /// The other servers; none where this one is alone.
    pub fleet: Option<Fleet>,
    /// What builds packages; none where this process builds none.
    pub packages: Option<Arc<caelum_roles::packages::Builder>>,
    /// Makes backups; none where this process makes none.
    pub backups: Option<Arc<Backups>>,
    /// Seals and opens secrets of settings.
    pub secrets: Arc<Secrets>,
    /// Thresholds in force at the start.
    pub thresholds: Thresholds,
}

impl State {
    /// A state as of now.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            started_at_ms: parts.clock.now_ms(),
            store: parts.store,
            queue: parts.queue,
            gate: parts.gate,
            aggregator: parts.aggregator,
            diagnoser: parts.diagnoser,
            orders: parts.orders,
            desk: parts.desk,
            ssh: parts.ssh,
            bus: parts.bus,
            clock: parts.clock,
            node_id: parts.node_id,
            cluster_id: parts.cluster_id,
            cluster_name: parts.cluster_name,
            cluster: parts.cluster,
            is_discovering: parts.is_discovering,
            sweep: parts.sweep,
            version: env!("CARGO_PKG_VERSION"),
            certificate_fingerprint: parts.certificate_fingerprint,
            settings: parts.settings,
            stop: parts.stop,
            trust: parts.trust,
            fleet: parts.fleet,
            packages: parts.packages,
            backups: parts.backups,
            secrets: parts.secrets,
            thresholds: RwLock::new(parts.thresholds),
            lockout: Mutex::default(),
            password_checks: Semaphore::new(PASSWORD_CHECKS_MAX),
        })
    }

    /// The time now.
    pub fn now_ms(&self) -> UnixMs {
        self.clock.now_ms()
    }

    /// What this node believes about the others now.
    pub fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.cluster.roster.borrow())
    }

    /// Thresholds in force now.
    pub fn thresholds(&self) -> Thresholds {
        *self.thresholds.read().expect("no code panics while it holds this lock")
    }

    /// Thresholds in force from now on.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        *self.thresholds.write().expect("no code panics while it holds this lock") = thresholds;
    }
}
