//! The store's promises, on a real file.

use std::collections::BTreeMap;

use caelum_model::{
    access::{AuditEntry, Role, User},
    event::Family,
    id::{ClientId, Offset, PartitionId, TargetId},
    rollup::{LastSeen, MINUTE_MS, Measure, Rollup, RollupKey, RollupState, SeenRanges},
    target::{Families, Target, TargetOrigin},
};

use super::Sqlite;
use crate::{CommitOutcome, RollupQuery, StoreError, WindowCommit};

fn open() -> (tempfile::TempDir, Sqlite) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Sqlite::open(&directory.path().join("caelum.db")).expect("opens");
    (directory, store)
}

fn rollup(window_start_ms: i64, target: &str) -> Rollup {
    Rollup {
        key: RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms,
            client_id: ClientId::parse("probe-1").expect("valid"),
            target: target.into(),
            family: Family::V4,
        },
        partition: PartitionId(3),
        count_total: 6,
        count_success: 5,
        count_error: 1,
        errors_by_stage: BTreeMap::from([(caelum_model::event::ErrorStage::Dns, 1)]),
        errors_by_class: BTreeMap::from([("NXDOMAIN".into(), 1)]),
        distributions: BTreeMap::from([(Measure::Tcp, vec![1, 2, 3])]),
        late_merged: 0,
        last: LastSeen { ts_ms: window_start_ms + 5, ..LastSeen::default() },
        state: RollupState::Provisional,
        version: 1,
        updated_at_ms: window_start_ms + 10,
    }
}

fn seen(epoch: u64) -> SeenRanges {
    SeenRanges {
        client_id: ClientId::parse("probe-1").expect("valid"),
        epoch,
        ranges: vec![(1, 4), (6, 9)],
        edges: vec![(10, 40), (60, 99)],
        max_ts_ms: 99,
        too_late: 2,
    }
}

#[tokio::test]
async fn rows_seen_ranges_and_offset_move_together_and_survive_a_reopening() {
    let (directory, store) = open();
    let partition = PartitionId(3);
    let owned = store.take_partition(partition, "a".into(), 0).await.expect("asked").expect("taken");
    let commit = WindowCommit {
        rollups: vec![rollup(0, "tcp://a:1"), rollup(60_000, "tcp://a:1")],
        seen: vec![seen(u64::MAX)],
        new_ids: vec![([7; 16], 10)],
        counted: 12,
        ..WindowCommit::default()
    };
    let outcome = store.commit_windows(partition, owned, Offset(2), commit).await.expect("committed");
    assert_eq!(outcome, CommitOutcome::Done);
    store.close();
    let store = Sqlite::open(&directory.path().join("caelum.db")).expect("opens again");
    let partitions = store.partitions().await.expect("read");
    assert_eq!((partitions[0].partition, partitions[0].offset), (partition, Offset(2)));
    assert_eq!(
        store.partition_rollups(partition, 60_000).await.expect("read"),
        vec![rollup(60_000, "tcp://a:1")]
    );
    assert_eq!(store.seen_ranges(partition).await.expect("read"), vec![seen(u64::MAX)]);
    assert_eq!(store.seen_ids(partition).await.expect("read"), vec![([7; 16], 10)]);
    let probes = store.probes().await.expect("read");
    assert_eq!((probes[0].counted, probes[0].missing), (8, 1));
    assert_eq!(store.pipeline_totals().await.expect("read").counted, 12);
}

#[tokio::test]
async fn an_owner_that_lost_its_partition_commits_nothing() {
    let (_directory, store) = open();
    let partition = PartitionId(3);
    let first = store.take_partition(partition, "a".into(), 0).await.expect("asked").expect("taken");
    let second =
        store.take_partition(partition, "b".into(), first.fence).await.expect("asked").expect("taken");
    assert!(second.fence > first.fence);
    let commit = || WindowCommit { rollups: vec![rollup(0, "tcp://a:1")], ..WindowCommit::default() };
    let late = store.commit_windows(partition, first, Offset(1), commit()).await.expect("answered");
    assert_eq!(late, CommitOutcome::NotOwner);
    assert!(
        store.rollups(RollupQuery { limit: 10, ..RollupQuery::default() }).await.expect("read").is_empty()
    );
    let done = store.commit_windows(partition, second, Offset(1), commit()).await.expect("answered");
    assert_eq!(done, CommitOutcome::Done);
    let repeated = store.commit_windows(partition, second, Offset(1), commit()).await.expect("answered");
    assert_eq!(repeated, CommitOutcome::NotOwner, "the same commit cannot be stored twice");
}

#[tokio::test]
async fn reading_since_a_revision_misses_no_later_commit() {
    let (_directory, store) = open();
    let partition = PartitionId(3);
    let mut owned = store.take_partition(partition, "a".into(), 0).await.expect("asked").expect("taken");
    for n in 1..=3 {
        let commit =
            WindowCommit { rollups: vec![rollup(n * 60_000, "tcp://a:1")], ..WindowCommit::default() };
        store.commit_windows(partition, owned, Offset(n as u64), commit).await.expect("committed");
        owned.offset = Offset(n as u64);
    }
    let all = store.rollups_since(0, 10).await.expect("read");
    assert_eq!(all.len(), 3);
    let later = store.rollups_since(all[0].rev, 10).await.expect("read");
    assert_eq!(later, all[1..]);
    assert_eq!(store.newest_rev().await.expect("read"), all[2].rev);
    store.drop_rollups(MINUTE_MS, i64::MAX, 10).await.expect("dropped");
    let commit = WindowCommit { rollups: vec![rollup(0, "tcp://a:1")], ..WindowCommit::default() };
    store.commit_windows(partition, owned, Offset(4), commit).await.expect("committed");
    assert_eq!(store.rollups_since(all[2].rev, 10).await.expect("read").len(), 1, "no number is used twice");
}

#[tokio::test]
async fn a_list_of_rollups_goes_on_after_its_cursor() {
    let (_directory, store) = open();
    let owned = store.take_partition(PartitionId(3), "a".into(), 0).await.expect("asked").expect("taken");
    let rollups = (0..5).map(|n| rollup(n / 2 * 60_000, &format!("tcp://a:{n}"))).collect::<Vec<_>>();
    let commit = WindowCommit { rollups: rollups.clone(), ..WindowCommit::default() };
    store.commit_windows(PartitionId(3), owned, Offset(1), commit).await.expect("committed");
    let mut read = Vec::new();
    loop {
        let after = read.last().map(|row: &Rollup| row.key.clone());
        let page =
            store.rollups(RollupQuery { after, limit: 2, ..RollupQuery::default() }).await.expect("read");
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, rollups);
}

#[tokio::test]
async fn a_failed_write_leaves_its_neighbours_standing() {
    let (_directory, store) = open();
    let target = |id: &str, url: &str| Target {
        target_id: TargetId::parse(id).expect("valid"),
        url: url.into(),
        name: id.into(),
        interval_s: 10,
        timeout_ms: 5000,
        throughput_url: None,
        families: Families::Any,
        origin: TargetOrigin::Api,
        enabled: true,
        created_at_ms: 1,
    };
    let results = futures_join(
        store.add_target(target("a", "tcp://a:1")),
        store.add_target(target("b", "tcp://a:1")),
        store.add_target(target("c", "tcp://c:1")),
    )
    .await;
    assert!(results.0.is_ok() && results.2.is_ok());
    assert!(matches!(results.1, Err(StoreError::Exists { .. })));
    assert_eq!(store.targets().await.expect("read").len(), 2);
}

async fn futures_join<A, B, C>(
    a: impl Future<Output = A>,
    b: impl Future<Output = B>,
    c: impl Future<Output = C>,
) -> (A, B, C) {
    tokio::join!(a, b, c)
}

#[tokio::test]
async fn an_expired_key_is_gone_before_it_is_swept() {
    let (_directory, store) = open();
    store.put_key("session/1".into(), "ops".into(), 100).await.expect("stored");
    assert_eq!(store.key("session/1".into(), 99).await.expect("read"), Some(("ops".into(), 100)));
    assert_eq!(store.key("session/1".into(), 100).await.expect("read"), None);
    assert_eq!(store.sweep_keys(100).await.expect("swept"), 1);
}

#[tokio::test]
async fn a_user_is_replaced_by_name_and_the_audit_log_reads_newest_first() {
    let (_directory, store) = open();
    let user = |role| User { name: "admin".into(), role, password_hash: "x".into(), created_at_ms: 1 };
    store.put_user(user(Role::Viewer)).await.expect("stored");
    store.put_user(user(Role::Admin)).await.expect("stored");
    assert_eq!(store.users().await.expect("read"), vec![user(Role::Admin)]);
    for at_ms in 1..=2 {
        let entry = AuditEntry {
            at_ms,
            actor: "admin".into(),
            action: "target.add".into(),
            subject: "x".into(),
            outcome: "done".into(),
        };
        store.audit(entry).await.expect("written");
    }
    let log = store.audit_log(10, 10).await.expect("read");
    assert_eq!(log.iter().map(|entry| entry.at_ms).collect::<Vec<_>>(), vec![2, 1]);
}

#[tokio::test]
async fn a_closed_store_refuses_instead_of_hanging() {
    let (_directory, store) = open();
    store.close();
    assert!(matches!(store.sweep_keys(1).await, Err(StoreError::Closed { .. })));
}
