//! Faults, and what is to be said of each.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::Value;

use super::{
    CLOSED_WITHIN, NAMED_WITHIN,
    world::{PROBES, RESOLVER, World, probe, probe_name, site, site_url, usual},
};
use crate::switch::Rule;

const MINUTE_MS: i64 = 60_000;

/// Something that goes wrong, and is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The name server takes its time.
    SlowResolver,
    /// The line of a probe loses packets.
    LossyLastMile,
    /// A site takes its time before the handshake.
    SlowTls,
    /// A site takes its time to answer.
    SlowServer,
    /// What a site sends comes slowly.
    ThrottledSite,
    /// A site cannot be reached.
    DeadTarget,
    /// The line of a probe is long.
    LongLastMile,
    /// A site takes its time, and the line of a probe is long.
    TwoAtOnce,
}

/// Label and place that are expected.
type Expected = (&'static str, &'static str, String);

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SlowResolver,
        Self::SlowServer,
        Self::LongLastMile,
        Self::SlowTls,
        Self::DeadTarget,
        Self::ThrottledSite,
        Self::LossyLastMile,
        Self::TwoAtOnce,
    ];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowResolver => "slow resolver",
            Self::LossyLastMile => "lossy last mile",
            Self::SlowTls => "slow TLS terminator",
            Self::SlowServer => "slow server",
            Self::ThrottledSite => "throttled path",
            Self::DeadTarget => "dead target",
            Self::LongLastMile => "long last mile",
            Self::TwoAtOnce => "two at once",
        }
    }

    /// What should be said: label, kind of place, place.
    pub fn expected(self) -> Vec<Expected> {
        let resolver = || ("DNS-bound", "resolver", RESOLVER.to_string());
        let server = || ("Server-bound", "target", site_url(0));
        let line = |number| ("Path-bound", "probe", probe_name(number));
        match self {
            Self::SlowResolver => vec![resolver()],
            Self::LossyLastMile => vec![("Loss-bound", "probe", probe_name(1))],
            Self::SlowTls => vec![("Handshake-bound", "target", site_url(1))],
            Self::SlowServer => vec![server()],
            Self::ThrottledSite => vec![("Throughput-bound", "target", site_url(2))],
            Self::DeadTarget => vec![("Unreachable", "target", site_url(1))],
            Self::LongLastMile => vec![line(2)],
            Self::TwoAtOnce => vec![server(), line(3)],
        }
    }

    /// Breaks it.
    pub fn begin(self, world: &World) {
        let mut rules = usual();
        let around = |address, rule| Rule::around(address, rule);
        let long = Rule { delay: Duration::from_millis(60), ..Rule::default() };
        match self {
            Self::SlowResolver => world.resolver.slowness.name_ms.store(180, Ordering::Relaxed),
            Self::SlowTls => world.sites[1].slowness.tls_ms.store(220, Ordering::Relaxed),
            Self::SlowServer => world.sites[0].slowness.first_byte_ms.store(250, Ordering::Relaxed),
            Self::LossyLastMile => {
                rules.extend(around(probe(1), Rule { loss: 0.12, ..Rule::default() }));
            }
            // To each by itself, as a provider does it: nobody's packets queue behind another's.
            Self::ThrottledSite => rules.extend((0..PROBES).map(|number| Rule {
                from: Some(site(2)),
                to: Some(probe(number)),
                bits_per_s: Some(4_000_000),
                ..Rule::default()
            })),
            Self::DeadTarget => rules.extend(around(site(1), Rule { loss: 1.0, ..Rule::default() })),
            Self::LongLastMile => rules.extend(around(probe(2), long)),
            Self::TwoAtOnce => {
                world.sites[0].slowness.first_byte_ms.store(250, Ordering::Relaxed);
                rules.extend(around(probe(3), long));
            }
        }
        world.switch.set(rules);
    }

    /// Repairs everything.
    pub fn end(world: &World) {
        world.resolver.slowness.name_ms.store(0, Ordering::Relaxed);
        for site in &world.sites {
            site.slowness.tls_ms.store(0, Ordering::Relaxed);
            site.slowness.first_byte_ms.store(0, Ordering::Relaxed);
        }
        world.switch.set(usual());
    }
}

/// What was said of a fault.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which.
    pub fault: Fault,
    /// What should have been said.
    pub expected: Expected,
    /// Windows from its beginning to when it was named; none where it was not.
    pub named_after: Option<i64>,
    /// Windows from its repair to when it was closed; none where it is open still.
    pub closed_after: Option<i64>,
    /// The sentence.
    pub sentence: String,
}

impl Verdict {
    /// Whether it was named and closed in time.
    pub fn is_right(&self) -> bool {
        self.named_after.is_some_and(|windows| windows <= NAMED_WITHIN)
            && self.closed_after.is_some_and(|windows| windows <= CLOSED_WITHIN)
    }
}

/// Holds what was said against what was done: a verdict for each thing to be said of each fault, and the
/// incidents that are about none. `done` is each fault with its first and last moment, ms.
pub fn judge(done: &[(Fault, i64, i64)], incidents: &[Value]) -> (Vec<Verdict>, Vec<Value>) {
    let mut others: Vec<Value> = incidents.to_vec();
    let mut verdicts = Vec::new();
    for (fault, from_ms, to_ms) in done {
        let (first, last) = (from_ms.div_euclid(MINUTE_MS), to_ms.div_euclid(MINUTE_MS));
        for expected in fault.expected() {
            let is_it = |incident: &&Value| {
                let opened = incident["opened_window_ms"].as_i64().unwrap_or(0).div_euclid(MINUTE_MS);
                incident["label"] == expected.0
                    && incident["entity"]["type"] == expected.1
                    && incident["entity"]["ids"][0] == expected.2.as_str()
                    && (first - 1..=last + 1).contains(&opened)
            };
            let window = |incident: &Value, name: &str| Some(incident[name].as_i64()?.div_euclid(MINUTE_MS));
            let found = others.iter().find(is_it).cloned();
            others.retain(|incident| Some(incident) != found.as_ref());
            verdicts.push(Verdict {
                fault: *fault,
                named_after: found
                    .as_ref()
                    .and_then(|incident| Some(window(incident, "detected_window_ms")? - first)),
                closed_after: found
                    .as_ref()
                    .and_then(|incident| Some(window(incident, "closed_window_ms")? - last)),
                sentence: found
                    .as_ref()
                    .and_then(|incident| incident["sentence"].as_str())
                    .unwrap_or_default()
                    .to_owned(),
                expected,
            });
        }
    }
    (verdicts, others)
}
