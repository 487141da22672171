//! The time as an argument: what a machine is told instead of reading a clock.

use caelum_model::UnixMs;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, ms: everything is measured with it.
    pub ms: i64,
    /// Wall clock: only written into what people and other programs read.
    pub wall_ms: UnixMs,
}
