//! The domain's words: what every other floor talks about, as plain values.
//!
//! Ids, host samples, nodes, targets, events, rollups, diagnoses and people's rights live here, with the
//! JSON they travel in. There is no behaviour beyond parsing one's own text form: decisions are made in
//! `engine`, records are kept by `store`, bytes are moved by `drivers` and `queue`.
//!
//! Reading order: [`id`], [`event`], [`details`], [`rollup`], [`diagnosis`], [`incident`], then [`host`],
//! [`node`], [`alert`], [`target`], [`probe`],
//! [`access`], [`config`], [`trace`] and [`wire`]; for work [`task`], [`work`] and [`ssh`]; for discovery and links [`cluster`], [`beacon`], [`envelope`] and
//! [`join`]; [`package`] for what new machines install; [`backup`].

#![deny(missing_docs)]

pub mod access;
pub mod alert;
pub mod backup;
pub mod beacon;
pub mod cluster;
pub mod config;
pub mod details;
pub mod diagnosis;
pub mod envelope;
pub mod event;
pub mod host;
pub mod id;
pub mod incident;
pub mod join;
pub mod node;
pub mod package;
pub mod probe;
pub mod rollup;
pub mod ssh;
pub mod target;
pub mod task;
pub mod trace;
pub mod wire;
pub mod work;

/// Milliseconds since the Unix epoch, UTC. The only form in which a wall-clock time is stored or sent.
pub type UnixMs = i64;
