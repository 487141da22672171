//! The bytes of packages: what an operator downloads and a new machine installs.
//!
//! Pure: a [`PackageSpec`] goes in, bytes come out, and the same specification gives the same bytes. Nothing
//! here reads a clock, a file or the network, and nothing knows what an invitation says.
//!
//! Reading order: [`PackageSpec`], `layout` (which files a machine gets), [`service`] (how the system starts
//! them), `scripts` (what runs when they are installed), then one file for each form: `deb`, `rpm`, `targz`,
//! `oci`, `pkg`. [`binary`] looks at a program before it is put into one.

#![deny(missing_docs)]

pub mod binary;
mod deb;
mod layout;
pub mod names;
mod oci;
mod pkg;
mod rpm;
mod scripts;
pub mod service;
mod targz;
mod tars;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use caelum_model::{
    cluster::NodeRole,
    package::{PackageKind, Platform},
};

pub use self::{oci::image_name, pkg::sign::Signer};

/// Largest program that is packed, bytes.
pub const PROGRAM_BYTES_MAX: usize = 512 << 20;
/// Largest configuration or invitation that is packed, bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// Everything that a package is made of.
#[derive(Clone)]
pub struct PackageSpec {
    /// Name of the file without its ending; also the folder inside an archive.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The machines it is for.
    pub platform: Platform,
    /// What node it makes.
    pub role: NodeRole,
    /// The program.
    pub program: Arc<[u8]>,
    /// The configuration file.
    pub config: String,
    /// The invitation to join; its one use is the package's only secret.
    pub invitation: String,
    /// Whether the invitation is sealed to a passphrase, which the machine is given by a person.
    pub is_sealed: bool,
    /// When it was built, s since 1970. The only time in the package, and what makes a later one newer.
    pub built_at_s: u64,
    /// Signs the package, where its form knows signatures of its own: macOS. It says nothing of a time, so that the
    /// same key makes the same bytes.
    pub signer: Option<Arc<dyn Signer>>,
}

/// Why a package was not built.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A name that cannot be a file's.
    #[error(transparent)]
    Name(#[from] names::NameError),
    /// The kind is not for such machines.
    #[error("a {} package is not for {}", .kind.as_str(), .platform.as_str())]
    Unsuited {
        /// The kind.
        kind: PackageKind,
        /// The machines.
        platform: Platform,
    },
    /// The program is not one for these machines.
    #[error("the program cannot be packed: {0}")]
    Program(#[from] binary::BinaryError),
    /// A part is larger than any that makes sense.
    #[error("{what} is {bytes} bytes; at most {max} are packed")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// The form could not be written.
    #[error("write the {form} package: {detail}")]
    Form {
        /// Which.
        form: &'static str,
        /// What is wrong.
        detail: String,
    },
}

impl PackageError {
    fn form(form: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::Form { form, detail: error.to_string() }
    }
}

/// Builds a package.
pub fn build(kind: PackageKind, spec: &PackageSpec) -> Result<Vec<u8>, PackageError> {
    names::check(&spec.name)?;
    names::check_version(&spec.version)?;
    if !kind.suits(spec.platform) {
        return Err(PackageError::Unsuited { kind, platform: spec.platform });
    }
    let parts = [
        ("the program", spec.program.len(), PROGRAM_BYTES_MAX),
        ("the configuration", spec.config.len(), TEXT_BYTES_MAX),
        ("the invitation", spec.invitation.len(), TEXT_BYTES_MAX),
    ];
    if let Some(&(what, bytes, max)) = parts.iter().find(|(_, bytes, max)| bytes > max) {
        return Err(PackageError::TooLarge { what, bytes, max });
    }
    let program = binary::inspect(&spec.program)?;
    program.expect(spec.platform)?;
    match kind {
        PackageKind::Deb => deb::build(spec, &program),
        PackageKind::Rpm => rpm::build(spec, &program),
        PackageKind::TarGz => targz::build(spec),
        PackageKind::Oci => oci::build(spec, &program),
        PackageKind::Pkg => pkg::build(spec),
    }
}
