//! A story in events: targets that are as usual for a while, and then slow, each at one stage.
//!
//! Time is compressed through the events' own time stamps: a story of twenty minutes is posted in one go.

use std::ops::Range;

use caelum_model::wire::{EventJson, TimingsJson};

use crate::event::{Numbered, USUAL};

/// One minute, ms.
pub const MINUTE_MS: i64 = 60_000;
const BASELINE_MINUTES: i64 = 12;
const FAULT_MINUTES: i64 = 5;
const EVERY_MS: i64 = 10_000;
const USUAL_KBPS: f64 = 80_000.0;
/// Whose story it is.
pub const PROBE: &str = "probe-1";

/// What is done to a target while the fault lasts.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    host: &'static str,
    /// The verdict it deserves; none if nothing is done to it.
    pub label: Option<&'static str>,
    slow: fn(&mut TimingsJson, &mut f64),
}

/// Every target of the story.
pub const CASES: [Case; 7] = [
    Case { host: "dns", label: Some("DNS-bound"), slow: |t, _| add(&mut t.dns_ms, 300.0) },
    Case { host: "connect", label: Some("Handshake-bound"), slow: |t, _| add(&mut t.tcp_ms, 250.0) },
    Case { host: "tls", label: Some("Handshake-bound"), slow: |t, _| add(&mut t.tls_ms, 250.0) },
    Case { host: "server", label: Some("Server-bound"), slow: |t, _| add(&mut t.http_ttfb_ms, 600.0) },
    Case { host: "throughput", label: Some("Throughput-bound"), slow: |_, kbps| *kbps /= 8.0 },
    Case { host: "healthy", label: None, slow: |_, _| {} },
    Case { host: "healthy-too", label: None, slow: |_, _| {} },
];

fn add(stage: &mut Option<f64>, more_ms: f64) {
    *stage = stage.map(|ms| ms + more_ms);
}

impl Case {
    /// The target.
    pub fn url(self) -> String {
        format!("https://{}.example.net/", self.host)
    }
}

/// Small, repeatable unrest: measurements are never twice the same.
struct Unrest(u64);

impl Unrest {
    /// Between 0.9 and 1.15.
    fn factor(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        0.9 + 0.25 * (self.0 >> 40) as f64 / f64::from(1u32 << 24)
    }
}

/// The whole story.
#[derive(Debug)]
pub struct Story {
    /// Every event, oldest first.
    pub events: Vec<EventJson<'static>>,
    /// First moment.
    pub start_ms: i64,
    /// While something is slow.
    pub fault: Range<i64>,
}

impl Story {
    /// A story that ended just now, `after_minutes` past its fault, in whole minutes.
    pub fn until(now_ms: i64, after_minutes: i64) -> Self {
        let minutes = BASELINE_MINUTES + FAULT_MINUTES + after_minutes;
        let start_ms = (now_ms / MINUTE_MS - minutes) * MINUTE_MS;
        let fault_ms = start_ms + BASELINE_MINUTES * MINUTE_MS;
        let fault = fault_ms..fault_ms + FAULT_MINUTES * MINUTE_MS;
        let mut probe = Numbered::new(PROBE, 1);
        let mut unrest = Unrest(42);
        let mut events = Vec::new();
        let mut at_ms = start_ms;
        while at_ms < start_ms + minutes * MINUTE_MS {
            for case in CASES {
                let mut timings = USUAL;
                let mut kbps = USUAL_KBPS * unrest.factor();
                let stages = [
                    &mut timings.dns_ms,
                    &mut timings.tcp_ms,
                    &mut timings.tls_ms,
                    &mut timings.http_ttfb_ms,
                ];
                for stage in stages {
                    *stage = stage.map(|ms| ms * unrest.factor());
                }
                if fault.contains(&at_ms) {
                    (case.slow)(&mut timings, &mut kbps);
                }
                let mut event = probe.event(&case.url(), at_ms, timings);
                event.throughput_kbps = Some(kbps);
                events.push(event);
            }
            at_ms += EVERY_MS;
        }
        Self { events, start_ms, fault }
    }
}
