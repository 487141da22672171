//! The drill of docs/operations.md: the primary is lost, the replica takes over, and nothing that was
//! confirmed is missing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use caelum_model::{
    event::Family,
    id::{ClientId, Offset, PartitionId},
    rollup::{LastSeen, MINUTE_MS, Rollup, RollupKey, RollupState},
};
use caelum_store::{CommitOutcome, Ownership, Store, WindowCommit};
use caelum_testkit::{postgres::Plan, wait};

use crate::connect;

const WRITERS: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(90);

fn row(partition: PartitionId, number: u64) -> Rollup {
    Rollup {
        key: RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms: number.cast_signed() * MINUTE_MS,
            client_id: ClientId::parse("probe").expect("valid"),
            target: format!("tcp://{partition}:1"),
            family: Family::V4,
        },
        partition,
        count_total: number,
        count_success: number,
        count_error: 0,
        errors_by_stage: Default::default(),
        errors_by_class: Default::default(),
        distributions: Default::default(),
        late_merged: 0,
        last: LastSeen::default(),
        state: RollupState::Provisional,
        version: 1,
        updated_at_ms: 1,
    }
}

/// Commits numbered rows until told to stop, each until it is confirmed; answers how many were.
async fn write(
    store: Arc<Store>,
    partition: PartitionId,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
) -> u64 {
    let taken = store.take_partition(partition, "a".into(), 0).await.expect("asked").expect("taken");
    let mut owned = taken;
    while !stop.load(Ordering::Relaxed) {
        let number = owned.offset.0 + 1;
        let commit = WindowCommit { rollups: vec![row(partition, number)], counted: 1, ..Default::default() };
        loop {
            match store.commit_windows(partition, owned, Offset(number), commit.clone()).await {
                Ok(outcome) => {
                    assert_eq!(outcome, CommitOutcome::Done, "of row {number} in partition {partition}");
                    break;
                }
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
            tokio::task::yield_now().await;
        }
        owned = Ownership { offset: Offset(number), ..owned };
        done.fetch_add(1, Ordering::Relaxed);
    }
    owned.offset.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_is_lost_the_replica_takes_over_and_nothing_confirmed_is_missing() {
    let mut primary = Plan::new()
        .durable()
        .with("wal_level=replica")
        .with("synchronous_standby_names=second")
        // Nothing is confirmed before the replica is there.
        .with("synchronous_commit=local")
        .start()
        .expect("starts");
    let second = primary.replica("second", Plan::new().durable()).expect("follows");
    primary.psql("postgres", "alter database postgres set synchronous_commit = on").expect("set");
    let url = format!(
        "postgres://postgres@{},{}/postgres?target_session_attrs=read-write",
        primary.place(),
        second.place()
    );
    wait::until("the replica is waited for", PATIENCE, || {
        let state = primary.psql("postgres", "select sync_state from pg_stat_replication");
        state.is_ok_and(|state| state == "sync").then_some(())
    });
    let store = Arc::new(connect(&url).await);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..WRITERS {
        let (store, stop, done) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&done));
        writers.spawn(async move { (n, write(store, PartitionId(n), stop, done).await) });
    }
    let confirmed = |at_least: usize| {
        let done = &done;
        wait::until_answered("rows are confirmed", PATIENCE, async move || {
            (done.load(Ordering::Relaxed) >= at_least).then_some(())
        })
    };
    confirmed(100).await;
    primary.kill();
    let before = done.load(Ordering::Relaxed);
    let second = tokio::task::spawn_blocking(move || second.promote().map(|()| second)).await;
    let second = second.expect("no panic").expect("promoted");
    confirmed(before + 100).await;
    stop.store(true, Ordering::Relaxed);
    let wrote = writers.join_all().await;
    let totals = store.pipeline_totals().await.expect("read");
    assert_eq!(totals.counted, wrote.iter().map(|(_, rows)| rows).sum::<u64>(), "each was counted once");
    for (n, rows) in wrote {
        let stored = store.partition_rollups(PartitionId(n), 0).await.expect("read");
        let mut numbers: Vec<u64> = stored.iter().map(|row| row.count_total).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=rows).collect::<Vec<_>>(), "in partition {n}");
    }
    drop(second);
}
