//! The spool against a simple model: generated actions, power cuts at any byte, and chosen damage.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits { max_bytes: 4_096, segment_bytes: 512 };

const MAX_STRAY: u64 = 1 << 40;

fn open(directory: &Path, limits: Limits) -> Spool {
    Spool::open(directory, limits, || 77).unwrap()
}

fn fill(spool: &mut Spool, count: u64) {
    for _ in 0..count {
        let text = format!("event {}", spool.next_seq);
        spool.append(text.as_bytes()).unwrap();
    }
}

fn read_all(spool: &mut Spool) -> Vec<Entry> {
    spool.read(0, usize::MAX, usize::MAX).unwrap()
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    recover::find_segments(directory).unwrap().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn numbers_start_at_one_and_go_on_after_a_restart_even_when_everything_was_trimmed() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), Limits::default());
    assert_eq!(spool.append(b"a").unwrap(), 1);
    assert_eq!(spool.append(b"b").unwrap(), 2);
    spool.trim(2).unwrap();
    assert!(spool.is_empty());
    drop(spool);
    let mut spool = Spool::open(directory.path(), Limits::default(), || panic!("the epoch is kept")).unwrap();
    assert_eq!(spool.epoch(), 77);
    assert!(spool.is_empty());
    assert_eq!(spool.append(b"c").unwrap(), 3);
    assert_eq!(read_all(&mut spool), [Entry { seq: 3, payload: Some(b"c".to_vec()) }]);
}

#[test]
fn a_full_spool_refuses_the_newest_counts_it_and_takes_events_again_after_a_trim() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), SMALL);
    let payload = [7; 100];
    let mut stored = 0;
    while spool.append(&payload).is_ok() {
        stored += 1;
    }
    assert!(matches!(spool.append(&payload), Err(SpoolError::Full { max_bytes: 4_096 })));
    assert_eq!(spool.refused(), 2);
    assert!(spool.bytes() <= SMALL.max_bytes);
    assert_eq!(spool.len(), stored);
    spool.trim(stored / 2).unwrap();
    assert_eq!(spool.append(&payload).unwrap(), stored + 1);
    assert_eq!(seqs(&read_all(&mut spool)), (stored / 2 + 1..=stored + 1).collect::<Vec<_>>());
}

#[test]
fn a_read_stops_at_either_bound_and_always_brings_at_least_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), SMALL);
    fill(&mut spool, 30);
    assert_eq!(seqs(&spool.read(0, 3, usize::MAX).unwrap()), [1, 2, 3]);
    assert_eq!(seqs(&spool.read(28, usize::MAX, usize::MAX).unwrap()), [29, 30]);
    assert_eq!(seqs(&spool.read(0, usize::MAX, 15).unwrap()), [1, 2]);
    assert_eq!(seqs(&spool.read(0, usize::MAX, 1).unwrap()), [1]);
    assert!(spool.read(30, 1, 1).unwrap().is_empty());
    assert!(spool.read(0, 0, 1).unwrap().is_empty());
}

#[test]
fn trimmed_segments_are_deleted_and_an_idle_spool_stays_small() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), SMALL);
    for _ in 0..200 {
        fill(&mut spool, 5);
        let last = read_all(&mut spool).last().unwrap().seq;
        spool.trim(last).unwrap();
        assert!(spool.bytes() <= SMALL.segment_bytes);
    }
    assert_eq!(files(directory.path()).len(), 1);
    assert_eq!(spool.len(), 0);
    assert_eq!(spool.append(b"x").unwrap(), 1_001);
}

#[test]
fn a_second_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path(), SMALL);
    let second = Spool::open(directory.path(), SMALL, || 1);
    assert!(matches!(second, Err(SpoolError::Locked { .. })));
}

#[test]
fn an_event_that_is_too_large_is_refused_and_takes_no_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), Limits::default());
    assert!(matches!(spool.append(&vec![0; MAX_RECORD_BYTES + 1]), Err(SpoolError::TooLarge { .. })));
    assert_eq!(spool.append(&vec![0; MAX_RECORD_BYTES]).unwrap(), 1);
}

#[test]
fn a_damaged_event_in_the_middle_is_handed_out_without_bytes_and_the_others_with_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), Limits::default());
    fill(&mut spool, 5);
    drop(spool);
    let path = files(directory.path()).remove(0);
    for at in [0, 5, 8, 10, RECORD_OVERHEAD + 2] {
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        // The third record, hit in its checksum, length, kind, number or payload.
        bytes[HEADER_BYTES + 2 * (RECORD_OVERHEAD + 7) + at] ^= 0x5a;
        fs::write(&path, &bytes).unwrap();
        let mut spool = open(directory.path(), Limits::default());
        assert_eq!(spool.epoch(), 77);
        assert_eq!(spool.lost(), 1);
        let entries = read_all(&mut spool);
        assert_eq!(seqs(&entries), [1, 2, 3, 4, 5]);
        let whole_ones: Vec<bool> = entries.iter().map(|entry| entry.payload.is_some()).collect();
        assert_eq!(whole_ones, [true, true, false, true, true]);
        drop(spool);
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn the_number_of_an_event_that_was_handed_out_and_then_damaged_is_not_given_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), Limits::default());
    fill(&mut spool, 3);
    read_all(&mut spool);
    drop(spool);
    let path = files(directory.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let last_event = HEADER_BYTES + 2 * (RECORD_OVERHEAD + 7);
    bytes[last_event + RECORD_OVERHEAD] ^= 1;
    fs::write(&path, bytes).unwrap();
    for expected in [4, 5] {
        let mut spool = open(directory.path(), Limits::default());
        assert_eq!(spool.append(b"new").unwrap(), expected);
        assert_eq!(read_all(&mut spool)[2], Entry { seq: 3, payload: None });
    }
}

#[test]
fn a_segment_that_is_gone_or_headless_costs_its_events_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), SMALL);
    fill(&mut spool, 60);
    drop(spool);
    let paths = files(directory.path());
    assert!(paths.len() >= 4, "{paths:?}");
    fs::remove_file(&paths[1]).unwrap();
    fs::write(&paths[2], b"").unwrap();
    let mut spool = Spool::open(directory.path(), SMALL, || panic!("the epoch is known")).unwrap();
    let entries = read_all(&mut spool);
    assert_eq!(seqs(&entries), (1..=60).collect::<Vec<_>>());
    assert!(spool.lost() > 0);
    assert_eq!(entries.iter().filter(|entry| entry.payload.is_none()).count() as u64, spool.lost());
    assert_eq!(entries.last().unwrap().payload.as_deref(), Some(&b"event 60"[..]));
}

#[test]
fn when_no_header_is_left_a_new_epoch_begins_and_the_files_are_kept_for_people() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), SMALL);
    fill(&mut spool, 3);
    drop(spool);
    let path = files(directory.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut spool = Spool::open(directory.path(), SMALL, || 78).unwrap();
    assert_eq!((spool.epoch(), spool.len()), (78, 0));
    assert_eq!(spool.append(b"x").unwrap(), 1);
    assert!(path.with_extension("damaged").exists());
}

#[test]
fn a_segment_of_another_sequence_is_not_believed() {
    for foreign in [MAX_STRAY, u64::MAX] {
        let directory = tempfile::tempdir().unwrap();
        fill(&mut open(directory.path(), SMALL), 3);
        fs::write(segment_path(directory.path(), foreign), segment::encode_header(5, foreign)).unwrap();
        let mut spool = Spool::open(directory.path(), SMALL, || 78).unwrap();
        assert!(spool.append(b"x").unwrap() <= 4);
    }
}

#[test]
fn a_disk_that_refuses_a_write_leaves_the_spool_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), Limits::default());
    fill(&mut spool, 2);
    spool.sync().unwrap();
    let writable = std::mem::replace(&mut spool.newest, File::open("/dev/null").unwrap());
    assert!(matches!(spool.append(b"lost"), Err(SpoolError::Io { .. })));
    // Draining goes on although the marker cannot be written.
    assert_eq!(seqs(&spool.read(0, 9, 999).unwrap()), [1, 2]);
    spool.trim(1).unwrap();
    assert_eq!(seqs(&spool.read(0, 9, 999).unwrap()), [2]);
    spool.newest = writable;
    assert_eq!(spool.append(b"kept").unwrap(), 3);
    assert_eq!(read_all(&mut spool)[1].payload.as_deref(), Some(&b"kept"[..]));
}

// --- the model ---------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Action {
    Append(u16),
    Read(u8),
    Trim(u8),
    Sync,
    /// The process is killed: everything written is in the files.
    Reopen,
    /// The power fails: of what was not synced, this share of bytes survives, and garbage may follow.
    PowerCut {
        kept_percent: u8,
        garbage: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    // Appends outweigh the rest so that segments fill up; each crash point is an action.
    prop_oneof![
        10 => (0_u16..300).prop_map(Action::Append),
        3 => (1_u8..20).prop_map(Action::Read),
        3 => any::<u8>().prop_map(Action::Trim),
        1 => Just(Action::Sync),
        1 => Just(Action::Reopen),
        2 => (0_u8..=100, any::<bool>())
            .prop_map(|(kept_percent, garbage)| Action::PowerCut { kept_percent, garbage }),
    ]
}

/// What must be true of any spool, kept as a plain map.
#[derive(Default)]
struct Model {
    events: BTreeMap<u64, Vec<u8>>,
    next_seq: u64,
    trimmed: u64,
    synced: u64,
    /// What was ever handed out: a number must not come back with other bytes.
    handed_out: BTreeMap<u64, Vec<u8>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_actions_and_power_cuts_keeps_what_was_synced_and_never_reuses_a_number(
        actions in prop::collection::vec(action(), 1..80)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = open(directory.path(), SMALL);
        let mut model = Model { next_seq: 1, ..Model::default() };
        for (step, action) in actions.into_iter().enumerate() {
            match action {
                Action::Append(size) => {
                    let mut payload = vec![u8::try_from(step % 251).unwrap(); usize::from(size)];
                    payload.extend_from_slice(&step.to_le_bytes());
                    match spool.append(&payload) {
                        Ok(seq) => {
                            prop_assert_eq!(seq, model.next_seq);
                            model.events.insert(seq, payload);
                            model.next_seq += 1;
                        }
                        Err(error) => prop_assert!(matches!(error, SpoolError::Full { .. }), "{}", error),
                    }
                }
                Action::Read(count) => {
                    for entry in spool.read(model.trimmed, usize::from(count), usize::MAX).unwrap() {
                        let payload = entry.payload.expect("nothing is damaged here");
                        prop_assert_eq!(Some(&payload), model.events.get(&entry.seq));
                        let before = model.handed_out.insert(entry.seq, payload.clone());
                        prop_assert!(before.is_none_or(|before| before == payload), "a number was used twice");
                    }
                    if !spool.is_empty() {
                        model.synced = model.next_seq - 1;
                    }
                }
                Action::Trim(share) => {
                    let through = model.trimmed + (model.next_seq - 1 - model.trimmed) * u64::from(share) / 255;
                    spool.trim(through).unwrap();
                    model.trimmed = model.trimmed.max(through);
                    model.events.retain(|seq, _| *seq > through);
                }
                Action::Sync => {
                    spool.sync().unwrap();
                    model.synced = model.next_seq - 1;
                }
                Action::Reopen => {
                    drop(spool);
                    spool = open(directory.path(), SMALL);
                    prop_assert_eq!(spool.next_seq, model.next_seq);
                    prop_assert_eq!(spool.trimmed_through(), model.trimmed);
                    // Opening syncs what it found.
                    model.synced = model.next_seq - 1;
                }
                Action::PowerCut { kept_percent, garbage } => {
                    let path = spool.newest_segment().path.clone();
                    let (synced, written) = (spool.synced_bytes, spool.newest_segment().bytes);
                    // Whole segments before the newest were synced when it was begun.
                    let floor = model.synced.max(spool.newest_segment().first_seq - 1);
                    drop(spool);
                    let kept = synced + (written - synced) * u64::from(kept_percent) / 100;
                    let file = OpenOptions::new().write(true).open(&path).unwrap();
                    file.set_len(kept).unwrap();
                    if garbage {
                        file.set_len(kept + 40).unwrap();
                        file.write_all_at(&[0xa5; 20], kept + 7).unwrap();
                    }
                    spool = open(directory.path(), SMALL);
                    prop_assert!(spool.next_seq > floor && spool.next_seq <= model.next_seq);
                    // Trims that were not synced may be forgotten, which only repeats events.
                    prop_assert!(spool.trimmed_through() <= model.trimmed);
                    let next_seq = spool.next_seq;
                    spool.trim(model.trimmed).unwrap();
                    model.events.retain(|seq, _| *seq < next_seq);
                    model.next_seq = next_seq;
                    model.trimmed = model.trimmed.min(next_seq - 1);
                    model.synced = next_seq - 1;
                }
            }
            prop_assert_eq!(spool.len(), model.next_seq - 1 - model.trimmed);
            prop_assert!(spool.bytes() <= SMALL.max_bytes + 20 * RECORD_OVERHEAD as u64 + HEADER_BYTES as u64);
        }
        prop_assert_eq!(spool.epoch(), 77);
        prop_assert_eq!(seqs(&read_all(&mut spool)), model.events.keys().copied().collect::<Vec<_>>());
    }

    #[test]
    fn opening_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), headed in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let mut content = if headed { segment::encode_header(5, 9).to_vec() } else { Vec::new() };
        content.extend_from_slice(&bytes);
        fs::write(segment_path(directory.path(), 9), content).unwrap();
        let mut spool = open(directory.path(), Limits::default());
        let seq = spool.append(b"x").unwrap();
        prop_assert_eq!(read_all(&mut spool).last().map(|entry| entry.seq), Some(seq));
    }
}
