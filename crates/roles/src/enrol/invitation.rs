//! Join tokens as text, and how they are made.
//!
//! The text says everything a machine needs to find the cluster and to know it from another: where servers
//! are, the fingerprint of their authority, and a secret. Making one needs no running server.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caelum_drivers::random;
use caelum_model::{
    UnixMs,
    cluster::NodeRole,
    join::{Invitation, JoinToken, TOKEN_PREFIX},
};

use super::{are_servers, is_sha256, proof};

/// Longest text that is read, bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Characters of a secret: 186 bits.
const SECRET_LENGTH: usize = 32;
/// Most uses of one token.
pub const USES_MAX: u32 = 10_000;
/// How long a token is valid unless said otherwise, ms.
pub const VALID_MS: i64 = 24 * 3_600_000;
/// The longest a token may be valid, ms.
pub const VALID_MS_MAX: i64 = 365 * 24 * 3_600_000;

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// It does not start as one.
    #[error("read the join token: it does not start with {TOKEN_PREFIX:?}")]
    Prefix,
    /// It was cut short, or mistyped.
    #[error("read the join token: {0}; was it copied whole?")]
    Damaged(String),
}

/// The cluster that a token leads to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Where servers are reached: `host:port`, best first.
    pub servers: Vec<String>,
    /// SHA-256 of the authority's certificate, lower-case hex.
    pub authority_sha256: String,
}

/// Makes a token: the record for the store, and what people carry. The error says what is wrong with the wish.
pub fn make(
    to: Destination,
    role: NodeRole,
    uses: u32,
    now_ms: UnixMs,
    expires_at_ms: UnixMs,
) -> Result<(JoinToken, Invitation), String> {
    if !(1..=USES_MAX).contains(&uses) {
        return Err(format!("uses is not between 1 and {USES_MAX}"));
    }
    if !(1..=VALID_MS_MAX).contains(&(expires_at_ms - now_ms)) {
        return Err("the token would expire in the past, or more than a year from now".to_owned());
    }
    if !are_servers(&to.servers) {
        return Err("servers are given as HOST:PORT, at least one and at most 16".to_owned());
    }
    let secret = random::secret(SECRET_LENGTH);
    let token = JoinToken {
        token_id: random::secret(12),
        secret_sha256: proof::sha256(secret.as_bytes()),
        role,
        uses_left: uses,
        uses,
        created_at_ms: now_ms,
        expires_at_ms,
        revoked_at_ms: None,
    };
    let invitation = Invitation {
        cluster_id: to.cluster_id,
        cluster_name: to.cluster_name,
        servers: to.servers,
        authority_sha256: to.authority_sha256,
        token_id: token.token_id.clone(),
        secret,
        expires_at_ms,
        mailbox: None,
    };
    Ok((token, invitation))
}

/// An invitation as one word.
pub fn to_text(invitation: &Invitation) -> String {
    let json = serde_json::to_vec(invitation).expect("text and numbers have a JSON form");
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
}

/// Reads what [`to_text`] wrote.
pub fn parse(text: &str) -> Result<Invitation, InvitationError> {
    let damaged = |detail: &str| InvitationError::Damaged(detail.to_owned());
    let encoded = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(InvitationError::Prefix)?;
    if encoded.len() > TEXT_BYTES_MAX {
        return Err(damaged("it is too long"));
    }
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|error| damaged(&error.to_string()))?;
    let invitation: Invitation =
        serde_json::from_slice(&json).map_err(|_| damaged("it does not say what a token says"))?;
    if !is_sha256(&invitation.authority_sha256) || !are_servers(&invitation.servers) {
        return Err(damaged("it names no server that can be trusted"));
    }
    if invitation.mailbox.as_ref().is_some_and(|mailbox| !is_sha256(&mailbox.key)) {
        return Err(damaged("it names a mailbox without the key to it"));
    }
    Ok(invitation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination() -> Destination {
        Destination {
            cluster_id: "c-1".into(),
            cluster_name: "Büro".into(),
            servers: vec!["192.0.2.1:8080".into(), "[2001:db8::1]:8080".into()],
            authority_sha256: "ab".repeat(32),
        }
    }

    #[test]
    fn a_token_is_one_word_that_reads_back_as_what_it_says() {
        let (token, invitation) = make(destination(), NodeRole::Agent, 3, 1_000, 2_000).unwrap();
        let text = to_text(&invitation);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{text}");
        let read = parse(&format!(" {text}\n")).unwrap();
        assert!(read == invitation);
        assert_eq!(proof::sha256(read.secret.as_bytes()), token.secret_sha256);
        assert_eq!((token.token_id, token.uses_left), (read.token_id, 3));
    }

    #[test]
    fn a_text_that_is_damaged_says_so() {
        let (_, invitation) = make(destination(), NodeRole::Agent, 1, 0, 1).unwrap();
        let text = to_text(&invitation);
        assert_eq!(parse("hello").err(), Some(InvitationError::Prefix));
        for wrong in [&text[..text.len() - 3], &format!("{text}*"), TOKEN_PREFIX] {
            assert!(matches!(parse(wrong), Err(InvitationError::Damaged(_))), "{wrong}");
        }
        let long = format!("{TOKEN_PREFIX}{}", "A".repeat(TEXT_BYTES_MAX + 1));
        assert!(parse(&long).is_err());
        for servers in [vec![], vec!["host".to_owned()], vec!["a:1".to_owned(); 17]] {
            let text = to_text(&Invitation { servers, ..invitation.clone() });
            assert!(matches!(parse(&text), Err(InvitationError::Damaged(_))));
        }
    }

    #[test]
    fn a_wish_that_makes_no_sense_is_refused() {
        assert!(make(destination(), NodeRole::Agent, 0, 0, 1).is_err());
        assert!(make(destination(), NodeRole::Agent, 1, 5, 5).is_err());
        assert!(make(destination(), NodeRole::Agent, 1, 0, VALID_MS_MAX + 1).is_err());
        let nowhere = Destination { servers: Vec::new(), ..destination() };
        assert!(make(nowhere, NodeRole::Agent, 1, 0, 1).is_err());
    }
}
