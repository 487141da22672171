//! Every decision, as values without I/O.
//!
//! Nothing here reads a clock, a random source, a file, an environment variable or a socket, and nothing
//! awaits. Time, chance and bytes are arguments; what should happen is an answer. Roles join these values
//! to the world.
//!
//! Reading order: [`sketch`] and [`ranges`] are the two data structures; [`intake`] checks what arrives,
//! [`window`] counts it ([`trace`] follows a few on their way), [`score`], [`experience`], [`budget`] and
//! [`diagnose`] judge it; [`locate`] says
//! where, [`incident`] since when; [`health`] judges machines, [`alert`] who is told of it, [`enrol`] who becomes a node, [`selector`] and
//! [`target`] who measures what, and how. [`discovery`] hears which machines there are, [`membership`] knows which
//! nodes run, over datagrams
//! that [`packet`] and [`seal`] protect; [`link`] is what two nodes say to each other, and which links there
//! are. [`task`] is what may become of work, [`placement`] where it goes, [`cron`] when, and [`worker`] does it;
//! [`ssh`] shares connections to machines that have no agent.
//! [`stamp`] measures both ways of a path apart; [`facts`] is what follows from one measurement.

#![deny(missing_docs)]

pub mod alert;
pub mod backlog;
pub mod backup;
pub mod balancer;
pub mod budget;
pub mod cluster;
pub mod completeness;
pub mod cron;
pub mod diagnose;
pub mod discovery;
pub mod doctor;
pub mod drain;
pub mod enrol;
pub mod experience;
pub mod facts;
pub mod fleet;
pub mod hash;
pub mod health;
pub mod incident;
pub mod intake;
pub mod lease;
pub mod link;
pub mod locate;
pub mod lockout;
pub mod mailbox;
pub mod master_key;
pub mod membership;
pub mod now;
pub mod packet;
pub mod placement;
pub mod ranges;
pub mod schedule;
pub mod score;
pub mod seal;
pub mod selector;
pub mod sketch;
pub mod ssh;
pub mod stamp;
pub mod target;
pub mod task;
pub mod timestamp;
pub mod trace;
pub mod window;
pub mod worker;

pub use now::Now;
