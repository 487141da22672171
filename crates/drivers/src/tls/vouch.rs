//! What the authority's key does beside signing certificates: it vouches for a text, and secrets come from it that
//! every server can make again.

use ring::{hmac, signature};

use super::{Authority, TlsError, first_certificate};

impl Authority {
    /// Signs a text: ECDSA on P-256 with SHA-256.
    pub fn vouch(&self, text: &[u8]) -> Result<Vec<u8>, TlsError> {
        use rcgen::SigningKey as _;

        let failed = |source| TlsError::Make { subject: "a text".to_owned(), source };
        self.issuer.key().sign(text).map_err(failed)
    }

    /// A secret that follows from the authority's key and a label, and from which neither follows. The same on every
    /// server that holds the authority.
    pub fn derive(&self, label: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.issuer.key().serialized_der());
        hmac::sign(&key, label).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// Whether the authority with this certificate signed a text.
pub fn is_vouched_for(authority_pem: &str, text: &[u8], signed: &[u8]) -> Result<bool, TlsError> {
    let der = first_certificate(authority_pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)
        .map_err(|error| TlsError::Read { what: "a certificate", detail: error.to_string() })?;
    let key = &certificate.public_key().subject_public_key.data;
    let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, key);
    Ok(key.verify(text, signed).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_vouched_for_by_the_authority_that_signed_it_and_as_it_was_alone() {
        let (ours, theirs) = (Authority::create("ours").unwrap(), Authority::create("theirs").unwrap());
        let signed = ours.vouch(b"text").unwrap();
        assert!(is_vouched_for(ours.certificate_pem(), b"text", &signed).unwrap());
        assert!(!is_vouched_for(ours.certificate_pem(), b"texT", &signed).unwrap());
        assert!(!is_vouched_for(theirs.certificate_pem(), b"text", &signed).unwrap());
        assert!(!is_vouched_for(ours.certificate_pem(), b"text", b"").unwrap());
        assert!(is_vouched_for("", b"text", &signed).is_err());
    }

    #[test]
    fn servers_with_the_same_authority_derive_the_same_secret() {
        let ours = Authority::create("ours").unwrap();
        let again = Authority::load(ours.certificate_pem(), &ours.key_pem()).unwrap();
        assert_eq!(ours.derive(b"a"), again.derive(b"a"));
        assert_ne!(ours.derive(b"a"), ours.derive(b"b"));
        assert_ne!(ours.derive(b"a"), Authority::create("ours").unwrap().derive(b"a"));
    }
}
