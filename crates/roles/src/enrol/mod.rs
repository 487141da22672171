//! How a machine becomes a node, from both sides.
//!
//! The server's side is the [`Registrar`]: it admits by token, by adoption and by a key that it admitted
//! before, signs certificates, and shuts nodes out. The machine's side is [`join`], and the [`Newcomer`] for a
//! machine that shows a code and waits to be adopted. [`invitation`] is the text that people carry between
//! them, [`proof`] what both sides compute from the code.
//!
//! What is refused, and when a code or a token is over, is said by `engine::enrol`; the last use of a token is
//! taken by the store.

mod adoption;
mod cluster_keys;
pub mod invitation;
mod joining;
pub mod mailbox;
mod mailed;
mod newcomer;
mod posting;
pub mod proof;
mod registrar;
pub mod sealed;

pub use adoption::AdoptError;
pub use cluster_keys::{PersistKeys, new_key};
pub use joining::{JoinFailure, join};
pub use newcomer::{Adoption, Newcomer, OfferRefusal};
pub use posting::{PATIENCE as MAILBOX_PATIENCE, join_by_mailbox};
pub use registrar::{JoinError, MakeGrant, Parts, Registrar, Revocation, RevokeError};

/// Most servers that are named in an invitation, and the longest name of one.
pub(crate) const SERVERS_MAX: usize = 16;
pub(crate) const SERVER_BYTES_MAX: usize = 262;

/// Whether a list of servers is one that can be tried.
pub(crate) fn are_servers(servers: &[String]) -> bool {
    (1..=SERVERS_MAX).contains(&servers.len())
        && servers.iter().all(|server| {
            server.len() <= SERVER_BYTES_MAX
                && server.bytes().all(|byte| byte.is_ascii_graphic())
                && server
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        })
}

/// Whether a text is a SHA-256 as it travels.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
