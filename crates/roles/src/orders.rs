//! What each probe of the cluster is to measure: the stored targets that select it, and the other machines.
//!
//! # Rules
//! - A machine of the cluster asks under its certificate; its name in events is the one given to it when it
//!   first asked, its host's name where no other has it, so that people know it again.
//! - Where a machine has a reflector it is a place in the mesh, and is measured by others until it has been
//!   silent for a day: a machine that is gone is to be missed, not forgotten.
//! - Who asks with the revision that it has is answered when there is another one, or after a while.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use caelum_drivers::clock::Clock;
use caelum_engine::{
    hash::fnv1a,
    selector::{self, Probe},
};
use caelum_model::{
    UnixMs,
    id::{ClientId, NodeId, TargetId},
    probe::{ProbeOrders, ProbeSetting},
    target::{Target, TargetOrigin},
};
use caelum_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

use crate::bus::{Bus, Change};

/// Other machines that one machine measures at most; of more, each has its own choice.
const MESH_MOST: usize = 32;
/// A machine that has not asked for this long is measured no longer, ms.
const SILENT_MS: i64 = 24 * 3_600_000;
/// How often it is written down that a machine still asks, ms.
const SEEN_EVERY_MS: i64 = 10 * 60_000;
/// How long what was looked at holds for others who ask.
const SEEN_MAX: Duration = Duration::from_millis(300);
/// Time between news and a look at what changed.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest time to wait for another revision.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// Time between measurements of another machine, s.
const MESH_INTERVAL_S: u32 = 10;
/// Most machines that are remembered.
const MACHINES_MAX: usize = 10_000;
/// Where machines are remembered.
const MACHINES: &str = "probes.machines";

/// A machine that measures for the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    client_id: ClientId,
    hostname: String,
    /// Where its reflector answers.
    reflector: Option<SocketAddr>,
    /// Where its packets come from.
    addresses: Vec<IpAddr>,
    asked_at_ms: UnixMs,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Its node.
    pub node_id: NodeId,
    /// Name of its host.
    pub hostname: String,
    /// Its name in events, where it has one already.
    pub client_id: Option<ClientId>,
    /// Where its packets come from.
    pub addresses: Vec<IpAddr>,
    /// Where its reflector answers; none where it has none.
    pub reflector: Option<SocketAddr>,
}

/// Gives orders.
pub struct Orders {
    store: Arc<Store>,
    bus: Bus,
    clock: Arc<dyn Clock>,
    /// One at a time changes what is remembered.
    changing: Mutex<()>,
    /// What everybody's orders are made of, as it was a moment ago: a change wakes all who wait at once.
    seen: Mutex<Option<(Instant, Arc<Seen>)>>,
}

struct Seen {
    settings: Vec<ProbeSetting>,
    targets: Vec<Target>,
    machines: BTreeMap<NodeId, Machine>,
}

impl Orders {
    /// Orders from what is stored.
    pub fn new(store: Arc<Store>, bus: Bus, clock: Arc<dyn Clock>) -> Self {
        Self { store, bus, clock, changing: Mutex::new(()), seen: Mutex::new(None) }
    }

    /// What a machine is to measure. With the revision that it has, the answer waits for another one, and is
    /// none where there was no other for a while.
    pub async fn of_machine(
        &self,
        asker: &Asker,
        has: Option<&str>,
    ) -> Result<Option<ProbeOrders>, StoreError> {
        let client_id = self.remember(asker).await?;
        self.wait_for(&client_id, &asker.hostname, has).await
    }

    /// The same for a probe that is no machine of the cluster.
    pub async fn of_probe(
        &self,
        client_id: &ClientId,
        has: Option<&str>,
    ) -> Result<Option<ProbeOrders>, StoreError> {
        self.wait_for(client_id, client_id.as_str(), has).await
    }

    async fn wait_for(
        &self,
        client_id: &ClientId,
        hostname: &str,
        has: Option<&str>,
    ) -> Result<Option<ProbeOrders>, StoreError> {
        let mut news = self.bus.subscribe();
        let end = Instant::now() + WAIT_MAX;
        // What is looked at first may be from just before a change that was told before anybody listened here.
        let mut again_at = Some(Instant::now() + SETTLE);
        loop {
            let orders = self.orders(client_id, hostname).await?;
            if has != Some(orders.revision.as_str()) {
                return Ok(Some(orders));
            }
            let was_told = loop {
                let change = tokio::select! {
                    () = tokio::time::sleep_until(again_at.unwrap_or(end)) => {
                        if again_at.take().is_none() {
                            return Ok(None);
                        }
                        break false;
                    }
                    change = news.recv() => change,
                };
                // News that was missed may have been this one.
                if !matches!(change, Ok(change) if !matches!(change, Change::TargetsChanged)) {
                    break true;
                }
            };
            if was_told {
                // One change often comes with others; and what was looked at before it is forgotten by then.
                tokio::time::sleep(SETTLE).await;
            }
        }
    }

    async fn orders(&self, client_id: &ClientId, hostname: &str) -> Result<ProbeOrders, StoreError> {
        let seen = self.look().await?;
        let probe = Probe { client_id: client_id.as_str(), name: hostname };
        let mut targets = selector::orders(&seen.settings, &seen.targets, probe);
        let (others, reflects_for) = self.neighbours(client_id, &seen.settings, &seen.machines);
        targets.extend(
            others.into_iter().filter(|mesh| seen.targets.iter().all(|target| target.url != mesh.url)),
        );
        let mut orders =
            ProbeOrders { client_id: client_id.clone(), targets, reflects_for, revision: String::new() };
        let text = serde_json::to_string(&orders).expect("orders have a JSON form");
        orders.revision = format!("{:016x}", fnv1a(&text));
        Ok(orders)
    }

    async fn look(&self) -> Result<Arc<Seen>, StoreError> {
        let mut seen = self.seen.lock().await;
        if let Some((at, seen)) = &*seen
            && at.elapsed() < SEEN_MAX
        {
            return Ok(Arc::clone(seen));
        }
        let at = Instant::now();
        let (settings, targets, machines) =
            tokio::try_join!(self.store.probe_settings(), self.store.targets(), machines(&self.store))?;
        let fresh = Arc::new(Seen { settings, targets, machines });
        *seen = Some((at, Arc::clone(&fresh)));
        Ok(fresh)
    }

    /// The other machines that one measures, and the addresses of all that may measure it.
    fn neighbours(
        &self,
        client_id: &ClientId,
        settings: &[ProbeSetting],
        machines: &BTreeMap<NodeId, Machine>,
    ) -> (Vec<Target>, Vec<IpAddr>) {
        let setting = |client_id: &ClientId| settings.iter().find(|setting| setting.client_id == *client_id);
        let takes_part =
            |client_id: &ClientId| setting(client_id).is_none_or(|setting| setting.mesh && setting.enabled);
        if !takes_part(client_id) {
            return (Vec::new(), Vec::new());
        }
        let now_ms = self.clock.now_ms();
        let others: Vec<(&Machine, SocketAddr)> = machines
            .values()
            .filter(|machine| machine.client_id != *client_id && now_ms - machine.asked_at_ms < SILENT_MS)
            .filter(|machine| takes_part(&machine.client_id))
            .filter_map(|machine| Some((machine, machine.reflector?)))
            .collect();
        let mut reflects_for: Vec<IpAddr> =
            others.iter().flat_map(|(machine, _)| machine.addresses.iter().copied()).collect();
        reflects_for.sort_unstable();
        reflects_for.dedup();
        let places: Vec<(ClientId, SocketAddr)> =
            others.iter().map(|(machine, reflector)| (machine.client_id.clone(), *reflector)).collect();
        let targets = selector::mesh(client_id, &places, MESH_MOST)
            .into_iter()
            .map(|at| {
                let (machine, reflector) = &others[at];
                let group = setting(&machine.client_id).and_then(|setting| setting.group.clone());
                mesh_target(machine, *reflector, group)
            })
            .collect();
        (targets, reflects_for)
    }

    /// Writes down who asks and where its reflector is, and answers with its name in events.
    async fn remember(&self, asker: &Asker) -> Result<ClientId, StoreError> {
        let now_ms = self.clock.now_ms();
        let is_same = |machine: &Machine| {
            machine.reflector == asker.reflector
                && machine.addresses == asker.addresses
                && machine.hostname == asker.hostname
                && asker.client_id.as_ref().is_none_or(|own| *own == machine.client_id)
                && now_ms - machine.asked_at_ms < SEEN_EVERY_MS
        };
        if let Some(machine) =
            machines(&self.store).await?.get(&asker.node_id).filter(|machine| is_same(machine))
        {
            return Ok(machine.client_id.clone());
        }
        let _one = self.changing.lock().await;
        let mut machines = machines(&self.store).await?;
        let before = machines.remove(&asker.node_id);
        let client_id = match (&asker.client_id, &before) {
            (Some(own), _) => own.clone(),
            (None, Some(before)) => before.client_id.clone(),
            (None, None) => self.name_for(asker, &machines).await?,
        };
        let is_place_new = before.is_none_or(|before| {
            (before.reflector, &before.addresses) != (asker.reflector, &asker.addresses)
        });
        machines.retain(|_, machine| now_ms - machine.asked_at_ms < SILENT_MS * 30);
        if machines.len() >= MACHINES_MAX
            && let Some(oldest) =
                machines.iter().min_by_key(|(_, machine)| machine.asked_at_ms).map(|(id, _)| id.clone())
        {
            machines.remove(&oldest);
        }
        let machine = Machine {
            client_id: client_id.clone(),
            hostname: asker.hostname.clone(),
            reflector: asker.reflector,
            addresses: asker.addresses.clone(),
            asked_at_ms: now_ms,
        };
        machines.insert(asker.node_id.clone(), machine);
        let text = serde_json::to_string(&machines).expect("machines have a JSON form");
        self.store.put_fact(MACHINES, text).await?;
        if is_place_new {
            self.bus.publish(Change::TargetsChanged);
        }
        Ok(client_id)
    }

    /// The host's name, unless another probe goes by it.
    async fn name_for(
        &self,
        asker: &Asker,
        machines: &BTreeMap<NodeId, Machine>,
    ) -> Result<ClientId, StoreError> {
        let of_node = || ClientId::parse(asker.node_id.as_str()).expect("an id of a node is one of a probe");
        let Ok(wanted) = ClientId::parse(&asker.hostname) else { return Ok(of_node()) };
        let is_taken = machines.values().any(|machine| machine.client_id == wanted)
            || self.store.probes().await?.iter().any(|probe| probe.client_id == wanted);
        Ok(if is_taken { of_node() } else { wanted })
    }
}

/// The name in events of a node; none where it never asked for orders.
pub async fn client_id_of(store: &Store, node_id: &NodeId) -> Result<Option<ClientId>, StoreError> {
    Ok(machines(store).await?.get(node_id).map(|machine| machine.client_id.clone()))
}

/// Targets that are machines of the cluster, by their URL, with the name in events of each.
pub(crate) async fn reflectors(store: &Store) -> Result<BTreeMap<String, ClientId>, StoreError> {
    let machines = machines(store).await?;
    let url = |machine: &Machine| Some(format!("stamp://{}", machine.reflector?));
    Ok(machines.values().filter_map(|machine| Some((url(machine)?, machine.client_id.clone()))).collect())
}

async fn machines(store: &Store) -> Result<BTreeMap<NodeId, Machine>, StoreError> {
    let text = store.fact(MACHINES).await?;
    Ok(text.map_or_else(BTreeMap::new, |text| {
        serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::error!(code = "orders.machines_damaged", %error, "machines are learnt anew");
            BTreeMap::new()
        })
    }))
}

/// Another machine as a target. Its id is that of its place, so that its phase and its rows stay the same.
fn mesh_target(machine: &Machine, reflector: SocketAddr, group: Option<String>) -> Target {
    let url = format!("stamp://{reflector}");
    let target_id = TargetId::parse(&format!("mesh-{:016x}", fnv1a(&url))).expect("short text");
    Target {
        name: machine.client_id.to_string(),
        origin: TargetOrigin::Mesh,
        interval_s: MESH_INTERVAL_S,
        group,
        ..Target::usual(target_id, url, 0)
    }
}

#[cfg(test)]
mod tests {
    use caelum_drivers::clock::SystemClock;
    use caelum_model::target::Selector;

    use super::*;

    struct World {
        orders: Arc<Orders>,
        store: Arc<Store>,
        bus: Bus,
        _folder: tempfile::TempDir,
    }

    async fn world() -> World {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(&folder.path().join("caelum.db")).expect("opens"));
        let bus = Bus::default();
        let orders = Orders::new(Arc::clone(&store), bus.clone(), Arc::new(SystemClock));
        World { orders: Arc::new(orders), store, bus, _folder: folder }
    }

    fn asker(number: u8, hostname: &str) -> Asker {
        let address = IpAddr::from([192, 0, 2, number]);
        Asker {
            node_id: NodeId::parse(&format!("n-{number}")).expect("valid"),
            hostname: hostname.to_owned(),
            client_id: None,
            addresses: vec![address],
            reflector: Some(SocketAddr::new(address, 862)),
        }
    }

    /// What a machine is told, looked at anew.
    async fn told(world: &World, asker: &Asker) -> ProbeOrders {
        *world.orders.seen.lock().await = None;
        world.orders.of_machine(asker, None).await.expect("answers").expect("has orders")
    }

    fn urls(orders: &ProbeOrders) -> Vec<&str> {
        orders.targets.iter().map(|target| target.url.as_str()).collect()
    }

    #[tokio::test]
    async fn a_machine_goes_by_its_hosts_name_and_a_second_of_that_name_by_its_own_id() {
        let world = world().await;
        let (first, second) = (asker(1, "lab"), asker(2, "lab"));
        assert_eq!(told(&world, &first).await.client_id.as_str(), "lab");
        assert_eq!(told(&world, &second).await.client_id.as_str(), "n-2");
        assert_eq!(told(&world, &first).await.client_id.as_str(), "lab", "and keeps it");
        let known = client_id_of(&world.store, &second.node_id).await.expect("reads");
        assert_eq!(known.as_ref().map(ClientId::as_str), Some("n-2"));
        let stranger = NodeId::parse("n-9").expect("valid");
        assert_eq!(client_id_of(&world.store, &stranger).await.expect("reads"), None);
    }

    #[tokio::test]
    async fn machines_measure_each_other_unless_one_of_them_is_kept_out() {
        let world = world().await;
        let (one, two) = (asker(1, "one"), asker(2, "two"));
        assert!(told(&world, &one).await.targets.is_empty(), "nobody else is there");
        told(&world, &two).await;
        let orders = told(&world, &one).await;
        assert_eq!(urls(&orders), ["stamp://192.0.2.2:862"]);
        assert_eq!(orders.reflects_for, two.addresses);
        let silent = Asker { reflector: None, ..two.clone() };
        told(&world, &silent).await;
        assert!(told(&world, &one).await.targets.is_empty(), "it has no reflector any more");
        told(&world, &two).await;
        let client_id = ClientId::parse("two").expect("valid");
        let kept_out = ProbeSetting { mesh: false, ..ProbeSetting::usual(client_id) };
        world.store.put_probe_setting(kept_out).await.expect("stores");
        for machine in [&one, &two] {
            let orders = told(&world, machine).await;
            assert!(orders.targets.is_empty() && orders.reflects_for.is_empty(), "{orders:?}");
        }
    }

    #[tokio::test]
    async fn a_probe_has_the_targets_that_select_it() {
        let world = world().await;
        let target = |id: &str, words: &[&str]| Target {
            probes: Selector(words.iter().map(|word| (*word).to_owned()).collect()),
            ..Target::usual(TargetId::parse(id).expect("valid"), format!("https://{id}.example/"), 1)
        };
        for target in [target("a", &[]), target("b", &["probe:lab"]), target("c", &["!lab"])] {
            world.store.add_target(target).await.expect("adds");
        }
        let lab = ClientId::parse("lab").expect("valid");
        let orders = world.orders.of_probe(&lab, None).await.expect("answers").expect("has orders");
        assert_eq!(urls(&orders), ["https://a.example/", "https://b.example/"]);
    }

    #[tokio::test]
    async fn who_knows_the_revision_is_answered_when_there_is_another() {
        let world = world().await;
        let lab = ClientId::parse("lab").expect("valid");
        let first = world.orders.of_probe(&lab, None).await.expect("answers").expect("has orders");
        let (orders, has) = (Arc::clone(&world.orders), first.revision.clone());
        let waiting = tokio::spawn(async move { orders.of_probe(&lab, Some(&has)).await });
        let target = Target::usual(TargetId::parse("a").expect("valid"), "https://a.example/".to_owned(), 1);
        world.store.add_target(target).await.expect("adds");
        // The one that waits may not have begun to listen: news is told until it has answered.
        while !waiting.is_finished() {
            world.bus.publish(Change::TargetsChanged);
            tokio::task::yield_now().await;
        }
        let second = waiting.await.expect("no panic").expect("answers").expect("has orders");
        assert_ne!(second.revision, first.revision);
        assert_eq!(urls(&second), ["https://a.example/"]);
    }

    #[tokio::test]
    async fn a_change_told_just_before_anybody_listened_is_not_missed() {
        let world = world().await;
        let lab = ClientId::parse("lab").expect("valid");
        let first = world.orders.of_probe(&lab, None).await.expect("answers").expect("has orders");
        let target = Target::usual(TargetId::parse("a").expect("valid"), "https://a.example/".to_owned(), 1);
        world.store.add_target(target).await.expect("adds");
        world.bus.publish(Change::TargetsChanged);
        // What was looked at for the first answer is still remembered.
        let second = world.orders.of_probe(&lab, Some(&first.revision)).await.expect("answers");
        assert_eq!(urls(&second.expect("has orders")), ["https://a.example/"]);
    }
}
