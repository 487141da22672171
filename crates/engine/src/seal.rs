//! Proof that bytes come from somebody who knows the cluster's key: HMAC-SHA-256 (RFC 2104, FIPS 198-1).

use caelum_model::cluster::ClusterKey;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The code over the parts, one after the other.
pub fn mac(key: &ClusterKey, parts: &[&[u8]]) -> [u8; 32] {
    // The key's text form is the key: it has the full 256 bits, and no form of it can fail to decode.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.secret.as_bytes()).expect("any length is a key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Whether `claimed` is the code over the parts or a beginning of it of at least 16 bytes. Takes as long
/// whatever is wrong.
pub fn is_mac(key: &ClusterKey, parts: &[&[u8]], claimed: &[u8]) -> bool {
    let right = mac(key, parts);
    let Some(right) = right.get(..claimed.len()).filter(|right| right.len() >= 16) else { return false };
    right.iter().zip(claimed).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_that_of_the_standard() {
        // RFC 4231, test case 2: the key is "Jefe".
        let key = ClusterKey { generation: 1, secret: "Jefe".to_owned() };
        let code = mac(&key, &[b"what do ya want ", b"for nothing?"]);
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_short_or_wrong_code_is_none() {
        let key = ClusterKey { generation: 1, secret: "k".to_owned() };
        let mut code = mac(&key, &[b"x"]);
        assert!(is_mac(&key, &[b"x"], &code) && is_mac(&key, &[b"x"], &code[..16]));
        assert!(!is_mac(&key, &[b"x"], &code[..15]) && !is_mac(&key, &[b"x"], &[]));
        code[15] ^= 1;
        assert!(!is_mac(&key, &[b"x"], &code) && !is_mac(&key, &[b"y"], &code));
    }
}
