//! Debian packages: an `ar` archive with a version, `control.tar.gz` and `data.tar.gz`.
//!
//! The package is called `caelum` whatever its file is called, so that each upgrades the one before.

use md5::{Digest as _, Md5};

use crate::{
    PackageError, PackageSpec,
    binary::{Binary, Libc},
    layout::{self, File, LINUX},
    scripts,
    tars::{self, Tar},
};

/// Builds one.
pub(crate) fn build(spec: &PackageSpec, program: &Binary) -> Result<Vec<u8>, PackageError> {
    let wrong = PackageError::form("Debian");
    let texts = layout::texts(spec, &LINUX);
    let files = layout::files(spec, &LINUX, &texts);
    let control = control(spec, program, &files).map_err(&wrong)?;
    let data = data(spec, &files).map_err(&wrong)?;
    let mut package = b"!<arch>\n".to_vec();
    for (name, bytes) in
        [("debian-binary", b"2.0\n".as_slice()), ("control.tar.gz", &control), ("data.tar.gz", &data)]
    {
        let mode = "100644";
        package.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{mode:<8}{:<10}`\n", spec.built_at_s, 0, 0, bytes.len())
                .bytes(),
        );
        package.extend_from_slice(bytes);
        if bytes.len() % 2 == 1 {
            package.push(b'\n');
        }
    }
    Ok(package)
}

/// Debian's version: a pre-release is older than its release, and a later build newer.
pub(crate) fn version(spec: &PackageSpec) -> String {
    format!("{}-{}", spec.version.replace('-', "~"), spec.built_at_s)
}

fn control(spec: &PackageSpec, program: &Binary, files: &[File<'_>]) -> std::io::Result<Vec<u8>> {
    let depends = match program.libc {
        Libc::Glibc { minor } => format!("libc6 (>= 2.{minor}), libgcc-s1, passwd"),
        Libc::Static | Libc::System => "passwd".to_owned(),
    };
    let architecture = if spec.platform.is_arm() { "arm64" } else { "amd64" };
    let installed_kib = files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum::<usize>();
    let control = format!(
        "Package: caelum\nVersion: {}\nArchitecture: {architecture}\nMaintainer: Caelum <caelum@localhost>\n\
         Installed-Size: {installed_kib}\nDepends: {depends}\nSection: admin\nPriority: optional\n\
         Description: node of a Caelum cluster, as {}\n Shows how this machine fares and how good its network \
         is. It joins its cluster by\n itself at the first start.\n",
        version(spec),
        spec.role.as_str(),
    );
    let conffiles: String =
        files.iter().filter(|file| file.is_config).map(|file| format!("/{}\n", file.path)).collect();
    // Without the invitation: it is gone after the first start, and that is no damage.
    let sums: String = files
        .iter()
        .filter(|file| !file.is_config && file.path != LINUX.join)
        .map(|file| format!("{}  {}\n", hex(&Md5::digest(file.bytes)), file.path))
        .collect();
    let mut tar = Tar::new(tars::gzip(), spec.built_at_s);
    tar.file("control", 0o644, control.as_bytes())?;
    tar.file("conffiles", 0o644, conffiles.as_bytes())?;
    tar.file("md5sums", 0o644, sums.as_bytes())?;
    for name in ["postinst", "prerm", "postrm"] {
        tar.file(name, 0o755, scripts::deb(name).as_bytes())?;
    }
    tar.finish()?.finish()
}

fn data(spec: &PackageSpec, files: &[File<'_>]) -> std::io::Result<Vec<u8>> {
    let mut tar = Tar::new(tars::gzip(), spec.built_at_s);
    for folder in layout::folders(files) {
        tar.folder(&folder, 0o755)?;
    }
    for file in files {
        tar.file(&file.path, file.mode, file.bytes)?;
    }
    tar.finish()?.finish()
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
