//! Proof that somebody is there now: challenges that only a holder of the key can answer.
//!
//! One challenge serves everybody who is asked within [`TURN_MS`], so that nothing is kept for each of them.
//! What was proven, and which numbers of a proven run were seen, is kept with the machine's record.

use caelum_model::cluster::ClusterKey;

use super::codec::hex;
use crate::seal;

/// A challenge is replaced after this long, ms.
const TURN_MS: i64 = 2_500;
/// An answer counts for this long after the challenge was made, ms.
pub(super) const VALID_MS: i64 = 5_000;

/// Our challenges: the present one and the one before.
#[derive(Debug, Default)]
pub(super) struct Challenges {
    present: Option<(String, i64)>,
    former: Option<(String, i64)>,
    count: u64,
}

impl Challenges {
    /// A challenge to send now; without a key there is none. Nobody without the key can know it before it
    /// is sent: it is a code under the key over what only this run of the program has.
    pub(super) fn make(
        &mut self,
        now_ms: i64,
        key: Option<&ClusterKey>,
        instance: &str,
        seed: u64,
    ) -> String {
        let Some(key) = key else { return String::new() };
        if let Some((nonce, made_ms)) = &self.present
            && now_ms - made_ms < TURN_MS
        {
            return nonce.clone();
        }
        self.count += 1;
        let parts: [&[u8]; 4] =
            [b"challenge", &seed.to_be_bytes(), &self.count.to_be_bytes(), instance.as_bytes()];
        let nonce = hex(&seal::mac(key, &parts)[..16]);
        self.former = self.present.replace((nonce.clone(), now_ms));
        nonce
    }

    /// Whether this answers one of them in time.
    pub(super) fn is_answered_by(&self, now_ms: i64, echo: &str) -> bool {
        !echo.is_empty()
            && [&self.present, &self.former]
                .into_iter()
                .flatten()
                .any(|(nonce, made_ms)| nonce == echo && (0..VALID_MS).contains(&(now_ms - made_ms)))
    }

    /// Forgets all of them: the key changed.
    pub(super) fn clear(&mut self) {
        (self.present, self.former) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(challenges: &mut Challenges, now_ms: i64) -> String {
        let key = ClusterKey { generation: 1, secret: "k".to_owned() };
        challenges.make(now_ms, Some(&key), "run", 7)
    }

    #[test]
    fn a_challenge_lasts_five_seconds_and_is_replaced_after_half_of_them() {
        let mut challenges = Challenges::default();
        let first = make(&mut challenges, 0);
        assert_eq!(first.len(), 32);
        assert_eq!(make(&mut challenges, TURN_MS - 1), first);
        let second = make(&mut challenges, TURN_MS);
        assert_ne!(first, second);
        assert!(challenges.is_answered_by(VALID_MS - 1, &first));
        assert!(!challenges.is_answered_by(VALID_MS, &first));
        assert!(challenges.is_answered_by(VALID_MS, &second));
    }

    #[test]
    fn nothing_answers_when_nothing_was_asked() {
        let mut challenges = Challenges::default();
        assert!(!challenges.is_answered_by(0, ""));
        assert_eq!(challenges.make(0, None, "run", 7), "");
        assert!(!challenges.is_answered_by(0, ""));
        let nonce = make(&mut challenges, 0);
        challenges.clear();
        assert!(!challenges.is_answered_by(0, &nonce));
        assert_ne!(make(&mut challenges, 0), nonce, "no challenge is made twice");
    }
}
