//! By what a server on shared records is trusted: the cluster's authority and keys, sealed there under the
//! master key, so that each server that holds it is as good as the first.

use std::{io, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::{random, tls};
use caelum_engine::master_key::KeyPlace;
use caelum_model::{cluster::ClusterKey, config::Config};
use caelum_roles::{
    enrol,
    master_key::{MasterKey, make_master_key},
    vault::{self, SealedAuthority, Vault, VaultError},
};
use caelum_store::Store;

use super::identity::{Trusted, read, write};
use crate::{enrolled, environment};

/// The name of the master key among the credentials that systemd hands over.
const CREDENTIAL: &str = "cluster_secret";

/// Opens the vault in the records, or makes it where these are new.
pub(super) async fn trusted(config: &Config, secrets: &Path, store: &Arc<Store>) -> Result<Trusted> {
    let is_established = vault::is_established(store).await.context("look for the cluster's keys")?;
    let own = own_authority(secrets)?;
    if !is_established && own.is_none() && store.fact("node_id").await?.is_some() {
        bail!(
            "the records at {} were made by a server that keeps the cluster's keys in its own data directory: \
             start that one with this version first, which puts them there, sealed",
            store.place()
        );
    }
    let found = master_key(config, secrets)?;
    let is_kept = found.is_some();
    let (secret, place) = match found {
        Some(found) => found,
        None if is_established => bail!(no_key(store)),
        None => (make_master_key(), KeyPlace::File),
    };
    let key = kept_key(store, secrets, &secret, place)?;
    let vault = Arc::new(Vault::new(Arc::clone(store), Arc::clone(&key)));
    let cluster_id = if is_established {
        // The key is tried before anything is said of the cluster; it may be the one before a newer one.
        key.take_up().await.map_err(|error| wrong_key(error, store))?;
        vault.authority().await.map_err(|error| wrong_key(error, store))?;
        store.fact("cluster_id").await?.context("find the cluster's id in the records")?
    } else {
        if !is_kept {
            // Before the vault is: one whose key was lost would be lost with it.
            enrolled::save_master_key(secrets, &secret)?;
        }
        store.claim_fact("cluster_id", format!("c-{}", random::secret(12))).await?
    };
    let first = match own {
        Some(own) => own,
        None if is_established => SealedAuthority { certificate_pem: String::new(), key_pem: String::new() },
        None => {
            let made =
                tls::Authority::create(&format!("Caelum {} {}", config.cluster.name, random::secret(8)))?;
            SealedAuthority { certificate_pem: made.certificate_pem().to_owned(), key_pem: made.key_pem() }
        }
    };
    let sealed = vault.establish_authority(&first).await.map_err(|error| wrong_key(error, store))?;
    let first_keys = enrolled::keys(secrets)?.unwrap_or_else(|| vec![enrol::new_key(1)]);
    let keys: Vec<ClusterKey> =
        vault.establish_keys(&first_keys).await.map_err(|error| wrong_key(error, store))?;
    let authority = tls::Authority::load(&sealed.certificate_pem, &sealed.key_pem)
        .context("read the authority that is sealed in the records")?;
    // What others on this machine trust: clients, and who makes join tokens.
    let path = secrets.join("ca.pem");
    if read(&path)?.as_deref() != Some(authority.certificate_pem()) {
        write(&path, authority.certificate_pem().as_bytes())?;
    }
    // What is sealed there has opened: only now may it be called the current key.
    key.stamp_first().await.map_err(|error| wrong_key(error, store))?;
    Ok(Trusted { cluster_id, authority: Arc::new(authority), keys, vault: Some(vault), key })
}

/// The cluster's authority, for commands beside the server: its own, or the one that is sealed in the records.
pub(in crate::commands) async fn authority(
    config: &Config,
    secrets: &Path,
    store: &Arc<Store>,
) -> Result<tls::Authority> {
    let found = match own_authority(secrets)? {
        Some(own) => Some(own),
        None => {
            let (secret, _) = master_key(config, secrets)?.with_context(|| no_key(store))?;
            let key = MasterKey::in_memory(Arc::clone(store), &secret)?;
            Vault::new(Arc::clone(store), key).authority().await.map_err(|error| wrong_key(error, store))?
        }
    };
    let found = found.context("find the cluster's authority: start the server once")?;
    tls::Authority::load(&found.certificate_pem, &found.key_pem).context("read the cluster's authority")
}

/// The authority of a server that was alone so far.
fn own_authority(secrets: &Path) -> Result<Option<SealedAuthority>> {
    Ok(match (read(&secrets.join("ca.pem"))?, read(&secrets.join("ca.key"))?) {
        (Some(certificate_pem), Some(key_pem)) => Some(SealedAuthority { certificate_pem, key_pem }),
        _ => None,
    })
}

/// The master key, and where it was found.
pub(in crate::commands) fn master_key(config: &Config, secrets: &Path) -> Result<Option<(String, KeyPlace)>> {
    if let Some(set) = &config.cluster.cluster_secret {
        return Ok(Some((set.trim().to_owned(), KeyPlace::Configuration)));
    }
    if let Some(folder) = environment::path("CREDENTIALS_DIRECTORY")
        && let Some(handed) = read(&folder.join(CREDENTIAL))?
    {
        return Ok(Some((handed.trim().to_owned(), KeyPlace::Credential)));
    }
    Ok(enrolled::master_key(secrets)?.map(|kept| (kept, KeyPlace::File)))
}

/// The master key of a server with records of its own: made at the first start.
pub(super) async fn own_master_key(
    config: &Config,
    secrets: &Path,
    store: &Arc<Store>,
) -> Result<Arc<MasterKey>> {
    let (secret, place) = match master_key(config, secrets)? {
        Some(known) => known,
        None => {
            let made = make_master_key();
            enrolled::save_master_key(secrets, &made)?;
            (made, KeyPlace::File)
        }
    };
    let key = kept_key(store, secrets, &secret, place)?;
    key.claim_alone().await.context("take up the master key")?;
    Ok(key)
}

/// A key whose successors are kept among this server's secrets.
fn kept_key(store: &Arc<Store>, secrets: &Path, secret: &str, place: KeyPlace) -> Result<Arc<MasterKey>> {
    let folder = secrets.to_owned();
    let keep = move |key: &str| enrolled::save_master_key(&folder, key).map_err(io::Error::other);
    Ok(MasterKey::new(Arc::clone(store), secret, place, Arc::new(keep))?)
}

fn no_key(store: &Store) -> String {
    format!(
        "the records at {} belong to a cluster whose keys are sealed there, and this machine has no master key: \
         on a server of that cluster type `caelum token join --role server`, and here `caelum server --join \
         TOKEN`; or set cluster.cluster_secret where all servers have one",
        store.place()
    )
}

fn wrong_key(error: VaultError, store: &Store) -> anyhow::Error {
    match error {
        VaultError::Replaced { .. } => anyhow::anyhow!(
            "{error}. Copy secrets/master.key from a server that runs with the records at {} into this one's data \
             directory, readable by its owner only; or set the new key where this server finds its own \
             (cluster.cluster_secret, or systemd's credential {CREDENTIAL}); or use an empty data directory and \
             type `caelum server --join TOKEN` with a token from `caelum token join --role server`",
            store.place()
        ),
        VaultError::NotOurs(_) => anyhow::anyhow!(
            "{error}: the records at {} belong to a cluster with another master key (secrets/master.key, \
             cluster.cluster_secret, or systemd's credential {CREDENTIAL}). Use an empty data directory and type \
             `caelum server --join TOKEN` with a token from `caelum token join --role server` on a server of that \
             cluster, or name other records with --store",
            store.place()
        ),
        other => other.into(),
    }
}
