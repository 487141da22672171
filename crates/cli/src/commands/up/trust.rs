//! Who is let in: the registrar, and the TLS of the listener with certificates that are renewed while it runs.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use caelum_drivers::{
    clock::Clock,
    link, netinfo, random, tls,
    work::{WorkClient, WorkServer},
};
use caelum_engine::enrol::{AccessList, RENEW_AGAIN_MS, renew_at_ms};
use caelum_model::{cluster::NodePass, config::Cluster};
use caelum_roles::{
    cluster::DialTls,
    enrol::{MakeGrant, Parts, PersistKeys, Registrar},
};
use caelum_web::serve::Tls;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::identity::{self, Identity};
use crate::{
    commands::{backends::Backends, neighbours},
    data::DataDirectory,
    enrolled,
};

/// The longest nap before the clock is looked at again: it may have been set, and the machine asleep.
const NAP_MAX: Duration = Duration::from_secs(900);

/// The registrar of this server.
pub(super) async fn registrar(
    identity: &Identity,
    cluster: &Cluster,
    data: &DataDirectory,
    backends: &Backends,
    clock: &Arc<dyn Clock>,
    servers: Vec<String>,
) -> Result<Arc<Registrar>> {
    let secrets = data.secrets();
    let store = &backends.store;
    let persist_keys: PersistKeys = match &identity.vault {
        None => Arc::new(move |keys| enrolled::save_keys(&secrets, keys)),
        Some(vault) => {
            let (vault, runtime) = (Arc::clone(vault), tokio::runtime::Handle::current());
            // Called on a thread that may wait.
            Arc::new(move |keys| runtime.block_on(vault.replace_keys(keys)).map_err(io::Error::other))
        }
    };
    let grant = identity.vault.as_ref().map(|_| {
        let (places, key) = (backends.places.clone(), Arc::clone(identity.secrets.key()));
        // The key as it is when somebody joins: it may be replaced while this server runs.
        Arc::new(move || places.granted(key.secret())) as MakeGrant
    });
    let opened = Registrar::open(Parts {
        store: Arc::clone(store),
        authority: Arc::clone(&identity.authority),
        clock: Arc::clone(clock),
        node_id: identity.node_id.clone(),
        cluster_id: identity.cluster_id.clone(),
        cluster_name: cluster.name.clone(),
        keys: identity.keys.clone(),
        servers,
        access: AccessList::parse(cluster.access.iter().map(String::as_str))
            .context("read cluster.access")?,
        persist_keys,
        grant,
    });
    opened.await.context("read who was shut out")
}

/// Where machines reach a server that listens on these addresses: `host:port`, best first.
pub(super) fn servers(addresses: &[SocketAddr]) -> Vec<String> {
    let mut servers: Vec<String> = Vec::new();
    for address in addresses {
        let own = match address.ip().is_unspecified() {
            // IPv4 has a socket of its own, with the same port.
            true => netinfo::addresses().into_iter().filter(|ip| ip.is_ipv4() == address.is_ipv4()).collect(),
            false => vec![address.ip()],
        };
        let found = own.into_iter().map(|ip| SocketAddr::new(ip, address.port()).to_string());
        servers.extend(found.filter(|server| !servers.contains(server)).collect::<Vec<_>>());
    }
    if servers.is_empty() {
        // A machine without a network still serves itself.
        servers.extend(addresses.first().map(|address| format!("127.0.0.1:{}", address.port())));
    }
    servers.truncate(16);
    servers
}

/// What the listener shows, and to whom.
pub(super) fn listener_tls(
    identity: &Identity,
    node_chain_pem: &str,
    registrar: &Arc<Registrar>,
) -> Result<Tls> {
    let public = tls::server_config(&identity.server_chain_pem, &identity.server_key_pem)?;
    let key_pem = identity.node_key.key_pem();
    let link = tls::link_server_config(node_chain_pem, &key_pem, &identity.authority_pem)?;
    let join = tls::join_server_config(node_chain_pem, &key_pem)?;
    let registrar = Arc::clone(registrar);
    Ok(Tls {
        link: Some(Arc::new(link)),
        join: Some(Arc::new(join)),
        admits: Arc::new(move |pass: &NodePass| !registrar.is_revoked(&pass.node_id)),
        ..Tls::public(public)
    })
}

/// What a fresh certificate is put into.
pub(super) struct Shown {
    /// What the listener shows.
    pub(super) tls: watch::Sender<Tls>,
    /// What links are dialled with.
    pub(super) dial: DialTls,
    /// What this server's own worker asks with.
    pub(super) work: watch::Sender<Arc<dyn WorkServer>>,
    /// Where this server reaches itself.
    pub(super) own: SocketAddr,
}

/// How this server's own worker asks for tasks.
pub(super) fn own_work(
    identity: &Identity,
    node_chain_pem: &str,
    own: SocketAddr,
) -> Result<Arc<dyn WorkServer>> {
    let tls = tls::to_server_config(node_chain_pem, &identity.node_key.key_pem(), &identity.authority_pem)?;
    Ok(Arc::new(WorkClient::as_node(&[own.to_string()], tls)?))
}

/// Renews this server's node certificate until told to stop, and shows the fresh one to whoever comes next.
pub(super) async fn renew(
    identity: Arc<Identity>,
    data: DataDirectory,
    registrar: Arc<Registrar>,
    clock: Arc<dyn Clock>,
    shown: Shown,
    stop: CancellationToken,
) {
    let valid_ms = i64::try_from(tls::NODE_VALID.as_millis()).unwrap_or(i64::MAX);
    let after = |chain_pem: &str| {
        tls::expires_at_ms(chain_pem).map_or(0, |expiry| renew_at_ms(expiry, valid_ms, random::number()))
    };
    let mut due_ms = after(&identity.node_chain_pem);
    loop {
        let wait_ms = u64::try_from(due_ms - clock.now_ms()).unwrap_or(0);
        if wait_ms == 0 {
            due_ms = match renew_now(&identity, &data.secrets(), &registrar, shown.own) {
                Ok((chain_pem, tls, dial, work)) => {
                    shown.work.send_replace(work);
                    shown.tls.send_replace(tls);
                    *shown.dial.write().expect("no code panics while it holds this lock") = Some(dial);
                    tracing::info!(code = "up.node_renewed", "this server's node certificate was renewed");
                    after(&chain_pem).max(clock.now_ms() + RENEW_AGAIN_MS)
                }
                Err(error) => {
                    tracing::error!(
                        code = "up.node_not_renewed",
                        error = format!("{error:#}"),
                        "this server's node certificate could not be renewed; trying again"
                    );
                    clock.now_ms() + RENEW_AGAIN_MS
                }
            };
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(wait_ms).min(NAP_MAX)) => {}
        }
    }
}

fn renew_now(
    identity: &Identity,
    secrets: &Path,
    registrar: &Arc<Registrar>,
    own: SocketAddr,
) -> Result<(String, Tls, link::Tls, Arc<dyn WorkServer>)> {
    let chain_pem =
        identity::renew_node(secrets, &identity.authority, &identity.node_key, &identity.node_id)?;
    let tls = listener_tls(identity, &chain_pem, registrar)?;
    let dial = neighbours::dial_tls(&chain_pem, &identity.node_key.key_pem(), &identity.authority_pem)?;
    let work = own_work(identity, &chain_pem, own)?;
    Ok((chain_pem, tls, dial, work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_reached_where_they_listen() {
        let addresses = ["192.0.2.1:8080", "[2001:db8::1]:8080", "192.0.2.1:8080"];
        let addresses = addresses.map(|address| address.parse().expect("an address"));
        assert_eq!(servers(&addresses), ["192.0.2.1:8080", "[2001:db8::1]:8080"]);
        let everywhere = servers(&["0.0.0.0:8080".parse().expect("an address")]);
        assert!(!everywhere.is_empty() && everywhere.iter().all(|server| server.ends_with(":8080")));
        assert!(everywhere.iter().all(|server| !server.starts_with("0.0.0.0")), "{everywhere:?}");
    }
}
