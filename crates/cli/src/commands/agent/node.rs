//! A machine that is a node: linked, reporting, and renewing its certificate by itself.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use caelum_drivers::{host::HostSampler, link::Link, random, tls};
use caelum_engine::enrol::{RENEW_AGAIN_MS, renew_at_ms};
use caelum_model::{
    cluster::{NodePass, NodeRole},
    envelope::RosterDelta,
    join::{Admission, JoinRequest},
};
use caelum_roles::{
    cluster::{DialTls, Fact},
    enrol,
    reporter::Reporter,
    services::{self, Services},
};
use caelum_web::serve::Tls;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{
    Machine,
    measuring::{Measuring, Ways},
};
use crate::{
    commands::{
        neighbours::{self, Ends, Who},
        working,
    },
    enrolled::{self, Enrolled},
};

/// The longest nap before the clock is looked at again.
const NAP_MAX: Duration = Duration::from_secs(900);
/// Facts that may wait.
const FACTS_MAX: usize = 64;

/// Runs until told to stop.
pub(super) async fn run(
    machine: Machine,
    mut enrolled: Enrolled,
    accepted: mpsc::Receiver<Link>,
) -> Result<()> {
    let now_ms = machine.clock.now_ms();
    if tls::expires_at_ms(&enrolled.chain_pem)? <= now_ms {
        tracing::warn!(
            code = "agent.certificate_over",
            "the certificate has run out; asking for a fresh one"
        );
        match renew(&machine, &enrolled).await {
            Ok(chain_pem) => enrolled.chain_pem = chain_pem,
            Err(error) => tracing::error!(
                code = "agent.not_renewed",
                error = format!("{error:#}"),
                "no fresh certificate; trying again, and heard by beacon until then"
            ),
        }
    }
    let dial = neighbours::exchangeable(Some(dial_tls(&machine, &enrolled)?));
    machine.shown.send_replace(listener_tls(&machine, &enrolled)?);
    let (facts, learnt) = mpsc::channel(FACTS_MAX);
    let config = &machine.settings.config;
    let who = Who {
        node_id: machine.node_id.clone(),
        role: enrolled.cluster.role,
        roles: vec![machine.role.as_str().to_owned()],
        identity: machine.identity.clone(),
        ceiling: enrolled.cluster.ceiling,
        cluster_id: enrolled.cluster.cluster_id.clone(),
        cluster_name: enrolled.cluster.cluster_name.clone(),
        keys: enrolled.keys.clone(),
        delta: None,
        revoked: enrolled.revoked.clone(),
        servers: enrolled.cluster.servers.clone(),
        websocket_port: machine.websocket_port,
    };
    let ends = Ends { accepted, tls: Arc::clone(&dial), facts, is_watched: false };
    let (handle, running, me) = neighbours::prepare(config, &machine.data, &machine.clock, who, ends).await?;
    tracing::info!(
        code = "agent.started", cluster = enrolled.cluster.cluster_name, node = %machine.node_id,
        "taking part in the cluster"
    );
    let (tasks, stop) = (TaskTracker::new(), machine.stop.clone());
    tasks.spawn(running.run(stop.clone()));
    tasks.spawn(
        Services {
            cluster: handle.clone(),
            configured: config.agent.services.iter().filter_map(|text| services::parse(text)).collect(),
            find_mcp: config.agent.find_mcp && machine.role == NodeRole::Agent,
        }
        .run(stop.clone()),
    );
    if machine.role == NodeRole::Agent && config.agent.metrics {
        match HostSampler::new() {
            Ok(host) => {
                tasks.spawn(
                    Reporter {
                        is_served: handle.is_served.clone(),
                        cluster: handle,
                        clock: Arc::clone(&machine.clock),
                        me,
                        host,
                        interval: Duration::from_secs(config.agent.sample_interval_s),
                    }
                    .run(stop.clone()),
                );
            }
            Err(error) => {
                tracing::error!(code = "agent.unsupported", %error, "this machine cannot be sampled");
            }
        }
    }
    let ways = Ways::open(&machine, &enrolled);
    if machine.role == NodeRole::Agent && config.probe.enabled {
        match &ways {
            Ok(ways) => {
                tasks.spawn(Measuring::new(&machine, &enrolled, ways).run(tasks.clone()));
            }
            Err(error) => tracing::error!(
                code = "agent.no_probe",
                error = format!("{error:#}"),
                "this machine measures nothing"
            ),
        }
    }
    if let (NodeRole::Agent, Ok(ways)) = (machine.role, &ways) {
        machine.work.begin(working::Place {
            config,
            data: &machine.data,
            node_id: &machine.node_id,
            ceiling: enrolled.cluster.ceiling,
            authority_pem: &enrolled.authority_pem,
            server: ways.work(),
            remote: None,
        });
    }
    keep(&machine, enrolled, learnt, dial, ways.ok()).await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Writes down what servers tell, and renews the certificate in time.
async fn keep(
    machine: &Machine,
    mut enrolled: Enrolled,
    mut learnt: mpsc::Receiver<Fact>,
    dial: DialTls,
    ways: Option<Ways>,
) {
    let valid_ms = i64::try_from(tls::NODE_VALID.as_millis()).unwrap_or(i64::MAX);
    let due = |chain_pem: &str| {
        tls::expires_at_ms(chain_pem).map_or(0, |expiry| renew_at_ms(expiry, valid_ms, random::number()))
    };
    let mut due_ms = due(&enrolled.chain_pem);
    loop {
        let wait = Duration::from_millis(u64::try_from(due_ms - machine.clock.now_ms()).unwrap_or(0));
        tokio::select! {
            () = machine.stop.cancelled() => return,
            fact = learnt.recv() => match fact {
                Some(Fact::Told(delta)) => {
                    let servers = enrolled.cluster.servers.clone();
                    write_down(machine, &mut enrolled, &delta);
                    if servers != enrolled.cluster.servers && let Some(ways) = &ways {
                        ways.renew(machine, &enrolled);
                    }
                }
                Some(_) => {}
                None => return,
            },
            () = tokio::time::sleep(wait.min(NAP_MAX)) => {
                if machine.clock.now_ms() < due_ms {
                    continue;
                }
                due_ms = match take_fresh(machine, &mut enrolled, &dial).await {
                    Ok(()) => {
                        if let Some(ways) = &ways {
                            ways.renew(machine, &enrolled);
                        }
                        due(&enrolled.chain_pem).max(machine.clock.now_ms() + RENEW_AGAIN_MS)
                    }
                    Err(error) => {
                        tracing::warn!(
                            code = "agent.not_renewed", error = format!("{error:#}"),
                            "the certificate could not be renewed; trying again"
                        );
                        machine.clock.now_ms() + RENEW_AGAIN_MS
                    }
                };
            }
        }
    }
}

async fn take_fresh(machine: &Machine, enrolled: &mut Enrolled, dial: &DialTls) -> Result<()> {
    enrolled.chain_pem = renew(machine, enrolled).await?;
    *dial.write().expect("no code panics while it holds this lock") = Some(dial_tls(machine, enrolled)?);
    machine.shown.send_replace(listener_tls(machine, enrolled)?);
    tracing::info!(code = "agent.renewed", "this node's certificate was renewed");
    Ok(())
}

/// Asks the servers for a fresh certificate by the key that they know.
async fn renew(machine: &Machine, enrolled: &Enrolled) -> Result<String> {
    let request = JoinRequest {
        csr_pem: machine.key.csr_pem(&machine.node_id)?,
        node_id: machine.node_id.clone(),
        hostname: machine.identity.hostname.clone(),
        role: enrolled.cluster.role,
        ceiling: enrolled.cluster.ceiling,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        admission: Admission::Renewal,
    };
    let authority_sha256 = tls::fingerprint_of_pem(&enrolled.authority_pem)?;
    let answer = enrol::join(&enrolled.cluster.servers, &authority_sha256, &request).await?;
    tls::check_node_chain(&answer.certificate_pem, &enrolled.authority_pem, &machine.key.key_sha256())?;
    enrolled::save_certificate(&machine.data.secrets(), &answer.certificate_pem)?;
    Ok(answer.certificate_pem)
}

fn write_down(machine: &Machine, enrolled: &mut Enrolled, delta: &RosterDelta) {
    let secrets = machine.data.secrets();
    let mut failed = None;
    if !delta.keys.is_empty() && delta.keys != enrolled.keys {
        enrolled.keys.clone_from(&delta.keys);
        failed = enrolled::save_keys(&secrets, &enrolled.keys).err().map(anyhow::Error::from);
    }
    if enrolled::take_up_revoked(&mut enrolled.revoked, &delta.revoked) {
        failed =
            enrolled::save_revoked(&secrets, &enrolled.revoked).err().map(anyhow::Error::from).or(failed);
    }
    if !delta.servers.is_empty() && delta.servers != enrolled.cluster.servers {
        enrolled.cluster.servers.clone_from(&delta.servers);
        failed = enrolled::save_cluster(&secrets, &enrolled.cluster).err().or(failed);
    }
    if let Some(error) = failed {
        tracing::error!(
            code = "agent.not_kept",
            error = format!("{error:#}"),
            "what a server told holds until the next start only"
        );
    }
}

fn dial_tls(machine: &Machine, enrolled: &Enrolled) -> Result<caelum_drivers::link::Tls> {
    neighbours::dial_tls(&enrolled.chain_pem, &machine.key.key_pem(), &enrolled.authority_pem)
}

fn listener_tls(machine: &Machine, enrolled: &Enrolled) -> Result<Tls> {
    let key_pem = machine.key.key_pem();
    let public = tls::server_config(&enrolled.chain_pem, &key_pem)?;
    let link = tls::link_server_config(&enrolled.chain_pem, &key_pem, &enrolled.authority_pem)?;
    // Revocations are the loop's: it drops the link of a node that it knows to be shut out.
    let admits = Arc::new(|_: &NodePass| true);
    Ok(Tls { link: Some(Arc::new(link)), join: None, admits, ..Tls::public(public) })
}
