//! `caelum ingest`, `caelum aggregator` and `caelum diagnoser`: one part of the pipeline in a process of its
//! own.
//!
//! The first two need records and an event stream that several processes can share, the third the records
//! alone. Each answers `/health` and
//! `/metrics` on an address of its own; `ingest` takes events on the usual port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::{clock, host, ports, random, tls};
use caelum_model::config::{Config, Plaintext};
use caelum_roles::{
    aggregator::Progress,
    bus::Bus,
    diagnoser::{self, Diagnoser},
    ingest::Ingest,
    keeper::Keeper,
    memory,
};
use caelum_web::{
    alone::{self, Alone},
    events::{self, Gate},
    serve,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    backends::{self, Backends},
    pipeline::{aggregator_of, ingest_of, keeper_of, limits_of},
    telemetry::Telemetry,
    up,
};
use crate::{
    config::Settings,
    data::DataDirectory,
    exit::{Exit, Unreachable},
    output,
};

/// Time for requests under way to end when told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// Time for all parts to end.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Takes events in.
    Ingest,
    /// Counts them.
    Aggregator,
    /// Judges what was counted.
    Diagnoser,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Aggregator => "aggregator",
            Self::Diagnoser => "diagnoser",
        }
    }
}

/// Runs one part until told to stop.
pub(super) fn run(settings: Settings, data: DataDirectory, part: Part) -> Result<Exit> {
    data.make()?;
    let _lock = up::lock(&data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("caelum")
        .build()
        .context("start the async runtime")?;
    let ended = runtime.block_on(serve_part(settings, data, part));
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

async fn serve_part(settings: Settings, data: DataDirectory, part: Part) -> Result<Exit> {
    let config = &settings.config;
    if part == Part::Diagnoser && config.server.store.is_none() {
        bail!(
            "caelum diagnoser judges records that others write: name them with --store \
             postgres://USER@HOST/DATABASE (one machine alone needs only `caelum up`)"
        );
    }
    if part != Part::Diagnoser && (config.server.store.is_none() || config.server.queue.is_none()) {
        bail!(
            "caelum {} stands on records and an event stream that it shares with others: name them with \
             --store postgres://USER@HOST/DATABASE --queue nats://HOST:4222 (one machine alone needs only \
             `caelum up`)",
            part.name()
        );
    }
    let clock = clock::of_this_process(std::env::var(clock::FAST_CLOCK).ok().as_deref());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut told = Vec::new();
    // Ports first: who cannot have them need not wait for a database.
    let listeners = match part {
        Part::Ingest => up::listen::listen(&settings)?,
        Part::Aggregator | Part::Diagnoser => Vec::new(),
    };
    let metrics_listeners = listen_for_metrics(match part {
        Part::Ingest => &config.ingest.metrics_listen,
        Part::Aggregator => &config.aggregator.metrics_listen,
        Part::Diagnoser => &config.diagnoser.metrics_listen,
    })?;
    let tls = match part {
        Part::Ingest => Some(tls_of(config, &listeners)?),
        Part::Aggregator | Part::Diagnoser => None,
    };
    let backends = match part {
        Part::Ingest | Part::Aggregator => Some(backends::open(&settings, &data).await?),
        Part::Diagnoser => None,
    };
    let store = match &backends {
        Some(backends) => Arc::clone(&backends.store),
        None => Arc::new(backends::open_store(&backends::store_address(&settings, &data)?).await?),
    };
    let instance = config.agent.name.clone().unwrap_or_else(host::hostname);
    let telemetry = Telemetry::start(&config.telemetry, part.name(), &instance)?;
    let mut alone = Alone {
        role: part.name(),
        store: Arc::clone(&store),
        queue: backends.as_ref().map(|backends| Arc::clone(&backends.queue)),
        ingest: None,
        aggregator: None,
        diagnoser: None,
        tracer: telemetry.tracer.clone(),
    };
    match (part, &backends) {
        (Part::Ingest, Some(Backends { queue, .. })) => {
            let ingest: Arc<Ingest> = ingest_of(config, &store, queue, &clock, &telemetry.tracer);
            let gate =
                Gate::new(Arc::clone(&ingest), Arc::clone(&store), Arc::clone(&clock), limits_of(config));
            alone.ingest = Some(ingest);
            let app = caelum_web::only_events(events::router(gate));
            let (tls, allow_plaintext) = tls.context("an ingest has a listener")?;
            let shown = watch::Sender::new(tls);
            for listener in listeners {
                told.push(format!("events   {}", listener.local_addr().context("read an address")?));
                tasks.spawn(serve::run(
                    listener,
                    shown.subscribe(),
                    app.clone(),
                    allow_plaintext,
                    stop.clone(),
                    DRAIN_MAX,
                ));
            }
        }
        (Part::Aggregator, Some(backends)) => {
            let progress = Arc::new(Progress::new(host::hostname()));
            alone.aggregator = Some(Arc::clone(&progress));
            let owner = owner(config, &data, part)?;
            let (bus, tracer) = (Bus::default(), &telemetry.tracer);
            let aggregator =
                aggregator_of(config, backends, &bus, &clock, &owner, Arc::clone(&progress), tracer);
            tasks.spawn(aggregator.run(stop.clone()));
            let keeper: Keeper = keeper_of(config, &store, &clock);
            tasks.spawn(keeper.run(stop.clone()));
        }
        (Part::Diagnoser | Part::Ingest | Part::Aggregator, _) => {
            let progress = Arc::<diagnoser::progress::Progress>::default();
            alone.diagnoser = Some(Arc::clone(&progress));
            let diagnoser = Diagnoser {
                store: Arc::clone(&store),
                bus: Bus::default(),
                clock: Arc::clone(&clock),
                owner: Some(owner(config, &data, part)?),
                progress,
            };
            tasks.spawn(diagnoser.run(stop.clone()));
        }
    }
    tasks.spawn(memory::run(stop.clone()));
    let app = alone::router(Arc::new(alone));
    let mut metrics = Vec::new();
    for listener in metrics_listeners {
        metrics.push(listener.local_addr().context("read an address")?);
        told.push(format!("metrics  http://{}/metrics", metrics[metrics.len() - 1]));
        let none = watch::Sender::new(serve::Tls::none());
        tasks.spawn(serve::run(listener, none.subscribe(), app.clone(), true, stop.clone(), DRAIN_MAX));
    }
    output::print(&format!(
        "Caelum {} {} runs.\n\n  {}\n\n",
        env!("CARGO_PKG_VERSION"),
        part.name(),
        told.join("\n  ")
    ))?;
    write_ready(&data, part, &told, &metrics)?;
    up::wait_for_signal().await?;
    tracing::info!(code = "lone.stopping", part = part.name(), "stopping: what is in hand is finished first");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_MAX, tasks.wait()).await.is_err() {
        tracing::warn!(code = "lone.stop_cut", "not everything ended in time; what was acknowledged is safe");
    }
    telemetry.close().await;
    if let Err(error) = std::fs::remove_file(data.ready_file()) {
        tracing::debug!(code = "lone.ready_file_stays", %error, "the ready file could not be removed");
    }
    match backends {
        Some(backends) => backends.close(),
        None => store.close(),
    }
    Ok(Exit::Fine)
}

pub(super) fn listen_for_metrics(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let bound = addresses.iter().map(|address| {
        ports::bind(*address).map_err(|error| {
            Unreachable(format!("{error}: choose another address for the metrics, or port 0")).into()
        })
    });
    bound.collect()
}

/// TLS with the certificate of the settings. Without one, events are taken in plain text where that was
/// allowed or nobody else can reach it: a load balancer in front speaks TLS then.
fn tls_of(config: &Config, listeners: &[TcpListener]) -> Result<(serve::Tls, bool)> {
    if let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) {
        let read = |path: &String| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
        let server = tls::server_config(&read(certificate)?, &read(key)?)?;
        return Ok((serve::Tls::public(server), config.tls.plaintext == Plaintext::Allow));
    }
    let is_private = listeners
        .iter()
        .all(|listener| listener.local_addr().is_ok_and(|address| address.ip().is_loopback()));
    if !is_private && config.tls.plaintext != Plaintext::Allow {
        bail!(
            "events would be taken in plain text from other machines: name a certificate with tls.certificate \
             and tls.key, or, behind a proxy that speaks TLS, say --tls-plaintext allow or listen on \
             127.0.0.1 only"
        );
    }
    Ok((serve::Tls::none(), true))
}

/// The name that this part keeps over restarts: it takes its own work up again without a wait.
fn owner(config: &Config, data: &DataDirectory, part: Part) -> Result<String> {
    let path = data.root().join(format!("{}.name", part.name()));
    let kept = match std::fs::read_to_string(&path) {
        Ok(kept) if !kept.trim().is_empty() => kept.trim().to_owned(),
        _ => {
            let made = random::secret(8);
            tls::write_secret(&path, made.as_bytes()).with_context(|| format!("write {}", path.display()))?;
            made
        }
    };
    let name = config.agent.name.clone().unwrap_or_else(host::hostname);
    Ok(format!("{name}-{kept}"))
}

fn write_ready(data: &DataDirectory, part: Part, told: &[String], metrics: &[SocketAddr]) -> Result<()> {
    let events: Vec<&str> = told.iter().filter_map(|line| line.strip_prefix("events   ")).collect();
    let ready = serde_json::json!({
        "role": part.name(),
        "urls": events.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>(),
        "servers": events,
        "metrics": metrics.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>(),
        "pid": std::process::id(),
    });
    let path = data.ready_file();
    tls::write_secret(&path, ready.to_string().as_bytes())
        .with_context(|| format!("write {}", path.display()))
}
