//! The contract suite: each sentence of [`Queue`]'s contract, on any implementation.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use caelum_model::id::{Offset, PartitionId};
use caelum_testkit::wait;

use crate::{AppendError, NewRecord, Queue};

/// A place where a queue of at least ten partitions can be opened, closed and opened again.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    async fn open(&self, max_bytes: u64) -> Box<dyn Queue>;
}

const MAX_BYTES: u64 = 1 << 20;
/// Backends that are asked for their depth are asked now and then.
const DEPTH_WAIT: Duration = Duration::from_secs(20);

pub(crate) fn record(partition: u16, text: &str) -> NewRecord {
    NewRecord {
        partition: PartitionId(partition),
        events: 1,
        key: String::new(),
        bytes: Bytes::copy_from_slice(text.as_bytes()),
    }
}

pub(crate) async fn texts(queue: &dyn Queue, partition: u16, after: Offset) -> Vec<String> {
    let records = queue.read(PartitionId(partition), after, 100).await.expect("reads");
    records.iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect()
}

/// Everything in a partition, in order.
pub(crate) async fn all_texts(queue: &dyn Queue, partition: u16) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), Offset(0));
    loop {
        let records = queue.read(PartitionId(partition), after, 100).await.expect("reads");
        let Some(last) = records.last() else { return all };
        after = last.offset;
        all.extend(records.iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned()));
    }
}

async fn until_it_holds(queue: &dyn Queue, records: u64) {
    wait::until_answered(&format!("the depth is {records} records"), DEPTH_WAIT, async || {
        let depth = queue.depth();
        (depth.records == records && depth.events == records && depth.bytes >= records).then_some(())
    })
    .await;
}

/// Runs every sentence on a fixture of its own.
pub(crate) async fn run<F: Fixture>(fixture: impl Fn() -> F) {
    an_append_that_is_answered_is_durable(&fixture()).await;
    records_of_one_append_go_each_to_its_partition(&fixture()).await;
    offsets_grow_and_are_never_used_twice(&fixture()).await;
    a_read_gives_records_after_an_offset_in_order_and_again(&fixture()).await;
    a_trim_forgets_through_an_offset_and_nothing_else(&fixture()).await;
    a_full_queue_refuses_and_keeps_what_it_has(&fixture()).await;
    whoever_waits_is_woken_after_an_append(&fixture()).await;
    many_writers_at_once_lose_nothing(&fixture()).await;
    each_partition_tells_how_it_stands(&fixture()).await;
    a_record_that_can_never_fit_is_told_apart(&fixture()).await;
    a_log_is_told_from_another_by_its_name(&fixture(), &fixture()).await;
}

async fn an_append_that_is_answered_is_durable(fixture: &dyn Fixture) {
    let queue = fixture.open(MAX_BYTES).await;
    queue.append(vec![record(1, "a")]).await.expect("appended");
    queue.close();
    assert!(matches!(queue.append(vec![record(1, "b")]).await, Err(AppendError::Closed)));
    drop(queue);
    let queue = fixture.open(MAX_BYTES).await;
    assert_eq!(texts(queue.as_ref(), 1, Offset(0)).await, ["a"]);
    until_it_holds(queue.as_ref(), 1).await;
}

async fn records_of_one_append_go_each_to_its_partition(fixture: &dyn Fixture) {
    let queue = fixture.open(MAX_BYTES).await;
    let offsets = queue.append(vec![record(1, "a"), record(2, "b"), record(1, "c")]).await.expect("appended");
    assert_eq!(offsets.len(), 3);
    assert_eq!(texts(queue.as_ref(), 1, Offset(0)).await, ["a", "c"]);
    assert_eq!(texts(queue.as_ref(), 2, Offset(0)).await, ["b"]);
    assert_eq!(queue.append(Vec::new()).await.expect("nothing to do"), []);
}

async fn offsets_grow_and_are_never_used_twice(fixture: &dyn Fixture) {
    let queue = fixture.open(MAX_BYTES).await;
    let first = queue.append(vec![record(1, "a"), record(1, "b")]).await.expect("appended");
    assert!(Offset(0) < first[0] && first[0] < first[1]);
    queue.trim(PartitionId(1), first[1]).await.expect("trimmed");
    drop(queue);
    let queue = fixture.open(MAX_BYTES).await;
    let second = queue.append(vec![record(1, "c")]).await.expect("appended");
    assert!(second[0] > first[1], "{second:?} after {first:?}");
    assert!(queue.newest(PartitionId(1)).is_none_or(|newest| newest == second[0]));
    assert!(queue.newest(PartitionId(2)).is_none_or(|newest| newest == Offset(0)));
}

async fn a_read_gives_records_after_an_offset_in_order_and_again(fixture: &dyn Fixture) {
    let queue = fixture.open(MAX_BYTES).await;
    let mut offsets = Vec::new();
    for text in ["a", "b", "c"] {
        offsets.extend(queue.append(vec![record(1, text)]).await.expect("appended"));
    }
    for _ in 0..2 {
        assert_eq!(texts(queue.as_ref(), 1, offsets[0]).await, ["b", "c"]);
    }
    assert_eq!(queue.read(PartitionId(1), Offset(0), 2).await.expect("reads").len(), 2);
    assert_eq!(texts(queue.as_ref(), 1, offsets[2]).await, [""; 0]);
    assert_eq!(texts(queue.as_ref(), 9, Offset(0)).await, [""; 0]);
}

async fn a_trim_forgets_through_an_offset_and_nothing_else(fixture: &dyn Fixture) {
    let queue = fixture.open(MAX_BYTES).await;
    let offsets = queue.append(vec![record(1, "a"), record(1, "b"), record(2, "c")]).await.expect("appended");
    queue.trim(PartitionId(1), offsets[0]).await.expect("trimmed");
    queue.trim(PartitionId(1), offsets[0]).await.expect("trimming again changes nothing");
    assert_eq!(texts(queue.as_ref(), 1, Offset(0)).await, ["b"]);
    assert_eq!(texts(queue.as_ref(), 2, Offset(0)).await, ["c"]);
    until_it_holds(queue.as_ref(), 2).await;
}

async fn a_full_queue_refuses_and_keeps_what_it_has(fixture: &dyn Fixture) {
    let (max, size) = (64 << 10, 8 << 10);
    let queue = fixture.open(max).await;
    let text = |n: usize| format!("{n:0size$}");
    let mut kept = Vec::new();
    let refusal = loop {
        match queue.append(vec![record(1, &text(kept.len()))]).await {
            Ok(offsets) => kept.extend(offsets),
            Err(error) => break error,
        }
        assert!(kept.len() < 20, "{max} bytes hold no {} records of {size}", kept.len());
    };
    assert!(matches!(refusal, AppendError::Full { max_bytes, .. } if max_bytes == max), "{refusal:?}");
    assert_eq!(texts(queue.as_ref(), 1, Offset(0)).await.len(), kept.len());
    queue.trim(PartitionId(1), *kept.last().expect("some fit")).await.expect("trimmed");
    queue.append(vec![record(1, "small")]).await.expect("there is room again");
}

async fn whoever_waits_is_woken_after_an_append(fixture: &dyn Fixture) {
    let queue = fixture.open(MAX_BYTES).await;
    let mut appended = queue.appended();
    appended.mark_unchanged();
    let (woken, _) = tokio::join!(appended.changed(), queue.append(vec![record(1, "a")]));
    woken.expect("the queue is open");
}

async fn many_writers_at_once_lose_nothing(fixture: &dyn Fixture) {
    let queue: std::sync::Arc<dyn Queue> = fixture.open(MAX_BYTES).await.into();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let queue = std::sync::Arc::clone(&queue);
        writers.spawn(async move {
            for n in 0..20 {
                queue.append(vec![record(1, &format!("{writer}-{n}"))]).await.expect("appended");
            }
        });
    }
    while let Some(joined) = writers.join_next().await {
        joined.expect("no writer panics");
    }
    let all = all_texts(queue.as_ref(), 1).await;
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (400, 400));
}

async fn each_partition_tells_how_it_stands(fixture: &dyn Fixture) {
    let queue = fixture.open(MAX_BYTES).await;
    assert_eq!(queue.status().await.expect("answers"), []);
    let offsets = queue.append(vec![record(1, "a"), record(1, "b"), record(3, "c")]).await.expect("appended");
    queue.trim(PartitionId(1), offsets[0]).await.expect("trimmed");
    let status = queue.status().await.expect("answers");
    let records: Vec<_> = status.iter().map(|status| (status.partition.0, status.records)).collect();
    assert_eq!(records, [(1, 1), (3, 1)]);
    assert!(status[0].newest >= offsets[1] && status[1].newest >= offsets[2], "{status:?}, {offsets:?}");
}

async fn a_record_that_can_never_fit_is_told_apart(fixture: &dyn Fixture) {
    let queue = fixture.open(u64::MAX).await;
    let mut large = record(1, "");
    large.bytes = Bytes::from(vec![0; queue.record_bytes_max() + 1]);
    assert!(matches!(queue.append(vec![large]).await, Err(AppendError::TooLarge { .. })));
    let mut largest = record(1, "");
    largest.bytes = Bytes::from(vec![0; queue.record_bytes_max()]);
    queue.append(vec![largest]).await.expect("what just fits is taken");
}

async fn a_log_is_told_from_another_by_its_name(fixture: &dyn Fixture, other: &dyn Fixture) {
    let name = fixture.open(MAX_BYTES).await.identity();
    assert_eq!(fixture.open(MAX_BYTES).await.identity(), name);
    assert_ne!(other.open(MAX_BYTES).await.identity(), name);
}
