//! The keys and certificates by which nodes know each other.
//!
//! A node makes its own key and keeps it; the authority signs its public half. The certificate says who the
//! node is (common name), what it may be (organisational unit) and, like every other, that it is
//! [`NODE_SERVER_NAME`]: a link asks for that name and reads from the certificate who answered. Whether a
//! node is admitted is not decided here.

use std::time::Duration;

use caelum_model::{
    cluster::{NodePass, NodeRole},
    id::NodeId,
    join::NODE_SERVER_NAME,
};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use x509_parser::certificate::X509Certificate;

use super::{Authority, TlsError, fingerprint_sha256, first_certificate, params_for, peer};

/// Longest signing request that is looked at, bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// A node's own key: a secret that never leaves it.
pub struct NodeKey {
    key: KeyPair,
}

impl NodeKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, TlsError> {
        let failed = |source| TlsError::Make { subject: "a node".to_owned(), source };
        Ok(Self { key: KeyPair::generate().map_err(failed)? })
    }

    /// Takes up a key that was made before.
    pub fn load(key_pem: &str) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(key_pem)
            .map_err(|error| TlsError::Read { what: "the node's key", detail: error.to_string() })?;
        Ok(Self { key })
    }

    /// The key as text: a secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo), lower-case hex: what the node is known by.
    pub fn key_sha256(&self) -> String {
        fingerprint_sha256(&self.key.subject_public_key_info())
    }

    /// A signing request for this key. It proves that whoever made it has the key.
    pub fn csr_pem(&self, node_id: &NodeId) -> Result<String, TlsError> {
        let failed = |source| TlsError::Make { subject: node_id.to_string(), source };
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, node_id.as_str());
        params.serialize_request(&self.key).and_then(|request| request.pem()).map_err(failed)
    }

    /// A certificate that the key gives itself: what a machine shows that nobody has admitted yet.
    pub fn self_signed_pem(&self, node_id: &NodeId, valid: Duration) -> Result<String, TlsError> {
        let failed = |source| TlsError::Make { subject: node_id.to_string(), source };
        let mut params = params_for(node_id.as_str(), valid);
        params.subject_alt_names.push(SanType::DnsName(NODE_SERVER_NAME.try_into().map_err(failed)?));
        Ok(params.self_signed(&self.key).map_err(failed)?.pem())
    }
}

impl Authority {
    /// Signs a node's public key. Of the request only the key is taken: who the node is and what it may be
    /// is said by whoever admits it. Answers the certificate followed by the authority's.
    pub fn sign_node(
        &self,
        csr_pem: &str,
        node_id: &NodeId,
        role: NodeRole,
        valid: Duration,
    ) -> Result<String, TlsError> {
        let failed = |source| TlsError::Make { subject: node_id.to_string(), source };
        let request = read_request(csr_pem)?;
        let mut params = params_for(node_id.as_str(), valid);
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.as_str());
        params.subject_alt_names.push(SanType::DnsName(NODE_SERVER_NAME.try_into().map_err(failed)?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(failed)?;
        Ok(format!("{}{}", certificate.pem(), self.certificate_pem))
    }
}

/// SHA-256 of the key that a signing request is for, lower-case hex. The request's own signature is checked.
pub fn csr_key_sha256(csr_pem: &str) -> Result<String, TlsError> {
    Ok(fingerprint_sha256(&read_request(csr_pem)?.public_key.subject_public_key_info()))
}

fn read_request(csr_pem: &str) -> Result<CertificateSigningRequestParams, TlsError> {
    let wrong = |detail: String| TlsError::Read { what: "the signing request", detail };
    if csr_pem.len() > REQUEST_BYTES_MAX {
        return Err(wrong(format!("is longer than {REQUEST_BYTES_MAX} bytes")));
    }
    let request =
        CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| wrong(error.to_string()))?;
    // The one kind that nodes make. With others, the form of the signed key is not the requester's choice.
    if *request.public_key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(wrong("is not for a key on the curve P-256".to_owned()));
    }
    Ok(request)
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo), lower-case hex.
pub fn key_sha256_of(certificate_der: &[u8]) -> Result<String, TlsError> {
    Ok(fingerprint_sha256(parse(certificate_der)?.public_key().raw))
}

/// What a node's certificate says. It proves nothing by itself: who signed it is checked by TLS.
pub fn node_pass(certificate_der: &[u8]) -> Result<NodePass, TlsError> {
    let wrong = |detail: String| TlsError::Read { what: "a node's certificate", detail };
    let certificate = parse(certificate_der)?;
    let subject = certificate.subject();
    let mut ids = subject.iter_common_name().map(|name| name.as_str());
    let (Some(Ok(id)), None) = (ids.next(), ids.next()) else {
        return Err(wrong("its subject has not exactly one common name".to_owned()));
    };
    let mut roles = subject.iter_organizational_unit().map(|name| name.as_str());
    let (Some(Ok(role)), None) = (roles.next(), roles.next()) else {
        return Err(wrong("its subject has not exactly one organisational unit".to_owned()));
    };
    Ok(NodePass {
        node_id: NodeId::parse(id).map_err(|error| wrong(format!("its common name {error}")))?,
        role: NodeRole::parse(role).ok_or_else(|| wrong("its organisational unit is no role".to_owned()))?,
        expires_at_ms: certificate.validity().not_after.timestamp().saturating_mul(1_000),
    })
}

/// Whether a chain is this node's certificate, signed by that authority, for that key. Asked by a node of
/// what it is given, before it keeps it.
pub fn check_node_chain(
    chain_pem: &str,
    authority_pem: &str,
    key_sha256: &str,
) -> Result<NodePass, TlsError> {
    let wrong =
        |detail: &str| TlsError::Read { what: "the certificate that was issued", detail: detail.to_owned() };
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&error.to_string()))?;
    let (leaf, issuers) = chain.split_first().ok_or_else(|| wrong("there is none"))?;
    let authority = first_certificate(authority_pem)?;
    // Nodes find the authority by its fingerprint in what a server shows.
    if !issuers.contains(&authority) {
        return Err(wrong("the authority's certificate does not follow it"));
    }
    peer::verify_node(leaf, issuers, &authority, UnixTime::now())?;
    if key_sha256_of(leaf)? != key_sha256 {
        return Err(wrong("it is for another key"));
    }
    node_pass(leaf)
}

fn parse(certificate_der: &[u8]) -> Result<X509Certificate<'_>, TlsError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate_der)
        .map_err(|error| TlsError::Read { what: "a certificate", detail: error.to_string() })?;
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::NODE_VALID;

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    #[test]
    fn a_certificate_says_what_whoever_admits_decided_and_not_what_was_asked_for() {
        let authority = Authority::create("Caelum test").unwrap();
        let key = NodeKey::generate().unwrap();
        let csr = key.csr_pem(&id("n-wishful")).unwrap();
        assert_eq!(csr_key_sha256(&csr).unwrap(), key.key_sha256());
        let chain = authority.sign_node(&csr, &id("n-Ünï 1"), NodeRole::Agent, NODE_VALID).unwrap();
        let pass = check_node_chain(&chain, authority.certificate_pem(), &key.key_sha256()).unwrap();
        assert_eq!((pass.node_id, pass.role), (id("n-Ünï 1"), NodeRole::Agent));
        assert_eq!(key_sha256_of(&first_certificate(&chain).unwrap()).unwrap(), key.key_sha256());
    }

    #[test]
    fn a_reloaded_key_is_the_same_key() {
        let key = NodeKey::generate().unwrap();
        assert_eq!(NodeKey::load(&key.key_pem()).unwrap().key_sha256(), key.key_sha256());
        assert!(NodeKey::load("nothing").is_err());
    }

    #[test]
    fn a_request_whose_signature_is_wrong_is_not_signed() {
        let authority = Authority::create("x").unwrap();
        let csr = NodeKey::generate().unwrap().csr_pem(&id("n-1")).unwrap();
        let mut der =
            rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap().to_vec();
        let at = der.len() - 1;
        der[at] ^= 1;
        let forged = pem_of("CERTIFICATE REQUEST", &der);
        assert!(csr_key_sha256(&forged).is_err());
        assert!(authority.sign_node(&forged, &id("n-1"), NodeRole::Agent, NODE_VALID).is_err());
        for other in ["", "x", &"x".repeat(REQUEST_BYTES_MAX + 1)] {
            assert!(csr_key_sha256(other).is_err());
        }
    }

    #[test]
    fn a_chain_of_another_authority_or_for_another_key_is_not_kept() {
        let (ours, theirs) = (Authority::create("ours").unwrap(), Authority::create("theirs").unwrap());
        let key = NodeKey::generate().unwrap();
        let csr = key.csr_pem(&id("n-1")).unwrap();
        let chain = theirs.sign_node(&csr, &id("n-1"), NodeRole::Agent, NODE_VALID).unwrap();
        assert!(check_node_chain(&chain, ours.certificate_pem(), &key.key_sha256()).is_err());
        let grafted = format!("{chain}{}", ours.certificate_pem());
        assert!(check_node_chain(&grafted, ours.certificate_pem(), &key.key_sha256()).is_err());
        let chain = ours.sign_node(&csr, &id("n-1"), NodeRole::Agent, NODE_VALID).unwrap();
        let other = NodeKey::generate().unwrap();
        assert!(check_node_chain(&chain, ours.certificate_pem(), &other.key_sha256()).is_err());
        check_node_chain(&chain, ours.certificate_pem(), &key.key_sha256()).unwrap();
    }

    #[test]
    fn a_certificate_that_is_no_nodes_has_no_pass() {
        let authority = Authority::create("x").unwrap();
        let issued = authority.issue_server(&["a.example".to_owned()], &[], 10).unwrap();
        assert!(node_pass(&first_certificate(&issued.chain_pem).unwrap()).is_err());
        assert!(node_pass(authority.certificate_der()).is_err());
        assert!(node_pass(b"").is_err());
        assert!(node_pass(&[0x30; 64]).is_err());
    }

    fn pem_of(label: &str, der: &[u8]) -> String {
        // The only base64 in this crate, and only a test needs it.
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in der.chunks(3) {
            let group = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
            let number = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            for position in 0..4 {
                let is_padding = position > chunk.len();
                let letter = alphabet[(number >> (18 - 6 * position)) as usize & 63];
                text.push(if is_padding { '=' } else { char::from(letter) });
            }
        }
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }
}
