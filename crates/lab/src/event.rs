//! Events as a probe would send them, with the numbers a test wants.

use std::borrow::Cow;

use caelum_model::wire::{EventJson, NetworkContextJson, SCHEMA_1_0, SCHEMA_1_1, TimingsJson};
use uuid::Uuid;

/// Stage times of a measurement that is as usual, ms.
pub const USUAL: TimingsJson =
    TimingsJson { dns_ms: Some(8.0), tcp_ms: Some(20.0), tls_ms: Some(24.0), http_ttfb_ms: Some(60.0) };

/// A probe that numbers its events, in the newer form.
#[derive(Clone, Debug)]
pub struct Numbered {
    client_id: String,
    epoch: u64,
    next_seq: u64,
}

impl Numbered {
    /// A probe at the beginning of an epoch.
    pub fn new(client_id: &str, epoch: u64) -> Self {
        Self { client_id: client_id.to_owned(), epoch, next_seq: 1 }
    }

    /// Its next event.
    pub fn event(&mut self, target: &str, ts_ms: i64, timings: TimingsJson) -> EventJson<'static> {
        let seq = self.next_seq;
        self.next_seq += 1;
        EventJson {
            schema_version: Cow::Borrowed(SCHEMA_1_1),
            epoch: Some(self.epoch),
            seq: Some(seq),
            ..plain(&self.client_id, target, ts_ms, timings)
        }
    }
}

/// An event in the original form, with an id of its own.
pub fn plain(client_id: &str, target: &str, ts_ms: i64, timings: TimingsJson) -> EventJson<'static> {
    EventJson {
        event_id: Cow::Owned(Uuid::new_v4().to_string()),
        client_id: Cow::Owned(client_id.to_owned()),
        ts_ms,
        schema_version: Cow::Borrowed(SCHEMA_1_0),
        target: Cow::Owned(target.to_owned()),
        network_context: NetworkContextJson { interface_type: Some("ethernet".into()), ..Default::default() },
        timings,
        ..EventJson::default()
    }
}

/// Events as lines of JSON.
pub fn ndjson<'a>(events: impl IntoIterator<Item = &'a EventJson<'static>>) -> Vec<u8> {
    let mut body = Vec::new();
    for event in events {
        serde_json::to_writer(&mut body, event).expect("an event is plain data");
        body.push(b'\n');
    }
    body
}

/// The time now, ms since 1970.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("clocks are past 1970").as_millis()).expect("fits until the year 292 million")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_probe_counts_and_a_plain_event_does_not() {
        let mut probe = Numbered::new("p", 7);
        let events = [probe.event("https://a/", 1, USUAL), probe.event("https://a/", 2, USUAL)];
        assert_eq!(events.each_ref().map(|event| event.seq), [Some(1), Some(2)]);
        let body = String::from_utf8(ndjson(&events)).expect("JSON is text");
        assert_eq!(body.lines().count(), 2);
        assert!(body.contains("\"epoch\":7"));
        assert_eq!(plain("p", "https://a/", 1, USUAL).seq, None);
    }
}
