//! What is measured without anybody asking: the gateway, the name servers, and Caelum's own page; and what
//! the settings name.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use caelum_drivers::random;
use caelum_engine::{
    selector,
    target::{self as rules, TargetError},
};
use caelum_model::{
    UnixMs,
    config::{Config, ProbeTarget},
    id::{ClientId, TargetId},
    target::{Selector, Target, TargetOrigin},
};
use caelum_store::Store;

use crate::commands::probing;

/// Brings the stored targets in line with the settings and this machine; targets that people added stay, and
/// so do the ids of targets that were there before.
pub(super) async fn establish(
    config: &Config,
    store: &Store,
    own: SocketAddr,
    client_id: &ClientId,
    now_ms: UnixMs,
) -> Result<()> {
    let kept = store.targets().await?;
    let mut wanted: Vec<Target> = Vec::new();
    let mut want = |url: String, name: String, origin: TargetOrigin| {
        if wanted.iter().any(|target| target.url == url) {
            return;
        }
        let before = kept.iter().find(|target| target.url == url);
        let new_id = || TargetId::parse(&random::secret(12)).expect("a secret is short text");
        let target_id = before.map_or_else(new_id, |target| target.target_id.clone());
        let created_at_ms = before.map_or(now_ms, |target| target.created_at_ms);
        wanted.push(Target {
            name,
            interval_s: seconds(config.probe.interval_s),
            timeout_ms: u32::try_from(config.probe.timeout_ms).unwrap_or(u32::MAX),
            origin,
            probes: if origin == TargetOrigin::Default { only_by(client_id) } else { Selector::default() },
            ..Target::usual(target_id, url, created_at_ms)
        });
    };
    // What is configured comes first: where it names a default target, its own numbers hold.
    for target in &config.probe.targets {
        want(
            target.url.clone(),
            target.name.clone().unwrap_or_else(|| short(&target.url)),
            TargetOrigin::Config,
        );
    }
    if config.probe.default_targets {
        for (url, name) in defaults(own) {
            want(url, name, TargetOrigin::Default);
        }
    }
    for target in &mut wanted {
        if let Some(configured) = config.probe.targets.iter().find(|configured| configured.url == target.url)
        {
            *target = as_configured(target, configured).with_context(|| format!("set {}", configured.url))?;
        }
    }
    store.replace_targets(vec![TargetOrigin::Default, TargetOrigin::Config], wanted).await?;
    Ok(())
}

/// What is around this machine is not around another. A name that no selector can hold leaves it to all.
fn only_by(client_id: &ClientId) -> Selector {
    let by_name = Selector(vec![format!("probe:{client_id}")]);
    if selector::check(&by_name).is_ok() { by_name } else { Selector::default() }
}

/// The target with what the settings say of it.
pub(in crate::commands) fn as_configured(
    target: &Target,
    configured: &ProbeTarget,
) -> Result<Target, TargetError> {
    let change = match &configured.template {
        Some(template) => rules::with_template(&configured.url, template, configured.change())?,
        None => configured.change(),
    };
    rules::changed(target, change)
}

fn defaults(own: SocketAddr) -> Vec<(String, String)> {
    let mut defaults = probing::surroundings();
    defaults.push((format!("https://{own}/login"), "Caelum's own page".to_owned()));
    defaults
}

fn short(url: &str) -> String {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/').to_owned()
}

fn seconds(configured: u64) -> u32 {
    u32::try_from(configured).unwrap_or(u32::MAX)
}
