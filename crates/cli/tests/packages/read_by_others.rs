//! What programs that others wrote read in packages; and that nothing secret is in them.

use std::{collections::BTreeMap, fs, io::Read as _, path::Path, process::Command};

use tempfile::TempDir;

use super::{Site, TRIPLE, fine};

/// Runs a program on a file in a folder of its own.
#[track_caller]
pub(crate) fn shell(folder: &Path, line: &str, file: &Path) -> String {
    let mut command = Command::new("sh");
    fine(command.args(["-ec", line]).arg(file).current_dir(folder).output().expect("runs"))
}

/// Programs for other platforms: a header that says it is one, and a static one for images.
pub(crate) fn artifacts() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |triple: &str, bytes: &[u8]| {
        let place = folder.path().join(triple);
        fs::create_dir(&place).expect("made");
        fs::write(place.join("caelum"), bytes).expect("written");
    };
    let mut mac = vec![0; 70_000];
    for (at, value) in [(0, 0xfeed_facf_u32), (4, 0x0100_000c), (12, 2), (16, 1), (32, 0x1d), (36, 16)] {
        mac[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    put("aarch64-apple-darwin", &mac);
    put(
        "x86_64-unknown-linux-musl",
        &fs::read("/bin/busybox").or_else(|_| fs::read("/usr/bin/busybox")).expect("there"),
    );
    folder
}

#[test]
fn dpkg_and_rpm_find_what_they_expect() {
    let site = Site::new();
    let folder = tempfile::tempdir().expect("a folder");
    let deb = site.build("deb", "edge-1", "a.deb");
    let about = shell(folder.path(), "dpkg-deb -I \"$0\"; dpkg-deb -c \"$0\"", &deb);
    for part in
        ["Package: caelum", "Architecture: amd64", "libc6 (>= 2.", "-rw------- root/root", "./usr/bin/caelum"]
    {
        assert!(about.contains(part) || about.contains(&part.replace("./", "")), "{part}: {about}");
    }
    let rpm = site.build("rpm", "edge-1", "a.rpm");
    let about = shell(
        folder.path(),
        "rpm -K --nosignature \"$0\"; rpm -qip \"$0\"; rpm -qlvp \"$0\"; rpm -qp --scripts \"$0\"",
        &rpm,
    );
    for part in
        ["digests OK", "Name        : caelum", "-rw-------", "/usr/bin/caelum", "preuninstall scriptlet"]
    {
        assert!(about.contains(part), "{part}: {about}");
    }
}

#[test]
fn a_macos_package_is_opened_by_readers_of_three_kinds() {
    let site = Site::with(artifacts());
    let folder = tempfile::tempdir().expect("a folder");
    let path = site.server.folder().join("a.pkg");
    fine(site.package(&["build", "--platform", "macos-arm64", "-o", path.to_str().expect("plain names")]));
    let listed = shell(folder.path(), "bsdtar -tf \"$0\"", &path);
    for member in [
        "Distribution",
        "caelum.pkg/Bom",
        "caelum.pkg/PackageInfo",
        "caelum.pkg/Payload",
        "caelum.pkg/Scripts",
    ] {
        assert!(listed.lines().any(|line| line == member), "{member}: {listed}");
    }
    let tested = shell(folder.path(), "7zz t -txar \"$0\" 2>&1 || 7zz t \"$0\" 2>&1", &path);
    assert!(tested.contains("Everything is Ok"), "{tested}");
    shell(folder.path(), "bsdtar -xf \"$0\"", &path);
    let payload = shell(folder.path(), "gzip -dc caelum.pkg/Payload | cpio -itv --quiet 2>&1", &path);
    assert!(payload.contains("-rwxr-xr-x") && payload.contains("./usr/local/bin/caelum"), "{payload}");
    let join = payload.lines().find(|line| line.ends_with("./usr/local/etc/caelum/join")).expect("there");
    assert!(join.starts_with("-rw-------"), "{join}");
    shell(
        folder.path(),
        "gzip -dc caelum.pkg/Scripts | bsdtar -xf - && sh -n preinstall && sh -n postinstall && test -x postinstall",
        &path,
    );
}

#[test]
fn an_image_is_read_as_both_of_its_forms() {
    let site = Site::with(artifacts());
    let folder = tempfile::tempdir().expect("a folder");
    let path = site.build("oci", "edge-1", "a.oci.tar");
    let archive = shell(folder.path(), "skopeo inspect --config oci-archive:\"$0\"", &path);
    assert!(archive.contains("65532:65532") && archive.contains("/usr/bin/caelum"), "{archive}");
    let docker = shell(folder.path(), "skopeo inspect docker-archive:\"$0\"", &path);
    assert!(docker.contains("\"Architecture\": \"amd64\""), "{docker}");
    let named = concat!("caelum:", env!("CARGO_PKG_VERSION"), "-agent");
    let tags = shell(folder.path(), "skopeo list-tags docker-archive:\"$0\"", &path);
    assert!(tags.contains(named), "{tags}");
    shell(
        folder.path(),
        "skopeo copy --insecure-policy oci-archive:\"$0\" dir:copied && test -f copied/manifest.json",
        &path,
    );
    assert!(shell(folder.path(), "tar xOf \"$0\" join.env", &path).starts_with("CAELUM_JOIN=caelum-join."));
}

/// Every secret of a server's data directory, by where it is.
fn secrets(data: &Path) -> BTreeMap<String, String> {
    let mut secrets = BTreeMap::new();
    for entry in fs::read_dir(data.join("secrets")).expect("lists") {
        let path = entry.expect("lists").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("is text");
        match name.as_str() {
            // What everybody may know.
            "ca.pem" | "node.pem" | "server.pem" | "revoked.json" | "cluster.json" | "node.id" => {}
            _ if text.contains("PRIVATE KEY") => {
                for (index, line) in
                    text.lines().filter(|line| !line.starts_with("-----") && line.len() > 20).enumerate()
                {
                    secrets.insert(format!("{name}:{index}"), line.to_owned());
                }
            }
            _ => {
                let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_+/=".contains(c));
                for (index, word) in words.filter(|word| word.len() >= 16).enumerate() {
                    secrets.insert(format!("{name}:{index}"), word.to_owned());
                }
            }
        }
    }
    secrets.insert("password".to_owned(), caelum_testkit::server::PASSWORD.to_owned());
    secrets
}

/// Everything that can be taken out of a package, the package itself included.
fn layers(folder: &Path, path: &Path) -> Vec<u8> {
    let mut all = fs::read(path).expect("reads");
    let unpack = "mkdir out && cd out && case \"$0\" in \
        *.deb) dpkg-deb -R \"$0\" d ;; \
        *.rpm) rpm2cpio \"$0\" | cpio -idm --quiet --no-absolute-filenames; rpm -qp --scripts \"$0\" > scripts ;; \
        *) bsdtar -xf \"$0\" ;; esac; cd ..; \
        for f in $(find out -type f); do if gzip -dc \"$f\" > plain 2>/dev/null; then cp plain \"$f.plain\"; fi; done";
    shell(folder, unpack, path);
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("lists") {
            let path = entry.expect("lists").path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(fs::File::open(path).expect("opens").read_to_end(&mut all).expect("reads")),
            }
        }
    }
    all
}

#[test]
fn no_package_holds_a_secret_of_the_server() {
    let folder = artifacts();
    let linux = folder.path().join(TRIPLE);
    fs::create_dir(&linux).expect("made");
    // Small, so that all of them can be searched; the real program is in the other tests.
    fs::copy(folder.path().join("x86_64-unknown-linux-musl/caelum"), linux.join("caelum")).expect("copied");
    let site = Site::with(folder);
    let secrets = secrets(&site.server.data());
    assert!(secrets.len() > 4, "{:?}", secrets.keys());
    for (kind, ending) in
        [("deb", "deb"), ("rpm", "rpm"), ("tar.gz", "tar.gz"), ("oci", "oci.tar"), ("pkg", "pkg")]
    {
        let path = site.build(kind, "edge-1", &format!("a.{ending}"));
        let unpacked = tempfile::tempdir().expect("a folder");
        let bytes = layers(unpacked.path(), &path);
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(has(b"caelum-join."), "{kind}: the invitation is found, so that a secret would be");
        for (name, secret) in &secrets {
            assert!(!has(secret.as_bytes()), "{kind} holds {name}");
        }
    }
}
