//! A probe that was cut off for six hours of virtual time hands over what it kept.

use std::collections::BTreeMap;

use caelum_engine::{
    drain::Drain,
    ranges::RangeSet,
    window::{Config, Partition, Stored, window_start},
};
use caelum_model::{
    event::{Batch, ClientEvents, Event, Family, InterfaceType, SeqNo, Timings},
    id::{ClientId, PartitionId},
    rollup::{MINUTE_MS, Rollup, RollupKey, RollupState},
};

/// 2026-01-05 14:00:00 UTC.
const START_MS: i64 = 1_767_621_600_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Time between two measurements.
const EVERY_MS: i64 = 1_000;
/// Time a request takes.
const REQUEST_MS: i64 = 250;

/// What the server has: a partition, its rows, and what it would acknowledge.
struct Server {
    partition: Partition,
    rows: BTreeMap<RollupKey, Rollup>,
    durable: RangeSet,
}

impl Server {
    fn take(&mut self, client_id: &ClientId, events: Vec<Event>, now_ms: i64) {
        for event in &events {
            self.durable.insert(event.seq.expect("numbered").seq);
        }
        let clients = vec![ClientEvents { client_id: client_id.clone(), events, refused: Vec::new() }];
        let batch = Batch { recv_ts_ms: now_ms, clients };
        if let Err(missing) = self.partition.fold(&batch) {
            let found: Vec<Rollup> = missing.0.iter().filter_map(|key| self.rows.get(key)).cloned().collect();
            self.partition.provide(&missing, &found).expect("own bytes read back");
            self.partition.fold(&batch).expect("nothing is missing now");
        }
        self.commit(now_ms);
    }

    fn commit(&mut self, now_ms: i64) {
        self.partition.settle(now_ms);
        for row in self.partition.take_changes(now_ms).rollups {
            self.rows.insert(row.key.clone(), row);
        }
        self.partition.evict(now_ms);
    }
}

fn event(seq: u64) -> Event {
    Event {
        event_id: uuid::Uuid::from_u128(u128::from(seq)),
        ts_ms: START_MS + (seq as i64 - 1) * EVERY_MS,
        seq: Some(SeqNo { epoch: 1, seq }),
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

#[test]
fn six_hours_without_the_server_are_in_their_windows_afterwards_and_delay_nothing_that_is_measured_now() {
    let client_id = ClientId::parse("probe-1").expect("valid");
    let partition = Partition::restore(PartitionId(0), Config::default(), Stored::default(), START_MS);
    let mut server = Server {
        partition: partition.expect("nothing stored"),
        rows: BTreeMap::new(),
        durable: RangeSet::default(),
    };
    let mut drain = Drain::new(0, 60_000);
    let (cut_ms, back_ms) = (START_MS + HOUR_MS + 30_000, START_MS + 7 * HOUR_MS);
    let end_ms = back_ms + HOUR_MS / 2;
    let mut now_ms = START_MS;
    let mut settled_before: Vec<Rollup> = Vec::new();
    while now_ms < end_ms {
        let newest = ((now_ms - START_MS) / EVERY_MS + 1) as u64;
        let is_cut = (cut_ms..back_ms).contains(&now_ms);
        if let Some((after, most)) = drain.next(now_ms, newest) {
            let last = newest.min(after + most as u64);
            if is_cut {
                drain.failed(None, 0.5, now_ms);
            } else if last > after {
                server.take(&client_id, (after + 1..=last).map(event).collect(), now_ms);
                drain.accepted(last, server.durable.contiguous_from(1), now_ms);
            }
        }
        if is_cut && settled_before.is_empty() && now_ms > cut_ms + 10 * MINUTE_MS {
            server.commit(now_ms);
            settled_before = server.rows.values().cloned().collect();
        }
        if now_ms > back_ms + 61_000 {
            // After the longest wait between two tries, what is measured is there within two requests.
            let due = ((now_ms - 2_000 - START_MS) / EVERY_MS) as u64;
            assert!(server.durable.contains(due), "{due} waits at {now_ms}");
        }
        now_ms += REQUEST_MS;
    }
    let events = (end_ms - REQUEST_MS - START_MS) / EVERY_MS;
    assert!(server.durable.contiguous_from(1).is_some_and(|through| through as i64 >= events - 2));
    for minute in 0..(end_ms - START_MS) / MINUTE_MS - 1 {
        let key = RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms: window_start(START_MS + minute * MINUTE_MS),
            client_id: client_id.clone(),
            target: "tcp://a.example:1".into(),
            family: Family::V4,
        };
        assert_eq!(server.rows.get(&key).map(|row| row.count_total), Some(60), "minute {minute}");
    }
    // The minute in which the line was cut had settled half full: it was corrected, and says so.
    let cut: Vec<&Rollup> = settled_before.iter().filter(|row| row.count_total < 60).collect();
    assert!(cut.iter().all(|row| row.state != RollupState::Provisional), "{cut:?}");
    for row in cut {
        let after = &server.rows[&row.key];
        assert!(after.version > row.version && after.late_merged > 0, "{after:?}");
    }
}
