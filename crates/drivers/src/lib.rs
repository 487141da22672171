//! The outside world: what only this crate touches, each piece behind a small surface of its own.
//!
//! Sockets are opened, certificates are made, the machine is sampled, targets are measured and bytes are
//! spooled here. Nothing is decided here: no thresholds, no scheduling, no retry policy. Addresses, names
//! and limits come in as arguments; the environment and the command line are `cli`'s.
//!
//! Reading order: [`clock`] and [`random`], [`tls`], [`ports`],
//! [`netinfo`], [`host`], [`memory`], [`spool`], [`probe`], [`stamp`], [`condition`], [`poster`], [`exchange`], [`beacon`], [`link`],
//! [`notify`], [`traces`], [`worker`], [`work`], [`ssh`], [`artifacts`], [`supervisor`].

mod ancillary;
pub mod archive;
pub mod artifacts;
pub mod beacon;
pub mod clock;
pub mod condition;
pub mod doctor;
pub mod dump;
pub mod exchange;
mod fault;
pub mod host;
pub mod link;
pub mod mcp;
pub mod memory;
pub mod netinfo;
pub mod notify;
pub mod orders;
pub mod ports;
pub mod poster;
pub mod probe;
pub mod random;
pub mod spool;
pub mod ssh;
pub mod stamp;
pub mod supervisor;
pub mod tls;
pub mod traces;
pub mod work;
pub mod worker;
