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
}

impl Orders {
    /// Orders from what is stored.
    pub fn new(store: Arc<Store>, bus: Bus, clock: Arc<dyn Clock>) -> Self {
        Self { store, bus, clock, changing: Mutex::new(()) }
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
        loop {
            let orders = self.orders(client_id, hostname).await?;
            if has != Some(orders.revision.as_str()) {
                return Ok(Some(orders));
            }
            loop {
                // News that was missed may have been this one.
                let change = tokio::select! {
                    () = tokio::time::sleep_until(end) => return Ok(None),
                    change = news.recv() => change,
                };
                if !matches!(change, Ok(change) if !matches!(change, Change::TargetsChanged)) {
                    break;
                }
            }
        }
    }

    async fn orders(&self, client_id: &ClientId, hostname: &str) -> Result<ProbeOrders, StoreError> {
        let (settings, stored) = tokio::try_join!(self.store.probe_settings(), self.store.targets())?;
        let machines = machines(&self.store).await?;
        let probe = Probe { client_id: client_id.as_str(), name: hostname };
        let mut targets = selector::orders(&settings, &stored, probe);
        let (others, reflects_for) = self.neighbours(client_id, &settings, &machines);
        targets.extend(others.into_iter().filter(|mesh| stored.iter().all(|target| target.url != mesh.url)));
        let mut orders =
            ProbeOrders { client_id: client_id.clone(), targets, reflects_for, revision: String::new() };
        let text = serde_json::to_string(&orders).expect("orders have a JSON form");
        orders.revision = format!("{:016x}", fnv1a(&text));
        Ok(orders)
    }

    /// The other machines that one measures, and the addresses of all that may measure it.
    fn neighbours(
        &self,
        client_id: &ClientId,
        settings: &[ProbeSetting],
        machines: &BTreeMap<NodeId, Machine>,
    ) -> (Vec<Target>, Vec<IpAddr>) {
        let setting =
            |client_id: &ClientId| settings.iter().find(|setting| setting.client_id == *client_id);
        let takes_part = |client_id: &ClientId| {
            setting(client_id).is_none_or(|setting| setting.mesh && setting.enabled)
        };
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
        let mut reflects_for: Vec<IpAddr> = others.iter().map(|(_, reflector)| reflector.ip()).collect();
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
                && machine.hostname == asker.hostname
                && asker.client_id.as_ref().is_none_or(|own| *own == machine.client_id)
                && now_ms - machine.asked_at_ms < SEEN_EVERY_MS
        };
        if let Some(machine) = machines(&self.store).await?.get(&asker.node_id).filter(|machine| is_same(machine)) {
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
        let is_place_new = before.is_none_or(|before| before.reflector != asker.reflector);
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
