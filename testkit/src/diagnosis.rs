//! The diagnosis lab: real processes on hosts in namespaces, a network in user space between them, and faults
//! that are known, so that what the program says can be held against what was done.
//!
//! Time passes faster for the program (`CAELUM_LAB_CLOCK`): measurements every second stand for every ten, and
//! a window of a minute passes in six seconds. Nothing else is different. Where the machine itself does not keep up
//! ([`stalls`]), real transfers are really slow; what was said of such moments is shown and not judged.

mod fault;
mod world;

use fault::judge;
pub use fault::{Fault, Verdict};
pub use world::World;

use std::{path::Path, time::Duration};

use anyhow::Result;
use serde_json::Value;

use crate::{stalls, wait};

/// How much faster time passes.
pub const FACTOR: i64 = 10;
/// A window, as it passes here.
pub const WINDOW: Duration = Duration::from_secs(6);
/// Windows before the first fault, so that it is known what is usual.
pub const USUAL_WINDOWS: u32 = 13;
/// Windows that a fault lasts.
pub const FAULT_WINDOWS: u32 = 5;
/// Windows after a repair before the next fault.
pub const REST_WINDOWS: u32 = 7;
/// Windows within which a fault must be named.
pub const NAMED_WITHIN: i64 = 3;
/// Windows within which it must be closed after the repair.
pub const CLOSED_WITHIN: i64 = 6;

/// A second is lost in which the machine lost so much of its time: a transfer of the lab takes 131 ms.
const LOST: Duration = Duration::from_millis(250);

/// What came of a run.
pub struct Outcome {
    /// What was said of each fault.
    pub verdicts: Vec<Verdict>,
    /// Incidents that are about none.
    pub others: Vec<Value>,
    /// Incidents that are about none, from when the machine did not keep up: of these nothing is known.
    pub unjudged: Vec<Value>,
    /// Seconds in which it did not.
    pub lost_seconds: usize,
    /// The end of what the processes wrote.
    pub log: String,
}

impl Outcome {
    /// Whether everything was said rightly, and nothing else, as far as the machine kept up.
    pub fn is_right(&self) -> bool {
        self.others.is_empty()
            && self.verdicts.iter().all(|verdict| verdict.is_right() || verdict.is_unjudged)
    }

    /// What cannot be judged, if there is anything: to be said aloud.
    pub fn reservation(&self) -> Option<String> {
        let verdicts = self.verdicts.iter().filter(|verdict| !verdict.is_right() && verdict.is_unjudged);
        let (faults, others) = (verdicts.count(), self.unjudged.len());
        (faults + others > 0).then(|| {
            format!(
                "NOT JUDGED: {faults} faults and {others} other incidents, because the machine did not keep up for \
                 {} seconds (its host took the processor, or it woke late)",
                self.lost_seconds
            )
        })
    }
}

/// Runs faults one after the other, after windows in which nothing is wrong. Must be called within a runtime.
pub fn run(binary: &Path, faults: &[Fault], healthy_windows: u32, seed: u64) -> Result<Outcome> {
    let world = World::start(binary, seed)?;
    let watch = stalls::Watch::start();
    wait::pass(WINDOW * (USUAL_WINDOWS + healthy_windows));
    let mut done = Vec::new();
    for fault in faults {
        let from_ms = world.now_ms();
        fault.begin(&world);
        wait::pass(WINDOW * FAULT_WINDOWS);
        Fault::end(&world);
        done.push((*fault, from_ms, world.now_ms()));
        wait::pass(WINDOW * REST_WINDOWS);
    }
    let answer = world.ask(&["incidents", "list"])?;
    let incidents = answer["incidents"].as_array().cloned().unwrap_or_default();
    let lost = watch.seconds().into_iter().filter(|second| second.lost >= LOST);
    let lost_ms: Vec<i64> = lost.map(|second| world.as_seen_ms(second.ended_ms)).collect();
    let judged = judge(&done, &incidents, &lost_ms);
    Ok(Outcome {
        verdicts: judged.verdicts,
        others: judged.others,
        unjudged: judged.unjudged,
        lost_seconds: lost_ms.len(),
        log: world.log(),
    })
}
