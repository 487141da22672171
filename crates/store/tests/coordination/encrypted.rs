//! Redis over TLS: a server must show who it is.

use std::time::Duration;

use caelum_store::{Coordination, CoordinationAddress};
use caelum_testkit::redis::RedisServer;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::open;

const LONG: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_over_tls_must_show_a_certificate_that_the_named_authority_vouches_for() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let path = folder.path().join(format!("{name}.pem"));
        std::fs::write(&path, issuer.pem()).expect("written");
        (issuer, path)
    };
    let (own, own_file) = authority("own");
    let (_other, other_file) = authority("other");
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .expect("valid")
        .signed_by(&key, &own)
        .expect("signed");
    let server = RedisServer::start_with_tls(&certificate.pem(), &key.serialize_pem()).expect("starts");

    let right = open(&format!("{}?sslrootcert={}", server.url(), own_file.display()));
    right.put("server/a", "x", LONG).await.expect("stored");
    assert_eq!(right.get("server/a").await.expect("asked").expect("lives").value, "x");
    assert!(!right.place().contains("sslrootcert"), "{}", right.place());

    for unknown in [format!("{}?sslrootcert={}", server.url(), other_file.display()), server.url()] {
        open(&unknown).put("server/a", "y", LONG).await.expect_err("nobody vouches for it");
    }
    open(&server.url().replace("rediss", "redis")).get("server/a").await.expect_err("it speaks TLS alone");
    let missing: CoordinationAddress =
        format!("{}?sslrootcert=/nowhere/ca.pem", server.url()).parse().expect("an address");
    let refusal = Coordination::open(&missing, "c-1").err().expect("there is no such file").to_string();
    assert!(refusal.contains("/nowhere/ca.pem"), "{refusal}");
}
