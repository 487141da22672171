//! Connections that nobody listens to, and servers that must show who they are.

use caelum_store::{OpenError, Store};
use caelum_testkit::postgres::Plan;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_must_show_a_certificate_that_the_named_authority_vouches_for() {
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
    let server = Plan::new().with_tls(&certificate.pem(), &key.serialize_pem()).start().expect("starts");
    let url = |options: &str| format!("{}?{options}", server.url("postgres"));
    let encrypted = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) \
         where ssl and application_name = 'caelum'";

    let right = url(&format!("sslmode=require&sslrootcert={}", own_file.display()));
    let store = crate::connect(&right).await;
    assert_ne!(server.psql("postgres", encrypted).expect("asked"), "0");
    store.close();

    let wrong = url(&format!("sslmode=require&sslrootcert={}", other_file.display()));
    let refused = Store::connect(&wrong.parse().expect("an address")).await.err();
    assert!(matches!(refused, Some(OpenError::Away { .. } | OpenError::Open { .. })), "{refused:?}");

    // Without a word, whoever answers is believed, but nobody else listens.
    let store = crate::connect(&server.url("postgres")).await;
    assert_ne!(server.psql("postgres", encrypted).expect("asked"), "0");
    store.close();
}
