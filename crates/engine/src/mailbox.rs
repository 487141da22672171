//! Joining through a mailbox: what a machine leaves where servers look, and what they answer there.
//!
//! # Purpose
//! A machine that reaches no server may still reach what servers share. It leaves one sealed request there; one
//! server takes it, judges it as any other, and leaves a sealed answer.
//!
//! ```text
//!  server ── sign ──────────> mailbox ── sign ─────────> machine
//!  server <─ takes request ── mailbox <─ sealed request ─ machine
//!  server ── sealed answer ─> mailbox ── answer ───────> machine
//! ```
//!
//! # Rules
//! - There are [`SLOTS`] places for requests and no more; a request has at most [`REQUEST_BYTES_MAX`].
//! - A request names the *sign* that servers left in the mailbox a short while ago. One with an older sign is not
//!   looked at, so that nothing that was written down elsewhere can be put back later.
//! - What is not a request, or not with a fresh sign, is dropped before anything is computed.
//! - Both sides seal over a [`transcript`] of everything that was said, each part with its length before it.
//!
//! # What it does not do
//! It seals nothing and knows no mailbox: `roles::enrol::mailbox` does the one, `store::mailbox` the other.

use caelum_model::UnixMs;
use serde::{Deserialize, Serialize};

/// Places for requests. Two digits name them.
pub const SLOTS: u8 = 100;
/// Most bytes of a request.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Most bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 48 << 10;
/// How long a request lies there, ms.
pub const REQUEST_LIVES_MS: i64 = 2 * 60_000;
/// How long an answer lies there, ms.
pub const ANSWER_LIVES_MS: i64 = 5 * 60_000;
/// How long a sign lies there, and how long it counts after it was last seen, ms.
pub const SIGN_LIVES_MS: i64 = 10 * 60_000;
/// How long a request that was looked at is remembered, ms: longer than any sign counts.
pub const SEEN_LIVES_MS: i64 = 6 * SIGN_LIVES_MS;
/// Requests that a server takes at one look.
pub const TAKEN_MAX: usize = 8;
/// Signs that a server remembers.
const SIGNS_MAX: usize = 4;
/// Form of the texts.
const VERSION: u8 = 1;
/// Longest id and sign.
const ID_BYTES_MAX: usize = 64;

/// The name of a place for requests.
pub fn slot_name(slot: u8) -> String {
    format!("{:02}", slot % SLOTS)
}

/// Whether a text may be an id or a sign: letters and digits, so that it can be part of any key or name.
pub fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A request as it lies in the mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The form.
    #[serde(rename = "v")]
    version: u8,
    /// Made by the machine for this request alone; its answer lies under it.
    #[serde(rename = "i")]
    pub request_id: String,
    /// By which token it wants to be admitted.
    #[serde(rename = "t")]
    pub token_id: String,
    /// The sign that it saw.
    #[serde(rename = "s")]
    pub sign: String,
    /// Everything else, sealed, as text.
    #[serde(rename = "b")]
    pub sealed: String,
}

/// An answer as it lies in the mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The form.
    #[serde(rename = "v")]
    version: u8,
    /// The server's half of the key, as text.
    #[serde(rename = "k")]
    pub public_key: String,
    /// What it says, sealed, as text.
    #[serde(rename = "b")]
    pub sealed: String,
}

/// Why a text in a mailbox is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Longer than any request.
    #[error("it is too large")]
    TooLarge,
    /// It does not say what a request or an answer says.
    #[error("it does not read as one")]
    Malformed,
    /// It names a sign that does not count, or counts no more.
    #[error("it does not name a sign that servers left here lately")]
    OldSign,
}

impl Request {
    /// A request.
    pub fn new(request_id: String, token_id: String, sign: String, sealed: String) -> Self {
        Self { version: VERSION, request_id, token_id, sign, sealed }
    }

    /// As it lies there.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("text has a JSON form")
    }
}

impl Answer {
    /// An answer.
    pub fn new(public_key: String, sealed: String) -> Self {
        Self { version: VERSION, public_key, sealed }
    }

    /// As it lies there.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("text has a JSON form")
    }

    /// Reads what [`Self::to_text`] wrote.
    pub fn read(text: &str) -> Result<Self, Ignored> {
        if text.len() > ANSWER_BYTES_MAX {
            return Err(Ignored::TooLarge);
        }
        let answer: Self = serde_json::from_str(text).map_err(|_| Ignored::Malformed)?;
        if answer.version == VERSION { Ok(answer) } else { Err(Ignored::Malformed) }
    }
}

/// Looks at what lies in a mailbox before anything is computed of it: a value that remembers signs.
#[derive(Debug, Default)]
pub struct Doorkeeper {
    /// Signs, newest last, with when they were last seen.
    signs: Vec<(String, UnixMs)>,
}

impl Doorkeeper {
    /// Notes the sign that hangs out now.
    pub fn saw(&mut self, sign: &str, now_ms: UnixMs) {
        self.signs.retain(|(known, seen_ms)| known != sign && now_ms - seen_ms < SIGN_LIVES_MS);
        if self.signs.len() >= SIGNS_MAX {
            self.signs.remove(0);
        }
        self.signs.push((sign.to_owned(), now_ms));
    }

    /// Reads a text that lay there, or says why it is not looked at.
    pub fn read(&self, text: &str, now_ms: UnixMs) -> Result<Request, Ignored> {
        if text.len() > REQUEST_BYTES_MAX {
            return Err(Ignored::TooLarge);
        }
        let request: Request = serde_json::from_str(text).map_err(|_| Ignored::Malformed)?;
        if request.version != VERSION
            || ![&request.request_id, &request.token_id, &request.sign].into_iter().all(|id| is_id(id))
        {
            return Err(Ignored::Malformed);
        }
        let is_fresh =
            |(known, seen_ms): &(String, UnixMs)| *known == request.sign && now_ms - seen_ms < SIGN_LIVES_MS;
        if self.signs.iter().any(is_fresh) { Ok(request) } else { Err(Ignored::OldSign) }
    }
}

/// Everything that was said, each part with its length before it, so that no two conversations read alike.
pub fn transcript(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(sign: &str) -> Request {
        Request::new("r1".into(), "t1".into(), sign.into(), "AAAA".into())
    }

    #[test]
    fn a_request_is_looked_at_while_its_sign_counts_and_never_after() {
        let mut door = Doorkeeper::default();
        assert_eq!(door.read(&request("one").to_text(), 0), Err(Ignored::OldSign));
        door.saw("one", 0);
        door.saw("two", SIGN_LIVES_MS - 1);
        for sign in ["one", "two"] {
            assert_eq!(door.read(&request(sign).to_text(), SIGN_LIVES_MS - 1), Ok(request(sign)));
        }
        assert_eq!(door.read(&request("one").to_text(), SIGN_LIVES_MS), Err(Ignored::OldSign));
        assert_eq!(door.read(&request("three").to_text(), 5), Err(Ignored::OldSign));
        // What was seen is remembered for longer than its sign counts.
        const { assert!(SEEN_LIVES_MS > 2 * SIGN_LIVES_MS) };
    }

    #[test]
    fn signs_that_come_and_go_take_no_room() {
        let mut door = Doorkeeper::default();
        for number in 0..1_000 {
            door.saw(&format!("s{number}"), number);
        }
        assert!(door.signs.len() <= SIGNS_MAX);
        assert!(door.read(&request("s999").to_text(), 1_000).is_ok());
        assert_eq!(door.read(&request("s1").to_text(), 1_000), Err(Ignored::OldSign));
    }

    #[test]
    fn what_is_too_large_or_no_request_is_dropped() {
        let mut door = Doorkeeper::default();
        door.saw("one", 0);
        let long = Request { sealed: "A".repeat(REQUEST_BYTES_MAX), ..request("one") };
        assert_eq!(door.read(&long.to_text(), 1), Err(Ignored::TooLarge));
        let other = Request { version: 9, ..request("one") };
        let lost = Request { request_id: "../x".into(), ..request("one") };
        for text in ["", "{}", "null", &other.to_text(), &lost.to_text()] {
            assert_eq!(door.read(text, 1), Err(Ignored::Malformed), "{text}");
        }
        assert_eq!(Answer::read(&"x".repeat(ANSWER_BYTES_MAX + 1)), Err(Ignored::TooLarge));
        assert_eq!(Answer::read("{\"v\":2,\"k\":\"\",\"b\":\"\"}"), Err(Ignored::Malformed));
        let answer = Answer::new("k".into(), "b".into());
        assert_eq!(Answer::read(&answer.to_text()), Ok(answer));
    }

    #[test]
    fn two_conversations_never_have_the_same_transcript() {
        assert_ne!(transcript(&[b"ab", b"c"]), transcript(&[b"a", b"bc"]));
        assert_ne!(transcript(&[b"", b""]), transcript(&[b""]));
        assert_eq!(transcript(&[b"a", b"b"]), transcript(&[b"a", b"b"]));
        assert_eq!((slot_name(0), slot_name(99)), ("00".to_owned(), "99".to_owned()));
    }

    proptest! {
        #[test]
        fn whatever_lies_in_a_mailbox_harms_nobody(text in "\\PC{0,400}", sign in "[a-z]{1,4}") {
            let mut door = Doorkeeper::default();
            door.saw(&sign, 0);
            let _ = door.read(&text, 1);
            let _ = Answer::read(&text);
        }
    }
}
