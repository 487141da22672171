//! Packages for macOS: a `xar` archive with a `Distribution`, and in it one component with its payload
//! (`cpio`, gzip), its bill of materials, its scripts and its `PackageInfo`.
//!
//! One is signed where a signer is given. Double-clicking one that is not is blocked by Gatekeeper, `sudo installer
//! -pkg FILE -target /` is not.

mod bom;
mod cpio;
mod scripts;
pub mod sign;
mod xar;

use crate::{
    PackageError, PackageSpec,
    layout::{self, File, MACOS},
    scripts::IDENTIFIER,
    service::xml,
    tars,
};

/// Oldest macOS that it is for.
const MACOS_MIN: &str = "11.0";
/// Name of the component in the archive.
const COMPONENT: &str = "caelum.pkg";

/// A member of the payload: the folder it is in is there before it.
pub(crate) struct Member<'a> {
    /// From `.` on.
    pub path: String,
    /// With the bits that say whether it is a folder.
    pub mode: u32,
    pub bytes: &'a [u8],
}

/// Bits of a mode that say what it is of.
pub(crate) const FOLDER: u32 = 0o040_000;
pub(crate) const FILE: u32 = 0o100_000;

impl Member<'_> {
    pub(crate) fn is_folder(&self) -> bool {
        self.mode & 0o170_000 == FOLDER
    }
}

/// Builds one.
pub(crate) fn build(spec: &PackageSpec) -> Result<Vec<u8>, PackageError> {
    let wrong = PackageError::form("macOS");
    let texts = layout::texts(spec, &MACOS);
    let uninstall = scripts::uninstall();
    let mut files = layout::files(spec, &MACOS, &texts);
    // The settings that came with this version; what runs after the files are there puts them in place where
    // there are none, because this form knows no configuration files.
    for file in &mut files {
        if file.is_config {
            file.path.push_str(".default");
        }
    }
    files.push(File {
        path: "usr/local/share/caelum/uninstall.sh".to_owned(),
        mode: 0o755,
        bytes: uninstall.as_bytes(),
        is_config: false,
    });
    let members = members(&files);
    let payload = tars::gzipped(&cpio::write(&members, spec.built_at_s)).map_err(&wrong)?;
    let (pre, post) = (scripts::preinstall(), scripts::postinstall());
    let script_members = [
        Member { path: ".".to_owned(), mode: FOLDER | 0o755, bytes: b"" },
        Member { path: "./postinstall".to_owned(), mode: FILE | 0o755, bytes: post.as_bytes() },
        Member { path: "./preinstall".to_owned(), mode: FILE | 0o755, bytes: pre.as_bytes() },
    ];
    let scripts = tars::gzipped(&cpio::write(&script_members, spec.built_at_s)).map_err(&wrong)?;
    let bom = bom::write(&members, spec.built_at_s);
    let installed_kib = files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum::<usize>();
    let info = info(spec, members.len(), installed_kib);
    let distribution = distribution(spec, installed_kib);
    let component = [
        ("Bom", bom.as_slice()),
        ("PackageInfo", info.as_bytes()),
        ("Payload", &payload),
        ("Scripts", &scripts),
    ];
    let signer = spec.signer.as_deref();
    xar::write(&[("Distribution", distribution.as_bytes())], COMPONENT, &component, spec.built_at_s, signer)
}

fn members<'a>(files: &[File<'a>]) -> Vec<Member<'a>> {
    let mut members = vec![Member { path: ".".to_owned(), mode: FOLDER | 0o755, bytes: b"" }];
    members.extend(layout::folders(files).into_iter().map(|path| Member {
        path: format!("./{path}"),
        mode: FOLDER | 0o755,
        bytes: b"",
    }));
    members.extend(files.iter().map(|file| Member {
        path: format!("./{}", file.path),
        mode: FILE | file.mode,
        bytes: file.bytes,
    }));
    members.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    members
}

/// Later builds of one version are newer.
fn version(spec: &PackageSpec) -> String {
    format!("{}.{}", spec.version, spec.built_at_s)
}

fn info(spec: &PackageSpec, files: usize, installed_kib: usize) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<pkg-info format-version="2" identifier="{IDENTIFIER}" version="{}" install-location="/" auth="root" overwrite-permissions="false" relocatable="false">
  <payload numberOfFiles="{files}" installKBytes="{installed_kib}"/>
  <scripts>
    <preinstall file="./preinstall"/>
    <postinstall file="./postinstall"/>
  </scripts>
</pkg-info>
"#,
        xml(&version(spec))
    )
}

fn distribution(spec: &PackageSpec, installed_kib: usize) -> String {
    let architecture = if spec.platform.is_arm() { "arm64" } else { "x86_64" };
    let version = xml(&version(spec));
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<installer-gui-script minSpecVersion="2">
  <title>Caelum</title>
  <options customize="never" require-scripts="false" hostArchitectures="{architecture}"/>
  <domains enable_anywhere="false" enable_currentUserHome="false" enable_localSystem="true"/>
  <volume-check>
    <allowed-os-versions>
      <os-version min="{MACOS_MIN}"/>
    </allowed-os-versions>
  </volume-check>
  <choices-outline>
    <line choice="{IDENTIFIER}"/>
  </choices-outline>
  <choice id="{IDENTIFIER}" title="Caelum" visible="false">
    <pkg-ref id="{IDENTIFIER}"/>
  </choice>
  <pkg-ref id="{IDENTIFIER}" version="{version}" installKBytes="{installed_kib}" auth="root">#{COMPONENT}</pkg-ref>
</installer-gui-script>
"#
    )
}

/// What a bill of materials lists, for tests.
#[cfg(test)]
pub(crate) fn bom_listed(bytes: &[u8]) -> Vec<bom::tests::Listed> {
    bom::tests::read(bytes)
}
