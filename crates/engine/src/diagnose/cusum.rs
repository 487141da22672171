//! A sum that builds up while something stays off, and fades when it does not.

use super::Config;

/// How far one symptom has built up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cusum {
    sum: f64,
    calm: u32,
    is_alarmed: bool,
    is_high: bool,
}

impl Cusum {
    /// Takes one window: by how much the sum grows (or shrinks), and whether the window itself is off.
    pub(super) fn step(&mut self, config: &Config, gain: f64, is_high: bool, alarm: f64) {
        self.sum = (self.sum + gain).clamp(0.0, config.cap);
        self.is_high = is_high;
        self.calm = if is_high { 0 } else { self.calm.saturating_add(1) };
        if self.sum >= alarm {
            self.is_alarmed = true;
        }
        // Fading alone would take up to twelve windows after a repair.
        if self.is_alarmed && self.calm >= config.calm_windows {
            self.sum = 0.0;
        }
        if self.sum == 0.0 {
            self.is_alarmed = false;
        }
    }

    /// The newest window is off, and not by chance alone.
    pub(super) fn is_abnormal(&self, config: &Config) -> bool {
        self.is_high && (self.sum > config.abnormal || self.is_alarmed)
    }

    /// The alarm stands; it ends after some windows as usual.
    pub(super) fn is_alarmed(&self) -> bool {
        self.is_alarmed
    }
}
