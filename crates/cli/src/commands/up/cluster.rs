//! The server among the other nodes: links that come in, records of nodes, keys and revocations that go out.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::Result;
use caelum_drivers::{clock::Clock, link::Link};
use caelum_model::{
    cluster::{Ceiling, NodeRole},
    config::Config,
    host::HostIdentity,
};
use caelum_roles::{
    bus::{Bus, Change},
    census::Census,
    cluster::{Command, Fact, Handle},
    enrol::Registrar,
    services::{self, Services},
};
use caelum_store::Store;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::identity::Identity;
use crate::{
    commands::neighbours::{self, Ends, Who},
    data::DataDirectory,
};

/// Links and facts that may wait.
const WAITING_MAX: usize = 1_024;

/// What the server's part in the cluster stands on.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) data: &'a DataDirectory,
    pub(super) identity: &'a Identity,
    pub(super) store: &'a Arc<Store>,
    pub(super) bus: &'a Bus,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) registrar: &'a Arc<Registrar>,
    pub(super) roles: Vec<String>,
    pub(super) host: HostIdentity,
    pub(super) websocket_port: u16,
}

/// Starts everything of it. Answers the handle, the way in for links, and how links are dialled.
pub(super) async fn start(
    parts: Parts<'_>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(Handle, mpsc::Sender<Link>, caelum_roles::cluster::DialTls)> {
    let Parts { config, identity, registrar, .. } = &parts;
    let (links, accepted) = mpsc::channel(WAITING_MAX);
    let (facts, learnt) = mpsc::channel::<Fact>(WAITING_MAX);
    let dial = neighbours::dial_tls(
        &identity.node_chain_pem,
        &identity.node_key.key_pem(),
        &identity.authority_pem,
    )?;
    let tls = neighbours::exchangeable(Some(dial));
    let who = Who {
        node_id: identity.node_id.clone(),
        role: NodeRole::Server,
        roles: parts.roles.clone(),
        identity: parts.host.clone(),
        ceiling: Ceiling::Shell.min(config.agent.ceiling),
        cluster_id: identity.cluster_id.clone(),
        cluster_name: config.cluster.name.clone(),
        keys: registrar.keys(),
        delta: Some(registrar.delta()),
        revoked: BTreeSet::new(),
        servers: Vec::new(),
        websocket_port: parts.websocket_port,
    };
    let ends = Ends { accepted, tls: Arc::clone(&tls), facts, is_watched: true };
    let (handle, running, _) = neighbours::prepare(config, parts.data, parts.clock, who, ends).await?;
    let renewing = Arc::clone(registrar);
    tasks.spawn(
        Census {
            store: Arc::clone(parts.store),
            bus: parts.bus.clone(),
            clock: Arc::clone(parts.clock),
            facts: learnt,
            cluster: handle.clone(),
            renew: Box::new(move |pass, csr| {
                let registrar = Arc::clone(&renewing);
                Box::pin(async move { registrar.renew(&pass, &csr).await.map_err(|error| error.to_string()) })
            }),
        }
        .run(stop.clone()),
    );
    tasks.spawn(tell_changes(Arc::clone(registrar), handle.clone(), stop.clone()));
    tasks.spawn(publish(handle.clone(), parts.bus.clone(), stop.clone()));
    tasks.spawn(
        Services {
            cluster: handle.clone(),
            configured: config.agent.services.iter().filter_map(|text| services::parse(text)).collect(),
            find_mcp: config.agent.find_mcp,
        }
        .run(stop.clone()),
    );
    tasks.spawn(running.run(stop.clone()));
    Ok((handle, links, tls))
}

/// Keys and revocations go to every node as soon as they change.
async fn tell_changes(registrar: Arc<Registrar>, cluster: Handle, stop: CancellationToken) {
    let mut changes = registrar.subscribe();
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => change,
        };
        match change {
            // Told as a whole: whoever missed one has it with the next.
            Ok(_) | Err(RecvError::Lagged(_)) => {
                cluster.tell(Command::Delta(registrar.delta())).await;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Pages look again when the roster changes.
async fn publish(mut cluster: Handle, bus: Bus, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = cluster.roster.changed() => match changed {
                Ok(()) => bus.publish(Change::RosterChanged),
                Err(_) => return,
            },
        }
    }
}

/// Where a machine that was heard is dialled.
pub(super) fn find_machine(cluster: &Handle) -> caelum_web::state::FindMachine {
    let roster = cluster.roster.clone();
    Arc::new(move |machine_id| {
        let roster = roster.borrow();
        let machine = roster.machines.iter().find(|machine| machine.machine_id == machine_id)?;
        Some(SocketAddr::new(machine.sender_ip.parse().ok()?, machine.websocket_port))
    })
}
