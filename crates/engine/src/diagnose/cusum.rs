//! A sum that builds up while something stays off, and fades when it does not.

use super::Config;

/// A new deviation's part in the level; the rest is what was before.
const LEVEL_NEW: f64 = 0.5;
/// The level counts deviations to here, so that a fault that shrinks is still followed.
const LEVEL_MAX: f64 = 20.0;

/// How far one symptom has built up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cusum {
    sum: f64,
    /// Windows in a row that were not off.
    calm: u32,
    /// About how far off the windows that were off have been.
    level: f64,
    is_alarmed: bool,
    is_off: bool,
}

impl Cusum {
    /// Takes a window's deviation, or its absence.
    pub(super) fn deviate(&mut self, config: &Config, z: Option<f64>) {
        let z = z.unwrap_or(0.0);
        let is_off = z > config.slack && z >= config.same_fault_share * self.level;
        // While an alarm stands a window as usual is an end or a pause, not a smaller fault.
        if z > config.slack {
            self.level += LEVEL_NEW * (z.min(LEVEL_MAX) - self.level);
        } else if !self.is_alarmed {
            self.level *= LEVEL_NEW;
        }
        self.build_up(config, z.clamp(config.z_min, config.z_max) - config.slack, is_off, config.alarm);
    }

    /// Takes a window's failures: the logarithm of how much likelier they are in a fault.
    pub(super) fn fail(&mut self, config: &Config, failed: u64, tried: u64) {
        let (failed, passed, tried) = (failed as f64, tried.saturating_sub(failed) as f64, tried as f64);
        let gain = failed * (config.errors_fault / config.errors_usual).ln()
            + passed * ((1.0 - config.errors_fault) / (1.0 - config.errors_usual)).ln();
        let is_off = failed > 0.0 && failed >= config.errors_share_min * tried;
        self.build_up(config, gain, is_off, config.errors_alarm);
    }

    fn build_up(&mut self, config: &Config, gain: f64, is_off: bool, alarm: f64) {
        self.sum = (self.sum + gain).clamp(0.0, config.cap);
        self.is_off = is_off;
        self.calm = if is_off { 0 } else { self.calm.saturating_add(1) };
        if self.sum >= alarm {
            self.is_alarmed = true;
        }
        // Fading alone would take up to twelve windows after a repair.
        if self.is_alarmed && self.calm >= config.calm_windows {
            (self.sum, self.level) = (0.0, 0.0);
        }
        if self.sum == 0.0 {
            self.is_alarmed = false;
        }
    }

    /// Something else turned out to be the cause of what had built up.
    pub(super) fn hand_over(&mut self) {
        self.sum = 0.0;
        self.is_alarmed = false;
    }

    /// Turned out to be the cause of something that raised the alarm.
    pub(super) fn raise(&mut self, config: &Config) {
        if !self.is_alarmed {
            self.sum = self.sum.max(config.alarm);
            self.is_alarmed = true;
        }
    }

    /// The newest window is off, and not by chance alone.
    pub(super) fn is_abnormal(&self, config: &Config) -> bool {
        self.is_off && (self.sum > config.abnormal || self.is_alarmed)
    }

    /// How far it has built up, in parts of the alarm.
    pub(super) fn weight(&self, alarm: f64) -> f64 {
        if self.is_alarmed { (self.sum / alarm).max(1.0) } else { self.sum / alarm }
    }

    /// Off in one of so many newest windows, and not faded since.
    pub(super) fn was_off_within(&self, config: &Config, windows: u32) -> bool {
        self.calm < windows && self.sum > config.abnormal
    }

    /// The alarm stands; it ends after some windows as usual.
    pub(super) fn is_alarmed(&self) -> bool {
        self.is_alarmed
    }

    /// Half way to the alarm: enough to explain what something else raised.
    pub(super) fn is_established(&self, alarm: f64) -> bool {
        self.is_alarmed || self.sum >= alarm / 2.0
    }

    /// The deviation from which on a window belongs to the same fault.
    pub(super) fn least_of_fault(&self, config: &Config) -> f64 {
        (self.level * config.same_fault_share).max(config.slack)
    }
}
