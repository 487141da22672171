//! Packages: files that an operator builds here and installs on a new machine.
//!
//! What is in one is decided by `packager`; here are the words for its kind, the machine it is for, and the
//! record that stays when the file has gone to the browser.

use serde::{Deserialize, Serialize};

use crate::{UnixMs, cluster::NodeRole};

/// Longest name of a package's file, bytes.
pub const PACKAGE_NAME_BYTES_MAX: usize = 100;

/// The form of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum PackageKind {
    /// Debian and its kin.
    #[serde(rename = "deb")]
    Deb,
    /// Fedora, RHEL and their kin.
    #[serde(rename = "rpm")]
    Rpm,
    /// macOS.
    #[serde(rename = "pkg")]
    Pkg,
    /// Any Linux: an archive with an installer in it.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A container image.
    #[serde(rename = "oci")]
    Oci,
}

impl PackageKind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Deb, Self::Rpm, Self::Pkg, Self::TarGz, Self::Oci];

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
            Self::Pkg => "pkg",
            Self::TarGz => "tar.gz",
            Self::Oci => "oci",
        }
    }

    /// The kind of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// How the names of such files end.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Deb => ".deb",
            Self::Rpm => ".rpm",
            Self::Pkg => ".pkg",
            Self::TarGz => ".tar.gz",
            Self::Oci => ".oci.tar",
        }
    }

    /// The kind that a file's name says, and the name without its ending.
    pub fn of_name(name: &str) -> Option<(&str, Self)> {
        Self::ALL.into_iter().find_map(|kind| name.strip_suffix(kind.ending()).map(|stem| (stem, kind)))
    }

    /// Whether such a package can be for such machines.
    pub fn suits(self, platform: Platform) -> bool {
        (self == Self::Pkg) == platform.is_macos()
    }
}

/// What machines a package is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Platform {
    /// Linux on x86-64.
    #[serde(rename = "linux-x86_64")]
    LinuxX86,
    /// Linux on 64-bit ARM.
    #[serde(rename = "linux-arm64")]
    LinuxArm,
    /// macOS on x86-64.
    #[serde(rename = "macos-x86_64")]
    MacosX86,
    /// macOS on 64-bit ARM.
    #[serde(rename = "macos-arm64")]
    MacosArm,
}

impl Platform {
    /// Every platform.
    pub const ALL: [Self; 4] = [Self::LinuxX86, Self::LinuxArm, Self::MacosX86, Self::MacosArm];

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LinuxX86 => "linux-x86_64",
            Self::LinuxArm => "linux-arm64",
            Self::MacosX86 => "macos-x86_64",
            Self::MacosArm => "macos-arm64",
        }
    }

    /// The platform of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|platform| platform.as_str() == text)
    }

    /// The platform that this program was made for; none where no packages are made for it.
    pub fn own() -> Option<Self> {
        match (cfg!(target_os = "linux"), cfg!(target_os = "macos")) {
            (true, _) if cfg!(target_arch = "x86_64") => Some(Self::LinuxX86),
            (true, _) if cfg!(target_arch = "aarch64") => Some(Self::LinuxArm),
            (_, true) if cfg!(target_arch = "x86_64") => Some(Self::MacosX86),
            (_, true) if cfg!(target_arch = "aarch64") => Some(Self::MacosArm),
            _ => None,
        }
    }

    /// Whether it is macOS.
    pub fn is_macos(self) -> bool {
        matches!(self, Self::MacosX86 | Self::MacosArm)
    }

    /// Whether it is 64-bit ARM.
    pub fn is_arm(self) -> bool {
        matches!(self, Self::LinuxArm | Self::MacosArm)
    }

    /// Target triples whose programs run there, best first.
    pub fn triples(self) -> &'static [&'static str] {
        match self {
            Self::LinuxX86 => &["x86_64-unknown-linux-musl", "x86_64-unknown-linux-gnu"],
            Self::LinuxArm => &["aarch64-unknown-linux-musl", "aarch64-unknown-linux-gnu"],
            Self::MacosX86 => &["x86_64-apple-darwin"],
            Self::MacosArm => &["aarch64-apple-darwin"],
        }
    }
}

/// A package that was built. Whether it was used is what its join token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its id.
    pub package_id: String,
    /// Name of its file.
    pub name: String,
    /// Name of the node it makes; none where that takes its host's.
    pub node_name: Option<String>,
    /// Its form.
    pub kind: PackageKind,
    /// What node it makes.
    pub role: NodeRole,
    /// What machines it is for.
    pub platform: Platform,
    /// The join token in it.
    pub token_id: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was built.
    pub built_at_ms: UnixMs,
    /// By whom.
    pub built_by: String,
    /// When its join token ends.
    pub expires_at_ms: UnixMs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_says_its_kind() {
        assert_eq!(PackageKind::of_name("a.b.deb"), Some(("a.b", PackageKind::Deb)));
        assert_eq!(PackageKind::of_name("a.tar.gz"), Some(("a", PackageKind::TarGz)));
        assert_eq!(PackageKind::of_name("a.oci.tar"), Some(("a", PackageKind::Oci)));
        assert_eq!(PackageKind::of_name("a.exe"), None);
        for kind in PackageKind::ALL {
            assert_eq!(PackageKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).expect("text"), kind.as_str());
        }
        for platform in Platform::ALL {
            assert_eq!(Platform::parse(platform.as_str()), Some(platform));
            assert_eq!(serde_json::to_value(platform).expect("text"), platform.as_str());
        }
    }
}
