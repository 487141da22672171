//! An operator's key that signs packages for macOS, checked before anything is built with it.
//!
//! Apple calls what is needed a *Developer ID Installer* certificate. Certificates and key come as text in PEM;
//! whoever calls has read them. Nothing here shows the key, not even by an error.

use caelum_drivers::random;
use caelum_model::UnixMs;
use caelum_packager::Signer;
use rsa::{
    BigUint, Pkcs1v15Sign, RsaPrivateKey,
    pkcs8::DecodePrivateKey as _,
    rand_core::{CryptoRng, Error, RngCore},
    traits::PublicKeyParts as _,
};
use x509_parser::{certificate::X509Certificate, parse_x509_certificate, pem::Pem, public_key::PublicKey};

/// Bits that a key may have.
const BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;
/// Most certificates that are read.
const CERTIFICATES_MAX: usize = 8;
/// What says that a certificate is for packages: Apple's name for it.
const FOR_PACKAGES: &str = "1.2.840.113635.100.4.13";
/// What stands before a digest, so that a signature says by what it was made: SHA-1 and SHA-256.
const SHA1_PREFIX: [u8; 15] =
    [0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14];
const SHA256_PREFIX: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];

/// Why packages cannot be signed with what is there.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// No certificate.
    #[error("it holds no certificate in PEM: `openssl pkcs12 -in FILE.p12 -nokeys -out FILE.pem` makes one")]
    NoCertificate,
    /// More than make sense.
    #[error(
        "it holds more than {CERTIFICATES_MAX} certificates: leave the signer's and those that vouch for it"
    )]
    TooMany,
    /// One that cannot be read.
    #[error("one of its certificates cannot be read: {0}")]
    Certificate(String),
    /// No key.
    #[error(
        "it holds no private key in PEM (PKCS#8, not encrypted): `openssl pkcs12 -in FILE.p12 -nocerts -nodes -out \
         FILE.key` makes one"
    )]
    NoKey,
    /// A key behind a passphrase.
    #[error("its key is encrypted: `openssl pkcs8 -in FILE.key -out FILE.plain` takes the passphrase off")]
    Encrypted,
    /// Another kind of key.
    #[error("its key is no RSA key, and packages for macOS are signed by nothing else")]
    NotRsa,
    /// A key of another size.
    #[error("its key has {0} bits; one for packages has 2048 to 4096")]
    Size(usize),
    /// The key of somebody else.
    #[error("none of the certificates is of this key")]
    NotOurs,
    /// A certificate for something else.
    #[error(
        "the certificate of `{0}` is for programs, not for packages: one of the kind Developer ID Installer is \
         needed"
    )]
    Kind(String),
    /// Over, or not begun.
    #[error("the certificate of `{name}` is valid {when}: packages are not signed with it")]
    Invalid {
        /// Whose.
        name: String,
        /// From when, or until when.
        when: String,
    },
}

/// See the file.
pub struct Signing {
    /// The signer's first.
    certificates: Vec<Vec<u8>>,
    key: RsaPrivateKey,
    name: String,
    valid_ms: (UnixMs, UnixMs),
}

impl Signing {
    /// A key with its certificates, which may be in any order.
    pub fn new(certificates_pem: &str, key_pem: &str) -> Result<Self, SigningError> {
        let key = key(key_pem)?;
        let mut certificates = certificates(certificates_pem)?;
        let mut own = None;
        for (nth, der) in certificates.iter().enumerate() {
            let certificate = parsed(der)?;
            if is_of(&certificate, &key) {
                own = Some((nth, name_of(&certificate), validity(&certificate)));
                check_kind(&certificate)?;
                break;
            }
        }
        let (nth, name, valid_ms) = own.ok_or(SigningError::NotOurs)?;
        certificates[..=nth].rotate_right(1);
        Ok(Self { certificates, key, name, valid_ms })
    }

    /// Whose signature it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Until when.
    pub fn expires_at_ms(&self) -> UnixMs {
        self.valid_ms.1
    }

    /// Whether the certificate is valid now.
    pub fn check(&self, now_ms: UnixMs) -> Result<(), SigningError> {
        let (from_ms, to_ms) = self.valid_ms;
        let iso = caelum_engine::timestamp::iso;
        let when = match now_ms {
            now_ms if now_ms < from_ms => format!("from {} on", iso(from_ms)),
            now_ms if now_ms > to_ms => format!("until {}", iso(to_ms)),
            _ => return Ok(()),
        };
        Err(SigningError::Invalid { name: self.name.clone(), when })
    }

    fn sign(&self, prefix: &[u8], digest: &[u8]) -> Result<Vec<u8>, String> {
        let form = Pkcs1v15Sign { hash_len: Some(digest.len()), prefix: prefix.into() };
        // Blinded: how long it takes says nothing about the key. The signature is the same each time.
        let signed = self.key.sign_with_rng(&mut Chance, form, digest);
        signed.map_err(|error| format!("it could not be signed: {error}"))
    }
}

impl Signer for Signing {
    fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    fn signature_bytes(&self) -> usize {
        self.key.size()
    }

    fn sign_sha1(&self, digest: &[u8; 20]) -> Result<Vec<u8>, String> {
        self.sign(&SHA1_PREFIX, digest)
    }

    fn sign_sha256(&self, digest: &[u8; 32]) -> Result<Vec<u8>, String> {
        self.sign(&SHA256_PREFIX, digest)
    }
}

/// The parts of a text in PEM: their labels and their bytes. What stands between them is nobody's business.
fn parts(text: &str) -> impl Iterator<Item = Result<Pem, String>> {
    Pem::iter_from_buffer(text.as_bytes()).map(|part| part.map_err(|error| error.to_string()))
}

fn key(text: &str) -> Result<RsaPrivateKey, SigningError> {
    for part in parts(text) {
        let part = part.map_err(|_| SigningError::NoKey)?;
        match part.label.as_str() {
            "PRIVATE KEY" => {
                let key = RsaPrivateKey::from_pkcs8_der(&part.contents).map_err(|_| SigningError::NotRsa)?;
                key.validate().map_err(|_| SigningError::NotRsa)?;
                let bits = key.n().bits();
                return if BITS.contains(&bits) { Ok(key) } else { Err(SigningError::Size(bits)) };
            }
            "ENCRYPTED PRIVATE KEY" => return Err(SigningError::Encrypted),
            "EC PRIVATE KEY" => return Err(SigningError::NotRsa),
            _ => {}
        }
    }
    Err(SigningError::NoKey)
}

fn certificates(text: &str) -> Result<Vec<Vec<u8>>, SigningError> {
    let mut found = Vec::new();
    for part in parts(text) {
        let part = part.map_err(SigningError::Certificate)?;
        if part.label == "CERTIFICATE" && !found.contains(&part.contents) {
            found.push(part.contents);
        }
        if found.len() > CERTIFICATES_MAX {
            return Err(SigningError::TooMany);
        }
    }
    if found.is_empty() { Err(SigningError::NoCertificate) } else { Ok(found) }
}

fn parsed(der: &[u8]) -> Result<X509Certificate<'_>, SigningError> {
    match parse_x509_certificate(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(error) => Err(SigningError::Certificate(error.to_string())),
    }
}

fn is_of(certificate: &X509Certificate<'_>, key: &RsaPrivateKey) -> bool {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(public)) => {
            BigUint::from_bytes_be(public.modulus) == *key.n()
                && BigUint::from_bytes_be(public.exponent) == *key.e()
        }
        _ => false,
    }
}

fn name_of(certificate: &X509Certificate<'_>) -> String {
    let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    common.map_or_else(|| certificate.subject().to_string(), str::to_owned)
}

fn validity(certificate: &X509Certificate<'_>) -> (UnixMs, UnixMs) {
    let validity = certificate.validity();
    let ms = |seconds: i64| seconds.saturating_mul(1_000);
    (ms(validity.not_before.timestamp()), ms(validity.not_after.timestamp()))
}

/// Refuses what Apple gives for programs. One that says nothing of its use, as one's own authority makes them, is
/// the operator's word.
fn check_kind(certificate: &X509Certificate<'_>) -> Result<(), SigningError> {
    let usage =
        certificate.extended_key_usage().map_err(|error| SigningError::Certificate(error.to_string()))?;
    let is_for_programs = usage.is_some_and(|usage| {
        usage.value.code_signing && !usage.value.other.iter().any(|oid| oid.to_id_string() == FOR_PACKAGES)
    });
    if is_for_programs { Err(SigningError::Kind(name_of(certificate))) } else { Ok(()) }
}

/// Chance, as the arithmetic asks for it.
struct Chance;

impl RngCore for Chance {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        random::fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        random::number()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        random::fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        random::fill(bytes);
        Ok(())
    }
}

impl CryptoRng for Chance {}
