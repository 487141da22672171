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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use caelum_drivers::{clock::ManualClock, notify::Notifier};
    use caelum_engine::hash::mix;
    use caelum_model::{
        alert::{Notice, NoticeKind},
        cluster::Roster,
        host::{HostIdentity, HostSample},
        node::LinkFacts,
    };
    use caelum_store::NoticeQuery;

    use super::*;
    use crate::{
        master_key::{MasterKey, make_master_key},
        notices::Notices,
        secrets::Secrets,
    };

    const NODES: usize = 40;
    const BEGIN_MS: i64 = 1_000_000_000;

    fn node(number: usize, cpu_percent: f64, now_ms: i64) -> Node {
        Node {
            node_id: NodeId::parse(&format!("n-{number:02}")).expect("valid"),
            name: format!("box-{number:02}"),
            identity: HostIdentity::default(),
            roles: Vec::new(),
            version: "1".into(),
            joined_at_ms: 0,
            seen_at_ms: now_ms,
            sample: Some(HostSample { cpu_percent, ..HostSample::default() }),
            links: LinkFacts::default(),
        }
    }

    fn server(store: &Arc<Store>, clock: &Arc<ManualClock>) -> Alerts {
        Alerts {
            store: Arc::clone(store),
            bus: Bus::default(),
            clock: Arc::clone(clock) as _,
            cluster: Handle::detached(Roster::default()),
            owner: None,
            thresholds: Thresholds::default(),
        }
    }

    fn sender(store: &Arc<Store>, clock: &Arc<ManualClock>, name: &str) -> Notices {
        Notices {
            store: Arc::clone(store),
            bus: Bus::default(),
            clock: Arc::clone(clock) as _,
            owner: name.to_owned(),
            notifier: Notifier::new("lab", "").expect("a sender"),
            secrets: Arc::new(Secrets::new(
                MasterKey::in_memory(Arc::clone(store), &make_master_key()).expect("a key"),
            )),
        }
    }

    async fn everything(store: &Store) -> Vec<Notice> {
        store.notices(NoticeQuery { limit: 10_000, ..NoticeQuery::default() }).await.expect("read")
    }

    /// Three servers that all believe that they lead, and that forget what they know now and then.
    #[tokio::test]
    async fn whoever_looks_each_alert_is_told_of_once_and_its_end_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(&directory.path().join("caelum.db")).expect("opens"));
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        let servers = [server(&store, &clock), server(&store, &clock), server(&store, &clock)];
        let senders = ["a", "b", "c"].map(|name| sender(&store, &clock, name));
        let mut watches = [Watch::default(), Watch::default(), Watch::default()];
        for second in 0..260_i64 {
            let now_ms = BEGIN_MS + second * 1_000;
            clock.set(now_ms);
            if second % 20 == 0 {
                let cpu = if second < 140 { 90.0 } else { 10.0 };
                for number in 0..NODES {
                    store.put_node(node(number, cpu, now_ms), None).await.expect("stored");
                }
            }
            let lot = mix(second.unsigned_abs());
            if lot.is_multiple_of(50) {
                watches[(lot / 50 % 3) as usize] = Watch::default();
            }
            let now = Now { ms: now_ms, wall_ms: now_ms };
            let [one, two, three] = &mut watches;
            let looked = tokio::join!(
                servers[0].look(one, now, BEGIN_MS),
                servers[1].look(two, now, BEGIN_MS),
                servers[2].look(three, now, BEGIN_MS)
            );
            for looked in [looked.0, looked.1, looked.2] {
                looked.expect("looks");
            }
            let sent = tokio::join!(senders[0].round(), senders[1].round(), senders[2].round());
            for sent in [sent.0, sent.1, sent.2] {
                sent.expect("sends");
            }
        }
        let mut by_place: BTreeMap<String, Vec<NoticeKind>> = BTreeMap::new();
        for notice in everything(&store).await {
            assert!(notice.sent_at_ms.is_some() && notice.attempts == 1, "{notice:?}");
            by_place.entry(notice.place).or_default().push(notice.kind);
        }
        assert_eq!(by_place.len(), NODES);
        for (place, kinds) in by_place {
            assert_eq!(kinds, [NoticeKind::Recovery, NoticeKind::Failure], "{place}");
        }
    }

    #[tokio::test]
    async fn silence_is_counted_from_when_somebody_listened() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(&directory.path().join("caelum.db")).expect("opens"));
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        let alerts = server(&store, &clock);
        store.put_node(node(1, 10.0, BEGIN_MS - 3_600_000), None).await.expect("stored");
        let mut watch = Watch::default();
        let at = |ms: i64| Now { ms, wall_ms: BEGIN_MS + ms };
        assert!(!alerts.look(&mut watch, at(119_000), BEGIN_MS).await.expect("looks"));
        assert!(alerts.look(&mut watch, at(120_000), BEGIN_MS).await.expect("looks"));
        assert_eq!(everything(&store).await[0].place, "box-01");
    }

    #[tokio::test]
    async fn a_notice_for_a_channel_that_is_gone_is_given_up_and_says_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(&directory.path().join("caelum.db")).expect("opens"));
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        let alerts = server(&store, &clock);
        store.put_node(node(1, 10.0, BEGIN_MS - 3_600_000), None).await.expect("stored");
        let now = Now { ms: 200_000, wall_ms: BEGIN_MS + 200_000 };
        alerts.look(&mut Watch::default(), now, BEGIN_MS).await.expect("looks");
        let none = caelum_model::alert::NoticeSettings { channels: Vec::new(), quiet_hours: Vec::new() };
        store.put_notice_settings(none).await.expect("stored");
        clock.set(now.wall_ms);
        assert_eq!(sender(&store, &clock, "a").round().await.expect("tries"), 1);
        let notice = everything(&store).await.remove(0);
        assert_eq!(notice.given_up_at_ms, Some(now.wall_ms));
        assert!(notice.error.expect("a reason").contains("log"));
    }
}
