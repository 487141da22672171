//! An archive for any Linux, with a script that installs what is in it and one that removes it.

use crate::{
    PackageError, PackageSpec,
    layout::{self, LINUX},
    scripts,
    tars::{self, Tar},
};

/// Builds one. Everything lies in one folder that is called as the package.
pub(crate) fn build(spec: &PackageSpec) -> Result<Vec<u8>, PackageError> {
    let wrong = PackageError::form("tar.gz");
    let texts = layout::texts(spec, &LINUX);
    let (install, uninstall) = (scripts::install(spec), scripts::uninstall());
    let readme =
        format!("{}\nInstall with: sudo sh install.sh\nRemove with: sudo sh uninstall.sh\n", texts.readme);
    let files: [(&str, u32, &[u8]); 8] = [
        ("README", 0o644, readme.as_bytes()),
        ("bin/caelum", 0o755, &spec.program),
        ("caelum.service", 0o644, texts.unit.as_bytes()),
        ("caelum.toml", 0o644, spec.config.as_bytes()),
        ("copyright", 0o644, texts.copyright.as_bytes()),
        ("install.sh", 0o755, install.as_bytes()),
        ("join", 0o600, spec.invitation.as_bytes()),
        ("uninstall.sh", 0o755, uninstall.as_bytes()),
    ];
    let write = || {
        let mut tar = Tar::new(tars::gzip(), spec.built_at_s);
        tar.folder(&spec.name, 0o755)?;
        tar.folder(&format!("{}/bin", spec.name), 0o755)?;
        for (path, mode, bytes) in files {
            tar.file(&format!("{}/{path}", spec.name), mode, bytes)?;
        }
        tar.finish()?.finish()
    };
    write().map_err(wrong)
}
