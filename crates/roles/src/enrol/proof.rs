//! What server and machine compute from the code that a person read from the one and typed at the other.
//!
//! The code is stretched together with the machine's public key as each side knows it and with the authority's
//! fingerprint. Whoever stands in between has another key, so that neither side's proof is worth anything to
//! the other; what is left is to guess the code, which the stretching makes slow and the code's age ends.

use std::num::NonZeroU32;

use caelum_drivers::random;
use ring::{digest, hmac, pbkdf2};

/// Rounds of the stretching.
const ROUNDS: NonZeroU32 = NonZeroU32::new(200_000).expect("is not 0");
/// What the server's proof says.
const SERVER: &[u8] = b"caelum adopt: server";
/// What the machine's proof says before the key it asks a certificate for.
const MACHINE: &[u8] = b"caelum adopt: machine";
/// Characters of a code: 40 bits.
const CODE_LENGTH: usize = 8;

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A fresh code, without what separates its halves.
pub fn new_code() -> String {
    let mut code = String::with_capacity(CODE_LENGTH);
    while code.len() < CODE_LENGTH {
        // Capitals and digits: what is left of an alphabet without letters that are mistaken for each other.
        let letters = random::secret(32);
        code.extend(letters.chars().filter(|c| !c.is_ascii_lowercase()).take(CODE_LENGTH - code.len()));
    }
    code
}

/// A code as it is shown.
pub fn shown_code(code: &str) -> String {
    match code.split_at_checked(CODE_LENGTH / 2) {
        Some((first, second)) => format!("{first}-{second}"),
        None => code.to_owned(),
    }
}

/// The stretched code.
#[derive(Clone)]
pub struct CodeKey {
    key: [u8; 32],
}

impl CodeKey {
    /// Stretches a code. Takes a noticeable part of a second: not for async threads.
    pub fn stretch(code: &str, machine_key_sha256: &str, authority_sha256: &str) -> Self {
        let salt = [machine_key_sha256.as_bytes(), authority_sha256.as_bytes()].concat();
        let mut key = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, code.as_bytes(), &mut key);
        Self { key }
    }

    /// The server's proof that somebody typed the code there, lower-case hex.
    pub fn server_proof(&self) -> String {
        self.sign(&[SERVER])
    }

    /// Whether a proof is the server's.
    pub fn is_server(&self, proof: &str) -> bool {
        self.verify(&[SERVER], proof)
    }

    /// The machine's proof that it knows the code and asks for this key, lower-case hex.
    pub fn machine_proof(&self, key_sha256: &str) -> String {
        self.sign(&[MACHINE, key_sha256.as_bytes()])
    }

    /// Whether a proof is the machine's for this key.
    pub fn is_machine(&self, key_sha256: &str, proof: &str) -> bool {
        self.verify(&[MACHINE, key_sha256.as_bytes()], proof)
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        hmac::sign(&key, &parts.concat()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn verify(&self, parts: &[&[u8]], proof: &str) -> bool {
        caelum_engine::enrol::is_same(self.sign(parts).as_bytes(), proof.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_worth_something_for_one_code_one_key_one_authority_and_one_side() {
        let key = CodeKey::stretch("ABCD2345", "aa", "bb");
        let same = CodeKey::stretch("ABCD2345", "aa", "bb");
        assert!(same.is_server(&key.server_proof()) && same.is_machine("k", &key.machine_proof("k")));
        assert!(!same.is_machine("other", &key.machine_proof("k")));
        assert!(!same.is_server(&key.machine_proof("")) && !same.is_server(""));
        let others = [("ABCD2346", "aa", "bb"), ("ABCD2345", "ab", "bb"), ("ABCD2345", "aa", "bc")];
        for (code, machine, authority) in others {
            assert!(!CodeKey::stretch(code, machine, authority).is_server(&key.server_proof()));
        }
    }

    #[test]
    fn a_code_is_two_times_four_letters_that_nobody_mistakes() {
        let code = new_code();
        assert_eq!(code.len(), 8);
        assert!(code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()), "{code}");
        assert_ne!(code, new_code());
        assert_eq!(shown_code("ABCD2345"), "ABCD-2345");
        assert_eq!(caelum_engine::enrol::plain_code(&shown_code(&code)), code);
    }
}
