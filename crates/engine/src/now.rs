//! The two times that rules are given: one for ages, one for showing.

use caelum_model::UnixMs;

/// The time, as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that only moves forward. Ages and deadlines are reckoned by it.
    pub ms: i64,
    /// The wall clock, for what is shown or sent. Never compared with another machine's.
    pub wall_ms: UnixMs,
}
