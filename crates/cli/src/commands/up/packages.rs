//! What this server builds packages of: its own program, those in the operator's folder, its registrar.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use caelum_drivers::{artifacts::Artifacts, clock::Clock};
use caelum_model::UnixMs;
use caelum_roles::{
    bus::Bus,
    enrol::Registrar,
    packages::{Builder, Parts, Signing, SigningError},
};
use caelum_store::Store;

use super::mailboxes::Mailboxes;
use crate::{
    commands::backends,
    config::{Fault, Faults, Settings, keys},
    data::DataDirectory,
};

/// Where Linux shows the program of a process, also after its file was replaced by an upgrade.
const RUNNING: &str = "/proc/self/exe";
/// The settings about signing.
const CERTIFICATES: &str = "packages.signing_certificates";
const KEY: &str = "packages.signing_key";

/// What the builder stands on.
pub(super) struct Ends<'a> {
    pub(super) settings: &'a Settings,
    pub(super) data: &'a DataDirectory,
    pub(super) store: &'a Arc<Store>,
    pub(super) registrar: &'a Arc<Registrar>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) bus: &'a Bus,
    pub(super) mailboxes: Mailboxes,
    pub(super) cluster_id: &'a str,
}

/// The builder of this server.
pub(super) fn builder(ends: Ends<'_>) -> Result<Arc<Builder>> {
    let Ends { settings, data, store, registrar, clock, bus, mailboxes, cluster_id } = ends;
    let config = &settings.config.packages;
    let own = match PathBuf::from(RUNNING) {
        running if running.exists() => running,
        _ => std::env::current_exe().context("find the program that runs")?,
    };
    let address = backends::store_address(settings, data)?;
    Ok(Builder::new(Parts {
        store: Arc::clone(store),
        registrar: Arc::clone(registrar),
        clock: Arc::clone(clock),
        bus: bus.clone(),
        artifacts: Artifacts::new(config.artifacts.clone().map(PathBuf::from), own),
        version: env!("CARGO_PKG_VERSION"),
        servers: config.servers.iter().map(|server| endpoint(server)).collect(),
        // Shown as everywhere else: without its password.
        shared_store: address.is_shared().then(|| address.to_string()),
        mailboxes: mailboxes.seen,
        own_accounts: mailboxes.own_accounts,
        cluster_id: cluster_id.to_owned(),
        signing: signing(settings, clock.now_ms())?.map(Arc::new),
    }))
}

/// What packages for macOS are signed with, if the settings name it. What is wrong with it is known at the start,
/// not when somebody wants a package.
fn signing(settings: &Settings, now_ms: UnixMs) -> Result<Option<Signing>> {
    let config = &settings.config.packages;
    let fault = |key: &str, what: String| {
        let origin = settings.origins[keys::position(key)].clone();
        anyhow::Error::from(Faults(vec![Fault { origin, key: key.to_owned(), what }]))
    };
    let (certificates, key) = match (&config.signing_certificates, &config.signing_key) {
        (None, None) => return Ok(None),
        (Some(certificates), Some(key)) => (certificates, key),
        (Some(_), None) => {
            return Err(fault(KEY, format!("must name the key of the certificates in {CERTIFICATES}")));
        }
        (None, Some(_)) => {
            return Err(fault(CERTIFICATES, format!("must name the certificates of the key in {KEY}")));
        }
    };
    let read = |setting: &str, path: &str| {
        fs::read_to_string(path).map_err(|error| fault(setting, format!("cannot be read at {path}: {error}")))
    };
    let (certificates_pem, key_pem) = (read(CERTIFICATES, certificates)?, read(KEY, key)?);
    let signing = Signing::new(&certificates_pem, &key_pem).map_err(|error| match error {
        SigningError::NoKey | SigningError::Encrypted | SigningError::NotRsa | SigningError::Size(_) => {
            fault(KEY, format!("{key}: {error}"))
        }
        error => fault(CERTIFICATES, format!("{certificates}: {error}")),
    })?;
    // Wrong for packages only: everything else works, and each package says so.
    if let Err(error) = signing.check(now_ms) {
        tracing::warn!(code = "packages.not_signing", %error, "no package for macOS can be built");
    }
    Ok(Some(signing))
}

/// `HOST:PORT` of what settings may say: the port is 8080 unless given.
fn endpoint(text: &str) -> String {
    let place = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let has_port = place.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port { place.to_owned() } else { format!("{place}:8080") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_port() {
        assert_eq!(endpoint("hq.example.net"), "hq.example.net:8080");
        assert_eq!(endpoint("https://hq.example.net:443/"), "hq.example.net:443");
        assert_eq!(endpoint("[2001:db8::1]:81"), "[2001:db8::1]:81");
        assert_eq!(endpoint("[2001:db8::1]"), "[2001:db8::1]:8080");
    }
}
