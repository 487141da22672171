//! The events of a record since version 4: a row of a few bytes for each, and the texts that rows name, once.
//!
//! # Rules
//! Numbers are LEB128 varints; what may be below zero is folded by zigzag first. Times, numbers and ids of events
//! are said as what changed since the event before, and begin anew with each probe.
//!
//! | part | form |
//! |---|---|
//! | texts | one byte, 0 as they are, 1 a zstd frame; their length in bytes as stored; how many, each with its length |
//! | probes | how many; each with its id's text, its refused numbers, how many events, the events |
//! | refused number | change of epoch, change of number |
//! | event | three bytes of flags (below), id, change of time, its number as above, target's text, then in order whatever the flags announce |
//! | id | how many bytes are those of the id before, one byte; the rest |
//! | time of a stage and the like | thousandths, doubled, where that says it to the last bit; otherwise 1 and eight bytes, IEEE 754, little endian |
//! | details | their postcard form, as one of the texts |
//!
//! # What it does not do
//! It does not bound: what comes in was bounded by ingest, and what is read is never larger than what is there.

use std::{collections::HashMap, sync::Arc};

use caelum_model::{
    event::{ClientEvents, ErrorStage, Event, Family, InterfaceType, Rtt, SeqNo, Timings},
    id::ClientId,
};
use uuid::Uuid;

use super::{BYTES_MAX, LEVEL};

/// Texts of fewer bytes are not compressed: a frame has bytes of its own.
const COMPRESSED_FROM: usize = 512;
const AS_THEY_ARE: u8 = 0;
const COMPRESSED: u8 = 1;
/// No event takes fewer bytes.
const EVENT_BYTES_MIN: usize = 6;

const HAS_SEQ: u32 = 1;
const FAMILY: u32 = 1;
const INTERFACE: u32 = 3;
const IS_VPN: u32 = 1 << 5;
const HAS_DNS: u32 = 1 << 6;
const HAS_TCP: u32 = 1 << 7;
const HAS_TLS: u32 = 1 << 8;
const HAS_TTFB: u32 = 1 << 9;
const HAS_THROUGHPUT: u32 = 1 << 10;
const HAS_STAGE: u32 = 1 << 11;
const HAS_DETAIL: u32 = 1 << 12;
const HAS_RESOLVER: u32 = 1 << 13;
const HAS_REMOTE: u32 = 1 << 14;
const HAS_RTT: u32 = 1 << 15;
const HAS_RPM: u32 = 1 << 16;
const HAS_DETAILS: u32 = 1 << 17;
const KNOWN: u32 = (1 << 18) - 1;

const FAMILIES: [Family; 3] = [Family::Any, Family::V4, Family::V6];
const INTERFACES: [InterfaceType; 4] =
    [InterfaceType::Wifi, InterfaceType::Ethernet, InterfaceType::Cellular, InterfaceType::Unknown];

/// Bytes that are no rows.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// Less than was announced.
    #[error("it ends too early")]
    Short,
    /// A number that no row contains.
    #[error("it contains an impossible number")]
    Impossible,
    /// A text that is none, or not of its kind.
    #[error("it contains a text that is none")]
    Text,
    /// More bytes than the rows have.
    #[error("it is followed by other bytes")]
    Trailing,
    /// Texts that cannot be decompressed.
    #[error("its texts are damaged")]
    Frame(#[source] std::io::Error),
}

/// The stored form; equal events have equal bytes.
pub(super) fn encode(clients: &[ClientEvents]) -> Vec<u8> {
    let events: usize = clients.iter().map(|client| client.events.len()).sum();
    let mut rows = Writer(Vec::with_capacity(64 + events * 40));
    let mut texts = Texts::default();
    rows.number(clients.len() as u64);
    for client in clients {
        rows.number(texts.place(client.client_id.as_str()));
        rows.number(client.refused.len() as u64);
        let mut before = Before::default();
        for at in &client.refused {
            rows.position(*at, &mut before);
        }
        rows.number(client.events.len() as u64);
        let mut before = Before::default();
        for event in &client.events {
            rows.event(event, &mut before, &mut texts);
        }
    }
    let mut out = Writer(Vec::with_capacity(rows.0.len() + texts.bytes.0.len() + 16));
    texts.write(&mut out);
    out.0.extend_from_slice(&rows.0);
    out.0
}

/// Reads the stored form.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<ClientEvents>, RowsError> {
    let mut rest = Reader(bytes);
    let kind = rest.take(1)?[0];
    let length = rest.count()?;
    let stored = rest.take(length)?;
    let inflated;
    let plain = match kind {
        AS_THEY_ARE => stored,
        COMPRESSED => {
            inflated = super::inflate(stored).map_err(RowsError::Frame)?;
            &inflated[..]
        }
        _ => return Err(RowsError::Impossible),
    };
    let mut texts = Known::read(plain)?;
    let mut clients = Vec::new();
    for _ in 0..rest.count()? {
        clients.push(rest.client(&mut texts)?);
    }
    if rest.0.is_empty() { Ok(clients) } else { Err(RowsError::Trailing) }
}

// ---

/// What the event before said.
#[derive(Default)]
struct Before {
    id: [u8; 16],
    ts_ms: i64,
    epoch: u64,
    seq: u64,
}

/// Texts on their way into a record, each once.
#[derive(Default)]
struct Texts<'a> {
    count: u64,
    bytes: Writer,
    places: HashMap<&'a str, u64>,
    /// The same by where they lie: events of one request share their texts, and an address is faster found.
    addresses: HashMap<(usize, usize), u64>,
}

impl<'a> Texts<'a> {
    fn place(&mut self, text: &'a str) -> u64 {
        let address = (text.as_ptr().addr(), text.len());
        if let Some(place) = self.addresses.get(&address) {
            return *place;
        }
        let place = match self.places.get(text) {
            Some(place) => *place,
            None => {
                let place = self.add(text.as_bytes());
                self.places.insert(text, place);
                place
            }
        };
        self.addresses.insert(address, place);
        place
    }

    fn add(&mut self, text: &[u8]) -> u64 {
        self.bytes.number(text.len() as u64);
        self.bytes.0.extend_from_slice(text);
        self.count += 1;
        self.count - 1
    }

    fn write(&self, out: &mut Writer) {
        let mut plain = Writer(Vec::with_capacity(self.bytes.0.len() + 4));
        plain.number(self.count);
        plain.0.extend_from_slice(&self.bytes.0);
        let frame = (plain.0.len() >= COMPRESSED_FROM).then(|| {
            zstd::bulk::compress(&plain.0, LEVEL)
                .expect("compressing into a buffer of its own size cannot fail")
        });
        let (kind, stored) = match frame {
            Some(frame) if frame.len() < plain.0.len() => (COMPRESSED, frame),
            _ => (AS_THEY_ARE, plain.0),
        };
        out.0.push(kind);
        out.number(stored.len() as u64);
        out.0.extend_from_slice(&stored);
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn change(&mut self, from: u64, to: u64) {
        let change = to.wrapping_sub(from).cast_signed();
        self.number(((change << 1) ^ (change >> 63)).cast_unsigned());
    }

    fn position(&mut self, at: SeqNo, before: &mut Before) {
        self.change(before.epoch, at.epoch);
        self.change(before.seq, at.seq);
        (before.epoch, before.seq) = (at.epoch, at.seq);
    }

    fn float(&mut self, value: f64) {
        let thousandths = (value * 1000.0 + 0.5) as u64;
        // Compared by their bits: zero has two of them.
        if thousandths < 1 << 52 && (thousandths as f64 / 1000.0).to_bits() == value.to_bits() {
            self.number(thousandths << 1);
        } else {
            self.number(1);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn event<'a>(&mut self, event: &'a Event, before: &mut Before, texts: &mut Texts<'a>) {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let timings = &event.timings;
        let family = FAMILIES.iter().position(|family| *family == event.family).unwrap_or(0) as u32;
        let interface = INTERFACES.iter().position(|kind| *kind == event.interface_type).unwrap_or(3) as u32;
        let flags = flag(event.seq.is_some(), HAS_SEQ)
            | family << FAMILY
            | interface << INTERFACE
            | flag(event.vpn_enabled, IS_VPN)
            | flag(timings.dns_ms.is_some(), HAS_DNS)
            | flag(timings.tcp_ms.is_some(), HAS_TCP)
            | flag(timings.tls_ms.is_some(), HAS_TLS)
            | flag(timings.http_ttfb_ms.is_some(), HAS_TTFB)
            | flag(event.throughput_kbps.is_some(), HAS_THROUGHPUT)
            | flag(event.error_stage.is_some(), HAS_STAGE)
            | flag(event.error_detail.is_some(), HAS_DETAIL)
            | flag(event.resolver.is_some(), HAS_RESOLVER)
            | flag(event.remote_ip.is_some(), HAS_REMOTE)
            | flag(event.rtt.is_some(), HAS_RTT)
            | flag(event.rpm.is_some(), HAS_RPM)
            | flag(event.details.is_some(), HAS_DETAILS);
        self.0.extend_from_slice(&flags.to_le_bytes()[..3]);
        let id = event.event_id.as_bytes();
        let same = id.iter().zip(&before.id).take_while(|(own, others)| own == others).count();
        self.0.push(same as u8);
        self.0.extend_from_slice(&id[same..]);
        before.id = *id;
        self.change(before.ts_ms.cast_unsigned(), event.ts_ms.cast_unsigned());
        before.ts_ms = event.ts_ms;
        if let Some(at) = event.seq {
            self.position(at, before);
        }
        self.number(texts.place(&event.target));
        let times =
            [timings.dns_ms, timings.tcp_ms, timings.tls_ms, timings.http_ttfb_ms, event.throughput_kbps];
        for time in times.into_iter().flatten() {
            self.float(time);
        }
        if let Some(stage) = event.error_stage {
            self.0.push(stage as u8);
        }
        for text in [&event.error_detail, &event.resolver, &event.remote_ip].into_iter().flatten() {
            self.number(texts.place(text));
        }
        if let Some(rtt) = &event.rtt {
            self.number(rtt.sent.into());
            self.number(rtt.received.into());
            for time in [rtt.min_ms, rtt.avg_ms, rtt.max_ms, rtt.jitter_ms, rtt.loss_pct] {
                self.float(time);
            }
        }
        if let Some(rpm) = event.rpm {
            self.float(rpm);
        }
        if let Some(details) = &event.details {
            let plain = postcard::to_stdvec(details).expect("details in memory have a postcard form");
            self.number(texts.add(&plain));
        }
    }
}

/// The texts of a record that is read.
struct Known<'a> {
    bytes: Vec<&'a [u8]>,
    /// Those that were asked for as text.
    shared: Vec<Option<Arc<str>>>,
}

impl<'a> Known<'a> {
    fn read(plain: &'a [u8]) -> Result<Self, RowsError> {
        let mut rest = Reader(plain);
        let count = rest.count()?;
        let mut bytes = Vec::with_capacity(count.min(plain.len()));
        for _ in 0..count {
            let length = rest.count()?;
            bytes.push(rest.take(length)?);
        }
        if !rest.0.is_empty() {
            return Err(RowsError::Trailing);
        }
        Ok(Self { shared: vec![None; bytes.len()], bytes })
    }

    fn bytes(&self, place: usize) -> Result<&'a [u8], RowsError> {
        self.bytes.get(place).copied().ok_or(RowsError::Impossible)
    }

    fn text(&mut self, place: usize) -> Result<Arc<str>, RowsError> {
        if let Some(Some(text)) = self.shared.get(place) {
            return Ok(Arc::clone(text));
        }
        let text: Arc<str> = str::from_utf8(self.bytes(place)?).map_err(|_| RowsError::Text)?.into();
        self.shared[place] = Some(Arc::clone(&text));
        Ok(text)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], RowsError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(RowsError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], RowsError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(RowsError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, RowsError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let part = u64::from(byte & 0x7f);
            if (part << shift) >> shift != part {
                return Err(RowsError::Impossible);
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(RowsError::Impossible)
    }

    fn count(&mut self) -> Result<usize, RowsError> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= BYTES_MAX).ok_or(RowsError::Impossible)
    }

    fn small(&mut self) -> Result<u32, RowsError> {
        u32::try_from(self.number()?).map_err(|_| RowsError::Impossible)
    }

    fn change(&mut self, from: u64) -> Result<u64, RowsError> {
        let folded = self.number()?;
        let change = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
        Ok(from.wrapping_add(change.cast_unsigned()))
    }

    fn position(&mut self, before: &mut Before) -> Result<SeqNo, RowsError> {
        before.epoch = self.change(before.epoch)?;
        before.seq = self.change(before.seq)?;
        Ok(SeqNo { epoch: before.epoch, seq: before.seq })
    }

    fn float(&mut self) -> Result<f64, RowsError> {
        match self.number()? {
            1 => Ok(f64::from_le_bytes(self.array()?)),
            doubled if doubled & 1 == 0 => Ok((doubled >> 1) as f64 / 1000.0),
            _ => Err(RowsError::Impossible),
        }
    }

    fn client(&mut self, texts: &mut Known<'a>) -> Result<ClientEvents, RowsError> {
        let name = texts.text(self.count()?)?;
        let client_id = ClientId::parse(&name).map_err(|_| RowsError::Text)?;
        let mut before = Before::default();
        let mut refused = Vec::new();
        for _ in 0..self.count()? {
            refused.push(self.position(&mut before)?);
        }
        let count = self.count()?;
        let mut before = Before::default();
        let mut events = Vec::with_capacity(count.min(self.0.len() / EVENT_BYTES_MIN));
        for _ in 0..count {
            events.push(self.event(&mut before, texts)?);
        }
        Ok(ClientEvents { client_id, events, refused })
    }

    fn event(&mut self, before: &mut Before, texts: &mut Known<'a>) -> Result<Event, RowsError> {
        let [low, middle, high, same] = self.array()?;
        let flags = u32::from_le_bytes([low, middle, high, 0]);
        let family = FAMILIES.get((flags >> FAMILY & 0b11) as usize);
        let family = *family.filter(|_| flags & !KNOWN == 0).ok_or(RowsError::Impossible)?;
        let same = usize::from(same);
        let rest = before.id.get_mut(same..).ok_or(RowsError::Impossible)?;
        rest.copy_from_slice(self.take(rest.len())?);
        before.ts_ms = self.change(before.ts_ms.cast_unsigned())?.cast_signed();
        let seq = if flags & HAS_SEQ == 0 { None } else { Some(self.position(before)?) };
        let target = texts.text(self.count()?)?;
        let mut float = |flag: u32| if flags & flag == 0 { Ok(None) } else { self.float().map(Some) };
        let timings = Timings {
            dns_ms: float(HAS_DNS)?,
            tcp_ms: float(HAS_TCP)?,
            tls_ms: float(HAS_TLS)?,
            http_ttfb_ms: float(HAS_TTFB)?,
        };
        let throughput_kbps = float(HAS_THROUGHPUT)?;
        let mut error_stage = None;
        if flags & HAS_STAGE != 0 {
            let [stage] = self.array()?;
            error_stage = Some(*ErrorStage::ALL.get(usize::from(stage)).ok_or(RowsError::Impossible)?);
        }
        let mut text =
            |flag: u32| if flags & flag == 0 { Ok(None) } else { texts.text(self.count()?).map(Some) };
        let (error_detail, resolver, remote_ip) = (text(HAS_DETAIL)?, text(HAS_RESOLVER)?, text(HAS_REMOTE)?);
        Ok(Event {
            event_id: Uuid::from_bytes(before.id),
            ts_ms: before.ts_ms,
            seq,
            target,
            family,
            interface_type: INTERFACES[(flags >> INTERFACE & 0b11) as usize],
            vpn_enabled: flags & IS_VPN != 0,
            timings,
            throughput_kbps,
            error_stage,
            error_detail,
            resolver,
            remote_ip,
            rtt: if flags & HAS_RTT == 0 { None } else { Some(self.rtt()?) },
            rpm: if flags & HAS_RPM == 0 { None } else { Some(self.float()?) },
            details: match flags & HAS_DETAILS {
                0 => None,
                _ => Some(Box::new(
                    postcard::from_bytes(texts.bytes(self.count()?)?).map_err(|_| RowsError::Text)?,
                )),
            },
        })
    }

    fn rtt(&mut self) -> Result<Rtt, RowsError> {
        Ok(Rtt {
            sent: self.small()?,
            received: self.small()?,
            min_ms: self.float()?,
            avg_ms: self.float()?,
            max_ms: self.float()?,
            jitter_ms: self.float()?,
            loss_pct: self.float()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use caelum_model::details::{Condition, Details};
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            (0u64..1 << 53).prop_map(|thousandths| thousandths as f64 / 1000.0),
            (0u64..100_000).prop_map(|hundredths| hundredths as f64 / 100.0),
            any::<f64>().prop_filter("what is no number equals nothing", |value| !value.is_nan()),
            Just(-0.0),
        ]
    }

    fn text() -> impl Strategy<Value = Arc<str>> {
        prop_oneof![Just(""), Just("192.0.2.1"), Just("https://a.example/"), Just("äöü")].prop_map(Arc::from)
    }

    fn details() -> impl Strategy<Value = Box<Details>> {
        proptest::option::of(any::<u8>()).prop_map(|cpu_percent| {
            let condition = Condition { cpu_percent, ..Condition::default() };
            Box::new(Details { condition: Some(condition), ..Details::default() })
        })
    }

    prop_compose! {
        fn event()(
            id in prop_oneof![0u128..300, any::<u128>()],
            ts_ms in prop_oneof![0i64..300, any::<i64>()],
            seq in proptest::option::of((0u64..3, prop_oneof![0u64..300, any::<u64>()])),
            (family, interface, vpn_enabled, stage) in (0usize..3, 0usize..4, any::<bool>(), 0usize..9),
            times in proptest::collection::vec(proptest::option::of(number()), 6),
            target in text(),
            texts in proptest::collection::vec(proptest::option::of(text()), 3),
            rtt in proptest::option::of((any::<u32>(), proptest::collection::vec(number(), 5))),
            details in proptest::option::of(details()),
        ) -> Event {
            Event {
                event_id: Uuid::from_u128(id),
                ts_ms,
                seq: seq.map(|(epoch, seq)| SeqNo { epoch, seq }),
                target,
                family: FAMILIES[family],
                interface_type: INTERFACES[interface],
                vpn_enabled,
                timings: Timings { dns_ms: times[0], tcp_ms: times[1], tls_ms: times[2], http_ttfb_ms: times[3] },
                throughput_kbps: times[4],
                error_stage: ErrorStage::ALL.get(stage).copied(),
                error_detail: texts[0].clone(),
                resolver: texts[1].clone(),
                remote_ip: texts[2].clone(),
                rtt: rtt.map(|(sent, times)| Rtt {
                    sent,
                    received: sent / 2,
                    min_ms: times[0],
                    avg_ms: times[1],
                    max_ms: times[2],
                    jitter_ms: times[3],
                    loss_pct: times[4],
                }),
                rpm: times[5],
                details,
            }
        }
    }

    prop_compose! {
        fn client()(
            name in "[a-c]{1,3}",
            events in proptest::collection::vec(event(), 0..20),
            refused in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        ) -> ClientEvents {
            let refused = refused.into_iter().map(|(epoch, seq)| SeqNo { epoch, seq }).collect();
            ClientEvents { client_id: ClientId::parse(&name).expect("valid"), events, refused }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_half_of_it_is_not(
            clients in proptest::collection::vec(client(), 0..4),
            part in 0.0f64..1.0,
        ) {
            let bytes = encode(&clients);
            let read = decode(&bytes).expect("it was written above");
            // As text, too: zero has two signs.
            prop_assert_eq!(format!("{:?}", &read), format!("{:?}", &clients));
            prop_assert_eq!(encode(&read), &bytes[..]);
            prop_assert!(decode(&bytes[..(bytes.len() as f64 * part) as usize]).is_err());
            let longer = [&bytes[..], &[0]].concat();
            prop_assert!(matches!(decode(&longer), Err(RowsError::Trailing)));
        }

        #[test]
        fn bytes_from_anywhere_are_refused_or_read_and_never_more(
            clients in proptest::collection::vec(client(), 0..3),
            noise in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = decode(&bytes);
            let mut bytes = encode(&clients);
            for (place, byte) in noise {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(clients) = decode(&bytes) {
                prop_assert!(clients.iter().map(|client| client.events.len()).sum::<usize>() <= bytes.len());
            }
        }
    }

    #[test]
    fn an_event_as_probes_send_them_takes_few_bytes() {
        let event = |seq: u64| Event {
            event_id: Uuid::from_u128(0x0190_b7a4_7a5c_7000_8000_0000_0000_0000 + u128::from(seq)),
            ts_ms: 1_800_000_000_000 + seq as i64 * 200,
            seq: Some(SeqNo { epoch: 1, seq }),
            target: format!("https://target-{}.example/", seq % 8).into(),
            family: Family::V4,
            interface_type: InterfaceType::Ethernet,
            vpn_enabled: false,
            timings: Timings {
                dns_ms: Some(8.25),
                tcp_ms: Some(20.5),
                tls_ms: Some(24.125),
                http_ttfb_ms: Some(60.01),
            },
            throughput_kbps: None,
            error_stage: None,
            error_detail: None,
            resolver: Some("192.0.2.1".into()),
            remote_ip: Some("192.0.2.2".into()),
            rtt: None,
            rpm: None,
            details: None,
        };
        let client_id = ClientId::parse("probe-1").expect("valid");
        let events = (1..=1000).map(event).collect();
        let bytes = encode(&[ClientEvents { client_id, events, refused: Vec::new() }]);
        assert!(bytes.len() < 27 * 1000, "{} bytes", bytes.len());
    }
}
