//! How the connection to the server is kept secret, and who must vouch for the server.
//!
//! - `sslmode=disable`: nothing is.
//! - `sslmode=prefer` (what holds without a word): encrypted where the server offers it, and nobody vouches
//!   for it, as with libpq. Against somebody who only listens.
//! - `sslmode=require`: encrypted, and the certificate must be vouched for by `sslrootcert` or the system, for
//!   the name that was dialled.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{BoxedError, PostgresAddress};

/// Most bytes of a password file.
const PASSWORD_BYTES_MAX: usize = 4096;

/// Reads the files that the address names.
pub(super) async fn settle(address: &PostgresAddress) -> Result<(Config, MakeRustlsConnect), BoxedError> {
    let mut config = address.config.clone();
    if let Some(path) = &address.password_file {
        let password = tokio::fs::read_to_string(path).await.map_err(|error| at(path, &error))?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(at(path, &"holds no password").into());
        }
        config.password(password);
    }
    Ok((config, MakeRustlsConnect::new(client(address)?)))
}

fn client(address: &PostgresAddress) -> Result<ClientConfig, BoxedError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if !address.is_verified() {
        let anybody = Arc::new(Anybody(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match &address.root_certificates {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| at(path, &error))?;
            for certificate in certificates {
                roots
                    .add(certificate.map_err(|error| at(path, &error))?)
                    .map_err(|error| at(path, &error))?;
            }
            if roots.is_empty() {
                return Err(at(path, &"holds no certificate").into());
            }
        }
        None => {
            // Some of a system's certificates may be odd; what matters is that there are any.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this system trusts no authority: name one with sslrootcert=FILE".into());
            }
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn at(path: &Path, what: &dyn std::fmt::Display) -> String {
    format!("{}: {what}", path.display())
}

/// Takes any certificate whose owner holds its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
