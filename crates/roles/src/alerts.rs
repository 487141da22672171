//! Raises and ends alerts: looks at the health of all nodes, and stores what `engine::alert` decides.
//!
//! Where several servers share a store, one at a time looks ([`crate::lease`]). Two for a moment do no harm: an
//! alert is written only as it was seen, together with its notices, so that a change is stored once and told of
//! once whoever made it. The alerts that stand are read anew for each look.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use caelum_drivers::clock::Clock;
use caelum_engine::{
    Now,
    alert::{Decision, Observed, Watch},
};
use caelum_model::{
    UnixMs,
    alert::Alert,
    id::NodeId,
    node::{Metric, Node, NodeSetting, Thresholds},
};
use caelum_store::{AlertQuery, AlertWrite, Store, StoreError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Change},
    cluster::Handle,
    lease::{self, Lease},
    quiet,
};

/// Time between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Alerts that may stand; more are looked at when some are over.
const STANDING_MAX: usize = 20_000;
/// Changes stored in one write.
const WRITES_MAX: usize = 100;

/// What alerts stand on.
pub struct Alerts {
    /// Where records are kept.
    pub store: Arc<Store>,
    /// Where news goes.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The other nodes.
    pub cluster: Handle,
    /// Its name among several that share a store; none where nobody else can.
    pub owner: Option<String>,
    /// Thresholds where nobody set others at run time.
    pub thresholds: Thresholds,
}

impl Alerts {
    /// Looks until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let origin = Instant::now();
        let since_ms = self.clock.now_ms();
        while !stop.is_cancelled() {
            if let Err(error) = self.lead(&stop, origin, since_ms).await {
                tracing::error!(
                    code = "alerts.store_failed", %error,
                    "alerts stand still until the store answers; trying again"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn lead(
        &self,
        stop: &CancellationToken,
        origin: Instant,
        since_ms: UnixMs,
    ) -> Result<(), StoreError> {
        let Some(owner) = &self.owner else { return self.watch(stop, origin, since_ms).await };
        let lease =
            Lease::new(lease::ALERTS, Arc::clone(&self.store), Arc::clone(&self.clock), owner.clone());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = lease.take() => taken?,
        }
        let watched = tokio::select! {
            watched = self.watch(stop, origin, since_ms) => watched,
            lost = lease.keep() => lost,
        };
        if stop.is_cancelled() {
            lease.give_back().await?;
        }
        watched
    }

    async fn watch(
        &self,
        stop: &CancellationToken,
        origin: Instant,
        since_ms: UnixMs,
    ) -> Result<(), StoreError> {
        let mut watch = Watch::default();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let ms = i64::try_from(origin.elapsed().as_millis()).unwrap_or(i64::MAX);
            let now = Now { ms, wall_ms: self.clock.now_ms() };
            if self.look(&mut watch, now, since_ms).await? {
                self.bus.publish(Change::AlertsChanged);
            }
        }
    }

    /// One look; answers whether something changed.
    async fn look(&self, watch: &mut Watch, now: Now, since_ms: UnixMs) -> Result<bool, StoreError> {
        let thresholds = self.store.thresholds().await?.unwrap_or(self.thresholds);
        let settings: HashMap<NodeId, NodeSetting> =
            by_node(self.store.node_settings().await?, |setting| setting.node_id.clone());
        let told = self.store.notice_settings().await?.unwrap_or_default();
        let query = AlertQuery { is_open: Some(true), limit: STANDING_MAX, ..AlertQuery::default() };
        let standing = self.store.alerts(query).await?;
        let silent: HashSet<NodeId> = standing
            .iter()
            .filter(|alert| alert.metric == Metric::Heartbeat)
            .map(|alert| alert.node_id.clone())
            .collect();
        let roster = Arc::clone(&self.cluster.roster.borrow());
        let nodes = self.store.nodes().await?;
        let observed: Vec<Observed> = nodes
            .into_iter()
            .filter(Node::is_heard)
            .map(|mut node| {
                if !silent.contains(&node.node_id) {
                    // Nobody listened before this process did: silence begins with it.
                    node.seen_at_ms = node.seen_at_ms.max(since_ms);
                }
                let setting = settings.get(&node.node_id);
                let own = setting.and_then(|setting| setting.thresholds).unwrap_or(thresholds);
                let hush = quiet::until(&told.quiet_hours, setting, now.wall_ms);
                Observed::of(&node, &roster, now.wall_ms, &own, hush)
            })
            .collect();
        let decisions = watch.look(now, &observed, &standing, &told.channels);
        let is_changed = !decisions.is_empty();
        for some in decisions.chunks(WRITES_MAX) {
            if !store(&self.store, some).await? {
                // Somebody was faster with one of them: the others stand.
                for decision in some {
                    store(&self.store, std::slice::from_ref(decision)).await?;
                }
            }
        }
        Ok(is_changed)
    }
}

fn by_node<T>(all: Vec<T>, id: impl Fn(&T) -> NodeId) -> HashMap<NodeId, T> {
    all.into_iter().map(|one| (id(&one), one)).collect()
}

/// Stores decisions; answers false, and nothing is stored, where an alert is not as it was when they were made.
pub async fn store(store: &Store, decisions: &[Decision]) -> Result<bool, StoreError> {
    let write = |decision: &Decision| AlertWrite { alert: decision.alert.clone(), seen: decision.seen };
    let withdrawn: Vec<String> = decisions
        .iter()
        .filter(|decision| decision.is_withdrawn)
        .map(|decision| decision.alert.alert_id.clone())
        .collect();
    let notices = decisions.iter().flat_map(|decision| decision.notices.iter().cloned()).collect();
    store.put_alerts(decisions.iter().map(write).collect(), notices, withdrawn).await
}

/// Changes one alert as somebody asked for, again where another was faster; none where there is no such alert.
pub async fn change(
    records: &Store,
    alert_id: &str,
    decide: impl Fn(&Alert) -> Option<Decision>,
) -> Result<Option<Alert>, StoreError> {
    loop {
        let Some(alert) = records.alert(alert_id).await? else { return Ok(None) };
        let Some(decision) = decide(&alert) else { return Ok(Some(alert)) };
        if store(records, std::slice::from_ref(&decision)).await? {
            return Ok(Some(decision.alert));
        }
    }
}
