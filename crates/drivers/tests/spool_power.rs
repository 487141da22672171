//! The spool at six hundred power cuts: what was synced or handed out is there, and no number stands for
//! two events.

use std::path::Path;

use caelum_drivers::spool::{Limits, Spool, SpoolError};
use caelum_testkit::powercut::{self, Child};

const CUTS: usize = 600;
const LIMITS: Limits = Limits { max_bytes: 24_000, segment_bytes: 3_000 };
const EPOCH: u64 = 77;

/// What the event of a number says: nothing else may ever be read.
fn content(seq: u64) -> Vec<u8> {
    (0..20 + seq * 131 % 700).map(|at| (at * 7 + seq) as u8).collect()
}

/// Several lives of a spool: appends, reads, trims, and now and then it is full.
fn work(child: &mut Child) {
    let mut seq = 0;
    for life in 0..4 {
        let mut spool = Spool::open(child.folder(), LIMITS, || EPOCH).expect("opens");
        child.mark(&format!("durable {seq}"));
        for step in 0..150 {
            match spool.append(&content(seq + 1)) {
                Ok(given) => {
                    seq += 1;
                    assert_eq!(given, seq);
                }
                Err(SpoolError::Full { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if step % 31 == 30 {
                spool.sync().expect("synced");
                child.mark(&format!("durable {seq}"));
            }
            if step % 13 == 12 {
                // Every other time all that is there.
                let most = if step % 2 == 0 { usize::MAX } else { 1 + step % 40 };
                let entries = spool.read(spool.trimmed_through(), most, usize::MAX).expect("reads");
                let through = entries.last().map_or(0, |entry| entry.seq);
                child.mark(&format!("handed {through}"));
                if step % 3 != life % 3 {
                    child.mark(&format!("trimming {through}"));
                    spool.trim(through).expect("trimmed");
                }
            }
        }
    }
}

fn highest(marks: &[String], word: &str) -> u64 {
    let numbers = marks.iter().filter_map(|mark| mark.strip_prefix(word)?.trim().parse().ok());
    numbers.max().unwrap_or(0)
}

fn check(folder: &Path, marks: &[String]) {
    let trimming = highest(marks, "trimming");
    let durable = highest(marks, "durable").max(highest(marks, "handed"));
    let mut spool = Spool::open(folder, LIMITS, || EPOCH + 1).expect("opens");
    if durable > 0 {
        assert_eq!(spool.epoch(), EPOCH, "the epoch is lost");
    }
    assert!(spool.trimmed_through() <= trimming, "more is trimmed than was asked for");
    let entries = spool.read(0, usize::MAX, usize::MAX).expect("reads");
    let mut expected = spool.trimmed_through();
    for entry in &entries {
        expected += 1;
        assert_eq!(entry.seq, expected, "numbers have no gaps");
        match &entry.payload {
            Some(payload) => assert_eq!(*payload, content(entry.seq), "not what was appended"),
            // What was not synced may be damaged; what is trimmed is of no use to anyone.
            None => assert!(entry.seq > durable || entry.seq <= trimming, "{} is lost", entry.seq),
        }
    }
    assert!(expected >= durable, "it ends at {expected}, and {durable} was there for certain");
    spool.trim(expected).expect("trimmed");
    assert_eq!(spool.append(b"next").expect("it goes on"), expected + 1);
}

#[test]
fn what_the_spool_has_handed_out_or_synced_survives_a_power_cut_at_any_moment() {
    if let Some(mut child) = powercut::child() {
        return work(&mut child);
    }
    let test = "what_the_spool_has_handed_out_or_synced_survives_a_power_cut_at_any_moment";
    let journal = powercut::record(test).expect("the child's life is recorded");
    assert!(journal.len() > CUTS, "{} calls are too few", journal.len());
    let mut durable = 0;
    journal
        .each_cut(CUTS, 2, |folder, cut| {
            check(folder, cut.marks);
            durable = highest(cut.marks, "durable");
        })
        .expect("the folders are rebuilt");
    assert!(durable > 100, "{durable} events are too few");
}
