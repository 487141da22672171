//! An event in the form in which senders usually write it, read in one pass and without a copy.
//!
//! It knows members by their names, strings without escapes and numbers without a sign or an exponent. Where it
//! meets anything else (a member it does not know, one that comes twice, a mistake) it gives up, and the general
//! parser reads the event from its beginning. So what is an event, and what is said about one that is none, is
//! `serde_json`'s alone; what is read here is read as it would have been there, to the last bit.
//!
//! A sender writes the members of all its events in one order. [`Usual`] learns it, and mostly compares a name
//! where it would have to find one.

use std::borrow::Cow;

use caelum_model::{
    event::Rtt,
    wire::{EventJson, NetworkContextJson, TimingsJson},
};
use serde::de::DeserializeOwned;

/// Whole numbers below this are exact as floating point numbers.
const EXACT_BELOW: u64 = 1 << 53;
/// Powers of ten that are exact as floating point numbers: of two exact numbers the quotient is the nearest one to
/// the number written, however it is computed.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];
/// So many digits always fit into a number.
const DIGITS_FIT: usize = 19;

const EVENT: [&str; 21] = [
    "\"event_id\":",
    "\"client_id\":",
    "\"ts_ms\":",
    "\"schema_version\":",
    "\"target\":",
    "\"network_context\":",
    "\"timings\":",
    "\"throughput_kbps\":",
    "\"epoch\":",
    "\"seq\":",
    "\"error_stage\":",
    "\"error_detail\":",
    "\"resolver\":",
    "\"remote_ip\":",
    "\"address_family\":",
    "\"rtt\":",
    "\"rpm\":",
    "\"traceparent\":",
    "\"tracestate\":",
    "\"path\":",
    "\"caelum\":",
];
const NETWORK_CONTEXT: [&str; 3] = ["\"interface_type\":", "\"vpn_enabled\":", "\"user_label\":"];
const TIMINGS: [&str; 4] = ["\"dns_ms\":", "\"tcp_ms\":", "\"tls_ms\":", "\"http_ttfb_ms\":"];
const RTT: [&str; 7] = [
    "\"sent\":",
    "\"received\":",
    "\"min_ms\":",
    "\"avg_ms\":",
    "\"max_ms\":",
    "\"jitter_ms\":",
    "\"loss_pct\":",
];

/// Reads events of one sender.
#[derive(Debug)]
pub(super) struct Usual {
    event: Order<21>,
    network_context: Order<3>,
    timings: Order<4>,
    rtt: Order<7>,
}

impl Default for Usual {
    fn default() -> Self {
        Self {
            event: Order::of(EVENT),
            network_context: Order::of(NETWORK_CONTEXT),
            timings: Order::of(TIMINGS),
            rtt: Order::of(RTT),
        }
    }
}

impl Usual {
    /// Reads an event that is the whole text into one that is empty yet. Answers false where the general parser must
    /// decide; then the event is to be thrown away.
    pub(super) fn read<'a>(&mut self, text: &'a str, event: &mut EventJson<'a>) -> bool {
        let mut text = Text { text, at: 0 };
        text.space();
        self.member(&mut text, event).is_some() && text.is_over()
    }

    /// Reads an array of events that is the whole text. None where the general parser must decide.
    pub(super) fn array<'a>(&mut self, text: &'a str) -> Option<Vec<EventJson<'a>>> {
        let mut text = Text { text, at: 0 };
        text.space();
        text.take(b'[')?;
        let mut events = Vec::new();
        loop {
            text.space();
            let mut event = EventJson::default();
            self.member(&mut text, &mut event)?;
            events.push(event);
            text.space();
            if !text.skip(b',') {
                text.take(b']')?;
                return text.is_over().then_some(events);
            }
        }
    }

    fn member<'a>(&mut self, text: &mut Text<'a>, event: &mut EventJson<'a>) -> Option<()> {
        let Self { event: order, network_context, timings, rtt } = self;
        text.object(order, |text, name| {
            match name {
                0 => event.event_id = text.string()?,
                1 => event.client_id = text.string()?,
                2 => event.ts_ms = i64::try_from(text.whole()?).ok()?,
                3 => event.schema_version = text.string()?,
                4 => event.target = text.string()?,
                5 => read_network_context(text, network_context, &mut event.network_context)?,
                6 => read_timings(text, timings, &mut event.timings)?,
                7 => event.throughput_kbps = text.optional(Text::number)?,
                8 => event.epoch = text.optional(Text::whole)?,
                9 => event.seq = text.optional(Text::whole)?,
                10 => event.error_stage = text.optional(Text::string)?,
                11 => event.error_detail = text.optional(Text::string)?,
                12 => event.resolver = text.optional(Text::string)?,
                13 => event.remote_ip = text.optional(Text::string)?,
                14 => event.address_family = text.optional(Text::string)?,
                15 => event.rtt = text.optional(|text| read_rtt(text, rtt))?,
                16 => event.rpm = text.optional(Text::number)?,
                17 => event.traceparent = text.optional(Text::string)?,
                18 => event.tracestate = text.optional(Text::string)?,
                // What has many forms is the general parser's, but only this member.
                19 => event.path = text.optional(Text::general)?,
                _ => event.details = text.optional(Text::general)?,
            }
            Some(())
        })?;
        Some(())
    }
}

fn read_network_context<'a>(
    text: &mut Text<'a>,
    order: &mut Order<3>,
    context: &mut NetworkContextJson<'a>,
) -> Option<()> {
    text.object(order, |text, name| {
        match name {
            0 => context.interface_type = text.optional(Text::string)?,
            1 => context.vpn_enabled = text.truth()?,
            _ => context.user_label = text.optional(Text::string)?,
        }
        Some(())
    })?;
    Some(())
}

fn read_timings(text: &mut Text<'_>, order: &mut Order<4>, timings: &mut TimingsJson) -> Option<()> {
    text.object(order, |text, name| {
        let time = text.optional(Text::number)?;
        match name {
            0 => timings.dns_ms = time,
            1 => timings.tcp_ms = time,
            2 => timings.tls_ms = time,
            _ => timings.http_ttfb_ms = time,
        }
        Some(())
    })?;
    Some(())
}

fn read_rtt(text: &mut Text<'_>, order: &mut Order<7>) -> Option<Rtt> {
    let mut rtt = Rtt::default();
    let members = text.object(order, |text, name| {
        match name {
            0 => rtt.sent = u32::try_from(text.whole()?).ok()?,
            1 => rtt.received = u32::try_from(text.whole()?).ok()?,
            2 => rtt.min_ms = text.number()?,
            3 => rtt.avg_ms = text.number()?,
            4 => rtt.max_ms = text.number()?,
            5 => rtt.jitter_ms = text.number()?,
            _ => rtt.loss_pct = text.number()?,
        }
        Some(())
    })?;
    // None of them may be missing.
    (members == 0b111_1111).then_some(rtt)
}

/// The members of a kind of object, quoted and with their colons, and in which order they come.
#[derive(Debug)]
struct Order<const MEMBERS: usize> {
    names: [&'static str; MEMBERS],
    first: usize,
    /// Which came after each, the last time.
    next: [usize; MEMBERS],
}

impl<const MEMBERS: usize> Order<MEMBERS> {
    fn of(names: [&'static str; MEMBERS]) -> Self {
        Self { names, first: 0, next: std::array::from_fn(|nth| (nth + 1) % MEMBERS) }
    }
}

/// A text and how far it is read.
struct Text<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Text<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Whether nothing follows but space.
    fn is_over(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    #[inline]
    fn skip(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip(byte).then_some(())
    }

    #[inline]
    fn word(&mut self, word: &str) -> bool {
        let is_there = begins_with(&self.text.as_bytes()[self.at..], word.as_bytes());
        self.at += if is_there { word.len() } else { 0 };
        is_there
    }

    /// Reads an object; `member` reads the value of the name of a number. Answers which numbers came, as bits; none
    /// of them may come twice.
    #[inline]
    fn object<const MEMBERS: usize>(
        &mut self,
        order: &mut Order<MEMBERS>,
        mut member: impl FnMut(&mut Self, usize) -> Option<()>,
    ) -> Option<u32> {
        self.take(b'{')?;
        self.space();
        let mut members = 0_u32;
        if self.skip(b'}') {
            return Some(members);
        }
        let mut expected = &mut order.first;
        loop {
            if !self.word(order.names[*expected]) {
                *expected = self.name(&order.names)?;
            }
            let name = *expected;
            self.space();
            if members & 1 << name != 0 {
                return None;
            }
            members |= 1 << name;
            member(self, name)?;
            self.space();
            if !self.skip(b',') {
                self.take(b'}')?;
                return Some(members);
            }
            self.space();
            expected = &mut order.next[name];
        }
    }

    /// The number of a name that was not expected, and its colon.
    #[cold]
    fn name(&mut self, names: &[&str]) -> Option<usize> {
        let plain = self.plain()?;
        self.space();
        self.take(b':')?;
        names.iter().position(|name| name[1..name.len() - 2] == *plain)
    }

    #[inline]
    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.peek() == Some(b'n') { self.word("null").then_some(None) } else { read(self).map(Some) }
    }

    #[inline]
    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.plain().map(Cow::Borrowed)
    }

    /// A string that stands for itself.
    #[inline]
    fn plain(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let length = plain_bytes(&self.text.as_bytes()[self.at..]);
        let plain = self.text.get(self.at..self.at + length)?;
        self.at += length;
        self.take(b'"')?;
        Some(plain)
    }

    fn truth(&mut self) -> Option<bool> {
        if self.word("true") {
            return Some(true);
        }
        self.word("false").then_some(false)
    }

    #[inline]
    fn whole(&mut self) -> Option<u64> {
        let from = self.at;
        let number = self.digits(0);
        let digits = &self.text.as_bytes()[from..self.at];
        match digits {
            [] => None,
            // Zero is the only number that begins with one.
            [b'0', _, ..] => None,
            _ if digits.len() <= DIGITS_FIT => Some(number),
            _ => self.text[from..self.at].parse().ok(),
        }
    }

    #[inline]
    fn number(&mut self) -> Option<f64> {
        let from = self.at;
        let mut number = self.whole()?;
        let mut behind = 0;
        if self.skip(b'.') {
            let dot = self.at;
            number = self.digits(number);
            behind = self.at - dot;
            if behind == 0 || self.at - from > DIGITS_FIT {
                return None;
            }
        }
        (number < EXACT_BELOW).then_some(number as f64 / POWERS.get(behind)?)
    }

    /// Reads digits behind those of a number. Answers the number that they make together, where it fits.
    #[inline]
    fn digits(&mut self, mut number: u64) -> u64 {
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        number
    }

    /// An object or an array of any form.
    fn general<T: DeserializeOwned>(&mut self) -> Option<T> {
        if !matches!(self.peek(), Some(b'{' | b'[')) {
            return None;
        }
        let mut values = serde_json::Deserializer::from_str(self.text.get(self.at..)?).into_iter();
        let value = values.next()?.ok()?;
        self.at += values.byte_offset();
        Some(value)
    }
}

/// Whether bytes begin with a word. Words are short, and calling a function that compares would take longer than this:
/// the first and the last eight bytes, which overlap in most.
#[inline]
fn begins_with(bytes: &[u8], word: &[u8]) -> bool {
    let Some(begin) = bytes.get(..word.len()) else { return false };
    match (begin.first_chunk::<8>(), word.first_chunk::<8>(), begin.last_chunk::<8>(), word.last_chunk::<8>())
    {
        (Some(first), Some(word_first), Some(last), Some(word_last)) if word.len() <= 16 => {
            u64::from_le_bytes(*first) == u64::from_le_bytes(*word_first)
                && u64::from_le_bytes(*last) == u64::from_le_bytes(*word_last)
        }
        _ => begin == word,
    }
}

/// How many bytes there are before the first that does not stand for itself in a string: a quote, a backslash, a
/// control character. Eight at a time, since most of an event are strings.
#[inline]
fn plain_bytes(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::MAX / 255;
    const HIGHS: u64 = EACH << 7;
    /// A high bit in the lowest byte that is zero, and in none below it.
    fn zeros(word: u64) -> u64 {
        word.wrapping_sub(EACH) & !word & HIGHS
    }
    let (words, rest) = bytes.as_chunks::<8>();
    for (nth, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let controls = word.wrapping_sub(EACH * 0x20) & !word & HIGHS;
        let ends =
            zeros(word ^ (EACH * u64::from(b'"'))) | zeros(word ^ (EACH * u64::from(b'\\'))) | controls;
        if ends != 0 {
            return nth * 8 + ends.trailing_zeros() as usize / 8;
        }
    }
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    words.len() * 8 + rest.iter().position(is_end).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USUAL: &str = r#"{"epoch":7,"seq":18,"event_id":"0190b7a4-7a5c-7000-8000-000000000001","client_id":"probe-1",
        "ts_ms":1800000000000,"schema_version":"1.1","target":"https://example.net/ä","network_context":
        {"interface_type":"wifi","vpn_enabled":true,"user_label":null},"timings":{"dns_ms":1.5,"tcp_ms":0,"tls_ms":20.03},
        "throughput_kbps":40000,"error_stage":"TLS","error_detail":"refused","resolver":"192.0.2.1","remote_ip":"192.0.2.2",
        "address_family":"ipv4","rtt":{"sent":5,"received":4,"min_ms":1.0,"avg_ms":2.25,"max_ms":3,"jitter_ms":0.125,
        "loss_pct":20.0},"rpm":null,"traceparent":"00-1-2-01","tracestate":"a=b",
        "path":[{"ttl":1,"ip":"192.0.2.9","rtt_ms":0.5},{"ttl":2}],"caelum":{"dns_cached":true,"later":[{}]}}"#;

    /// Values that are read here, and values that must not be.
    const VALUES: [&str; 44] = [
        "null",
        "true",
        "false",
        "0",
        "7",
        "00",
        "-1",
        "-0",
        "1.5",
        "0.1",
        "20.03",
        "1.",
        ".5",
        "1e3",
        "1.5E-3",
        "18446744073709551615",
        "18446744073709551616",
        "9007199254740993",
        "0.30000000000000000001",
        "1.7976931348623157e309",
        "123456789.123456789",
        "4503599627370497.5",
        "\"\"",
        "\"a\"",
        "\"wifi\"",
        "\"a\\nb\"",
        "\"\\u00e4\"",
        "\"ä\"",
        "\"a\u{1}\"",
        "\"a\u{7f}b\"",
        "\"1234567\"",
        "\"12345678\"",
        "\"open",
        "[]",
        "[1]",
        "{}",
        "{\"dns_ms\":1,\"dns_ms\":2}",
        "{\"dns_ms\":3.25,\"tcp_ms\":null}",
        "{\"vpn_enabled\":false}",
        "{\"vpn_enabled\":0}",
        "{\"sent\":1}",
        "[{\"ttl\":300}]",
        "[{\"ttl\":3}]",
        "{\"web\":{\"status\":200}}",
    ];

    const NAMES: [&str; 24] = [
        "event_id",
        "client_id",
        "ts_ms",
        "schema_version",
        "target",
        "network_context",
        "timings",
        "throughput_kbps",
        "epoch",
        "seq",
        "error_stage",
        "error_detail",
        "resolver",
        "remote_ip",
        "address_family",
        "rtt",
        "rpm",
        "traceparent",
        "tracestate",
        "path",
        "caelum",
        "recv_ts_ms",
        "ts_m",
        "t\\u0073_ms",
    ];

    /// Whatever is read here, the general parser reads the same.
    fn judge(text: &str) -> Result<(), TestCaseError> {
        let general = serde_json::from_str::<EventJson<'_>>(text);
        let mut event = EventJson::default();
        if Usual::default().read(text, &mut event) {
            let general = general.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
            // As text, too: zero has two signs.
            prop_assert_eq!(format!("{:?}", &event), format!("{:?}", &general), "{}", text);
        }
        let list = format!("[{text} , {text}]");
        if let Some(events) = Usual::default().array(&list) {
            let general = serde_json::from_str::<Vec<EventJson<'_>>>(&list);
            prop_assert_eq!(format!("{events:?}"), format!("{:?}", general.ok().unwrap_or_default()));
        }
        Ok(())
    }

    #[test]
    fn an_event_of_the_usual_form_is_read_here_and_as_the_general_parser_would() {
        let mut usual = Usual::default();
        for _ in 0..2 {
            assert!(usual.read(USUAL, &mut EventJson::default()));
            assert!(usual.array(&format!(" [ {USUAL},{USUAL} ] ")).is_some());
        }
        judge(USUAL).expect("the same");
        for value in VALUES {
            for name in NAMES {
                judge(&format!("{{\"{name}\":{value}}}")).expect("the same");
            }
        }
    }

    #[test]
    fn what_is_odd_is_left_to_the_general_parser() {
        let odd = [
            "",
            "{",
            "[]",
            "7",
            "{}{}",
            "{} x",
            "{,}",
            r#"{"seq":1,}"#,
            r#"{"seq":1,"seq":1}"#,
            r#"{"more":1}"#,
        ];
        for text in odd {
            assert!(!Usual::default().read(text, &mut EventJson::default()), "{text}");
        }
        for text in ["", "[", "[]", "[{}", "[{},]", "[{}]]", "{}"] {
            assert_eq!(Usual::default().array(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_read_to_the_last_bit(whole in 0u64..1 << 54, digits in 0usize..24, shift in 0u32..54) {
            let text = format!("{:0width$}", whole >> shift, width = digits + 1);
            let (before, behind) = text.split_at(text.len() - digits);
            let dot = if digits > 0 { "." } else { "" };
            judge(&format!("{{\"rpm\":{before}{dot}{behind}}}"))?;
        }

        #[test]
        fn any_members_in_any_order_mean_what_the_general_parser_says(
            members in proptest::collection::vec((0..NAMES.len(), 0..VALUES.len(), " {0,2}"), 0..6),
        ) {
            let members: Vec<String> = members
                .iter()
                .map(|(name, value, space)| format!("{space}\"{}\"{space}:{space}{}", NAMES[*name], VALUES[*value]))
                .collect();
            judge(&format!("{{{}}}", members.join(",")))?;
        }

        #[test]
        fn a_usual_event_with_a_mistake_means_what_the_general_parser_says(
            edits in proptest::collection::vec((0..USUAL.len(), prop_oneof![Just(None), any::<char>().prop_map(Some), "[\"{}\\[\\],:.0-9e\\\\-]".prop_map(|text| text.chars().next())]), 1..4),
        ) {
            let mut text: Vec<char> = USUAL.chars().collect();
            for (at, new) in edits {
                let at = at % text.len();
                match new {
                    Some(new) => text[at] = new,
                    None => { text.remove(at); }
                }
            }
            judge(&text.into_iter().collect::<String>())?;
        }
    }
}
