//! The probe's spool: events that were measured and are not yet known to be durable elsewhere.
//!
//! # Constraints
//!
//! - An event has a sequence number from 1 up, without gaps, given only to what is stored. Within one epoch
//!   a number never stands for two different events, over restarts, crashes and damage: the far side tells
//!   duplicates by (epoch, number) alone.
//! - Bounded: [`Limits::max_bytes`] of files (64 MiB by default, about 150,000 events). When it is full the
//!   *newest* event is refused and counted; what was accepted is never dropped to make room.
//! - A record is at most 256 KiB. A segment is at most [`Limits::segment_bytes`] (1 MiB) plus one record.
//! - In memory: 8 bytes an event, and one record while it is read.
//! - One process at a time, kept by a lock on `lock`.
//!
//! # Format
//!
//! Integers are little-endian. A directory holds segments `<first seq, 20 digits>.spool`:
//!
//! ```text
//! header   magic "CAELSPL" 1 | epoch u64 | first seq u64 | 0 u32 | crc32 u32        32 bytes
//! record   crc32 u32 | length u32 | kind u8 | seq u64 | payload                     17 bytes + payload
//! ```
//!
//! The checksum of a record covers all that follows it. Kinds: 1 event; 2 "trimmed through seq"; 3 "handed
//! out through seq" (the latter two have no payload).
//!
//! # Write
//!
//! [`Spool::append`] writes one record at the end of the newest segment with one system call and does not
//! wait for the disk: a killed process loses nothing, a power cut may lose what came after the last sync.
//! When the segment is full it is synced, and a new one is made under a temporary name, synced and renamed.
//! A failed write leaves the end where it was, and the next one overwrites its traces.
//!
//! # Read
//!
//! [`Spool::read`] first writes a *handed out* marker and syncs. What the far side may know about is
//! therefore on the disk, and a number that a power cut takes back was never seen by anyone. An event that
//! damage has taken is handed out without bytes, so that the far side can be told not to wait for it.
//!
//! # Delete
//!
//! [`Spool::trim`] writes a *trimmed* marker and deletes segments that are trimmed whole. If the newest is
//! trimmed whole and large, a new one is begun first. A lost marker costs a repetition, which the far side
//! recognises.
//!
//! # Recover
//!
//! At open, all segments are read in order. Behind a damaged place the next whole record with a plausible
//! number is looked for, byte by byte; numbers in between are lost. What follows the last whole record of
//! the newest segment is a torn write and is cut off; if a *handed out* marker shows that it held events
//! that were handed out, their numbers are lost, not given again. If no segment has a whole header, or two
//! neighbours are a million numbers apart, the epoch is unknown: the files are renamed to `.damaged` (kept for people, replaced by the next such case)
//! and a new epoch begins.
//!
//! Not covered: damage that takes the last events together with their marker in one stroke.

mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use segment::{HEADER_BYTES, Kind, RECORD_OVERHEAD, Segment};

pub use segment::MAX_RECORD_BYTES;

/// How large the spool may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together.
    pub max_bytes: u64,
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, segment_bytes: 1 << 20 }
    }
}

/// Why an operation was not done. The spool stays usable after each of them.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The event was not stored; older ones are kept.
    #[error("spool an event: the spool is full ({max_bytes} bytes)")]
    Full {
        /// The limit.
        max_bytes: u64,
    },
    /// The event was not stored and never can be.
    #[error("spool an event of {bytes} bytes: the most is {MAX_RECORD_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Another process has the spool.
    #[error("open the spool {}: another process uses it", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// One event of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// Its bytes; none if they were lost to damage.
    pub payload: Option<Vec<u8>>,
}

/// The spool of one probe.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    limits: Limits,
    epoch: u64,
    /// Never empty; the last one is written to.
    segments: VecDeque<Segment>,
    newest: File,
    next_seq: u64,
    trimmed_through: u64,
    handed_out_through: u64,
    /// Bytes of the newest segment that are known to be on the disk.
    synced_bytes: u64,
    refused: u64,
    lost: u64,
    _lock: Lock,
}

impl Spool {
    /// Opens the spool of a directory, made if absent. `new_epoch` is asked when there is no epoch to go on
    /// with: at first, or after damage beyond repair.
    pub fn open(
        directory: &Path,
        limits: Limits,
        new_epoch: impl FnOnce() -> u64,
    ) -> Result<Self, SpoolError> {
        fs::create_dir_all(directory).map_err(failed("make", directory))?;
        let lock = lock(directory)?;
        let recovered = recover::recover(recover::find_segments(directory)?)?;
        let (epoch, mut segments) = match recovered.epoch {
            Some(epoch) => (epoch, recovered.segments),
            None => {
                recover::set_aside(directory, &recovered.segments)?;
                (new_epoch(), VecDeque::new())
            }
        };
        let next_seq = segments.back().map_or(1, |newest| newest.last_seq() + 1);
        if segments.is_empty() {
            segments.push_back(create_segment(directory, epoch, next_seq)?);
        }
        let newest = segments.back().expect("one was just made if there was none");
        let file = OpenOptions::new().write(true).open(&newest.path).map_err(failed("open", &newest.path))?;
        // Cuts off a torn write, so that nothing of it is ever taken for a record.
        file.set_len(newest.bytes).map_err(failed("shorten", &newest.path))?;
        file.sync_data().map_err(failed("sync", &newest.path))?;
        let oldest_seq = segments.front().map_or(1, |segment| segment.first_seq);
        let lost =
            segments.iter().flat_map(|segment| &segment.places).filter(|place| place.is_none()).count();
        if lost > 0 {
            tracing::error!(directory = %directory.display(), lost, "events of the spool are damaged");
        }
        let mut spool = Self {
            directory: directory.to_owned(),
            limits,
            epoch,
            synced_bytes: newest.bytes,
            segments,
            newest: file,
            next_seq,
            trimmed_through: recovered.trimmed_through.max(oldest_seq - 1).min(next_seq - 1),
            handed_out_through: recovered.handed_out_through,
            refused: 0,
            lost: lost as u64,
            _lock: lock,
        };
        spool.delete_trimmed()?;
        Ok(spool)
    }

    /// The generation of the sequence numbers.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Stores an event and gives it its number.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, SpoolError> {
        if payload.len() > MAX_RECORD_BYTES {
            return Err(SpoolError::TooLarge { bytes: payload.len() });
        }
        let seq = self.next_seq;
        let record = segment::encode_record(Kind::Event, seq, payload);
        if self.bytes() + record.len() as u64 > self.limits.max_bytes {
            self.refused += 1;
            return Err(SpoolError::Full { max_bytes: self.limits.max_bytes });
        }
        let newest = self.newest_segment();
        if newest.bytes + record.len() as u64 > self.limits.segment_bytes && !newest.places.is_empty() {
            self.begin_segment()?;
        }
        let offset = self.write(&record)?;
        let place = usize::try_from(offset).ok().and_then(|offset| segment::place(offset, payload.len()));
        self.newest_segment_mut().places.push(place);
        self.next_seq += 1;
        Ok(seq)
    }

    /// Events after `after_seq` that are not trimmed, oldest first: at most `max_records`, and of
    /// `max_bytes` together unless the first alone is larger. They are on the disk when this returns.
    pub fn read(
        &mut self,
        after_seq: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, SpoolError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let start = after_seq.max(self.trimmed_through) + 1;
        'segments: for segment in &self.segments {
            let skipped = usize::try_from(start.saturating_sub(segment.first_seq)).unwrap_or(usize::MAX);
            if skipped >= segment.places.len() {
                continue;
            }
            let file = File::open(&segment.path)
                .inspect_err(
                    |error| tracing::error!(path = %segment.path.display(), %error, "a segment is gone"),
                )
                .ok();
            for (index, place) in segment.places.iter().enumerate().skip(skipped) {
                let size = place.map_or(0, |(_, length)| length as usize);
                if entries.len() >= max_records || (!entries.is_empty() && bytes + size > max_bytes) {
                    break 'segments;
                }
                bytes += size;
                let seq = segment.first_seq + index as u64;
                let payload = file.as_ref().and_then(|file| read_payload(file, seq, (*place)?));
                entries.push(Entry { seq, payload });
            }
        }
        if let Some(last) = entries.last().map(|entry| entry.seq) {
            self.mark_handed_out(last);
            self.sync()?;
        }
        Ok(entries)
    }

    /// Forgets everything up to and including `through_seq`.
    pub fn trim(&mut self, through_seq: u64) -> Result<(), SpoolError> {
        let through = through_seq.min(self.next_seq - 1);
        if through <= self.trimmed_through {
            return Ok(());
        }
        self.trimmed_through = through;
        let newest = self.newest_segment();
        let recorded = if through == self.next_seq - 1 && newest.bytes > self.limits.segment_bytes / 4 {
            self.begin_segment()
        } else {
            self.write(&segment::encode_record(Kind::Trimmed, through, &[])).map(drop)
        };
        // A full disk must not keep the spool from shrinking; what is not recorded is repeated at worst.
        if let Err(error) = recorded {
            tracing::warn!(%error, "a trim of the spool was not recorded");
        }
        self.delete_trimmed()
    }

    /// Waits until everything appended so far is on the disk.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        let newest = self.newest_segment();
        let bytes = newest.bytes;
        if self.synced_bytes < bytes {
            self.newest.sync_data().map_err(failed("sync", &newest.path))?;
            self.synced_bytes = bytes;
        }
        Ok(())
    }

    /// Events waiting, lost ones included.
    pub fn len(&self) -> u64 {
        self.next_seq - 1 - self.trimmed_through
    }

    /// Whether no event is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Everything up to and including this number has been trimmed.
    pub fn trimmed_through(&self) -> u64 {
        self.trimmed_through
    }

    /// Events refused since open because the spool was full.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Events found damaged at open.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn newest_segment(&self) -> &Segment {
        self.segments.back().expect("there is always a newest segment")
    }

    fn newest_segment_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("there is always a newest segment")
    }

    /// Writes at the end and returns where that was. After a failure the end has not moved.
    fn write(&mut self, record: &[u8]) -> Result<u64, SpoolError> {
        let (offset, path) = (self.newest_segment().bytes, &self.newest_segment().path);
        if let Err(source) = self.newest.write_all_at(record, offset) {
            let error = failed("write to", path)(source);
            // On a full disk this frees what the failed write took; if it fails too, the next write
            // overwrites it.
            drop(self.newest.set_len(offset));
            return Err(error);
        }
        self.newest_segment_mut().bytes = offset + record.len() as u64;
        Ok(offset)
    }

    /// A full disk must not keep the spool from being drained, so a marker that cannot be written is only
    /// logged.
    fn mark_handed_out(&mut self, through_seq: u64) {
        if through_seq > self.handed_out_through {
            match self.write(&segment::encode_record(Kind::HandedOut, through_seq, &[])) {
                Ok(_) => self.handed_out_through = through_seq,
                Err(error) => tracing::warn!(%error, "the spool's marker was not written"),
            }
        }
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        self.sync()?;
        let segment = create_segment(&self.directory, self.epoch, self.next_seq)?;
        self.newest =
            OpenOptions::new().write(true).open(&segment.path).map_err(failed("open", &segment.path))?;
        self.synced_bytes = segment.bytes;
        self.segments.push_back(segment);
        Ok(())
    }

    fn delete_trimmed(&mut self) -> Result<(), SpoolError> {
        while self.segments.len() > 1 && self.segments[0].last_seq() <= self.trimmed_through {
            remove(&self.segments[0].path)?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { operation, path, source }
}

/// The lock of a directory, until it is dropped.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it is not enough: a program that is being started elsewhere in this process holds a copy of
        // the file for a moment.
        if let Err(error) = self.0.unlock() {
            tracing::debug!(code = "spool.unlock_failed", %error, "the end of the process unlocks it");
        }
    }
}

fn lock(directory: &Path) -> Result<Lock, SpoolError> {
    let path = directory.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
    }
}

fn segment_path(directory: &Path, first_seq: u64) -> PathBuf {
    directory.join(format!("{first_seq:020}.spool"))
}

fn create_segment(directory: &Path, epoch: u64, first_seq: u64) -> Result<Segment, SpoolError> {
    let path = segment_path(directory, first_seq);
    let temporary = path.with_extension("new");
    let file = File::create(&temporary).map_err(failed("make", &temporary))?;
    file.write_all_at(&segment::encode_header(epoch, first_seq), 0)
        .map_err(failed("write to", &temporary))?;
    file.sync_all().map_err(failed("sync", &temporary))?;
    fs::rename(&temporary, &path).map_err(failed("rename", &temporary))?;
    sync_directory(directory)?;
    Ok(Segment { path, first_seq, places: Vec::new(), bytes: HEADER_BYTES as u64 })
}

fn sync_directory(directory: &Path) -> Result<(), SpoolError> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(failed("sync", directory))
}

fn remove(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed("remove", path)),
    }
}

/// The payload of the record at a place, if it is still what was written.
fn read_payload(file: &File, seq: u64, (offset, length): (u32, u32)) -> Option<Vec<u8>> {
    let mut bytes = vec![0; RECORD_OVERHEAD + length as usize];
    if let Err(error) = file.read_exact_at(&mut bytes, u64::from(offset)) {
        tracing::error!(seq, %error, "an event of the spool could not be read");
        return None;
    }
    let whole = segment::decode_record(&bytes).is_some_and(|record| record.seq == seq);
    if !whole {
        tracing::error!(seq, "an event of the spool is damaged");
        return None;
    }
    bytes.drain(..RECORD_OVERHEAD);
    Some(bytes)
}
