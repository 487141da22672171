//! The diagnosis lab: real processes on hosts in namespaces, a network in user space between them, and faults
//! that are known, so that what the program says can be held against what was done.
//!
//! Time passes faster for the program (`CAELUM_LAB_CLOCK`): measurements every second stand for every ten, and
//! a window of a minute passes in six seconds. Nothing else is different.

mod fault;
mod world;

pub use fault::{Fault, Verdict, judge};
pub use world::World;

use std::time::Duration;

/// How much faster time passes.
pub const FACTOR: i64 = 10;
/// A window, as it passes here.
pub const WINDOW: Duration = Duration::from_secs(6);
/// Windows before the first fault, so that it is known what is usual.
pub const USUAL_WINDOWS: u32 = 14;
/// Windows that a fault lasts.
pub const FAULT_WINDOWS: u32 = 7;
/// Windows after a repair before the next fault.
pub const REST_WINDOWS: u32 = 7;
/// Windows within which a fault must be named.
pub const NAMED_WITHIN: i64 = 3;
/// Windows within which it must be closed after the repair.
pub const CLOSED_WITHIN: i64 = 6;
