//! Keys, certificates and TLS settings: the cluster's own authority, what it issues, and whom we trust.
//!
//! Every use of TLS in the product goes through [`provider`], so that another cryptographic library is one
//! line. Nothing here decides when a certificate is renewed or where it is kept; [`write_secret`] only
//! knows how a secret file is written.
//!
//! Here is what people's browsers meet; [`node`] has the keys and certificates by which nodes know each
//! other, [`peer`] the settings of the connections between them.

mod node;
mod peer;
mod vouch;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use caelum_model::UnixMs;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

pub use node::{NodeKey, check_node_chain, csr_key_sha256, key_sha256_of, node_pass};
pub use peer::{
    adopt_client_config, join_server_config, link_client_config, link_server_config, pinned_join_config,
    to_server_config,
};
pub use vouch::is_vouched_for;

/// How long the cluster's authority lasts: ten years and their leap days.
pub const AUTHORITY_DAYS: u32 = 3_653;
/// How long a server's certificate lasts. Clients of today refuse more than 398 days.
pub const SERVER_DAYS: u32 = 397;
/// How long a node's certificate lasts: short, so that there is nothing to keep lists of.
pub const NODE_VALID: Duration = Duration::from_secs(7 * 86_400);

const DAY: Duration = Duration::from_secs(86_400);
/// Certificates begin this long ago, so that a peer whose clock is a little late accepts a fresh one.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// Why keys or certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key could not be made.
    #[error("make a certificate for {subject}: {source}")]
    Make {
        /// Whom it was for.
        subject: String,
        /// What the library says.
        source: rcgen::Error,
    },
    /// The text is not what it was taken for.
    #[error("read {what}: {detail}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Certificate and key do not make a working configuration.
    #[error("use the certificate and its key: {0}")]
    Use(#[from] rustls::Error),
}

/// A certificate with its private key, both as PEM text.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, followed by those of its issuers.
    pub chain_pem: String,
    /// The private key: a secret.
    pub key_pem: String,
}

/// A certificate authority of our own.
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority with a new key.
    pub fn create(common_name: &str) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Make { subject: common_name.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params_for(common_name, DAY * AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Takes up an authority that was made before.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let wrong = |what: &'static str| {
            move |source: rcgen::Error| TlsError::Read { what, detail: source.to_string() }
        };
        let certificate = first_certificate(certificate_pem)?;
        let key = KeyPair::from_pem(key_pem).map_err(wrong("the authority's key"))?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(wrong("the authority's certificate"))?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), certificate, issuer })
    }

    /// The authority's own certificate: what others are told to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's own certificate in binary form.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The authority's private key: a secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and a certificate for a server that is reached under these names and addresses.
    pub fn issue_server(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        valid_days: u32,
    ) -> Result<Issued, TlsError> {
        let subject = names.first().cloned().or_else(|| addresses.first().map(IpAddr::to_string));
        let subject = subject.unwrap_or_else(|| "caelum".to_owned());
        let failed = |source| TlsError::Make { subject: subject.clone(), source };
        let mut params = params_for(&subject, DAY * valid_days);
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(failed)?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued {
            chain_pem: format!("{}{}", certificate.pem(), self.certificate_pem),
            key_pem: key.serialize_pem(),
        })
    }
}

fn params_for(common_name: &str, valid: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + valid).into();
    params
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| TlsError::Read { what: "a certificate", detail: error.to_string() })
}

/// SHA-256 over the certificate's binary form, as lower-case hexadecimal digits.
pub fn fingerprint_sha256(der: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, der).as_ref())
}

/// SHA-256 of the first certificate of the text, as people compare it.
pub fn fingerprint_of_pem(chain_pem: &str) -> Result<String, TlsError> {
    Ok(fingerprint_sha256(&first_certificate(chain_pem)?))
}

/// When the first certificate of the text stops being valid.
pub fn expires_at_ms(certificate_pem: &str) -> Result<UnixMs, TlsError> {
    let der = first_certificate(certificate_pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)
        .map_err(|error| TlsError::Read { what: "a certificate", detail: error.to_string() })?;
    Ok(certificate.validity().not_after.timestamp().saturating_mul(1_000))
}

/// The cryptography behind every TLS connection of the product.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a server offers: HTTP/2 and HTTP/1.1 over TLS 1.2 and 1.3, no client certificate asked.
pub fn server_config(chain_pem: &str, key_pem: &str) -> Result<ServerConfig, TlsError> {
    let (chain, key) = chain_and_key(chain_pem, key_pem)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A certificate with its issuers, and its key, as rustls takes them.
fn chain_and_key(
    chain_pem: &str,
    key_pem: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Read { what: "the certificate chain", detail: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::Read {
            what: "the certificate chain",
            detail: "holds no certificate".to_owned(),
        });
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|error| TlsError::Read { what: "the private key", detail: error.to_string() })?;
    Ok((chain, key))
}

/// The authorities that this machine trusts, and those given besides (PEM, any number, may be empty).
///
/// A machine without a trust store is no error: it may only ever talk to its own cluster. It is logged.
pub fn root_store(extra_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "part of the system's trust store could not be read");
    }
    let (_, unusable) = roots.add_parsable_certificates(native.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "certificates of the system's trust store were skipped");
    }
    for certificate in CertificateDer::pem_slice_iter(extra_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| TlsError::Read {
            what: "the additional authorities",
            detail: error.to_string(),
        })?;
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// How a client connects that trusts `roots`: certificates are checked, no certificate is shown.
pub fn client_config(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Replaces a file by one that only its owner can read. After a crash there is the old or the new content,
/// never a part of either, and the new one is on the disk when this returns.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let temporary = directory.join(format!(".{}.{:016x}", name.to_string_lossy(), crate::random::number()));
    let written = write_new(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // The half-written copy holds part of a secret; its removal may fail as the write did.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier};
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    fn verify(authority: &Authority, issued: &Issued, name: &str) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority.certificate_der().to_vec())).expect("usable root");
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let leaf = first_certificate(&issued.chain_pem).unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).map(drop)
    }

    #[test]
    fn an_issued_certificate_is_valid_for_its_names_and_addresses_and_no_others() {
        let authority = Authority::create("Caelum test authority").unwrap();
        let addresses = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let issued = authority.issue_server(&["box.example".to_owned()], &addresses, SERVER_DAYS).unwrap();
        for name in ["box.example", "127.0.0.1", "::1"] {
            verify(&authority, &issued, name).unwrap();
        }
        assert!(verify(&authority, &issued, "other.example").is_err());
        server_config(&issued.chain_pem, &issued.key_pem).unwrap();
    }

    #[test]
    fn a_reloaded_authority_issues_what_the_first_one_vouches_for() {
        let first = Authority::create("Caelum Ünïcode").unwrap();
        let again = Authority::load(first.certificate_pem(), &first.key_pem()).unwrap();
        assert_eq!(first.certificate_der(), again.certificate_der());
        let issued = again.issue_server(&["a.example".to_owned()], &[], 30).unwrap();
        verify(&first, &issued, "a.example").unwrap();
    }

    #[test]
    fn lifetimes_are_as_asked_and_can_be_read_back() {
        let authority = Authority::create("x").unwrap();
        let issued = authority.issue_server(&["a.example".to_owned()], &[], 10).unwrap();
        let now_ms = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let left = expires_at_ms(&issued.chain_pem).unwrap() - now_ms;
        assert!((left - 10 * 86_400_000).abs() < 60_000, "{left}");
        assert!(expires_at_ms("nothing").is_err());
    }

    #[test]
    fn a_fingerprint_is_the_sha_256_of_the_bytes() {
        // The example of FIPS 180-2, appendix B.1.
        assert_eq!(
            fingerprint_sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_secret_file_is_replaced_whole_and_readable_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_secret(&path, b"one").unwrap();
        write_secret(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write_secret(&directory.path().join("absent/key"), b"x").is_err());
    }

    #[test]
    fn texts_that_are_no_certificates_are_refused_with_what_they_were_taken_for() {
        assert!(Authority::load("x", "y").is_err());
        let error = server_config("", "").unwrap_err().to_string();
        assert!(error.contains("the certificate chain"), "{error}");
        assert!(root_store("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}
