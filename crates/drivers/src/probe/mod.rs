//! Measuring a target: each stage timed by itself, the first failing stage named.
//!
//! # Rules
//!
//! - A stage's time is that stage's alone; what comes before or after is not in it.
//! - Every stage may take the target's time-out. A measurement that fails slowly at one stage does not
//!   shorten the others, so that the blame stays where it belongs; a whole one may take as many time-outs as
//!   it has stages.
//! - The address that is connected to is the first one that was resolved, and no other: a measurement that
//!   tried several would hide the one that is broken.
//! - A name that is an address, or is fixed in the hosts file, has no resolution stage: absent is not zero.
//! - Nothing is kept between measurements: no connection, no TLS session, no name. Each is a first visit.
//! - `families = any` asks for IPv4 first and for IPv6 where there is no IPv4 address or no route to it.
//!   The family of the measurement is the one that was *asked for*, so that a failed look-up counts against
//!   the same pair as a successful one; `remote_ip` says what was reached.
//!
//! # What counts as a failure
//!
//! A status of 400 and above is a failure of the HTTP stage (`HTTP 404`); a redirect is an answer and is
//! not followed. A ping fails when no packet comes back; its stage is `TCP`, the one that stands for "was
//! reached". A throughput download that does not end in time is a failure with the rate so far.
//!
//! A STAMP train fails like a ping. Beside the timings, a measurement knows the answer, the certificate, both
//! ways of a train, whether a resolver's answer was cached, and which family would win a race.
//!
//! A `dns` target without a name asks for the servers of the root. That needs no name to exist, so it is
//! the default for any resolver, even on an isolated network: any answer but `SERVFAIL` shows a working
//! resolver (some refuse the question, some know no root, and say so).
//!
//! # What it does not do
//!
//! It schedules nothing, retries nothing, and knows no ids: those are `roles::probe`'s.

mod dns;
mod icmp;
mod load;
mod path;
mod resolve;
mod scripted;
mod secure;
mod stamp;
mod url;
mod web;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use caelum_engine::facts;
use caelum_model::{
    details::{Details, Hop},
    event::{ErrorStage, Family, Rtt, Timings},
    target::{Families, Target},
};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use crate::{
    fault::describe,
    netinfo::{Hosts, ResolverConfig},
    tls::{self, TlsError},
};

pub use icmp::{IcmpRefused, check_icmp, round_trip};
pub use path::trace;
pub use scripted::{Scripted, Turn};
pub use url::{DnsTransport, Host, MAX_URL_BYTES, ProbeUrl, UrlError, WebUrl, parse, parse_web_url};

/// How long the system's name configuration is believed before it is read again.
const NAMES_FRESH: Duration = Duration::from_secs(30);
/// The shortest time-out that makes sense of any network.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);
/// Characters of an error's detail that are kept.
const MAX_DETAIL: usize = 200;

/// One measurement of one target: an event without its ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measurement {
    /// The target's URL.
    pub target: String,
    /// The family that was asked for.
    pub family: Family,
    /// Time of each stage.
    pub timings: Timings,
    /// Goodput, kbit/s.
    pub throughput_kbps: Option<f64>,
    /// The first stage that failed; none means success.
    pub error_stage: Option<ErrorStage>,
    /// What went wrong, in a few words.
    pub error_detail: Option<String>,
    /// The resolver that answered, or the last one asked.
    pub resolver: Option<String>,
    /// The address that was connected to.
    pub remote_ip: Option<String>,
    /// The packet train.
    pub rtt: Option<Rtt>,
    /// Round trips a minute under load.
    pub rpm: Option<f64>,
    /// What else was seen.
    pub details: Details,
}

/// What is done beside the measurement itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The path is traced.
    pub trace: bool,
    /// The line is loaded, where the target names an object for it.
    pub load: bool,
}

/// Who measures: the real prober, or [`Scripted`] in tests.
#[async_trait]
pub trait Measure: Send + Sync {
    /// Measures a target once: one measurement, or one a family where both are wanted. Fails only on a URL
    /// that cannot be measured at all.
    async fn measure(&self, target: &Target, extras: Extras) -> Result<Vec<Measurement>, UrlError>;
}

#[async_trait]
impl Measure for Prober {
    async fn measure(&self, target: &Target, extras: Extras) -> Result<Vec<Measurement>, UrlError> {
        measure_with(target, self, extras).await
    }
}

/// What the machine knows about names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Whom to ask.
    pub resolver: ResolverConfig,
    /// What is fixed.
    pub hosts: Hosts,
}

impl Names {
    fn system() -> Self {
        Self { resolver: ResolverConfig::system(), hosts: Hosts::system() }
    }
}

enum NameSource {
    /// The machine's files, read again as they change.
    System(Mutex<Option<(Instant, Arc<Names>)>>),
    Fixed(Arc<Names>),
}

/// What measurements share: whom to trust and how to resolve.
pub struct Prober {
    tls: Arc<ClientConfig>,
    dns_tls: Arc<ClientConfig>,
    names: NameSource,
    longest: dns::Longest,
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

impl Prober {
    /// A prober that trusts `roots` and resolves as this machine is configured, changes included.
    pub fn new(roots: RootCertStore) -> Result<Self, TlsError> {
        Self::build(roots, NameSource::System(Mutex::default()))
    }

    /// A prober that trusts `roots` and resolves as it is told.
    pub fn with_names(roots: RootCertStore, names: Names) -> Result<Self, TlsError> {
        Self::build(roots, NameSource::Fixed(Arc::new(names)))
    }

    fn build(roots: RootCertStore, names: NameSource) -> Result<Self, TlsError> {
        let mut tls = tls::client_config(roots)?;
        // A resumed session would skip the very work that is measured.
        tls.resumption = rustls::client::Resumption::disabled();
        let mut dns_tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        dns_tls.alpn_protocols = vec![b"dot".to_vec()];
        Ok(Self { tls: Arc::new(tls), dns_tls: Arc::new(dns_tls), names, longest: dns::Longest::default() })
    }

    fn names(&self) -> Arc<Names> {
        match &self.names {
            NameSource::Fixed(names) => Arc::clone(names),
            NameSource::System(cached) => {
                let mut cached = cached.lock().unwrap_or_else(PoisonError::into_inner);
                match &*cached {
                    Some((at, names)) if at.elapsed() < NAMES_FRESH => Arc::clone(names),
                    _ => {
                        let names = Arc::new(Names::system());
                        *cached = Some((Instant::now(), Arc::clone(&names)));
                        names
                    }
                }
            }
        }
    }
}

/// Measures a target once: one measurement, or one a family where both are wanted. Two are taken one after
/// the other, so that they do not compete. Fails only on a URL that cannot be measured at all.
pub async fn measure(target: &Target, prober: &Prober) -> Result<Vec<Measurement>, UrlError> {
    measure_with(target, prober, Extras::default()).await
}

/// [`measure`], and what was asked for beside it.
pub async fn measure_with(
    target: &Target,
    prober: &Prober,
    extras: Extras,
) -> Result<Vec<Measurement>, UrlError> {
    let url = parse(&target.url)?;
    let throughput = target.throughput_url.as_deref().map(parse_web_url).transpose()?;
    let names = prober.names();
    let task = Task {
        url: &url,
        throughput: throughput.as_ref(),
        timeout: Duration::from_millis(u64::from(target.timeout_ms)).max(MIN_TIMEOUT),
        names: &names,
        tls: &prober.tls,
        dns_tls: &prober.dns_tls,
        longest: &prober.longest,
        packets: target.packets,
    };
    let mut measurements = Vec::with_capacity(2);
    for family in families(target.families, &url) {
        let mut measurement =
            Measurement { target: target.url.clone(), family: *family, ..Measurement::default() };
        if let Err(failure) = Box::pin(task.run(&mut measurement)).await {
            measurement.error_stage = Some(failure.stage);
            measurement.error_detail = Some(failure.detail.chars().take(MAX_DETAIL).collect());
        }
        if extras.trace {
            measurement.details.path = task.trace(&measurement).await;
        }
        if extras.load && measurement.error_stage.is_none() {
            load::measure(&task, &mut measurement).await;
        }
        measurements.push(measurement);
    }
    if matches!(url, ProbeUrl::Web(_)) {
        note_race(&mut measurements);
    }
    Ok(measurements)
}

/// What a browser would have chosen that tries both families, where there were addresses of both.
fn note_race(measurements: &mut [Measurement]) {
    let [v4, v6] = measurements else { return };
    let connected = |one: &Measurement| one.timings.tcp_ms.map(|ms| (ms * 1_000.0) as u32);
    if v4.remote_ip.is_some() && v6.remote_ip.is_some() {
        let race = facts::race(connected(v4), connected(v6));
        for one in [v4, v6] {
            one.details.web.get_or_insert_default().race = Some(race.clone());
        }
    }
}

/// The families to measure; an address has only its own.
fn families(wanted: Families, url: &ProbeUrl) -> &'static [Family] {
    match (wanted, url.host()) {
        (Families::Any, _) => &[Family::Any],
        (Families::Ipv4, _) => &[Family::V4],
        (Families::Ipv6, _) => &[Family::V6],
        (Families::Both, Host::Name(_)) => &[Family::V4, Family::V6],
        (Families::Both, Host::Address(address)) if address.is_ipv4() => &[Family::V4],
        (Families::Both, Host::Address(_)) => &[Family::V6],
    }
}

/// The first stage that failed, and how.
#[derive(Debug, PartialEq)]
struct Failure {
    stage: ErrorStage,
    detail: String,
}

impl Failure {
    fn new(stage: ErrorStage, detail: impl Into<String>) -> Self {
        Self { stage, detail: detail.into() }
    }
}

/// One measurement's settings.
struct Task<'a> {
    url: &'a ProbeUrl,
    throughput: Option<&'a WebUrl>,
    timeout: Duration,
    names: &'a Names,
    tls: &'a Arc<ClientConfig>,
    dns_tls: &'a Arc<ClientConfig>,
    longest: &'a dns::Longest,
    packets: Option<u16>,
}

impl Task<'_> {
    async fn run(&self, measurement: &mut Measurement) -> Result<(), Failure> {
        match self.url {
            ProbeUrl::Web(url) => {
                web::visit(self, url, measurement).await?;
                match self.throughput {
                    Some(object) => web::download(self, object, measurement).await,
                    None => Ok(()),
                }
            }
            ProbeUrl::Tcp { host, port } => {
                let address = self.resolve(host, *port, measurement).await?;
                self.connect(address, measurement).await.map(drop)
            }
            ProbeUrl::Dns { resolver, port, name, record_type, transport, is_fresh } => {
                let question = dns::Question {
                    resolver: (resolver, *port),
                    name,
                    record_type: *record_type,
                    transport: *transport,
                    is_fresh: *is_fresh,
                };
                dns::ask(self, &question, measurement).await
            }
            ProbeUrl::Icmp { host } => {
                let address = self.resolve(host, 0, measurement).await?;
                icmp::ping(address.ip(), self.packets, self.timeout, measurement).await
            }
            ProbeUrl::Stamp { host, port } => {
                let address = self.resolve(host, *port, measurement).await?;
                stamp::send_train(address, self.packets, self.timeout, measurement).await
            }
        }
    }

    /// The path to the address that was measured; empty where none was found.
    async fn trace(&self, measurement: &Measurement) -> Vec<Hop> {
        match measurement.remote_ip.as_deref().and_then(|address| address.parse().ok()) {
            Some(address) => path::trace(address).await,
            None => Vec::new(),
        }
    }

    /// The resolution stage: leaves the time, the resolver and the address in the measurement.
    async fn resolve(
        &self,
        host: &Host,
        port: u16,
        measurement: &mut Measurement,
    ) -> Result<SocketAddr, Failure> {
        let resolution = resolve::resolve(host, measurement.family, self.names, self.timeout).await;
        measurement.resolver = resolution.resolver.map(|resolver| resolver.to_string());
        let address = resolution.address.map_err(|detail| Failure::new(ErrorStage::Dns, detail))?;
        measurement.timings.dns_ms = resolution.took.map(ms);
        measurement.remote_ip = Some(address.to_string());
        Ok(SocketAddr::new(address, port))
    }

    /// The connect stage: leaves the time in the measurement.
    async fn connect(
        &self,
        address: SocketAddr,
        measurement: &mut Measurement,
    ) -> Result<TcpStream, Failure> {
        let started = Instant::now();
        let connected = tokio::time::timeout(self.timeout, TcpStream::connect(address)).await;
        let took = started.elapsed();
        let failed = |detail: String| Failure::new(ErrorStage::Tcp, detail);
        let stream = connected
            .map_err(|_| failed(format!("connect timed out after {}", words(self.timeout))))?
            .map_err(|error| failed(describe(&error)))?;
        measurement.timings.tcp_ms = Some(ms(took));
        // Small writes must not wait for acknowledgements; the kernel refusing this changes nothing else.
        drop(stream.set_nodelay(true));
        Ok(stream)
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// `5 s`, `1.5 s`, `250 ms`.
fn words(duration: Duration) -> String {
    if duration >= Duration::from_secs(1) {
        format!("{} s", duration.as_millis() as f64 / 1_000.0)
    } else {
        format!("{} ms", duration.as_millis())
    }
}
