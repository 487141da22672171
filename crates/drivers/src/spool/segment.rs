//! Bytes of a segment: its header, its records, and what is left of it after damage.
//!
//! Only the format; when segments are made, kept and deleted is [`super::Spool`]'s.

use std::path::PathBuf;

/// The last byte is the version of the format.
const MAGIC: [u8; 8] = *b"CAELSPL\x01";
/// Magic, epoch, first sequence number, four spare bytes, CRC-32 of all that.
pub(super) const HEADER_BYTES: usize = 32;
/// CRC-32 of the rest, length of the payload, kind, sequence number.
pub(super) const RECORD_OVERHEAD: usize = 17;
/// The largest payload of one record.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;
/// A jump in the sequence that is believed after damage. A larger one is taken for damage itself.
pub(super) const MAX_JUMP: u64 = 1_000_000;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// An event's bytes.
    Event = 1,
    /// Everything through this sequence number has been trimmed.
    Trimmed = 2,
    /// Everything through this sequence number has been handed out, and may be known elsewhere.
    HandedOut = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Event, Self::Trimmed, Self::HandedOut].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Where an event's record lies in its segment; none where damage has taken it.
pub(super) type Place = Option<(u32, u32)>;

/// One file of the spool, as it is known in memory.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first_seq: u64,
    /// One place for each sequence number from `first_seq` on.
    pub(super) places: Vec<Place>,
    pub(super) bytes: u64,
}

impl Segment {
    /// The last sequence number in it; one less than the first if it holds none.
    pub(super) fn last_seq(&self) -> u64 {
        self.first_seq + self.places.len() as u64 - 1
    }

    /// Marks everything missing up to and including `seq` as lost.
    pub(super) fn fill_lost(&mut self, through_seq: u64) {
        let wanted = (through_seq + 1).saturating_sub(self.first_seq);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if wanted > self.places.len() {
            self.places.resize(wanted, None);
        }
    }
}

pub(super) fn encode_header(epoch: u64, first_seq: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&epoch.to_le_bytes());
    header[16..24].copy_from_slice(&first_seq.to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The epoch, if the header is whole and belongs to the segment that begins with `first_seq`.
pub(super) fn decode_header(bytes: &[u8], first_seq: u64) -> Option<u64> {
    let header = bytes.get(..HEADER_BYTES)?;
    let is_ours = header[..8] == MAGIC && read_u64(header, 16) == first_seq;
    (is_ours && crc32fast::hash(&header[..28]) == read_u32(header, 28)).then(|| read_u64(header, 8))
}

pub(super) fn encode_record(kind: Kind, seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_OVERHEAD + payload.len());
    let length = u32::try_from(payload.len()).expect("payloads are bounded far below 4 GiB");
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&length.to_le_bytes());
    record.push(kind as u8);
    record.extend_from_slice(&seq.to_le_bytes());
    record.extend_from_slice(payload);
    let crc = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    record
}

/// A whole record at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) seq: u64,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    fn bytes(&self) -> usize {
        RECORD_OVERHEAD + self.payload.len()
    }
}

/// The record at the start of `bytes`, if a whole and undamaged one is there.
pub(super) fn decode_record(bytes: &[u8]) -> Option<Record<'_>> {
    let head = bytes.get(..RECORD_OVERHEAD)?;
    let length = usize::try_from(read_u32(head, 4)).ok().filter(|length| *length <= MAX_RECORD_BYTES)?;
    let kind = Kind::from_byte(head[8])?;
    let record = bytes.get(..RECORD_OVERHEAD + length)?;
    (crc32fast::hash(&record[4..]) == read_u32(head, 0)).then(|| Record {
        kind,
        seq: read_u64(head, 9),
        payload: &record[RECORD_OVERHEAD..],
    })
}

/// What a segment's bytes still say.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) places: Vec<Place>,
    /// The highest of each kind of marker, 0 for none.
    pub(super) trimmed_through: u64,
    pub(super) handed_out_through: u64,
    /// Where the last whole record ends: what follows is a torn write.
    pub(super) end: usize,
    /// Places in the middle that were unreadable.
    pub(super) damages: usize,
}

/// Reads the records behind a header, stepping over damage to the next whole record.
pub(super) fn scan(bytes: &[u8], first_seq: u64) -> Scan {
    let mut scan = Scan { end: HEADER_BYTES.min(bytes.len()), ..Scan::default() };
    let mut at = scan.end;
    while at < bytes.len() {
        let expected = first_seq + scan.places.len() as u64;
        let plausible = |record: &Record<'_>| match record.kind {
            Kind::Event => (expected..expected + MAX_JUMP).contains(&record.seq),
            Kind::Trimmed | Kind::HandedOut => record.seq < expected + MAX_JUMP,
        };
        let next = (at..bytes.len()).find_map(|start| {
            let record = decode_record(&bytes[start..]).filter(plausible)?;
            Some((start, record))
        });
        let Some((start, record)) = next else { break };
        scan.damages += usize::from(start != at);
        match record.kind {
            Kind::Event => {
                let missing = usize::try_from(record.seq - expected).expect("bounded by the largest jump");
                scan.places.extend(std::iter::repeat_n(None, missing));
                scan.places.push(place(start, record.payload.len()));
            }
            Kind::Trimmed => scan.trimmed_through = scan.trimmed_through.max(record.seq),
            Kind::HandedOut => scan.handed_out_through = scan.handed_out_through.max(record.seq),
        }
        at = start + record.bytes();
        scan.end = at;
    }
    scan
}

/// Offset of a record and the length of its payload.
pub(super) fn place(offset: usize, payload_bytes: usize) -> Place {
    Some((u32::try_from(offset).ok()?, u32::try_from(payload_bytes).ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}
