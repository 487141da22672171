//! The long-running parts: they join `engine` to drivers, store and queue, and decide nothing.
//!
//! One loop a role: it selects, turns what happened into a value for the engine, and does what the engine
//! answers.

pub mod aggregator;
pub mod alerts;
pub mod backup;
pub mod bus;
pub mod candidates;
pub mod census;
pub mod cluster;
pub mod diagnoser;
pub mod enrol;
pub mod fleet;
pub mod ingest;
pub mod keeper;
pub mod lease;
pub mod mailbox;
pub mod master_key;
pub mod memory;
pub mod notices;
pub mod orders;
pub mod packages;
pub mod probe;
pub mod quiet;
pub mod reporter;
pub mod sampler;
pub mod secrets;
pub mod services;
pub mod ssh;
pub mod tasks;
pub mod vault;
pub mod worker;
