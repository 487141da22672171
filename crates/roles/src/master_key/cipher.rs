//! How something is sealed under a master key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use caelum_drivers::random;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};

use crate::vault::VaultError;

/// Fewest characters of a master key: what [`make_master_key`] makes has 250 bits in 43.
pub const MASTER_KEY_LENGTH_MIN: usize = 32;
/// What a key's id is derived with.
const ID: &[u8] = b"caelum master key id 1";
/// Bytes of a key's id.
const ID_BYTES: usize = 8;

/// A fresh master key.
pub fn make_master_key() -> String {
    random::secret(43)
}

/// By what two keys are told apart without showing either.
pub(super) fn id_of(master_key: &str) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, master_key.as_bytes());
    hmac::sign(&secret, ID).as_ref()[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seals bytes under a key that comes from a master key.
pub(crate) struct Cipher {
    key: LessSafeKey,
}

impl Cipher {
    /// A cipher for one purpose: what is sealed for another does not open.
    pub(crate) fn new(master_key: &str, purpose: &[u8]) -> Result<Self, VaultError> {
        if master_key.len() < MASTER_KEY_LENGTH_MIN {
            return Err(VaultError::TooShort);
        }
        let secret = hmac::Key::new(hmac::HMAC_SHA256, master_key.as_bytes());
        let derived = hmac::sign(&secret, purpose);
        let key = UnboundKey::new(&CHACHA20_POLY1305, derived.as_ref())
            .expect("SHA-256 has as many bytes as a key of this cipher");
        Ok(Self { key: LessSafeKey::new(key) })
    }

    /// Seals bytes, bound to what they are about.
    pub(crate) fn seal(&self, about: &str, plain: &[u8]) -> String {
        let (mut bytes, mut nonce) = (plain.to_vec(), [0; NONCE_LEN]);
        random::fill(&mut nonce);
        let about = Aad::from(about.as_bytes());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about, &mut bytes)
            .expect("no cipher refuses so few bytes");
        STANDARD.encode([&nonce[..], &bytes].concat())
    }

    /// Opens what was sealed about the same; none where it was not, or somebody changed it.
    pub(crate) fn open(&self, about: &str, sealed: &str) -> Option<Vec<u8>> {
        let mut bytes = STANDARD.decode(sealed).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(bytes.get(..NONCE_LEN)?).ok()?;
        let about = Aad::from(about.as_bytes());
        let plain = self.key.open_in_place(nonce, about, bytes.get_mut(NONCE_LEN..)?).ok()?;
        Some(plain.to_vec())
    }
}
