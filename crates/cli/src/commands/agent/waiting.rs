//! A machine that is no node yet: heard by beacon, it shows a code and waits for somebody to adopt it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use caelum_drivers::tls;
use caelum_model::join::JoinRequest;
use caelum_roles::enrol::{self, Adoption, Newcomer};
use tokio::sync::mpsc;

use super::{Machine, invited};
use crate::{
    commands::neighbours::{self, Ends, Who},
    enrolled::Enrolled,
    output,
};

/// How often it is looked whether the code has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Waits; none where it was told to stop meanwhile.
pub(super) async fn wait(
    machine: &Machine,
    newcomer: Arc<Newcomer>,
    mut adoptions: mpsc::Receiver<Adoption>,
) -> Result<Option<Enrolled>> {
    let stop = machine.stop.child_token();
    let (_links, accepted) = mpsc::channel(1);
    let (facts, _learnt) = mpsc::channel(16);
    let who = Who {
        node_id: machine.node_id.clone(),
        role: machine.role,
        roles: vec![machine.role.as_str().to_owned()],
        identity: machine.identity.clone(),
        ceiling: machine.settings.config.agent.ceiling,
        cluster_id: String::new(),
        cluster_name: String::new(),
        keys: Vec::new(),
        delta: None,
        revoked: BTreeSet::new(),
        servers: Vec::new(),
        websocket_port: machine.websocket_port,
    };
    let ends = Ends { accepted, tls: neighbours::exchangeable(None), facts, is_watched: false };
    let (_handle, running, _) =
        neighbours::prepare(&machine.settings.config, &machine.data, &machine.clock, who, ends).await?;
    let beaconing = tokio::spawn(running.run(stop.clone()));
    let mut said = String::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    let mut invited = std::pin::pin!(invited::join(machine));
    // Whoever has an invitation shows a code only when that came to nothing.
    let mut is_invited = machine.join_file.is_some();
    let enrolled = loop {
        tokio::select! {
            () = stop.cancelled() => break None,
            joined = &mut invited, if is_invited => match joined {
                Some(enrolled) => break Some(enrolled),
                None => is_invited = false,
            },
            _ = tick.tick(), if !is_invited => {
                let code = newcomer.code();
                if code != said {
                    output::print(&format!(
                        "This machine is in no cluster yet. Adopt it in the dashboard (Machines, Discovered) with \
                         the code\n\n  {code}\n\n  or give it a token: caelum agent --join TOKEN\n\n"
                    ))?;
                    tracing::info!(code = "agent.waiting", "waiting to be adopted; the code is on standard output");
                    said = code;
                }
            }
            Some(adoption) = adoptions.recv() => match join(machine, adoption).await {
                Ok(enrolled) => break Some(enrolled),
                Err(error) => tracing::error!(
                    code = "agent.not_adopted", error = format!("{error:#}"), "the adoption came to nothing"
                ),
            }
        }
    };
    stop.cancel();
    // Its goodbye is on its way; what it still holds ends with it.
    drop(beaconing.await);
    Ok(enrolled)
}

async fn join(machine: &Machine, adoption: Adoption) -> Result<Enrolled> {
    let ceiling = machine.settings.config.agent.ceiling;
    let request = JoinRequest {
        csr_pem: machine.key.csr_pem(&machine.node_id)?,
        node_id: machine.node_id.clone(),
        hostname: machine.identity.hostname.clone(),
        role: machine.role,
        ceiling,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        admission: adoption.admission,
    };
    let mut answer = enrol::join(&adoption.servers, &adoption.authority_sha256, &request).await?;
    if answer.cluster_id != adoption.cluster_id {
        bail!("the server answered for the cluster {}, not {}", answer.cluster_id, adoption.cluster_id);
    }
    if answer.servers.is_empty() {
        answer.servers = adoption.servers;
    }
    let pass =
        tls::check_node_chain(&answer.certificate_pem, &answer.authority_pem, &machine.key.key_sha256())?;
    let secrets = machine.data.secrets();
    Enrolled::save(&secrets, &answer, ceiling, pass.role)?;
    output::print(&format!("Adopted: this machine is a node of {} now.\n\n", answer.cluster_name))?;
    match Enrolled::load(&secrets)? {
        Some(enrolled) => Ok(enrolled),
        None => bail!("what was just written to {} is not there", secrets.display()),
    }
}
