//! `caelum up`: every part in one process, on one machine.
//!
//! A checklist: directory, ports, identity, store and queue, roles, listeners, and the same backwards at the
//! end. What the first start makes is in [`identity`]; what is measured without being asked for in
//! [`targets`].

mod cluster;
mod fleet;
mod identity;
pub(super) mod listen;
mod mailboxes;
mod packages;
pub(super) mod shared;
pub(super) mod ssh;
pub(super) mod targets;
mod trust;

use std::{
    fs::{self, File, TryLockError},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use caelum_drivers::{
    clock::{self, Clock},
    host::{self, HostSampler},
    netinfo,
    notify::Notifier,
    poster::EventPoster,
    probe::Prober,
    random,
    spool::{Limits, Spool},
    supervisor, tls,
    traces::Tracer,
    worker::Remote,
};
use caelum_model::{
    cluster::NodeRole,
    config::{Config, Plaintext},
    host::HostIdentity,
    id::ClientId,
    node::LinkFacts,
    target::Target,
};
use caelum_roles::{
    aggregator::Progress,
    alerts::Alerts,
    bus::Bus,
    diagnoser::Diagnoser,
    memory,
    notices::Notices,
    orders::{Asker, Orders},
    probe::Probe,
    sampler::Sampler,
    tasks::{self as task_roles, Desk, Scheduler},
};
use caelum_store::Store;
use caelum_web::{State, cluster::Door, events::Gate, serve, state};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::identity::Identity;
use crate::{
    commands::{
        backends, backup, neighbours,
        pipeline::{aggregator_of, ingest_of, keeper_of, limits_of},
        probing,
        telemetry::Telemetry,
        working::{self, Shift},
    },
    config::{Origin, Settings, keys},
    data::DataDirectory,
    enrolled,
    exit::{Exit, Unreachable},
    output,
};

/// Time for requests under way to end when told to stop.
const DRAIN_MAX: Duration = Duration::from_millis(1500);
/// Time for all parts to end; past it the process ends all the same, and what was acknowledged is safe.
const STOP_MAX: Duration = Duration::from_millis(4500);

/// Starts everything, serves until told to stop, and drains.
pub fn run(settings: Settings, data: DataDirectory) -> Result<Exit> {
    data.make()?;
    let _lock = lock(&data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("caelum")
        .build()
        .context("start the async runtime")?;
    let ended = runtime.block_on(up(settings, data));
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

/// One process a data directory: two would take each other's partitions.
pub(super) fn lock(data: &DataDirectory) -> Result<File> {
    let path = data.root().join("run/lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Unreachable(format!(
            "another Caelum already uses {}: stop it first, or name another directory with --data DIR",
            data.root().display()
        ))
        .into()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

async fn up(settings: Settings, data: DataDirectory) -> Result<Exit> {
    let mut config = settings.config.clone();
    let listeners = listen::listen(&settings)?;
    let clock = clock::of_this_process(std::env::var(clock::FAST_CLOCK).ok().as_deref());
    let backends = backends::open(&settings, &data).await?;
    let (store, queue) = (Arc::clone(&backends.store), Arc::clone(&backends.queue));
    if settings.origins[keys::position("cluster.name")] == Origin::Default
        && let Some(kept) = store.fact("cluster_name").await?
    {
        // A server that joined says nothing about the name; the first one did.
        config.cluster.name = kept;
    }
    let identity = Arc::new(Identity::establish(&config, &data, &store, clock.now_ms()).await?);
    if backends.is_shared {
        enrolled::save_places(&data.secrets(), &backends.places.granted(String::new()))?;
    }
    let addresses = listeners
        .iter()
        .map(|listener| listener.local_addr().context("read the address that is listened on"))
        .collect::<Result<Vec<SocketAddr>>>()?;
    let servers = trust::servers(&addresses);
    let registrar =
        trust::registrar(&identity, &config.cluster, &data, &backends, &clock, servers.clone()).await?;
    let bus = Bus::default();
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();

    let telemetry = Telemetry::start(&config.telemetry, "up", identity.node_id.as_str())?;
    let ingest = ingest_of(&config, &store, &queue, &clock, &telemetry.tracer);
    let gate = Gate::new(ingest, Arc::clone(&store), Arc::clone(&clock), limits_of(&config));
    let progress = Arc::new(Progress::new(host::hostname()));
    let judging = Arc::default();
    let thresholds = store.thresholds().await?.unwrap_or(config.health);
    let own = own_address(&addresses)?;
    let (cluster, links, dial) = cluster::start(
        cluster::Parts {
            config: &config,
            data: &data,
            identity: &identity,
            store: &store,
            bus: &bus,
            clock: &clock,
            registrar: &registrar,
            roles: roles_of(&config),
            host: host_identity(&config),
            websocket_port: own.port(),
        },
        &tasks,
        &stop,
    )
    .await?;
    let ends = fleet::Ends {
        settings: &settings,
        config: &config,
        identity: &identity,
        backends: &backends,
        registrar: &registrar,
        cluster: &cluster,
        bus: &bus,
        clock: &clock,
        roles: roles_of(&config),
        servers: servers.clone(),
    };
    let fleet = fleet::start(ends, &tasks, &stop)?;
    let mailboxes = mailboxes::start(&identity, &backends, &registrar, &bus, &clock, &tasks, &stop).await?;
    let orders = Arc::new(Orders::new(Arc::clone(&store), bus.clone(), Arc::clone(&clock)));
    let desk = Desk::new(task_roles::Parts {
        store: Arc::clone(&store),
        bus: bus.clone(),
        clock: Arc::clone(&clock),
        server: identity.node_id.to_string(),
        roster: cluster.roster.clone(),
        thresholds: config.health,
    });
    let ssh = match ssh::start(&config, &data, &store, &clock, &cluster, &stop)? {
        Some((ssh, running)) => {
            tasks.spawn(running);
            Some(ssh)
        }
        None => None,
    };
    let backups = backup::of_server(&settings, &data, &store, &clock, identity.node_id.as_str())?;
    let state = State::new(state::Parts {
        store: Arc::clone(&store),
        queue: Arc::clone(&queue),
        gate,
        orders: Arc::clone(&orders),
        desk: Arc::clone(&desk),
        ssh: ssh.clone(),
        aggregator: Some(Arc::clone(&progress)),
        diagnoser: Some(Arc::clone(&judging)),
        bus: bus.clone(),
        clock: Arc::clone(&clock),
        node_id: identity.node_id.clone(),
        cluster_name: config.cluster.name.clone(),
        certificate_fingerprint: identity.fingerprint.clone(),
        settings: state::Settings {
            minute_days: config.aggregator.rollup_days,
            session_ttl_s: config.sessions.ttl_s,
            allow_plaintext: config.tls.plaintext == Plaintext::Allow,
        },
        stop: stop.clone(),
        trust: Some(state::Trust {
            registrar: Arc::clone(&registrar),
            find_machine: cluster::find_machine(&cluster),
        }),
        packages: Some(packages::builder(packages::Ends {
            settings: &settings,
            data: &data,
            store: &store,
            registrar: &registrar,
            clock: &clock,
            bus: &bus,
            mailboxes,
            cluster_id: &identity.cluster_id,
        })?),
        cluster_id: identity.cluster_id.clone(),
        cluster,
        fleet,
        is_discovering: config.beacon.enabled,
        sweep: neighbours::sweep(&config.cluster.sweep),
        backups: Some(Arc::clone(&backups)),
        secrets: Arc::clone(&identity.secrets),
        thresholds,
    });

    if backends.is_shared {
        tasks.spawn(fleet::follow(Arc::clone(&state), bus.clone(), config.health, stop.clone()));
    }

    let owner = identity.node_id.as_str();
    let aggregator = aggregator_of(&config, &backends, &bus, &clock, owner, progress, &telemetry.tracer);
    tasks.spawn(aggregator.run(stop.clone()));
    tasks.spawn(
        Diagnoser {
            store: Arc::clone(&store),
            bus: bus.clone(),
            clock: Arc::clone(&clock),
            owner: backends.is_shared.then(|| owner.to_owned()),
            progress: judging,
        }
        .run(stop.clone()),
    );
    let alerts = Alerts {
        store: Arc::clone(&store),
        bus: bus.clone(),
        clock: Arc::clone(&clock),
        cluster: state.cluster.clone(),
        owner: backends.is_shared.then(|| owner.to_owned()),
        thresholds: config.health,
    };
    tasks.spawn(alerts.run(stop.clone()));
    let notices = Notices {
        store: Arc::clone(&store),
        bus: bus.clone(),
        clock: Arc::clone(&clock),
        owner: owner.to_owned(),
        notifier: Notifier::new(&config.cluster.name, "")?,
        secrets: Arc::clone(&identity.secrets),
    };
    tasks.spawn(notices.run(stop.clone()));
    tasks.spawn(sampler_of(&config, &identity, &store, &bus, &clock).run(stop.clone()));
    tasks.spawn(keeper_of(&config, &store, &clock).run(stop.clone()));
    tasks.spawn(backups.run(stop.clone()));
    tasks.spawn(Arc::clone(&desk).run(stop.clone()));
    let scheduler =
        Scheduler { store: Arc::clone(&store), bus: bus.clone(), clock: Arc::clone(&clock), desk };
    tasks.spawn(scheduler.run(stop.clone()));

    targets::establish(&config, &store, own, &identity.probe_client_id, clock.now_ms()).await?;
    if config.probe.enabled {
        let followed = probing::follow(
            probing::Source::Own(Arc::clone(&orders), own_asker(&identity)),
            probing::Reflecting::new(&config.probe, own_ip(own), true),
            Vec::new(),
            &tasks,
            &stop,
        );
        if let Some((_, targets)) = followed.await {
            let probe = probe_of(&config, &data, &identity, own, targets, &clock, &telemetry.tracer)?;
            tasks.spawn(probe.run(stop.clone()));
        }
    }
    let shown = watch::Sender::new(trust::listener_tls(&identity, &identity.node_chain_pem, &registrar)?);
    let door = Door::new(links, config.cluster.open);
    let app = caelum_web::app(Arc::clone(&state)).merge(caelum_web::cluster::router(door));
    for listener in listeners {
        tasks.spawn(serve::run(
            listener,
            shown.subscribe(),
            app.clone(),
            state.settings.allow_plaintext,
            stop.clone(),
            DRAIN_MAX,
        ));
    }

    // The server's own node gets its tasks the way every other does.
    let work = watch::Sender::new(trust::own_work(&identity, &identity.node_chain_pem, own)?);
    let shift = Shift::new(&config);
    shift.begin(working::Place {
        config: &config,
        data: &data,
        node_id: &identity.node_id,
        ceiling: config.agent.ceiling,
        authority_pem: &identity.authority_pem,
        server: work.subscribe(),
        remote: ssh.map(|ssh| ssh as Arc<dyn Remote>),
    });

    tasks.spawn(trust::renew(
        Arc::clone(&identity),
        data.clone(),
        registrar,
        Arc::clone(&clock),
        trust::Shown { tls: shown, dial, work, own },
        stop.clone(),
    ));

    tasks.spawn(memory::run(stop.clone()));
    announce(&identity, &data, &addresses, own, &servers)?;
    wait_for_signal().await?;
    shift.end().await;
    tracing::info!(code = "up.stopping", "stopping: requests under way may end");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_MAX, tasks.wait()).await.is_err() {
        tracing::warn!(code = "up.stop_cut", "some parts did not end in time; what was acknowledged is safe");
    }
    telemetry.close().await;
    // A file that stays behind would name a process that is gone.
    if let Err(error) = fs::remove_file(data.ready_file()) {
        tracing::debug!(code = "up.ready_file_stays", %error, "the ready file could not be removed");
    }
    backends.close();
    tracing::info!(code = "up.stopped", "stopped");
    Ok(Exit::Fine)
}

/// Everything that this process runs.
fn roles_of(config: &Config) -> Vec<String> {
    let mut roles: Vec<String> =
        ["server", "agent", "ingest", "aggregator", "diagnoser"].map(str::to_owned).into();
    if config.probe.enabled {
        roles.push("probe".to_owned());
    }
    roles
}

/// What is known of this host; its name at least.
fn host_identity(config: &Config) -> HostIdentity {
    let identity = match HostSampler::new() {
        Ok(host) => host.identity(),
        Err(_) => HostIdentity { hostname: host::hostname(), ..HostIdentity::default() },
    };
    HostIdentity { ssh_host_keys: ssh::own_keys(config), ..identity }
}

fn sampler_of(
    config: &Config,
    identity: &Identity,
    store: &Arc<Store>,
    bus: &Bus,
    clock: &Arc<dyn Clock>,
) -> Sampler {
    Sampler {
        store: Arc::clone(store),
        bus: bus.clone(),
        clock: Arc::clone(clock),
        node_id: identity.node_id.clone(),
        name: identity.node_name.clone(),
        roles: roles_of(config),
        links: LinkFacts {
            role: Some(NodeRole::Server),
            ceiling: config.agent.ceiling,
            capabilities: ssh::capabilities(config),
            ..LinkFacts::default()
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ssh_host_keys: ssh::own_keys(config),
        interval: Duration::from_secs(config.agent.sample_interval_s),
    }
}

/// An address under which this process reaches itself.
pub(super) fn own_address(addresses: &[SocketAddr]) -> Result<SocketAddr> {
    let first = addresses.first().context("nothing is listened on")?;
    let own = addresses.iter().find(|address| address.is_ipv4()).unwrap_or(first);
    let ip = match own {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    Ok(SocketAddr::new(ip, own.port()))
}

/// This server as one that asks itself.
fn own_asker(identity: &Identity) -> Asker {
    Asker {
        node_id: identity.node_id.clone(),
        hostname: identity.node_name.clone(),
        client_id: Some(identity.probe_client_id.clone()),
        addresses: netinfo::addresses(),
        reflector: None,
    }
}

/// An address by which others reach this machine, where it listens to others at all.
fn own_ip(own: SocketAddr) -> IpAddr {
    let addresses = netinfo::addresses();
    let first = addresses.iter().find(|ip| ip.is_ipv4()).or(addresses.first());
    first.copied().unwrap_or_else(|| own.ip())
}

fn probe_of(
    config: &Config,
    data: &DataDirectory,
    identity: &Identity,
    own: SocketAddr,
    targets: watch::Receiver<Arc<Vec<Target>>>,
    clock: &Arc<dyn Clock>,
    tracer: &Tracer,
) -> Result<Probe> {
    let limits = Limits { max_bytes: config.probe.spool_max_mb << 20, ..Limits::default() };
    let spool = Spool::open(&data.spool(), limits, random::epoch)?;
    let url = config.probe.ingest_url.clone().unwrap_or_else(|| format!("https://{own}/events"));
    let prober = Prober::new(tls::root_store(&identity.authority_pem)?)?;
    let client_id = identity.probe_client_id.clone();
    Ok(Probe {
        client_id: ClientId::parse(client_id.as_str()).context("name the probe")?,
        prober: Arc::new(prober),
        targets,
        spool,
        poster: watch::Sender::new(EventPoster::new(&url, &identity.probe_token, &identity.authority_pem)?)
            .subscribe(),
        clock: Arc::clone(clock),
        network: || (netinfo::interface_type(), netinfo::vpn_enabled()),
        backoff_max: Duration::from_secs(60),
        tracer: tracer.clone(),
        counters: Arc::default(),
    })
}

/// Says where Caelum is and, at the first start, how to sign in; tells programs by the ready file.
fn announce(
    identity: &Identity,
    data: &DataDirectory,
    addresses: &[SocketAddr],
    own: SocketAddr,
    servers: &[String],
) -> Result<()> {
    let mut urls = vec![format!("https://{}:{}", "localhost", own.port())];
    if own.ip().is_loopback() {
        urls.push(format!("https://{own}"));
    }
    let is_everywhere = addresses.iter().any(|address| address.ip().is_unspecified());
    if is_everywhere {
        urls.extend(
            netinfo::addresses()
                .into_iter()
                .filter(|ip| ip.is_ipv4())
                .map(|ip| format!("https://{ip}:{}", own.port())),
        );
    } else {
        urls = addresses.iter().map(|address| format!("https://{address}")).collect();
    }
    let mut text = format!("Caelum {} is up.\n\n", env!("CARGO_PKG_VERSION"));
    for (index, url) in urls.iter().enumerate() {
        text.push_str(&format!("  {:<11} {url}\n", if index == 0 { "Dashboard" } else { "" }));
    }
    if let Some(password) = &identity.new_password {
        text.push_str(&format!(
            "  {:<11} {}\n  {:<11} {password}\n\n  The password is shown this once. `caelum user password` sets another.\n",
            "User", identity.admin_name, "Password"
        ));
    }
    text.push_str(&format!(
        "  {:<11} {}\n  {:<11} {}\n\n  The certificate is Caelum's own, so a browser asks once: compare its SHA-256 with the line above.\n  Ctrl-C stops.\n\n",
        "Data",
        data.root().display(),
        "Certificate",
        with_colons(&identity.fingerprint)
    ));
    output::print(&text)?;
    tracing::info!(code = "up.started", urls = urls.join(" "), "listening");
    let own_urls: Vec<String> = std::iter::once(format!("https://{own}")).chain(urls).collect();
    let ready = serde_json::json!({ "urls": own_urls, "servers": servers, "pid": std::process::id() });
    let path = data.ready_file();
    tls::write_secret(&path, ready.to_string().as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

/// A fingerprint as browsers and the sign-in page show it.
fn with_colons(hex: &str) -> String {
    let pairs: Vec<&str> =
        hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok()).collect();
    pairs.join(":")
}

/// Tells the supervisor that this process runs, keeps telling it, and waits to be told to stop.
pub(super) async fn wait_for_signal() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    supervisor::ready();
    // Without a watchdog, a tick of no consequence now and then.
    let every = supervisor::alive_every().unwrap_or(Duration::from_secs(3_600));
    let mut watched = tokio::time::interval(every);
    watched.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = watched.tick() => supervisor::alive(),
        }
    }
    supervisor::stopping();
    tokio::spawn(async move {
        // Whoever asks twice does not want to wait.
        interrupt.recv().await;
        std::process::exit(Exit::Failed as i32);
    });
    Ok(())
}
