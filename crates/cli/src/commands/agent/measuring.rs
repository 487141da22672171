//! An agent as a probe: it measures what its servers name, and hands over what it saw under its certificate.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Result;
use caelum_drivers::{
    clock::Clock,
    netinfo,
    orders::OrderTaker,
    poster::EventPoster,
    probe::Prober,
    random,
    spool::{Limits, Spool},
    tls,
    traces::Tracer,
    work::{WorkClient, WorkServer},
};
use caelum_model::config::Config;
use caelum_roles::probe::Probe;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Machine;
use crate::{commands::probing, data::DataDirectory, enrolled::Enrolled};

/// Longest wait between two tries to hand events over.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The ways to the servers, exchanged when the certificate is renewed or servers come and go.
pub(super) struct Ways {
    orders: watch::Sender<OrderTaker>,
    events: watch::Sender<EventPoster>,
    work: watch::Sender<Arc<dyn WorkServer>>,
}

impl Ways {
    /// Ways with the certificate and the servers that are known now.
    pub(super) fn open(machine: &Machine, enrolled: &Enrolled) -> Result<Self> {
        let (orders, events, work) = to_servers(machine, enrolled)?;
        Ok(Self {
            orders: watch::Sender::new(orders),
            events: watch::Sender::new(events),
            work: watch::Sender::new(work),
        })
    }

    /// Where tasks come from.
    pub(super) fn work(&self) -> watch::Receiver<Arc<dyn WorkServer>> {
        self.work.subscribe()
    }

    /// The same anew. Where that fails, the old ones stay.
    pub(super) fn renew(&self, machine: &Machine, enrolled: &Enrolled) {
        match to_servers(machine, enrolled) {
            Ok((orders, events, work)) => {
                self.orders.send_replace(orders);
                self.events.send_replace(events);
                self.work.send_replace(work);
            }
            Err(error) => tracing::error!(
                code = "agent.ways_stay",
                error = format!("{error:#}"),
                "events go where they went before, under the certificate from before"
            ),
        }
    }
}

/// Where measurements and tasks come from, and where events go.
type To = (OrderTaker, EventPoster, Arc<dyn WorkServer>);

fn to_servers(machine: &Machine, enrolled: &Enrolled) -> Result<To> {
    let config = tls::to_server_config(&enrolled.chain_pem, &machine.key.key_pem(), &enrolled.authority_pem)?;
    let servers = &enrolled.cluster.servers;
    Ok((
        OrderTaker::as_node(servers, config.clone())?,
        EventPoster::as_node(servers, config.clone())?,
        Arc::new(WorkClient::as_node(servers, config)?),
    ))
}

/// What measuring stands on.
pub(super) struct Measuring {
    config: Config,
    data: DataDirectory,
    clock: Arc<dyn Clock>,
    hostname: String,
    authority_pem: String,
    orders: watch::Receiver<OrderTaker>,
    events: watch::Receiver<EventPoster>,
    stop: CancellationToken,
}

impl Measuring {
    /// Of this machine, by these ways.
    pub(super) fn new(machine: &Machine, enrolled: &Enrolled, ways: &Ways) -> Self {
        let config = machine.settings.config.clone();
        Self {
            hostname: config.agent.name.clone().unwrap_or_else(|| machine.identity.hostname.clone()),
            config,
            data: machine.data.clone(),
            clock: Arc::clone(&machine.clock),
            authority_pem: enrolled.authority_pem.clone(),
            orders: ways.orders.subscribe(),
            events: ways.events.subscribe(),
            stop: machine.stop.clone(),
        }
    }

    /// Measures until told to stop.
    pub(super) async fn run(self, tasks: TaskTracker) {
        let stop = self.stop.clone();
        if let Err(error) = self.measure(&tasks, &stop).await {
            tracing::error!(
                code = "agent.no_probe",
                error = format!("{error:#}"),
                "this machine measures nothing"
            );
        }
    }

    async fn measure(self, tasks: &TaskTracker, stop: &CancellationToken) -> Result<()> {
        let config = &self.config.probe;
        // The servers see the address that others reach this machine by; what is bound is every one.
        let reflecting = probing::Reflecting::new(config, Ipv4Addr::UNSPECIFIED.into(), false);
        let source = probing::Source::Servers(self.orders, self.hostname);
        let own = probing::own_targets(config);
        let Some((orders, targets)) = probing::follow(source, reflecting, own, tasks, stop).await else {
            return Ok(());
        };
        let limits = Limits { max_bytes: config.spool_max_mb << 20, ..Limits::default() };
        let probe = Probe {
            client_id: orders.client_id,
            prober: Arc::new(Prober::new(tls::root_store(&self.authority_pem)?)?),
            targets,
            spool: Spool::open(&self.data.spool(), limits, random::epoch)?,
            poster: self.events,
            clock: self.clock,
            network: || (netinfo::interface_type(), netinfo::vpn_enabled()),
            backoff_max: BACKOFF_MAX,
            tracer: Tracer::default(),
            counters: Arc::default(),
        };
        probe.run(stop.clone()).await;
        Ok(())
    }
}
