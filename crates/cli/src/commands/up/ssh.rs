//! The SSH pool of a server, from settings: its keys, its limits.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use caelum_drivers::{
    clock::Clock,
    ssh::{Keyring, own_host_keys},
};
use caelum_engine::{ssh::Limits, task::order::SSH_POOL};
use caelum_model::config::Config;
use caelum_roles::{
    cluster::Handle,
    ssh::{Parts, Ssh},
};
use caelum_store::Store;
use tokio_util::sync::CancellationToken;

use crate::data::DataDirectory;

/// Where Debian and most others keep host keys.
const HOST_KEYS: &str = "/etc/ssh";

/// Commands over SSH and the loop behind them; none where the settings say so.
pub(super) fn start(
    config: &Config,
    data: &DataDirectory,
    store: &Arc<Store>,
    clock: &Arc<dyn Clock>,
    cluster: &Handle,
    stop: &CancellationToken,
) -> Result<Option<(Arc<Ssh>, impl Future<Output = ()> + Send + 'static + use<>)>> {
    let ssh = &config.ssh;
    if !ssh.enabled {
        return Ok(None);
    }
    let files: Vec<PathBuf> = ssh.keys.iter().map(PathBuf::from).collect();
    let comment = format!("caelum-{}", config.cluster.name.replace(char::is_whitespace, "-"));
    let keyring = Keyring::open(&data.secrets(), &files, &comment, ssh.certificates)
        .context("open the keys for SSH")?;
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000);
    Ok(Some(Ssh::start(Parts {
        store: Arc::clone(store),
        clock: Arc::clone(clock),
        roster: cluster.roster.clone(),
        thresholds: config.health,
        keyring: Arc::new(keyring),
        user: ssh.user.clone(),
        port: ssh.port,
        known_hosts: ssh.known_hosts.as_ref().map(PathBuf::from),
        limits: Limits {
            connections_per_host: count(ssh.connections_per_host),
            handshakes: count(ssh.handshakes),
            connect_timeout_ms: ms(ssh.connect_timeout_s),
            idle_ms: ms(ssh.idle_s),
            ..Limits::default()
        },
        output_max_bytes: count(ssh.output_max_bytes),
        stop: stop.clone(),
    })))
}

/// Keys that this machine's own SSH server shows.
pub(in crate::commands) fn own_keys(config: &Config) -> Vec<String> {
    own_host_keys(config.ssh.host_keys.as_deref().unwrap_or(HOST_KEYS).as_ref())
}

/// What this server can do for tasks: run them on other machines, where it has a pool.
pub(super) fn capabilities(config: &Config) -> Vec<String> {
    if config.ssh.enabled { vec![SSH_POOL.to_owned()] } else { Vec::new() }
}
