//! Chance, from the operating system's own source: secrets, identifiers, jitter.
//!
//! There is no seedable twin: rules that need chance take it as an argument, and tests pass what they like.

use ring::rand::{SecureRandom, SystemRandom};

/// Letters and digits without those that are mistaken for each other when read aloud or copied by hand
/// (`0 O o`, `1 I l`).
const SECRET_ALPHABET: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz";

/// Fills the buffer.
pub fn fill(buffer: &mut [u8]) {
    SystemRandom::new().fill(buffer).expect("the operating system's random source does not fail once booted");
}

/// A number below 2^64.
pub fn number() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// A generation number: never 0, and below 2^53, so that readers of JSON that know only doubles keep it
/// exact.
pub fn epoch() -> u64 {
    (number() >> 11).max(1)
}

/// A secret of `length` characters that people can copy; each is worth 5.8 bits (22 make 128 bits).
pub fn secret(length: usize) -> String {
    let mut text = String::with_capacity(length);
    let mut pool = [0_u8; 64];
    // Bytes at or above the largest multiple of the alphabet's size are dropped: a plain remainder would
    // favour its first letters.
    let fair = 256 / SECRET_ALPHABET.len() * SECRET_ALPHABET.len();
    while text.len() < length {
        fill(&mut pool);
        let letters = pool.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        let wanted = length - text.len();
        text.extend(
            letters.take(wanted).map(|byte| char::from(SECRET_ALPHABET[byte % SECRET_ALPHABET.len()])),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn secrets_have_the_asked_length_and_only_letters_nobody_mistakes() {
        for length in [0, 1, 22, 43, 200] {
            let text = secret(length);
            assert_eq!(text.len(), length);
            assert!(text.bytes().all(|byte| SECRET_ALPHABET.contains(&byte)));
            assert!(!text.contains(['0', 'O', 'o', '1', 'I', 'l']));
        }
    }

    #[test]
    fn secrets_differ_and_use_the_whole_alphabet() {
        assert_ne!(secret(22), secret(22));
        let seen: BTreeSet<u8> = secret(20_000).into_bytes().into_iter().collect();
        assert_eq!(seen.len(), SECRET_ALPHABET.len());
    }

    #[test]
    fn an_epoch_is_a_positive_number_that_a_double_holds() {
        for _ in 0..1_000 {
            let epoch = epoch();
            assert!(epoch > 0 && epoch < 1 << 53);
        }
    }
}
