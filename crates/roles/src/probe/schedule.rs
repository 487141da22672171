//! When each target is measured, and what is done beside it.
//!
//! A task a target, so that one that hangs delays no other. A target's measurements keep their phase, which
//! is derived from its id: probes and targets spread over the interval without talking to each other. A new
//! target is measured at once and then in phase. A measurement that takes longer than the interval costs the
//! next one, never two at a time.
//!
//! Measurements begin only so many at once, because each one's first moments are work for the processor;
//! whoever still waits for an answer after that gives its place to another, so that targets that hang delay
//! nobody.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use caelum_drivers::{
    clock::Clock,
    probe::{Extras, Measure},
    random,
    traces::{Timer, Tracer, chance_of_trace},
};
use caelum_engine::{schedule::until_phase, trace};
use caelum_model::{id::ClientId, id::TargetId, target::Target, wire::EventJson};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::{Counters, condition::Surroundings};

/// Measurements that begin at once, and how long one counts as beginning.
const BEGINNING_MAX: usize = 64;
const BEGINNING: Duration = Duration::from_millis(100);

pub(super) struct Scheduler {
    pub(super) client_id: ClientId,
    pub(super) prober: Arc<dyn Measure>,
    pub(super) targets: watch::Receiver<Arc<Vec<Target>>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) surroundings: watch::Receiver<Arc<Surroundings>>,
    pub(super) events: mpsc::Sender<EventJson<'static>>,
    pub(super) tracer: Tracer,
    pub(super) counters: Arc<Counters>,
}

/// What all measurements share.
struct Places {
    beginning: Semaphore,
    /// One load at a time: two would measure each other.
    load: Semaphore,
}

impl Scheduler {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let places = Arc::new(Places { beginning: Semaphore::new(BEGINNING_MAX), load: Semaphore::new(1) });
        let mut running: HashMap<TargetId, (Target, JoinHandle<()>)> = HashMap::new();
        loop {
            let targets = Arc::clone(&self.targets.borrow_and_update());
            running.retain(|target_id, (target, task)| {
                let stays = targets.iter().any(|wanted| wanted.enabled && wanted == target);
                if !stays {
                    tracing::debug!(code = "probe.target_left", %target_id, url = target.url, "a target is no longer measured");
                    task.abort();
                }
                stays
            });
            for target in targets.iter().filter(|target| target.enabled) {
                if !running.contains_key(&target.target_id) {
                    let task = tokio::spawn(self.measurer(target.clone(), Arc::clone(&places)).run());
                    running.insert(target.target_id.clone(), (target.clone(), task));
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.targets.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
        }
        for (_, task) in running.into_values() {
            task.abort();
        }
    }

    fn measurer(&self, target: Target, places: Arc<Places>) -> Measurer {
        Measurer {
            client_id: self.client_id.clone(),
            prober: Arc::clone(&self.prober),
            clock: Arc::clone(&self.clock),
            surroundings: self.surroundings.clone(),
            events: self.events.clone(),
            tracer: self.tracer.clone(),
            counters: Arc::clone(&self.counters),
            places,
            next_trace: target.trace_every_s.map(|_| Instant::now()),
            next_load: None,
            target,
        }
    }
}

struct Measurer {
    client_id: ClientId,
    prober: Arc<dyn Measure>,
    clock: Arc<dyn Clock>,
    surroundings: watch::Receiver<Arc<Surroundings>>,
    events: mpsc::Sender<EventJson<'static>>,
    tracer: Tracer,
    counters: Arc<Counters>,
    places: Arc<Places>,
    next_trace: Option<Instant>,
    next_load: Option<Instant>,
    target: Target,
}

impl Measurer {
    async fn run(mut self) {
        // The path is of interest at once; a load can wait for its phase.
        let loads_every = self.target.load_every_s.map(seconds);
        self.next_load = loads_every.map(|every| Instant::now() + self.until_phase(every));
        if !self.measure().await {
            return;
        }
        let interval = seconds(self.target.interval_s);
        let first = Instant::now() + self.until_phase(interval);
        let mut ticks = interval_at(first, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // Begun and skipped ones together are those that were due.
        let mut accounted: u64 = 0;
        loop {
            ticks.tick().await;
            let passed = first.elapsed().as_millis() / interval.as_millis().max(1);
            let due = u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1);
            Counters::add(&self.counters.skipped, due.saturating_sub(accounted + 1));
            accounted = due.max(accounted + 1);
            if !self.measure().await {
                return;
            }
        }
    }

    fn until_phase(&self, interval: Duration) -> Duration {
        until_phase(&self.target.target_id, interval, self.clock.now_ms())
    }

    /// What is due beside the measurement.
    fn extras(&mut self) -> Extras {
        let now = Instant::now();
        let is_due = |next: &mut Option<Instant>, every_s: Option<u32>| {
            let is_due = next.is_some_and(|at| now >= at);
            if is_due {
                *next = every_s.map(|every_s| now + seconds(every_s));
            }
            is_due
        };
        Extras {
            trace: is_due(&mut self.next_trace, self.target.trace_every_s),
            load: is_due(&mut self.next_load, self.target.load_every_s),
        }
    }

    /// Measures once. Answers false when there is no point in going on.
    async fn measure(&mut self) -> bool {
        let places = Arc::clone(&self.places);
        let extras = self.extras();
        let _load = match extras.load {
            true => places.load.acquire().await.ok(),
            false => None,
        };
        let Ok(place) = places.beginning.acquire().await else { return false };
        let ts_ms = self.clock.now_ms();
        let timer = self.tracer.is_on().then(Timer::start);
        let mut measuring = self.prober.measure(&self.target, extras);
        let measured = match tokio::time::timeout(BEGINNING, &mut measuring).await {
            Ok(measured) => measured,
            Err(_) => {
                drop(place);
                measuring.await
            }
        };
        let measurements = match measured {
            Ok(measurements) => measurements,
            Err(error) => {
                tracing::error!(code = "probe.target_unusable", url = self.target.url, %error, "a target cannot be measured");
                return false;
            }
        };
        let surroundings = Arc::clone(&self.surroundings.borrow());
        for measurement in measurements {
            Counters::add(&self.counters.measured, 1);
            Counters::add(&self.counters.failed, u64::from(measurement.error_stage.is_some()));
            let mut event = super::to_event(&self.client_id, measurement, ts_ms, &surroundings);
            event.traceparent = timer.and_then(|timer| self.begin_trace(&timer, &event)).map(Cow::Owned);
            if self.events.send(event).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Begins a trace with this measurement, if it is chosen. Answers what the event says about it.
    fn begin_trace(&self, timer: &Timer, event: &EventJson<'_>) -> Option<String> {
        let one_in = self.tracer.one_in()?;
        if !trace::is_chosen(random::number(), one_in) {
            return None;
        }
        let context = trace::begin(chance_of_trace());
        let attributes = vec![
            ("target", event.target.to_string().into()),
            ("client_id", event.client_id.to_string().into()),
        ];
        self.tracer.record(timer.end("measure", context, None, attributes));
        Some(context.to_string())
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds.max(1)))
}
