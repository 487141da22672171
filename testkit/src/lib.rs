//! What tests of real processes need: servers, browsers and targets that can be started, hurt and asked.
//!
//! Nothing here knows how Caelum works inside; it knows the program's command line, its files and what
//! travels. Every process started here is ended here, by its id, when its value is dropped.
//!
//! Reading order: [`wait`], [`server`], [`api`], then [`event`], [`target`], [`fleet`], [`receiver`], [`ends`],
//! [`failover`], [`collector`], [`browser`], [`process`], [`measure`], [`load`], [`parts`], [`peers`],
//! [`nats`], [`redis`], [`sshd`], [`powercut`], [`stalls`].

pub use caelum_lab::{event, nats, postgres, process, redis, sshd, wait};

pub mod api;
pub mod browser;
pub mod collector;
pub mod diagnosis;
pub mod ends;
pub mod failover;
pub mod fleet;
pub mod flood;
pub mod lab;
pub mod load;
pub mod measure;
pub mod parts;
pub mod peers;
pub mod powercut;
pub mod receiver;
pub mod roots;
pub mod serf;
pub mod server;
pub mod sites;
pub mod stalls;
pub mod story;
pub mod switch;
pub mod target;
