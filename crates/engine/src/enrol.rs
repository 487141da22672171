//! Who may become a node, and until when.
//!
//! # Purpose
//! Judge join tokens, the codes of machines that wait to be adopted, addresses, and when a certificate is to
//! be renewed.
//!
//! # Rules
//! - A token is judged in a fixed order: known, right secret, not revoked, not expired, not used up, and not
//!   for less than was asked. What it is refused for is said only to whoever knows the secret.
//! - A code stands for [`CODE_VALID_MS`] and for [`WRONG_CODES_MAX`] wrong guesses, and is tried once a second.
//! - A certificate is renewed after a seventh of its life, give or take a tenth of that: at different times
//!   on different nodes, and with most of its life left for a server that is away.
//! - An access list names networks; an empty one names everybody.
//!
//! # What it does not do
//! It hashes nothing, makes no codes, and counts no uses: the store does that last step, in one transaction.

use std::net::IpAddr;

use caelum_model::{UnixMs, cluster::NodeRole, join::JoinToken};

/// How long a machine shows the same code, ms.
pub const CODE_VALID_MS: i64 = 30 * 60_000;
/// Wrong guesses after which a code is worth nothing.
pub const WRONG_CODES_MAX: u32 = 5;
/// Time between two guesses, ms.
const GUESS_INTERVAL_MS: i64 = 1_000;
/// A renewal that failed is tried again after this, ms.
pub const RENEW_AGAIN_MS: i64 = 10 * 60_000;

/// Why a token admits nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such token.
    #[error("the join token is not known here")]
    Unknown,
    /// There is, and this is not its secret.
    #[error("the join token is not known here")]
    WrongSecret,
    /// Somebody took it back.
    #[error("the join token was revoked")]
    Revoked,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// It has admitted as many nodes as it may.
    #[error("the join token is used up")]
    UsedUp,
    /// It makes lesser nodes.
    #[error("the join token does not admit nodes of this role")]
    RoleTooHigh,
}

impl Refusal {
    /// The stable code. Whoever guesses does not learn whether the token or its secret is wrong.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown | Self::WrongSecret => "join_token_unknown",
            Self::Revoked => "join_token_revoked",
            Self::Expired => "join_token_expired",
            Self::UsedUp => "join_token_used_up",
            Self::RoleTooHigh => "join_role_not_allowed",
        }
    }
}

/// Whether a token admits a node of this role now.
pub fn judge_token(
    token: Option<&JoinToken>,
    secret_sha256: &[u8; 32],
    now_ms: UnixMs,
    asked: NodeRole,
) -> Result<(), Refusal> {
    let token = token.ok_or(Refusal::Unknown)?;
    if !is_same(&token.secret_sha256, secret_sha256) {
        return Err(Refusal::WrongSecret);
    }
    if token.revoked_at_ms.is_some() {
        return Err(Refusal::Revoked);
    }
    if token.expires_at_ms <= now_ms {
        return Err(Refusal::Expired);
    }
    if token.uses_left == 0 {
        return Err(Refusal::UsedUp);
    }
    if is_more(asked, token.role) {
        return Err(Refusal::RoleTooHigh);
    }
    Ok(())
}

/// How a token stands, in a word for lists.
pub fn token_state(token: &JoinToken, now_ms: UnixMs) -> &'static str {
    match judge_token(Some(token), &token.secret_sha256, now_ms, token.role) {
        Err(Refusal::Revoked) => "revoked",
        Err(Refusal::Expired) => "expired",
        Err(Refusal::UsedUp) => "used up",
        Ok(()) | Err(_) => "valid",
    }
}

/// Whether a role may do what another may not. Roles are ordered from the most to the least.
fn is_more(asked: NodeRole, given: NodeRole) -> bool {
    asked < given
}

/// Compares without telling by the time it takes where the difference is.
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Why a code may not be guessed at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeRefusal {
    /// The last guess was a moment ago.
    #[error("too many attempts; wait {wait_ms} ms")]
    TooSoon {
        /// For how long, ms.
        wait_ms: i64,
    },
    /// The code is too old or was guessed at too often; the machine shows another by now.
    #[error("the code is no longer valid; the machine shows a new one")]
    Over,
}

/// The code that a machine shows to whoever stands in front of it.
#[derive(Clone, Debug)]
pub struct AdoptionCode {
    code: String,
    made_ms: i64,
    wrong: u32,
    tried_ms: Option<i64>,
}

impl AdoptionCode {
    /// A code as of now.
    pub fn new(code: String, now_ms: i64) -> Self {
        Self { code, made_ms: now_ms, wrong: 0, tried_ms: None }
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.code
    }

    /// Whether another one is needed.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.wrong >= WRONG_CODES_MAX || now_ms - self.made_ms >= CODE_VALID_MS
    }

    /// Takes another code. The pause between guesses goes on.
    pub fn replace(&mut self, code: String, now_ms: i64) {
        *self = Self { tried_ms: self.tried_ms, ..Self::new(code, now_ms) };
    }

    /// Notes an attempt and says whether it may be looked at. It counts as wrong until [`Self::was_right`],
    /// so that many at once are no more than many in turn.
    pub fn attempt(&mut self, now_ms: i64) -> Result<(), CodeRefusal> {
        if self.is_over(now_ms) {
            return Err(CodeRefusal::Over);
        }
        // A clock that was set back does not make people wait for it.
        let last_ms = self.tried_ms.filter(|tried_ms| *tried_ms <= now_ms);
        let wait_ms = last_ms.map_or(0, |tried_ms| tried_ms + GUESS_INTERVAL_MS - now_ms);
        if wait_ms > 0 {
            return Err(CodeRefusal::TooSoon { wait_ms });
        }
        self.tried_ms = Some(now_ms);
        self.wrong += 1;
        Ok(())
    }

    /// Notes that the last attempt was right.
    pub fn was_right(&mut self) {
        self.wrong = 0;
    }
}

/// A code as people type it: without what separates its halves, in capitals.
pub fn plain_code(typed: &str) -> String {
    typed.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_uppercase()).collect()
}

/// When a certificate is to be renewed. `chance` spreads the nodes.
pub fn renew_at_ms(expires_at_ms: UnixMs, valid_ms: i64, chance: u64) -> UnixMs {
    let after_ms = valid_ms / 7;
    let spread_ms = (after_ms / 5).max(1);
    let jitter_ms = i64::try_from(chance % spread_ms.unsigned_abs()).unwrap_or(0) - spread_ms / 2;
    expires_at_ms - valid_ms + after_ms + jitter_ms
}

/// Why a text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no network: write an address and how many of its bits count, such as 10.0.0.0/8")]
pub struct NotANetwork {
    /// What was given.
    pub text: String,
}

/// From which addresses machines may join. An empty list lets everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    networks: Vec<(IpAddr, u32)>,
}

impl AccessList {
    /// Reads networks such as `10.0.0.0/8`, `fd00::/8` or a single address.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, NotANetwork> {
        let networks = texts.into_iter().map(network).collect::<Result<_, _>>()?;
        Ok(Self { networks })
    }

    /// Whether an address is in one of the networks.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.is_empty()
            || self.networks.iter().any(|(network, bits)| bits_of(*network, *bits) == bits_of(address, *bits))
    }
}

fn network(text: &str) -> Result<(IpAddr, u32), NotANetwork> {
    let wrong = || NotANetwork { text: text.to_owned() };
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u32>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(width);
    if bits > width {
        return Err(wrong());
    }
    Ok((address, bits))
}

/// The first bits of an address, with its family.
fn bits_of(address: IpAddr, bits: u32) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (true, u128::from(u32::from(v4).checked_shr(32 - bits.min(32)).unwrap_or(0))),
        IpAddr::V6(v6) => (false, u128::from(v6).checked_shr(128 - bits.min(128)).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn token() -> JoinToken {
        JoinToken {
            token_id: "t".into(),
            secret_sha256: SECRET,
            role: NodeRole::Agent,
            uses_left: 1,
            uses: 1,
            created_at_ms: 0,
            expires_at_ms: 1_000,
            revoked_at_ms: None,
        }
    }

    #[test]
    fn a_token_is_refused_for_the_first_reason_that_holds() {
        let revoked = JoinToken { revoked_at_ms: Some(5), expires_at_ms: 0, uses_left: 0, ..token() };
        let expired = JoinToken { uses_left: 0, ..token() };
        let rows = [
            (None, SECRET, 0, NodeRole::Agent, Err(Refusal::Unknown)),
            (Some(revoked.clone()), [8; 32], 0, NodeRole::Server, Err(Refusal::WrongSecret)),
            (Some(revoked), SECRET, 0, NodeRole::Server, Err(Refusal::Revoked)),
            (Some(expired.clone()), SECRET, 1_000, NodeRole::Server, Err(Refusal::Expired)),
            (Some(expired), SECRET, 999, NodeRole::Server, Err(Refusal::UsedUp)),
            (Some(token()), SECRET, 999, NodeRole::Server, Err(Refusal::RoleTooHigh)),
            (Some(token()), SECRET, 999, NodeRole::Agent, Ok(())),
            (Some(token()), SECRET, 999, NodeRole::Beacon, Ok(())),
        ];
        for (token, secret, now_ms, asked, expected) in rows {
            assert_eq!(judge_token(token.as_ref(), &secret, now_ms, asked), expected, "{token:?}");
        }
    }

    #[test]
    fn whoever_guesses_does_not_learn_what_was_wrong() {
        assert_eq!(Refusal::Unknown.code(), Refusal::WrongSecret.code());
        assert_eq!(Refusal::Unknown.to_string(), Refusal::WrongSecret.to_string());
    }

    #[test]
    fn a_code_stands_for_five_wrong_guesses_one_a_second() {
        let mut code = AdoptionCode::new("ABCD2345".into(), 0);
        for n in 0..5 {
            assert_eq!(code.attempt(n * 1_000), Ok(()), "{n}");
            assert_eq!(
                code.attempt(n * 1_000 + 1),
                if n < 4 { Err(CodeRefusal::TooSoon { wait_ms: 999 }) } else { Err(CodeRefusal::Over) }
            );
        }
        assert!(code.is_over(9_000));
        code.replace("WXYZ6789".into(), 4_500);
        assert_eq!(code.attempt(4_500), Err(CodeRefusal::TooSoon { wait_ms: 500 }));
        assert_eq!((code.attempt(5_000), code.as_str()), (Ok(()), "WXYZ6789"));
    }

    #[test]
    fn a_right_guess_forgets_the_wrong_ones_and_time_ends_a_code() {
        let mut code = AdoptionCode::new("ABCD2345".into(), 0);
        for n in 0..20 {
            assert_eq!(code.attempt(n * 1_000), Ok(()));
            code.was_right();
        }
        assert!(!code.is_over(CODE_VALID_MS - 1));
        assert_eq!(code.attempt(CODE_VALID_MS), Err(CodeRefusal::Over));
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        assert_eq!(plain_code(" abcd-2345\n"), "ABCD2345");
    }

    #[test]
    fn a_certificate_of_a_week_is_renewed_after_about_a_day_and_not_by_all_at_once() {
        let (day_ms, week_ms) = (86_400_000, 7 * 86_400_000);
        let times: Vec<i64> = (0..1_000u64)
            .map(|n| renew_at_ms(week_ms, week_ms, n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
            .collect();
        assert!(times.iter().all(|at| (day_ms * 9 / 10..=day_ms * 11 / 10).contains(at)));
        let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
        assert!(spread > day_ms / 6, "{spread}");
        assert!(renew_at_ms(10, 10, u64::MAX) <= 10);
        assert_eq!(renew_at_ms(0, 0, 5), 0);
    }

    #[test]
    fn an_access_list_lets_in_its_networks_and_an_empty_one_everybody() {
        let list = AccessList::parse(["10.0.0.0/8", "192.0.2.7", "fd00::/8", "0.0.0.0/32"]).unwrap();
        let rows = [
            ("10.255.0.1", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fdff::1", true),
            ("fe00::1", false),
            ("a00::", false),
        ];
        for (address, expected) in rows {
            assert_eq!(list.allows(address.parse().unwrap()), expected, "{address}");
        }
        assert!(AccessList::default().allows("203.0.113.9".parse().unwrap()));
        let everybody = AccessList::parse(["0.0.0.0/0"]).unwrap();
        assert!(everybody.allows("203.0.113.9".parse().unwrap()));
        assert!(!everybody.allows("2001:db8::1".parse().unwrap()));
        for wrong in ["", "10.0.0.0/33", "fd00::/129", "10.0.0.0/x", "10.0.0/8", "/8", "example.org/8"] {
            assert!(AccessList::parse([wrong]).is_err(), "{wrong}");
        }
    }
}
