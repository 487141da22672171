//! When each target is measured.
//!
//! A task a target, so that one that hangs delays no other. A target's measurements keep their phase, which
//! is derived from its id: probes and targets spread over the interval without talking to each other. A new
//! target is measured at once and then in phase. A measurement that takes longer than the interval costs the
//! next one, never two at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use caelum_drivers::{
    clock::Clock,
    probe::{Prober, measure},
    random,
    traces::{Timer, Tracer, chance_of_trace},
};
use caelum_engine::{schedule::until_phase, trace};
use caelum_model::{event::InterfaceType, id::ClientId, id::TargetId, target::Target, wire::EventJson};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

/// Measurements under way at once.
const MEASUREMENTS_MAX: usize = 64;

pub(super) struct Scheduler {
    pub(super) client_id: ClientId,
    pub(super) prober: Arc<Prober>,
    pub(super) targets: watch::Receiver<Arc<Vec<Target>>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) network: fn() -> (InterfaceType, bool),
    pub(super) events: mpsc::Sender<EventJson<'static>>,
    pub(super) tracer: Tracer,
}

impl Scheduler {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(MEASUREMENTS_MAX));
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

    fn measurer(&self, target: Target, places: Arc<Semaphore>) -> Measurer {
        Measurer {
            client_id: self.client_id.clone(),
            prober: Arc::clone(&self.prober),
            clock: Arc::clone(&self.clock),
            network: self.network,
            events: self.events.clone(),
            tracer: self.tracer.clone(),
            places,
            target,
        }
    }
}

struct Measurer {
    client_id: ClientId,
    prober: Arc<Prober>,
    clock: Arc<dyn Clock>,
    network: fn() -> (InterfaceType, bool),
    events: mpsc::Sender<EventJson<'static>>,
    tracer: Tracer,
    places: Arc<Semaphore>,
    target: Target,
}

impl Measurer {
    async fn run(self) {
        if !self.measure().await {
            return;
        }
        let interval = Duration::from_secs(u64::from(self.target.interval_s.max(1)));
        let first = Instant::now() + until_phase(&self.target.target_id, interval, self.clock.now_ms());
        let mut ticks = interval_at(first, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            if !self.measure().await {
                return;
            }
        }
    }

    /// Measures once. Answers false when there is no point in going on.
    async fn measure(&self) -> bool {
        let Ok(place) = self.places.acquire().await else { return false };
        let ts_ms = self.clock.now_ms();
        let timer = self.tracer.is_on().then(Timer::start);
        let measured = measure(&self.target, &self.prober).await;
        drop(place);
        let measurements = match measured {
            Ok(measurements) => measurements,
            Err(error) => {
                tracing::error!(code = "probe.target_unusable", url = self.target.url, %error, "a target cannot be measured");
                return false;
            }
        };
        let network = (self.network)();
        for measurement in measurements {
            let mut event = super::to_event(&self.client_id, measurement, ts_ms, network);
            event.traceparent = timer.and_then(|timer| self.begin_trace(&timer, &event));
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
