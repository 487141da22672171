//! Signatures of packages for macOS, as their archives hold them: one by the bare RSA key, and one as a
//! cryptographic message (CMS). Both vouch for the digest of the table of contents, which vouches for the rest.
//!
//! Pure: the key is behind [`Signer`], the time is left out, and the same key makes the same bytes.

use sha2::{Digest as _, Sha256};

use crate::PackageError;

/// Signs packages for macOS: an RSA key, and the certificates that say whose it is.
pub trait Signer: Send + Sync {
    /// Certificates in DER: the key's own first, then those that vouch for it.
    fn certificates(&self) -> &[Vec<u8>];
    /// Bytes of a signature: those of the key's modulus.
    fn signature_bytes(&self) -> usize;
    /// Signs a SHA-1 that is made already, by PKCS#1 v1.5.
    fn sign_sha1(&self, digest: &[u8; 20]) -> Result<Vec<u8>, String>;
    /// Signs a SHA-256 that is made already, by PKCS#1 v1.5.
    fn sign_sha256(&self, digest: &[u8; 32]) -> Result<Vec<u8>, String>;
}

/// Largest certificate that is put into a package, bytes, and how many.
const CERTIFICATE_BYTES_MAX: usize = 16 << 10;
const CERTIFICATES_MAX: usize = 8;

/// Tags of DER.
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const NULL: [u8; 2] = [0x05, 0x00];
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// A part of its own, by its place.
const ZERO: u8 = 0xa0;

/// Names of things, as DER has them.
const DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const SIGNED_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const CONTENT_TYPE: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const SHA256: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

fn refused(detail: impl Into<String>) -> PackageError {
    PackageError::Form { form: "macOS", detail: detail.into() }
}

/// Both signatures of a digest, each of the length that was reserved for it.
pub(super) struct Signed {
    pub(super) rsa: Vec<u8>,
    pub(super) message: Vec<u8>,
}

/// Signs the digest of a table of contents.
pub(super) fn sign(signer: &dyn Signer, digest: &[u8; 20]) -> Result<Signed, PackageError> {
    let rsa = signer.sign_sha1(digest).map_err(refused)?;
    let attributes = attributes(digest);
    let of_set = der(SET, &attributes);
    let signature = signer.sign_sha256(&Sha256::digest(&of_set).into()).map_err(refused)?;
    let bytes = signer.signature_bytes();
    if rsa.len() != bytes || signature.len() != bytes {
        return Err(refused(format!("a signature has another length than the {bytes} bytes that were said")));
    }
    let message = message(signer.certificates(), &attributes, &signature)?;
    Ok(Signed { rsa, message })
}

/// How many bytes the message has, whatever it is about: the table of contents says so before it is signed.
pub(super) fn message_bytes(signer: &dyn Signer) -> Result<usize, PackageError> {
    let signature = vec![0; signer.signature_bytes()];
    Ok(message(signer.certificates(), &attributes(&[0; 20]), &signature)?.len())
}

/// What the message signs: that it is about data, and the digest of these. In the order of DER.
fn attributes(content: &[u8]) -> Vec<u8> {
    let attribute = |name: &[u8], value: Vec<u8>| der(SEQUENCE, &[der(OID, name), der(SET, &value)].concat());
    let digest = der(OCTETS, &Sha256::digest(content));
    [attribute(&CONTENT_TYPE, der(OID, &DATA)), attribute(&MESSAGE_DIGEST, digest)].concat()
}

fn message(certificates: &[Vec<u8>], attributes: &[u8], signature: &[u8]) -> Result<Vec<u8>, PackageError> {
    let first = certificates.first().ok_or_else(|| refused("there is no certificate to sign with"))?;
    if certificates.len() > CERTIFICATES_MAX
        || certificates.iter().any(|certificate| certificate.len() > CERTIFICATE_BYTES_MAX)
    {
        return Err(refused("there are too many certificates to sign with, or one is too large"));
    }
    let named = issuer_and_serial(first).ok_or_else(|| refused("the certificate to sign with is none"))?;
    let version = der(INTEGER, &[1]);
    let sha256 = der(SEQUENCE, &[der(OID, &SHA256), NULL.to_vec()].concat());
    let rsa = der(SEQUENCE, &[der(OID, &RSA), NULL.to_vec()].concat());
    let signer = [version.clone(), named, sha256.clone(), der(ZERO, attributes), rsa, der(OCTETS, signature)];
    let mut set = certificates.to_vec();
    // A set has one order, whatever the file had.
    set.sort();
    let signed = [
        version,
        der(SET, &sha256),
        der(SEQUENCE, &der(OID, &DATA)),
        der(ZERO, &set.concat()),
        der(SET, &der(SEQUENCE, &signer.concat())),
    ];
    let signed = der(ZERO, &der(SEQUENCE, &signed.concat()));
    Ok(der(SEQUENCE, &[der(OID, &SIGNED_DATA), signed].concat()))
}

/// By what a certificate is named in a message.
fn issuer_and_serial(certificate: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = part(certificate, SEQUENCE)?;
    let mut rest = part(body.inside, SEQUENCE)?.0.inside;
    if let Some((_version, behind)) = part(rest, ZERO) {
        rest = behind;
    }
    let (serial, rest) = part(rest, INTEGER)?;
    let (_, rest) = part(rest, SEQUENCE)?;
    let (issuer, _) = part(rest, SEQUENCE)?;
    Some(der(SEQUENCE, &[issuer.whole, serial.whole].concat()))
}

/// A part of DER: with and without its head.
struct Part<'a> {
    whole: &'a [u8],
    inside: &'a [u8],
}

/// Reads the part that these bytes begin with, if it has this tag; also what comes after it.
fn part(bytes: &[u8], tag: u8) -> Option<(Part<'_>, &[u8])> {
    let (&found, &short) = (bytes.first()?, bytes.get(1)?);
    let (head, length) = match short {
        0..=0x7f => (2, usize::from(short)),
        0x81..=0x84 => {
            let digits = bytes.get(2..2 + usize::from(short & 0x7f))?;
            let length = digits.iter().fold(0_usize, |length, digit| (length << 8) | usize::from(*digit));
            (2 + digits.len(), length)
        }
        _ => return None,
    };
    let end = head.checked_add(length)?;
    let whole = bytes.get(..end)?;
    (found == tag).then(|| (Part { whole, inside: &whole[head..] }, &bytes[end..]))
}

/// Writes a part of DER.
fn der(tag: u8, inside: &[u8]) -> Vec<u8> {
    let length = inside.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
            bytes.push(0x80 | u8::try_from(digits.len()).expect("a length has eight bytes at most"));
            bytes.extend(digits);
        }
    }
    bytes.extend_from_slice(inside);
    bytes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One whose signatures are the digest and zeroes.
    pub(crate) struct Plain {
        pub(crate) certificates: [Vec<u8>; 1],
        pub(crate) said: usize,
    }

    impl Plain {
        pub(crate) fn new() -> Self {
            Self { certificates: [certificate()], said: 256 }
        }
    }

    impl Signer for Plain {
        fn certificates(&self) -> &[Vec<u8>] {
            &self.certificates
        }

        fn signature_bytes(&self) -> usize {
            self.said
        }

        fn sign_sha1(&self, digest: &[u8; 20]) -> Result<Vec<u8>, String> {
            Ok([&digest[..], &[0; 236]].concat())
        }

        fn sign_sha256(&self, digest: &[u8; 32]) -> Result<Vec<u8>, String> {
            Ok([&digest[..], &[0; 224]].concat())
        }
    }

    fn certificate() -> Vec<u8> {
        let parts = [
            der(ZERO, &der(INTEGER, &[2])),
            der(INTEGER, &[7; 20]),
            der(SEQUENCE, &der(OID, &SHA256)),
            der(SEQUENCE, &der(SET, &[0; 300])),
        ];
        der(SEQUENCE, &der(SEQUENCE, &parts.concat()))
    }

    #[test]
    fn a_message_has_the_length_that_was_reserved_whatever_it_is_about() {
        let signer = Plain::new();
        let reserved = message_bytes(&signer).expect("known before");
        let signed = [[0; 20], [255; 20]].map(|digest| sign(&signer, &digest).expect("signs"));
        assert!(signed.iter().all(|signed| signed.message.len() == reserved && signed.rsa.len() == 256));
        assert_ne!(signed[0].message, signed[1].message);
        let wrong = Plain { said: 255, ..Plain::new() };
        assert!(sign(&wrong, &[0; 20]).is_err(), "it would be written over what comes after it");
    }

    #[test]
    fn what_is_no_certificate_is_refused_however_it_is_cut() {
        let certificate = certificate();
        let named = issuer_and_serial(&certificate).expect("reads");
        let (inside, rest) = part(&named, SEQUENCE).expect("a sequence");
        assert!(rest.is_empty() && inside.inside.ends_with(&[7; 20]));
        for end in 0..certificate.len() {
            assert_eq!(issuer_and_serial(&certificate[..end]), None);
        }
        let mut long = certificate;
        long[1] = 0x88;
        assert_eq!(issuer_and_serial(&long), None);
    }

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        assert_eq!(der(OCTETS, &[0; 127])[..2], [OCTETS, 127]);
        assert_eq!(der(OCTETS, &[0; 128])[..3], [OCTETS, 0x81, 128]);
        assert_eq!(der(OCTETS, &[0; 300])[..4], [OCTETS, 0x82, 1, 44]);
    }
}
