//! Real servers on this machine that can be started, hurt and asked: for an operator who wants a proof, and
//! for the tests, which are made of the same parts.
//!
//! Every process started here is ended here, by its id, when its value is dropped; everything listens on
//! loopback only. Nothing here knows how Caelum works inside: it knows the program's command line, its files
//! and what travels.
//!
//! Reading order: [`wait`], [`process`], [`loopback`], [`nats`], [`postgres`], [`redis`], [`sshd`], [`event`], then [`torture`].

pub mod event;
pub mod loopback;
pub mod nats;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod sshd;
pub mod torture;
pub mod wait;
