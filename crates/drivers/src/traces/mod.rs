//! Traces on their way out: spans to a collector, by OTLP over HTTP with protobuf.
//!
//! A [`Tracer`] is what the parts hold: it hands out ids and takes spans, and never waits. One that is off does
//! nothing. What it takes goes into a bounded queue, which [`Exporter::run`] empties in batches; where the
//! collector is away or slow, spans are dropped and counted, and the pipeline notices nothing.
//!
//! Spans are values of ours, made where the work is done, since what a span belongs to comes out of events and
//! records and not out of the thread that works on them. Which measurements are traced is decided in
//! `engine::trace`. The exporter's library knows the environment names of its standard for headers, time
//! limits and compression; the address is a setting of ours and given to it.

mod otlp;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use caelum_model::trace::{Attribute, Span, TraceContext};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use crate::{random, tls::TlsError};
use otlp::Collector;

/// Spans that wait to be sent, at most.
const WAITING_MAX: usize = 2048;
/// Spans in one request.
const BATCH_MAX: usize = 512;
/// Time between requests while spans come.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time for what is left when told to stop.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Why traces cannot be sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The authorities of this machine are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is unusable.
    #[error("send traces to {url}: {detail}")]
    Setting {
        /// Where to.
        url: String,
        /// What is wrong.
        detail: String,
    },
}

/// Takes spans; cheap to clone. The default one is off.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    spans: mpsc::Sender<Span>,
    one_in: u64,
    counts: Arc<Counts>,
}

/// What became of spans since the start.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Tracer({})", if self.is_on() { "on" } else { "off" })
    }
}

impl Tracer {
    /// A tracer and what it sends: `url` is the collector's address, `role` and `instance` say who this is, and
    /// of the own probe's measurements one in `one_in` is to be traced.
    pub fn open(url: &str, one_in: u64, role: &str, instance: &str) -> Result<(Self, Exporter), TracesError> {
        let collector = Collector::new(url, role, instance)?;
        let (tracer, spans, counts) = Self::channel(one_in, WAITING_MAX);
        Ok((tracer, Exporter { collector, spans, counts, is_away: false }))
    }

    fn channel(one_in: u64, waiting_max: usize) -> (Self, mpsc::Receiver<Span>, Arc<Counts>) {
        let (sender, spans) = mpsc::channel(waiting_max);
        let counts = Arc::<Counts>::default();
        let inner = Inner { spans: sender, one_in, counts: Arc::clone(&counts) };
        (Self(Some(Arc::new(inner))), spans, counts)
    }

    /// Whether spans go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// One measurement in how many is to be traced; none while off.
    pub fn one_in(&self) -> Option<u64> {
        self.0.as_ref().map(|inner| inner.one_in)
    }

    /// Takes a span, or drops it where too many wait.
    pub fn record(&self, span: Span) {
        if let Some(inner) = &self.0
            && inner.spans.try_send(span).is_err()
        {
            inner.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that were dropped since the start, because too many waited or the collector did not take them.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.counts.dropped.load(Ordering::Relaxed))
    }

    /// Spans that the collector took since the start.
    pub fn sent(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.counts.sent.load(Ordering::Relaxed))
    }
}

/// Enough chance for a new trace.
pub fn chance_of_trace() -> [u8; 24] {
    let mut chance = [0; 24];
    random::fill(&mut chance);
    chance
}

/// Enough chance for a further step.
pub fn chance_of_step() -> [u8; 8] {
    random::number().to_le_bytes()
}

/// Work that is under way: when it began, by the wall clock, and how long it takes, by a clock that nobody sets.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    start_ns: u64,
    begun: Instant,
}

impl Timer {
    /// Begins now.
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start_ns: nanoseconds(since_1970), begun: Instant::now() }
    }

    /// The span of the work, which ends now.
    pub fn end(
        &self,
        name: &'static str,
        context: TraceContext,
        parent: Option<[u8; 8]>,
        attributes: Vec<(&'static str, Attribute)>,
    ) -> Span {
        let took_ns = nanoseconds(self.begun.elapsed());
        Span { name, context, parent, start_ns: self.start_ns, took_ns, attributes, error: None }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The sending half.
#[derive(Debug)]
pub struct Exporter {
    collector: Collector,
    spans: mpsc::Receiver<Span>,
    counts: Arc<Counts>,
    is_away: bool,
}

impl Exporter {
    /// Sends until `stop` is over, and then what is left, for a second at most.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let (tell, mut told) = watch::channel(false);
        let sending = async {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let is_last = tokio::select! {
                    _ = told.changed() => true,
                    _ = ticks.tick() => false,
                };
                self.send_all().await;
                if is_last {
                    return;
                }
            }
        };
        let stopping = async {
            stop.await;
            tell.send_replace(true);
            tokio::time::sleep(FLUSH_MAX).await;
        };
        tokio::select! {
            () = sending => {}
            () = stopping => {
                tracing::warn!(code = "traces.flush_cut", "the collector was too slow for the last spans");
            }
        }
    }

    /// Sends what waits. What the collector does not take is dropped: a trace is no record, and whoever waits
    /// for a collector fills memory.
    async fn send_all(&mut self) {
        loop {
            let mut batch = Vec::new();
            while batch.len() < BATCH_MAX
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            let count = batch.len();
            match self.collector.send(batch).await {
                Ok(()) => {
                    self.counts.sent.fetch_add(count as u64, Ordering::Relaxed);
                    if std::mem::take(&mut self.is_away) {
                        tracing::info!(code = "traces.collector_back", "the collector takes traces again");
                    }
                }
                Err(detail) => {
                    self.counts.dropped.fetch_add(count as u64, Ordering::Relaxed);
                    if !std::mem::replace(&mut self.is_away, true) {
                        tracing::warn!(
                            code = "traces.not_sent",
                            url = self.collector.url(),
                            detail,
                            spans = count,
                            "the collector does not take traces; they are dropped until it does"
                        );
                    }
                    return;
                }
            }
        }
    }
}
