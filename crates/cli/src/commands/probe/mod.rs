//! `caelum probe`: measures targets and posts what it saw to a server elsewhere, without being a node.
//!
//! All it needs is an address, a token and targets. What cannot be posted waits on disk. It listens nowhere
//! unless `probe.metrics_listen` says so. [`once`] measures now and shows it.

mod once;
mod view;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::{
    clock::{Clock, SystemClock},
    host, netinfo,
    poster::EventPoster,
    probe::Prober,
    random,
    spool::{Limits, Spool},
    tls,
};
use caelum_engine::hash::fnv1a;
use caelum_model::{
    config::{Config, ProbeTarget},
    id::{ClientId, TargetId},
    target::{Target, TargetOrigin},
};
use caelum_roles::{memory, probe::Probe};
use caelum_web::{alone, serve};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use once::run as run_once;

use super::{
    lone,
    telemetry::Telemetry,
    up::{self, targets::as_configured},
};
use crate::{arguments, config::Settings, data::DataDirectory, exit::Exit, output};

/// Time for all parts to end.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How long a thread for work on files stays after it.
const IDLE_THREAD_MAX: Duration = Duration::from_secs(2);
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Longest wait between tries to send.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Runs the probe until told to stop.
pub(super) fn run(settings: Settings, data: DataDirectory, asked: arguments::Probe) -> Result<Exit> {
    let plan = Plan::of(&settings.config, asked)?;
    data.make()?;
    let _lock = up::lock(&data)?;
    // One thread: measurements wait most of the time, and to wake another costs more than what it would do.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(IDLE_THREAD_MAX)
        .build()
        .context("start the async runtime")?;
    let ended = runtime.block_on(measure(&settings.config, &data, plan));
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

/// What is measured and where it goes.
#[derive(Debug)]
struct Plan {
    client_id: ClientId,
    ingest_url: String,
    token: String,
    authorities_pem: String,
    targets: Vec<Target>,
}

impl Plan {
    fn of(config: &Config, asked: arguments::Probe) -> Result<Self> {
        let server = asked.server.map(|server| format!("{}/events", server.trim_end_matches('/')));
        let Some(ingest_url) = server.or_else(|| config.probe.ingest_url.clone()) else {
            bail!(
                "there is nowhere to post to: name the server with --server https://HOST:8080 or \
                 probe.ingest_url (`caelum probe once URL` measures without one)"
            );
        };
        let Some(token) = asked.token else {
            bail!(
                "a token is needed: make one on the server with `caelum token new --scope ingest --client-id \
                 ID`, and give it with --token or CAELUM_TOKEN"
            );
        };
        let name = asked.name.or_else(|| config.probe.client_id.clone());
        let name = name.or_else(|| config.agent.name.clone()).unwrap_or_else(host::hostname);
        let client_id = ClientId::parse(&name)
            .with_context(|| format!("name the probe {name:?}; --name sets another"))?;
        let targets = targets_of(config, &asked.targets)?;
        if targets.is_empty() {
            bail!("there is nothing to measure: name a target with --target URL, or with [[probe.targets]]");
        }
        let authorities_pem = authorities(asked.ca.as_deref())?;
        Ok(Self { client_id, ingest_url, token, authorities_pem, targets })
    }
}

/// The authorities of a file, none without one.
fn authorities(file: Option<&Path>) -> Result<String> {
    match file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("read the authorities in {}", file.display())),
        None => Ok(String::new()),
    }
}

/// Targets of the settings and of the command line. Their ids follow from their addresses, so that their
/// phases stay the same over restarts.
fn targets_of(config: &Config, more: &[String]) -> Result<Vec<Target>> {
    let named = more.iter().map(|url| ProbeTarget { url: url.clone(), ..ProbeTarget::default() });
    let mut targets: Vec<Target> = Vec::new();
    for wanted in config.probe.targets.iter().cloned().chain(named) {
        if targets.iter().any(|target| target.url == wanted.url) {
            continue;
        }
        let target_id = TargetId::parse(&format!("{:016x}", fnv1a(&wanted.url))).expect("hexadecimal");
        let usual = Target {
            interval_s: u32::try_from(config.probe.interval_s).unwrap_or(u32::MAX),
            timeout_ms: u32::try_from(config.probe.timeout_ms).unwrap_or(u32::MAX),
            origin: TargetOrigin::Config,
            ..Target::usual(target_id, wanted.url.clone(), 0)
        };
        let target = as_configured(&usual, &wanted).with_context(|| format!("measure {}", wanted.url))?;
        targets.push(target);
    }
    Ok(targets)
}

async fn measure(config: &Config, data: &DataDirectory, plan: Plan) -> Result<Exit> {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    // An address first: who cannot have it need not begin.
    let listeners = lone::listen_for_metrics(&config.probe.metrics_listen)?;
    let limits = Limits { max_bytes: config.probe.spool_max_mb << 20, ..Limits::default() };
    let spool = Spool::open(&data.spool(), limits, random::epoch)?;
    let telemetry = Telemetry::start(&config.telemetry, "probe", plan.client_id.as_str())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let counters = Arc::default();
    let urls: Vec<String> = plan.targets.iter().map(|target| target.url.clone()).collect();
    let (_targets, targets) = watch::channel(Arc::new(plan.targets));
    let poster = EventPoster::new(&plan.ingest_url, &plan.token, &plan.authorities_pem)?;
    let probe = Probe {
        client_id: plan.client_id.clone(),
        prober: Arc::new(Prober::new(tls::root_store(&plan.authorities_pem)?)?),
        targets,
        spool,
        poster: watch::Sender::new(poster).subscribe(),
        clock,
        network: || (netinfo::interface_type(), netinfo::vpn_enabled()),
        backoff_max: BACKOFF_MAX,
        tracer: telemetry.tracer.clone(),
        counters: Arc::clone(&counters),
    };
    tasks.spawn(probe.run(stop.clone()));
    tasks.spawn(memory::run(stop.clone()));
    let app = alone::probe_router(counters, telemetry.tracer.clone());
    let mut metrics: Vec<SocketAddr> = Vec::new();
    for listener in listeners {
        metrics.push(listener.local_addr().context("read an address")?);
        let none = watch::Sender::new(serve::Tls::none());
        tasks.spawn(serve::run(listener, none.subscribe(), app.clone(), true, stop.clone(), DRAIN_MAX));
    }
    announce(data, &plan.client_id, &plan.ingest_url, &urls, &metrics)?;
    up::wait_for_signal().await?;
    tracing::info!(code = "probe.stopping", "stopping: what was measured is in the spool");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_MAX, tasks.wait()).await.is_err() {
        tracing::warn!(code = "probe.stop_cut", "not everything ended in time; what is in the spool is safe");
    }
    telemetry.close().await;
    if let Err(error) = std::fs::remove_file(data.ready_file()) {
        tracing::debug!(code = "probe.ready_file_stays", %error, "the ready file could not be removed");
    }
    Ok(Exit::Fine)
}

/// Says what is measured, to people and, by the ready file, to programs.
fn announce(
    data: &DataDirectory,
    client_id: &ClientId,
    ingest_url: &str,
    urls: &[String],
    metrics: &[SocketAddr],
) -> Result<()> {
    const SHOWN: usize = 10;
    let mut text = format!(
        "Caelum {} probe runs.\n\n  as       {client_id}\n  posts to {ingest_url}\n",
        env!("CARGO_PKG_VERSION")
    );
    for url in urls.iter().take(SHOWN) {
        text.push_str(&format!("  measures {}\n", output::plain(url)));
    }
    if urls.len() > SHOWN {
        text.push_str(&format!("           and {} more\n", urls.len() - SHOWN));
    }
    for address in metrics {
        text.push_str(&format!("  metrics  http://{address}/metrics\n"));
    }
    output::print(&format!("{text}\n"))?;
    let ready = serde_json::json!({
        "role": "probe",
        "metrics": metrics.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>(),
        "pid": std::process::id(),
    });
    let path = data.ready_file();
    tls::write_secret(&path, ready.to_string().as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> arguments::Probe {
        arguments::Probe {
            server: Some("https://box.example:8080/".to_owned()),
            token: Some("secret".to_owned()),
            name: Some("van-7".to_owned()),
            targets: vec!["tcp://a:1".to_owned(), "tcp://b:1".to_owned()],
            ..arguments::Probe::default()
        }
    }

    #[test]
    fn a_probe_needs_a_server_a_token_and_a_target_and_says_which_is_missing() {
        let config = Config::default();
        let plan = Plan::of(&config, asked()).expect("nothing is missing");
        assert_eq!(plan.ingest_url, "https://box.example:8080/events");
        assert_eq!((plan.client_id.as_str(), plan.targets.len()), ("van-7", 2));
        let cases = [
            (arguments::Probe { server: None, ..asked() }, "--server"),
            (arguments::Probe { token: None, ..asked() }, "--token"),
            (arguments::Probe { targets: Vec::new(), ..asked() }, "--target"),
        ];
        for (asked, named) in cases {
            let error = Plan::of(&config, asked).expect_err("something is missing").to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn what_the_settings_say_of_a_target_holds_and_its_id_stays() {
        let mut config = Config::default();
        config.probe.targets = vec![ProbeTarget {
            url: "tcp://b:1".to_owned(),
            interval_s: Some(60),
            trace_every_s: Some(300),
            ..ProbeTarget::default()
        }];
        let targets = targets_of(&config, &asked().targets).expect("sound");
        let seen: Vec<(&str, u32)> =
            targets.iter().map(|target| (target.url.as_str(), target.interval_s)).collect();
        assert_eq!(seen, [("tcp://b:1", 60), ("tcp://a:1", 10)]);
        assert_eq!(targets[0].trace_every_s, Some(300));
        assert_eq!(Some(targets.clone()), targets_of(&config, &asked().targets).ok());
        assert_ne!(targets[0].target_id, targets[1].target_id);
    }
}
