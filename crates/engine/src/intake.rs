//! What may enter the event stream: checks on each event, what a probe may trim, and how fast it may send.
//!
//! # Purpose
//! Turn the lenient JSON of `/events` into an [`Event`] or a [`Refusal`] with its code ([`Checker`]); remember which
//! sequence numbers of a probe are durable, so that it knows how far it may forget ([`Acks`]); and bound the
//! rate of each sender ([`Bucket`]).
//!
//! # Rules
//! - Checks are those of the wire document: schema `1.0` or `1.1`, a UUID, a probe the token is bound to, a
//!   time above zero and at most an hour ahead, a URL as target, timings of zero or more and at most an hour.
//! - Unknown members are fine; unknown schemas and stages are not.
//! - `ack_through` is the highest number up to which every number of the epoch is durable, from 1. It may
//!   lag behind the truth after a restart, never run ahead of it.
//!
//! # What it does not do
//! It does not decide about duplicates that it cannot know of: `window` counts each event once, whatever
//! gets through here.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use caelum_model::{
    UnixMs,
    access::ClientBinding,
    details::{Details, HOPS_MAX, Hop},
    event::{ErrorStage, Event, Family, InterfaceType, SeqNo, Timings},
    id::ClientId,
    rollup::SeenRanges,
    wire::{EventJson, SCHEMA_1_0, SCHEMA_1_1},
};
use uuid::Uuid;

use crate::ranges::{ExactSet, RangeSet};

/// How far ahead of the server's clock an event may be, ms.
pub const AHEAD_MAX_MS: i64 = 3_600_000;
/// Longest stage that is believed, ms.
const STAGE_MAX_MS: f64 = 3_600_000.0;
/// Highest throughput that is believed, kbit/s.
const THROUGHPUT_MAX_KBPS: f64 = 1e10;
/// Bytes of a target's URL.
const TARGET_BYTES_MAX: usize = 2048;
/// Bytes kept of free text.
const TEXT_BYTES_MAX: usize = 200;

/// Why an event was refused. The text is the stable code of the wire document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// A member is missing, of the wrong kind or out of its range.
    InvalidRequest,
    /// A schema that is not known here.
    InvalidSchemaVersion,
    /// No UUID.
    InvalidEventId,
    /// Not above zero, or too far ahead.
    InvalidTimestamp,
    /// The token is bound to another probe.
    ForbiddenClient,
}

impl RefusalCode {
    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidSchemaVersion => "invalid_schema_version",
            Self::InvalidEventId => "invalid_event_id",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::ForbiddenClient => "forbidden_client",
        }
    }
}

/// A refused event: code, reason for people, and its place in the probe's sequence if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code.
    pub code: RefusalCode,
    /// What is wrong, where, and what is allowed.
    pub message: String,
}

fn refuse<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// Checks the events of one request against the wire document, the token's binding and the server's clock.
///
/// Most events of a request are of one probe and few targets. What was checked once is known by its text after
/// that, and shared.
#[derive(Debug)]
pub struct Checker<'a> {
    binding: &'a ClientBinding,
    now_ms: UnixMs,
    /// The probe of the event before, which the token may speak for.
    client_id: Option<ClientId>,
    targets: HashSet<Arc<str>>,
    /// Free texts that are as they are kept.
    texts: HashSet<Arc<str>>,
}

impl<'a> Checker<'a> {
    /// For a request under a token that is bound so, received now.
    pub fn new(binding: &'a ClientBinding, now_ms: UnixMs) -> Self {
        Self { binding, now_ms, client_id: None, targets: HashSet::new(), texts: HashSet::new() }
    }

    /// Checks one event.
    pub fn check(&mut self, json: &EventJson<'_>) -> Result<(ClientId, Event), Refusal> {
        use RefusalCode::{InvalidEventId, InvalidRequest, InvalidSchemaVersion, InvalidTimestamp};
        let is_1_1 = match json.schema_version.as_ref() {
            SCHEMA_1_0 => false,
            SCHEMA_1_1 => true,
            "" => return refuse(InvalidSchemaVersion, "schema_version is missing; known are 1.0 and 1.1"),
            other => {
                let shown: String = other.chars().take(40).collect();
                return refuse(
                    InvalidSchemaVersion,
                    format!("schema_version {shown:?} is unknown; known are 1.0 and 1.1"),
                );
            }
        };
        let Ok(event_id) = Uuid::try_parse(&json.event_id) else {
            return refuse(InvalidEventId, "event_id is not a UUID");
        };
        let client_id = self.client_id(&json.client_id)?;
        if json.ts_ms <= 0 {
            return refuse(InvalidTimestamp, "ts_ms is not above zero");
        }
        if json.ts_ms > self.now_ms + AHEAD_MAX_MS {
            let ahead_s = (json.ts_ms - self.now_ms) / 1000;
            return refuse(
                InvalidTimestamp,
                format!("ts_ms is {ahead_s} s ahead of the server; at most 3600 s are allowed"),
            );
        }
        let target = self.target(&json.target)?;
        let timings = Timings {
            dns_ms: stage("timings.dns_ms", json.timings.dns_ms)?,
            tcp_ms: stage("timings.tcp_ms", json.timings.tcp_ms)?,
            tls_ms: stage("timings.tls_ms", json.timings.tls_ms)?,
            http_ttfb_ms: stage("timings.http_ttfb_ms", json.timings.http_ttfb_ms)?,
        };
        let throughput_kbps = within("throughput_kbps", json.throughput_kbps, THROUGHPUT_MAX_KBPS)?;
        let error_stage = match json.error_stage.as_deref() {
            None | Some("") => None,
            Some(text) => match ErrorStage::parse(text) {
                Some(stage) => Some(stage),
                None => {
                    return refuse(InvalidRequest, "error_stage is none of DNS, TCP, TLS, HTTP, throughput");
                }
            },
        };
        let mut event = Event {
            event_id,
            ts_ms: json.ts_ms,
            seq: None,
            target,
            family: Family::Any,
            interface_type: interface_type(json.network_context.interface_type.as_deref()),
            vpn_enabled: json.network_context.vpn_enabled,
            timings,
            throughput_kbps,
            error_stage,
            error_detail: None,
            resolver: None,
            remote_ip: None,
            rtt: None,
            rpm: None,
            details: None,
        };
        if is_1_1 {
            self.add_1_1(&mut event, json)?;
        }
        Ok((client_id, event))
    }

    fn client_id(&mut self, text: &str) -> Result<ClientId, Refusal> {
        if let Some(known) = self.client_id.as_ref().filter(|known| known.as_str() == text) {
            return Ok(known.clone());
        }
        let client_id = match ClientId::parse(text) {
            Ok(client_id) => client_id,
            Err(error) => return refuse(RefusalCode::InvalidRequest, format!("client_id {error}")),
        };
        if !may_speak_for(self.binding, &client_id) {
            let message = format!("the token may not speak for client_id {client_id}");
            return refuse(RefusalCode::ForbiddenClient, message);
        }
        self.client_id = Some(client_id.clone());
        Ok(client_id)
    }

    fn target(&mut self, text: &str) -> Result<Arc<str>, Refusal> {
        if let Some(known) = self.targets.get(text) {
            return Ok(Arc::clone(known));
        }
        check_target(text)?;
        let target = Arc::from(text);
        self.targets.insert(Arc::clone(&target));
        Ok(target)
    }

    /// Free text cut to its bound, without control characters.
    fn text(&mut self, value: Option<&str>) -> Option<Arc<str>> {
        let value = value?;
        if let Some(known) = self.texts.get(value) {
            return Some(Arc::clone(known));
        }
        let kept: Arc<str> = text(Some(value))?.into();
        self.texts.insert(Arc::clone(&kept));
        Some(kept)
    }

    /// The members that schema 1.1 adds. In a 1.0 event they are unknown members, and ignored.
    fn add_1_1(&mut self, event: &mut Event, json: &EventJson<'_>) -> Result<(), Refusal> {
        use RefusalCode::InvalidRequest;
        event.seq = match (json.epoch, json.seq) {
            (None, None) => None,
            (Some(_), Some(0)) => {
                return refuse(InvalidRequest, "seq is 0; the first event of an epoch has seq 1");
            }
            (Some(epoch), Some(seq)) => Some(SeqNo { epoch, seq }),
            (Some(_), None) | (None, Some(_)) => {
                return refuse(InvalidRequest, "epoch and seq come together or not at all");
            }
        };
        event.family = match json.address_family.as_deref() {
            Some("ipv4") => Family::V4,
            Some("ipv6") => Family::V6,
            None | Some("any" | "") => Family::Any,
            Some(_) => return refuse(InvalidRequest, "address_family is neither ipv4 nor ipv6"),
        };
        event.error_detail = self.text(json.error_detail.as_deref());
        event.resolver = self.text(json.resolver.as_deref());
        event.remote_ip = self.text(json.remote_ip.as_deref());
        event.rpm = within("rpm", json.rpm, 1e9)?;
        if let Some(rtt) = json.rtt {
            let times = [rtt.min_ms, rtt.avg_ms, rtt.max_ms, rtt.jitter_ms];
            let is_sane = times.iter().all(|ms| (0.0..=STAGE_MAX_MS).contains(ms))
                && (0.0..=100.0).contains(&rtt.loss_pct)
                && rtt.received <= rtt.sent;
            if !is_sane {
                return refuse(
                    InvalidRequest,
                    "rtt holds a negative time, a loss outside 0 to 100, or more answers than packets",
                );
            }
            event.rtt = Some(rtt);
        }
        event.details = details(json);
        Ok(())
    }
}

/// Whether a token that is bound so may speak for a probe.
pub fn may_speak_for(binding: &ClientBinding, client_id: &ClientId) -> bool {
    match binding {
        ClientBinding::None => false,
        ClientBinding::One(bound) => bound == client_id,
        ClientBinding::Any => true,
    }
}

/// What is known beside the timings, bounded. It decides nothing, so what does not fit is cut, not refused.
fn details(json: &EventJson<'_>) -> Option<Box<Details>> {
    if json.details.is_none() && json.path.is_none() {
        return None;
    }
    let mut details = json.details.as_deref().cloned().unwrap_or_default();
    if let Some(hops) = &json.path {
        details.path = hops
            .iter()
            .map(|hop| Hop {
                ttl: hop.ttl,
                ip: hop.ip.clone(),
                rtt_us: hop
                    .rtt_ms
                    .filter(|ms| (0.0..=STAGE_MAX_MS).contains(ms))
                    .map(|ms| (ms * 1000.0) as u32),
            })
            .collect();
    }
    details.path.truncate(HOPS_MAX);
    for hop in &mut details.path {
        hop.ip = text(hop.ip.as_deref());
    }
    if let Some(web) = &mut details.web {
        web.http_version = text(web.http_version.as_deref());
        web.tls_version = text(web.tls_version.as_deref());
        if let Some(certificate) = &mut web.certificate {
            certificate.subject = text(Some(&certificate.subject)).unwrap_or_default();
            certificate.issuer = text(Some(&certificate.issuer)).unwrap_or_default();
        }
    }
    if let Some(condition) = &mut details.condition {
        condition.interface = text(condition.interface.as_deref());
    }
    (!details.is_empty()).then(|| Box::new(details))
}

fn check_target(target: &str) -> Result<(), Refusal> {
    use RefusalCode::InvalidRequest;
    if target.is_empty() {
        return refuse(InvalidRequest, "target is missing");
    }
    if target.len() > TARGET_BYTES_MAX {
        return refuse(InvalidRequest, format!("target is longer than {TARGET_BYTES_MAX} bytes"));
    }
    let is_url = target.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && !rest.is_empty()
    });
    if !is_url || target.chars().any(|c| c.is_control() || c == ' ') {
        return refuse(InvalidRequest, "target is not a URL such as https://example.net/");
    }
    Ok(())
}

fn stage(name: &str, value: Option<f64>) -> Result<Option<f64>, Refusal> {
    within(name, value, STAGE_MAX_MS)
}

fn within(name: &str, value: Option<f64>, max: f64) -> Result<Option<f64>, Refusal> {
    match value {
        Some(value) if !(0.0..=max).contains(&value) => {
            refuse(RefusalCode::InvalidRequest, format!("{name} is {value}; allowed is 0 to {max}"))
        }
        value => Ok(value),
    }
}

fn interface_type(text: Option<&str>) -> InterfaceType {
    match text {
        Some("wifi") => InterfaceType::Wifi,
        Some("ethernet") => InterfaceType::Ethernet,
        Some("cellular") => InterfaceType::Cellular,
        _ => InterfaceType::Unknown,
    }
}

/// Free text cut to its bound, without control characters.
fn text(value: Option<&str>) -> Option<String> {
    let mut kept = String::new();
    for c in value?.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    (!kept.is_empty()).then_some(kept)
}

/// Most probes whose durable numbers are remembered at once.
const CLIENTS_MAX: usize = 10_000;

/// Which sequence numbers of which probe are durable, as far as this process knows.
#[derive(Debug, Default)]
pub struct Acks {
    clients: HashMap<ClientId, Known>,
}

/// The numbers of one probe that are durable.
#[derive(Debug, Default)]
pub struct Known {
    epochs: BTreeMap<u64, RangeSet>,
    used_at_ms: UnixMs,
}

impl Acks {
    /// Whether anything is known of a probe; if not, [`Acks::learn`] what is counted before answering it.
    pub fn knows(&self, client_id: &ClientId) -> bool {
        self.clients.contains_key(client_id)
    }

    /// Takes over what an aggregator has counted of a probe: it is durable.
    pub fn learn(&mut self, client_id: &ClientId, counted: &[SeenRanges], now_ms: UnixMs) {
        let known = self.touch(client_id, now_ms);
        for seen in counted {
            known.epochs.entry(seen.epoch).or_default().merge(&RangeSet::of(&seen.ranges));
        }
    }

    /// What is known of a probe; nothing where it has not been met.
    pub fn known(&self, client_id: &ClientId) -> Option<&Known> {
        self.clients.get(client_id)
    }

    /// Notes numbers that the queue has made durable, by their epochs.
    pub fn note(&mut self, client_id: &ClientId, durable: &BTreeMap<u64, ExactSet>, now_ms: UnixMs) {
        let known = self.touch(client_id, now_ms);
        for (epoch, numbers) in durable {
            known.epochs.entry(*epoch).or_default().merge(numbers);
        }
    }

    /// How far the probe may forget in an epoch.
    pub fn ack_through(&self, client_id: &ClientId, epoch: u64) -> Option<u64> {
        self.clients.get(client_id)?.epochs.get(&epoch)?.contiguous_from(1)
    }

    fn touch(&mut self, client_id: &ClientId, now_ms: UnixMs) -> &mut Known {
        if !self.clients.contains_key(client_id) && self.clients.len() >= CLIENTS_MAX {
            let idle = self.clients.iter().min_by_key(|(_, known)| known.used_at_ms);
            if let Some(idle) = idle.map(|(client_id, _)| client_id.clone()) {
                self.clients.remove(&idle);
            }
        }
        let known = self.clients.entry(client_id.clone()).or_default();
        known.used_at_ms = now_ms;
        known
    }
}

impl Known {
    /// Whether a number is known to be durable.
    pub fn is_durable(&self, at: SeqNo) -> bool {
        self.epochs.get(&at.epoch).is_some_and(|ranges| ranges.contains(at.seq))
    }
}

/// A token bucket: `rate` a second on average, `burst` at once. Counted in thousandths, so that no rounding
/// lets a sender wait too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    level_milli: i64,
    at_ms: UnixMs,
}

impl Bucket {
    /// A full bucket.
    pub fn full(burst: u32, now_ms: UnixMs) -> Self {
        Self { level_milli: i64::from(burst) * 1000, at_ms: now_ms }
    }

    /// Takes `amount`, or answers how many milliseconds to wait. More than `burst` at once is let through
    /// from a full bucket and paid for afterwards, since waiting would never make room for it.
    pub fn take(&mut self, amount: u32, rate: u32, burst: u32, now_ms: UnixMs) -> Result<(), i64> {
        let elapsed_ms = (now_ms - self.at_ms).max(0);
        let rate = i64::from(rate.max(1));
        let gained = elapsed_ms.saturating_mul(rate);
        self.level_milli = self.level_milli.saturating_add(gained).min(i64::from(burst) * 1000);
        self.at_ms = now_ms;
        let needed = i64::from(amount.min(burst)) * 1000;
        if self.level_milli >= needed {
            self.level_milli -= i64::from(amount) * 1000;
            return Ok(());
        }
        Err((needed - self.level_milli + rate - 1) / rate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn json(change: impl FnOnce(&mut serde_json::Value)) -> Result<(ClientId, Event), RefusalCode> {
        let mut value = serde_json::json!({
            "event_id": "0190b7a4-7a5c-7000-8000-000000000001", "client_id": "probe-1", "ts_ms": NOW_MS,
            "schema_version": "1.1", "target": "https://example.net/",
            "network_context": {"interface_type": "ethernet", "vpn_enabled": false},
            "timings": {"dns_ms": 1.0, "tcp_ms": 0.0}, "epoch": 7, "seq": 1,
        });
        change(&mut value);
        let text = value.to_string();
        let event: EventJson<'_> = serde_json::from_str(&text).expect("the parser is lenient");
        let binding = ClientBinding::One(ClientId::parse("probe-1").expect("valid"));
        Checker::new(&binding, NOW_MS).check(&event).map_err(|refusal| refusal.code)
    }

    #[test]
    fn every_rule_of_the_wire_document_has_its_code() {
        use RefusalCode::{
            ForbiddenClient, InvalidEventId, InvalidRequest, InvalidSchemaVersion, InvalidTimestamp,
        };
        let cases: &[(&str, serde_json::Value, RefusalCode)] = &[
            ("schema_version", "2.0".into(), InvalidSchemaVersion),
            ("schema_version", "".into(), InvalidSchemaVersion),
            ("event_id", "not-a-uuid".into(), InvalidEventId),
            ("client_id", "".into(), InvalidRequest),
            ("client_id", "probe-2".into(), ForbiddenClient),
            ("ts_ms", 0.into(), InvalidTimestamp),
            ("ts_ms", (NOW_MS + AHEAD_MAX_MS + 1).into(), InvalidTimestamp),
            ("target", "".into(), InvalidRequest),
            ("target", "example.net".into(), InvalidRequest),
            ("target", format!("https://{}", "x".repeat(3000)).into(), InvalidRequest),
            ("error_stage", "parse".into(), InvalidRequest),
            ("throughput_kbps", (-1).into(), InvalidRequest),
            ("timings", serde_json::json!({"tls_ms": -0.1}), InvalidRequest),
            ("timings", serde_json::json!({"tls_ms": 1e9}), InvalidRequest),
            ("seq", 0.into(), InvalidRequest),
            ("seq", serde_json::Value::Null, InvalidRequest),
            ("address_family", "ipx".into(), InvalidRequest),
        ];
        for (member, value, code) in cases {
            let refused = json(|event| event[*member] = value.clone());
            assert_eq!(refused.err(), Some(*code), "{member} = {value}");
        }
    }

    #[test]
    fn the_latest_allowed_time_is_allowed_and_absent_is_not_zero() {
        let (_, event) = json(|event| event["ts_ms"] = (NOW_MS + AHEAD_MAX_MS).into()).expect("accepted");
        assert_eq!(event.timings.tcp_ms, Some(0.0));
        assert_eq!(event.timings.tls_ms, None);
        assert_eq!(event.seq, Some(SeqNo { epoch: 7, seq: 1 }));
    }

    #[test]
    fn a_seed_event_keeps_no_member_of_the_newer_schema() {
        let (_, event) = json(|event| event["schema_version"] = "1.0".into()).expect("accepted");
        assert_eq!((event.seq, event.family), (None, Family::Any));
    }

    #[test]
    fn free_text_is_cut_and_freed_of_control_characters() {
        let (_, event) =
            json(|event| event["error_detail"] = format!("a\u{1b}[31m{}", "é".repeat(200)).into())
                .expect("accepted");
        let detail = event.error_detail.expect("kept");
        assert!(detail.len() <= TEXT_BYTES_MAX && !detail.contains('\u{1b}'));
    }

    #[test]
    fn an_ack_reaches_to_the_first_gap_and_jumps_when_it_closes() {
        let client_id = ClientId::parse("probe-1").expect("valid");
        let durable = |numbers: &[(u64, u64)]| BTreeMap::from([(7, ExactSet::of(numbers))]);
        let mut acks = Acks::default();
        acks.note(&client_id, &durable(&[(2, 3)]), NOW_MS);
        assert_eq!(acks.ack_through(&client_id, 7), None, "1 may not be durable");
        acks.note(&client_id, &durable(&[(1, 1), (5, 5)]), NOW_MS);
        assert_eq!(acks.ack_through(&client_id, 7), Some(3));
        let counted = SeenRanges {
            client_id: client_id.clone(),
            epoch: 7,
            ranges: vec![(4, 4)],
            edges: Vec::new(),
            max_ts_ms: 0,
            too_late: 0,
        };
        acks.learn(&client_id, &[counted], NOW_MS);
        assert_eq!(acks.ack_through(&client_id, 7), Some(5));
        assert_eq!(acks.ack_through(&client_id, 8), None);
    }

    #[test]
    fn the_probe_that_was_silent_longest_is_forgotten_first() {
        let mut acks = Acks::default();
        for n in 0..=CLIENTS_MAX {
            let client_id = ClientId::parse(&format!("probe-{n}")).expect("valid");
            acks.note(&client_id, &BTreeMap::from([(1, ExactSet::of(&[(1, 1)]))]), n as i64);
        }
        assert!(!acks.knows(&ClientId::parse("probe-0").expect("valid")));
        assert!(acks.knows(&ClientId::parse("probe-1").expect("valid")));
    }

    proptest! {
        #[test]
        fn a_bucket_never_lets_more_through_than_rate_and_burst(steps in prop::collection::vec((0i64..500, 1u32..80), 1..60)) {
            let (rate, burst) = (100, 50);
            let mut bucket = Bucket::full(burst, 0);
            let (mut now_ms, mut passed, mut last) = (0i64, 0i64, 0i64);
            for (wait_ms, amount) in steps {
                now_ms += wait_ms;
                match bucket.take(amount, rate, burst, now_ms) {
                    Ok(()) => { passed += i64::from(amount); last = i64::from(amount); }
                    Err(wait_ms) => {
                        prop_assert!(wait_ms > 0);
                        let mut later = bucket;
                        prop_assert!(later.take(amount, rate, burst, now_ms + wait_ms).is_ok(), "the wait was too short");
                    }
                }
            }
            prop_assert!(passed * 1000 <= (i64::from(burst) + last) * 1000 + i64::from(rate) * now_ms);
        }
    }
}
