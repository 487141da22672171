//! The parts of the event pipeline, from the settings: the same in `up` and in processes of their own.

use std::{sync::Arc, time::Duration};

use caelum_drivers::{clock::Clock, traces::Tracer};
use caelum_engine::window::{self, tier};
use caelum_model::{config::Config, rollup::MINUTE_MS};
use caelum_queue::Queue;
use caelum_roles::{
    aggregator::{self, Aggregator, Progress},
    bus::Bus,
    ingest::{self, Ingest},
    keeper::Keeper,
};
use caelum_store::Store;
use caelum_web::events::Limits;

use super::backends::Backends;

/// Time between signs of life of an aggregator that shares its store with others.
const BEAT_SHARED: Duration = Duration::from_secs(1);
/// The same where nobody else can use the store.
const BEAT_ALONE: Duration = Duration::from_secs(30);
/// Time between merges of longer windows.
const TIER_INTERVAL: Duration = Duration::from_secs(20);

pub(super) fn ingest_of(
    config: &Config,
    store: &Arc<Store>,
    queue: &Arc<dyn Queue>,
    clock: &Arc<dyn Clock>,
    tracer: &Tracer,
) -> Arc<Ingest> {
    let ingest = Ingest::new(
        Arc::clone(queue),
        Arc::clone(store),
        Arc::clone(clock),
        ingest::Config {
            partitions: config.aggregator.partitions,
            rate_events_per_s: rate(config.ingest.rate_limit_events_per_s),
            rate_burst_events: rate(config.ingest.rate_burst_events),
            backlog_events_max: config.ingest.max_backlog_events,
        },
    );
    Arc::new(ingest.with_tracer(tracer.clone()))
}

pub(super) fn limits_of(config: &Config) -> Limits {
    Limits {
        body_bytes_max: usize::try_from(config.ingest.max_body_bytes).unwrap_or(usize::MAX),
        requests_per_s: u32::try_from(config.ingest.rate_limit_requests_per_s).unwrap_or(u32::MAX / 2),
    }
}

/// A rate of the settings, where 0 means none.
fn rate(configured: u64) -> u32 {
    match configured {
        0 => u32::MAX / 2,
        rate => u32::try_from(rate).unwrap_or(u32::MAX / 2),
    }
}

pub(super) fn aggregator_of(
    config: &Config,
    backends: &Backends,
    bus: &Bus,
    clock: &Arc<dyn Clock>,
    owner: &str,
    progress: Arc<Progress>,
    tracer: &Tracer,
) -> Aggregator {
    let lateness_days = i64::try_from(config.aggregator.lateness_days).unwrap_or(7);
    Aggregator {
        queue: Arc::clone(&backends.queue),
        store: Arc::clone(&backends.store),
        bus: bus.clone(),
        clock: Arc::clone(clock),
        owner: owner.to_owned(),
        config: aggregator::Config {
            partitions: config.aggregator.partitions,
            commit_interval: Duration::from_millis(config.aggregator.commit_interval_ms),
            beat_interval: if backends.is_shared { BEAT_SHARED } else { BEAT_ALONE },
            tier_interval: TIER_INTERVAL,
            window: window::Config {
                lateness_ms: lateness_days * 24 * 60 * MINUTE_MS,
                ..window::Config::default()
            },
        },
        progress,
        tracer: tracer.clone(),
    }
}

pub(super) fn keeper_of(config: &Config, store: &Arc<Store>, clock: &Arc<dyn Clock>) -> Keeper {
    let aggregator = &config.aggregator;
    let days = [aggregator.rollup_days, aggregator.quarter_days, aggregator.long_days, aggregator.long_days];
    Keeper {
        store: Arc::clone(store),
        clock: Arc::clone(clock),
        history_hours: config.agent.history_hours,
        rollup_days: tier::WIDTHS_MS.into_iter().zip(days).collect(),
        verdict_days: config.diagnoser.history_days,
        task_days: config.tasks.history_days,
    }
}
