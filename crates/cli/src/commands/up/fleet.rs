//! This server among several: where they coordinate, and what is taken up from the others while it runs.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use caelum_drivers::clock::Clock;
use caelum_model::{
    config::{Config, CoordinationBackend},
    node::Thresholds,
};
use caelum_roles::{
    bus::{Bus, Change},
    cluster::Handle,
    enrol::Registrar,
    fleet::{Fleet, Loop, Parts, relay},
    vault::VaultError,
};
use caelum_store::{Coordination, CoordinationAddress, Store};
use caelum_web::State;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::identity::Identity;
use crate::{
    commands::backends::Backends,
    config::{Fault, Faults, Settings, keys},
};

/// Time between two looks at settings that another server may have changed, without news of it.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

/// What the fleet stands on.
pub(super) struct Ends<'a> {
    pub(super) settings: &'a Settings,
    pub(super) config: &'a Config,
    pub(super) identity: &'a Identity,
    pub(super) backends: &'a Backends,
    pub(super) registrar: &'a Arc<Registrar>,
    pub(super) cluster: &'a Handle,
    pub(super) bus: &'a Bus,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) roles: Vec<String>,
    pub(super) servers: Vec<String>,
}

/// Takes part in the fleet, if there can be one.
pub(super) fn start(ends: Ends<'_>, tasks: &TaskTracker, stop: &CancellationToken) -> Result<Option<Fleet>> {
    let Some(coordination) = coordination(&ends)? else { return Ok(None) };
    let (config, identity, backends) = (ends.config, ends.identity, ends.backends);
    let (running, fleet) = Loop::new(Parts {
        coordination,
        store: Arc::clone(&backends.store),
        vault: identity.vault.clone(),
        registrar: Arc::clone(ends.registrar),
        cluster: ends.cluster.clone(),
        bus: ends.bus.clone(),
        clock: Arc::clone(ends.clock),
        node_id: identity.node_id.clone(),
        name: identity.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        roles: ends.roles,
        servers: ends.servers,
        heartbeat: Duration::from_secs(config.cluster.heartbeat_interval_s),
        timeout: Duration::from_secs(config.cluster.node_timeout_s),
    });
    tasks.spawn(running.run(stop.clone()));
    tasks.spawn(relay::run(
        Arc::clone(&backends.store),
        ends.bus.clone(),
        identity.node_id.clone(),
        stop.clone(),
    ));
    Ok(Some(fleet))
}

/// Where servers coordinate; nothing where this one is alone.
fn coordination(ends: &Ends<'_>) -> Result<Option<Coordination>> {
    let cluster = &ends.config.cluster;
    let places = &ends.backends.places;
    if !cluster.enabled {
        return Ok(None);
    }
    let fault = |key: &str, what: String| {
        let origin = ends.settings.origins[keys::position(key)].clone();
        anyhow::Error::from(Faults(vec![Fault { origin, key: key.to_owned(), what }]))
    };
    let on_records = || {
        let clock = Arc::clone(ends.clock);
        Coordination::on_records(Arc::clone(&ends.backends.store), Arc::new(move || clock.now_ms()))
    };
    let address = match &places.coordination {
        Some(text) => {
            let read: Result<CoordinationAddress, _> = text.parse();
            Some(read.map_err(|error| fault("cluster.address", error.to_string()))?)
        }
        None => None,
    };
    let is_shared = ends.backends.is_shared;
    let at = |address: &CoordinationAddress| Coordination::open(address, &ends.identity.cluster_id).map(Some);
    match (cluster.backend, &address) {
        (CoordinationBackend::Auto, Some(address))
        | (CoordinationBackend::Redis, Some(address @ CoordinationAddress::Redis(_)))
        | (CoordinationBackend::File, Some(address @ CoordinationAddress::Folder(_))) => Ok(at(address)?),
        (CoordinationBackend::Auto, None) => Ok(is_shared.then(on_records)),
        (CoordinationBackend::Postgres, _) if is_shared => Ok(Some(on_records())),
        (CoordinationBackend::Sqlite, _) if !is_shared => Ok(Some(on_records())),
        (CoordinationBackend::Redis, _) => Err(fault(
            "cluster.address",
            "must be redis://HOST:6379 where cluster.backend is \"redis\"".into(),
        )),
        (CoordinationBackend::File, _) => {
            Err(fault("cluster.address", "must be file:DIRECTORY where cluster.backend is \"file\"".into()))
        }
        (CoordinationBackend::Postgres, _) => Err(fault(
            "cluster.backend",
            "is \"postgres\", and the records are a file: set server.store to postgres://…".into(),
        )),
        (CoordinationBackend::Sqlite, _) => Err(fault(
            "cluster.backend",
            "is \"sqlite\", and the records are on PostgreSQL: say \"postgres\", or nothing".into(),
        )),
    }
}

/// Takes up what people changed on another server and what this one keeps in memory.
pub(super) async fn follow(state: Arc<State>, bus: Bus, usual: Thresholds, stop: CancellationToken) {
    let mut changes = bus.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => match change {
                Ok(Change::SettingsChanged) | Err(RecvError::Lagged(_)) => {}
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep(LOOK_ANYWAY) => {}
        }
        take_up(&state, &state.store, usual).await;
    }
}

async fn take_up(state: &State, store: &Store, usual: Thresholds) {
    match store.thresholds().await {
        Ok(thresholds) => state.set_thresholds(thresholds.unwrap_or(usual)),
        Err(error) => {
            tracing::debug!(code = "up.thresholds_not_read", %error, "thresholds stay as they were for now");
        }
    }
    match state.secrets.key().take_up().await {
        Ok(_) => {}
        Err(error @ (VaultError::Replaced { .. } | VaultError::NotOurs(_))) => tracing::error!(
            code = "master_key.useless",
            %error,
            "this server goes on with what it has, and can neither revoke nor be started again: copy \
             secrets/master.key from another server, or set the new key where this one finds it, and restart it"
        ),
        Err(error) => {
            tracing::debug!(code = "master_key.not_read", %error, "the master key stays as it was for now");
        }
    }
}
