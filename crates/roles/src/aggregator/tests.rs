//! Several aggregators on one real store and one real queue.

use std::sync::atomic::Ordering;

use caelum_drivers::clock::ManualClock;
use caelum_engine::window::partition_of;
use caelum_model::{
    event::{Batch, ClientEvents, Event, Family, InterfaceType, SeqNo, Timings},
    id::ClientId,
    rollup::MINUTE_MS,
};
use caelum_queue::{Embedded, NewRecord};
use caelum_store::{DeadLetterQuery, DeadLetterState, RollupQuery};
use tokio::task::JoinHandle;

use super::*;
use crate::ingest::record::Encoded;

/// 2026-01-05 14:00:00 UTC.
const START_MS: i64 = 1_767_621_600_000;
const PARTITIONS: u16 = 4;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

struct Scene {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    queue: Arc<dyn Queue>,
    clock: Arc<ManualClock>,
    next_seq: BTreeMap<ClientId, u64>,
}

struct Running {
    progress: Arc<Progress>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it ends by itself");
    }
}

impl Scene {
    fn open() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(&directory.path().join("caelum.db")).expect("opens"));
        let queue = Arc::new(Embedded::open(&directory.path().join("queue.db"), 1 << 30).expect("opens"));
        let clock = Arc::new(ManualClock::new(START_MS));
        Self { _directory: directory, store, queue, clock, next_seq: BTreeMap::new() }
    }

    fn start(&self, owner: &str) -> Running {
        let progress = Arc::new(Progress::new("host"));
        let aggregator = Aggregator {
            queue: Arc::clone(&self.queue),
            store: Arc::clone(&self.store),
            bus: Bus::default(),
            clock: self.clock.clone(),
            owner: owner.to_owned(),
            config: Config {
                partitions: PARTITIONS,
                commit_interval: Duration::from_millis(20),
                beat_interval: Duration::from_millis(50),
                tier_interval: Duration::from_millis(50),
                window: window::Config::default(),
            },
            progress: Arc::clone(&progress),
            tracer: Tracer::default(),
        };
        let stop = CancellationToken::new();
        Running { progress, stop: stop.clone(), task: tokio::spawn(aggregator.run(stop)) }
    }

    /// Appends one record with an event a minute for each probe.
    async fn append(&mut self, probes: u32, minutes: std::ops::Range<i64>) {
        for n in 0..probes {
            let client_id = ClientId::parse(&format!("probe-{n}")).expect("valid");
            let next = self.next_seq.entry(client_id.clone()).or_insert(1);
            let events: Vec<Event> = minutes
                .clone()
                .map(|minute| {
                    let seq = SeqNo { epoch: 1, seq: *next };
                    *next += 1;
                    event(START_MS + minute * MINUTE_MS, seq)
                })
                .collect();
            let partition = partition_of(&client_id, PARTITIONS);
            let clients = vec![ClientEvents { client_id, events, refused: Vec::new() }];
            let batch = Batch { recv_ts_ms: self.clock.now_ms(), clients };
            let Encoded { key, bytes, .. } = Encoded::of(batch, &[]);
            let events = u32::try_from(minutes.clone().count()).expect("few");
            let record = NewRecord { partition, key, events, bytes };
            self.queue.append(vec![record]).await.expect("appended");
        }
    }

    async fn rows(&self, width_ms: i64) -> Vec<caelum_model::rollup::Rollup> {
        let query = RollupQuery { width_ms, limit: 100_000, ..RollupQuery::default() };
        self.store.rollups(query).await.expect("read")
    }

    async fn counted(&self) -> u64 {
        self.rows(MINUTE_MS).await.iter().map(|row| row.count_total).sum()
    }
}

fn event(ts_ms: i64, seq: SeqNo) -> Event {
    Event {
        event_id: uuid::Uuid::from_u128(u128::from(seq.seq)),
        ts_ms,
        seq: Some(seq),
        target: "tcp://a.example:1".into(),
        family: Family::V4,
        interface_type: InterfaceType::Ethernet,
        vpn_enabled: false,
        timings: Timings { tcp_ms: Some(12.0), ..Timings::default() },
        throughput_kbps: None,
        error_stage: None,
        error_detail: None,
        resolver: None,
        remote_ip: None,
        rtt: None,
        rpm: None,
        details: None,
    }
}

/// Waits until a condition holds; how long that takes is not what is tested.
macro_rules! until {
    ($condition:expr) => {
        tokio::time::timeout(Duration::from_secs(30), async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while !$condition {
                look.tick().await;
            }
        })
        .await
        .expect(concat!("in time: ", stringify!($condition)))
    };
}

#[tokio::test]
async fn two_share_the_partitions_and_one_that_stops_leaves_its_own_to_the_other_at_once() {
    let mut scene = Scene::open();
    let first = scene.start("a");
    until!(first.progress.held().len() == 4);
    let second = scene.start("b");
    until!(first.progress.held().len() == 2 && second.progress.held().len() == 2);
    scene.append(20, 0..5).await;
    until!(scene.counted().await == 100);
    first.stop().await;
    until!(second.progress.held().len() == 4);
    scene.append(20, 5..8).await;
    until!(scene.counted().await == 160);
    assert_eq!(second.progress.duplicates.load(Ordering::Relaxed), 0);
    second.stop().await;
    assert!(scene.store.aggregators().await.expect("read").is_empty(), "nobody is waited for");
}

#[tokio::test]
async fn what_a_killed_one_had_in_memory_is_counted_once_by_its_successor() {
    let mut scene = Scene::open();
    let first = scene.start("a");
    until!(first.progress.held().len() == 4);
    scene.append(20, 0..5).await;
    until!(first.progress.counted.load(Ordering::Relaxed) > 0);
    // Its tasks end wherever they are: nothing is committed, nothing is given up.
    first.task.abort();
    scene.append(20, 5..7).await;
    let again = scene.start("a");
    until!(scene.counted().await == 140);
    again.stop().await;
    let totals = scene.store.pipeline_totals().await.expect("read");
    assert_eq!((totals.counted, totals.duplicates), (140, 0));
}

#[tokio::test]
async fn longer_windows_hold_what_the_minutes_in_them_hold_also_after_a_late_event() {
    let mut scene = Scene::open();
    let running = scene.start("a");
    scene.append(1, 0..40).await;
    let day = |rows: &[caelum_model::rollup::Rollup]| rows.iter().map(|row| row.count_total).sum::<u64>();
    until!(day(&scene.rows(DAY_MS).await) == 40);
    assert_eq!(day(&scene.rows(15 * MINUTE_MS).await), 40);
    scene.append(1, 3..5).await;
    until!(day(&scene.rows(DAY_MS).await) == 42);
    let quarters = scene.rows(15 * MINUTE_MS).await;
    assert_eq!(quarters.iter().map(|row| row.count_total).collect::<Vec<_>>(), [17, 15, 10]);
    running.stop().await;
}

#[tokio::test]
async fn an_event_that_came_too_late_is_counted_once_when_somebody_asks_for_it() {
    let mut scene = Scene::open();
    let running = scene.start("a");
    let minutes = -(8 * 24 * 60)..-(8 * 24 * 60) + 2;
    scene.append(1, minutes).await;
    scene.append(1, 0..1).await;
    until!(scene.counted().await == 1);
    let letters = scene.store.dead_letters(DeadLetterQuery { limit: 10, ..DeadLetterQuery::default() });
    let letters = letters.await.expect("read");
    assert_eq!(letters.len(), 2);
    let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
    assert_eq!(scene.store.request_replay(ids.clone()).await.expect("asked"), 2);
    assert_eq!(scene.store.request_replay(ids.clone()).await.expect("asked again"), 0);
    until!(scene.counted().await == 3);
    assert_eq!(scene.store.request_replay(ids).await.expect("asked once more"), 0);
    let letters = scene.store.dead_letters(DeadLetterQuery { limit: 10, ..DeadLetterQuery::default() });
    assert!(letters.await.expect("read").iter().all(|letter| letter.state == DeadLetterState::Replayed));
    running.stop().await;
    let rows = scene.rows(MINUTE_MS).await;
    assert!(rows.iter().all(|row| row.count_total == 1), "{rows:?}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_kept_aside_and_the_rest_is_counted() {
    let mut scene = Scene::open();
    let client_id = ClientId::parse("probe-0").expect("valid");
    let damaged = NewRecord {
        partition: partition_of(&client_id, PARTITIONS),
        key: String::new(),
        events: 3,
        bytes: bytes::Bytes::from_static(&[1, 0xff, 0xff]),
    };
    scene.queue.append(vec![damaged]).await.expect("appended");
    scene.append(1, 0..2).await;
    let running = scene.start("a");
    until!(scene.counted().await == 2);
    let counts = scene.store.dead_letter_counts().await.expect("read");
    assert_eq!((counts[0].reason.as_str(), counts[0].count), ("record_damaged", 1));
    running.stop().await;
}
