//! RPM packages. The outside crate writes them; what it would take from this machine (time, host, owner) is
//! given to it here.

use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder};

use crate::{
    PackageError, PackageSpec,
    binary::{Binary, Libc},
    layout::{self, LINUX},
    scripts,
};

/// Builds one.
pub(crate) fn build(spec: &PackageSpec, program: &Binary) -> Result<Vec<u8>, PackageError> {
    let wrong = |error: rpm::Error| PackageError::Form { form: "RPM", detail: error.to_string() };
    let texts = layout::texts(spec, &LINUX);
    // The form counts seconds in 32 bits.
    let built_at_s = u32::try_from(spec.built_at_s).unwrap_or(u32::MAX);
    let architecture = if spec.platform.is_arm() { "aarch64" } else { "x86_64" };
    let version = spec.version.replace('-', "~");
    let summary = format!("Node of a Caelum cluster, as {}", spec.role.as_str());
    let mut builder = PackageBuilder::new("caelum", &version, "MIT OR Apache-2.0", architecture, &summary);
    let config = BuildConfig::v4().source_date(built_at_s).compression(CompressionWithLevel::Gzip(6));
    builder
        .using_config(config)
        .release(spec.built_at_s.to_string())
        .build_host("localhost")
        .cookie(format!("caelum {}", spec.built_at_s))
        .description(
            "Shows how this machine fares and how good its network is. It joins its cluster by itself at the \
             first start.",
        )
        .requires(Dependency::script_post("/bin/sh"))
        .requires(Dependency::script_preun("/bin/sh"))
        .requires(Dependency::script_postun("/bin/sh"))
        .post_install_script(scripts::rpm_post())
        .pre_uninstall_script(scripts::rpm_preun())
        .post_uninstall_script(scripts::rpm_postun());
    if let Libc::Glibc { minor } = program.libc {
        builder.requires(Dependency::any(format!("libc.so.6(GLIBC_2.{minor})(64bit)")));
        builder.requires(Dependency::any("libgcc_s.so.1()(64bit)"));
    }
    for file in layout::files(spec, &LINUX, &texts) {
        let path = format!("/{}", file.path);
        let mode = u16::try_from(file.mode).unwrap_or(0o600);
        let mut options = FileOptions::new(path).permissions(mode).user("root").group("root");
        if file.is_config {
            options = options.config().noreplace();
        } else if file.path == LINUX.join {
            options = options.missingok();
        }
        builder.with_file_contents(file.bytes, options).map_err(wrong)?;
    }
    let package = builder
        .with_dir_entry(FileOptions::dir("/etc/caelum").permissions(0o755).user("root").group("root"))
        .map_err(wrong)?
        .build()
        .map_err(wrong)?;
    let mut bytes = Vec::new();
    package.write(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}
