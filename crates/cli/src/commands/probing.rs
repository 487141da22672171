//! What a machine of the cluster measures: the targets that its server names, and its own surroundings.
//!
//! A server asks itself, in the process; an agent asks its servers under its certificate. Both feed the same
//! probe and the same reflector, by which the other machines measure this one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, RwLock},
    time::Duration,
};

use caelum_drivers::{
    netinfo,
    orders::{Me, OrderTaker, OrdersError},
    probe, stamp,
    stamp::StampReflector,
};
use caelum_engine::{hash::fnv1a, stamp::Limits};
use caelum_model::{
    config,
    id::TargetId,
    probe::ProbeOrders,
    target::{Target, TargetOrigin},
};
use caelum_roles::orders::{Asker, Orders};
use caelum_store::StoreError;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Wait before a server is asked again that did not answer.
const AGAIN: Duration = Duration::from_secs(5);

/// Whom orders are had from.
pub(super) enum Source {
    /// This process.
    Own(Arc<Orders>, Asker),
    /// The servers; exchanged when the certificate is renewed or the servers change.
    Servers(watch::Receiver<OrderTaker>, String),
}

/// Why there are no orders now.
#[derive(Debug, thiserror::Error)]
enum NoOrders {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Servers(#[from] OrdersError),
}

impl Source {
    async fn take(
        &self,
        reflector: Option<SocketAddr>,
        has: Option<&str>,
    ) -> Result<Option<ProbeOrders>, NoOrders> {
        match self {
            Self::Own(orders, asker) => {
                Ok(orders.of_machine(&Asker { reflector, ..asker.clone() }, has).await?)
            }
            Self::Servers(taker, hostname) => {
                let taker = taker.borrow().clone();
                let me = Me {
                    hostname,
                    addresses: &netinfo::addresses(),
                    reflector: reflector.map(|at| at.port()),
                };
                Ok(taker.take(&me, has).await?)
            }
        }
    }
}

/// The place where the other machines measure this one.
pub(super) struct Reflecting {
    is_wanted: bool,
    /// Port that is wanted; another one where it is taken or not allowed.
    port: u16,
    /// Address by which others know this machine.
    address: IpAddr,
    /// Nobody is there to reflect for, and nothing listens without need.
    is_alone: bool,
    allowed: Arc<RwLock<BTreeSet<IpAddr>>>,
    bound: Option<u16>,
}

impl Reflecting {
    /// Nothing yet. `is_alone` is believed until there are others to reflect for.
    pub(super) fn new(config: &config::Probe, address: IpAddr, is_alone: bool) -> Self {
        Self {
            is_wanted: config.reflector,
            port: config.reflector_port,
            address,
            is_alone,
            allowed: Arc::default(),
            bound: None,
        }
    }

    /// Where this machine reflects, if it does.
    fn place(&self) -> Option<SocketAddr> {
        self.bound.map(|port| SocketAddr::new(self.address, port))
    }

    fn allow(&mut self, addresses: &[IpAddr]) {
        self.is_alone &= addresses.is_empty();
        *self.allowed.write().expect("no code panics while it holds this lock") =
            addresses.iter().copied().collect();
    }

    /// Begins to reflect, where somebody else is there.
    fn begin(&mut self, tasks: &TaskTracker, stop: &CancellationToken) {
        if !self.is_wanted || self.is_alone || self.bound.is_some() {
            return;
        }
        let everywhere: IpAddr = match self.address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let bind = |port| StampReflector::bind(SocketAddr::new(everywhere, port), Limits::default());
        let reflector = bind(self.port).or_else(|refused| {
            tracing::info!(
                code = "probe.reflector_elsewhere", %refused,
                "the usual port is not to be had; the servers are told another one"
            );
            bind(0)
        });
        match reflector.map(|reflector| (reflector.local_addr(), reflector)) {
            Ok((Ok(at), reflector)) => {
                tracing::info!(code = "probe.reflects", port = at.port(), "other machines measure this one");
                self.bound = Some(at.port());
                let allowed = Arc::clone(&self.allowed);
                let allow: stamp::Allow = Arc::new(move |ip| {
                    allowed.read().expect("no code panics while it holds this lock").contains(&ip)
                        || ip.is_loopback()
                });
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = reflector.run(allow) => {}
                    }
                });
            }
            Ok((Err(error), _)) => {
                tracing::warn!(code = "probe.no_reflector", %error, "other machines cannot measure this one");
            }
            Err(error) => {
                tracing::warn!(code = "probe.no_reflector", %error, "other machines cannot measure this one");
            }
        }
    }
}

/// Follows orders until told to stop: answers with what is to be measured, as it changes. The first answer is
/// awaited, so that the probe knows its name; none where told to stop before.
pub(super) async fn follow(
    source: Source,
    mut reflecting: Reflecting,
    own: Vec<Target>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Option<(ProbeOrders, watch::Receiver<Arc<Vec<Target>>>)> {
    reflecting.begin(tasks, stop);
    let first = loop {
        if let Some(orders) = ask(&source, &reflecting, None, stop).await? {
            break orders;
        }
    };
    reflecting.allow(&first.reflects_for);
    let (sender, receiver) = watch::channel(with_own(&first.targets, &own));
    let mut revision = first.revision.clone();
    let (tasks_of_loop, stop) = (tasks.clone(), stop.clone());
    tasks.spawn(async move {
        loop {
            reflecting.begin(&tasks_of_loop, &stop);
            match ask(&source, &reflecting, Some(&revision), &stop).await {
                None => return,
                Some(None) => {}
                Some(Some(orders)) => {
                    tracing::info!(
                        code = "probe.orders",
                        targets = orders.targets.len(),
                        "there is something else to measure"
                    );
                    reflecting.allow(&orders.reflects_for);
                    sender.send_replace(with_own(&orders.targets, &own));
                    revision = orders.revision;
                }
            }
        }
    });
    Some((first, receiver))
}

/// Asks until there is an answer; none where told to stop.
async fn ask(
    source: &Source,
    reflecting: &Reflecting,
    has: Option<&str>,
    stop: &CancellationToken,
) -> Option<Option<ProbeOrders>> {
    let mut was_told = false;
    loop {
        let taken = tokio::select! {
            () = stop.cancelled() => return None,
            taken = source.take(reflecting.place(), has) => taken,
        };
        match taken {
            Ok(orders) => return Some(orders),
            Err(error) if was_told => {
                tracing::debug!(code = "probe.no_orders", error = %error, "still no answer");
            }
            Err(error) => {
                was_told = true;
                tracing::warn!(
                    code = "probe.no_orders", error = %error,
                    "no server says what to measure; what was said last is measured on"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

fn with_own(ordered: &[Target], own: &[Target]) -> Arc<Vec<Target>> {
    let more = own.iter().filter(|own| ordered.iter().all(|target| target.url != own.url));
    Arc::new(ordered.iter().chain(more).cloned().collect())
}

/// What is around this machine: its gateway, where it may be pinged, and its name servers.
pub(super) fn surroundings() -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(gateway) = netinfo::default_gateway() {
        match probe::check_icmp() {
            Ok(()) => found.push((format!("icmp://{}", host(gateway)), "Gateway".to_owned())),
            Err(refused) => {
                tracing::info!(code = "probe.no_icmp", %refused, "the gateway is not measured by ping");
            }
        }
    }
    for resolver in netinfo::resolvers() {
        let port = if resolver.port() == 53 { String::new() } else { format!(":{}", resolver.port()) };
        let url = format!("dns://{}{port}", host(resolver.ip()));
        found.push((url, format!("Resolver {}", resolver.ip())));
    }
    found
}

/// The same as targets of this machine alone.
pub(super) fn own_targets(config: &config::Probe) -> Vec<Target> {
    if !config.default_targets {
        return Vec::new();
    }
    let target = |(url, name): (String, String)| {
        let target_id = TargetId::parse(&format!("own-{:016x}", fnv1a(&url))).expect("short text");
        Target {
            name,
            origin: TargetOrigin::Default,
            interval_s: u32::try_from(config.interval_s).unwrap_or(u32::MAX),
            timeout_ms: u32::try_from(config.timeout_ms).unwrap_or(u32::MAX),
            ..Target::usual(target_id, url, 0)
        }
    };
    surroundings().into_iter().map(target).collect()
}

fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
