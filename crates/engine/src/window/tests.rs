//! The oracle: whatever happens on the way, the rows equal one pass over the distinct events.

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::{
    details::{Details, Hop, Loaded, OneWay},
    event::{Batch, ClientEvents, ErrorStage, Event, Family, InterfaceType, Rtt, SeqNo, Timings},
    id::{ClientId, PartitionId},
    rollup::{MINUTE_MS, Measure, Rollup, RollupKey, RollupState, SeenRanges},
};
use proptest::prelude::*;
use uuid::Uuid;

use super::{Changes, Config, DeadReason, Missing, Partition, Stored, partition_of, window_start};
use crate::sketch::Histogram;

const START_MS: i64 = 1_800_000_000_000;
const PARTITION: PartitionId = PartitionId(0);

/// Short residence, so that stored windows must be loaded again all the time.
fn config() -> Config {
    Config { resident_ms: MINUTE_MS, ..Config::default() }
}

fn client(n: u8) -> ClientId {
    ClientId::parse(&format!("probe-{n}")).expect("valid")
}

fn event(n: u32, ts_ms: i64, seq: Option<SeqNo>) -> Event {
    Event {
        event_id: Uuid::from_u128(u128::from(n) + 1),
        ts_ms,
        seq,
        target: format!("https://t{}.example.net/", n % 3).into(),
        family: if n.is_multiple_of(5) { Family::V6 } else { Family::V4 },
        interface_type: InterfaceType::Ethernet,
        vpn_enabled: false,
        timings: Timings {
            dns_ms: (!n.is_multiple_of(7)).then_some(f64::from(n % 11) + 0.25),
            tcp_ms: Some(f64::from(n % 97) * 1.5),
            tls_ms: Some(f64::from(n % 31) + 3.0),
            http_ttfb_ms: Some(f64::from(n) / 3.0),
        },
        throughput_kbps: n.is_multiple_of(2).then_some(f64::from(n) * 100.0),
        error_stage: n.is_multiple_of(9).then_some(ErrorStage::Http),
        error_detail: n
            .is_multiple_of(9)
            .then(|| format!("HTTP {} by rule {}", 400 + n % 100, n % 40).into()),
        resolver: Some(format!("192.0.2.{}", n % 4).into()),
        remote_ip: None,
        rtt: n.is_multiple_of(4).then(|| Rtt {
            sent: 5,
            received: n % 5,
            avg_ms: 4.0,
            loss_pct: 20.0,
            ..Rtt::default()
        }),
        rpm: None,
        details: n.is_multiple_of(6).then(|| Box::new(details(n))),
    }
}

fn details(n: u32) -> Details {
    let one_way = OneWay {
        sent: 10,
        reached: 9,
        returned: n % 10,
        out_us: i64::from(n % 50) * 100 - 500,
        back_us: 1_500,
        ..OneWay::default()
    };
    let hops = vec![Hop { ttl: 1, ip: Some(format!("192.0.2.{}", n % 7)), rtt_us: Some(n) }];
    Details {
        one_way: Some(one_way),
        loaded: n.is_multiple_of(12).then(|| Loaded {
            idle_us: n,
            down_us: Some(n * 10),
            up_us: n.is_multiple_of(24).then_some(n * 20),
            upload_kbps: n.is_multiple_of(24).then_some(1_000),
        }),
        path: if n.is_multiple_of(18) { hops } else { Vec::new() },
        ..Details::default()
    }
}

/// What the store and the queue keep: the log, and what commits made of it.
#[derive(Default)]
struct Disk {
    log: Vec<Batch>,
    offset: usize,
    rollups: BTreeMap<RollupKey, Rollup>,
    seen: BTreeMap<(ClientId, u64), SeenRanges>,
    ids: BTreeMap<[u8; 16], i64>,
    dead: Vec<DeadReason>,
    counted: u64,
    duplicates: u64,
}

impl Disk {
    fn commit(&mut self, changes: Changes, offset: usize) {
        self.offset = offset;
        for rollup in changes.rollups {
            self.rollups.insert(rollup.key.clone(), rollup);
        }
        for seen in changes.seen {
            self.seen.insert((seen.client_id.clone(), seen.epoch), seen);
        }
        if let Some(minute) = changes.forget_ids_before_minute {
            self.ids.retain(|_, at| *at >= minute);
        }
        self.ids.extend(changes.new_ids);
        self.dead.extend(changes.dead.into_iter().map(|dead| dead.reason));
        self.counted += changes.counted;
        self.duplicates += changes.duplicates;
    }

    fn restore(&self, now_ms: i64) -> Partition {
        let resident_from_ms = window_start(now_ms - config().resident_ms);
        let stored = Stored {
            rollups: self
                .rollups
                .values()
                .filter(|row| {
                    row.key.window_start_ms >= resident_from_ms || row.state == RollupState::Provisional
                })
                .cloned()
                .collect(),
            resident_from_ms,
            seen: self.seen.values().cloned().collect(),
            ids: self.ids.iter().map(|(id, at)| (*id, *at)).collect(),
        };
        Partition::restore(PARTITION, config(), stored, now_ms).expect("own bytes read back")
    }

    fn fold(&self, partition: &mut Partition, batch: &Batch) {
        if let Err(missing) = partition.fold(batch) {
            let found: Vec<Rollup> =
                missing.0.iter().filter_map(|key| self.rollups.get(key)).cloned().collect();
            partition.provide(&missing, &found).expect("own bytes read back");
            partition.fold(batch).expect("nothing is missing now");
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// Ingest appends the next so many deliveries as one record.
    Append(usize),
    /// The aggregator folds the next so many records.
    Fold(usize),
    Commit,
    /// The process dies: memory is gone, the disk stays.
    Crash,
    /// Time passes; windows settle and leave memory.
    Pass(i64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1usize..12).prop_map(Action::Append),
        6 => (1usize..4).prop_map(Action::Fold),
        4 => Just(Action::Commit),
        2 => Just(Action::Crash),
        2 => (1i64..8).prop_map(|minutes| Action::Pass(minutes * 45_000)),
    ]
}

/// What the numbers of a row must be, without what tells when things arrived.
type Facts = (u64, u64, u64, BTreeMap<ErrorStage, u64>, BTreeMap<String, u64>, BTreeMap<Measure, Vec<u8>>);

fn facts(row: &Rollup) -> Facts {
    (
        row.count_total,
        row.count_success,
        row.count_error,
        row.errors_by_stage.clone(),
        row.errors_by_class.clone(),
        row.distributions.clone(),
    )
}

/// One pass over the distinct events, written as plainly as it can be.
fn oracle(events: &[(ClientId, Event)]) -> BTreeMap<RollupKey, Facts> {
    let mut groups: BTreeMap<RollupKey, Vec<&Event>> = BTreeMap::new();
    for (client_id, event) in events {
        let key = RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms: event.ts_ms / MINUTE_MS * MINUTE_MS,
            client_id: client_id.clone(),
            target: event.target.to_string(),
            family: event.family,
        };
        groups.entry(key).or_default().push(event);
    }
    groups
        .into_iter()
        .map(|(key, events)| {
            let failed: Vec<_> = events.iter().filter_map(|event| event.error_stage).collect();
            let mut by_stage = BTreeMap::new();
            for stage in &failed {
                *by_stage.entry(*stage).or_default() += 1;
            }
            let mut classes: BTreeMap<String, u64> = BTreeMap::new();
            if !failed.is_empty() {
                classes.insert("HTTP # by rule #".into(), failed.len() as u64);
            }
            let mut distributions = BTreeMap::new();
            for measure in Measure::ALL {
                let mut histogram = Histogram::default();
                for event in &events {
                    let rtt = event.rtt.filter(|rtt| rtt.received > 0);
                    let value = match measure {
                        Measure::Dns => event.timings.dns_ms,
                        Measure::Tcp => event.timings.tcp_ms,
                        Measure::Tls => event.timings.tls_ms,
                        Measure::Ttfb => event.timings.http_ttfb_ms,
                        Measure::Total if event.error_stage.is_some() => None,
                        Measure::Total => event.timings.total_ms(),
                        Measure::Throughput => event.throughput_kbps,
                        Measure::Rtt => rtt.map(|rtt| rtt.avg_ms),
                        Measure::Jitter => rtt.map(|rtt| rtt.jitter_ms),
                        Measure::Loss => event.rtt.map(|rtt| rtt.loss_pct),
                        Measure::Rpm => event.rpm,
                        Measure::DelayOut => clocked(event).map(|way| way.out_us as f64 / 1_000.0),
                        Measure::DelayBack => clocked(event).map(|way| way.back_us as f64 / 1_000.0),
                        Measure::LossOut => one_way(event).map(|way| f64::from(10 - way.reached) * 10.0),
                        Measure::LossBack => one_way(event)
                            .map(|way| f64::from(9_u32.saturating_sub(way.returned)) * 100.0 / 9.0),
                        Measure::Upload => {
                            loaded(event).and_then(|loaded| loaded.upload_kbps).map(|kbps| kbps as f64)
                        }
                        Measure::Loaded => loaded(event)
                            .and_then(|loaded| loaded.up_us.or(loaded.down_us))
                            .map(|us| f64::from(us) / 1_000.0),
                    };
                    if let Some(value) = value {
                        histogram.record(value).expect("measurable");
                    }
                }
                if histogram.count() > 0 {
                    distributions.insert(measure, histogram.encode());
                }
            }
            let total = events.len() as u64;
            let errors = failed.len() as u64;
            (key, (total, total - errors, errors, by_stage, classes, distributions))
        })
        .collect()
}

fn one_way(event: &Event) -> Option<&OneWay> {
    event.details.as_ref()?.one_way.as_ref()
}

/// A train that came back at all, with clocks that agree.
fn clocked(event: &Event) -> Option<&OneWay> {
    one_way(event).filter(|way| way.returned > 0 && way.out_us >= 0)
}

fn loaded(event: &Event) -> Option<&Loaded> {
    event.details.as_ref()?.loaded.as_ref()
}

fn distinct(count: u32) -> Vec<(ClientId, Event)> {
    let mut next = BTreeMap::new();
    (0..count)
        .map(|n| {
            let who = (n % 3) as u8;
            // Probe 2 speaks the seed's form; the others number their events over two epochs.
            let seq = (who != 2).then(|| {
                let epoch = u64::from(n * 2 / count.max(1)) + 10;
                let seq = next.entry((who, epoch)).or_insert(0u64);
                *seq += 1;
                SeqNo { epoch, seq: *seq }
            });
            // Most are on time; some are hours late.
            let minutes_back = if n.is_multiple_of(13) { 300 } else { i64::from(n % 4) };
            let ts_ms = START_MS + i64::from(n) * 2_000 - minutes_back * MINUTE_MS;
            (client(who), event(n, ts_ms, seq))
        })
        .collect()
}

fn batch(deliveries: &[&(ClientId, Event)], recv_ts_ms: i64) -> Batch {
    let mut clients: BTreeMap<ClientId, Vec<Event>> = BTreeMap::new();
    for (client_id, event) in deliveries {
        clients.entry(client_id.clone()).or_default().push(event.clone());
    }
    let clients = clients
        .into_iter()
        .map(|(client_id, events)| ClientEvents { client_id, events, refused: Vec::new() })
        .collect();
    Batch { recv_ts_ms, clients }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn duplicates_disorder_lateness_crashes_and_restarts_never_change_the_rows(
        count in 1u32..120,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        actions in prop::collection::vec(action(), 0..60),
    ) {
        let events = distinct(count);
        // Every event at least once, and as many again as chance wants, anywhere.
        let mut deliveries: Vec<&(ClientId, Event)> = events.iter().collect();
        for index in &order {
            let at = index.index(deliveries.len());
            let other = order.len().min(deliveries.len() - 1);
            deliveries.swap(at, other);
            deliveries.push(index.get(&events));
        }
        let mut disk = Disk::default();
        let mut now_ms = START_MS;
        let mut partition = disk.restore(now_ms);
        let (mut delivered, mut folded) = (0usize, 0usize);
        // At the end everything is delivered, folded and committed.
        let rest = [Action::Append(usize::MAX), Action::Fold(usize::MAX), Action::Commit];
        for action in actions.into_iter().chain(rest) {
            match action {
                Action::Append(n) => {
                    let until = delivered.max(deliveries.len().min(delivered.saturating_add(n)));
                    if until > delivered {
                        disk.log.push(batch(&deliveries[delivered..until], now_ms));
                        delivered = until;
                    }
                }
                Action::Fold(n) => {
                    let until = disk.log.len().min(folded + n.min(disk.log.len()));
                    for record in &disk.log[folded..until] {
                        disk.fold(&mut partition, record);
                    }
                    folded = until;
                }
                Action::Commit => {
                    let changes = partition.take_changes(now_ms);
                    disk.commit(changes, folded);
                    partition.evict(now_ms);
                }
                Action::Crash => {
                    partition = disk.restore(now_ms);
                    folded = disk.offset;
                }
                Action::Pass(ms) => {
                    now_ms += ms;
                    partition.settle(now_ms);
                }
            }
        }
        let rows: BTreeMap<RollupKey, Facts> =
            disk.rollups.iter().map(|(key, row)| (key.clone(), facts(row))).collect();
        prop_assert_eq!(rows, oracle(&events));
        prop_assert_eq!(disk.counted, u64::from(count));
        prop_assert!(disk.dead.is_empty());
        let last: BTreeSet<i64> = disk.rollups.values().map(|row| window_start(row.last.ts_ms) - row.key.window_start_ms).collect();
        prop_assert_eq!(last, BTreeSet::from([0]));
    }
}

fn fresh(config: Config) -> Partition {
    Partition::restore(
        PARTITION,
        config,
        Stored { resident_from_ms: START_MS, ..Stored::default() },
        START_MS,
    )
    .expect("nothing to read")
}

fn one(n: u32, ts_ms: i64, seq: u64, recv_ts_ms: i64) -> Batch {
    batch(&[&(client(1), event(n, ts_ms, Some(SeqNo { epoch: 1, seq })))], recv_ts_ms)
}

#[test]
fn a_window_settles_two_minutes_past_its_end_and_is_complete_without_gaps() {
    let mut partition = fresh(Config::default());
    partition.fold(&one(1, START_MS, 1, START_MS)).expect("resident");
    partition.fold(&one(1, START_MS + 3 * MINUTE_MS - 1, 2, START_MS)).expect("resident");
    partition.settle(START_MS);
    let states = |partition: &mut Partition| -> Vec<_> {
        let mut rows = partition.take_changes(START_MS).rollups;
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows.iter().map(|row| (row.key.window_start_ms, row.state)).collect()
    };
    assert_eq!(
        states(&mut partition),
        vec![(START_MS, RollupState::Provisional), (START_MS + 2 * MINUTE_MS, RollupState::Provisional)]
    );
    partition.fold(&one(1, START_MS + 3 * MINUTE_MS, 4, START_MS)).expect("resident");
    partition.settle(START_MS);
    assert!(states(&mut partition).contains(&(START_MS, RollupState::Settled)), "3 is missing");
    partition.fold(&one(1, START_MS + 3 * MINUTE_MS, 3, START_MS)).expect("resident");
    partition.settle(START_MS);
    assert!(states(&mut partition).contains(&(START_MS, RollupState::Complete)));
}

#[test]
fn a_silent_probe_has_its_last_window_settled_by_time() {
    let mut partition = fresh(Config::default());
    partition.fold(&one(1, START_MS, 1, START_MS)).expect("resident");
    partition.take_changes(START_MS);
    partition.settle(START_MS + Config::default().idle_ms - 1);
    assert!(partition.take_changes(START_MS).rollups.is_empty());
    partition.settle(START_MS + Config::default().idle_ms);
    let rows = partition.take_changes(START_MS).rollups;
    assert_eq!(rows.iter().map(|row| row.state).collect::<Vec<_>>(), vec![RollupState::Complete]);
}

#[test]
fn a_late_event_is_merged_and_raises_the_version_once_a_commit() {
    let mut partition = fresh(Config::default());
    partition.fold(&one(3, START_MS, 1, START_MS)).expect("resident");
    partition.settle(START_MS + Config::default().idle_ms);
    partition.take_changes(START_MS);
    partition.fold(&one(3, START_MS + 1, 2, START_MS)).expect("resident");
    partition.fold(&one(3, START_MS + 2, 3, START_MS)).expect("resident");
    let rows = partition.take_changes(START_MS).rollups;
    assert_eq!((rows[0].count_total, rows[0].late_merged, rows[0].version), (3, 2, 2));
    assert_eq!(rows[0].state, RollupState::Complete);
}

#[test]
fn the_boundary_of_lateness_is_not_late_and_what_is_older_is_kept_aside() {
    let mut partition = fresh(Config::default());
    let lateness_ms = Config::default().lateness_ms;
    let batch = one(1, START_MS - lateness_ms - 1, 1, START_MS);
    partition.fold(&batch).expect("what is not counted needs no row");
    let changes = partition.take_changes(START_MS);
    assert_eq!((changes.too_late, changes.counted), (1, 0));
    assert_eq!(changes.dead[0].reason, DeadReason::TooLate);
    assert_eq!(changes.seen[0].ranges, vec![(1, 1)], "its number leaves no gap");
    let boundary = one(1, START_MS - lateness_ms, 2, START_MS);
    let missing = partition.fold(&boundary).expect_err("an old row may be stored");
    partition.provide(&missing, &[]).expect("nothing to read");
    partition.fold(&boundary).expect("resident");
    assert_eq!(partition.take_changes(START_MS).counted, 1);
}

#[test]
fn a_refused_event_leaves_no_gap() {
    let mut partition = fresh(Config::default());
    let mut batch = one(1, START_MS, 2, START_MS);
    batch.clients[0].refused.push(SeqNo { epoch: 1, seq: 1 });
    partition.fold(&batch).expect("resident");
    let changes = partition.take_changes(START_MS);
    assert_eq!(changes.seen[0].ranges, vec![(1, 2)]);
    assert_eq!(changes.counted, 1);
}

#[test]
fn folding_without_a_needed_row_changes_nothing() {
    let mut partition = fresh(Config::default());
    let late = one(1, START_MS - 1, 1, START_MS);
    let Missing(keys) = partition.fold(&late).expect_err("the row may be stored");
    assert_eq!(keys.len(), 1);
    assert!(partition.take_changes(START_MS).is_empty());
}

#[test]
fn more_windows_than_allowed_are_kept_aside_with_the_reason() {
    let mut partition = fresh(Config { windows_max: 1, ..Config::default() });
    partition.fold(&one(1, START_MS, 1, START_MS)).expect("resident");
    partition.fold(&one(1, START_MS + MINUTE_MS, 2, START_MS)).expect("resident");
    let changes = partition.take_changes(START_MS);
    assert_eq!((changes.counted, changes.dead[0].reason), (1, DeadReason::TooManyWindows));
}

#[test]
fn ids_without_numbers_are_forgotten_at_their_horizon_and_past_their_limit() {
    let mut partition = fresh(Config { ids_max: 2, id_horizon_minutes: 10, ..Config::default() });
    let anonymous =
        |n: u32, minute: i64| batch(&[&(client(1), event(n, START_MS, None))], START_MS + minute * MINUTE_MS);
    partition.fold(&anonymous(1, 0)).expect("resident");
    partition.fold(&anonymous(1, 9)).expect("resident");
    assert_eq!(partition.take_changes(START_MS).duplicates, 1);
    partition.fold(&anonymous(2, 11)).expect("resident");
    let changes = partition.take_changes(START_MS);
    assert_eq!(changes.forget_ids_before_minute, Some(START_MS / MINUTE_MS + 1));
    partition.fold(&anonymous(3, 12)).expect("resident");
    partition.fold(&anonymous(4, 13)).expect("resident");
    let changes = partition.take_changes(START_MS);
    assert!(changes.forget_ids_before_minute.is_some(), "three ids are one too many");
}

#[test]
fn the_partition_of_a_probe_is_stable_and_spread() {
    // Changing this function would strand what is stored; the numbers pin it.
    assert_eq!(partition_of(&client(1), 16), partition_of(&client(1), 16));
    let mut used = BTreeSet::new();
    for n in 0..100 {
        let partition = partition_of(&client(n), 16);
        assert!(partition.0 < 16);
        used.insert(partition);
    }
    assert_eq!(used.len(), 16);
    let pinned: Vec<u16> = (0..4).map(|n| partition_of(&client(n), 16).0).collect();
    assert_eq!(pinned, PINNED);
}

const PINNED: [u16; 4] = [3, 0, 13, 10];
