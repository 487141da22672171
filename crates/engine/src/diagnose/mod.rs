//! Judging what one probe sees of one target: as usual, or bound by one stage.
//!
//! # Purpose
//! One [`Pair`] is everything known about one (probe, target, family): what is usual, how far recent windows
//! were off it, and which verdict stands. It is a plain value that takes one [`Observation`] a window, in
//! order of time, and answers with [`Verdicts`].
//!
//! # Rules
//! - A symptom answers to one cause ([`symptom`]): a slow server does not raise the TLS symptom, and a longer
//!   round trip raises neither. Seven are deviations of a window's medians from the usual, five are failures
//!   by stage.
//! - What is usual ([`reference`]): the last 60 clean windows, median and scaled median deviation, with
//!   floors. Windows half way to an alarm are not learned from, until they have lasted six hours: then they
//!   are what is usual, and a [`LevelShift`] says so.
//! - A symptom builds up over windows ([`cusum`]): one odd window raises no alarm, three clear ones do.
//! - A window has one label or none ([`cause`]). A network that is slower explains slower handshakes and
//!   answers; those are consequences, and are listed as such.
//! - When an alarm is raised, the windows just before it that show the same symptom as clearly get the label
//!   too, at most [`Config::retro_windows`]. A window that is as usual is never labelled, whatever came before.
//! - The same windows give the same verdicts, one by one or all at once; there is no other input.
//!
//! # States
//! ```text
//! learning ── 8 clean windows ──▶ usual ◀── two windows as usual ──┐
//!     │                             │                              │
//!     │ failures               off the usual                       │
//!     └───────────────▶ suspect ◀───┘                              │
//!                         └── built up to the alarm ──▶ diagnosed ─┘
//! ```
//!
//! # What it does not do
//! It knows one pair: whether the cause sits with the probe, the resolver or the target takes many. It does
//! not know the hour of the week. A fault that is there from the first window on is taken for usual, except
//! failures, which never are.

mod cause;
mod cusum;
mod observation;
mod pair;
mod reference;
pub(crate) mod sentence;
mod signals;
mod symptom;
#[cfg(test)]
mod tests;
mod verdict;

pub use observation::{Observation, Reading};
pub use pair::{LevelShift, Pair, Verdicts};
pub(crate) use reference::median;
pub use signals::{OwnVerdict, Signal, Signals};
pub(crate) use signals::{Symptoms, bit_of};
pub(crate) use symptom::Symptom;

use caelum_model::rollup::MINUTE_MS;

/// The numbers that verdicts depend on, in one table. Their origin is the design's chapter on verdicts where
/// it gives a number, else the simulation in `tests.rs`; `docs/diagnosis.md` discusses them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Clean windows that make up what is usual. Design: 60.
    pub reference_windows: usize,
    /// Fewest windows to call something usual. A baseline of 12 minutes has to do, with room for a few odd
    /// or thin ones.
    pub reference_windows_min: usize,
    /// The deviation of few windows is underestimated; it is multiplied by 1 + this / windows.
    pub few_windows_allowance: f64,
    /// The median of few measurements is now and then far off; the deviation is multiplied by 1 + this /
    /// measurements in a window.
    pub few_samples_allowance: f64,
    /// Added to times before the logarithm, ms: on a fast network the same factor is a smaller matter.
    pub log_offset_ms: f64,
    /// Smallest deviation of TCP connects and round trips, log units. Design: 6 %.
    pub network_floor: f64,
    /// Smallest deviation of look-ups, log units. Design: 0.55, which misses a look-up that takes 100 ms more
    /// for five minutes.
    pub dns_floor: f64,
    /// Smallest deviation of what TLS and the server add to the round trip, ms. Design: 2 ms …
    pub excess_floor_ms: f64,
    /// … and this share of the usual TCP connect. Design: 5 %.
    pub excess_floor_share: f64,
    /// Smallest deviation of goodput, log units. Design: 8 %.
    pub throughput_floor: f64,
    /// Smallest deviation of the loss in packet trains, percent points: a train of five packets counts in
    /// steps of 20 %, so one packet lost in a minute must mean little.
    pub loss_floor_points: f64,
    /// Deviations are counted from here … Design: −4.
    pub z_min: f64,
    /// … to here, so that one wild window decides nothing. Design: 5.
    pub z_max: f64,
    /// Deviation that is let go each window; what is above it is abnormal once it has built up. Design: 1.2.
    pub slack: f64,
    /// Where building up ends. Design: 14.
    pub cap: f64,
    /// Built up this far, a window above the slack is abnormal. Design: 1.6.
    pub abnormal: f64,
    /// Built up this far, a pair by itself raises the alarm. Design: 11.
    pub alarm: f64,
    /// Windows as usual after which an alarm is over.
    pub calm_windows: u32,
    /// A window belongs to a fault if it deviates at least this much of what the fault did before.
    pub same_fault_share: f64,
    /// Failures expected anyway, a share. Design: 1 %.
    pub errors_usual: f64,
    /// Failures of a fault, a share. Design: 25 %.
    pub errors_fault: f64,
    /// Log-likelihood at which failures raise the alarm. Design: 7.
    pub errors_alarm: f64,
    /// Share of failures below which a window is not labelled for them.
    pub errors_share_min: f64,
    /// Share of failures from which on they are the verdict, whatever else is slow.
    pub errors_share_dominant: f64,
    /// Most windows before an alarm that get its label too.
    pub retro_windows: usize,
    /// Silence after which what had built up is forgotten, ms.
    pub gap_ms: i64,
    /// Abnormal this long, it is what is usual. Design: six hours.
    pub relearn_ms: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reference_windows: 60,
            reference_windows_min: 8,
            few_windows_allowance: 6.0,
            few_samples_allowance: 1.0,
            log_offset_ms: 5.0,
            network_floor: 0.06,
            dns_floor: 0.40,
            excess_floor_ms: 2.0,
            excess_floor_share: 0.05,
            throughput_floor: 0.08,
            loss_floor_points: 2.0,
            z_min: -4.0,
            z_max: 5.0,
            slack: 1.2,
            cap: 14.0,
            abnormal: 1.6,
            alarm: 11.0,
            calm_windows: 2,
            same_fault_share: 0.4,
            errors_usual: 0.01,
            errors_fault: 0.25,
            errors_alarm: 7.0,
            errors_share_min: 0.05,
            errors_share_dominant: 0.5,
            retro_windows: 15,
            gap_ms: 30 * MINUTE_MS,
            relearn_ms: 6 * 60 * MINUTE_MS,
        }
    }
}
