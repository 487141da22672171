//! The drivers against real servers on this machine, started by the tests themselves.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod facts;
#[cfg(target_os = "linux")]
mod netns;
mod poster;
mod probe;
mod servers;
mod stamp;
