//! STAMP (RFC 8762), unauthenticated: its packets, the reflector, and what a train of them says.
//!
//! # Purpose
//! A sender sends numbered, timed packets; a reflector sends each back with the time at which it came and at
//! which it left. So losses and delays of both directions can be told apart. Packets of a TWAMP-light sender
//! (RFC 5357) are the same as far as it matters, and are reflected too.
//!
//! # Rules
//! - A reflector never sends more bytes than it got, and nothing to a packet too short for a whole answer.
//! - Our sender's first packet has number 1, not 0. A stateful reflector counts what it gets from 0, a
//!   stateless one copies our number: so the two can be told apart, and to anybody else it looks as if one
//!   packet had been lost before.
//! - Behind a stateless reflector nobody knows on which way a packet was lost: it counts as lost on the way
//!   out. So do packets behind the last that came back.
//! - Clocks are compared only in the median delays, which therefore may be below zero; round trips and
//!   variation of delay need no agreement of clocks.
//!
//! # What it does not do
//! It reads no clock and opens no socket: times come in. Authenticated mode and extensions (RFC 8972) are not
//! known; what a sender appends is sent back as it came.

mod packet;
mod reflector;
mod train;

pub use packet::{ErrorEstimate, NtpTime, PACKET_BYTES, REFLECTED_BYTES_MIN, ReflectedPacket, SenderPacket};
pub use reflector::{Answer, Declined, Limits, Reflector};
pub use train::{Outcome, Reply, Train, percentile, summarize};

/// The port that was given to STAMP and TWAMP.
pub const PORT: u16 = 862;
