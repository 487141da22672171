//! `caelum server`: one of several servers, on records and a stream that all of them share.

use std::{fs, io::ErrorKind};

use anyhow::{Context as _, Result, bail};
use caelum_model::cluster::NodeRole;
use caelum_roles::enrol::invitation;

use super::{agent::invited, backends, join, settle, up, wait_for};
use crate::{
    arguments::Server,
    config::{Origin, Settings, keys},
    data::DataDirectory,
    enrolled::Enrolled,
    exit::Exit,
    log,
};

/// Joins, if that is asked for and was not done before, and serves until told to stop.
pub fn run(arguments: Server) -> Result<Exit> {
    let Server { place, join, join_file, overrides } = arguments;
    let (mut settings, data) = settle(place, overrides)?;
    log::open(&settings.config.telemetry);
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    let token = match &join_file {
        Some(path) => match fs::read_to_string(path) {
            // Removed when it had been used.
            Err(error) if error.kind() == ErrorKind::NotFound && is_server(&data)? => None,
            read => Some(read.with_context(|| format!("read {}", path.display()))?),
        },
        None => join,
    };
    if let Some(token) = token {
        admit(&settings, &data, token)?;
        if let Some(path) = &join_file {
            invited::remove(path);
        }
    }
    // What a server does beside serving is asked for.
    if settings.origins[keys::position("probe.enabled")] == Origin::Default {
        settings.config.probe.enabled = false;
    }
    if settings.origins[keys::position("worker.enabled")] == Origin::Default {
        settings.config.worker.enabled = false;
    }
    let address = backends::store_address(&settings, &data)?;
    if !address.is_shared() {
        bail!(
            "{address} is a file of this machine, which no other server can use: name records that are shared \
             with --store postgres://USER@HOST/DATABASE and a stream with --queue nats://HOST:4222, join another \
             server with --join TOKEN, or type `caelum up` for one machine"
        );
    }
    up::run(settings, data)
}

/// Whether this machine has joined as a server.
fn is_server(data: &DataDirectory) -> Result<bool> {
    Ok(Enrolled::load(&data.secrets())?.is_some_and(|kept| kept.cluster.role == NodeRole::Server))
}

/// Joins by a token, unless this machine is of that cluster already.
fn admit(settings: &Settings, data: &DataDirectory, token: String) -> Result<()> {
    let invitation = invitation::parse(&join::opened(token)?)?;
    if let Some(kept) = Enrolled::load(&data.secrets())?
        && kept.cluster.cluster_id == invitation.cluster_id
        && kept.cluster.role == NodeRole::Server
    {
        return Ok(());
    }
    let ceiling = settings.config.agent.ceiling;
    let joined =
        wait_for(async { join::join(data, invitation, NodeRole::Server, ceiling).await.map(|_| Exit::Fine) });
    joined.map(drop)
}
