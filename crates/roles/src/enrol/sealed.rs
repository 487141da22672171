//! Invitations that are worth nothing without a passphrase: for packages that travel where others can read them.
//!
//! The passphrase is stretched by Argon2id (64 MiB, three passes), the text sealed by ChaCha20-Poly1305 under
//! what comes out. As text it is [`PREFIX`] and base64url of salt, nonce and sealed bytes.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caelum_drivers::random;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// What a sealed invitation starts with.
pub const PREFIX: &str = "caelum-sealed.";
/// Fewest characters of a passphrase.
pub const PASSPHRASE_CHARS_MIN: usize = 12;
/// Longest passphrase, bytes.
const PASSPHRASE_BYTES_MAX: usize = 1_024;
/// Longest text that is read, bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Bytes of the salt.
const SALT_BYTES: usize = 16;
/// Memory of the stretching, KiB, and its passes.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;

/// Why a text was not sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// The passphrase could be guessed.
    #[error("a passphrase has at least {PASSPHRASE_CHARS_MIN} characters")]
    Short,
    /// The text is no sealed invitation.
    #[error("read the sealed invitation: it is damaged; was it copied whole?")]
    Damaged,
    /// The passphrase is another, or the text was changed.
    #[error("open the sealed invitation: the passphrase is wrong, or the invitation was changed")]
    Passphrase,
    /// There is not enough memory to stretch the passphrase.
    #[error("open the sealed invitation: 64 MiB of memory are needed for it")]
    Memory,
}

/// Whether a text is a sealed invitation.
pub fn is_sealed(text: &str) -> bool {
    text.trim_start().starts_with(PREFIX)
}

/// Seals a text. Takes a tenth of a second and 64 MiB, as opening does.
pub fn seal(text: &str, passphrase: &str) -> Result<String, SealedError> {
    if passphrase.chars().count() < PASSPHRASE_CHARS_MIN || passphrase.len() > PASSPHRASE_BYTES_MAX {
        return Err(SealedError::Short);
    }
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_LEN]);
    random::fill(&mut salt);
    random::fill(&mut nonce);
    let mut bytes = text.as_bytes().to_vec();
    key(passphrase, &salt)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(PREFIX), &mut bytes)
        .expect("a short text can be sealed");
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&salt[..], &nonce, &bytes].concat())))
}

/// Opens what [`seal`] made.
pub fn open(text: &str, passphrase: &str) -> Result<String, SealedError> {
    let encoded = text.trim().strip_prefix(PREFIX).ok_or(SealedError::Damaged)?;
    if encoded.len() > TEXT_BYTES_MAX || passphrase.len() > PASSPHRASE_BYTES_MAX {
        return Err(SealedError::Damaged);
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| SealedError::Damaged)?;
    let (salt, rest) = bytes.split_first_chunk_mut::<SALT_BYTES>().ok_or(SealedError::Damaged)?;
    let (nonce, sealed) = rest.split_first_chunk_mut::<NONCE_LEN>().ok_or(SealedError::Damaged)?;
    let plain = key(passphrase, salt)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(PREFIX), sealed)
        .map_err(|_| SealedError::Passphrase)?;
    String::from_utf8(plain.to_vec()).map_err(|_| SealedError::Damaged)
}

fn key(passphrase: &str, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, SealedError> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32)).expect("the costs are within their ranges");
    let mut bytes = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut bytes)
        .map_err(|_| SealedError::Memory)?;
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("a key has 32 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSPHRASE: &str = "correct horse battery";

    #[test]
    fn a_sealed_text_is_opened_by_its_passphrase_alone() {
        let sealed = seal("caelum-join.secret", PASSPHRASE).unwrap();
        assert!(is_sealed(&sealed) && !sealed.contains("secret"));
        assert_eq!(open(&format!(" {sealed}\n"), PASSPHRASE).unwrap(), "caelum-join.secret");
        assert_eq!(open(&sealed, "correct horse batterz"), Err(SealedError::Passphrase));
        let other = seal("caelum-join.secret", PASSPHRASE).unwrap();
        assert!(sealed != other, "salt and nonce are fresh");
    }

    #[test]
    fn what_was_changed_or_cut_is_not_opened() {
        let sealed = seal("text", PASSPHRASE).unwrap();
        let mut changed = sealed.clone().into_bytes();
        let last = changed.len() - 3;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        assert_eq!(open(&String::from_utf8(changed).unwrap(), PASSPHRASE), Err(SealedError::Passphrase));
        for wrong in ["", "caelum-join.x", PREFIX, &sealed[..20], &format!("{PREFIX}*")] {
            assert_eq!(open(wrong, PASSPHRASE), Err(SealedError::Damaged), "{wrong}");
        }
        assert_eq!(seal("text", "short"), Err(SealedError::Short));
    }
}
