//! Settings of the connections between machines: links, joining, adoption.
//!
//! | connection | what the server shows | what the client shows | whom the client trusts |
//! |---|---|---|---|
//! | link | its node's certificate | its node's certificate, required | the cluster's authority |
//! | HTTP of a node | its node's certificate | its node's certificate, required | servers of the cluster |
//! | joining | its node's certificate | nothing | the authority whose fingerprint it was given |
//! | adoption | whatever it has | nothing | nobody: what is exchanged proves itself |
//!
//! Every one checks that the peer has the key of the certificate it shows.

use std::sync::Arc;

use caelum_model::{
    cluster::NodeRole,
    join::{ALPN_JOIN, ALPN_LINK, NODE_SERVER_NAME},
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    TlsError, chain_and_key, fingerprint_of_pem, fingerprint_sha256, first_certificate, node_pass, provider,
};

/// Most certificates of a presented chain that are looked at.
const CHAIN_MAX: usize = 4;

/// What a node offers to other nodes: it shows its certificate and asks for one of the same authority.
///
/// Sessions are not resumed: each link shows a certificate that is valid now.
pub fn link_server_config(
    chain_pem: &str,
    key_pem: &str,
    authority_pem: &str,
) -> Result<ServerConfig, TlsError> {
    let (chain, key) = chain_and_key(chain_pem, key_pem)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots_of(authority_pem)?), provider())
            .build()
            .map_err(|error| unusable_authority(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What a server offers to machines that want to join: it shows its node's certificate and asks for none.
pub fn join_server_config(chain_pem: &str, key_pem: &str) -> Result<ServerConfig, TlsError> {
    let (chain, key) = chain_and_key(chain_pem, key_pem)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(config)
}

/// How a node dials another: it shows its certificate and trusts the cluster's authority alone.
pub fn link_client_config(
    chain_pem: &str,
    key_pem: &str,
    authority_pem: &str,
) -> Result<ClientConfig, TlsError> {
    let (chain, key) = chain_and_key(chain_pem, key_pem)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots_of(authority_pem)?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// How a node talks HTTP to its servers: it shows its certificate, and trusts servers of the cluster alone.
/// Another node that answers at a server's address is refused.
pub fn to_server_config(
    chain_pem: &str,
    key_pem: &str,
    authority_pem: &str,
) -> Result<ClientConfig, TlsError> {
    let (chain, key) = chain_and_key(chain_pem, key_pem)?;
    let trusted = Trusted::ServersOf { authority_sha256: fingerprint_of_pem(authority_pem)? };
    let verifier = FirstContact { trusted, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// How a machine joins: it trusts a server's node certificate of the authority with this fingerprint
/// (SHA-256 of its certificate, lower-case hex), which the server sends along.
pub fn pinned_join_config(authority_sha256: &str) -> Result<ClientConfig, TlsError> {
    let trusted = Trusted::ServersOf { authority_sha256: authority_sha256.to_owned() };
    let verifier = FirstContact { trusted, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// How a server calls on a machine that it is to adopt: any certificate will do. What is sent then is bound
/// to the key that was shown.
pub fn adopt_client_config() -> Result<ClientConfig, TlsError> {
    let verifier = FirstContact { trusted: Trusted::Anybody, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Checks a node's certificate against an authority, its name and the time.
pub(super) fn verify_node(
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    authority: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| Error::General(format!("the authority cannot be used: {error}")))?;
    let name = ServerName::try_from(NODE_SERVER_NAME).expect("the name is a DNS name");
    verifier.verify_server_cert(leaf, issuers, &name, &[], now).map(drop)
}

fn roots_of(authority_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(first_certificate(authority_pem)?)?;
    Ok(roots)
}

fn unusable_authority(error: &VerifierBuilderError) -> TlsError {
    TlsError::Read { what: "the authority's certificate", detail: error.to_string() }
}

/// Whom a connection trusts that is there before the cluster's certificates are.
#[derive(Debug)]
enum Trusted {
    /// A server of the cluster whose authority has this fingerprint.
    ServersOf { authority_sha256: String },
    /// Anybody, to have the key they show, and nothing more.
    Anybody,
}

/// Checks who that is; that the peer has the key of its certificate is checked as everywhere.
#[derive(Debug)]
struct FirstContact {
    trusted: Trusted,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for FirstContact {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trusted::ServersOf { authority_sha256 } = &self.trusted else {
            return Ok(ServerCertVerified::assertion());
        };
        let authority = issuers
            .iter()
            .take(CHAIN_MAX)
            .find(|certificate| fingerprint_sha256(certificate) == *authority_sha256)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verify_node(leaf, issuers, authority, now)?;
        match node_pass(leaf) {
            Ok(pass) if pass.role == NodeRole::Server => Ok(ServerCertVerified::assertion()),
            _ => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
