//! Promises about partitions, windows, what was seen, and longer windows.

use std::{collections::BTreeMap, sync::Arc};

use caelum_model::{
    event::{ErrorStage, Family},
    id::{ClientId, Offset, PartitionId},
    rollup::{LastSeen, MINUTE_MS, Measure, Rollup, RollupKey, RollupState, SeenRanges},
};
use caelum_store::{
    CommitOutcome, DeadLetter, DeadLetterQuery, DeadLetterState, Ownership, RollupQuery, StaleTier, Store,
    TierCommit, WindowCommit,
};

use crate::{Records, promised};

const PARTITION: PartitionId = PartitionId(3);
const DAY_MS: i64 = 86_400_000;

fn key(window_start_ms: i64, target: &str) -> RollupKey {
    RollupKey {
        width_ms: MINUTE_MS,
        window_start_ms,
        client_id: ClientId::parse("probe-1").expect("valid"),
        target: target.into(),
        family: Family::V4,
    }
}

fn rollup(window_start_ms: i64, target: &str) -> Rollup {
    Rollup {
        key: key(window_start_ms, target),
        partition: PARTITION,
        count_total: 6,
        count_success: 5,
        count_error: 1,
        errors_by_stage: BTreeMap::from([(ErrorStage::Dns, 1)]),
        errors_by_class: BTreeMap::from([("NXDOMAIN".into(), 1)]),
        distributions: BTreeMap::from([(Measure::Tcp, vec![1, 2, 3]), (Measure::Rpm, vec![])]),
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

fn letter(document: &str) -> DeadLetter {
    DeadLetter {
        id: 0,
        partition: PARTITION,
        kept_at_ms: 7,
        client_id: ClientId::parse("probe-1").expect("valid"),
        ts_ms: 5,
        reason: "too_late".into(),
        state: DeadLetterState::Kept,
        document: document.into(),
    }
}

fn of(rollups: Vec<Rollup>) -> WindowCommit {
    WindowCommit { rollups, ..WindowCommit::default() }
}

async fn take(store: &Store, owner: &str, fence: u64) -> Ownership {
    store.take_partition(PARTITION, owner.into(), fence).await.expect("asked").expect("taken")
}

async fn commit(store: &Store, owned: Ownership, through: u64, commit: WindowCommit) -> CommitOutcome {
    store.commit_windows(PARTITION, owned, Offset(through), commit).await.expect("answered")
}

async fn rows_seen_ranges_and_offset_move_together_and_survive_a_reopening(records: Records) {
    let owned = take(&records.store, "a", 0).await;
    let first = WindowCommit {
        rollups: vec![rollup(0, "tcp://a:1"), rollup(60_000, "tcp://a:1")],
        seen: vec![seen(u64::MAX)],
        new_ids: vec![([7; 16], 10), ([7; 16], 10)],
        counted: 12,
        ..WindowCommit::default()
    };
    assert_eq!(commit(&records.store, owned, 2, first).await, CommitOutcome::Done);
    let records = records.reopened().await;
    let store = &records.store;
    let partitions = store.partitions().await.expect("read");
    assert_eq!((partitions[0].partition, partitions[0].offset), (PARTITION, Offset(2)));
    let open = store.partition_rollups(PARTITION, 60_000).await.expect("read");
    assert_eq!(open, vec![rollup(60_000, "tcp://a:1")]);
    assert_eq!(store.unsettled_rollups(PARTITION).await.expect("read").len(), 2);
    assert_eq!(store.seen_ranges(PARTITION).await.expect("read"), vec![seen(u64::MAX)]);
    assert_eq!(store.seen_ids(PARTITION).await.expect("read"), vec![([7; 16], 10)]);
    let probes = store.probes().await.expect("read");
    assert_eq!((probes[0].counted, probes[0].missing), (8, 1));
    assert_eq!(store.pipeline_totals().await.expect("read").counted, 12);
}

async fn a_row_is_replaced_under_its_key_and_found_under_it(records: Records) {
    let store = &records.store;
    let owned = take(store, "a", 0).await;
    commit(store, owned, 1, of(vec![rollup(0, "tcp://a:1")])).await;
    let newer = Rollup {
        count_total: 9,
        state: RollupState::Complete,
        distributions: BTreeMap::new(),
        version: 2,
        ..rollup(0, "tcp://a:1")
    };
    let owned = Ownership { offset: Offset(1), ..owned };
    // A key twice in one commit: the last word holds.
    commit(store, owned, 2, of(vec![rollup(0, "tcp://a:1"), newer.clone()])).await;
    let found = store.rollups_by_keys(vec![key(60_000, "tcp://a:1"), key(0, "tcp://a:1")]).await;
    assert_eq!(found.expect("read"), vec![newer]);
    assert!(store.unsettled_rollups(PARTITION).await.expect("read").is_empty());
}

async fn an_owner_that_lost_its_partition_commits_nothing(records: Records) {
    let store = &records.store;
    let first = take(store, "a", 0).await;
    let second = take(store, "b", first.fence).await;
    assert!(second.fence > first.fence);
    assert_eq!(store.take_partition(PARTITION, "c".into(), first.fence).await.expect("asked"), None);
    let rows = || of(vec![rollup(0, "tcp://a:1")]);
    assert_eq!(commit(store, first, 1, rows()).await, CommitOutcome::NotOwner);
    let tier = TierCommit { rollups: vec![rollup(0, "tcp://a:1")], ..TierCommit::default() };
    let refused = store.commit_tiers(PARTITION, first.fence, tier).await.expect("answered");
    assert_eq!(refused, CommitOutcome::NotOwner);
    let query = RollupQuery { limit: 10, ..RollupQuery::default() };
    assert!(store.rollups(query).await.expect("read").is_empty());
    assert_eq!(commit(store, second, 1, rows()).await, CommitOutcome::Done);
    assert!(!store.release_partition(PARTITION, first).await.expect("asked"));
    assert!(store.release_partition(PARTITION, second).await.expect("asked"));
    assert_eq!(store.partitions().await.expect("read")[0].owner, "");
}

async fn a_commit_whose_answer_was_lost_is_stored_once_and_known_again(records: Records) {
    let store = &records.store;
    let owned = take(store, "a", 0).await;
    let again = || WindowCommit {
        rollups: vec![rollup(0, "tcp://a:1")],
        dead_letters: vec![letter("{}")],
        counted: 6,
        ..WindowCommit::default()
    };
    for through in [1, 1] {
        assert_eq!(commit(store, owned, through, again()).await, CommitOutcome::Done);
    }
    assert_eq!(store.pipeline_totals().await.expect("read").counted, 6);
    assert_eq!(
        store.dead_letters(DeadLetterQuery { limit: 9, ..Default::default() }).await.expect("read").len(),
        1
    );
    assert_eq!(store.newest_rev().await.expect("read"), 1);
    let other = WindowCommit { counted: 7, ..again() };
    assert_eq!(
        commit(store, owned, 1, other).await,
        CommitOutcome::NotOwner,
        "another commit is not that one"
    );
    // One that moves no offset is known as well.
    let owned = Ownership { offset: Offset(1), ..owned };
    let unmoved = || WindowCommit { too_late: 1, ..WindowCommit::default() };
    for _ in 0..2 {
        assert_eq!(commit(store, owned, 1, unmoved()).await, CommitOutcome::Done);
    }
    assert_eq!(store.pipeline_totals().await.expect("read").too_late, 1);
    let next = take(store, "b", owned.fence).await;
    assert_eq!(
        commit(store, owned, 1, unmoved()).await,
        CommitOutcome::NotOwner,
        "not even that, once it is lost"
    );
    assert_eq!(next.offset, Offset(1));
}

async fn of_many_that_take_one_partition_one_does_each_round(records: Records) {
    let stores = [Arc::clone(&records.store), records.another().await];
    for round in 0..10u64 {
        let mut takers = tokio::task::JoinSet::new();
        for n in 0..8usize {
            let store = Arc::clone(&stores[n % 2]);
            takers.spawn(async move {
                let taken = store.take_partition(PARTITION, format!("a-{n}"), round).await.expect("asked");
                let Some(owned) = taken else { return 0 };
                assert_eq!(owned.fence, round + 1);
                commit(&store, owned, owned.offset.0 + 1, of(vec![rollup(0, "tcp://a:1")])).await;
                1
            });
        }
        assert_eq!(takers.join_all().await.into_iter().sum::<i32>(), 1, "in round {round}");
    }
    assert_eq!(records.store.partitions().await.expect("read")[0].offset, Offset(10));
}

async fn reading_since_a_revision_misses_no_later_commit(records: Records) {
    let store = &records.store;
    let mut owned = take(store, "a", 0).await;
    for n in 1..=3 {
        commit(store, owned, n, of(vec![rollup(n.cast_signed() * MINUTE_MS, "tcp://a:1")])).await;
        owned.offset = Offset(n);
    }
    let all = store.rollups_since(0, 10).await.expect("read");
    assert_eq!(all.len(), 3);
    assert_eq!(store.rollups_since(all[0].rev, 10).await.expect("read"), all[1..]);
    assert_eq!(store.newest_rev().await.expect("read"), all[2].rev);
    store.drop_rollups(MINUTE_MS, i64::MAX, 10).await.expect("dropped");
    assert!(store.rollups_since(0, 10).await.expect("read").is_empty());
    commit(store, owned, 4, of(vec![rollup(0, "tcp://a:1")])).await;
    assert_eq!(store.rollups_since(all[2].rev, 10).await.expect("read").len(), 1, "no number is used twice");
}

async fn a_reader_of_new_rows_misses_none_while_many_commit_at_once(records: Records) {
    const WRITERS: u16 = 6;
    const COMMITS: u64 = 20;
    let another = records.another().await;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..WRITERS {
        let store = Arc::clone(if n % 2 == 0 { &records.store } else { &another });
        writers.spawn(async move {
            let partition = PartitionId(n);
            let taken = store.take_partition(partition, format!("a-{n}"), 0).await.expect("asked");
            let mut owned = taken.expect("taken");
            for through in 1..=COMMITS {
                let start = through.cast_signed() * MINUTE_MS;
                let row = Rollup { partition, ..rollup(start, &format!("tcp://{n}:1")) };
                let done = store.commit_windows(partition, owned, Offset(through), of(vec![row])).await;
                assert_eq!(done.expect("answered"), CommitOutcome::Done);
                owned.offset = Offset(through);
            }
        });
    }
    let all = usize::from(WRITERS) * usize::try_from(COMMITS).expect("small");
    let (mut rev, mut read) = (0, Vec::new());
    while read.len() < all {
        let rows = records.store.rollups_since(rev, 7).await.expect("read");
        if rows.is_empty() && writers.is_empty() {
            break;
        }
        rev = rows.last().map_or(rev, |row| row.rev);
        read.extend(rows.into_iter().map(|row| row.rollup.key));
        while let Some(ended) = writers.try_join_next() {
            ended.expect("no writer panics");
        }
    }
    let distinct: std::collections::BTreeSet<_> = read.iter().collect();
    assert_eq!((read.len(), distinct.len()), (all, all));
}

async fn a_list_of_rollups_goes_on_after_its_cursor(records: Records) {
    let store = &records.store;
    let owned = take(store, "a", 0).await;
    // Capitals come before small letters, byte by byte, whatever the server's language.
    let rollups: Vec<Rollup> = (0..6i64)
        .map(|n| rollup(n / 2 * MINUTE_MS, if n % 2 == 0 { "tcp://B:1" } else { "tcp://a:1" }))
        .collect();
    commit(store, owned, 1, of(rollups.clone())).await;
    let mut read = Vec::new();
    loop {
        let after = read.last().map(|row: &Rollup| row.key.clone());
        let query = RollupQuery { after, limit: 2, ..RollupQuery::default() };
        let page = store.rollups(query).await.expect("read");
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, rollups);
    let query = RollupQuery {
        client_id: Some("probe-1".into()),
        target: Some("tcp://a:1".into()),
        family: Some(Family::V4),
        from_ms: Some(MINUTE_MS),
        to_ms: Some(2 * MINUTE_MS),
        limit: 9,
        ..RollupQuery::default()
    };
    assert_eq!(store.rollups(query).await.expect("read"), rollups[3..4]);
}

async fn old_windows_are_forgotten_by_length_and_later_ones_stay(records: Records) {
    let store = &records.store;
    let owned = take(store, "a", 0).await;
    let long = |start: i64| {
        let mut row = rollup(start, "tcp://a:1");
        row.key.width_ms = 900_000;
        row
    };
    let rows = vec![rollup(0, "tcp://a:1"), rollup(3 * DAY_MS, "tcp://a:1"), long(0), long(40 * DAY_MS)];
    commit(store, owned, 1, of(rows)).await;
    assert_eq!(store.drop_rollups(MINUTE_MS, 2 * DAY_MS, 10).await.expect("dropped"), 1);
    assert_eq!(store.drop_rollups(MINUTE_MS, 2 * DAY_MS, 10).await.expect("dropped"), 0);
    assert_eq!(store.drop_rollups(900_000, DAY_MS, 10).await.expect("dropped"), 1);
    let left = store.rollups_since(0, 10).await.expect("read");
    let mut starts: Vec<_> = left.iter().map(|row| row.rollup.key.window_start_ms).collect();
    starts.sort_unstable();
    assert_eq!(starts, vec![3 * DAY_MS, 40 * DAY_MS]);
    // What is forgotten can come again.
    let owned = Ownership { offset: Offset(1), ..owned };
    assert_eq!(commit(store, owned, 2, of(vec![rollup(0, "tcp://a:1")])).await, CommitOutcome::Done);
}

async fn a_mark_that_grew_while_its_window_was_merged_stays(records: Records) {
    let store = &records.store;
    let owned = take(store, "a", 0).await;
    let tier = |start| RollupKey { width_ms: 900_000, ..key(start, "tcp://a:1") };
    let stale = |through| WindowCommit {
        stale_tiers: vec![tier(0), tier(900_000), tier(0)],
        counted: through,
        ..WindowCommit::default()
    };
    commit(store, owned, 1, stale(1)).await;
    let listed = store.stale_tiers(PARTITION, 900_000, 10).await.expect("read");
    assert_eq!(
        listed.iter().map(|stale| stale.key.clone()).collect::<Vec<_>>(),
        vec![tier(0), tier(900_000)]
    );
    let owned = Ownership { offset: Offset(1), ..owned };
    commit(store, owned, 2, WindowCommit { stale_tiers: vec![tier(0)], ..WindowCommit::default() }).await;
    let merged = Rollup { key: tier(0), ..rollup(0, "tcp://a:1") };
    let day = RollupKey { width_ms: DAY_MS, ..tier(0) };
    let done = TierCommit { rollups: vec![merged.clone()], done: listed, stale: vec![day.clone()] };
    let outcome = store.commit_tiers(PARTITION, owned.fence, done).await.expect("answered");
    assert_eq!(outcome, CommitOutcome::Done);
    let left = store.stale_tiers(PARTITION, 900_000, 10).await.expect("read");
    assert_eq!(left.iter().map(|stale| stale.key.clone()).collect::<Vec<_>>(), vec![tier(0)], "it grew");
    assert_eq!(
        store.stale_tiers(PARTITION, DAY_MS, 10).await.expect("read"),
        vec![StaleTier { key: day, mark: 1 }]
    );
    assert_eq!(store.rollups_by_keys(vec![tier(0)]).await.expect("read"), vec![merged]);
}

async fn the_parts_of_longer_windows_are_found_by_the_windows_they_lie_in(records: Records) {
    let store = &records.store;
    let owned = take(store, "a", 0).await;
    let rows = (0..4).map(|n| rollup(n * 10 * MINUTE_MS, "tcp://a:1")).collect();
    commit(store, owned, 1, of(rows)).await;
    let whole = |start| RollupKey { width_ms: 900_000, ..key(start, "tcp://a:1") };
    let other = RollupKey { target: "tcp://b:1".into(), ..whole(0) };
    let found = store.rollups_within(vec![whole(0), whole(1_800_000), other], MINUTE_MS).await.expect("read");
    let mut starts: Vec<_> = found.iter().map(|row| row.key.window_start_ms).collect();
    starts.sort_unstable();
    assert_eq!(starts, vec![0, 600_000, 1_800_000]);
    assert!(store.rollups_within(Vec::new(), MINUTE_MS).await.expect("read").is_empty());
}

async fn an_event_kept_aside_is_asked_for_once_and_settled_by_the_commit_that_counts_it(records: Records) {
    let store = &records.store;
    let owned = take(store, "a", 0).await;
    let two = vec![letter("{\"a\":1}"), letter("{\"a\":2}")];
    commit(store, owned, 1, WindowCommit { dead_letters: two, ..WindowCommit::default() }).await;
    let all = || DeadLetterQuery { limit: 9, ..DeadLetterQuery::default() };
    let kept = store.dead_letters(all()).await.expect("read");
    assert_eq!(
        kept.iter().map(|letter| letter.document.as_str()).collect::<Vec<_>>(),
        ["{\"a\":2}", "{\"a\":1}"]
    );
    let ids: Vec<i64> = kept.iter().map(|letter| letter.id).collect();
    assert_eq!(store.request_replay(vec![ids[1], i64::MAX]).await.expect("asked"), 1);
    assert_eq!(store.request_replay(vec![ids[1]]).await.expect("asked"), 0);
    let requested = store.requested_replays(PARTITION, 9).await.expect("read");
    assert_eq!(requested.iter().map(|letter| letter.id).collect::<Vec<_>>(), vec![ids[1]]);
    let owned = Ownership { offset: Offset(1), ..owned };
    commit(store, owned, 1, WindowCommit { replayed: vec![ids[1]], counted: 1, ..WindowCommit::default() })
        .await;
    assert!(store.requested_replays(PARTITION, 9).await.expect("read").is_empty());
    let counts = store.dead_letter_counts().await.expect("read");
    assert_eq!(
        counts.iter().map(|count| (count.state, count.count)).collect::<Vec<_>>(),
        vec![(DeadLetterState::Kept, 1), (DeadLetterState::Replayed, 1)]
    );
    let only = DeadLetterQuery { state: Some(DeadLetterState::Kept), before_id: Some(i64::MAX), ..all() };
    assert_eq!(store.dead_letters(only).await.expect("read")[0].id, ids[0]);
}

async fn an_aggregator_that_beat_again_is_not_forgotten(records: Records) {
    let store = &records.store;
    let round = store.aggregator_round("a".into(), "{}".into()).await.expect("beaten");
    assert_eq!((round.members.len(), round.members[0].beat), (1, 1));
    let round = store.aggregator_round("a".into(), "{\"x\":1}".into()).await.expect("beaten");
    assert_eq!((round.members[0].beat, round.members[0].document.as_str()), (2, "{\"x\":1}"));
    assert!(!store.forget_aggregator("a".into(), 1).await.expect("asked"));
    assert!(store.forget_aggregator("a".into(), 2).await.expect("asked"));
    assert!(store.aggregators().await.expect("read").is_empty());
}

promised!(
    rows_seen_ranges_and_offset_move_together_and_survive_a_reopening,
    a_row_is_replaced_under_its_key_and_found_under_it,
    an_owner_that_lost_its_partition_commits_nothing,
    a_commit_whose_answer_was_lost_is_stored_once_and_known_again,
    of_many_that_take_one_partition_one_does_each_round,
    reading_since_a_revision_misses_no_later_commit,
    a_reader_of_new_rows_misses_none_while_many_commit_at_once,
    a_list_of_rollups_goes_on_after_its_cursor,
    old_windows_are_forgotten_by_length_and_later_ones_stay,
    a_mark_that_grew_while_its_window_was_merged_stays,
    the_parts_of_longer_windows_are_found_by_the_windows_they_lie_in,
    an_event_kept_aside_is_asked_for_once_and_settled_by_the_commit_that_counts_it,
    an_aggregator_that_beat_again_is_not_forgotten,
);
