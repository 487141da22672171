//! A macOS package with signatures, as `openssl` finds them: made with a certificate and a key that came out of a
//! file for exchange (PKCS#12), as an operator has them. And what a server says to those that cannot be used.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use caelum_testkit::server::Plan;
use tempfile::TempDir;

use super::{
    Site, fine,
    read_by_others::{artifacts, shell},
};

/// Makes a certificate authority, a certificate of it, and both with the key in a file for exchange; takes them
/// out of it as the documents say.
fn keys(bits: u32, days: i32, usage: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(
        folder.path().join("usage.ext"),
        format!("keyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n"),
    )
    .expect("written");
    let lines = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj '/CN=Test Root' 2>&1
         openssl req -newkey rsa:{bits} -nodes -keyout own.key -out own.csr -subj '/CN=Developer ID Installer: Test' 2>&1
         openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile usage.ext \
            -out own.pem 2>&1
         openssl pkcs12 -export -inkey own.key -in own.pem -certfile ca.pem -passout pass:secret -out id.p12 2>&1
         openssl pkcs12 -in id.p12 -nokeys -passin pass:secret -out certificates.pem 2>&1
         openssl pkcs12 -in id.p12 -nocerts -nodes -passin pass:secret -out signing.key 2>&1"
    );
    shell(folder.path(), &lines, folder.path());
    folder
}

/// What settings name.
fn plan(keys: &Path, artifacts: &Path) -> Plan {
    let at = |name: &str| keys.join(name).to_str().expect("plain names").to_owned();
    Plan::new(env!("CARGO_BIN_EXE_caelum"))
        .with_variable("CAELUM_PACKAGES_ARTIFACTS", artifacts.to_str().expect("plain names"))
        .with_variable("CAELUM_PACKAGES_SIGNING_CERTIFICATES", &at("certificates.pem"))
        .with_variable("CAELUM_PACKAGES_SIGNING_KEY", &at("signing.key"))
}

fn site(keys: &Path) -> Site {
    let artifacts = artifacts();
    let server = plan(keys, artifacts.path()).start().expect("the server starts");
    let admin = server.token("admin").expect("a token is made");
    Site { server, admin, _artifacts: artifacts }
}

/// The table of contents of an archive, the digest of it that the archive holds, and where the heap begins.
fn table(package: &[u8]) -> (String, Vec<u8>, usize) {
    let number = |at: usize| u64::from_be_bytes(package[at..at + 8].try_into().expect("eight bytes"));
    let packed = usize::try_from(number(8)).expect("small");
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(&package[28..28 + packed]).read_to_string(&mut text).expect("unpacks");
    (text, package[28 + packed..28 + packed + 20].to_vec(), 28 + packed)
}

/// The bytes of a signature, where the table says they are.
fn signature(package: &[u8], element: &str) -> Vec<u8> {
    let (text, _, heap) = table(package);
    let (_, from) = text.split_once(&format!("<{element} style=")).expect("is listed");
    let value = |name: &str| -> usize {
        let (_, rest) = from.split_once(&format!("<{name}>")).expect("is there");
        rest.split('<').next().expect("a number").parse().expect("a number")
    };
    package[heap + value("offset")..heap + value("offset") + value("size")].to_vec()
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("written");
    path
}

#[test]
fn both_signatures_are_verified_by_openssl_and_the_package_is_opened_as_before() {
    for bits in [2_048, 4_096] {
        let keys = keys(bits, 20, "1.2.840.113635.100.4.13");
        let site = site(keys.path());
        let path = site.server.folder().join("a.pkg");
        let shown = path.to_str().expect("plain names");
        let said = fine(site.package(&["build", "--platform", "macos-arm64", "-o", shown]));
        assert!(said.contains("is signed and not notarised"), "{said}");
        assert!(said.contains("Developer ID Installer: Test"), "{said}");
        let package = fs::read(&path).expect("is there");
        let (text, digest, _) = table(&package);
        let work = tempfile::tempdir().expect("a folder");
        let folder = work.path();
        put(folder, "digest", &digest);
        put(folder, "rsa", &signature(&package, "signature"));
        put(folder, "cms", &signature(&package, "x-signature"));
        let from = |name: &str| keys.path().join(name).to_str().expect("plain names").to_owned();
        // Over the digest itself, as the one thing that was hashed.
        let line = format!(
            "openssl x509 -in {} -pubkey -noout > key.pub
             openssl pkeyutl -verify -pubin -inkey key.pub -pkeyopt digest:sha1 -in digest -sigfile rsa 2>&1",
            from("own.pem")
        );
        assert!(shell(folder, &line, &path).contains("Verified Successfully"));
        let line = format!(
            "openssl cms -verify -binary -inform DER -in cms -content digest -CAfile {} -purpose any -out same 2>&1 \
             && cmp same digest",
            from("ca.pem")
        );
        assert!(shell(folder, &line, &path).to_lowercase().contains("verification successful"));
        // Neither verifies anything else.
        let line = format!(
            "printf x >> digest; ! openssl cms -verify -binary -inform DER -in cms -content digest -CAfile {} \
             -purpose any -out other 2>/dev/null",
            from("ca.pem")
        );
        shell(folder, &line, &path);
        // Whose certificate it is, first; then the one that vouches for it.
        assert_eq!(text.matches("<X509Certificate>").count(), 4, "two for each signature");

        let listed = shell(folder, "bsdtar -tf \"$0\"", &path);
        for member in ["Distribution", "caelum.pkg/Bom", "caelum.pkg/Payload", "caelum.pkg/Scripts"] {
            assert!(listed.lines().any(|line| line == member), "{member}: {listed}");
        }
        let tested = shell(folder, "7zz t -txar \"$0\" 2>&1 || 7zz t \"$0\" 2>&1", &path);
        assert!(tested.contains("Everything is Ok"), "{tested}");
        shell(folder, "bsdtar -xf \"$0\" && gzip -dc caelum.pkg/Payload | cpio -it --quiet > list", &path);
        let list = fs::read_to_string(folder.join("list")).expect("is there");
        assert!(list.contains("./usr/local/bin/caelum"), "{list}");
        assert!(!said.contains("PRIVATE KEY") && !text.contains("PRIVATE KEY"));
        let platforms = fine(site.package(&["platforms"]));
        assert!(platforms.contains("is signed and not notarised"), "{platforms}");
    }
}

#[test]
fn a_package_that_is_not_signed_says_what_that_means_on_a_mac() {
    let site = Site::with(artifacts());
    let path = site.server.folder().join("a.pkg");
    let shown = path.to_str().expect("plain names");
    let said = fine(site.package(&["build", "--platform", "macos-arm64", "-o", shown]));
    assert!(said.contains("Gatekeeper blocks it") && said.contains("sudo installer -pkg"), "{said}");
    let (text, ..) = table(&fs::read(&path).expect("is there"));
    assert!(!text.contains("signature"), "{text}");
}

#[test]
fn what_cannot_sign_is_refused_at_the_start_with_what_to_do_and_without_the_key() {
    let good = keys(2_048, 20, "1.2.840.113635.100.4.13");
    let other = keys(2_048, 20, "1.2.840.113635.100.4.13");
    let programs = keys(2_048, 20, "codeSigning");
    let artifacts = artifacts();
    let refused = |keys: &Path, what: &str| {
        let error = plan(keys, artifacts.path()).start().expect_err(what);
        let text = format!("{error:#}");
        assert!(text.contains(what), "{what}: {text}");
        let key = fs::read_to_string(keys.join("signing.key")).unwrap_or_default();
        let line = key.lines().filter(|line| !line.contains(' ')).max_by_key(|line| line.len());
        assert!(line.is_none_or(|line| line.len() < 40 || !text.contains(line)), "the key is shown");
    };
    refused(programs.path(), "Developer ID Installer is needed");
    let folder = tempfile::tempdir().expect("a folder");
    let with = |key: &Path, certificates: &Path| {
        fs::copy(key, folder.path().join("signing.key")).expect("copied");
        fs::copy(certificates, folder.path().join("certificates.pem")).expect("copied");
    };
    with(&other.path().join("signing.key"), &good.path().join("certificates.pem"));
    refused(folder.path(), "none of the certificates is of this key");
    with(&good.path().join("certificates.pem"), &good.path().join("certificates.pem"));
    refused(folder.path(), "holds no private key");
    with(&good.path().join("signing.key"), &good.path().join("signing.key"));
    refused(folder.path(), "holds no certificate");
    for (line, what) in [
        (
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out signing.key 2>&1",
            "no RSA key",
        ),
        ("openssl genrsa -out signing.key 1024 2>&1", "has 1024 bits"),
        (
            "openssl genrsa 2048 2>/dev/null | openssl pkcs8 -topk8 -passout pass:x -out signing.key",
            "is encrypted",
        ),
        ("rm signing.key", "cannot be read"),
    ] {
        with(&good.path().join("signing.key"), &good.path().join("certificates.pem"));
        shell(folder.path(), line, folder.path());
        refused(folder.path(), what);
    }
}

#[test]
fn a_certificate_that_is_over_stops_packages_for_macos_and_nothing_else() {
    let keys = keys(2_048, -1, "1.2.840.113635.100.4.13");
    let site = site(keys.path());
    let path = site.server.folder().join("a.pkg");
    let shown = path.to_str().expect("plain names");
    let refused = site.package(&["build", "--platform", "macos-arm64", "-o", shown]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("is valid until"), "{text}");
    assert!(!path.exists() && site.packages().is_empty());
}
