//! The embedded queue at five hundred power cuts: what it acknowledged is there, once, and nothing else is.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use caelum_model::id::{Offset, PartitionId};
use caelum_queue::{Embedded, NewRecord, Queue};
use caelum_testkit::powercut::{self, Child};
use futures_util::future::join_all;

const CUTS: usize = 500;
const PARTITIONS: u16 = 2;

/// What the record of a number says: nothing else may ever be read.
fn content(number: usize) -> Vec<u8> {
    let size = number * 977 % 1_100;
    format!("{number}:").into_bytes().into_iter().chain((0..size).map(|at| (at * 7 + number) as u8)).collect()
}

fn record(number: usize) -> NewRecord {
    NewRecord {
        partition: PartitionId((number % usize::from(PARTITIONS)) as u16),
        events: 1,
        key: String::new(),
        bytes: Bytes::from(content(number)),
    }
}

fn open(folder: &Path) -> Embedded {
    Embedded::open(&folder.join("queue.db"), 1 << 30).expect("opens")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Three lives of a queue: appends in groups, trims now and then, until the log was folded into the file.
async fn work(child: &mut Child) {
    let mut number = 0;
    for _ in 0..3 {
        let queue = open(child.folder());
        for step in 0..110 {
            let appends = (0..=step % 3).map(|_| {
                let numbers = [number, number + 1];
                number += 2;
                let queue = &queue;
                async move { (numbers, queue.append(numbers.map(record).to_vec()).await.expect("appended")) }
            });
            for (numbers, offsets) in join_all(appends).await {
                for (number, offset) in numbers.into_iter().zip(offsets) {
                    child.mark(&format!("kept {number} {offset}"));
                }
            }
            if step % 20 == 19 {
                let newest = queue.newest(PartitionId(1)).expect("known");
                let through = Offset(newest.0 - 5);
                child.mark(&format!("trimming 1 {through}"));
                queue.trim(PartitionId(1), through).await.expect("trimmed");
            }
        }
        queue.close();
    }
}

async fn check(folder: &Path, marks: &[String]) {
    let queue = open(folder);
    let mut found: BTreeMap<(u16, u64), usize> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let mut after = Offset(0);
        loop {
            let records = queue.read(PartitionId(partition), after, 1_000).await.expect("reads");
            let Some(last) = records.last() else { break };
            after = last.offset;
            for record in records {
                let digits = record.bytes.split(|byte| *byte == b':').next().expect("there is a first part");
                let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                let number = number.expect("every record begins with its number");
                assert_eq!(record.bytes, content(number), "the record {number} is not what was appended");
                found.insert((partition, record.offset.0), number);
            }
        }
    }
    let mut numbers: Vec<usize> = found.values().copied().collect();
    numbers.sort_unstable();
    assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "a record is there twice");
    let mut trimmed = [0; PARTITIONS as usize];
    for words in marks.iter().map(|mark| mark.split(' ').collect::<Vec<_>>()) {
        if let ["trimming", partition, through] = words[..] {
            let partition: usize = partition.parse().expect("a number");
            trimmed[partition] = through.parse().expect("an offset");
        }
    }
    let mut newest = [0; PARTITIONS as usize];
    for words in marks.iter().map(|mark| mark.split(' ').collect::<Vec<_>>()) {
        if let ["kept", number, offset] = words[..] {
            let (number, offset): (usize, u64) =
                (number.parse().expect("a number"), offset.parse().expect("an offset"));
            let partition = record(number).partition.0;
            newest[usize::from(partition)] = newest[usize::from(partition)].max(offset);
            if offset > trimmed[usize::from(partition)] {
                assert_eq!(found.get(&(partition, offset)), Some(&number), "acknowledged and not there");
            }
        }
    }
    for partition in 0..PARTITIONS {
        let offsets = queue.append(vec![record(usize::from(partition))]).await.expect("it goes on");
        assert!(offsets[0].0 > newest[usize::from(partition)], "an offset is used again");
    }
}

#[test]
fn what_the_embedded_queue_acknowledged_survives_a_power_cut_at_any_moment() {
    if let Some(mut child) = powercut::child() {
        return runtime().block_on(work(&mut child));
    }
    let test = "what_the_embedded_queue_acknowledged_survives_a_power_cut_at_any_moment";
    let journal = powercut::record(test).expect("the child's life is recorded");
    assert!(journal.len() > CUTS, "{} calls are too few", journal.len());
    let runtime = runtime();
    let mut kept = 0;
    journal
        .each_cut(CUTS, 1, |folder, cut| {
            runtime.block_on(check(folder, cut.marks));
            kept = cut.marks.len();
        })
        .expect("the folders are rebuilt");
    assert!(kept > 1_000, "{kept} marks are too few");
}
