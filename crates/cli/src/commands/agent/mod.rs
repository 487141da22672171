//! `caelum agent` and `caelum beacon`: a machine that is found, seen and, as an agent, measured.
//!
//! Until it is a node it shows a code and waits to be adopted, unless it was given a join token. As a node it
//! links to servers and neighbours, reports its metrics, and keeps them while no server is there.

pub(super) mod invited;
mod measuring;
mod node;
mod waiting;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::{
    clock::{self, Clock},
    host::{self, HostSampler},
    link::Link,
    tls::{self, NodeKey},
};
use caelum_model::{cluster::NodeRole, config::Config, host::HostIdentity, id::NodeId};
use caelum_roles::{enrol::Newcomer, memory};
use caelum_web::{
    agent,
    cluster::Door,
    serve::{self, Tls},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    join,
    up::{self, listen},
    working::Shift,
};
use crate::{
    config::Settings,
    data::DataDirectory,
    enrolled::{self, Enrolled},
    exit::Exit,
    output,
};

/// Time for requests under way to end when told to stop.
const DRAIN_MAX: Duration = Duration::from_millis(500);
/// Time for all parts to end.
const STOP_MAX: Duration = Duration::from_millis(2_000);
/// Links that may wait for the loop.
const LINKS_WAITING_MAX: usize = 256;
/// How long the certificate lasts that is shown before there is a real one.
const SELF_SIGNED_VALID: Duration = Duration::from_secs(397 * 86_400);

/// How a machine was invited, if it was.
#[derive(Debug, Default)]
pub struct Invited {
    /// By this token, before anything else.
    pub token: Option<String>,
    /// By the token in this file, as soon as a server can be reached.
    pub file: Option<PathBuf>,
}

/// What both states of the machine stand on.
struct Machine {
    settings: Settings,
    data: DataDirectory,
    clock: Arc<dyn Clock>,
    node_id: NodeId,
    key: NodeKey,
    role: NodeRole,
    identity: HostIdentity,
    websocket_port: u16,
    /// The file with its invitation.
    join_file: Option<PathBuf>,
    /// What the listener shows.
    shown: watch::Sender<Tls>,
    /// Ends the worker, before everything else.
    work: Shift,
    stop: CancellationToken,
}

/// Runs until told to stop.
pub fn run(settings: Settings, data: DataDirectory, role: NodeRole, invited: Invited) -> Result<Exit> {
    data.make()?;
    if data.secrets().join("ca.key").exists() || enrolled::master_key(&data.secrets())?.is_some() {
        bail!(
            "{} belongs to a server: `caelum up` or `caelum server` runs it, or name another directory \
             with --data",
            data.root().display()
        );
    }
    let _lock = up::lock(&data)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        if let Some(token) = invited.token {
            admit(&data, &settings, role, &token).await?;
        }
        serve_until_stopped(settings, data, role, invited.file).await
    })
}

/// Joins by a token, unless this machine is a node of that cluster already.
async fn admit(data: &DataDirectory, settings: &Settings, role: NodeRole, token: &str) -> Result<()> {
    let invitation = caelum_roles::enrol::invitation::parse(&join::opened(token.to_owned())?)?;
    if let Some(kept) = Enrolled::load(&data.secrets())?
        && kept.cluster.cluster_id == invitation.cluster_id
    {
        return Ok(());
    }
    join::join(data, invitation, role, settings.config.agent.ceiling).await?;
    Ok(())
}

async fn serve_until_stopped(
    settings: Settings,
    data: DataDirectory,
    role: NodeRole,
    join_file: Option<PathBuf>,
) -> Result<Exit> {
    let clock = clock::of_this_process(std::env::var(clock::FAST_CLOCK).ok().as_deref());
    let listeners = listen::listen(&settings)?;
    let addresses = listeners
        .iter()
        .map(|listener| listener.local_addr().context("read the address that is listened on"))
        .collect::<Result<Vec<_>>>()?;
    let own = up::own_address(&addresses)?;
    let secrets = data.secrets();
    let (node_id, key) = (enrolled::own_id(&secrets)?, enrolled::own_key(&secrets)?);
    let self_signed = key.self_signed_pem(&node_id, SELF_SIGNED_VALID)?;
    let shown = watch::Sender::new(Tls::public(tls::server_config(&self_signed, &key.key_pem())?));
    let (newcomer, adoptions) = Newcomer::new(key.key_sha256(), Arc::clone(&clock));
    let (links, accepted) = mpsc::channel::<Link>(LINKS_WAITING_MAX);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let app = agent::router(
        node_id.clone(),
        role.as_str(),
        Door::new(links, settings.config.cluster.open),
        Arc::clone(&newcomer),
    );
    for listener in listeners {
        tasks.spawn(serve::run(
            listener,
            shown.subscribe(),
            app.clone(),
            settings.config.tls.plaintext == caelum_model::config::Plaintext::Allow,
            stop.clone(),
            DRAIN_MAX,
        ));
    }
    tasks.spawn(memory::run(stop.clone()));
    announce(&data, &node_id, role, own)?;
    let work = Shift::new(&settings.config);
    let machine = Machine {
        identity: identity(role, &settings.config),
        settings,
        data: data.clone(),
        clock,
        node_id,
        key,
        role,
        websocket_port: own.port(),
        join_file,
        shown,
        work: work.clone(),
        stop: stop.clone(),
    };
    let mut living = tokio::spawn(live(machine, newcomer, adoptions, accepted));
    let ended = tokio::select! {
        signalled = up::wait_for_signal() => signalled,
        ended = &mut living => ended.context("the machine's main task failed").and_then(|ended| ended),
    };
    work.end().await;
    tracing::info!(code = "agent.stopping", "stopping: saying goodbye");
    stop.cancel();
    tasks.close();
    let all_ended = async {
        if !living.is_finished() {
            // What it ended with is told below only where it ended by itself.
            drop((&mut living).await);
        }
        tasks.wait().await;
    };
    if tokio::time::timeout(STOP_MAX, all_ended).await.is_err() {
        tracing::warn!(code = "agent.stop_cut", "some parts did not end in time");
    }
    // A file that stays behind would name a process that is gone.
    if let Err(error) = fs::remove_file(data.ready_file()) {
        tracing::debug!(code = "agent.ready_file_stays", %error, "the ready file could not be removed");
    }
    ended.map(|()| Exit::Fine)
}

/// Waits to be adopted, if need be, and is a node from then on.
async fn live(
    machine: Machine,
    newcomer: Arc<Newcomer>,
    adoptions: mpsc::Receiver<caelum_roles::enrol::Adoption>,
    accepted: mpsc::Receiver<Link>,
) -> Result<()> {
    let enrolled = match Enrolled::load(&machine.data.secrets())? {
        Some(enrolled) => {
            if let Some(file) = &machine.join_file {
                invited::remove(file);
            }
            enrolled
        }
        None => match Box::pin(waiting::wait(&machine, newcomer, adoptions)).await? {
            Some(enrolled) => enrolled,
            None => return Ok(()),
        },
    };
    Box::pin(node::run(machine, enrolled, accepted)).await
}

/// A beacon reads nothing of its host but the name: it stays small.
fn identity(role: NodeRole, config: &Config) -> HostIdentity {
    let name_only = || HostIdentity { hostname: host::hostname(), ..HostIdentity::default() };
    if role == NodeRole::Beacon {
        return name_only();
    }
    let identity = HostSampler::new().map_or_else(|_| name_only(), |host| host.identity());
    HostIdentity { ssh_host_keys: up::ssh::own_keys(config), ..identity }
}

fn announce(data: &DataDirectory, node_id: &NodeId, role: NodeRole, own: std::net::SocketAddr) -> Result<()> {
    output::print(&format!(
        "Caelum {} is up as {} {node_id}.\n\n  {:<11} {own}\n  {:<11} {}\n\n  Ctrl-C stops.\n\n",
        env!("CARGO_PKG_VERSION"),
        role.as_str(),
        "Links",
        "Data",
        data.root().display(),
    ))?;
    let ready = serde_json::json!({
        "urls": [format!("https://{own}")], "pid": std::process::id(), "role": role, "node_id": node_id,
    });
    let path = data.ready_file();
    tls::write_secret(&path, ready.to_string().as_bytes())
        .with_context(|| format!("write {}", path.display()))
}
