//! Mailboxes that this server looks into: the records, where servers share them, and where servers coordinate.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use caelum_drivers::clock::Clock;
use caelum_roles::{
    bus::Bus,
    enrol::Registrar,
    mailbox::{Loop, Parts, View},
};
use caelum_store::{Mailbox, MailboxAddress};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::identity::Identity;
use crate::commands::backends::Backends;

/// Mailboxes, as packages are built for them.
#[derive(Default)]
pub(super) struct Mailboxes {
    /// What is known of each.
    pub(super) seen: Vec<watch::Receiver<View>>,
    /// Kind and name of the accounts that servers have there.
    pub(super) own_accounts: Vec<String>,
}

/// Looks into each from now on.
pub(super) async fn start(
    identity: &Identity,
    backends: &Backends,
    registrar: &Arc<Registrar>,
    bus: &Bus,
    clock: &Arc<dyn Clock>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Mailboxes> {
    let mut found = Mailboxes::default();
    let records = backends.is_shared.then_some(&backends.places.store);
    for text in records.into_iter().chain(&backends.places.coordination) {
        // What is wrong with it was said where it is used first.
        let Ok(address) = text.parse::<MailboxAddress>() else { continue };
        if let Some(user) = address.user() {
            found.own_accounts.push(format!("{} {user}", address.kind()));
        }
        let mailbox = Mailbox::open(&address, &identity.cluster_id).await;
        let (running, seen) = Loop::new(Parts {
            mailbox: mailbox.with_context(|| format!("open the mailbox at {address}"))?,
            registrar: Arc::clone(registrar),
            store: Arc::clone(&backends.store),
            clock: Arc::clone(clock),
            bus: bus.clone(),
        });
        tasks.spawn(running.run(stop.clone()));
        found.seen.push(seen);
    }
    Ok(found)
}
