//! Every form, built twice and read back by the readers here; what the real programs make of them is tested
//! with the real programs, in `cli`.

use std::{
    collections::BTreeMap,
    io::Read as _,
    process::{Command, Stdio},
};

use flate2::read::{GzDecoder, ZlibDecoder};
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha256;

use super::*;
use crate::{binary::BinaryError, deb::hex};

fn spec(kind: PackageKind) -> PackageSpec {
    let platform = if kind == PackageKind::Pkg { Platform::MacosArm } else { Platform::LinuxX86 };
    PackageSpec {
        name: "caelum-home-edge-1".to_owned(),
        version: "0.1.0".to_owned(),
        platform,
        role: NodeRole::Agent,
        program: binary::stand_in(platform).into(),
        config: "[agent]\nname = \"edge-1\"\n".to_owned(),
        invitation: "caelum-join.INVITATION\n".to_owned(),
        is_sealed: false,
        built_at_s: 1_700_000_000,
        signer: None,
    }
}

fn built(kind: PackageKind) -> Vec<u8> {
    build(kind, &spec(kind)).expect("is built")
}

/// Path, mode and bytes of each member of a tar archive.
type Members = BTreeMap<String, (u32, Vec<u8>)>;

fn untar(bytes: &[u8]) -> Members {
    let mut archive = tar::Archive::new(bytes);
    let mut members = Members::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
        assert_eq!(entry.header().mtime().unwrap(), 1_700_000_000);
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        members.insert(path, (entry.header().mode().unwrap(), bytes));
    }
    members
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

fn text(members: &Members, path: &str) -> String {
    String::from_utf8(members[path].1.clone()).unwrap()
}

#[test]
fn the_same_specification_gives_the_same_bytes() {
    for kind in PackageKind::ALL {
        assert!(built(kind) == built(kind), "{}", kind.as_str());
        let later = PackageSpec { built_at_s: 1_700_000_001, ..spec(kind) };
        assert!(built(kind) != build(kind, &later).unwrap(), "{}", kind.as_str());
    }
}

#[test]
fn what_cannot_be_a_package_is_refused() {
    for kind in PackageKind::ALL {
        for name in ["../evil", "a\nb", ""] {
            let wrong = PackageSpec { name: name.to_owned(), ..spec(kind) };
            assert!(matches!(build(kind, &wrong), Err(PackageError::Name(_))), "{name:?}");
        }
        let wrong = PackageSpec { version: "1\nDepends: evil".to_owned(), ..spec(kind) };
        assert!(matches!(build(kind, &wrong), Err(PackageError::Name(_))));
        let other = if kind == PackageKind::Pkg { Platform::LinuxX86 } else { Platform::MacosX86 };
        let wrong = PackageSpec { platform: other, ..spec(kind) };
        assert!(matches!(build(kind, &wrong), Err(PackageError::Unsuited { .. })));
        let wrong = PackageSpec { program: b"#!/bin/sh\n".as_slice().into(), ..spec(kind) };
        assert!(matches!(build(kind, &wrong), Err(PackageError::Program(BinaryError::Unknown))));
        let wrong = PackageSpec { config: "#".repeat(TEXT_BYTES_MAX + 1), ..spec(kind) };
        assert!(matches!(build(kind, &wrong), Err(PackageError::TooLarge { .. })));
    }
}

/// Members of an `ar` archive.
fn unar(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(&bytes[..8], b"!<arch>\n");
    let (mut at, mut members) = (8, BTreeMap::new());
    while at < bytes.len() {
        let header = std::str::from_utf8(&bytes[at..at + 60]).unwrap();
        assert!(header.ends_with("`\n"));
        let size: usize = header[48..58].trim().parse().unwrap();
        members.insert(header[..16].trim().to_owned(), bytes[at + 60..at + 60 + size].to_vec());
        at += 60 + size + size % 2;
    }
    members
}

#[test]
fn a_debian_package_holds_its_files_and_says_what_they_are() {
    let package = unar(&built(PackageKind::Deb));
    assert_eq!(package["debian-binary"], b"2.0\n");
    let control = untar(&gunzip(&package["control.tar.gz"]));
    let about = text(&control, "control");
    assert!(about.contains("Package: caelum\nVersion: 0.1.0-1700000000\nArchitecture: amd64\n"), "{about}");
    assert_eq!(text(&control, "conffiles"), "/etc/caelum/caelum.toml\n");
    let data = untar(&gunzip(&package["data.tar.gz"]));
    assert_eq!(data["usr/bin/caelum"], (0o755, spec(PackageKind::Deb).program.to_vec()));
    assert_eq!(data["etc/caelum/join"].0, 0o600);
    assert_eq!(text(&data, "etc/caelum/join"), "caelum-join.INVITATION\n");
    assert!(text(&data, "usr/lib/systemd/system/caelum.service").contains(" agent --config "));
    let sums = text(&control, "md5sums");
    for line in sums.lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        assert_eq!(sum, hex(&Md5::digest(&data[path].1)));
    }
    assert!(!sums.contains("etc/caelum"));
    for script in ["postinst", "prerm", "postrm"] {
        assert_eq!(control[script].0, 0o755);
        is_shell(&text(&control, script));
    }
}

/// Whether shells take a text for a script. `dash` is every Debian's; busybox' is used where it is.
fn is_shell(script: &str) {
    for shell in [&["sh"][..], &["busybox", "sh"]] {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg("-n").stdin(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            assert!(shell[0] != "sh", "there is no shell");
            continue;
        };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{shell:?} refuses:\n{script}");
    }
}

#[test]
fn scripts_are_shell_and_speak_to_systemd_only_where_it_runs() {
    let spec = spec(PackageKind::TarGz);
    let scripts = [
        scripts::install(&spec),
        scripts::uninstall(),
        scripts::rpm_post(),
        scripts::rpm_preun(),
        scripts::rpm_postun(),
    ];
    for script in scripts {
        is_shell(&script);
        let mut is_guarded = false;
        for line in script.lines() {
            is_guarded |= line.trim() == "if has_systemd; then";
            let speaks = line.trim_start().starts_with("systemctl ");
            assert!(!speaks || is_guarded, "{line}\n{script}");
            is_guarded &= line.trim() != "fi";
        }
    }
}

#[test]
fn an_archive_holds_one_folder_with_its_installer() {
    let members = untar(&gunzip(&built(PackageKind::TarGz)));
    assert!(members.keys().all(|path| path.split('/').next() == Some("caelum-home-edge-1")));
    assert_eq!(members["caelum-home-edge-1/install.sh"].0, 0o755);
    assert_eq!(members["caelum-home-edge-1/join"], (0o600, b"caelum-join.INVITATION\n".to_vec()));
    assert_eq!(members["caelum-home-edge-1/bin/caelum"].0, 0o755);
}

#[test]
fn an_rpm_reads_back_as_what_was_put_in() {
    let package = ::rpm::Package::parse(&mut built(PackageKind::Rpm).as_slice()).unwrap();
    let about = &package.metadata;
    assert_eq!(about.get_name().unwrap(), "caelum");
    assert_eq!((about.get_version().unwrap(), about.get_release().unwrap()), ("0.1.0", "1700000000"));
    assert_eq!(about.get_build_host().unwrap(), "localhost");
    let files = about.get_file_entries().unwrap();
    let program = files.iter().find(|file| file.path().to_string_lossy() == "/usr/bin/caelum").unwrap();
    assert_eq!(program.mode().permissions(), 0o755);
    assert_eq!(program.size(), spec(PackageKind::Rpm).program.len());
    let join = files.iter().find(|file| file.path().to_string_lossy() == "/etc/caelum/join").unwrap();
    assert_eq!(join.mode().permissions(), 0o600);
}

#[test]
fn an_image_is_whole_and_the_invitation_is_not_in_it() {
    let members = untar(&built(PackageKind::Oci));
    let json = |path: &str| serde_json::from_slice::<serde_json::Value>(&members[path].1).unwrap();
    for (path, (_, bytes)) in &members {
        if let Some(digest) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(digest, hex(&Sha256::digest(bytes)));
        }
    }
    let blob = |digest: &serde_json::Value| {
        format!("blobs/sha256/{}", digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
    };
    let manifest = json(&blob(&json("index.json")["manifests"][0]["digest"]));
    let config = json(&blob(&manifest["config"]["digest"]));
    let packed = &members[&blob(&manifest["layers"][0]["digest"])].1;
    let layer = gunzip(packed);
    assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(&Sha256::digest(&layer))));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(json("manifest.json")[0]["Config"], blob(&manifest["config"]["digest"]));
    let files = untar(&layer);
    assert_eq!(files["usr/bin/caelum"].0, 0o755);
    assert!(!files.contains_key("etc/caelum/join"));
    assert!(!layer.windows(10).any(|bytes| bytes == b"INVITATION"));
    assert_eq!(text(&members, "join.env"), "CAELUM_JOIN=caelum-join.INVITATION\n");
}

#[test]
fn a_package_for_macos_is_whole() {
    let archive = built(PackageKind::Pkg);
    let number = |at: usize| u64::from_be_bytes(archive[at..at + 8].try_into().unwrap()) as usize;
    assert_eq!(&archive[..4], b"xar!");
    let (packed, plain) = (&archive[28..28 + number(8)], number(16));
    let heap = &archive[28 + number(8)..];
    assert_eq!(heap[..20], Sha1::digest(packed)[..]);
    let mut table = String::new();
    ZlibDecoder::new(packed).read_to_string(&mut table).unwrap();
    assert_eq!(table.len(), plain);
    let member = |name: &str| {
        let entry =
            table.split("<file id=").find(|entry| entry.contains(&format!("<name>{name}</name>"))).unwrap();
        let value = |tag: &str| entry.split(&format!("<{tag}>")).nth(1).unwrap().split('<').next().unwrap();
        let (offset, size): (usize, usize) =
            (value("offset").parse().unwrap(), value("length").parse().unwrap());
        let bytes = &heap[offset..offset + size];
        let sum = entry.split("<archived-checksum style=\"sha1\">").nth(1).unwrap();
        assert!(sum.starts_with(&hex(&Sha1::digest(bytes))), "{name}");
        bytes.to_vec()
    };
    let payload = uncpio(&gunzip(&member("Payload")));
    assert_eq!(payload["./usr/local/bin/caelum"], (0o100_755, spec(PackageKind::Pkg).program.to_vec()));
    assert_eq!(payload["./usr/local/etc/caelum/join"].0, 0o100_600);
    let listed = pkg::bom_listed(&member("Bom"));
    assert_eq!(listed.len(), payload.len());
    for (path, mode, size, _) in listed {
        let (found, bytes) = &payload[&path];
        assert_eq!((u32::from(mode), size as usize), (*found, bytes.len()), "{path}");
    }
    let scripts = uncpio(&gunzip(&member("Scripts")));
    for script in ["./preinstall", "./postinstall"] {
        is_shell(std::str::from_utf8(&scripts[script].1).unwrap());
    }
    is_shell(std::str::from_utf8(&payload["./usr/local/share/caelum/uninstall.sh"].1).unwrap());
    let info = String::from_utf8(member("PackageInfo")).unwrap();
    assert!(info.contains(&format!("numberOfFiles=\"{}\"", payload.len())), "{info}");
    assert!(String::from_utf8(member("Distribution")).unwrap().contains("hostArchitectures=\"arm64\""));
}

/// Members of a `cpio` archive, by path.
fn uncpio(bytes: &[u8]) -> Members {
    let (mut at, mut members) = (0, Members::new());
    loop {
        let octal = |from: usize, length: usize| {
            let digits = std::str::from_utf8(&bytes[at + from..at + from + length]).unwrap();
            usize::from_str_radix(digits, 8).unwrap()
        };
        assert_eq!(&bytes[at..at + 6], b"070707");
        let (mode, name_length, size) = (octal(18, 6), octal(59, 6), octal(65, 11));
        let path = std::str::from_utf8(&bytes[at + 76..at + 76 + name_length - 1]).unwrap().to_owned();
        let start = at + 76 + name_length;
        if path == "TRAILER!!!" {
            return members;
        }
        members.insert(path, (mode as u32, bytes[start..start + size].to_vec()));
        at = start + size;
    }
}

#[test]
fn a_signed_macos_package_says_where_its_signatures_are_and_is_the_same_each_time() {
    let signed = |signer| {
        let spec = PackageSpec { signer: Some(std::sync::Arc::new(signer)), ..spec(PackageKind::Pkg) };
        build(PackageKind::Pkg, &spec)
    };
    let package = signed(pkg::sign::tests::Plain::new()).expect("is built");
    assert_eq!(package, signed(pkg::sign::tests::Plain::new()).expect("is built"));
    let packed = u64::from_be_bytes(package[8..16].try_into().unwrap()) as usize;
    let (table, heap) = package[28..].split_at(packed);
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(table).read_to_string(&mut text).unwrap();
    assert!(text.contains("<signature style=\"RSA\"><offset>20</offset><size>256</size>"), "{text}");
    assert!(text.contains("<x-signature style=\"CMS\"><offset>276</offset>"), "{text}");
    assert_eq!(heap[20..40], heap[..20], "it is over the digest itself");
    assert!(signed(pkg::sign::tests::Plain { said: 255, ..pkg::sign::tests::Plain::new() }).is_err());
    let unsigned = built(PackageKind::Pkg);
    assert!(package.len() > unsigned.len() + 256 && package.ends_with(&unsigned[unsigned.len() - 64..]));
}
