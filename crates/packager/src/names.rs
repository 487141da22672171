//! Names that may be given to packages and stand in their headers.
//!
//! They become file names, lines of control files, XML and parts of shell text, so that only what means
//! nothing in any of them is let through.

use caelum_model::package::PACKAGE_NAME_BYTES_MAX;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has another length than one has.
    #[error("a package's name has 1 to {PACKAGE_NAME_BYTES_MAX} characters")]
    Length,
    /// It holds something else than letters, digits, dots, dashes and underscores.
    #[error(
        "a package's name has letters, digits, dots, dashes and underscores only, and starts with a letter or digit"
    )]
    Characters,
    /// The version is none.
    #[error("{0:?} is no version")]
    Version(String),
}

/// Whether a name can be a package's, with or without its ending.
pub fn check(name: &str) -> Result<(), NameError> {
    if !(1..=PACKAGE_NAME_BYTES_MAX).contains(&name.len()) {
        return Err(NameError::Length);
    }
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    match starts_well && name.bytes().all(is_fine) && !name.contains("..") {
        true => Ok(()),
        false => Err(NameError::Characters),
    }
}

/// Whether a version can stand in every header: digits and dots, then what a pre-release may be called.
pub(crate) fn check_version(version: &str) -> Result<(), NameError> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    let starts_well = version.bytes().next().is_some_and(|first| first.is_ascii_digit());
    match starts_well && version.len() <= 64 && version.bytes().all(is_fine) {
        true => Ok(()),
        false => Err(NameError::Version(version.chars().take(64).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_and_ends_no_header() {
        for fine in ["caelum", "caelum-home-edge_1.deb", "7", "a.tar.gz"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        let long = "a".repeat(PACKAGE_NAME_BYTES_MAX + 1);
        for wrong in [
            "", "..", "../a", "a/../b", "/etc/a", "a..b", ".hidden", "-rf", "a b", "a\nX: y", "a\r\n",
            "a\"; b", "a%2e", "a\0", "ä", "a$(b)", "a`b`", "a;b", "C:\\a", &long,
        ] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_version_is_a_number_with_what_may_follow() {
        for fine in ["0.1.0", "1.2.3-rc.1+abc"] {
            assert_eq!(check_version(fine), Ok(()));
        }
        for wrong in ["", "v1", "1 ", "1\n", "1/2"] {
            assert!(check_version(wrong).is_err(), "{wrong:?}");
        }
    }
}
