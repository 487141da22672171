//! Faults, and what is to be said of each.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::Value;

use super::{
    CLOSED_WITHIN, NAMED_WITHIN,
    world::{RESOLVER, World, probe, probe_name, site, site_url, throttled, usual},
};
use crate::switch::Rule;

const MINUTE_MS: i64 = 60_000;
/// Lost seconds from which on something cannot be judged: half of a window. Fewer do not move its medians.
const LOST_MIN: usize = 3;

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
            Self::ThrottledSite => rules.extend(throttled(2, 2_500_000)),
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
    /// Whether the machine did not keep up while it lasted or was to be closed.
    pub is_unjudged: bool,
}

impl Verdict {
    /// Whether it was named and closed in time.
    pub fn is_right(&self) -> bool {
        self.named_after.is_some_and(|windows| windows <= NAMED_WITHIN)
            && self.closed_after.is_some_and(|windows| windows <= CLOSED_WITHIN)
    }
}

/// What was said, held against what was done.
pub(super) struct Judged {
    /// One for each thing to be said of each fault.
    pub(super) verdicts: Vec<Verdict>,
    /// The incidents that are about none …
    pub(super) others: Vec<Value>,
    /// … and those of them from when the machine did not keep up.
    pub(super) unjudged: Vec<Value>,
}

/// Holds what was said against what was done. `done` is each fault with its first and last moment, `lost_ms` when
/// the machine did not keep up, ms.
pub(super) fn judge(done: &[(Fault, i64, i64)], incidents: &[Value], lost_ms: &[i64]) -> Judged {
    let is_lost = |first: i64, last: i64| {
        let within = lost_ms.iter().filter(|at_ms| (first..=last).contains(&at_ms.div_euclid(MINUTE_MS)));
        within.count() >= LOST_MIN
    };
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
                is_unjudged: is_lost(first - 1, last + CLOSED_WITHIN),
                expected,
            });
        }
    }
    // What began one window before it was seen began, for all that is known, in the second that was lost.
    let (unjudged, others) = others.into_iter().partition(|incident| {
        let window = |name: &str| incident[name].as_i64().unwrap_or(0).div_euclid(MINUTE_MS);
        is_lost(window("opened_window_ms") - 1, window("detected_window_ms"))
    });
    Judged { verdicts, others, unjudged }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FROM_MS: i64 = 20 * MINUTE_MS;
    const TO_MS: i64 = 25 * MINUTE_MS;

    fn incident(label: &str, target: &str, opened: i64, closed: Option<i64>) -> Value {
        json!({
            "label": label,
            "entity": { "type": "target", "ids": [target] },
            "opened_window_ms": opened * MINUTE_MS,
            "detected_window_ms": (opened + 1) * MINUTE_MS,
            "closed_window_ms": closed.map(|window| window * MINUTE_MS),
        })
    }

    #[test]
    fn what_is_wrong_counts_unless_the_machine_did_not_keep_up_just_then() {
        let done = [(Fault::SlowServer, FROM_MS, TO_MS)];
        let right = incident("Server-bound", &site_url(0), 20, Some(27));
        let late = incident("Server-bound", &site_url(0), 20, None);
        let other = incident("Throughput-bound", &site_url(1), 5, Some(8));
        let judged = judge(&done, &[right.clone(), other.clone()], &[]);
        assert!(judged.verdicts[0].is_right() && !judged.verdicts[0].is_unjudged);
        assert_eq!((judged.others.len(), judged.unjudged.len()), (1, 0));

        let elsewhere = judge(&done, &[right.clone(), other.clone()], &[9 * MINUTE_MS; LOST_MIN]);
        assert_eq!((elsewhere.others.len(), elsewhere.unjudged.len()), (1, 0), "it was over by then");
        let little = judge(&done, &[right, other.clone()], &[5 * MINUTE_MS; LOST_MIN - 1]);
        assert_eq!((little.others.len(), little.unjudged.len()), (1, 0), "too little to matter");
        let lost_ms = [[5 * MINUTE_MS + 7; LOST_MIN], [31 * MINUTE_MS; LOST_MIN]].concat();
        let then = judge(&done, &[late, other], &lost_ms);
        assert_eq!((then.others.len(), then.unjudged.len()), (0, 1));
        assert!(!then.verdicts[0].is_right() && then.verdicts[0].is_unjudged);
    }
}
