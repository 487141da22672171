//! What a task writes, cut into numbered chunks of text.
//!
//! # Rules
//! - Bytes wait for more, up to [`WAIT`], so that many short lines are one chunk.
//! - A chunk is cut after a line where there is one, and never within a character. What is no UTF-8 is
//!   replaced.
//! - Both streams share the numbers, so that they can be told in order.
//! - After [`OUTPUT_MAX`] bytes of text nothing is kept; bytes are still counted.

use std::time::{Duration, Instant};

use caelum_model::{
    task::{OUTPUT_MAX, OutputChunk},
    work::CHUNK_MAX,
};

/// How long bytes wait for more.
pub(super) const WAIT: Duration = Duration::from_millis(20);

/// Collects what was written.
pub(super) struct Collector {
    fence: u64,
    started: Instant,
    seq: u64,
    kept: u64,
    bytes: u64,
    /// Of standard output and of standard error, what was not told yet.
    pending: [Vec<u8>; 2],
    /// Since when something waits.
    since: Option<Instant>,
}

impl Collector {
    pub(super) fn new(fence: u64, started: Instant) -> Self {
        Self { fence, started, seq: 0, kept: 0, bytes: 0, pending: Default::default(), since: None }
    }

    /// Bytes that were written, those not kept included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When what waits is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.since? + WAIT)
    }

    /// Takes in what was written; answers what is long enough to be told.
    pub(super) fn push(&mut self, is_error: bool, bytes: &[u8], now: Instant) -> Vec<OutputChunk> {
        self.bytes += bytes.len() as u64;
        let mut chunks = Vec::new();
        if self.kept >= OUTPUT_MAX {
            return chunks;
        }
        // The other stream's bytes came first.
        if !self.pending[usize::from(!is_error)].is_empty() {
            self.tell(!is_error, true, now, &mut chunks);
        }
        self.pending[usize::from(is_error)].extend_from_slice(bytes);
        while self.pending[usize::from(is_error)].len() >= CHUNK_MAX && self.kept < OUTPUT_MAX {
            self.tell(is_error, false, now, &mut chunks);
        }
        self.note(now);
        chunks
    }

    /// Tells what waits, but for the beginning of a character whose end is still to come.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<OutputChunk> {
        let mut chunks = Vec::new();
        for is_error in [false, true] {
            let pending = &mut self.pending[usize::from(is_error)];
            let begun = pending.split_off(pending.len() - open_end(pending));
            self.tell(is_error, true, now, &mut chunks);
            self.pending[usize::from(is_error)] = begun;
        }
        self.since = None;
        chunks
    }

    /// Tells everything that waits.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<OutputChunk> {
        let mut chunks = Vec::new();
        for is_error in [false, true] {
            self.tell(is_error, true, now, &mut chunks);
        }
        self.since = None;
        chunks
    }

    fn note(&mut self, now: Instant) {
        let waits = self.pending.iter().any(|pending| !pending.is_empty());
        self.since = waits.then(|| self.since.unwrap_or(now));
    }

    /// Tells one chunk of a stream, or all of it.
    fn tell(&mut self, is_error: bool, is_all: bool, now: Instant, chunks: &mut Vec<OutputChunk>) {
        let pending = &mut self.pending[usize::from(is_error)];
        let taken: Vec<u8> = if is_all || pending.is_empty() {
            std::mem::take(pending)
        } else {
            let head = &pending[..CHUNK_MAX.min(pending.len())];
            let line = head.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
            let at = line.unwrap_or(head.len() - open_end(head));
            pending.drain(..at).collect()
        };
        let text = String::from_utf8_lossy(&taken);
        let mut text = text.as_ref();
        while !text.is_empty() && self.kept < OUTPUT_MAX {
            let room = usize::try_from(OUTPUT_MAX - self.kept).unwrap_or(usize::MAX).min(CHUNK_MAX);
            let at = text.floor_char_boundary(room);
            if at == 0 {
                break;
            }
            let (head, rest) = text.split_at(at);
            let after = now.saturating_duration_since(self.started);
            chunks.push(OutputChunk {
                fence: self.fence,
                seq: self.seq,
                is_error,
                text: head.to_owned(),
                after_ms: i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            });
            self.seq += 1;
            self.kept += head.len() as u64;
            text = rest;
        }
        if !text.is_empty() {
            // What is left does not fit: nothing after it is kept either.
            self.kept = OUTPUT_MAX;
        }
        if self.kept >= OUTPUT_MAX {
            self.pending = Default::default();
        }
    }
}

/// Bytes at the end that begin a character and do not end it.
fn open_end(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let wants = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if wants > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(chunks: &[OutputChunk]) -> Vec<&str> {
        chunks.iter().map(|chunk| chunk.text.as_str()).collect()
    }

    #[test]
    fn short_writes_wait_for_each_other() {
        let now = Instant::now();
        let mut collector = Collector::new(1, now);
        assert_eq!(collector.due(), None);
        assert!(collector.push(false, b"one\n", now).is_empty());
        assert!(collector.push(false, b"two\n", now + WAIT / 2).is_empty());
        assert_eq!(collector.due(), Some(now + WAIT));
        assert_eq!(texts(&collector.rest(now + WAIT)), ["one\ntwo\n"]);
        assert_eq!((collector.due(), collector.bytes()), (None, 8));
    }

    #[test]
    fn both_streams_are_numbered_in_the_order_in_which_they_came() {
        let now = Instant::now();
        let mut collector = Collector::new(1, now);
        let mut chunks = collector.push(false, b"a", now);
        chunks.extend(collector.push(true, b"b", now));
        chunks.extend(collector.push(false, b"c", now));
        chunks.extend(collector.flush(now));
        let told: Vec<(u64, bool, &str)> =
            chunks.iter().map(|chunk| (chunk.seq, chunk.is_error, chunk.text.as_str())).collect();
        assert_eq!(told, [(0, false, "a"), (1, true, "b"), (2, false, "c")]);
    }

    #[test]
    fn a_character_is_never_cut() {
        let now = Instant::now();
        let mut collector = Collector::new(1, now);
        let bytes = "a€😀".as_bytes();
        for end in 1..bytes.len() {
            let open = open_end(&bytes[..end]);
            assert!(std::str::from_utf8(&bytes[..end - open]).is_ok(), "{end}");
        }
        collector.push(false, &bytes[..2], now);
        assert_eq!(texts(&collector.rest(now)), ["a"]);
        collector.push(false, &bytes[2..], now);
        assert_eq!(texts(&collector.rest(now)), ["€😀"]);
        let long = "€".repeat(CHUNK_MAX);
        let mut chunks = collector.push(false, long.as_bytes(), now);
        chunks.extend(collector.flush(now));
        assert!(chunks.iter().all(|chunk| chunk.text.len() <= CHUNK_MAX));
        assert_eq!(texts(&chunks).concat(), long);
    }

    #[test]
    fn a_long_chunk_ends_after_a_line() {
        let now = Instant::now();
        let mut collector = Collector::new(1, now);
        let lines = "0123456789abcdef\n".repeat(CHUNK_MAX / 8);
        let mut chunks = collector.push(false, lines.as_bytes(), now);
        assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.text.ends_with('\n')));
        chunks.extend(collector.flush(now));
        assert_eq!(texts(&chunks).concat(), lines);
    }

    #[test]
    fn bytes_of_any_kind_are_told_within_the_bounds() {
        let now = Instant::now();
        let mut collector = Collector::new(1, now);
        let mut kept = 0;
        for _ in 0..100 {
            let mut chunks = collector.push(true, &[0xff; 50_000], now);
            chunks.extend(collector.rest(now));
            assert!(chunks.iter().all(|chunk| chunk.text.len() <= CHUNK_MAX));
            kept += chunks.iter().map(|chunk| chunk.text.len() as u64).sum::<u64>();
        }
        assert_eq!(collector.bytes(), 5_000_000);
        assert!(kept <= OUTPUT_MAX && kept > OUTPUT_MAX - 4, "{kept}");
        assert_eq!(collector.due(), None);
    }
}
